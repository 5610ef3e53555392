// The client's core on virtual time, in seeded random orders: an application that subscribes, gives back, closes and
// commands, also within its listeners, while the network and the gateway fail. A failing run prints its seed; `TICKGATE_SEED` repeats it,
// `TICKGATE_SEEDS` runs more.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Core } from '../dist/core.js';
import { CommandRefused } from '../dist/errors.js';
import { matches } from '../dist/pattern.js';
import { Clock, Gateway, VirtualHost, randomSource } from './world.mjs';

const PATTERNS = ['h.*', 'h.a.*', 'h.b.x', 'v.*', 'v.a.x', 'n.*', 'n.a.x', '*', 'f.a'];
const RATES = [undefined, 0.5, 1, 20];
const CHANNELS = ['h.a.x', 'h.a.y', 'h.b.x', 'v.a.x', 'v.b.x', 'n.a.x'];

export const settings = {
  canAsk: true, token: null, isStored: false, maxPatterns: 50, messagesPerSecond: 90, maxMessageBytes: 65_536,
  cacheChannels: 1000, recordKeys: ['code'], pingInterval: 30_000, pongTimeout: 10_000, connectTimeout: 10_000,
};

/** What one subscriber got, checked as it comes. */
class Watcher {
  #next = new Map();
  #told = new Set();
  isOver = false;

  /** `meddle` is called within listeners, which may use the client. */
  constructor(sub, fail, meddle) {
    this.sub = sub;
    sub.on('event', (event) => {
      this.#event(event, fail);
      meddle();
    });
    sub.on('gap', ({ channels, complete }) => {
      for (const channel of channels) this.#told.add(channel);
      if (!complete) this.#told = new Set(CHANNELS);
      meddle();
    });
    sub.on('end', () => {
      this.isOver = true;
      meddle();
    });
  }

  #event({ channel, data, isSnapshot }, fail) {
    if (this.isOver) fail(`${this.sub.pattern}: an event after the end`);
    if (!matches(this.sub.pattern, channel)) fail(`${this.sub.pattern}: an event of ${channel}`);
    const next = this.#next.get(channel);
    if (channel.startsWith('h.') && !isSnapshot && next !== undefined) {
      if (data < next) fail(`${this.sub.pattern}: event ${data} of ${channel} came twice or too late`);
      if (data > next && !this.#told.has(channel)) fail(`${this.sub.pattern}: events ${next} to ${data - 1} of ${channel} are missing`);
    }
    this.#told.delete(channel);
    this.#next.set(channel, data + 1);
  }

  /** The newest event of a channel, counted. */
  newest(channel) { return (this.#next.get(channel) ?? 0) - 1; }
}

async function run(seed, fault) {
  const random = randomSource(seed);
  const clock = new Clock();
  const gateway = new Gateway(clock, random);
  let users = 0;
  let isCalm = false;
  const host = new VirtualHost(clock, random, gateway, () => {
    const dice = isCalm ? 1 : random();
    return dice < 0.2 ? new Error('away') : dice < 0.22 ? `u${users}-bad` : `u${users}-good`;
  });
  const core = new Core(host, settings);
  host.core = core;
  const failures = [];
  const watchers = new Set();
  const commands = [];
  let wanted = false;
  let opensAllowed = 0;
  const pick = (list) => list[Math.floor(random() * list.length)];
  const watch = (pattern, options) => watchers.add(new Watcher(core.subscribe(pattern, options), (what) => failures.push(what), meddle));
  const leave = (watcher) => {
    watchers.delete(watcher);
    watcher?.sub.unsubscribe();
    return watcher;
  };
  const command = () => {
    const made = { id: commands.length };
    commands.push(made);
    core.calls.command('grid.start', made.id, 5000, { resolve: () => { made.end = 'done'; }, reject: (error) => { made.end = error; } });
  };
  const connect = () => { wanted = true; core.connect(); };
  const close = () => { wanted = false; core.close(false); opensAllowed = host.opened; };
  const uses = [
    () => watchers.size < 30 && watch(pick(PATTERNS), { maxRate: pick(RATES) }),
    () => pick([...watchers])?.sub.setRate(pick(RATES)),
    () => leave(pick([...watchers])),
    // Given back and taken again in one go, as pages do.
    () => { const { sub } = leave(pick([...watchers])) ?? {}; if (sub) watch(sub.pattern); },
    command,
  ];
  const meddle = () => {
    if (!isCalm && random() < 0.03) pick([...uses, () => { close(); if (random() < 0.8) connect(); }])();
  };
  const actions = [
    ...uses,
    () => gateway.publish(pick(CHANNELS)), () => gateway.publish(pick(CHANNELS)), () => gateway.publish(pick(CHANNELS)),
    () => { for (let n = 0; n < 30; n++) gateway.publish('h.a.x'); },
    () => { if (random() < 0.5) connect(); },
    () => { if (random() < 0.15) close(); },
    () => { if (random() < 0.5) host.socket?.fail(random() < 0.3); },
    () => { if (random() < 0.1) gateway.restart(); },
    () => { if (random() < 0.2) pick([...gateway.sessions])?.close(pick([1012, 1011, 4008, 4009, 4001, 4029]), 'a close'); },
    () => { if (random() < 0.3) host.isOnline = !host.isOnline; if (host.isOnline) core.resumed(); else core.probe(); },
    () => { if (random() < 0.1) { users += 1; core.setToken(null); } },
    () => { if (random() < 0.1) core.setToken(`u${users}-good`); },
  ];
  const check = () => {
    if (!wanted && host.opened > opensAllowed) failures.push('a connection was opened after close');
    if (wanted) opensAllowed = host.opened;
  };
  for (let step = 0; step < 300; step++) {
    pick(actions)();
    await clock.runTo(clock.now + random() ** 4 * 20_000);
    check();
  }
  // Everything calms down. Then the client is live, the gateway has what is wanted, and each newest event has arrived.
  host.isOnline = host.isPunctual = isCalm = wanted = true;
  if (core.state === 'closed' && host.changes.at(-1).final) core.setToken(`u${users}-good`);
  core.connect();
  await clock.runTo(clock.now + 300_000);
  if (core.state !== 'live') failures.push(`the client ends ${core.state}: ${JSON.stringify(host.changes.slice(-3))}`);
  gateway.fault = fault;
  for (let round = 0; round < 2; round++) {
    for (const channel of CHANNELS) gateway.publish(channel);
    await clock.runTo(clock.now + 5_000);
  }
  const [session] = gateway.sessions;
  const held = [...new Set([...watchers].filter(({ isOver }) => !isOver).map(({ sub }) => sub.pattern))].sort();
  if (gateway.sessions.size !== 1) failures.push(`${gateway.sessions.size} connections`);
  else if (JSON.stringify([...session.patterns].sort()) !== JSON.stringify(held)) failures.push(`the gateway has ${[...session.patterns]}, not ${held}`);
  for (const pattern of held) {
    const wishes = [...watchers].filter(({ sub }) => sub.pattern === pattern).map(({ sub }) => sub.maxRate ?? Infinity);
    const [rate, wanted] = [session?.rates.get(pattern) ?? Infinity, Math.max(...wishes)];
    if (rate !== wanted) failures.push(`${pattern} has the rate ${rate}, not ${wanted}`);
  }
  for (const watcher of watchers) {
    if (watcher.isOver !== watcher.sub.pattern.startsWith('f.')) failures.push(`${watcher.sub.pattern} has ended: ${watcher.isOver}`);
    if (watcher.isOver) continue;
    for (const channel of CHANNELS.filter((name) => matches(watcher.sub.pattern, name))) {
      const newest = gateway.channel(channel).count - 1;
      if (watcher.newest(channel) !== newest) failures.push(`${watcher.sub.pattern} has event ${watcher.newest(channel)} of ${channel}, not ${newest}`);
      if (watcher.sub.last(channel)?.data !== newest) failures.push(`the last value of ${channel} is old`);
    }
  }
  for (const { id, end } of commands) {
    const times = gateway.executed.get(id) ?? 0;
    if (times > 1) failures.push(`command ${id} was carried out ${times} times`);
    if (end === undefined) failures.push(`command ${id} has no end`);
    if (end === 'done' && times !== 1) failures.push(`command ${id} was answered but not carried out`);
    if (end instanceof CommandRefused && times > 0) failures.push(`command ${id} was refused but carried out`);
  }
  failures.push(...gateway.complaints);
  return { failures, host };
}

test('the core keeps its promises in random orders of faults', async () => {
  const given = process.env.TICKGATE_SEED;
  const seeds = given ? [Number(given)] : Array.from({ length: Number(process.env.TICKGATE_SEEDS ?? 300) }, (_, n) => n);
  for (const seed of seeds) {
    const { failures } = await run(seed);
    assert.deepEqual(failures.slice(0, 5), [], `TICKGATE_SEED=${seed}`);
  }
});

test('an event that is lost silently, and one that comes twice, are found', async () => {
  for (const fault of ['skip', 'repeat']) {
    let found = 0;
    for (let seed = 0; seed < 20; seed++) found += (await run(seed, fault)).failures.length > 0;
    assert.ok(found > 0, fault);
  }
});
