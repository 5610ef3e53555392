// npm `ws`, used like the platform's TypeScript client: without a subprotocol, with the token in the query.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Client, atEnd, gateway, token, until, within } from './harness.mjs';

test('connects without a subprotocol, subscribes, receives events, unsubscribes', async (t) => {
  const server = await gateway(t);
  const client = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  assert.equal(client.socket.protocol, '');

  client.send({ type: 'subscribe', channels: ['grid.grid_abc123.*', 'system.health'], id: 's1' });
  const subscribed = await client.next();
  assert.equal(typeof subscribed.timestamp, 'number');
  assert.match(subscribed.cursor, /^[0-9a-f-]+$/);
  delete subscribed.timestamp;
  delete subscribed.cursor;
  assert.deepEqual(subscribed, {
    type: 'subscribed',
    id: 's1',
    data: { channels: ['grid.grid_abc123.*', 'system.health'], active_subscriptions: 2 },
  });

  const data = { grid_id: 'grid_abc123', level: 2, side: 'buy', price: 94000, amount: 0.001, position_after: 0.003 };
  const event = { channel: 'grid.grid_abc123.order', event: 'filled', data, timestamp: 1703836800000 };
  const published = await server.admin('POST', '/api/publish', event);
  assert.deepEqual([published.status, published.body.published], [200, 1]);
  const received = await client.next((message) => message.type === 'event' && message.channel !== 'system.health');
  assert.deepEqual(received, { type: 'event', ...event, offset: published.body.offset });

  client.send({ type: 'unsubscribe', channels: ['grid.grid_abc123.*'] });
  const unsubscribed = await client.next((message) => message.type === 'unsubscribed');
  assert.deepEqual(unsubscribed.data, { channels: ['grid.grid_abc123.*'], active_subscriptions: 1 });

  client.socket.close(1000);
  assert.equal((await within('the close', client.closed)).code, 1000);
});

test('data arrives byte for byte, whatever its numbers and escapes', async (t) => {
  const server = await gateway(t);
  const socket = new WebSocket(`${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  atEnd(t, () => socket.terminate());
  const texts = [];
  socket.on('message', (text) => texts.push(String(text)));
  const received = (type) => until(type, () => texts.find((text) => text.startsWith(`{"type":"${type}"`)));
  await within('the connection', once(socket, 'open'));
  socket.send('{"type":"subscribe","channels":["grid.*"]}');
  await received('subscribed');
  const data = String.raw`{"big":123456789012345678901234567890,"tiny":1e-400,"zero":1.50,"text":"é\/😀","list":[ 1 ,2]}`;
  const response = await fetch(`http://${server.adminAddress}/api/publish`, {
    method: 'POST',
    headers: { authorization: 'Bearer end-to-end-admin-key', 'content-type': 'application/json' },
    body: `{"channel":"grid.a.b","event":"e","timestamp":1,"data":${data}}`,
  });
  assert.equal(response.status, 200);
  assert.equal(await received('event'), `{"type":"event","channel":"grid.a.b","event":"e","timestamp":1,"data":${data}}`);
});

test('an offered subprotocol is selected if it is known', async (t) => {
  const server = await gateway(t);
  const url = `${server.url}?token=${await token(t, '--sub', '4')}`;
  const client = await Client.open(t, url, ['other', 'zigquant-v2']);
  assert.equal(client.socket.protocol, 'zigquant-v2');
  // npm ws fails if the server selects none of the offered subprotocols, so this checks the response itself.
  const upgrade = new WebSocket(url, 'other');
  atEnd(t, () => upgrade.terminate());
  upgrade.on('error', () => {});
  const [response] = await within('the upgrade', once(upgrade, 'upgrade'));
  assert.equal(response.statusCode, 101);
  assert.equal(response.headers['sec-websocket-protocol'], undefined);
});

test('authenticates in-band and by header', async (t) => {
  const server = await gateway(t);
  const jwt = await token(t, '--sub', '42', '--role', 'trader');
  const inBand = await Client.open(t, server.url);
  inBand.send({ type: 'auth', token: jwt, id: 7 });
  const result = await inBand.next();
  assert.equal(result.type, 'auth_result');
  assert.deepEqual([result.id, result.success, result.data.user, result.data.role], [7, true, '42', 'trader']);
  await inBand.subscribe('user.42.*');
  const byHeader = await Client.open(t, server.url, { headers: { authorization: `Bearer ${jwt}` } });
  await byHeader.subscribe('user.42.*');
});

test('answers pings and sends pings', async (t) => {
  const server = await gateway(t, { rest: '[heartbeat]\ninterval = "500ms"\ntimeout = "10s"' });
  const client = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4')}`);
  client.send({ type: 'ping', timestamp: Date.now() });
  const pong = await client.next();
  assert.equal(pong.type, 'pong');
  assert.ok(Math.abs(pong.timestamp - Date.now()) < 60_000);
  client.socket.ping('payload');
  const [payload] = await within('the pong frame', once(client.socket, 'pong'));
  assert.equal(String(payload), 'payload');
  const ping = await client.next((message) => message.type === 'ping');
  assert.equal(typeof ping.timestamp, 'number');
  await until('a ping frame', () => client.pings > 0);
});

test('returns the status of a connection', async (t) => {
  const server = await gateway(t);
  const client = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  await client.subscribe('grid.*');
  client.send({ type: 'get_status' });
  const status = await client.next();
  assert.equal(status.type, 'status');
  assert.deepEqual([status.subscriptions, status.user, status.dropped], [['grid.*'], '4', 0]);
  assert.ok(Math.abs(status.connected_at - Date.now() / 1000) < 60);
  const { body } = await server.admin('GET', '/api/websocket/clients');
  assert.equal(body.clients[0].client_id, status.client_id);
});

test('each command is answered exactly once, also if it is refused', async (t) => {
  const server = await gateway(t);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const client = await Client.open(t, `${server.url}?token=${jwt}`);
  const command = (id, action) => client.send({ type: 'command', id, timestamp: Date.now(), action, params: {} });
  command('c1', 'grid.start');
  command('c2', 'system.kill_switch');
  const codes = {};
  for (let n = 0; n < 2; n++) {
    const response = await client.next((message) => message.type === 'response');
    assert.equal(response.success, false);
    codes[response.id] = response.error.code;
  }
  assert.deepEqual(codes, { c1: 'UNKNOWN_ACTION', c2: 'FORBIDDEN' });
  for (let n = 0; n < 50; n++) command(`burst${n}`, 'grid.start');
  const responses = [];
  while (responses.length < 50) responses.push(await client.next((message) => message.type === 'response'));
  assert.equal(new Set(responses.map((response) => response.id)).size, 50);
  const limited = responses.filter((response) => response.error.code === 'RATE_LIMITED').length;
  assert.ok(limited >= 35, `${limited} of 50 commands at once were limited to 10 per second`);
});

test('a client may publish', async (t) => {
  const server = await gateway(t);
  const publisher = await Client.open(t, `${server.url}?token=${await token(t, '--sub', 'p', '--publish', 'grid.*')}`);
  const listener = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  await listener.subscribe('grid.*');
  for (let n = 0; n < 50; n++) publisher.send({ type: 'publish', id: n, channel: 'grid.a.b', event: 'e', data: { n } });
  for (let n = 0; n < 50; n++) {
    assert.equal((await publisher.next((message) => message.type === 'published')).id, n);
    assert.equal((await listener.next((message) => message.type === 'event')).data.n, n);
  }
  publisher.send({ type: 'publish', channel: 'system.log', event: 'e', data: null, id: 'x' });
  assert.equal((await publisher.next()).error.code, 'FORBIDDEN');
});

test('a foreign origin is refused, the own host and listed origins are accepted', async (t) => {
  const server = await gateway(t, { server: 'allowed_origins = ["https://*.example.com"]' });
  const url = `${server.url}?token=${await token(t, '--sub', '4')}`;
  await Client.open(t, url, { origin: 'https://app.example.com' });
  const foreign = new Client(url, { origin: 'https://evil.example' });
  await assert.rejects(within('the refusal', foreign.opened), /403/);
});

test('a broadcast reaches every authenticated client', async (t) => {
  const server = await gateway(t);
  const jwt = await token(t, '--sub', '4');
  const clients = [await Client.open(t, `${server.url}?token=${jwt}`), await Client.open(t, `${server.url}?token=${jwt}`)];
  const { status, body } = await server.admin('POST', '/api/websocket/broadcast/test', { message: 'hello' });
  assert.deepEqual([status, body], [200, { queued: 2 }]);
  for (const client of clients) {
    const { type, channel, event, data } = await client.next();
    assert.deepEqual({ type, channel, event, data }, {
      type: 'event', channel: 'system.test', event: 'test', data: { message: 'hello' },
    });
  }
});

test('SIGHUP takes over keys, endpoints and limits, and refuses a wrong file as a whole', async (t) => {
  const rest = (subscriptions, path) => `
[[endpoint]]
path = "/ws"
dialect = "native"
${path ? `[[endpoint]]\npath = "${path}"\ndialect = "native"\n` : ''}
[limits]
subscriptions = ${subscriptions}
`;
  const server = await gateway(t, { rest: rest(1) });
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const open = (path) => Client.open(t, `ws://${server.publicAddress}${path}?token=${jwt}`);
  const refusal = async (client) => {
    client.send({ type: 'subscribe', channels: ['grid.a', 'grid.b'] });
    return (await client.next((message) => message.type !== 'connected')).error?.code;
  };
  const before = await open('/ws');
  assert.equal(await refusal(before), 'SUBSCRIPTION_LIMIT');

  server.reconfigure(rest(2, '/new'));
  server.child.kill('SIGHUP');
  await until('the reload', () => server.err().includes('the configuration is reloaded'));
  for (const key of ['endpoint[1].path', 'limits.subscriptions']) assert.ok(server.err().includes(key), server.err());
  assert.equal(await refusal(await open('/new')), undefined);
  assert.equal(await refusal(before), 'SUBSCRIPTION_LIMIT', 'a connection keeps its limits');

  server.reconfigure(rest(3, 'wrong'));
  server.child.kill('SIGHUP');
  await until('the refusal', () => server.err().includes('the configuration is not reloaded'));
  assert.equal(await refusal(await open('/new')), undefined);

  server.child.kill('SIGQUIT');
  assert.equal((await within('the drain', before.closed)).code, 1012);
});
