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
