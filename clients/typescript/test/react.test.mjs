// The stores behind the React hooks. The hooks themselves are tested by the React page, in examples.test.mjs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LatestStore, RecordsStore } from '../../react/dist/store.js';
import { rig } from './rig.mjs';
import { until } from './support.mjs';

test('records of several fields are whole although their events come within one frame, and go when they are deleted', async () => {
  const self = rig();
  const store = new RecordsStore(self.core, 'o.*', ['symbol', 'side'], { field: 'size', values: [0] });
  let redraws = 0;
  store.subscribe(() => { redraws += 1; });
  self.core.connect();
  self.live();
  const order = (symbol, side, size) => ({ symbol, side, size });
  const event = (snapshot, data) => self.gets({ type: 'event', channel: 'o.a', event: 'e', snapshot, data });
  event(true, [order('x', 'buy', 1), order('y', 'sell', 2)]);
  event(undefined, [order('x', 'buy', 3), order('y', 'sell', 0), order('z', 'buy', 4)]);
  await until('a redraw', () => redraws > 0);
  const first = store.getSnapshot().value;
  assert.deepEqual([...first], [['["x","buy"]', order('x', 'buy', 3)], ['["z","buy"]', order('z', 'buy', 4)]]);
  event(undefined, [order('x', 'buy', 0)]);
  await until('another redraw', () => store.getSnapshot().value !== first);
  assert.deepEqual([...store.getSnapshot().value.keys()], ['["z","buy"]']);
  assert.equal(first.size, 2, 'what a component holds does not change');
});

test('a component that was mounted before a log-in becomes ready, although the client was closed meanwhile', async () => {
  const self = rig();
  const store = new LatestStore(self.core, 'a.*');
  const stop = store.subscribe(() => {});
  self.core.connect();
  self.core.close(false);
  await new Promise(setImmediate);
  assert.equal(store.getSnapshot().isReady, false);
  self.core.connect();
  self.live();
  await until('ready', () => store.getSnapshot().isReady);
  stop();
  self.soon();
  assert.deepEqual(self.last('unsubscribe').channels, ['a.*']);
});
