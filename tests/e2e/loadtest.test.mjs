// The load tool and a server that is not the gateway: the twenty lines of docs/loadtest.md speak what the adapter `plain` says.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { binary, directory, freePorts, root, start, until } from './harness.mjs';

const tool = join(dirname(binary), 'tickgate-loadtest');

test('the server shown for the adapter `plain` can be measured', async (t) => {
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

  const measure = async (scenario, ...more) => {
    const report = join(folder, `${scenario}.json`);
    const run = start(t, folder, tool, [
      scenario, '--adapter', 'plain', '--url', `ws://127.0.0.1:${port}`, '--clients', '20', '--seconds', '1', '--json', report, ...more,
    ]);
    assert.deepEqual(await run.ended, { code: 0, signal: null }, run.err());
    return JSON.parse(readFileSync(report, 'utf8')).figures;
  };
  const fanout = await measure('fanout', '--rate', '20');
  assert.deepEqual([fanout.deliveries, fanout.missing, fanout.errors], [400, 0, 0]);
  const commands = await measure('commands', '--requests-per-second', '100');
  assert.deepEqual([commands.requests_answered, commands.errors], [100, 0], JSON.stringify(commands));
});
