// Two gateways over Redis, one of which is killed; and a source in Redis with bad messages.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { connect } from 'node:net';
import { test } from 'node:test';
import { Client, atEnd, directory, freePorts, gateway, start, token, until } from './harness.mjs';

/** A Redis server that keeps nothing. `run` runs a command of words without white space. */
async function redis(t) {
  const [port] = await freePorts(1);
  const where = directory(t);
  start(t, where, 'redis-server', ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--dir', where]);
  const run = async (command) => {
    const socket = connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      socket.write(`${command}\r\n`);
      return String((await once(socket, 'data'))[0]);
    } finally {
      socket.destroy();
    }
  };
  await until('redis-server', () => run('PING').then((answer) => answer.startsWith('+PONG'), () => false));
  return { run, url: `redis://127.0.0.1:${port}` };
}

const keys = `
[auth]
mode = "required"
[[auth.key]]
algorithm = "HS256"
secret_env = "TICKGATE_JWT_SECRET"
[admin]
key_env = "TICKGATE_ADMIN_KEY"
`;

/** A source of a feed, whose value is `value`. */
async function polled(t) {
  const source = { value: 0, polls: 0 };
  const server = createHttpServer((_, response) => {
    source.polls += 1;
    response.end(JSON.stringify({ value: source.value }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => {
    server.closeAllConnections();
    server.close();
  });
  return Object.assign(source, { url: `http://127.0.0.1:${server.address().port}/` });
}

test('a gateway over Redis is killed: its client recovers on the other one, which polls and reads from then on', async (t) => {
  const { run, url } = await redis(t);
  const source = await polled(t);
  const share = (node) => gateway(t, {
    server: `node = "${node}"`,
    rest: `${keys}
[broker]
kind = "redis"
url = "${url}"
[[channel]]
match = "grid.*.order"
history = { size = 100, ttl = "1h" }
[[feed]]
channel = "polled.value"
event = "update"
http = "${source.url}"
only_changed = true
interval = "200ms"
timeout = "2s"
[[source]]
channel = "grid.{user}.order"
event = "order"
redis = "stream:orders"
url = "${url}"
data = "n"
`,
  });
  const ready = (one) => until('the gateway', () => one.admin('GET', '/readyz').then(({ status }) => status === 200));
  const check = async (one, name) => (await one.admin('GET', '/api/overview')).body.checks.find((check) => check.name === name).detail;
  const reads = (one) => until('the duties', async () => (await check(one, 'source grid.{user}.order')).startsWith('is read'));
  const one = await share('one');
  await ready(one);
  await reads(one);
  const two = await share('two');
  await ready(two);
  assert.equal(await check(two, 'source grid.{user}.order'), 'another gateway reads it');

  const jwt = await token(t, '--sub', '4', '--role', 'admin');
  const isEvent = (channel) => (message) => message.type === 'event' && message.channel === channel;
  const [order, value] = [isEvent('grid.a.order'), isEvent('polled.value')];
  const stays = await Client.open(t, `${two.url}?token=${jwt}`);
  await stays.subscribe('grid.*', 'polled.value');
  const goes = await Client.open(t, `${one.url}?token=${jwt}`);
  const { cursor } = await goes.subscribe('grid.*');
  await run('XADD orders * user a n 1');
  for (const client of [stays, goes]) assert.equal((await client.next(order)).data, 1);
  assert.equal((await stays.next(value)).data.value, 0, 'what one polls, two delivers');

  one.child.kill('SIGKILL');
  await goes.closed;
  await run('XADD orders * user a n 2');
  source.value = 1;
  const moved = await Client.open(t, `${two.url}?token=${jwt}`);
  moved.send({ type: 'subscribe', channels: ['grid.*'], cursor });
  assert.equal((await moved.next(({ type }) => type === 'subscribed')).data.recovered, true);
  await reads(two);
  assert.deepEqual([(await moved.next(order)).data, (await moved.next(order)).data], [1, 2]);
  assert.equal((await stays.next(order)).data, 2);
  assert.equal((await stays.next(value)).data.value, 1);
});

test('the messages of a source that are no events are counted, and the log has the place of one of them', async (t) => {
  const { run, url } = await redis(t);
  for (const id of ['1-1', '1-2', '1-3']) await run(`XADD orders ${id} n 1`);
  await run('XADD orders 1-4 user a n 1');
  const one = await gateway(t, {
    rest: `${keys}
[[source]]
channel = "grid.{user}.order"
event = "order"
redis = "stream:orders"
url = "${url}"
start = "all"
`,
  });
  await until('the messages', async () => {
    const [{ bad, events }] = (await one.admin('GET', '/api/websocket/stats')).body.sources;
    return bad === 3 && events === 1;
  });
  one.child.kill('SIGTERM');
  await one.ended;
  const lines = one.err().split('\n').filter((line) => line.includes('is no event and is skipped'));
  assert.equal(lines.length, 1, 'once a minute');
  assert.equal(JSON.parse(lines[0]).id, 'redis orders 1-1');
});
