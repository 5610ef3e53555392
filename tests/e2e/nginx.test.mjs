// deploy/nginx.conf with only paths and ports changed: TLS to clients, a Unix socket to the gateway.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { io as io4 } from 'socket.io-client';
import io2 from 'socket.io-client-2';
import { Client, adminKey, atEnd, token, until, within } from './harness.mjs';
import { behindNginx } from './nginx.mjs';

test('a client over TLS receives every event in order; its address is its own; no log shows its token', async (t) => {
  const { server, url, tls, log } = await behindNginx(t);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  // nginx overwrites an address that the client claims.
  const client = await Client.open(t, `${url}?a=1&token=${jwt}&b=2`, {
    ...tls, localAddress: '127.0.0.2', headers: { 'x-forwarded-for': '203.0.113.9' },
  });
  await client.subscribe('grid.*');
  for (let batch = 0; batch < 10; batch++) {
    const events = Array.from({ length: 100 }, (_, n) => ({ channel: 'grid.a.b', event: 'e', data: batch * 100 + n }));
    assert.equal((await server.admin('POST', '/api/publish', events)).status, 200);
  }
  for (let n = 0; n < 1000; n++) assert.equal((await client.next((message) => message.type === 'event')).data, n);
  const { body } = await server.admin('GET', '/api/websocket/clients?user=4');
  assert.deepEqual(body.clients.map(({ user, address, dialect }) => ({ user, address, dialect })),
    [{ user: '4', address: '127.0.0.2', dialect: 'native' }]);

  client.socket.close(1000);
  assert.equal((await within('the close', client.closed)).code, 1000);
  const line = await until('the access log', () => log('access.log').split('\n').find((text) => text.includes('GET /ws?')));
  assert.match(line, /"GET \/ws\?\[redacted\]" 101 /);
  for (const text of [log('access.log'), log('error.log'), server.err()]) {
    assert.ok(!text.includes(jwt) && !text.includes(jwt.split('.')[2]), 'a log shows the token');
  }
});

test('no log shows a token when the gateway is down or the parameter is spelled differently', async (t) => {
  const { server, https, log } = await behindNginx(t);
  const upgrade = ['-H', 'Connection: Upgrade', '-H', 'Upgrade: websocket'];
  https('/ws?%74oken=disguised-jwt', ...upgrade);
  https('/ws?x=1&TOKEN=shouted-jwt', ...upgrade);
  server.child.kill('SIGKILL');
  await server.ended;
  assert.match(https('/ws?token=jwt-of-an-error', ...upgrade), /\n502$/);
  await until('the access log', () => log('access.log').includes('" 502 '));
  for (const name of ['access.log', 'error.log']) {
    assert.doesNotMatch(log(name), /disguised-jwt|shouted-jwt|jwt-of-an-error/);
  }
});

test('several hundred clients share the Unix socket; a drain notifies each and closes it with 1012', async (t) => {
  const { server, url, tls } = await behindNginx(t, { server: 'drain = "2s"' });
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const clients = [];
  for (let n = 0; n < 300; n++) clients.push(await Client.open(t, `${url}?token=${jwt}`, tls));
  await Promise.all(clients.map((client) => client.subscribe('grid.*')));
  const events = Array.from({ length: 20 }, (_, n) => ({ channel: 'grid.a.b', event: 'e', data: n }));
  assert.equal((await server.admin('POST', '/api/publish', events)).status, 200);
  server.child.kill('SIGTERM');
  for (const client of clients) {
    for (let n = 0; n < 20; n++) assert.equal((await client.next((message) => message.type === 'event')).data, n);
    assert.equal((await client.next((message) => message.type === 'going_away')).data.reason, 'restart');
    assert.deepEqual(await within('the close', client.closed), { code: 1012, reason: 'gateway restarting' });
  }
  assert.deepEqual(await within('the end', server.ended), { code: 0, signal: null });
});

test('Socket.IO through nginx: polling, the upgrade, polling only; no log shows a token or a session', async (t) => {
  const { server, url, tls, log } = await behindNginx(t);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const base = url.replace('wss:', 'https:').replace('/ws', '');
  const all = [[io4, { auth: { token: jwt } }], [io2, { query: { token: jwt } }]].flatMap(([io, withToken]) =>
    [{}, { transports: ['websocket'] }, { transports: ['polling'] }].map((options) => {
      const socket = io(base, { forceNew: true, ...tls, ...options, ...withToken });
      atEnd(t, () => socket.disconnect());
      const client = { socket, received: [], carrier: options.transports?.[0] ?? 'websocket' };
      socket.on('connected', () => socket.emit('subscribe', { channels: ['grid.*'] }));
      socket.on('subscribed', () => { client.subscribed = true; });
      socket.on('tick', ({ data }) => client.received.push(data));
      return client;
    }));
  for (const client of all) {
    await until('subscribed', () => client.subscribed);
    await until('the transport', () => client.socket.io.engine.transport.name === client.carrier);
  }
  for (let n = 0; n < 300; n++) {
    assert.equal((await server.admin('POST', '/api/publish', { channel: 'grid.a.b', event: 'tick', data: n })).status, 200);
  }
  for (const client of all) {
    await until('the last event', () => client.received.at(-1) === 299);
    assert.deepEqual(client.received, Array.from({ length: 300 }, (_, n) => n));
  }
  const { body } = await server.admin('GET', '/api/websocket/clients?user=4');
  assert.deepEqual(body.clients.map(({ address, transport }) => [address, transport]).sort(),
    all.map(({ carrier }) => ['127.0.0.1', carrier]).sort());
  const sids = all.map((client) => client.socket.io.engine.id);
  await until('the access log', () => log('access.log').includes('/socket.io/?[redacted]'));
  for (const text of [log('access.log'), log('error.log'), server.err()]) {
    for (const hidden of [jwt, ...sids]) assert.ok(!text.includes(hidden), 'a log shows a secret');
  }
});

test('the admin API is under /api/, with its key; other paths are not found', async (t) => {
  const { https } = await behindNginx(t);
  const authorization = ['-H', `Authorization: Bearer ${adminKey}`];
  assert.match(https('/api/websocket/stats'), /\n401$/);
  assert.match(https('/api/websocket/stats', ...authorization), /"active_connections":\d+[^]*\n200$/);
  const event = '{"channel":"grid.a.b","event":"e","data":1}';
  assert.match(https('/api/publish', ...authorization, '-H', 'Content-Type: application/json', '-d', event), /"published":1[^]*\n200$/);
  assert.match(https('/readyz'), /\n200$/);
  for (const path of ['/metrics', '/', '/admin']) assert.match(https(path), /\n404$/);
});

test('programs of the private network administrate without a key; pages and other paths do not', async (t) => {
  const { inside, https, log } = await behindNginx(t);
  assert.match(inside('/api/websocket/stats'), /"active_connections":\d+[^]*\n200$/);
  assert.match(inside('/api/websocket/clients'), /"clients":\[[^]*\n200$/);
  // A client cannot put a key of its own in the place of nginx's.
  assert.match(inside('/api/websocket/stats', '-H', 'Authorization: Bearer wrong'), /\n200$/);
  assert.match(inside('/api/websocket/stats', '-H', 'Origin: https://elsewhere.example'), /\n403$/);
  for (const path of ['/api/publish', '/metrics', '/']) assert.match(inside(path), /\n404$/);
  assert.match(https('/api/websocket/stats'), /\n401$/, 'the public server adds no key');
  for (const name of ['access.log', 'error.log']) assert.ok(!log(name).includes(adminKey), 'a log shows the key');
});
