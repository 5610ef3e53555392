// What differed between the versions of the official Socket.IO client: text that is not ASCII, acknowledgements beyond the
// rate limit, answers to polls with many packets, names that a library emits itself, and a refusal that passes.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { test } from 'node:test';
import { atEnd, gateway, token, until } from './harness.mjs';
import { clients, connect, emit, next, transports } from './socket_io_clients.mjs';

const reserved = ['connect', 'connect_error', 'connect_timeout', 'connecting', 'disconnect', 'disconnecting', 'error', 'newListener',
  'ping', 'pong', 'reconnect', 'reconnectAttempt', 'reconnect_attempt', 'reconnect_error', 'reconnect_failed', 'reconnecting',
  'removeListener', 'statusChange', 'websocketUpgrade', '__disconnect_final'];

const text = 'Zürich 価格 € 😀 é \u2028 \u0000 "q" \\ ÿ';

/** A backend that answers each command with its `params`. */
async function echoes(t) {
  const server = createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => response.end(JSON.stringify({ success: true, data: JSON.parse(Buffer.concat(chunks)).params })));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.close(); server.closeAllConnections(); });
  return `[[command]]\nmatch = "*"\nhttp = "http://127.0.0.1:${server.address().port}/"\n`;
}

for (const [version, io, withToken] of clients) {
  for (const [name, options] of transports) {
    test(`${version}, ${name}: texts, acknowledgements, many packets and names`, async (t) => {
      const server = await gateway(t, { rest: `${await echoes(t)}[limits]\nmessages_per_second = 30` });
      const jwt = await token(t, '--sub', '4', '--role', 'trader');
      const client = connect(t, io, `http://${server.publicAddress}`, { ...options, ...withToken(jwt) });
      const events = [];
      const own = [];
      for (const event of ['many', 'last', ...reserved.map((event) => `grid_${event}`)]) {
        client.socket.on(event, (message) => events.push({ event, ...message }));
      }
      for (const event of reserved) client.socket.on(event, (message) => own.push({ event, message }));
      await next(client, 'connected');
      assert.equal((await emit(client, 'subscribe', { channels: ['grid.*'] })).success, true);
      const publish = async (sent) => assert.equal((await server.admin('POST', '/api/publish', sent)).status, 200);

      await publish([{ channel: 'grid.a.b', event: 'update', data: { text, 'ключ': 1 } }]);
      assert.deepEqual((await next(client, 'update')).data, { text, 'ключ': 1 });
      const params = { text, 'ключ': 1 };
      assert.deepEqual(await emit(client, 'command', { action: 'grid.start', params }), { success: true, data: params });

      const answers = await Promise.all(Array.from({ length: 60 }, () => emit(client, 'get_status', {})));
      const refused = answers.filter((answer) => answer.success === false);
      assert.ok(refused.length > 0);
      assert.ok(refused.every((answer) => answer.error.code === 'RATE_LIMITED'), JSON.stringify(refused));

      await publish(Array.from({ length: 200 }, (_, data) => ({ channel: 'grid.a.many', event: 'many', data })));
      await until('all events', () => events.length >= 200);
      assert.deepEqual(events.map(({ data }) => data), Array.from({ length: 200 }, (_, data) => data));

      events.length = 0;
      own.length = 0;
      await publish([...reserved, 'last'].map((event) => ({ channel: 'grid.a.x', event, data: `published ${event}` })));
      await until('the last one', () => events.find(({ event }) => event === 'last'));
      assert.deepEqual(events.map(({ event, data }) => [event, data]),
        [...reserved.map((event) => [`grid_${event}`, `published ${event}`]), ['last', 'published last']]);
      assert.ok(!JSON.stringify(own).includes('published'), JSON.stringify(own));
      assert.deepEqual(client.reasons, []);
    });

    test(`${version}, ${name}: a client that is refused for a while comes back by itself`, async (t) => {
      const server = await gateway(t, { server: 'max_connections_per_user = 1' });
      const jwt = await token(t, '--sub', '4');
      const open = () => connect(t, io, `http://${server.publicAddress}`, { ...options, ...withToken(jwt) });
      const first = open();
      await next(first, 'connected');
      const second = open();
      await until('the refusal', () => second.reasons.length > 0);
      assert.deepEqual(second.received.filter((event) => event.name === 'connected'), []);
      first.socket.disconnect();
      await next(second, 'connected');
    });
  }
}
