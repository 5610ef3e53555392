// The client's core with a host that does nothing by itself: the test is the gateway, the clock and the network.
import { Core } from '../dist/core.js';

const defaults = {
  canAsk: false, token: 't', isStored: false, maxPatterns: 50, messagesPerSecond: 90, maxMessageBytes: 65_536,
  cacheChannels: 1000, recordKeys: ['code'], pingInterval: 30_000, pongTimeout: 10_000, connectTimeout: 10_000,
};

/** A core with a host that notes what it is asked for. */
export function rig(settings = {}, { random = 0.5 } = {}) {
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

/** A position in a history. */
export const position = (offset, epoch = 'e1') => ({ epoch, offset });
