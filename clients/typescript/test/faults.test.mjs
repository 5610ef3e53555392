// The client against the real gateway while connections break in every way.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { TokenRefused } from '../dist/index.js';
import { atEnd, client, collect, freePorts, gateway, directory, proxy, publish, reached, token, until, within } from './support.mjs';

const data = (seen) => seen.events.filter(({ isSnapshot }) => !isSnapshot).map((event) => event.data);
const numbers = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

test('a history goes on over broken connections: each event once, in order, without a gap', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const tg = await client(t, network.url);
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  for (let n = 0; n < 300; n++) {
    await publish(server, 'grid.a.order', n);
    if (n % 60 === 30) network.cut();
  }
  await until('the last event', () => seen.events.at(-1)?.data === 299);
  assert.deepEqual(data(seen), numbers(0, 300));
  assert.deepEqual(seen.gaps, []);
  assert.ok(tg.stats().reconnects >= 1);
});

test('an offline time: what has a history is recovered, the last value comes, the rest is told as a gap', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const tg = await client(t, network.url, { tokenArgs: ['--sub', '4', '--role', 'admin'] });
  const [orders, prices, log] = ['grid.*', 'market.*', 'system.log'].map((pattern) => tg.subscribe(pattern));
  const [seen, market, lines] = [collect(orders), collect(prices), collect(log)];
  await within('live', tg.connect());
  await within('ready', Promise.all([orders.ready, prices.ready, log.ready]));
  await publish(server, 'grid.a.order', 0);
  await publish(server, 'market.BTC.price', 0);
  await publish(server, 'system.log', 0);
  await until('the events', () => seen.events.length + market.events.length + lines.events.length === 3);
  network.isRefusing = true;
  network.cut();
  await reached(tg, 'waiting');
  await assert.rejects(tg.command('grid.start'), (error) => error.code === 'NOT_CONNECTED');
  for (const n of [1, 2]) {
    for (const channel of ['grid.a.order', 'market.BTC.price', 'system.log']) await publish(server, channel, n);
  }
  // A minute in the nightly run. Back-off has several failures in either case.
  const offline = Number(process.env.TICKGATE_OFFLINE_SECONDS ?? 4) * 1000;
  await new Promise((resolve) => setTimeout(resolve, offline));
  const waits = tg.states.filter(({ state }) => state === 'waiting');
  assert.ok(waits.length >= 2 && waits.every(({ retryAt, final }) => retryAt > 0 && !final));
  network.isRefusing = false;
  await reached(tg, 'live');
  await until('what was missed', () => seen.events.length === 3 && market.events.length === 2);
  assert.deepEqual(data(seen), [0, 1, 2]);
  assert.deepEqual([market.events[1].data, market.events[1].isSnapshot], [2, true]);
  assert.deepEqual([seen.gaps, lines.events.length], [[], 1]);
  assert.deepEqual(lines.gaps, [{ reason: 'unrecovered', channels: ['system.log'], complete: true }]);
});

test('a half-open connection is shown as stalled, then replaced', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const tg = await client(t, network.url, { pingInterval: 200, pongTimeout: 400 });
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  await until('a round trip', () => tg.stats().roundTripMs !== undefined);
  await publish(server, 'grid.a.order', 0);
  await until('an event', () => seen.events.length === 1);
  network.freeze(true);
  await reached(tg, 'stalled');
  await publish(server, 'grid.a.order', 1);
  await until('the verdict', () => tg.states.some(({ state, reason }) => state === 'waiting' && /does not answer/.test(reason)));
  network.freeze(false);
  await until('the event', () => seen.events.length === 2);
  assert.deepEqual(seen.gaps, []);
  // One that answers late is live again.
  await until('a calm connection', () => tg.state === 'live');
  network.freeze(true);
  await reached(tg, 'stalled');
  const { reconnects } = tg.stats();
  network.freeze(false);
  await reached(tg, 'live');
  assert.equal(tg.stats().reconnects, reconnects);
});

/** A gateway on fixed ports that can be started again, with or without its snapshot. */
async function restartable(t, rest) {
  const ports = await freePorts(1);
  const where = directory(t);
  const options = { listen: JSON.stringify([`127.0.0.1:${ports[0]}`]), server: 'drain = "1s"', rest: rest?.(where) ?? '' };
  return { start: () => gateway(t, options), url: `ws://127.0.0.1:${ports[0]}/ws` };
}

/** A gateway, and a client that has received one event of it. */
async function following(t, start, url) {
  const server = await start();
  const tg = await client(t, url);
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  await publish(server, 'grid.a.order', 1);
  await until('the event', () => seen.events.length === 1);
  return { server, tg, seen };
}

test('a kill of the gateway is a new epoch, and told so', async (t) => {
  const { start, url } = await restartable(t);
  const { server: first, tg, seen } = await following(t, start, url);
  first.child.kill('SIGKILL');
  await first.ended;
  await reached(tg, 'waiting');
  const second = await start();
  await publish(second, 'grid.a.order', 2);
  await reached(tg, 'live');
  await until('the gap', () => seen.gaps.length === 1);
  assert.deepEqual(seen.gaps, [{ reason: 'epoch', channels: ['grid.a.order'], complete: false }]);
  await publish(second, 'grid.a.order', 3);
  await until('the next event', () => seen.events.at(-1).data === 3);
});

test('a drain with a snapshot: the client comes back when it was told to, and misses nothing', async (t) => {
  const { start, url } = await restartable(t, (where) => `[state]\nsnapshot = "${join(where, 'snapshot')}"\n`);
  const { server: first, tg, seen } = await following(t, start, url);
  first.child.kill('SIGTERM');
  await within('the end', first.ended);
  await reached(tg, 'waiting');
  assert.equal(tg.states.find(({ state }) => state === 'waiting').code, 1012);
  const second = await start();
  await publish(second, 'grid.a.order', 2);
  await until('the next event', () => seen.events.length === 2);
  assert.deepEqual(data(seen), [1, 2]);
  assert.deepEqual(seen.gaps, []);
});

test('an operator ends the connection for good', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const sub = tg.subscribe('grid.*');
  await within('live', tg.connect());
  await within('ready', sub.ready);
  assert.equal((await server.admin('DELETE', '/api/users/4/connections')).status, 204);
  await reached(tg, 'closed');
  assert.deepEqual([tg.states.at(-1).code, tg.states.at(-1).final], [4003, true]);
  await assert.rejects(tg.command('grid.start'), (error) => error.code === 'NOT_CONNECTED');
});

test('who sent too fast comes back after ten seconds or more, also if the network returns', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url, { messagesPerSecond: 1e9, tokenArgs: ['--sub', 'p', '--publish', 'grid.*'] });
  await within('live', tg.connect());
  const flood = () => { for (let n = 0; n < 300; n++) tg.publish('grid.a', 'e', n).catch(() => {}); };
  const timer = setInterval(flood, 300);
  atEnd(t, () => clearInterval(timer));
  await reached(tg, 'waiting');
  clearInterval(timer);
  const { code, retryAt } = tg.states.at(-1);
  assert.equal(code, 4029);
  assert.ok(retryAt - Date.now() > 5_000, 'the rest of ten seconds');
});

test('without a way to a new token, the end of the token closes the client', async (t) => {
  const server = await gateway(t, { rest: '[auth]\nleeway = "0s"\n' });
  const tg = await client(t, server.url, { tokenArgs: ['--sub', '4', '--role', 'trader', '--ttl', '4s'] });
  await within('live', tg.connect());
  await reached(tg, 'closed');
  assert.deepEqual([tg.states.at(-1).code, tg.states.at(-1).final], [4001, true]);
  tg.setToken(await token(t, '--sub', '4', '--role', 'trader'));
  await within('live with a new token', tg.connect());
});

test('getToken backs off when it fails, is asked once at a time, and may end the client', async (t) => {
  const server = await gateway(t, { rest: '[auth]\nleeway = "0s"\n' });
  let [asked, open] = [0, 0];
  const getToken = async () => {
    asked += 1;
    assert.equal(++open, 1, 'one call at a time');
    try {
      if (asked <= 2) throw new Error('the login server is away');
      if (asked === 5) throw new TokenRefused('the session is over');
      return await token(t, '--sub', '4', '--role', 'trader', '--ttl', '4s');
    } finally {
      open -= 1;
    }
  };
  const tg = await client(t, server.url, { getToken });
  const sub = tg.subscribe('grid.*');
  const connected = tg.connect();
  await within('live', connected);
  assert.deepEqual(tg.states.filter(({ state }) => state === 'waiting').map(({ reason }) => reason), Array(2).fill('getToken failed: the login server is away'));
  await within('ready', sub.ready);
  await reached(tg, 'closed');
  assert.deepEqual([tg.states.at(-1).code, tg.states.at(-1).reason, tg.states.at(-1).final, asked], ['TOKEN_REFUSED', 'the session is over', true, 5]);
});

test('a token that the gateway refuses again and again ends in closed', async (t) => {
  const server = await gateway(t);
  let asked = 0;
  const tg = await client(t, server.url, { getToken: () => { asked += 1; return 'no-token'; } });
  await assert.rejects(within('the refusal', tg.connect()), (error) => error.code === 'TOKEN_INVALID');
  assert.deepEqual([tg.state, tg.states.at(-1).final, asked], ['closed', true, 4]);
  const anonymous = await client(t, server.url, { token: null });
  anonymous.setToken(null);
  await assert.rejects(within('the refusal', anonymous.connect()), (error) => error.code === 'UNAUTHENTICATED');
  assert.deepEqual([anonymous.state, anonymous.states.at(-1).final], ['closed', true]);
});

test('another user starts with nothing of the one before; a new token of the same user changes nothing', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  await publish(server, 'grid.a.status', 1);
  await until('the event', () => sub.last('grid.a.status'));
  tg.setToken(await token(t, '--sub', '4', '--role', 'trader'));
  await publish(server, 'grid.a.order', 1);
  await until('the event', () => seen.events.length === 2);
  assert.equal(tg.stats().reconnects, 0);
  tg.setToken(await token(t, '--sub', '5', '--role', 'trader'));
  await until('the other user', async () => (await server.admin('GET', '/api/websocket/clients?user=5')).body.clients.length === 1);
  await reached(tg, 'live');
  await until('the last value again', () => seen.events.length === 3);
  assert.deepEqual([seen.events[2].channel, seen.gaps], ['grid.a.status', [{ reason: 'unrecovered', channels: [], complete: false }]]);
  assert.equal((await server.admin('GET', '/api/websocket/clients?user=4')).body.clients.length, 0);
});

test('a new token that allows less takes subscriptions away, and they are told', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const subs = ['grid.*', 'market.*'].map((pattern) => tg.subscribe(pattern));
  const [grid, market] = subs.map(collect);
  await within('live', tg.connect());
  await within('ready', Promise.all(subs.map((sub) => sub.ready)));
  tg.setToken(await token(t, '--sub', '4', '--channels', 'market.*'));
  await until('the end', () => grid.ends.length === 1);
  assert.deepEqual([grid.ends[0].code, market.ends], ['FORBIDDEN', []]);
});

test('positions outlive a page reload in the storage of their tab, and are forgotten at log-out', async (t) => {
  const server = await gateway(t);
  const kept = new Map();
  const storage = { getItem: async (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const page = async (tab) => {
    const tg = await client(t, server.url, { token: jwt, storage, tab });
    const sub = tg.subscribe('grid.*');
    const seen = collect(sub);
    await within('live', tg.connect());
    await within('ready', sub.ready);
    return { tg, seen };
  };
  const first = await page('one');
  await publish(server, 'grid.a.order', 1);
  await until('the event', () => first.seen.events.length === 1);
  await first.tg.close();
  await publish(server, 'grid.a.order', 2);
  const second = await page('one');
  await until('what was missed', () => second.seen.events.length === 1);
  assert.deepEqual([data(second.seen), second.seen.gaps], [[2], []]);
  const other = await page('two');
  await publish(server, 'grid.a.order', 3);
  await until('the event', () => other.seen.events.length === 1);
  assert.deepEqual(data(other.seen), [3], 'another tab has positions of its own');
  await second.tg.close({ forget: true });
  assert.deepEqual([...kept.keys()].filter((key) => key.endsWith('one')), []);
  assert.equal(JSON.stringify([...kept.values()]).includes(jwt), false);
});

test('thousands of histories are recovered completely over a link that is cut, and nothing comes twice', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const tg = await client(t, network.url);
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  const round = (n) => numbers(0, 3000).map((grid) => ({ channel: `grid.${grid}.order`, event: 'filled', data: n }));
  await server.admin('POST', '/api/publish', round(0));
  await until('the first round', () => seen.events.length === 3000);
  for (const n of [1, 2]) {
    network.isRefusing = true;
    network.cut();
    await server.admin('POST', '/api/publish', round(n));
    network.isRefusing = false;
    // The link is cut once more while the replay is under way.
    await until('a part of the round', () => seen.events.length > 3000 * n);
    network.cut();
    await until('the round', () => seen.events.length === 3000 * (n + 1));
  }
  await server.admin('POST', '/api/publish', round(3));
  await until('the last round', () => seen.events.length === 12_000);
  for (const grid of numbers(0, 3000)) {
    const got = seen.events.filter(({ channel }) => channel === `grid.${grid}.order`);
    assert.deepEqual(got.map((event) => event.data), [0, 1, 2, 3], `grid.${grid}.order`);
  }
  assert.deepEqual([seen.gaps, tg.errors], [[], []]);
});
