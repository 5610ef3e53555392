// The client's core on virtual time, rule by rule: the connection, its tokens, and what is sent over it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { adviceOf, backOff } from '../dist/advice.js';
import { CommandRefused, OutcomeUnknown, RequestRefused, TokenRefused } from '../dist/errors.js';
import { Heartbeat } from '../dist/heartbeat.js';
import { position, rig } from './rig.mjs';

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

test('a socket that cannot be made is tried again, and not if the client was closed meanwhile', () => {
  const self = rig();
  self.core.connect();
  self.core.ended(1006, 'SecurityError');
  assert.equal(self.core.state, 'waiting');
  self.pass(1000);
  assert.equal(self.opens, 2);
  self.core.close(false);
  // The host tells of the failure a little later than it happened.
  self.core.ended(1006, 'SecurityError');
  self.pass(1e6);
  assert.deepEqual([self.core.state, self.opens], ['closed', 2]);
});

test('the round trip and the age of events are known from the first answer on, whatever the clocks say', () => {
  const self = rig();
  self.core.subscribe('a.*');
  self.core.connect();
  self.core.opened();
  self.pass(80);
  // The gateway's clock is an hour ahead, and its answer was 40 ms on its way.
  const ahead = 3_600_000 + 1e12;
  self.gets({ type: 'auth_result', id: self.last('auth').id, success: true, timestamp: self.now - 40 + ahead, data: { user: 'u1' } });
  self.confirm();
  self.gets({ type: 'event', channel: 'a.x', event: 'e', data: 1, timestamp: self.now - 7 + ahead });
  assert.deepEqual([self.core.stats.roundTripMs, self.core.stats.lagMs], [80, 7]);
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
    call.abort = self.core.calls.command('a.b', 1, timeout, { resolve: (message) => { call.end = message.data; }, reject: (error) => { call.end = error; } });
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
  const commands = Array.from({ length: 3 }, () => call((answerer) => self.core.calls.command('a.b', 1, 30_000, answerer, 'k')));
  const status = call((answerer) => self.core.calls.commandStatus('k', 30_000, answerer));
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
  for (let n = 0; n < 500; n++) self.core.calls.publish('a', 'e', n, 60_000, { resolve() {}, reject() {} });
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
