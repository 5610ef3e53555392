import { matches } from "./pattern.js";

/** What is kept over page reloads. */
export interface Saved {
  /** The cursor of each pattern. */
  cursors: Record<string, string>;
  /** The newest offset of each channel with a history. */
  offsets: Record<string, number>;
}

/**
 * Up to when this client had everything, over all connections.
 *
 * Invariant: a pattern has a cursor only while it is held, or waits to come back, without interruption. Without that, the
 * cursor would claim events that the client never got.
 */
export class Positions {
  readonly #cursors = new Map<string, string>();
  // What came behind the message with the cursor comes again, so events up to here are dropped.
  readonly #offsets = new Map<string, number>();
  // Of patterns that were saved and have not come back.
  readonly #saved = new Map<string, number>();

  /** The connection ended: channels without a cursor begin anew. */
  lost(): void {
    for (const channel of this.#offsets.keys()) if (!this.covers(channel)) this.#offsets.delete(channel);
  }

  forget(): void {
    for (const map of [this.#cursors, this.#offsets, this.#saved]) map.clear();
  }

  /** The cursor that a pattern comes back with. */
  cursorOf(pattern: string): string | undefined {
    return this.#cursors.get(pattern);
  }

  /** A message told up to when the patterns had everything. */
  reached(cursor: string, patterns: string[]): void {
    for (const pattern of patterns) this.#cursors.set(pattern, cursor);
  }

  /** A pattern was given up, by this client or the gateway. */
  leave(pattern: string): void {
    if (this.#cursors.delete(pattern)) this.lost();
  }

  /** Whether a pattern with a cursor matches. */
  covers(channel: string): boolean {
    return [...this.#cursors.keys()].some((pattern) => matches(pattern, channel));
  }

  /** A pattern comes back. */
  returns(pattern: string): void {
    for (const [channel, offset] of this.#saved) {
      if (matches(pattern, channel) && this.#saved.delete(channel)) this.advance(channel, offset);
    }
  }

  /** Nothing is known of the channels of a pattern any more: their offsets may begin anew. */
  beginAnew(pattern: string): void {
    for (const channel of this.#offsets.keys()) if (matches(pattern, channel)) this.state(channel, 0);
  }

  /** The client is here in a channel, whatever it had before. */
  state(channel: string, offset: number): void {
    this.#offsets.set(channel, offset);
  }

  /** An event was handled. */
  advance(channel: string, offset: number): void {
    if (!this.has(channel, offset)) this.state(channel, offset);
  }

  /** Whether an event was delivered before. */
  has(channel: string, offset: number): boolean {
    return offset <= (this.#offsets.get(channel) ?? -1);
  }

  /** Whether the channel is known to have a history. */
  hasHistory(channel: string): boolean {
    return this.#offsets.has(channel);
  }

  save(): Saved {
    const offsets = Object.fromEntries([...this.#saved, ...this.#offsets].filter(([channel]) => this.covers(channel)));
    return { cursors: Object.fromEntries(this.#cursors), offsets };
  }

  restore({ cursors, offsets }: Saved): void {
    for (const [pattern, cursor] of Object.entries(cursors)) if (!this.#cursors.has(pattern)) this.#cursors.set(pattern, cursor);
    for (const [channel, offset] of Object.entries(offsets)) this.#saved.set(channel, offset);
  }
}
