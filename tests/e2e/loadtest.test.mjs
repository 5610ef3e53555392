// The load tool with servers other than the gateway. The server in docs/loadtest.md speaks the protocol of adapter `plain`.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';
import { centrifugo } from './centrifugo.mjs';
import { atEnd, binary, directory, freePorts, root, start, until } from './harness.mjs';

const tool = join(dirname(binary), 'tickgate-loadtest');

/** Returns a function that runs a scenario of the load tool and returns the report's figures. */
function measures(t, ...server) {
  const folder = directory(t);
  return async (scenario, ...more) => {
    const report = join(folder, `${scenario}.json`);
    const run = start(t, folder, tool, [scenario, ...server, '--clients', '20', '--seconds', '1', '--json', report, ...more]);
    assert.deepEqual(await run.ended, { code: 0, signal: null }, run.err());
    return JSON.parse(readFileSync(report, 'utf8')).figures;
  };
}

test('the load tool measures the server that the documentation shows for adapter `plain`', async (t) => {
  const [port] = await freePorts(1);
  const folder = directory(t);
  const [, server] = readFileSync(join(root, 'docs', 'loadtest.md'), 'utf8').match(/```js\n(.*?)```/s);
  writeFileSync(join(folder, 'plain.cjs'), server);
  const env = { ...process.env, NODE_PATH: join(root, 'tests', 'e2e', 'node_modules') };
  start(t, folder, process.execPath, [join(folder, 'plain.cjs'), `${port}`], { env });
  await until('the server', () => new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket.destroy()));
    socket.on('error', () => resolve(false));
  }));

  const measure = measures(t, '--adapter', 'plain', '--url', `ws://127.0.0.1:${port}`);
  const fanout = await measure('fanout', '--rate', '20');
  assert.deepEqual([fanout.deliveries, fanout.missing, fanout.errors], [400, 0, 0]);
  const commands = await measure('commands', '--requests-per-second', '100');
  assert.deepEqual([commands.requests_answered, commands.errors], [100, 0], JSON.stringify(commands));
});

test('adapter `centrifugo` speaks the protocol of the official client', async (t) => {
  const key = 'a-key';
  const { address, counts } = await centrifugo(t, key);

  const client = new Centrifuge(`ws://${address}/connection/websocket`, { websocket: WebSocket });
  atEnd(t, () => client.disconnect());
  const received = [];
  const subscription = client.newSubscription('load0');
  subscription.on('publication', ({ data }) => received.push(data));
  subscription.subscribe();
  client.connect();
  await subscription.ready(10_000);
  assert.deepEqual(await client.rpc('echo', 'hello'), { data: 'hello' });
  const publish = { channel: 'load0', data: { n: 1 } };
  const response = await fetch(`http://${address}/api/batch`, {
    method: 'POST', headers: { 'x-api-key': key }, body: JSON.stringify({ commands: [{ publish }, { publish }] }),
  });
  assert.equal(response.status, 200);
  await until('both', () => received.length === 2);
  subscription.unsubscribe();

  const publishing = ['--publish-url', `http://${address}`, '--publish-key', key];
  const measure = measures(t, '--adapter', 'centrifugo', '--url', `ws://${address}`);
  const fanout = await measure('fanout', '--rate', '100', ...publishing);
  assert.deepEqual([fanout.deliveries, fanout.missing, fanout.errors], [2000, 0, 0]);
  const commands = await measure('commands', '--requests-per-second', '100', ...publishing);
  assert.deepEqual([commands.requests_answered, commands.errors], [100, 0], JSON.stringify(commands));
  const churn = await measure('churn', '--rate', '20', ...publishing);
  assert.deepEqual([churn.missing, churn.errors], [0, 0], JSON.stringify(churn));
  assert.ok(churn.requests_answered > 0);
  // Pings among events are answered too. The last pings may find their clients gone.
  assert.ok(counts.answered > 0.8 * counts.sent, JSON.stringify(counts));
});
