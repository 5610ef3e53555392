// The client's core on virtual time, rule by rule: the test is the gateway and says what comes when.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { adviceOf, backOff } from '../dist/advice.js';
import { Core } from '../dist/core.js';
import { intersects, matches } from '../dist/pattern.js';
import { CommandRefused, OutcomeUnknown, RequestRefused, TokenRefused } from '../dist/errors.js';
import { Heartbeat } from '../dist/heartbeat.js';
import { EventBuffer } from '../dist/iterate.js';

const defaults = {
  canAsk: false, token: 't', isStored: false, maxPatterns: 50, messagesPerSecond: 90, maxMessageBytes: 65_536,
  cacheChannels: 1000, recordKeys: ['code'], pingInterval: 30_000, pongTimeout: 10_000, connectTimeout: 10_000,
};

/** A core with a host that notes what it is asked for. */
function rig(settings = {}, { random = 0.5 } = {}) {
  const self = { now: 0, opens: 0, shuts: 0, sent: [], asked: 0, changes: [], errors: [], wakeAt: Infinity, loads: [], dirty: 0 };
  const host = {
    now: () => self.now, wallNow: () => self.now + 1e12, random: () => random,
    wake: (at) => { self.wakeAt = at; }, soon: () => { self.isSoon = true; },
    open: () => { self.opens += 1; }, shut: () => { self.shuts += 1; }, send: (text) => self.sent.push(JSON.parse(text)),
    askToken: () => { self.asked += 1; }, load: (user) => self.loads.push(user), dirty: () => { self.dirty += 1; },
    parse: JSON.parse, stringify: JSON.stringify, changed: (change) => self.changes.push(change), report: (error) => self.errors.push(error),
  };
  const core = new Core(host, { ...defaults, ...settings });
  Object.assign(self, {
    core,
    soon() { while (self.isSoon) { self.isSoon = false; core.turn(); } },
    /** Lets time pass; timers fire in time, or `late` milliseconds late. */
    pass(ms, late = 0) {
      const end = self.now + ms;
      while (self.wakeAt + late <= end) {
        self.now = Math.max(self.now, self.wakeAt + late);
        self.wakeAt = Infinity;
        core.woke();
        self.soon();
      }
      self.now = Math.max(self.now, end);
    },
    gets: (message) => { core.received(JSON.stringify({ timestamp: self.now, ...message })); self.soon(); },
    last: (type) => self.sent.findLast((message) => message.type === type),
    count: (type) => self.sent.filter((message) => message.type === type).length,
    /** Opens, authenticates, and answers the subscription if there is one. */
    live(data = {}, user = 'u1', cursor = 'c1') {
      self.login(user);
      self.confirm(data, cursor);
    },
    login(user = 'u1') {
      core.opened();
      if (self.last('auth')) self.gets({ type: 'auth_result', id: self.last('auth').id, success: true, data: { user, expires_at: self.now + 3_600_000 } });
      self.soon();
    },
    confirm(data = {}, cursor = 'c1') {
      const request = self.last('subscribe');
      if (request && !request.isAnswered) {
        request.isAnswered = true;
        self.gets({ type: 'subscribed', id: request.id, cursor, data });
      }
    },
    settled: async (promise) => Promise.race([promise.then((value) => ({ value }), (error) => ({ error })), new Promise((resolve) => setImmediate(resolve, undefined))]),
  });
  return self;
}

const position = (offset, epoch = 'e1') => ({ epoch, offset });

test('each close code has the advice of the table', () => {
  for (const [advice, codes] of Object.entries({
    never: [1002, 1003, 1007, 1008, 1009, 4003, 4005], token: [4001, 4002, 4004, 4006], slowly: [4029],
    retry: [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1015, 4008, 4009, 4999],
  })) for (const code of codes) assert.equal(adviceOf(code), advice, code);
});

test('the back-off has full jitter: up to 1 s, doubled up to 30 s', () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 100].map((failures) => backOff(failures, 1)), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.equal(backOff(7, 0), 0);
  const { core, changes, pass, ended = core.ended.bind(core), ...self } = rig({}, { random: 0.999 });
  core.connect();
  const waits = [];
  for (let n = 0; n < 7; n++) {
    const before = self.now;
    ended(1006, '');
    waits.push(Math.round((changes.at(-1).retryAt - 1e12 - before) / 1000));
    pass(30_000);
  }
  assert.deepEqual(waits.map((wait, n) => (n === 0 ? wait : wait > waits[n - 1] || wait === 30)), [1, true, true, true, true, true, true]);
});

test('a drain: back after reconnect_after_ms, not earlier, also when the network returns', () => {
  const self = rig();
  self.core.connect();
  self.live();
  self.gets({ type: 'going_away', data: { reason: 'restart', close_in_ms: 1, reconnect_after_ms: 2500 } });
  self.core.ended(1012, 'restart');
  assert.equal(self.changes.at(-1).retryAt - 1e12, self.now + 2500);
  self.core.resumed();
  self.core.connect();
  self.pass(2400);
  assert.equal(self.opens, 1);
  self.pass(100);
  assert.equal(self.opens, 2);
});

test('after 4029 ten seconds or more; after an ordinary loss at once when the network returns', () => {
  const self = rig();
  self.core.connect();
  self.live();
  self.core.ended(4029, 'too fast');
  self.core.resumed();
  self.pass(10_000);
  assert.equal(self.opens, 1);
  self.pass(3000);
  assert.equal(self.opens, 2);
  self.live();
  self.core.ended(1006, '');
  self.core.resumed();
  assert.equal(self.opens, 3);
});

test('final codes close the client; what is subscribed waits for the next connect', async () => {
  const self = rig();
  const sub = self.core.subscribe('a.*');
  self.core.connect();
  self.core.opened();
  self.core.ended(4003, 'by an operator');
  assert.deepEqual([self.core.state, self.changes.at(-1).final, self.changes.at(-1).reason], ['closed', true, 'by an operator']);
  assert.equal((await self.settled(self.core.subscribe('b').ready)), undefined);
  self.pass(1e6);
  assert.equal(self.opens, 1);
  self.core.connect();
  self.live();
  assert.deepEqual(self.last('subscribe').channels, ['a.*', 'b']);
  assert.ok('value' in await self.settled(sub.ready));
});

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

test('a half-open connection: a ping, stalled, then replaced; an answer in time makes it live again', () => {
  const self = rig();
  self.core.connect();
  self.live();
  self.pass(30_000);
  assert.equal(self.count('ping'), 1);
  self.pass(5000);
  assert.equal(self.core.state, 'stalled');
  self.gets({ type: 'pong', id: self.last('ping').id, timestamp: 1e12 + self.now + 700 });
  assert.deepEqual([self.core.state, self.core.stats.roundTripMs], ['live', 5000]);
  self.pass(30_000);
  assert.equal(self.core.state, 'stalled');
  self.pass(5000);
  assert.deepEqual([self.core.state, self.changes.at(-1).reason], ['waiting', 'the gateway does not answer']);
});

test('throttled timers raise no alarm while the gateway answers, and a dead connection is found nevertheless', () => {
  const self = rig();
  self.core.connect();
  self.live();
  for (let n = 0; n < 20; n++) {
    self.pass(120_000, 59_000);
    // The answer waited behind the late timer.
    if (self.last('ping')) self.gets({ type: 'pong', id: self.last('ping').id, timestamp: 1e12 + self.now });
    assert.equal(self.core.state, 'live');
  }
  assert.ok(!self.changes.some(({ state }) => state === 'stalled' || state === 'waiting'));
  self.pass(400_000, 59_000);
  assert.ok(self.changes.some(({ reason }) => reason === 'the gateway does not answer'));
  const heartbeat = new Heartbeat(30_000, 10_000);
  heartbeat.start(0);
  assert.deepEqual([heartbeat.look(29_999, 29_999), heartbeat.look(30_000, 30_000), heartbeat.look(35_000, 35_000), heartbeat.look(40_000, 40_000)], [undefined, 'ping', 'stalled', 'dead']);
});

test('a command is sent once or not at all, and its end says which', async () => {
  const self = rig();
  const command = (timeout = 30_000) => {
    const call = {};
    call.abort = self.core.command('a.b', 1, timeout, { resolve: (message) => { call.end = message.data; }, reject: (error) => { call.end = error; } });
    return call;
  };
  const is = ({ end }, Class, code) => assert.ok(end instanceof Class && end.code === code, `${end}`);
  is(command(), CommandRefused, 'NOT_CONNECTED');
  self.core.connect();
  is(command(), CommandRefused, 'NOT_CONNECTED');
  self.live();
  const [good, refused, late, broken, aborted, lost] = Array.from({ length: 6 }, (_, n) => command(n === 2 ? 100 : 30_000));
  const ids = self.sent.filter(({ type }) => type === 'command').map(({ id }) => id);
  self.gets({ type: 'response', id: ids[0], success: true, data: 7 });
  self.gets({ type: 'response', id: ids[1], success: false, error: { code: 'FORBIDDEN', message: 'no' } });
  self.gets({ type: 'response', id: ids[3], success: false, error: { code: 'BACKEND_UNAVAILABLE', message: 'broken' } });
  self.pass(100);
  aborted.abort();
  assert.equal(good.end, 7);
  is(refused, CommandRefused, 'FORBIDDEN');
  is(late, OutcomeUnknown, 'TIMEOUT');
  is(broken, OutcomeUnknown, 'BACKEND_UNAVAILABLE');
  is(aborted, OutcomeUnknown, 'ABORTED');
  // What waits for the send limit when the connection ends was not sent.
  const many = Array.from({ length: 100 }, () => command());
  self.core.ended(1006, '');
  is(lost, OutcomeUnknown, 'NOT_CONNECTED');
  is(many[0], OutcomeUnknown, 'NOT_CONNECTED');
  is(many[99], CommandRefused, 'NOT_CONNECTED');
  const sent = self.count('command');
  self.pass(1000);
  self.live();
  self.pass(10_000);
  assert.equal(self.count('command'), sent, 'nothing is sent later');
});

test('a command with a key may be sent again, and only UNKNOWN leaves its outcome open', () => {
  const self = rig();
  self.core.connect();
  self.live();
  const call = (send) => {
    const call = {};
    send({ resolve: (message) => { call.end = message.data; }, reject: (error) => { call.end = error; } });
    return call;
  };
  const commands = Array.from({ length: 3 }, () => call((answerer) => self.core.command('a.b', 1, 30_000, answerer, 'k')));
  const status = call((answerer) => self.core.commandStatus('k', 30_000, answerer));
  const sent = self.sent.filter(({ type }) => type.startsWith('command'));
  assert.deepEqual(sent.map(({ type, key }) => [type, key]), [['command', 'k'], ['command', 'k'], ['command', 'k'], ['command_status', 'k']]);
  self.gets({ type: 'response', id: sent[0].id, success: false, error: { code: 'UNKNOWN', message: 'nobody knows' } });
  self.gets({ type: 'response', id: sent[1].id, success: false, error: { code: 'BACKEND_UNAVAILABLE', message: 'not reached' } });
  self.gets({ type: 'response', id: sent[3].id, success: false, error: { code: 'UNKNOWN_KEY', message: 'forgotten' } });
  self.core.ended(1006, '');
  const is = ({ end }, Class, code) => assert.ok(end instanceof Class && end.code === code, `${end}`);
  is(commands[0], OutcomeUnknown, 'UNKNOWN');
  is(commands[1], CommandRefused, 'BACKEND_UNAVAILABLE');
  is(commands[2], OutcomeUnknown, 'NOT_CONNECTED');
  is(status, RequestRefused, 'UNKNOWN_KEY');
});

test('the send limit is kept, over any second', () => {
  const self = rig();
  self.core.connect();
  self.live();
  const times = [];
  const before = self.sent.length;
  for (let n = 0; n < 500; n++) self.core.publish('a', 'e', n, 60_000, { resolve() {}, reject() {} });
  while (self.sent.length - before < 500) {
    self.pass(1);
    while (times.length < self.sent.length - before) times.push(self.now);
  }
  for (const [n, time] of times.entries()) if (n >= 100) assert.ok(time - times[n - 100] >= 100, 'the gateway permits bursts of 100 and 100 a second');
  assert.ok(times.at(-1) < 6000);
});

test('tokens: asked for before the first connection and in time before their end; one question at a time', () => {
  const self = rig({ canAsk: true, token: null });
  self.core.connect();
  assert.deepEqual([self.asked, self.opens, self.core.state], [1, 0, 'connecting']);
  self.core.gotToken('one');
  self.core.opened();
  self.gets({ type: 'auth_result', id: self.last('auth').id, success: true, data: { user: 'u1', expires_at: self.now + 600_000 } });
  const keepAlive = (ms) => { for (let left = ms; left > 0; left -= 4000) { self.pass(Math.min(left, 4000)); self.gets({ type: 'ping' }); } };
  keepAlive(539_000);
  assert.equal(self.asked, 1);
  keepAlive(1001);
  assert.equal(self.asked, 2, 'a minute before the end');
  self.gets({ type: 'auth_expiring', data: {} });
  assert.equal(self.asked, 2);
  self.core.tokenFailed(new Error('away'));
  assert.equal(self.core.state, 'live');
  keepAlive(2000);
  assert.equal(self.asked, 3, 'again, with back-off');
  self.core.gotToken('two');
  assert.equal(self.last('auth').token, 'two');
  // A refusal of the new token leaves the old one in force.
  self.gets({ type: 'auth_result', id: self.last('auth').id, success: false, error: { code: 'TOKEN_INVALID', message: 'bad' } });
  assert.equal(self.core.state, 'live');
  self.core.ended(4001, 'expired');
  self.core.resumed();
  const before = self.opens;
  self.core.tokenFailed(new TokenRefused('logged out'));
  assert.deepEqual([self.core.state, self.changes.at(-1).reason, self.changes.at(-1).final, self.opens], ['closed', 'logged out', true, before]);
});

test('setToken: an answer to an older question does not count; another user gets a connection of its own', () => {
  const self = rig({ canAsk: true, token: null });
  self.core.connect();
  self.core.setToken(null);
  self.core.gotToken('of the user who logged out');
  assert.deepEqual([self.opens, self.asked], [0, 2]);
  self.core.gotToken('one');
  self.live({}, 'u1');
  self.core.subscribe('a.*');
  self.soon();
  self.confirm({ positions: { 'a.x': position(4) } });
  self.core.setToken('of another user');
  self.gets({ type: 'auth_result', id: self.last('auth').id, success: false, error: { code: 'AUTH_SUBJECT_MISMATCH', message: 'other' } });
  assert.deepEqual([self.opens, self.core.saved()], [2, { cursors: {}, offsets: {} }]);
  self.live({}, 'u2');
  assert.deepEqual([self.last('subscribe').cursor, self.core.user], [undefined, 'u2']);
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
