// A new version takes the place of the running one: the file of the program is replaced, and SIGUSR2 executes it.
import assert from 'node:assert/strict';
import { readlinkSync, realpathSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Client, binary, directory, gateway, token, until } from './harness.mjs';

const CHANNEL = 'grid.a.order';

// TICKGATE_PREVIOUS is an older binary. Without it, the gateway is replaced by the same build.
test('a gateway is replaced in place by a newer one, connections wait meanwhile, and a client recovers', async (t) => {
  const where = directory(t);
  const program = join(where, 'tickgate');
  const install = (file) => {
    symlinkSync(file, `${program}.new`);
    renameSync(`${program}.new`, program);
  };
  install(realpathSync(process.env.TICKGATE_PREVIOUS ?? binary));
  const rest = `[state]\nsnapshot = "${join(where, 'state')}"`;
  const server = await gateway(t, { program, server: 'restart_drain = "1s"', rest });
  const url = `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`;
  const publish = async (data) => {
    const { status, body } = await server.admin('POST', '/api/publish', { channel: CHANNEL, event: 'filled', data });
    assert.equal(status, 200, JSON.stringify(body));
  };
  const isEvent = (number) => ({ type, data }) => type === 'event' && data === number;

  const first = await Client.open(t, url);
  await first.subscribe(CHANNEL);
  await publish(0);
  await first.next(isEvent(0));
  install(realpathSync(binary));
  server.child.kill('SIGUSR2');
  const { cursor } = await first.next(({ type }) => type === 'going_away');
  assert.equal((await first.closed).code, 1012);
  // The client comes back at once, and so does a publication. Both wait until the new program accepts.
  const [second] = await Promise.all([Client.open(t, url), publish(1)]);
  second.send({ type: 'subscribe', channels: [CHANNEL], cursor });
  const { data } = await second.next(({ type }) => type === 'subscribed');
  assert.notEqual(data.positions_complete, false);
  assert.notEqual(data.recovered[CHANNEL], false);
  await second.next(isEvent(1));
  await publish(2);
  await second.next(isEvent(2));
  await until('the line', () => server.err().includes('restarted: connections that waited are accepted'));
  assert.equal(readlinkSync(`/proc/${server.child.pid}/exe`), realpathSync(binary));
});
