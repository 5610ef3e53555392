import type { Cache } from "./cache.js";
import { RequestRefused, TickgateError } from "./errors.js";
import { matches, utf8Length } from "./pattern.js";
import type { Keys, Positions } from "./positions.js";
import type { Subscription } from "./subscription.js";

type Handle = Subscription<any>;

interface Entry {
  pattern: string;
  handles: Set<Handle>;
  // wanted: to be asked for; asked: in the request under way; held: confirmed; leaving: given back, not confirmed yet.
  status: "wanted" | "asked" | "held" | "leaving";
  // A request with several patterns failed, so this one is asked for alone.
  isAlone: boolean;
  // The gateway did not take the positions.
  withoutKeys: boolean;
}

/** A message to send. */
export interface Plan {
  type: "subscribe" | "unsubscribe";
  channels: string[];
  recover: Keys["recover"] | undefined;
}

/** Bytes of a message beside its patterns and keys. */
const ENVELOPE_BYTES = 200;

/**
 * Which patterns are wanted and which the gateway holds. Identical patterns are asked for once.
 *
 * Invariant: one `subscribe` is under way at a time. So each key of `recover` is in the first request that covers it, and
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
  #recover: Keys["recover"] | undefined;
  #beganAnew: string[] = [];

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
      entry = { pattern, handles: new Set(), status: "wanted", isAlone: false, withoutKeys: false };
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

  /** The subscribers of a channel whose patterns are held. */
  route(channel: string): Handle[] {
    let handles = this.#routes.get(channel);
    if (!handles) {
      if (this.#routes.size >= 10_000) this.#routes.clear();
      handles = [...this.#entries.values()]
        .filter(({ status, pattern }) => status === "held" && matches(pattern, channel))
        .flatMap((entry) => [...entry.handles]);
      this.#routes.set(channel, handles);
    }
    return handles;
  }

  handles(): Handle[] {
    return [...this.#entries.values()].flatMap((entry) => [...entry.handles]);
  }

  /** The connection is gone: everything is wanted again. */
  lost(): void {
    this.#asked = undefined;
    this.#routes.clear();
    this.#beganAnew.push(...this.#positions.lost());
    for (const entry of [...this.#entries.values()]) {
      entry.status = "wanted";
      entry.isAlone = entry.withoutKeys = false;
      if (entry.handles.size === 0) this.#entries.delete(entry.pattern);
    }
  }

  /** Patterns to give back, before others are asked for. */
  leave(): Plan | undefined {
    const leaving = [...this.#entries.values()].filter(({ status, handles }) => status === "held" && handles.size === 0);
    if (leaving.length === 0) return undefined;
    for (const entry of leaving) entry.status = "leaving";
    return { type: "unsubscribe", channels: leaving.map(({ pattern }) => pattern), recover: undefined };
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
    // Patterns that come back and those that come for the first time go apart: only the former have `recover`.
    const known = wanted.filter(({ pattern }) => this.#positions.known.has(pattern));
    const candidates = known.length > 0 ? known : wanted;
    const first = candidates[0];
    if (!first) return undefined;
    const batch = first.isAlone ? [first] : candidates.filter(({ isAlone }) => !isAlone);
    let room = this.#maxBytes - ENVELOPE_BYTES;
    let recover: Keys["recover"] | undefined;
    if (known.length > 0) {
      recover = this.#takeKeys(batch, room);
    } else {
      const fitting = batch.findIndex(({ pattern }) => (room -= utf8Length(pattern) + 16) < 0);
      if (fitting > 0) batch.length = fitting;
    }
    for (const entry of batch) entry.status = "asked";
    this.#asked = batch;
    this.#recover = recover;
    return { type: "subscribe", channels: batch.map(({ pattern }) => pattern), recover };
  }

  // Shortens the batch to the patterns whose keys have room. If the first pattern alone has too many, some keys stay out.
  #takeKeys(batch: Entry[], room: number): Keys["recover"] {
    const held = [...this.#entries.values()].filter(({ status }) => status === "held").map(({ pattern }) => pattern);
    const keys: ReturnType<Positions["keysOf"]> = [];
    let count = 0;
    for (const { pattern, withoutKeys } of batch) {
      const left = room - utf8Length(pattern) - 16;
      const more = withoutKeys ? [] : this.#positions.keysOf(pattern, held);
      if (count > 0 && (left < 0 || !this.#positions.fits([...keys, ...more], left))) break;
      keys.push(...more);
      held.push(pattern);
      room = left;
      count += 1;
    }
    batch.length = count;
    const { recover, omitted } = this.#positions.take(keys, room);
    this.#positions.skipTo(omitted);
    return recover;
  }

  /** `subscribed` came. Returns the subscribers that become ready. */
  confirmed(data: any, connection: number): Handle[] {
    const entries = this.#asked ?? [];
    const recover = this.#recover;
    this.#asked = undefined;
    this.#routes.clear();
    const fresh = entries.filter(({ pattern }) => !this.#positions.known.has(pattern));
    for (const entry of entries) {
      entry.status = "held";
      if (entry.handles.size > 0) this.#positions.known.add(entry.pattern);
    }
    const missing: string[] = [];
    let isEpoch = false;
    const positions: Record<string, any> = data.positions ?? {};
    for (const [channel, isWhole] of Object.entries(data.recovered ?? {})) {
      if (isWhole) continue;
      missing.push(channel);
      const epoch = positions[channel]?.epoch;
      if (epoch !== undefined && this.#positions.isOfOtherEpoch(channel, epoch)) isEpoch = true;
      this.#positions.unrecovered(channel);
    }
    for (const [channel, { epoch, offset }] of Object.entries(positions)) {
      this.#positions.state(channel, { epoch: String(epoch), offset: Number(offset) });
    }
    if (recover) {
      const beganAnew = this.#beganAnew.splice(0);
      missing.push(...beganAnew);
      for (const { handles } of this.#entries.values()) {
        for (const handle of handles) if (!entries.some((entry) => entry.handles.has(handle))) handle.gap("unrecovered", beganAnew, true);
      }
      this.#tellGaps(entries, isEpoch, missing, data.positions_complete !== false, positions);
    }
    // Channels that another pattern covers already bring no last value from the gateway.
    for (const { pattern, handles } of fresh) {
      for (const handle of handles) {
        // A subscriber from before a change of users begins anew.
        if (handle.isReady) handle.gap("unrecovered", [], false);
        this.welcome(handle, pattern, connection);
      }
    }
    return entries.flatMap(({ handles }) => [...handles]);
  }

  #tellGaps(entries: Entry[], isEpoch: boolean, missing: string[], isComplete: boolean, positions: object): void {
    for (const { pattern, handles } of entries) {
      // Nothing is kept of these, so the break itself lost what was published meanwhile.
      const unkept = this.#cache.unkept(pattern);
      const isExact = !pattern.includes("*");
      if (isExact && !(pattern in positions) && !this.#cache.last(pattern)) unkept.push(pattern);
      const channels = [...new Set([...missing, ...unkept])];
      for (const handle of handles) handle.gap(isEpoch ? "epoch" : "unrecovered", channels, isComplete && !isEpoch);
    }
  }

  /** Gives a late subscriber what the cache has. */
  welcome(handle: Handle, pattern: string, connection: number): void {
    for (const event of this.#cache.snapshots(pattern, connection)) handle.deliver(event);
    if (this.#cache.evicted) handle.gap("dropped", [pattern], false);
  }

  /**
   * The request was refused. A request with several patterns is repeated one by one; a single one is repeated without its
   * positions if it had any, or its subscribers end with the error.
   */
  refused(error: TickgateError): void {
    const entries = this.#asked ?? [];
    this.#asked = undefined;
    for (const entry of entries) {
      entry.status = "wanted";
      if (entries.length > 1) {
        entry.isAlone = true;
      } else if (error.code === "INVALID_MESSAGE" && Object.keys(this.#recover ?? {}).length > 0) {
        entry.withoutKeys = true;
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
    this.#beganAnew = [];
  }

  #prune(): void {
    this.#cache.prune([...this.#entries.values()].filter(({ handles }) => handles.size > 0).map(({ pattern }) => pattern));
  }
}
