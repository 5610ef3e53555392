import { matches, utf8Length } from "./pattern.js";

/** A position in a channel's history. The epoch is empty until it is known. */
export interface Position {
  epoch: string;
  offset: number;
}

/** What is kept over page reloads. */
export interface Saved {
  patterns: string[];
  positions: Record<string, Position>;
}

/** The keys of one `recover`, and the channels whose keys had no room. */
export interface Keys {
  recover: Record<string, Position>;
  omitted: string[];
}

/** The gateway's limit on keys in one `recover`. */
const KEYS_MAX = 1000;

/**
 * Where this client is in the histories of its channels, over all connections.
 *
 * Invariant: a position is kept only while a pattern covers it that was held without interruption. Without that, the
 * newest offset under a pattern would claim events that the client never got.
 */
export class Positions {
  readonly #at = new Map<string, Position>();
  /** Patterns whose events were received up to the positions. */
  readonly known = new Set<string>();
  // The epoch of this connection; empty: asked for.
  #epoch: string | undefined;
  // Channels whose keys had no room: up to here, replayed events are known.
  readonly #floors = new Map<string, number>();

  /** The connection ended. Returns channels whose epoch was never learned: what comes of them begins anew. */
  lost(): string[] {
    const unknown = [...this.#at].filter(([, position]) => position.epoch === "").map(([channel]) => channel);
    for (const channel of unknown) this.#at.delete(channel);
    this.#epoch = undefined;
    this.#floors.clear();
    return unknown;
  }

  forget(): void {
    this.lost();
    this.#at.clear();
    this.known.clear();
  }

  /** A pattern was given up, by this client or the gateway. */
  leave(pattern: string): void {
    if (!this.known.delete(pattern)) return;
    for (const channel of this.#at.keys()) {
      if (matches(pattern, channel) && !this.#isKnown(channel)) this.#at.delete(channel);
    }
  }

  #isKnown(channel: string): boolean {
    for (const pattern of this.known) if (matches(pattern, channel)) return true;
    return false;
  }

  /** The positions of channels that the pattern covers and none of `held` does. */
  keysOf(pattern: string, held: string[]): [string, Position][] {
    return [...this.#at].filter(([channel]) => matches(pattern, channel) && !held.some((other) => matches(other, channel)));
  }

  /**
   * The keys of one request, at most `bytes` long in JSON. Where there is no room for all, the newest are kept: they state
   * up to when the client had everything.
   */
  take(keys: [string, Position][], bytes: number): Keys {
    const recover: Record<string, Position> = {};
    const omitted: string[] = [];
    let count = 0;
    for (const [channel, position] of [...keys].sort(([, a], [, b]) => b.offset - a.offset)) {
      bytes -= keyBytes(channel, position);
      if (++count > KEYS_MAX || bytes < 0) omitted.push(channel);
      else recover[channel] = position;
    }
    return { recover, omitted };
  }

  /** Whether all keys have room in one request. */
  fits(keys: [string, Position][], bytes: number): boolean {
    return keys.length <= KEYS_MAX && keys.reduce((sum, [channel, position]) => sum + keyBytes(channel, position), 0) <= bytes;
  }

  /** The keys of these channels had no room, so what is replayed of them may be known already. */
  skipTo(channels: string[]): void {
    for (const channel of channels) {
      const position = this.#at.get(channel);
      if (position) this.#floors.set(channel, position.offset);
    }
  }

  /** The gateway stated a position. */
  state(channel: string, position: Position): void {
    this.#epoch = position.epoch;
    // Of a channel whose key had no room, the gateway replays what is known already.
    const floor = this.#floors.get(channel);
    if (floor === undefined || this.#at.get(channel)?.epoch !== position.epoch || floor <= position.offset) {
      this.#floors.delete(channel);
      this.#at.set(channel, position);
    }
  }

  /** Whether a channel's position is of another epoch than the one that the gateway states now. */
  isOfOtherEpoch(channel: string, epoch: string): boolean {
    const position = this.#at.get(channel);
    return position !== undefined && position.epoch !== epoch;
  }

  /** A channel could not be recovered, so nothing of it is known any more. */
  unrecovered(channel: string): void {
    this.#floors.delete(channel);
    this.#at.delete(channel);
  }

  /** Whether an event was delivered before. */
  isKnownEvent(channel: string, offset: number): boolean {
    const floor = this.#floors.get(channel);
    return floor !== undefined && offset <= floor;
  }

  /** An event was handled. */
  advance(channel: string, offset: number): void {
    const before = this.#at.get(channel);
    const epoch = this.#epoch ?? "";
    if (!before || before.epoch !== epoch || before.offset < offset) this.#at.set(channel, { epoch, offset });
  }

  /** Whether the epoch of this connection is unknown and has to be asked for; it counts as asked for then. */
  mustAskEpoch(): boolean {
    if (this.#epoch !== undefined) return false;
    this.#epoch = "";
    return true;
  }

  /** The epoch was learned from a `history` answer. */
  learn(epoch: string): void {
    this.#epoch = epoch;
    for (const [channel, position] of this.#at) {
      if (position.epoch === "") this.#at.set(channel, { epoch, offset: position.offset });
    }
  }

  /** The epoch could not be learned; the next event or subscription asks again. */
  unlearned(): void {
    if (this.#epoch === "") this.#epoch = undefined;
  }

  save(): Saved {
    const complete = [...this.#at].filter(([, position]) => position.epoch !== "");
    return { patterns: [...this.known], positions: Object.fromEntries(complete) };
  }

  restore(saved: Saved): void {
    for (const pattern of saved.patterns) this.known.add(pattern);
    for (const [channel, position] of Object.entries(saved.positions)) {
      if (!this.#at.has(channel) && this.#isKnown(channel)) this.#at.set(channel, position);
    }
  }
}

function keyBytes(channel: string, { epoch, offset }: Position): number {
  return utf8Length(JSON.stringify(channel)) + epoch.length + String(offset).length + 29;
}
