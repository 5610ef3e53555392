import { BookState, type Book } from "./book.js";
import { matches } from "./pattern.js";
import { merge, nameOf, type RecordRule } from "./records.js";
import type { TickEvent } from "./types.js";

/** The records of a channel or of several, by key. */
export type Records<T = any> = ReadonlyMap<string, T>;

interface Kept {
  event: TickEvent<any>;
  // The connection on which the event came, counted.
  connection: number;
  // A last value of this channel was received.
  hadSnapshot: boolean;
  // Merged records, by the name of the rule.
  records: Map<string, Map<string, any>>;
  // From the first whole book on.
  book?: BookState | undefined;
}

// Built-in channels with history and a last value. Other channels with a history are told by a snapshot.
const VALUES_WITH_HISTORY = ["*.*.lifecycle", "system.kill_switch"];

/** The newest event of each channel, with merged records. It holds a bounded number of channels, the newest ones. */
export class Cache {
  readonly #kept = new Map<string, Kept>();
  readonly #limit: number;
  readonly #rules = new Map<string, RecordRule>();
  /** A channel had to make room, since the connection began. */
  evicted = false;

  constructor(limit: number, keys: string[]) {
    this.#limit = limit;
    for (const key of keys) this.#mergeBy({ key });
  }

  // Merges records by this rule, too, from now on.
  #mergeBy(rule: RecordRule): void {
    const name = nameOf(rule);
    if (this.#rules.has(name)) return;
    this.#rules.set(name, rule);
    for (const kept of this.#kept.values()) update(kept, kept.event, name, rule);
  }

  put(event: TickEvent<any>, connection: number): void {
    const { channel, data } = event;
    let kept = this.#kept.get(channel);
    this.#kept.delete(channel);
    if (isDeletion(event)) return;
    kept ??= { event, connection, hadSnapshot: false, records: new Map() };
    kept.event = event;
    kept.connection = connection;
    kept.hadSnapshot ||= event.isSnapshot;
    if (Array.isArray(data)) for (const [name, rule] of this.#rules) update(kept, event, name, rule);
    try {
      if (BookState.isWhole(data)) kept.book ??= new BookState();
      kept.book?.apply(data);
    } catch {
      // The data only looks like a book.
      kept.book = undefined;
    }
    this.#kept.set(channel, kept);
    if (this.#kept.size > this.#limit) {
      this.#kept.delete(this.#kept.keys().next().value!);
      this.evicted = true;
    }
  }

  last(channel: string): TickEvent<any> | undefined {
    return this.#kept.get(channel)?.event;
  }

  book(channel: string): Book | undefined {
    return this.#kept.get(channel)?.book;
  }

  /** The records of all channels that a pattern matches, merged by a rule. */
  records(pattern: string, rule: RecordRule): Map<string, any> {
    this.#mergeBy(rule);
    const key = nameOf(rule);
    const all = new Map<string, any>();
    for (const [channel, kept] of this.#kept) {
      if (matches(pattern, channel)) for (const [name, record] of kept.records.get(key) ?? []) all.set(name, record);
    }
    return all;
  }

  /** What a late subscriber of a pattern gets: last values that came on this connection. */
  snapshots(pattern: string, connection: number): TickEvent<any>[] {
    const found: TickEvent<any>[] = [];
    for (const [channel, kept] of this.#kept) {
      if (!isValue(kept) || kept.connection !== connection || !matches(pattern, channel)) continue;
      const records = Array.isArray(kept.event.data) ? this.#best(kept.records) : undefined;
      const data = records ? [...records.values()] : kept.book?.data() ?? kept.event.data;
      found.push({ ...kept.event, isSnapshot: true, data });
    }
    return found;
  }

  // A rule that knows which records are deleted is better than one that does not; otherwise the one that merges the most is.
  #best(all: Map<string, Map<string, any>>): Map<string, any> | undefined {
    const rank = ([name, records]: [string, Map<string, any>]): number[] => [this.#rules.get(name)?.deleted ? 1 : 0, records.size];
    return [...all].map((one) => [rank(one), one[1]] as const).sort(([a], [b]) => b[0]! - a[0]! || b[1]! - a[1]!)[0]?.[1];
  }

  /** Channels of a pattern of which the gateway seems to keep nothing. */
  unkept(pattern: string): string[] {
    return [...this.#kept].filter(([channel, kept]) => kept.event.offset === undefined && !kept.hadSnapshot && matches(pattern, channel))
      .map(([channel]) => channel);
  }

  /** Forgets channels that no pattern covers any more. */
  prune(held: string[]): void {
    for (const channel of this.#kept.keys()) {
      if (!held.some((pattern) => matches(pattern, channel))) this.#kept.delete(channel);
    }
  }

  clear(): void {
    this.#kept.clear();
    this.evicted = false;
  }
}

// Whether the gateway would give a new subscriber the newest event of the channel. It does not say so for each channel.
function isValue({ event, hadSnapshot }: Kept): boolean {
  return hadSnapshot || event.offset === undefined || VALUES_WITH_HISTORY.some((pattern) => matches(pattern, event.channel));
}

/** Whether the event tells that the gateway keeps nothing of its channel any more. */
export function isDeletion({ event, data }: TickEvent<any>): boolean {
  return event === "deleted" && data === null;
}

function update(kept: Kept, { data, isSnapshot }: TickEvent<any>, name: string, rule: RecordRule): void {
  let records = kept.records.get(name);
  if (!records || isSnapshot) kept.records.set(name, (records = new Map()));
  merge(records, data, rule);
}
