// The client of docs/protocol.md, "Coming back", as shown there: 5,000 histories, over links that are cut at random moments,
// while the gateway restarts and is killed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import WebSocket from 'ws';
import { atEnd, directory, freePorts, gateway, root, token, until } from './harness.mjs';

const CHANNELS = 5_000;
const ROUNDS = 6;

const page = readFileSync(join(root, 'docs', 'protocol.md'), 'utf8');
const example = page.match(/## Coming back.*?```js\n(.*?)```/s)[1];

/** A small, seeded generator: the same cuts in every run. */
function random(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A proxy that cuts each link after a random number of bytes, unless `calm`. */
async function cutter(t, port, next) {
  const proxy = { calm: false, cuts: 0, bytes: 0 };
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    let left = 20_000 + next() * 300_000;
    const end = () => { client.destroy(); upstream.destroy(); };
    client.on('data', (data) => upstream.write(data));
    upstream.on('data', (data) => {
      left -= data.length;
      proxy.bytes += data.length;
      if (proxy.calm || left > 0) return client.write(data);
      // In the middle of a frame as well as between two.
      proxy.cuts += 1;
      client.write(data.subarray(0, Math.floor(data.length * next())), end);
    });
    for (const socket of [client, upstream]) socket.on('error', end).on('close', end);
  }).listen(0, '127.0.0.1');
  atEnd(t, () => server.close());
  await once(server, 'listening');
  return Object.assign(proxy, { url: `ws://127.0.0.1:${server.address().port}/ws` });
}

test('the client of the protocol page has every event of 5,000 histories once, over links that are cut, a restart and a kill', async (t) => {
  const seed = Number(process.env.TICKGATE_SEED ?? 17);
  t.diagnostic(`TICKGATE_SEED=${seed}`);
  const next = random(seed);
  const [port] = await freePorts(1);
  const options = {
    listen: `["127.0.0.1:${port}"]`,
    server: 'drain = "1s"',
    rest: `[state]\nsnapshot = "${join(directory(t), 'state')}"`,
  };
  let server = await gateway(t, options);
  const proxy = await cutter(t, port, next);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');

  const got = new Map();
  const reloaded = [];
  const client = new Function('apply', 'reload', 'reloadEverything', `${example}\nreturn { onOpen, onMessage };`)(
    (m) => { const numbers = got.get(m.channel); if (numbers) numbers.push(m.data); else got.set(m.channel, [m.data]); },
    (channel) => reloaded.push(channel),
    () => reloaded.push('everything'),
  );
  let subscribed = 0;
  let socket;
  let isOver = false;
  atEnd(t, () => { isOver = true; socket.terminate(); });
  const open = () => {
    if (isOver) return;
    socket = new WebSocket(proxy.url, { headers: { authorization: `Bearer ${jwt}` } });
    socket.on('open', () => client.onOpen(socket));
    socket.on('message', (data) => {
      const message = JSON.parse(data);
      if (message.type === 'subscribed') subscribed += 1;
      client.onMessage(message);
    });
    socket.on('error', () => {});
    socket.on('close', () => setTimeout(open, 20));
  };
  open();
  await until('the first answer', () => subscribed > 0);

  const channels = Array.from({ length: CHANNELS }, (_, n) => `grid.g${n}.order`);
  const publish = async (round) => {
    const events = channels.map((channel) => ({ channel, event: 'filled', data: round }));
    assert.deepEqual((await server.admin('POST', '/api/publish', events)).body.published, CHANNELS);
  };
  for (let round = 0; round < ROUNDS; round++) {
    await publish(round);
    if (round === 2) {
      server.child.kill('SIGTERM');
      await server.ended;
      server = await gateway(t, options);
    }
  }
  // Links go on being cut while the client catches up.
  const isWhole = () => got.size === CHANNELS && [...got.values()].every((numbers) => numbers.length >= ROUNDS);
  await until(`all events: ${got.size} channels, ${proxy.cuts} cuts`, () => isWhole() || proxy.cuts > 200);
  proxy.calm = true;
  await until(`all events after ${proxy.cuts} cuts`, isWhole);
  const expected = Array.from({ length: ROUNDS }, (_, n) => n);
  for (const [channel, numbers] of got) assert.deepEqual(numbers, expected, channel);
  assert.deepEqual(reloaded, []);
  assert.ok(proxy.cuts >= 10, `${proxy.cuts} cuts`);

  // A gateway that was killed begins a new store. The client is told to reload everything, and goes on.
  server.child.kill('SIGKILL');
  await server.ended;
  server = await gateway(t, options);
  await until('the answer of the new store', () => reloaded.includes('everything'));
  await publish(ROUNDS);
  await until('its events', () => [...got.values()].every((numbers) => numbers.at(-1) === ROUNDS));
  for (const [channel, numbers] of got) assert.deepEqual(numbers, [...expected, ROUNDS], channel);
  t.diagnostic(`${proxy.cuts} cuts, ${(proxy.bytes / 1e6).toFixed(1)} MB for ${CHANNELS * ROUNDS} events`);
});
