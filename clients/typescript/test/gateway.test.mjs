// The client against the real gateway: what an application calls, and what it gets.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { CommandRefused, OutcomeUnknown, RequestRefused } from '../dist/index.js';
import { parseDecimals } from '../dist/decimal.js';
import { client, collect, gateway, proxy, publish, token, until, within } from './support.mjs';

const code = (expected) => (error) => error.code === expected;

test('a client that was made is idle, and connect is what connects', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const sub = tg.subscribe('grid.*');
  assert.equal(tg.state, 'idle');
  await within('live', tg.connect());
  assert.equal(tg.state, 'live');
  await within('ready', sub.ready);
  assert.deepEqual(tg.states.map(({ state }) => state), ['connecting', 'live']);
  await tg.close();
  assert.equal(tg.state, 'closed');
  assert.deepEqual([tg.states.at(-1).code, tg.states.at(-1).final], [1000, false]);
});

test('a signal that aborts gives up connecting, and closes the client if nobody else waits', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  network.isRefusing = true;
  const tg = await client(t, network.url);
  const [one, other] = [new AbortController(), new AbortController()];
  const waiting = [tg.connect({ signal: one.signal }), tg.connect({ signal: other.signal })];
  one.abort(new Error('a'));
  await assert.rejects(within('the first', waiting[0]), { message: 'a' });
  assert.notEqual(tg.state, 'closed', 'somebody else waits');
  other.abort(new Error('b'));
  await assert.rejects(within('the second', waiting[1]), { message: 'b' });
  assert.equal(tg.state, 'closed');
  await assert.rejects(tg.connect({ signal: one.signal }), { message: 'a' });
  network.isRefusing = false;
  await within('live', tg.connect({ signal: new AbortController().signal }));
});

test('events, last values and records arrive; snapshots are told from news', async (t) => {
  const server = await gateway(t);
  await publish(server, 'market.BTC.price', { price: 1 });
  await publish(server, 'board.main.prices', [{ code: 'a', price: 1 }, { code: 'b', price: 2 }]);
  const tg = await client(t, server.url);
  const prices = tg.subscribe('market.*.price');
  const board = tg.subscribe('board.*');
  const records = board.records('code');
  const seen = collect(prices);
  await within('live', tg.connect());
  await within('ready', prices.ready);
  await until('the last value', () => seen.events.length === 1);
  assert.deepEqual([seen.events[0].data, seen.events[0].isSnapshot], [{ price: 1 }, true]);
  await until('the records', () => records.size === 2);
  await publish(server, 'market.BTC.price', { price: 2 });
  await publish(server, 'board.main.prices', [{ code: 'b', price: 3 }]);
  await until('the news', () => seen.events.length === 2 && records.get('b').price === 3);
  assert.equal(seen.events[1].isSnapshot, false);
  assert.deepEqual([...records.values()], [{ code: 'a', price: 1 }, { code: 'b', price: 3 }]);
  assert.equal(prices.last('market.BTC.price').data.price, 2);
  assert.equal(prices.last('board.main.prices'), undefined, 'the pattern does not match it');
  assert.equal(board.records('code'), records);
  assert.equal(tg.stats().events, 4);
});

test('identical patterns are one subscription; a late subscriber gets last values and records from the cache', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url, { tokenArgs: ['--sub', '4', '--role', 'admin'] });
  const first = tg.subscribe('*');
  await within('live', tg.connect());
  await within('ready', first.ready);
  const all = collect(first);
  await publish(server, 'market.BTC.price', 7);
  await publish(server, 'board.main.prices', [{ code: 'a', n: 1 }, { code: 'b', n: 1 }]);
  await publish(server, 'board.main.prices', [{ code: 'b', n: 2 }]);
  await publish(server, 'grid.a.order', 'an order is no last value');
  await until('all events', () => all.events.filter(({ channel }) => !channel.startsWith('system')).length === 4);
  const late = tg.subscribe('*');
  const overlapping = tg.subscribe('market.*');
  await within('ready', Promise.all([late.ready, overlapping.ready]));
  const [seen, market] = [collect(late), collect(overlapping)];
  await until('the snapshots', () => seen.events.some(({ channel }) => channel === 'board.main.prices'));
  await until('the snapshot of an overlapping pattern', () => market.events.length === 1);
  const snapshots = seen.events.filter(({ channel }) => !channel.startsWith('system'));
  assert.ok(snapshots.every(({ isSnapshot }) => isSnapshot));
  assert.deepEqual(snapshots.map(({ channel, data }) => [channel, data]), [
    ['market.BTC.price', 7],
    ['board.main.prices', [{ code: 'a', n: 1 }, { code: 'b', n: 2 }]],
  ]);
  assert.equal(late.records('code').get('b').n, 2);
  const { body } = await server.admin('GET', '/api/websocket/clients');
  assert.deepEqual(body.clients[0].subscriptions, ['*', 'market.*']);
  first.unsubscribe();
  await publish(server, 'market.BTC.price', 8);
  await until('an event for the one that stays', () => seen.events.at(-1).data === 8);
  assert.ok(all.events.every(({ data }) => data !== 8));
  late.unsubscribe();
  await until('the pattern is given back', async () => {
    const { body: now } = await server.admin('GET', '/api/websocket/clients');
    return now.clients[0].subscriptions.join() === 'market.*';
  });
});

test('a refused pattern ends its subscriptions only; one request for many is repeated one by one', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const good = tg.subscribe('grid.*');
  const forbidden = tg.subscribe('user.5.balance');
  const invalid = tg.subscribe('grid..a');
  await within('live', tg.connect());
  await within('ready', good.ready);
  await assert.rejects(within('the refusal', forbidden.ready), (error) => error instanceof RequestRefused && error.code === 'FORBIDDEN');
  await assert.rejects(within('the refusal', invalid.ready), code('INVALID_CHANNEL'));
  assert.deepEqual(tg.errors, []);
});

test('more patterns than permitted are refused before the gateway refuses; a hundred are batched into few messages', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const subs = Array.from({ length: 51 }, (_, n) => tg.subscribe(`grid.${n}.*`));
  await within('live', tg.connect());
  await within('ready', Promise.all(subs.slice(0, 50).map((sub) => sub.ready)));
  await assert.rejects(within('the refusal', subs[50].ready), code('SUBSCRIPTION_LIMIT'));
  for (let round = 0; round < 20; round++) {
    for (const sub of subs.splice(0)) sub.unsubscribe();
    subs.push(...Array.from({ length: 50 }, (_, n) => tg.subscribe(`grid.${round}.${n}`)));
  }
  await within('ready', Promise.all(subs.map((sub) => sub.ready)));
  assert.deepEqual(tg.errors, []);
});

test('a burst of requests is spread over time, so that the gateway limits none', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url, { tokenArgs: ['--sub', 'p', '--publish', 'grid.*', '--channels', 'grid.*'] });
  await within('live', tg.connect());
  const published = await within('all', Promise.all(Array.from({ length: 250 }, (_, n) => tg.publish('grid.a.order', 'filled', n))));
  assert.ok(published.every(({ epoch, offset }, n) => epoch && (n === 0 || offset > published[n - 1].offset)));
  const page = await within('history', tg.history('grid.a.order', { since: published[239].offset }));
  assert.deepEqual(page.events.map(({ data }) => data), [240, 241, 242, 243, 244, 245, 246, 247, 248, 249]);
  assert.deepEqual([page.complete, page.more, page.epoch], [true, false, published[0].epoch]);
  const cut = await within('a page', tg.history('grid.a.order', { since: published[239].offset, epoch: page.epoch, limit: 4 }));
  assert.deepEqual([cut.events.map(({ data }) => data), cut.complete, cut.more], [[240, 241, 242, 243], true, true]);
  const other = await within('a page of another epoch', tg.history('grid.a.order', { since: published[239].offset, epoch: '0000000000000000' }));
  assert.deepEqual([other.complete, other.events[0].data], [false, 0]);
  await assert.rejects(within('the refusal', tg.publish('system.log', 'e', 1)), (error) => error instanceof RequestRefused && error.code === 'FORBIDDEN');
  await assert.rejects(within('the refusal', tg.history('system.log')), code('FORBIDDEN'));
  assert.deepEqual(tg.errors, []);
});

test('commands are promises: an answer, a refusal, or an unknown outcome', async (t) => {
  const { createServer } = await import('node:http');
  const { once } = await import('node:events');
  const seen = [];
  const traces = [];
  const backend = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const { action, params } = JSON.parse(body);
    seen.push(action);
    traces.push(request.headers.traceparent);
    if (action === 'grid.hang') return;
    const answer = action === 'grid.start' ? { success: true, data: { got: params } } : { success: false, error: { code: 'VALIDATION_ERROR', message: 'no' } };
    response.setHeader('content-type', 'application/json').end(JSON.stringify(answer));
  }).listen(0, '127.0.0.1');
  await once(backend, 'listening');
  t.after(() => { backend.closeAllConnections(); backend.close(); });
  const server = await gateway(t, { rest: `[[command]]\nmatch = "grid.*"\nhttp = "http://127.0.0.1:${backend.address().port}/"\n` });
  const tg = await client(t, server.url);
  await assert.rejects(tg.command('grid.start', {}), (error) => error instanceof CommandRefused && error.code === 'NOT_CONNECTED');
  await within('live', tg.connect());
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00';
  assert.deepEqual(await within('the answer', tg.command('grid.start', { n: 1 }, { traceparent })), { got: { n: 1 } });
  assert.deepEqual(traces, [traceparent]);
  await assert.rejects(within('the refusal', tg.command('grid.other')), (error) => error instanceof CommandRefused && error.code === 'VALIDATION_ERROR');
  await assert.rejects(within('the refusal', tg.command('backtest.run')), (error) => error instanceof CommandRefused && error.code === 'UNKNOWN_ACTION');
  await assert.rejects(within('too long', tg.command('grid.start', 'x'.repeat(70_000))), (error) => error instanceof CommandRefused && error.code === 'MESSAGE_TOO_LARGE');
  const unknown = (expected) => (error) => error instanceof OutcomeUnknown && error.code === expected;
  await assert.rejects(within('late', tg.command('grid.hang', {}, { timeout: 50 })), unknown('TIMEOUT'));
  const controller = new AbortController();
  const aborted = tg.command('grid.hang', {}, { signal: controller.signal });
  controller.abort();
  await assert.rejects(within('aborted', aborted), unknown('ABORTED'));
  await assert.rejects(tg.command('grid.hang', {}, { signal: controller.signal }), { name: 'AbortError' });
  const open = tg.command('grid.hang');
  await until('it reached the backend', () => seen.filter((action) => action === 'grid.hang').length === 3);
  const lost = assert.rejects(within('lost', open), unknown('NOT_CONNECTED'));
  await tg.close();
  await lost;
  await within('live again', tg.connect());
  assert.deepEqual(await within('the answer', tg.command('grid.start', 2)), { got: 2 });
  assert.equal(seen.filter((action) => action === 'grid.hang').length, 3, 'no command is sent twice');
});

test('a command with a key is carried out once, over two connections', async (t) => {
  const { createServer } = await import('node:http');
  const { once } = await import('node:events');
  const seen = [];
  const waiting = [];
  const backend = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const command = JSON.parse(body);
    seen.push(command.key);
    waiting.push(() => response.setHeader('content-type', 'application/json').end(JSON.stringify({ success: true, data: seen.length })));
  }).listen(0, '127.0.0.1');
  await once(backend, 'listening');
  t.after(() => { backend.closeAllConnections(); backend.close(); });
  const server = await gateway(t, { rest: `[[command]]\nmatch = "grid.*"\nhttp = "http://127.0.0.1:${backend.address().port}/"\n` });
  const tg = await client(t, server.url);
  await within('live', tg.connect());
  const key = 'order:7';
  const lost = tg.command('grid.start', { n: 1 }, { key });
  await until('it reached the backend', () => waiting.length === 1);
  const broken = assert.rejects(within('lost', lost), (error) => error instanceof OutcomeUnknown && error.code === 'NOT_CONNECTED');
  await tg.close();
  await broken;
  await within('live again', tg.connect());
  assert.deepEqual(await within('the status', tg.commandStatus(key)), { state: 'running' });
  const again = tg.command('grid.start', { n: 1 }, { key });
  await assert.rejects(within('the refusal', tg.command('grid.start', { n: 2 }, { key })), (error) => error instanceof CommandRefused && error.code === 'KEY_REUSED');
  waiting[0]();
  assert.equal(await within('the outcome', again), 1);
  assert.deepEqual(await within('the status', tg.commandStatus(key)), { state: 'done', response: { success: true, data: 1 } });
  await assert.rejects(within('the refusal', tg.commandStatus('never')), (error) => error.code === 'UNKNOWN_KEY');
  assert.equal(seen.length, 1);
  assert.match(seen[0], / order:7$/);
});

test('numbers keep their digits with the decimal parser, in both directions', async (t) => {
  const { stringifyDecimals } = await import('../dist/decimal.js');
  const server = await gateway(t);
  const tg = await client(t, server.url, {
    tokenArgs: ['--sub', 'p', '--publish', 'grid.*', '--channels', 'grid.*'], parse: parseDecimals, stringify: stringifyDecimals,
  });
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  const text = '{"id":12345678901234567891,"price":0.10,"list":[1e400]}';
  await within('published', tg.publish('grid.a.order', 'filled', parseDecimals(text)));
  await until('the event', () => seen.events.length === 1);
  assert.equal(String(seen.events[0].data.id), '12345678901234567891');
  assert.equal(stringifyDecimals(seen.events[0].data), text);
  assert.equal(typeof seen.events[0].timestamp, 'number');
  assert.equal(typeof seen.events[0].offset, 'number');
});

test('a loop reads events; a slow one is told what its buffer dropped; the loop ends with the subscription', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const sub = tg.subscribe('grid.*');
  const seen = collect(sub);
  const fast = sub.events();
  const slow = sub.events({ buffer: 3 });
  await within('live', tg.connect());
  await within('ready', sub.ready);
  for (let n = 0; n < 5; n++) await publish(server, 'grid.a.status', n);
  for (let n = 0; n < 5; n++) await publish(server, `grid.${n}.order`, n);
  await until('all events', () => seen.events.length === 10);
  sub.unsubscribe();
  const read = async (events) => { const data = []; for await (const event of events) data.push(event.data); return data; };
  assert.deepEqual(await within('the loop', read(fast)), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
  assert.deepEqual(await within('the loop', read(slow)), [2, 3, 4]);
  assert.deepEqual(seen.gaps.map(({ reason, channels }) => [reason, channels[0]]), [
    ['dropped', 'grid.a.status'], ['dropped', 'grid.a.status'], ['dropped', 'grid.0.order'], ['dropped', 'grid.1.order'],
  ]);
  assert.deepEqual(seen.ends, [undefined]);
});

test('a slow client is told of the events that the gateway dropped', async (t) => {
  const server = await gateway(t, { rest: '[limits]\noutbox_frames = 8\n' });
  const network = await proxy(t, server.publicAddress);
  const tg = await client(t, network.url);
  const sub = tg.subscribe('market.*');
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  // Nobody reads, so what the kernel's buffers do not hold is dropped.
  network.freeze(true);
  const isDropped = async () => (await server.admin('GET', '/api/websocket/clients')).body.clients[0].dropped > 0;
  await until('a drop', async () => {
    await publish(server, 'market.x.trade', randomBytes(150_000).toString('base64'));
    return isDropped();
  });
  network.freeze(false);
  await until('the gap', () => seen.gaps.length > 0);
  assert.deepEqual([seen.gaps[0].reason, seen.gaps[0].channels, seen.gaps[0].complete], ['dropped', ['market.x.trade'], true]);
  assert.ok(tg.stats().dropped > 0);
});

test('an ignored rejection does not end the process', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  tg.subscribe('grid..a');
  tg.subscribe('user.5.balance');
  const gone = tg.subscribe('grid.a');
  gone.unsubscribe();
  await within('live', tg.connect());
  await tg.close();
});

test('tokens: a new one is asked for in time, and the connection stays', async (t) => {
  const server = await gateway(t);
  let asked = 0;
  const tg = await client(t, server.url, { getToken: async () => token(t, '--sub', '4', '--role', 'trader', '--ttl', ++asked === 1 ? '4s' : '1h') });
  await within('live', tg.connect());
  await until('the second token', () => asked === 2);
  const sub = tg.subscribe('grid.*');
  await within('ready', sub.ready);
  assert.equal(tg.stats().reconnects, 0);
});
