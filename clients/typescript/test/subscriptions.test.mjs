// The client's core on virtual time, rule by rule: subscriptions, what comes back after a break, and what subscribers get.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventBuffer } from '../dist/iterate.js';
import { intersects, matches } from '../dist/pattern.js';
import { position, rig } from './rig.mjs';

test('what is asked for in one task is one request, and identical patterns are counted', () => {
  const self = rig();
  self.core.connect();
  self.live();
  const subs = Array.from({ length: 120 }, (_, n) => self.core.subscribe(`a.${n % 40}`));
  self.soon();
  assert.equal(self.count('subscribe'), 1);
  assert.equal(self.last('subscribe').channels.length, 40);
  self.confirm();
  for (const sub of subs.slice(0, 80)) sub.unsubscribe();
  self.soon();
  assert.equal(self.count('unsubscribe'), 0, 'each pattern has a subscriber left');
  for (const sub of subs) sub.unsubscribe();
  self.soon();
  assert.deepEqual([self.count('unsubscribe'), self.last('unsubscribe').channels.length], [1, 40]);
});

test('given back and taken again in one task sends nothing; while the request is under way, it follows', () => {
  const self = rig();
  self.core.connect();
  self.live();
  const first = self.core.subscribe('a.*');
  self.soon();
  first.unsubscribe();
  self.soon();
  assert.equal(self.count('unsubscribe'), 0, 'not confirmed yet');
  self.confirm();
  assert.equal(self.count('unsubscribe'), 1);
  const second = self.core.subscribe('a.*');
  self.soon();
  assert.equal(self.count('subscribe'), 1, 'the gateway may hold it still');
  self.gets({ type: 'unsubscribed', id: self.last('unsubscribe').id, data: { channels: ['a.*'] } });
  assert.equal(self.count('subscribe'), 2);
  self.confirm();
  second.unsubscribe();
  self.core.subscribe('a.*');
  self.soon();
  assert.equal(self.count('unsubscribe'), 1);
});

test('unsubscribe during connect and subscribe during close', () => {
  const self = rig();
  self.core.connect();
  const gone = self.core.subscribe('gone');
  gone.unsubscribe();
  self.core.subscribe('kept');
  self.live();
  assert.deepEqual(self.last('subscribe').channels, ['kept']);
  self.core.close(false);
  self.core.subscribe('new');
  self.soon();
  self.pass(1e6);
  assert.deepEqual([self.opens, self.core.state], [1, 'closed']);
  self.core.connect();
  self.live();
  self.confirm();
  assert.deepEqual(self.sent.filter(({ type }) => type === 'subscribe').slice(1).map(({ channels, cursor }) => [channels, cursor]), [[['kept'], 'c1'], [['new'], undefined]]);
});

test('patterns intersect if some channel matches both', () => {
  const all = (letters, length) => (length === 0 ? [[]] : all(letters, length - 1).flatMap((head) => letters.map((letter) => [...head, letter])));
  const texts = (letters, most) => Array.from({ length: most }, (_, n) => all(letters, n + 1)).flat().map((segments) => segments.join('.'));
  const channels = texts(['a', 'b'], 4);
  const patterns = texts(['a', 'b', '*'], 3);
  for (const one of patterns) {
    for (const other of patterns) {
      const expected = channels.some((channel) => matches(one, channel) && matches(other, channel));
      assert.equal(intersects(one, other), expected, `${one} ${other}`);
    }
  }
});

/** The patterns and the cursor of each `subscribe`. */
const asked = (self) => self.sent.filter(({ type }) => type === 'subscribe').map(({ channels, cursor }) => [channels, cursor]);

const event = (channel, offset) => ({ type: 'event', channel, event: 'e', offset, data: offset });

test('a reconnect recovers what was held, with the newest cursor; what is new comes without', () => {
  const self = rig();
  const sub = self.core.subscribe('a.*');
  const [events, gaps] = [[], []];
  sub.on('event', ({ data }) => events.push(data));
  sub.on('gap', (gap) => gaps.push(gap));
  self.core.connect();
  self.live({ positions: { 'a.x': position(4), 'a.y': position(5) } });
  self.gets({ type: 'ping', cursor: 'c2' });
  self.gets(event('a.x', 7));
  self.core.ended(1006, '');
  self.core.subscribe('b.*');
  self.pass(1000);
  self.live({ recovered: { 'a.y': false } });
  assert.deepEqual(asked(self).slice(1), [[['a.*'], 'c2'], [['b.*'], undefined]]);
  assert.deepEqual(gaps, [{ reason: 'unrecovered', channels: ['a.y'], complete: true }]);
  // What came behind the message with the cursor comes again.
  for (const offset of [6, 7, 8]) self.gets(event('a.x', offset));
  self.core.ended(1006, '');
  self.pass(1000);
  self.live({ recovered: { 'a.x': false, 'a.y': false }, positions_complete: false });
  assert.deepEqual(gaps[1], { reason: 'epoch', channels: ['a.x', 'a.y'], complete: false });
  self.gets(event('a.x', 1));
  assert.deepEqual(events, [7, 8, 1], 'offsets begin anew');
});

test('a pattern comes back with the cursor of the time when it was held', () => {
  const self = rig();
  const subs = ['a.*', 'a.b.*'].map((pattern) => self.core.subscribe(pattern));
  const events = subs.map((sub) => {
    const got = [];
    sub.on('event', ({ data }) => got.push(data));
    return got;
  });
  self.core.connect();
  self.live();
  self.core.ended(1006, '');
  self.pass(1000);
  self.login();
  // The request is refused as a whole, so the patterns come back alone.
  self.gets({ type: 'error', id: self.last('subscribe').id, error: { code: 'FORBIDDEN', message: 'no' } });
  self.soon();
  self.gets({ type: 'subscribed', id: self.last('subscribe').id, cursor: 'c2', data: { recovered: true } });
  // The first one covers this channel, so the gateway sends it once.
  self.gets(event('a.b.x', 9));
  self.core.ended(1006, '');
  self.pass(1000);
  self.live({ recovered: true });
  self.confirm({ recovered: true });
  assert.deepEqual(asked(self), [
    [['a.*', 'a.b.*'], undefined], [['a.*', 'a.b.*'], 'c1'], [['a.*'], 'c1'], [['a.b.*'], 'c1'], [['a.*'], 'c2'], [['a.b.*'], 'c1'],
  ]);
  assert.deepEqual(events, [[9], [9]]);
});

test('a cursor that comes before the answer to a request does not count', () => {
  const self = rig();
  self.core.subscribe('a.*');
  const other = self.core.subscribe('b.*');
  self.core.connect();
  self.live();
  const cursors = () => self.core.saved().cursors;
  other.unsubscribe();
  self.soon();
  self.gets({ type: 'ping', cursor: 'c2' });
  assert.deepEqual(cursors(), { 'a.*': 'c1' });
  self.gets({ type: 'unsubscribed', id: self.last('unsubscribe').id, data: { channels: ['b.*'] } });
  self.core.subscribe('a.b.*');
  self.soon();
  self.gets({ type: 'ping', cursor: 'c3' });
  assert.deepEqual(cursors(), { 'a.*': 'c1' });
  self.confirm({}, 'c4');
  self.gets({ type: 'ping', cursor: 'c5' });
  assert.deepEqual(cursors(), { 'a.*': 'c5', 'a.b.*': 'c5' });
});

test('what was subscribed without a cursor since begins anew, and says so', () => {
  const self = rig();
  const sub = self.core.subscribe('a.*');
  const gaps = [];
  sub.on('gap', (gap) => gaps.push(gap));
  self.core.connect();
  self.live({}, 'u1', null);
  self.core.ended(1006, '');
  self.pass(1000);
  self.live();
  assert.deepEqual([asked(self)[1], gaps], [[['a.*'], undefined], [{ reason: 'unrecovered', channels: [], complete: false }]]);
});

test('cursors of patterns that were given back are forgotten, so that no later recovery claims them', () => {
  const self = rig();
  const [wide, narrow] = [self.core.subscribe('a.*'), self.core.subscribe('a.x')];
  self.core.connect();
  self.live({ positions: { 'a.x': position(4), 'a.y': position(9) } });
  wide.unsubscribe();
  self.soon();
  assert.deepEqual(self.core.saved(), { cursors: { 'a.x': 'c1' }, offsets: { 'a.x': 4 } });
  narrow.unsubscribe();
  assert.deepEqual(self.core.saved(), { cursors: {}, offsets: {} });
});

test('saved positions are read once the user is known, and before the first subscription', () => {
  const self = rig({ isStored: true });
  self.core.subscribe('a.*');
  self.core.connect();
  self.core.opened();
  self.gets({ type: 'auth_result', id: self.last('auth').id, success: true, data: { user: 'u1' } });
  assert.deepEqual([self.loads, self.count('subscribe'), self.core.state], [['u1'], 0, 'connecting']);
  self.core.restored('u1', { cursors: { 'a.*': 'c7', 'a.b.*': 'c7', 'z.*': 'c7' }, offsets: { 'a.x': 4, 'z.x': 5 } });
  self.soon();
  assert.deepEqual([self.last('subscribe').channels, self.last('subscribe').cursor], [['a.*'], 'c7']);
  self.confirm({ recovered: true });
  // Patterns that come back later keep their cursors and offsets, and nothing is taken for known before.
  assert.deepEqual(self.core.saved(), { cursors: { 'a.*': 'c1', 'a.b.*': 'c7', 'z.*': 'c7' }, offsets: { 'z.x': 5, 'a.x': 4 } });
  const late = self.core.subscribe('a.b.*');
  const gaps = [];
  late.on('gap', (gap) => gaps.push(gap));
  self.soon();
  self.confirm({ recovered: true });
  assert.deepEqual(gaps, [{ reason: 'unrecovered', channels: [], complete: false }], 'what it missed has come to another subscriber');
});

test('positions are saved after listeners have returned, also if one throws', () => {
  const self = rig();
  const sub = self.core.subscribe('a.*');
  let during;
  sub.on('event', () => { during = self.core.saved().offsets['a.x']; throw new Error('a bug of the application'); });
  self.core.connect();
  self.live({ positions: { 'a.x': position(4) } });
  self.gets({ type: 'event', channel: 'a.x', event: 'e', offset: 5, data: 1 });
  assert.deepEqual([during, self.core.saved().offsets['a.x'], self.errors.map(String)], [4, 5, ['Error: a bug of the application']]);
});

test('a cache that had to make room tells late subscribers', () => {
  const self = rig({ cacheChannels: 2 });
  self.core.subscribe('a.*');
  self.core.connect();
  self.live();
  for (let n = 0; n < 3; n++) self.gets({ type: 'event', channel: `a.${n}`, event: 'e', data: n });
  const [events, gaps] = [[], []];
  const late = self.core.subscribe('a.*');
  late.on('event', ({ data, isSnapshot }) => events.push([data, isSnapshot]));
  late.on('gap', (gap) => gaps.push(gap));
  self.soon();
  assert.deepEqual([events, gaps], [[[1, true], [2, true]], [{ reason: 'dropped', channels: ['a.*'], complete: false }]]);
});

test('a listener may subscribe to its own pattern; everybody gets the snapshots once', () => {
  const self = rig();
  self.core.subscribe('a.*');
  self.core.connect();
  self.live();
  self.gets({ type: 'event', channel: 'a.x', event: 'e', data: 1 });
  const [first, second] = [[], []];
  const narrow = self.core.subscribe('a.x');
  narrow.on('event', ({ data }) => {
    first.push(data);
    if (first.length === 1) self.core.subscribe('a.x').on('event', ({ data: its }) => second.push(its));
  });
  self.soon();
  self.confirm();
  assert.deepEqual([first, second], [[1], [1]]);
  self.gets({ type: 'event', channel: 'a.x', event: 'e', data: 2 });
  assert.deepEqual([first, second], [[1, 2], [1, 2]]);
});

test('more than 32 dropped channels, and a listener that comes too late, are told as incomplete gaps', () => {
  const self = rig();
  const sub = self.core.subscribe('a.*');
  self.core.connect();
  self.live();
  for (let n = 0; n < 1100; n++) self.gets({ type: 'event', channel: 'a.x', event: 'e', data: n });
  const [events, gaps] = [[], []];
  sub.on('gap', (gap) => gaps.push(gap));
  sub.on('event', ({ data }) => events.push(data));
  self.soon();
  assert.deepEqual([events.length, events.at(-1), gaps], [1000, 1099, [{ reason: 'dropped', channels: [], complete: false }]]);
  self.gets({ type: 'dropped', data: { count: 100, channels: Array.from({ length: 32 }, (_, n) => `b.${n}`) } });
  assert.deepEqual(gaps[1], { reason: 'dropped', channels: [], complete: false });
});

test('a loop with the overflow `error` fails after what it held is gone, and a signal ends a loop', async () => {
  const dropped = [];
  const buffer = new EventBuffer({ buffer: 1, overflow: 'error' }, { dropped: (channels) => dropped.push(channels), done() {} });
  buffer.push({ channel: 'a', data: 1 });
  buffer.push({ channel: 'a', data: 2 });
  await assert.rejects(buffer.next(), { code: 'BUFFER_FULL' });
  assert.deepEqual(await buffer.next(), { done: true, value: undefined });
  const controller = new AbortController();
  const other = new EventBuffer({ signal: controller.signal }, { dropped() {}, done() {} });
  const waiting = other.next();
  controller.abort();
  assert.deepEqual(await waiting, { done: true, value: undefined });
});

test('one pattern is asked for with the highest rate of its subscribers, and again when that changes', async () => {
  const self = rig();
  const slow = self.core.subscribe('a.*', { maxRate: 1 });
  const fast = self.core.subscribe('a.*', { maxRate: 5 });
  const other = self.core.subscribe('b.*', { maxRate: 5 });
  const all = self.core.subscribe('c.*');
  self.core.connect();
  self.live();
  self.confirm();
  const asked = () => self.sent.filter(({ type }) => type === 'subscribe').map(({ channels, max_rate: rate }) => [channels, rate]);
  // Patterns of one rate share a request.
  assert.deepEqual(asked(), [[['a.*', 'b.*'], 5], [['c.*'], undefined]]);
  await Promise.all([slow, fast, other, all].map(({ ready }) => ready));
  // What is asked for from now on.
  const news = () => {
    const before = self.sent.length;
    return () => {
      self.soon();
      self.confirm();
      return self.sent.slice(before).filter(({ type }) => type === 'subscribe').map(({ channels, max_rate: rate, recover }) => [channels, rate, recover]);
    };
  };
  let since = news();
  fast.unsubscribe();
  assert.deepEqual(since(), [[['a.*'], 1, undefined]]);
  since = news();
  slow.setRate(0.5);
  other.setRate(5);
  assert.deepEqual(since(), [[['a.*'], 0.5, undefined]]);
  since = news();
  const late = self.core.subscribe('a.*');
  assert.deepEqual(since(), [[['a.*'], undefined, undefined]]);
  since = news();
  late.setRate(0.2);
  assert.deepEqual(since(), [[['a.*'], 0.5, undefined]], 'the other one is faster');
  // Events go on while a rate changes.
  const seen = [];
  slow.on('event', ({ data }) => seen.push(data));
  slow.setRate(2);
  self.soon();
  self.gets({ type: 'event', channel: 'a.x', event: 'e', data: 1 });
  assert.deepEqual(seen, [1]);
  // After a break, the present rates are asked for.
  self.confirm();
  self.core.ended(1006, '');
  self.pass(2000);
  since = news();
  self.live();
  self.confirm();
  assert.deepEqual(since().map(([channels, rate]) => [channels, rate]), [[['a.*'], 2], [['b.*'], 5], [['c.*'], undefined]]);
});

test('a rate that is refused leaves the old one, and one that is put off is asked for again', async () => {
  const self = rig();
  const sub = self.core.subscribe('a.*', { maxRate: 5 });
  self.core.connect();
  self.live();
  await sub.ready;
  const answer = (code, data) => {
    const { id, max_rate: rate } = self.last('subscribe');
    self.gets({ type: 'error', id, error: { code, message: code }, data });
    return rate;
  };
  sub.setRate(1);
  self.soon();
  assert.equal(answer('OVERLOADED', { retry_after_ms: 500 }), 1);
  assert.equal(self.count('subscribe'), 2);
  self.pass(500);
  assert.deepEqual([self.count('subscribe'), self.last('subscribe').max_rate], [3, 1]);
  assert.equal(answer('INVALID_MESSAGE'), 1);
  assert.deepEqual([self.errors.map(({ code }) => code), sub.maxRate, self.count('subscribe')], [['INVALID_MESSAGE'], 5, 3]);
  for (const rate of [0, -1, NaN, 0.05]) assert.throws(() => sub.setRate(rate), { code: 'INVALID_MESSAGE' });
  await assert.rejects(self.core.subscribe('a.*', { maxRate: 0 }).ready, { code: 'INVALID_MESSAGE' });
});
