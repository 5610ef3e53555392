import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { built, here } from './built.mjs';

test('the page that the gateway embeds is the output of the compiler', () => {
  const page = join(here, '../../../src/admin/console/page');
  const modules = (folder) => readdirSync(folder).filter((name) => name.endsWith('.js')).sort();
  assert.deepEqual(modules(page), modules(built));
  for (const name of modules(built)) {
    assert.ok(readFileSync(join(page, name), 'utf8') === readFileSync(join(built, name), 'utf8'), `${name}: run \`npm run build\` in clients/console`);
  }
});

const { scale, byteScale, timeTicks, xOf, yOf, linePath, nearest } = await import(join(built, 'series.js'));

test('a scale begins at zero, ends above the largest value, and has round steps', () => {
  assert.deepEqual(scale(7, 4), { max: 8, ticks: [0, 2, 4, 6, 8] });
  assert.deepEqual(scale(100, 4), { max: 100, ticks: [0, 25, 50, 75, 100] });
  assert.deepEqual(scale(0, 4), { max: 1, ticks: [0, 0.25, 0.5, 0.75, 1] });
  for (let seed = 1; seed < 500; seed++) {
    const value = seed ** 4 / 977;
    const { max, ticks } = scale(value, 4);
    assert.ok(max >= value * (1 - 1e-9) && ticks.length <= 6 && ticks.at(-1) === Number(max.toPrecision(12)), `${value}: ${ticks}`);
  }
});

test('a scale of bytes has steps that are round in its unit', () => {
  assert.deepEqual(byteScale(38.1 * 2 ** 20, 4).ticks.map((tick) => tick / 2 ** 20), [0, 10, 20, 30, 40]);
  assert.deepEqual(byteScale(10_240, 4), { max: 10_240, ticks: [0, 2560, 5120, 7680, 10_240] });
  assert.equal(byteScale(0, 4).max, 1);
});

test('times on the axis are whole minutes within the span', () => {
  const hour = 3_600_000;
  assert.deepEqual(timeTicks(0, hour, 6), [0, 10, 20, 30, 40, 50, 60].map((minute) => minute * 60_000));
  assert.deepEqual(timeTicks(1, 59_000, 6), []);
  assert.ok(timeTicks(123_456_789, 123_456_789 + hour, 6).every((at) => at % 600_000 === 0));
});

test('a line is interrupted where points are missing', () => {
  const frame = { width: 100, height: 10, from: 0, to: 100, max: 10 };
  assert.equal(linePath(frame, [0, 10, 50, 60], [0, 10, 5, 20], 15), 'M0.0 10.0L10.0 0.0M50.0 5.0L60.0 0.0');
  assert.equal(linePath(frame, [0, 10], [1], 15), 'M0.0 9.0');
  assert.equal(linePath(frame, [], [], 15), '');
  assert.equal(xOf({ ...frame, to: 0 }, 0), 0);
  assert.equal(yOf(frame, 5), 5);
});

test('the nearest time is found', () => {
  const times = [10, 20, 40];
  for (const [at, index] of [[-5, 0], [14, 0], [16, 1], [29, 1], [31, 2], [99, 2]]) assert.equal(nearest(times, at), index, at);
  assert.equal(nearest([], 5), -1);
});

const format = await import(join(built, 'format.js'));

test('numbers are short and exact enough', () => {
  const { number, bytes, duration, milliseconds, percent, ago } = format;
  assert.deepEqual([0, 3.25, 45.67, 812.4, 12_400, 1_240_000, 2e9, -5].map(number), ['0', '3.25', '45.7', '812', '12,400', '1.24 M', '2 G', '-5']);
  assert.deepEqual([0, 1023, 1536, 5 * 2 ** 20, 300 * 2 ** 30].map(bytes), ['0 B', '1023 B', '1.5 KiB', '5.0 MiB', '300 GiB']);
  assert.deepEqual([0.42, 12, 200, 19_200, 360_000].map(duration), ['0.4 s', '12 s', '3 min', '5 h 20 min', '4 d 4 h']);
  assert.deepEqual([0.4216, 12.6, 1300].map(milliseconds), ['0.42 ms', '13 ms', '1.3 s']);
  assert.deepEqual([0, 0.034, 0.97].map(percent), ['0.0 %', '3.4 %', '97 %']);
  assert.deepEqual([ago(100, 100_400), ago(95, 100_000), ago(0, 300_000)], ['now', '5 s ago', '5 min ago']);
});

const { append } = await import(join(built, 'view_load.js'));

test('the load keeps an hour, and begins anew with another gateway', () => {
  const load = { interval_ms: 5000, times: [], series: {}, shards: [] };
  const more = (times, shards = 2) => ({ interval_ms: 5000, times, series: { cpu: times.map((time) => time / 10) }, shards: Array.from({ length: shards }, () => times.map(() => 1)) });
  append(load, more([10, 20]), 0);
  append(load, more([30]), 15);
  assert.deepEqual([load.times, load.series.cpu, load.shards], [[20, 30], [2, 3], [[1, 1], [1, 1]]]);
  append(load, more([40], 1), 0);
  assert.deepEqual([load.times, load.series.cpu, load.shards], [[40], [4], [[1]]]);
  append(load, more([]), 50);
  assert.deepEqual([load.times, load.series.cpu], [[], []]);
});

const { Rates, absent } = await import(join(built, 'view_user.js'));

test('a rate is that between two looks, and a connection that is new has none', () => {
  const rates = new Rates();
  rates.note([{ client_id: 'a', message_count: 100 }], 1_000);
  assert.equal(rates.text('a'), '–');
  rates.note([{ client_id: 'a', message_count: 150 }, { client_id: 'b', message_count: 9 }], 6_000);
  assert.deepEqual([rates.text('a'), rates.text('b'), rates.text('c')], ['10 /s', '–', '–']);
  // Two looks at one time.
  rates.note([{ client_id: 'a', message_count: 150 }], 6_000);
  assert.equal(rates.text('a'), '10 /s');
});

test('of a user without a connection it is told why the last one ended', () => {
  const ending = { ended_at: 10, code: 4003, reason: 'disconnected by an operator' };
  assert.equal(absent({ user: '42', endings: [ending] }, 44_000), '42 is not connected to this gateway. The last connection ended 34 s ago: disconnected by an operator (4003).');
  assert.equal(absent({ user: '42', endings: [] }, 0), '42 is not connected to this gateway.');
});

const { lineText } = await import(join(built, 'trace.js'));

test('a line of a trace tells what happened to whom', () => {
  const line = { n: 1, at: 0, user: 'u1', client_id: 'client_1' };
  const text = (more) => lineText({ ...line, ...more }).split('  ').slice(1);
  assert.deepEqual(text({ what: 'in', bytes: 2, text: '{}' }), ['in', '2 B', '{}', 'client_1']);
  assert.deepEqual(text({ what: 'refused', detail: 'limits.subscriptions is 50' }), ['refused', 'limits.subscriptions is 50', 'client_1']);
  assert.deepEqual(text({ what: 'delivered', channel: 'grid.a', detail: 'filled' }), ['delivered', 'grid.a', 'filled', 'client_1']);
});

const { freshness } = await import(join(built, 'view_fresh.js'));

test('a gateway is fresh for three reports', () => {
  assert.deepEqual([freshness(0, 15_000, 'ok'), freshness(0, 15_001, 'ok'), freshness(0, 0, 'draining')], ['ok', 'bad', 'warn']);
});
