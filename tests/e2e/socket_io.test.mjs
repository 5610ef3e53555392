// The official Socket.IO clients, unmodified: 1.x and 2.x (Engine.IO 3), 3.x and 4.x (Engine.IO 4). Each runs with default
// options (long polling, then the upgrade), with WebSocket only, and with long polling only.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { atEnd, directory, freePorts, gateway, token, until, within } from './harness.mjs';
import { clients, connect, emit, named, next, transport, transports } from './socket_io_clients.mjs';

for (const [version, io, withToken, revision] of clients) {
  for (const [name, options, carrier] of transports) {
    test(`${version}, ${name}: account data, acknowledgements, channels`, async (t) => {
      const server = await gateway(t);
      const url = `http://${server.publicAddress}`;
      const jwt = await token(t, '--sub', '4', '--role', 'trader');
      const client = connect(t, io, url, { ...options, ...withToken(jwt) });
      const { client_id, user_id, timestamp } = await next(client, 'connected');
      assert.match(client_id, /^client_[0-9a-f]{16}$/);
      assert.equal(user_id, 4);
      assert.match(timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
      if (revision === 4) assert.equal(client.socket.id, client_id);

      client.socket.emit('subscribe_trading', { types: ['balance', 'orders'] });
      assert.deepEqual((await next(client, 'subscribed')).types, ['balance', 'orders']);
      const publish = (...events) => server.admin('POST', '/api/publish', events);
      await publish(
        { channel: 'user.5.balance', event: 'balance_update', data: { total_balance: 1 } },
        { channel: 'user.4.balance', event: 'balance_update', data: { total_balance: 10000.0, note: '€ 😀' } },
        { channel: 'user.4.pnl', event: 'pnl_update', data: {} },
        { channel: 'user.4.orders', event: 'orders_update', data: [] },
      );
      await next(client, 'orders_update');
      const updates = client.received.filter(({ name }) => name.endsWith('_update'));
      assert.deepEqual(updates.map(({ channel, user_id, data }) => [channel, user_id, data]), [
        ['user.4.balance', 4, { total_balance: 10000, note: '€ 😀' }], ['user.4.orders', 4, []],
      ]);
      assert.ok(!('count' in updates[1]));

      assert.deepEqual((await emit(client, 'unsubscribe_trading', {})).types, ['balance', 'positions', 'pnl', 'orders']);
      assert.equal((await emit(client, 'subscribe', { channels: ['grid.*'] })).success, true);
      const refused = await emit(client, 'subscribe', { channels: ['user.5.*'] });
      assert.deepEqual([refused.success, refused.error.code], [false, 'FORBIDDEN']);
      const unrouted = await emit(client, 'command', { action: 'grid.start', params: {} });
      assert.deepEqual([unrouted.success, unrouted.error.code], [false, 'UNKNOWN_ACTION']);
      client.socket.emit('command', { action: 'grid.start', id: 'c1' });
      assert.equal((await next(client, 'response')).id, 'c1');
      client.socket.emit('subscribe', { channels: ['a..b'] });
      assert.equal((await next(client, 'error')).code, 'INVALID_CHANNEL');
      const binary = await emit(client, 'subscribe', { channels: [Buffer.from('x')] });
      assert.deepEqual([binary.success, binary.error.message], [false, 'binary events are not supported']);
      assert.equal((await emit(client, 'auth', { token: jwt })).success, true);

      await until('the transport', () => transport(client) === carrier);
      const { body } = await server.admin('GET', '/api/websocket/clients');
      assert.deepEqual(body.clients.map(({ user, dialect, transport, client_id }) => [user, dialect, transport, client_id]),
        [['4', 'socket_io', carrier, client_id]]);
      client.socket.disconnect();
      await until('the end', async () => (await server.admin('GET', '/api/websocket/stats')).body.active_connections === 0);
    });
  }

  test(`${version}: bad and missing tokens are reported`, async (t) => {
    const server = await gateway(t);
    const url = `http://${server.publicAddress}`;
    const refusal = (options) => {
      const { socket } = connect(t, io, url, { ...options, reconnection: false });
      return within('the refusal', new Promise((resolve) => {
        socket.on('connect_error', resolve);
        // 1.x and 2.x report a refused connection as `error`.
        socket.on('error', resolve);
      }));
    };
    const bad = await refusal(withToken('no.such.token'));
    const missing = await refusal({});
    if (revision === 4) {
      assert.equal(bad.data.code, 'TOKEN_INVALID');
      assert.equal(missing.data.code, 'UNAUTHENTICATED');
      const namespace = io(`${url}/admin`, { forceNew: true, ...withToken('x'), reconnection: false });
      atEnd(t, () => namespace.disconnect());
      const error = await within('the refusal', new Promise((resolve) => { namespace.on('connect_error', resolve); }));
      assert.equal(error.message, 'Invalid namespace');
    } else {
      assert.equal(typeof bad, 'string');
      assert.match(missing, /token is needed/);
    }
  });

  test(`${version}: a token in the header takes precedence over one in the query`, async (t) => {
    const server = await gateway(t);
    const [good, other] = await Promise.all([token(t, '--sub', '4'), token(t, '--sub', '5')]);
    const extraHeaders = { authorization: `Bearer ${good}` };
    for (const transports of [['polling'], ['websocket']]) {
      const options = version !== '2.x' || transports[0] === 'websocket'
        ? { extraHeaders } : { transportOptions: { polling: { extraHeaders } } };
      const client = connect(t, io, `http://${server.publicAddress}`, { transports, query: { token: other }, ...options });
      assert.equal((await next(client, 'connected')).user_id, 4);
    }
  });

  test(`${version}: an upgrade under load loses and duplicates no event`, async (t) => {
    const server = await gateway(t, { server: 'shards = 2' });
    const jwt = await token(t, '--sub', '4', '--role', 'trader');
    const url = `http://${server.publicAddress}`;
    // The clients subscribe while they still poll, so the upgrade happens while events arrive.
    const many = Array.from({ length: 20 }, () => {
      const client = connect(t, io, url, withToken(jwt));
      client.socket.on('connected', () => client.socket.emit('subscribe', { channels: ['grid.*'] }));
      return client;
    });
    let sent = 0;
    const publish = async () => {
      const events = Array.from({ length: 20 }, () => ({ channel: 'grid.a.b', event: 'update', data: sent++ }));
      assert.equal((await server.admin('POST', '/api/publish', events)).status, 200);
    };
    await until('all upgraded', async () => {
      await publish();
      return many.every((client) => client.received.some(named('update')) && transport(client) === 'websocket');
    });
    await publish();
    for (const client of many) {
      await until('the last event', () => client.received.findLast(named('update')).data === sent - 1);
      const data = client.received.filter(named('update')).map((event) => event.data);
      assert.deepEqual(data, Array.from({ length: data.length }, (_, n) => data[0] + n));
      assert.deepEqual(client.received.filter(named('dropped')), []);
    }
  });
}

test('a drain notifies every client, and each reconnects to the next gateway by itself', async (t) => {
  const where = directory(t);
  const [port] = await freePorts(1);
  const start = () => gateway(t, { listen: `["127.0.0.1:${port}"]`, server: 'drain = "1s"' });
  const first = await start();
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const all = clients.flatMap(([, io, withToken]) => transports.map(([, options]) => {
    const client = connect(t, io, `http://127.0.0.1:${port}`, { ...options, ...withToken(jwt) });
    client.socket.on('connected', () => client.socket.emit('subscribe_trading', { types: ['balance'] }));
    return client;
  }));
  for (const client of all) await next(client, 'subscribed');
  first.child.kill('SIGTERM');
  for (const client of all) {
    assert.equal((await next(client, 'going_away')).data.reason, 'restart');
    assert.match((await next(client, 'error')).code, /^(RESTART|DRAIN_DEADLINE)$/);
  }
  assert.deepEqual(await within('the end', first.ended), { code: 0, signal: null });
  const second = await start();
  for (const client of all) {
    await next(client, 'subscribed', 2);
    assert.equal(client.reasons.length, 1);
    assert.notEqual(client.reasons[0], 'io server disconnect');
  }
  await second.admin('POST', '/api/publish', { channel: 'user.4.balance', event: 'balance_update', data: 7 });
  for (const client of all) assert.equal((await next(client, 'balance_update')).data, 7);
  writeFileSync(join(where, 'log'), second.err());
  assert.ok(!readFileSync(join(where, 'log'), 'utf8').includes(jwt), 'a log shows the token');
});

test('a client that an operator disconnects does not reconnect', async (t) => {
  const server = await gateway(t);
  const jwt = await token(t, '--sub', '4');
  const url = `http://${server.publicAddress}`;
  const all = clients.flatMap(([, io, withToken]) => transports.map(([, options]) => connect(t, io, url, { ...options, ...withToken(jwt) })));
  for (const client of all) await next(client, 'connected');
  assert.equal((await server.admin('DELETE', '/api/users/4/connections')).status, 204);
  for (const client of all) {
    assert.deepEqual((await next(client, 'error')).code, 'BY_OPERATOR');
    await until('the disconnect', () => client.reasons.length > 0);
    assert.deepEqual(client.reasons, ['io server disconnect']);
  }
  await until('the end', async () => (await server.admin('GET', '/api/websocket/stats')).body.active_connections === 0);
});

test('a newer client of the user displaces an older one, which stays away', async (t) => {
  const server = await gateway(t, { server: 'max_connections_per_user = 1\nper_user_overflow = "oldest"' });
  const url = `http://${server.publicAddress}`;
  const cases = clients.flatMap(([, io, withToken]) => transports.map(([, options, carrier]) => [io, withToken, options, carrier]));
  await Promise.all(cases.map(async ([io, withToken, options, carrier], user) => {
    const jwt = await token(t, '--sub', String(user));
    const older = connect(t, io, url, { ...options, ...withToken(jwt) });
    await next(older, 'connected');
    await until('the transport', () => transport(older) === carrier);
    const newer = connect(t, io, url, { ...options, ...withToken(jwt) });
    await next(newer, 'connected');
    assert.equal((await next(older, 'error')).code, 'DISPLACED');
    await until('the disconnect', () => older.reasons.length > 0);
    assert.deepEqual([older.reasons, newer.reasons], [['io server disconnect'], []]);
  }));
  const stats = async () => (await server.admin('GET', '/api/websocket/stats')).body;
  await until('the older ones are gone', async () => (await stats()).active_connections === cases.length);
  const { endings } = await stats();
  assert.deepEqual([endings['4005'], endings['4009']], [cases.length, 0]);
});

test('500 clients: each receives its own account data and no other', async (t) => {
  const server = await gateway(t, { server: 'max_connections_per_user = 1' });
  const url = `http://${server.publicAddress}`;
  const tokens = await manyTokens(t, 500);
  const all = tokens.map((jwt, user) => {
    const [, io, withToken] = clients[user % clients.length];
    const [, options] = transports[user % 3];
    const client = connect(t, io, url, { ...options, ...withToken(jwt) });
    client.socket.on('connected', () => client.socket.emit('subscribe_trading'));
    return client;
  });
  for (const client of all) await next(client, 'subscribed');
  for (let round = 0; round < 3; round++) {
    const events = all.map((_, user) => ({ channel: `user.${user}.balance`, event: 'balance_update', data: { user, round } }));
    assert.equal((await server.admin('POST', '/api/publish', events)).status, 200);
  }
  for (const [user, client] of all.entries()) {
    await next(client, 'balance_update', 3);
    const updates = client.received.filter(({ name }) => name.endsWith('_update'));
    assert.deepEqual(updates.map(({ user_id, data }) => [user_id, data.user, data.round]),
      [0, 1, 2].map((round) => [user, user, round]));
  }
});

/** Tokens signed with the gateway's secret here, because a process for each would take too long. */
async function manyTokens(t, count) {
  const { createHmac } = await import('node:crypto');
  const { secret } = await import('./harness.mjs');
  const base64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  return Array.from({ length: count }, (_, user) => {
    const signed = `${base64({ alg: 'HS256', typ: 'JWT' })}.${base64({ sub: String(user), exp, role: 'trader' })}`;
    return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
  });
}
