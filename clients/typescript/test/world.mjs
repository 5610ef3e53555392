// A world on virtual time for the client's core: a clock, a network that breaks, and a model of the gateway as
// docs/protocol.md describes it.
import { matches } from '../dist/pattern.js';

/** A seeded source of random numbers (mulberry32). */
export function randomSource(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A clock that moves from task to task. */
export class Clock {
  now = 0;
  #tasks = [];
  #count = 0;

  at(time, run) {
    const task = { time: Math.max(time, this.now), order: this.#count++, run };
    const index = this.#tasks.findIndex((other) => other.time > task.time);
    if (index < 0) this.#tasks.push(task);
    else this.#tasks.splice(index, 0, task);
    return () => { task.run = () => {}; };
  }

  /** Runs all tasks up to a time. Promises settle between tasks. */
  async runTo(time) {
    while (this.#tasks.length > 0 && this.#tasks[0].time <= time) {
      const task = this.#tasks.shift();
      this.now = task.time;
      task.run();
      await null; await null; await null; await null;
    }
    this.now = time;
  }
}

/**
 * The gateway. Channels `h.…` have a history, `v.…` a last value, others nothing. `data` of the nth event of a channel is
 * n, over all epochs.
 */
export class Gateway {
  epoch = 1;
  version = 0;
  channels = new Map();
  sessions = new Set();
  executed = new Map();
  complaints = [];
  down = false;
  // A planted fault: `skip` loses an event silently, `repeat` sends one twice.
  fault = undefined;

  constructor(clock, random) {
    this.clock = clock;
    this.random = random;
  }

  get epochName() { return `epoch${this.epoch}`; }

  channel(name) {
    let channel = this.channels.get(name);
    if (!channel) this.channels.set(name, (channel = { count: 0, floor: 0, kept: [], last: undefined }));
    return channel;
  }

  publish(name) {
    const channel = this.channel(name);
    const message = { type: 'event', channel: name, event: 'e', timestamp: this.clock.now, data: channel.count++ };
    this.version += 1;
    if (name.startsWith('h.')) {
      message.offset = this.version;
      channel.kept.push(message);
      if (channel.kept.length > 40) channel.floor = channel.kept.shift().offset;
    }
    if (name.startsWith('v.')) channel.last = message;
    for (const session of this.sessions) {
      if (![...session.patterns].some((pattern) => matches(pattern, name))) continue;
      const fault = this.fault;
      if (fault) this.fault = undefined;
      if (fault === 'skip') continue;
      session.send(message);
      if (fault === 'repeat') session.send(message.offset ? { ...message, offset: message.offset + 0.5 } : message);
      if (this.random() < 0.1) session.send({ type: 'ping', cursor: this.cursor(session) });
    }
  }

  cursor(session) { return `${this.epochName}-${session.user}-${this.version}`; }

  /** The store and its offsets begin anew, and all connections end. */
  restart() {
    this.epoch += 1;
    this.version = 0;
    for (const channel of this.channels.values()) Object.assign(channel, { kept: [], last: undefined, floor: 0, isGone: true });
    for (const session of [...this.sessions]) session.close(1012, 'restart');
  }

  receive(session, message) {
    session.budget = Math.min(100, session.budget + (this.clock.now - session.budgetAt) / 10);
    session.budgetAt = this.clock.now;
    if (session.budget < 1) this.complaints.push('the limit of messages was hit');
    session.budget -= 1;
    const { id } = message;
    const error = (code) => session.send({ type: 'error', id, error: { code, message: code } });
    if (message.type === 'auth') {
      if (message.token.endsWith('bad')) return session.send({ type: 'auth_result', id, success: false, timestamp: this.clock.now, error: { code: 'TOKEN_INVALID', message: 'bad' } });
      const endsAt = this.clock.now + 90_000;
      const user = message.token.split('-')[0];
      if (session.user !== undefined && session.user !== user) {
        return session.send({ type: 'auth_result', id, success: false, timestamp: this.clock.now, error: { code: 'AUTH_SUBJECT_MISMATCH', message: 'other' } });
      }
      session.user = user;
      session.endsAt = endsAt;
      this.clock.at(endsAt, () => session.endsAt === endsAt && session.close(4001, 'expired'));
      return session.send({ type: 'auth_result', id, success: true, timestamp: this.clock.now, data: { user, expires_at: endsAt } });
    }
    if (message.type === 'ping') return session.send({ type: 'pong', id, timestamp: this.clock.now });
    if (session.user === undefined) return error('UNAUTHENTICATED');
    switch (message.type) {
      case 'subscribe': return this.subscribe(session, message, error);
      case 'unsubscribe':
        for (const pattern of message.channels) session.patterns.delete(pattern);
        return session.send({ type: 'unsubscribed', id, data: { channels: message.channels } });
      case 'history': return session.send({ type: 'history', id, data: { epoch: this.epochName, events: [], complete: true } });
      case 'command': {
        this.executed.set(message.params, (this.executed.get(message.params) ?? 0) + 1);
        const answer = { type: 'response', id, success: true, data: message.params };
        this.clock.at(this.clock.now + this.random() * 3000, () => session.send(answer));
        return undefined;
      }
      default: return this.complaints.push(`an unknown message: ${message.type}`);
    }
  }

  subscribe(session, { id, channels, cursor, max_rate: rate }, error) {
    if (channels.some((pattern) => pattern.startsWith('f.'))) return error('FORBIDDEN');
    const covered = (name) => [...session.patterns].some((pattern) => matches(pattern, name));
    const [epoch, user, version] = (cursor ?? '').split('-');
    const from = epoch === this.epochName && user === session.user && Number(version) <= this.version ? Number(version) : undefined;
    const [positions, recovered, lasts, missed] = [{}, {}, [], []];
    for (const [name, channel] of this.channels) {
      if (covered(name) || !channels.some((pattern) => matches(pattern, name))) continue;
      if (channel.last) lasts.push({ ...channel.last, snapshot: true });
      // Before its first event in this store, the gateway does not know the channel.
      if (!name.startsWith('h.') || (channel.kept.length === 0 && channel.isGone)) continue;
      if (!cursor) positions[name] = { epoch: this.epochName, offset: this.version };
      else if (from >= channel.floor) missed.push(...channel.kept.filter(({ offset }) => offset > from));
      else recovered[name] = false;
    }
    for (const pattern of channels) {
      session.patterns.add(pattern);
      session.rates.set(pattern, rate);
    }
    if (session.patterns.size > 50) this.complaints.push('the limit of patterns was hit');
    const data = {
      channels,
      ...(Object.keys(positions).length > 0 && { positions }),
      ...(cursor && { recovered: Object.keys(recovered).length > 0 ? recovered : true }),
      ...(cursor && from === undefined && { positions_complete: false }),
    };
    const isBehind = missed.length > 0;
    session.send({ type: 'subscribed', id, cursor: isBehind ? cursor : this.cursor(session), data });
    for (const message of [...lasts, ...missed.sort((a, b) => a.offset - b.offset)]) session.send(message);
    if (isBehind) session.send({ type: 'cursor', cursor: this.cursor(session) });
  }
}

/** The host of a core: the client's end of the network. */
export class VirtualHost {
  opened = 0;
  changes = [];
  errors = [];
  questions = 0;
  isOnline = true;
  isPunctual = false;
  #wake = () => {};
  #socket;

  constructor(clock, random, gateway, getToken) {
    Object.assign(this, { clock, random, gateway, getToken });
  }

  now() { return this.clock.now; }
  wallNow() { return this.clock.now + 1e12; }
  parse(text) { return JSON.parse(text); }
  stringify(value) { return JSON.stringify(value); }
  changed(change) { this.changes.push(change); }
  report(error) { this.errors.push(error); }
  dirty() {}
  load(user) { this.clock.at(this.clock.now + 5, () => this.core.restored(user, null)); }

  wake(at) {
    this.#wake();
    // Sometimes a timer is late, as in a background tab.
    const late = !this.isPunctual && this.random() < 0.01 ? this.random() * 60_000 : 0;
    if (at !== Infinity) this.#wake = this.clock.at(at + late, () => this.core.woke());
  }

  soon() {
    if (this.isSoon) return;
    this.isSoon = true;
    this.clock.at(this.clock.now, () => { this.isSoon = false; this.core.turn(); });
  }

  askToken() {
    this.questions += 1;
    if (this.isAsking) this.gateway.complaints.push('two questions for a token at a time');
    this.isAsking = true;
    this.clock.at(this.clock.now + this.random() * 500, () => {
      this.isAsking = false;
      const token = this.getToken();
      if (token instanceof Error) this.core.tokenFailed(token);
      else this.core.gotToken(token);
    });
  }

  open() {
    this.opened += 1;
    const { clock, gateway, random } = this;
    const socket = { patterns: new Set(), rates: new Map(), budget: 100, budgetAt: clock.now, isOpen: false, toClient: clock.now, toServer: clock.now };
    this.#socket = socket;
    // Bytes keep their order in each direction.
    const arrive = (direction, run) => {
      socket[direction] = Math.max(socket[direction], clock.now + 1 + random() * 40);
      clock.at(socket[direction], run);
    };
    const isMine = () => this.#socket === socket;
    const end = (code, reason) => arrive('toClient', () => {
      if (!isMine()) return;
      this.#socket = undefined;
      this.core.ended(code, reason);
    });
    socket.send = (message) => socket.isOpen && !socket.isDead && arrive('toClient', () => isMine() && this.core.received(JSON.stringify(message)));
    socket.close = (code, reason) => {
      if (!gateway.sessions.delete(socket) || socket.isDead) return;
      socket.isOpen = false;
      end(code, reason);
    };
    /** The network fails: the client learns of it, or does not. */
    socket.fail = (isSilent) => {
      gateway.sessions.delete(socket);
      socket.isOpen = false;
      socket.isDead = isSilent;
      if (!isSilent) end(1006, '');
    };
    this.transmit = (text) => arrive('toServer', () => socket.isOpen && gateway.receive(socket, JSON.parse(text)));
    if (!this.isOnline || gateway.down) return void clock.at(clock.now + random() * 2000, () => end(1006, ''));
    arrive('toClient', () => {
      if (!isMine()) return;
      socket.isOpen = true;
      gateway.sessions.add(socket);
      this.core.opened();
    });
  }

  get socket() { return this.#socket; }
  send(text) { this.transmit(text); }

  shut() {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket) {
      this.clock.at(this.clock.now + this.random() * 40, () => { this.gateway.sessions.delete(socket); socket.isOpen = false; });
    }
  }
}
