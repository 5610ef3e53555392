import type { Book } from "./book.js";
import { isDeletion, type Cache, type Records } from "./cache.js";
import { Emitter } from "./emitter.js";
import { RequestRefused, type TickgateError } from "./errors.js";
import { EventBuffer, type BufferOptions } from "./iterate.js";
import { matches } from "./pattern.js";
import { merge, nameOf, type RecordDelete, type RecordKey, type RecordRule } from "./records.js";
import type { Gap, TickEvent } from "./types.js";

/** What a subscription may tell. */
export interface SubscriptionEvents<T> {
  /** An event of a channel that the pattern matches. */
  event: TickEvent<T>;
  /** Something is missing: reload. */
  gap: Gap;
  /** Nothing was published to channels for the `fresh_within` of their class. */
  stale: Silence;
  /** Channels that were silent go on. */
  fresh: Silence;
  /**
   * The subscription ended, and nothing comes any more: `undefined` after `unsubscribe`, otherwise why the gateway refused
   * it or took it away.
   */
  end: TickgateError | undefined;
}

/** Channels of a pattern that became silent, or go on. */
export interface Silence {
  /** The gateway names up to 32. */
  channels: string[];
  /** No other channel is concerned. */
  complete: boolean;
}

/** What a subscription needs of its client. */
export interface Owner {
  readonly cache: Cache;
  /** The rate of a subscription has changed. */
  paced(): void;
  leave(handle: Subscription<any>): void;
  /** Calls the handle's `release` a little later. */
  release(handle: Subscription<any>): void;
  report(error: unknown): void;
  dropped(): void;
}

/** Fails if there is no such rate. */
export function checkRate(maxRate: number | undefined): void {
  if (maxRate !== undefined && !(maxRate >= 0.1)) throw new RequestRefused("INVALID_MESSAGE", `the rate ${maxRate} is not at least 0.1`);
}

/** How many events wait for the first listener. */
const HELD_MAX = 1000;

interface Settle {
  resolve: () => void;
  reject: (error: TickgateError) => void;
}

/** How {@link Client.subscribe} subscribes. */
export interface SubscribeOptions {
  /**
   * How many updates per second of each channel are wanted at most, of channels that conflate. The gateway rounds it down:
   * 20, 10, 5, 2, 1, 0.5, 0.2, 0.1. By default every update comes. The connection asks for the highest rate of a pattern's
   * subscribers, and each of them gets what it brings.
   */
  maxRate?: number | undefined;
}

/** One subscriber of a pattern. Made by {@link Client.subscribe}. */
export class Subscription<T = unknown> {
  readonly pattern: string;
  readonly #owner: Owner;
  readonly #emitter: Emitter<SubscriptionEvents<T>>;
  readonly #buffers = new Set<EventBuffer<T>>();
  /** The rate that this subscriber asks for; `undefined`: every update. {@link setRate} changes it. */
  maxRate: number | undefined;
  readonly #views = new Map<string, { rule: RecordRule; records: Map<string, any> }>();
  #ready: Promise<void>;
  #settle: Settle | undefined;
  /** @internal The gateway has confirmed it once. */
  isReady = false;
  #ended = false;
  // What came before the first listener; `undefined` once it is told.
  #held: (() => void)[] | undefined = [];
  #overflowed = false;

  /** @internal */
  constructor(owner: Owner, pattern: string, { maxRate }: SubscribeOptions) {
    this.pattern = pattern;
    this.maxRate = maxRate;
    this.#owner = owner;
    this.#emitter = new Emitter((error) => owner.report(error));
    this.#ready = this.#promise();
  }

  /**
   * Resolves when the gateway has confirmed the subscription. Rejects with a {@link RequestRefused} when it refuses, and
   * with the code `CLOSED` when the client is closed first; a later `connect` asks again, with a new promise.
   * A rejection that nobody awaits does no harm.
   */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /**
   * Adds a listener; the returned function removes it. Up to 1000 events wait for the first listener (or loop), which gets
   * them a little later; if there were more, it is told of a gap first.
   */
  on<Name extends keyof SubscriptionEvents<T>>(name: Name, listener: (value: SubscriptionEvents<T>[Name]) => void): () => void {
    if (this.#held && name !== "end") this.#owner.release(this);
    return this.#emitter.on(name, listener);
  }

  /**
   * Iterates over the events. The buffer holds what comes while the loop's body runs; what does not fit is reported as a
   * gap. The loop ends with the subscription.
   */
  events(options: BufferOptions = {}): AsyncIterableIterator<TickEvent<T>> {
    const buffer = new EventBuffer<T>(options, {
      dropped: (channels) => {
        this.#owner.dropped();
        this.#emitter.emit("gap", { reason: "dropped", channels, complete: true });
      },
      done: () => void this.#buffers.delete(buffer),
    });
    if (this.#ended) buffer.end(undefined);
    else this.#buffers.add(buffer);
    if (this.#held) this.#owner.release(this);
    return buffer;
  }

  /** The newest event of a channel that the pattern matches, if it is in the client's cache. */
  last(channel: string): TickEvent<T> | undefined {
    return matches(this.pattern, channel) ? this.#owner.cache.last(channel) : undefined;
  }

  /**
   * The records of all channels that the pattern matches, merged by the field `key`, or by several fields: a record's name
   * is then a JSON array of their texts. `deleted` says which records are gone, as `record_delete` of the gateway does. The
   * map is kept up to date; it is the same object on every call. Name fields other than `code` in
   * {@link ClientOptions.recordKeys}, or call this before the first event.
   */
  records<R = any>(key: RecordKey, options: { deleted?: RecordDelete } = {}): Records<R> {
    const rule = { key, deleted: options.deleted };
    const name = nameOf(rule);
    let view = this.#views.get(name);
    if (!view) this.#views.set(name, (view = { rule, records: this.#owner.cache.records(this.pattern, rule) }));
    return view.records;
  }

  /**
   * The order book of a channel that the pattern matches and whose class has `merge = "book"`, once it has come. It is kept
   * up to date, and is the same object until the channel is deleted or leaves the cache.
   */
  book(channel: string): Book | undefined {
    return matches(this.pattern, channel) ? this.#owner.cache.book(channel) : undefined;
  }

  /**
   * Asks for another rate, or for every update. It changes while the subscription goes on, without a gap. If the gateway
   * refuses it, the client's `error` event says so, and the rate stays as it was.
   *
   * @throws {@link RequestRefused} if it is not a number of at least 0.1.
   */
  setRate(maxRate?: number): void {
    checkRate(maxRate);
    this.maxRate = maxRate;
    if (!this.#ended) this.#owner.paced();
  }

  /** Ends this subscription. The last one of a pattern gives the pattern back to the gateway. */
  unsubscribe(): void {
    if (!this.#ended) this.#owner.leave(this);
  }

  /** @internal */
  deliver(event: TickEvent<any>): void {
    for (const view of this.#views.values()) this.#refresh(event, view.rule, view.records);
    if (this.#held) this.#hold(() => this.#deliver(event));
    else this.#deliver(event);
  }

  #hold(tell: () => void): void {
    if (this.#held!.push(tell) <= HELD_MAX) return;
    this.#held!.shift();
    this.#overflowed = true;
  }

  #deliver(event: TickEvent<any>): void {
    if (this.#ended) return;
    for (const buffer of this.#buffers) buffer.push(event);
    this.#emitter.emit("event", event);
  }

  #refresh(event: TickEvent<any>, rule: RecordRule, view: Map<string, any>): void {
    if (event.isSnapshot || isDeletion(event)) {
      // Records that are gone go from the view; those of other channels stay.
      const all = this.#owner.cache.records(this.pattern, rule);
      for (const name of view.keys()) if (!all.has(name)) view.delete(name);
    }
    merge(view, event.data, rule);
  }

  /** @internal */
  gap(reason: Gap["reason"], channels: string[], complete: boolean): void {
    const own = channels.filter((channel) => channel === this.pattern || matches(this.pattern, channel));
    if (own.length === 0 && complete) return;
    const tell = (): void => this.#emitter.emit("gap", { reason, channels: own, complete });
    if (this.#held) this.#hold(tell);
    else tell();
  }

  /** @internal */
  freshness(type: "stale" | "fresh", all: string[], complete: boolean): void {
    const channels = all.filter((channel) => matches(this.pattern, channel));
    if (channels.length > 0 || !complete) this.#emitter.emit(type, { channels, complete });
  }

  /** @internal The gateway confirmed. */
  confirm(): void {
    this.isReady = true;
    this.#settle?.resolve();
  }

  /** @internal Whoever added the first listener had time to add others: delivers what came before. */
  release(): void {
    const held = this.#held;
    this.#held = undefined;
    if (!held) return;
    if (this.#overflowed) this.#emitter.emit("gap", { reason: "dropped", channels: [], complete: false });
    for (const tell of held) tell();
  }

  /** @internal The client closed before the gateway confirmed. */
  interrupt(error: TickgateError): void {
    if (this.isReady || this.#ended) return;
    this.#settle?.reject(error);
    this.#ready = this.#promise();
  }

  /** @internal */
  end(error: TickgateError | undefined, unready: TickgateError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#held = undefined;
    if (!this.isReady) this.#settle?.reject(error ?? unready);
    for (const buffer of this.#buffers) buffer.end(error);
    this.#emitter.emit("end", error);
  }

  #promise(): Promise<void> {
    const promise = new Promise<void>((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    promise.catch(() => {});
    return promise;
  }
}
