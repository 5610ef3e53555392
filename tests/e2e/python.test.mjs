// The official Socket.IO client for Python, unmodified: 5.x (Engine.IO 4) and 4.x (Engine.IO 3). The packages are in the folders
// `python/4` and `python/5`, where tests/run.sh installs them.
import assert from 'node:assert/strict';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { directory, freePorts, gateway, start, token, until } from './harness.mjs';

const here = dirname(fileURLToPath(import.meta.url));

/** Starts a client. `heard(name)` returns the arguments of the events with that name. */
function client(t, version, server, jwt, transports) {
  const env = { ...process.env, PYTHONPATH: join(here, 'python', version), PYTHONIOENCODING: 'utf-8' };
  const args = [join(here, 'python_client.py'), `http://${server.publicAddress}`, jwt, ...transports];
  const started = start(t, directory(t), 'python3', args, { env });
  const lines = () => started.out().split('\n').slice(0, -1).map((line) => JSON.parse(line));
  const heard = (name) => lines().filter(([event]) => event === name).map(([, argument]) => argument);
  const next = (name, count = 1) => until(`${name} (${count}): ${started.err()}`, () => heard(name).length >= count);
  return { heard, next };
}

for (const version of ['5', '4']) {
  for (const transports of [[], ['websocket'], ['polling']]) {
    const name = `python-socketio ${version}, ${transports[0] ?? 'default options'}`;

    test(`${name}: texts, acknowledgements, many packets, and a restart`, async (t) => {
      const [port] = await freePorts(1);
      const options = { listen: `["127.0.0.1:${port}"]`, server: 'drain = "1s"', rest: '[limits]\nmessages_per_second = 20' };
      const first = await gateway(t, options);
      const jwt = await token(t, '--sub', '4', '--role', 'trader');
      const { heard, next } = client(t, version, first, jwt, transports);
      await next('subscribed');
      await next('answer', 40);
      const refused = heard('answer').filter((answer) => answer.success === false);
      assert.ok(refused.length > 0);
      assert.ok(refused.every((answer) => answer.error.code === 'RATE_LIMITED'), JSON.stringify(refused));
      const text = 'Zürich 価格 € 😀 é \u2028 \u0000 "q" \\ ÿ';
      const event = (event, data) => ({ channel: 'grid.a.b', event, data });
      const sent = [event('update', { text }), event('connect', 1), event('__disconnect_final', 2)];
      const many = Array.from({ length: 100 }, (_, n) => event('many', n));
      assert.equal((await first.admin('POST', '/api/publish', [...sent, ...many])).status, 200);
      await next('many', 100);
      const numbers = heard('many').map(({ data }) => data);
      assert.deepEqual(numbers.sort((a, b) => a - b), many.map(({ data }) => data), 'each once; the library does not keep the order');
      assert.deepEqual(heard('update').map(({ data }) => data), [{ text }]);
      assert.deepEqual([heard('grid_connect')[0].data, heard('grid___disconnect_final')[0].data], [1, 2]);

      first.child.kill('SIGTERM');
      await first.ended;
      assert.match(heard('error')[0].code, /^(RESTART|DRAIN_DEADLINE)$/);
      const second = await gateway(t, options);
      await next('subscribed', 2);
      assert.equal((await second.admin('POST', '/api/publish', event('many', 'after'))).status, 200);
      await until('the event', () => heard('many').some(({ data }) => data === 'after'));
    });

    // Version 4 sometimes starts two reconnections at once after a refusal, and then gives up.
    if (version === '4') continue;
    test(`${name}: a client that is refused for a while comes back by itself`, async (t) => {
      const server = await gateway(t, { server: 'max_connections_per_user = 1' });
      const jwt = await token(t, '--sub', '4');
      const first = client(t, version, server, jwt, transports);
      await first.next('connected');
      const second = client(t, version, server, jwt, transports);
      await second.next('refused');
      assert.deepEqual(second.heard('connected'), []);
      const [{ client_id }] = first.heard('connected');
      assert.equal((await server.admin('DELETE', `/api/websocket/clients/${client_id}`)).status, 204);
      await second.next('connected');
    });
  }
}

test('python-socketio 5 with connection state recovery: events have an offset as their second argument', async (t) => {
  const rest = '[[endpoint]]\npath = "/socket.io/"\ndialect = "socket_io"\nrecovery = true\n';
  const server = await gateway(t, { rest });
  const { heard, next } = client(t, '5', server, await token(t, '--sub', '4', '--role', 'trader'), ['websocket']);
  await next('subscribed');
  const [subscribed, first] = heard('subscribed')[0];
  assert.deepEqual(subscribed.channels, ['grid.*']);
  assert.match(first, /^[0-9a-f.-]+$/);
  await server.admin('POST', '/api/publish', [{ channel: 'grid.a.order', event: 'update', data: 1 }]);
  await next('update');
  const [message, offset] = heard('update')[0];
  assert.deepEqual([message.data, typeof offset], [1, 'string']);
});
