import type { Cache } from "./cache.js";
import { RequestRefused, TickgateError } from "./errors.js";
import { intersects, matches, utf8Length } from "./pattern.js";
import type { Positions } from "./positions.js";
import type { Subscription } from "./subscription.js";

type Handle = Subscription<any>;

interface Entry {
  pattern: string;
  handles: Set<Handle>;
  // wanted: to be asked for; asked: in the request under way; held: confirmed; leaving: given back, not confirmed yet.
  status: "wanted" | "asked" | "held" | "leaving";
  // The rate that was asked for last (null: it has to be asked for again), and the rate that the gateway has confirmed.
  rate?: number | null | undefined;
  granted?: number | null | undefined;
  // A request with several patterns failed, so this one is asked for alone.
  isAlone: boolean;
}

/** A message to send. */
export interface Plan {
  type: "subscribe" | "unsubscribe";
  channels: string[];
  cursor?: string | undefined;
  rate?: number | undefined;
}

/** Bytes of a message beside its patterns: a cursor has at most 256. */
const ENVELOPE_BYTES = 500;

/**
 * Which patterns are wanted and which the gateway holds. Identical patterns are asked for once.
 *
 * Invariant: one `subscribe` is under way at a time. So its answer tells up to when all held patterns had everything, and
 * what was wanted meanwhile becomes one request.
 */
export class Registry {
  readonly #entries = new Map<string, Entry>();
  readonly #positions: Positions;
  readonly #cache: Cache;
  readonly #maxPatterns: number;
  readonly #maxBytes: number;
  // By channel; emptied by each change.
  readonly #routes = new Map<string, Handle[]>();
  #asked: Entry[] | undefined;

  constructor(positions: Positions, cache: Cache, maxPatterns: number, maxBytes: number) {
    this.#positions = positions;
    this.#cache = cache;
    this.#maxPatterns = maxPatterns;
    this.#maxBytes = maxBytes;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Adds a subscriber. Returns whether its pattern is held, so that it begins at once. */
  add(handle: Handle): boolean {
    const { pattern } = handle;
    let entry = this.#entries.get(pattern);
    if (!entry) {
      const used = [...this.#entries.values()].filter(({ handles }) => handles.size > 0).length;
      if (used >= this.#maxPatterns) {
        throw new RequestRefused("SUBSCRIPTION_LIMIT", `"${pattern}" is more than the ${this.#maxPatterns} patterns that one connection may hold`);
      }
      entry = { pattern, handles: new Set(), status: "wanted", isAlone: false };
      this.#entries.set(pattern, entry);
    }
    entry.handles.add(handle);
    this.#routes.clear();
    return entry.status === "held";
  }

  /** Removes a subscriber. */
  remove(handle: Handle): void {
    const entry = this.#entries.get(handle.pattern);
    if (!entry?.handles.delete(handle)) return;
    this.#routes.clear();
    if (entry.handles.size > 0) return;
    this.#positions.leave(entry.pattern);
    if (entry.status === "wanted") this.#entries.delete(entry.pattern);
    this.#prune();
  }

  /** The subscribers of a channel whose patterns are held, or come back: another pattern may bring what they missed. */
  route(channel: string): Handle[] {
    let handles = this.#routes.get(channel);
    if (!handles) {
      if (this.#routes.size >= 10_000) this.#routes.clear();
      handles = [...this.#entries.values()]
        .filter(({ status, pattern }) => (status === "held" || this.#positions.cursorOf(pattern)) && matches(pattern, channel))
        .flatMap((entry) => [...entry.handles]);
      this.#routes.set(channel, handles);
    }
    return handles;
  }

  handles(): Handle[] {
    return [...this.#entries.values()].flatMap((entry) => [...entry.handles]);
  }

  /**
   * A message told up to when the held patterns had everything. Before the answer to a request it does not count: it was queued
   * before the gateway read the request, and may cover events that come behind the answer.
   */
  reached(cursor: string): void {
    if (this.#asked || [...this.#entries.values()].some(({ status }) => status === "leaving")) return;
    this.#positions.reached(cursor, this.#held());
  }

  #held(): string[] {
    return [...this.#entries.values()].filter(({ status, handles }) => status === "held" && handles.size > 0).map(({ pattern }) => pattern);
  }

  /** The connection is gone: everything is wanted again. */
  lost(): void {
    this.#asked = undefined;
    this.#routes.clear();
    this.#positions.lost();
    for (const entry of [...this.#entries.values()]) {
      entry.status = "wanted";
      entry.isAlone = false;
      if (entry.handles.size === 0) this.#entries.delete(entry.pattern);
    }
  }

  /** Patterns to give back, before others are asked for. */
  leave(): Plan | undefined {
    const leaving = [...this.#entries.values()].filter(({ status, handles }) => status === "held" && handles.size === 0);
    if (leaving.length === 0) return undefined;
    for (const entry of leaving) entry.status = "leaving";
    return { type: "unsubscribe", channels: leaving.map(({ pattern }) => pattern), cursor: undefined };
  }

  /** An `unsubscribe` was answered. */
  left(patterns: string[]): void {
    for (const pattern of patterns) {
      const entry = this.#entries.get(pattern);
      if (entry?.status !== "leaving") continue;
      entry.status = "wanted";
      if (entry.handles.size === 0) this.#entries.delete(pattern);
    }
  }

  /** What to ask for next; `undefined` if nothing, or while a request is under way. */
  ask(): Plan | undefined {
    if (this.#asked) return undefined;
    const wanted = [...this.#entries.values()].filter(({ status }) => status === "wanted");
    const cursorOf = ({ pattern }: Entry): string | undefined => this.#positions.cursorOf(pattern);
    // Patterns that come back go first, those with the same cursor together.
    const first = wanted.find(cursorOf) ?? wanted[0];
    if (!first) return undefined;
    const cursor = cursorOf(first);
    const rate = rateOf(first);
    const batch = first.isAlone ? [first] : wanted.filter((entry) => !entry.isAlone && cursorOf(entry) === cursor && rateOf(entry) === rate);
    let room = this.#maxBytes - ENVELOPE_BYTES;
    const fitting = batch.findIndex(({ pattern }) => (room -= utf8Length(pattern) + 16) < 0);
    if (fitting > 0) batch.length = fitting;
    for (const entry of batch) {
      entry.status = "asked";
      entry.rate = rate;
      this.#positions.returns(entry.pattern);
    }
    this.#asked = batch;
    return { type: "subscribe", channels: batch.map(({ pattern }) => pattern), cursor, rate };
  }

  /** Patterns that are held and whose subscribers want another rate than was asked for. Each is a request of its own. */
  paces(): Plan[] {
    const changed = [...this.#entries.values()].filter((entry) => entry.status === "held" && entry.handles.size > 0 && rateOf(entry) !== entry.rate);
    return changed.map((entry) => {
      const rate = rateOf(entry);
      entry.rate = rate;
      return { type: "subscribe", channels: [entry.pattern], rate };
    });
  }

  /** A change of a pattern's rate was answered: it is done, has to be asked for again, or was refused. */
  paced(pattern: string, outcome: "done" | "again" | "refused"): void {
    const entry = this.#entries.get(pattern);
    if (!entry) return;
    if (outcome === "done") entry.granted = entry.rate;
    else if (outcome === "again") entry.rate = null;
    else for (const handle of entry.handles) handle.maxRate = (entry.rate = entry.granted) ?? undefined;
  }

  /** `subscribed` came. Returns the subscribers that become ready. */
  confirmed(data: any, connection: number): Handle[] {
    const entries = this.#asked ?? [];
    const before = this.#held();
    this.#asked = undefined;
    this.#routes.clear();
    for (const entry of entries) {
      entry.status = "held";
      entry.granted = entry.rate;
    }
    const isComplete = data.positions_complete !== false;
    if (data.recovered) {
      const missing = Object.keys(data.recovered);
      for (const channel of missing) this.#positions.state(channel, 0);
      if (!isComplete) for (const { pattern } of entries) this.#positions.beginAnew(pattern);
      this.#tellGaps(entries, missing, isComplete, before);
    }
    for (const [channel, { offset }] of Object.entries<any>(data.positions ?? {})) this.#positions.state(channel, Number(offset));
    if (!data.recovered) {
      // Channels that another pattern covers already bring no last value from the gateway.
      for (const { pattern, handles } of entries) {
        // A listener may subscribe once more; that subscriber is welcomed by itself.
        for (const handle of [...handles]) {
          // A subscriber from before a change of users begins anew.
          if (handle.isReady) handle.gap("unrecovered", [], false);
          this.welcome(handle, pattern, connection);
        }
      }
    }
    return entries.flatMap(({ handles }) => [...handles]);
  }

  #tellGaps(entries: Entry[], missing: string[], isComplete: boolean, before: string[]): void {
    // Other patterns have these channels in common, and come back with another rate.
    for (const entry of this.#entries.values()) {
      if (!entries.includes(entry)) for (const handle of [...entry.handles]) if (handle.isReady) handle.gap("unrecovered", missing, true);
    }
    for (const { pattern, handles } of entries) {
      // Nothing is kept of these, so the break itself lost what was published meanwhile.
      const unkept = this.#cache.unkept(pattern);
      const isExact = !pattern.includes("*");
      if (isExact && !this.#positions.hasHistory(pattern) && !this.#cache.last(pattern)) unkept.push(pattern);
      const channels = [...new Set([...missing, ...unkept])];
      // The gateway has sent what these channels missed already, when this subscriber was not there.
      const isLate = before.some((other) => intersects(other, pattern));
      for (const handle of [...handles]) {
        handle.gap(isComplete ? "unrecovered" : "epoch", channels, isComplete && (handle.isReady || !isLate));
      }
    }
  }

  /** Gives a late subscriber what the cache has. */
  welcome(handle: Handle, pattern: string, connection: number): void {
    for (const event of this.#cache.snapshots(pattern, connection)) handle.deliver(event);
    if (this.#cache.evicted) handle.gap("dropped", [pattern], false);
  }

  /**
   * The request was refused. A request with several patterns is repeated one by one; the subscribers of a single one end
   * with the error.
   */
  refused(error: TickgateError): void {
    const entries = this.#asked ?? [];
    this.#asked = undefined;
    for (const entry of entries) {
      entry.status = "wanted";
      if (entries.length > 1) {
        entry.isAlone = true;
      } else {
        this.end(entry.pattern, error);
      }
      if (entry.handles.size === 0) this.#entries.delete(entry.pattern);
    }
  }

  /** The request was not carried out, and is repeated. */
  postponed(): void {
    for (const entry of this.#asked ?? []) {
      entry.status = "wanted";
      if (entry.handles.size === 0) this.#entries.delete(entry.pattern);
    }
    this.#asked = undefined;
  }

  /** Ends the subscribers of a pattern: it was refused or taken away. */
  end(pattern: string, error: TickgateError): void {
    const entry = this.#entries.get(pattern);
    if (!entry) return;
    this.#entries.delete(pattern);
    this.#positions.leave(pattern);
    this.#routes.clear();
    this.#prune();
    for (const handle of entry.handles) handle.end(error, error);
  }

  /** Another user's state, or none: nothing is known of what was before. */
  forget(): void {
    this.#positions.forget();
    this.#cache.clear();
  }

  #prune(): void {
    this.#cache.prune([...this.#entries.values()].filter(({ handles }) => handles.size > 0).map(({ pattern }) => pattern));
  }
}

// The rate that a pattern's subscribers want together: the highest, or every update.
function rateOf({ handles }: Entry): number | undefined {
  const highest = Math.max(...[...handles].map(({ maxRate }) => maxRate ?? Infinity));
  return highest === Infinity ? undefined : highest;
}
