import { matches } from "./pattern.js";
import type { TickEvent } from "./types.js";

/** The records of a channel or of several, by key. */
export type Records<T = any> = ReadonlyMap<string, T>;

interface Kept {
  event: TickEvent<any>;
  // The connection on which the event came, counted.
  connection: number;
  // A last value of this channel was received.
  hadSnapshot: boolean;
  // Merged records, by the name of the key.
  records: Map<string, Map<string, any>>;
}

// Built-in channels with history and a last value. Other channels with a history are told by a snapshot.
const VALUES_WITH_HISTORY = ["*.*.lifecycle", "system.kill_switch"];

/** The newest event of each channel, with merged records. It holds a bounded number of channels, the newest ones. */
export class Cache {
  readonly #kept = new Map<string, Kept>();
  readonly #limit: number;
  readonly #keys: Set<string>;
  /** A channel had to make room, since the connection began. */
  evicted = false;

  constructor(limit: number, keys: string[]) {
    this.#limit = limit;
    this.#keys = new Set(keys);
  }

  /** Merges records by this field, too, from now on. */
  mergeBy(key: string): void {
    if (this.#keys.has(key)) return;
    this.#keys.add(key);
    for (const kept of this.#kept.values()) merge(kept, kept.event, key);
  }

  put(event: TickEvent<any>, connection: number): void {
    const { channel, data } = event;
    let kept = this.#kept.get(channel);
    if (kept) this.#kept.delete(channel);
    else kept = { event, connection, hadSnapshot: false, records: new Map() };
    kept.event = event;
    kept.connection = connection;
    kept.hadSnapshot ||= event.isSnapshot;
    if (Array.isArray(data)) for (const key of this.#keys) merge(kept, event, key);
    this.#kept.set(channel, kept);
    if (this.#kept.size > this.#limit) {
      this.#kept.delete(this.#kept.keys().next().value!);
      this.evicted = true;
    }
  }

  last(channel: string): TickEvent<any> | undefined {
    return this.#kept.get(channel)?.event;
  }

  /** The records of all channels that a pattern matches, merged by `key`. */
  records(pattern: string, key: string): Map<string, any> {
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
      const records = Array.isArray(kept.event.data) ? largest(kept.records) : undefined;
      found.push({ ...kept.event, isSnapshot: true, data: records ? [...records.values()] : kept.event.data });
    }
    return found;
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

function merge(kept: Kept, { data, isSnapshot }: TickEvent<any>, key: string): void {
  if (!Array.isArray(data) || !data.every((record) => record?.[key] != null)) return;
  let records = kept.records.get(key);
  if (!records || isSnapshot) kept.records.set(key, (records = new Map()));
  for (const record of data) records.set(String(record[key]), record);
}

function largest(all: Map<string, Map<string, any>>): Map<string, any> | undefined {
  return [...all.values()].sort((a, b) => b.size - a.size)[0];
}
