import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const built = mkdtempSync(join(tmpdir(), 'tickgate-demo-'));
process.on('exit', () => rmSync(built, { recursive: true, force: true }));
execFileSync(process.execPath, [join(here, '../../typescript/node_modules/typescript/bin/tsc'), '-p', join(here, '..'), '--outDir', built], { stdio: 'inherit' });
writeFileSync(join(built, 'package.json'), '{"type":"module"}');

test('the page that the demo embeds is the output of the compiler', () => {
  const page = join(here, '../../../crates/demo/src/page');
  const modules = (folder) => readdirSync(folder).filter((name) => name.endsWith('.js')).sort();
  assert.deepEqual(modules(page), modules(built));
  for (const name of modules(built)) {
    assert.ok(readFileSync(join(page, name), 'utf8') === readFileSync(join(built, name), 'utf8'), `${name}: run \`npm run build\` in clients/demo`);
  }
});

const { Candles, Orders, range, ticks } = await import(join(built, 'candles.js'));

test('candles have the opening, the extremes and the last price of their span', () => {
  const candles = new Candles(1000, 3);
  for (const [time, price] of [[0, 10], [400, 12], [900, 9], [1000, 11], [2500, 8], [2400, 7], [5000, 8]]) candles.add(time, price);
  assert.deepEqual(candles.list, [
    { at: 1000, open: 9, high: 11, low: 9, close: 11 },
    { at: 2000, open: 11, high: 11, low: 7, close: 7 },
    { at: 5000, open: 7, high: 8, low: 7, close: 8 },
  ]);
});

test('orders rest until they are filled or cancelled', () => {
  const orders = new Orders(2);
  const order = (level, side = 'buy') => ({ level, side, price: 100 + level, amount: 1 });
  for (const level of [1, 2, 3]) orders.event('placed', order(level), 0);
  orders.event('filled', order(1), 5);
  orders.event('cancelled', order(2), 6);
  assert.deepEqual([...orders.open.keys()], [3]);
  for (const at of [7, 8]) orders.event('filled', order(3, 'sell'), at);
  assert.deepEqual(orders.fills, [7, 8].map((at) => ({ at, side: 'sell', price: 103 })));
});

test('the range holds the candles and the orders near them', () => {
  const candle = { at: 0, open: 100, high: 101, low: 99, close: 100 };
  const near = range([candle], [{ price: 97 }, { price: 50 }]);
  assert.ok(near.low < 97 && near.low > 96 && near.high > 101 && near.high < 102, JSON.stringify(near));
  assert.deepEqual(range([], []), { low: 0, high: 1 });
  assert.deepEqual(ticks(96.5, 101.2, 5), [97, 98, 99, 100, 101]);
});

const { Line, Recovery } = await import(join(built, 'link.js'));

test('a cut ends the connections and refuses new ones for its time', () => {
  let now = 0;
  const closed = [];
  class Base extends EventTarget {
    constructor(url) { super(); this.url = url; }
    close(code) { closed.push(code); this.dispatchEvent(new Event('close')); }
  }
  const line = new Line(Base, () => now);
  new line.WebSocket('ws://a');
  line.cut(3000);
  assert.deepEqual(closed, [3000]);
  assert.throws(() => new line.WebSocket('ws://a'), /cut/);
  now = 3000;
  new line.WebSocket('ws://a');
  line.cut(1);
  assert.equal(closed.length, 2);
});

test('what happened during a cut counts as recovered, and gaps are told', () => {
  const recovery = new Recovery();
  recovery.event(5);
  assert.equal(recovery.text, '');
  recovery.cut(1000);
  assert.match(recovery.text, /^Cut/);
  recovery.live(4200);
  for (const at of [500, 1500, 4000, 4300]) recovery.event(at);
  assert.equal(recovery.text, 'Back after 3.2 s, with 2 events that the bot made meanwhile; no order or trade is missing.');
  recovery.gap();
  assert.match(recovery.text, /some are missing/);
});
