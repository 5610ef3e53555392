// Records that come and go, and channels that are deleted, against the real gateway.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseDecimals } from '../dist/decimal.js';
import { client, collect, gateway, publish, until, within } from './support.mjs';

const ORDERS = `[[channel]]
match = "grid.*.orders"
cache = "last"
record_key = ["symbol", "side"]
record_delete = { field = "size", values = [0] }
`;
const RULE = { deleted: { field: 'size', values: [0] } };
const KEY = ['symbol', 'side'];

test('records of several key fields come and go, for those who have them and for newcomers', async (t) => {
  const server = await gateway(t, { rest: ORDERS });
  const order = (symbol, side, size) => ({ symbol, side, size });
  await publish(server, 'grid.a.orders', [order('x', 'buy', 1), order('x', 'sell', 2), order('y', 'buy', 3)]);
  await publish(server, 'grid.a.orders', [order('x', 'buy', 0)]);
  for (const options of [{}, { parse: parseDecimals }]) {
    const tg = await client(t, server.url, options);
    const sub = tg.subscribe('grid.*.orders');
    const records = sub.records(KEY, RULE);
    await within('live', tg.connect());
    await until('the records that are left', () => records.size === 2);
    assert.deepEqual([...records.keys()], ['["x","sell"]', '["y","buy"]']);
    await publish(server, 'grid.a.orders', [order('x', 'sell', '0.00'), order('z', 'buy', 4)]);
    await until('one has gone and one has come', () => records.has('["z","buy"]') && records.size === 2);
    const late = tg.subscribe('grid.*.orders');
    const seen = collect(late);
    await until('what a late subscriber gets', () => seen.events.length === 1);
    assert.deepEqual(seen.events[0].data.map(({ symbol }) => symbol), ['y', 'z']);
    assert.equal(sub.records(KEY, RULE), records);
    await publish(server, 'grid.a.orders', [order('z', 'buy', 0), order('x', 'sell', 2)]);
    await until('as before', () => records.has('["x","sell"]'));
    await tg.close();
  }
});

test('a deleted channel goes from the views', async (t) => {
  const server = await gateway(t);
  await publish(server, 'board.a.prices', [{ code: 'a' }]);
  await publish(server, 'board.b.prices', [{ code: 'b' }]);
  const tg = await client(t, server.url);
  const sub = tg.subscribe('board.*.prices');
  const records = sub.records('code');
  const seen = collect(sub);
  await within('live', tg.connect());
  await until('both', () => records.size === 2);
  const { body } = await server.admin('DELETE', '/api/channels/board.a.*');
  assert.deepEqual(body, { deleted: 1 });
  await until('the deletion', () => seen.events.at(-1).event === 'deleted');
  assert.deepEqual([...records.keys()], ['b']);
  assert.equal(sub.last('board.a.prices'), undefined);
  assert.equal(sub.last('board.b.prices').data[0].code, 'b');
});

test('an order book is kept up to date, also with texts and with all digits', async (t) => {
  const server = await gateway(t, { rest: '[[channel]]\nmatch = "market.*.orderbook"\ncache = "last"\nmerge = "book"\n' });
  const channel = 'market.x.orderbook';
  const update = (data) => publish(server, channel, data);
  for (const options of [{}, { parse: parseDecimals }]) {
    await update({ snapshot: true, symbol: 'x', bids: [['9.5', '1'], [10, 2], ['0.000000000000000000001', 1]], asks: [[11, 3], ['1e1', 1]], seq: 1 });
    const tg = await client(t, server.url, options);
    const sub = tg.subscribe('market.*.orderbook');
    const seen = collect(sub);
    await within('live', tg.connect());
    await until('the whole book', () => sub.book(channel));
    const book = sub.book(channel);
    const prices = () => [book.bids, book.asks].map((side) => side.map(([price]) => String(price)));
    assert.deepEqual(prices(), [['10', '9.5', '0.000000000000000000001'], ['1e1', '11']]);
    await update({ bids: [['10.00', 0], ['9.75', '4'], ['0.000000000000000000002', 1]], asks: [['11.0', '7']], seq: 2 });
    await until('the update', () => Number(book.seq) === 2);
    assert.deepEqual(prices(), [['9.75', '9.5', '0.000000000000000000002', '0.000000000000000000001'], ['1e1', '11.0']]);
    assert.deepEqual([book.stale, book.members.symbol, String(book.asks[1][1])], [false, 'x', '7']);
    const late = tg.subscribe('market.*.orderbook');
    const whole = collect(late);
    await until('what a late subscriber gets', () => whole.events.length === 1);
    assert.deepEqual([whole.events[0].data.bids.length, whole.events[0].isSnapshot], [4, true]);
    await update({ bids: [], asks: [], seq: 4 });
    await until('the gap', () => book.stale);
    await update({ snapshot: true, bids: [], asks: [], seq: 9 });
    await until('the next book', () => !book.stale && book.bids.length === 0);
    assert.equal(sub.book(channel), book);
    assert.ok(seen.events.length >= 4);
    await tg.close();
  }
});

test('a silent channel is told, and when it goes on', async (t) => {
  const server = await gateway(t, { rest: '[[channel]]\nmatch = "grid.*.status"\nfresh_within = "1s"\n' });
  const tg = await client(t, server.url);
  const sub = tg.subscribe('grid.*');
  const other = tg.subscribe('market.*');
  const told = [];
  for (const type of ['stale', 'fresh']) {
    sub.on(type, ({ channels, complete }) => told.push([type, channels, complete]));
    other.on(type, () => told.push('of another pattern'));
  }
  await within('live', tg.connect());
  await within('ready', sub.ready);
  await publish(server, 'grid.a.status', 1);
  await until('the silence', () => told.length === 1);
  await publish(server, 'grid.a.status', 2);
  await until('the news', () => told.length === 2);
  assert.deepEqual(told, [['stale', ['grid.a.status'], true], ['fresh', ['grid.a.status'], true]]);
});

test('a rate brings the newest value of each period, and all of them after it is given up', async (t) => {
  const server = await gateway(t);
  const tg = await client(t, server.url);
  const sub = tg.subscribe('market.*.price', { maxRate: 5 });
  const seen = collect(sub);
  await within('live', tg.connect());
  await within('ready', sub.ready);
  const began = Date.now();
  for (let n = 1; n <= 40; n++) {
    await publish(server, 'market.x.price', n);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await until('the newest', () => seen.events.at(-1)?.data === 40);
  const periods = Math.ceil((Date.now() - began) / 200);
  assert.ok(seen.events.length <= periods + 1, `${seen.events.length} values in ${periods} periods`);
  // A slower subscriber does not slow the others down.
  const slow = tg.subscribe('market.*.price', { maxRate: 0.1 });
  await within('ready', slow.ready);
  sub.setRate();
  await until('the change', () => seen.events.length > 0 && tg.stats().patterns === 1);
  const others = collect(tg.subscribe('market.y.*'));
  await until('a subscription behind the change', async () => {
    await publish(server, 'market.y.status', 1);
    return others.events.length > 0;
  });
  for (let n = 41; n <= 45; n++) await publish(server, 'market.x.price', n);
  await until('all of them', () => seen.events.at(-1)?.data === 45);
  assert.deepEqual(seen.events.slice(-5).map(({ data }) => data), [41, 42, 43, 44, 45]);
  assert.deepEqual(tg.errors, []);
});
