import { TickgateError } from "./errors.js";
import type { TickEvent } from "./types.js";

/** How {@link Subscription.events} holds events for a slow loop. */
export interface BufferOptions {
  /** How many events are held; 1000 by default. */
  buffer?: number;
  /**
   * What happens to an event that does not fit:
   * - `conflate` (default): it replaces the held events of its channel; if there are none, the oldest event is dropped.
   *   Replaced events of a history, and replaced arrays of records, are told as a gap, since the newest does not stand for
   *   them.
   * - `drop_oldest`: the oldest event is dropped.
   * - `error`: the loop fails with the code `BUFFER_FULL`.
   */
  overflow?: "conflate" | "drop_oldest" | "error";
  /** Ends the loop. */
  signal?: AbortSignal;
}

interface Hooks {
  dropped: (channels: string[]) => void;
  done: () => void;
}

interface Waiter<T> {
  resolve: (result: IteratorResult<TickEvent<T>>) => void;
  reject: (error: unknown) => void;
}

/** A bounded queue of events that a `for await` loop reads. */
export class EventBuffer<T> implements AsyncIterableIterator<TickEvent<T>> {
  readonly #size: number;
  readonly #overflow: NonNullable<BufferOptions["overflow"]>;
  readonly #hooks: Hooks;
  readonly #signal: AbortSignal | undefined;
  #queue: TickEvent<T>[] = [];
  readonly #waiting: Waiter<T>[] = [];
  #end: { error: unknown } | undefined;

  constructor({ buffer = 1000, overflow = "conflate", signal }: BufferOptions, hooks: Hooks) {
    if (!(buffer >= 1)) throw new RangeError("`buffer` must be at least 1");
    this.#size = buffer;
    this.#overflow = overflow;
    this.#hooks = hooks;
    this.#signal = signal;
    if (signal?.aborted) this.#abort();
    else signal?.addEventListener("abort", this.#abort);
  }

  readonly #abort = (): void => this.end(undefined);

  push(event: TickEvent<T>): void {
    if (this.#end) return;
    const waiter = this.#waiting.shift();
    if (waiter) return waiter.resolve({ done: false, value: event });
    if (this.#queue.length >= this.#size && !this.#makeRoom(event.channel)) return;
    this.#queue.push(event);
  }

  #makeRoom(channel: string): boolean {
    if (this.#overflow === "error") {
      this.#queue = [];
      this.end(new TickgateError("BUFFER_FULL", `the loop is ${this.#size} events behind`));
      return false;
    }
    if (this.#overflow === "conflate") {
      const replaced = this.#queue.filter((event) => event.channel === channel);
      if (replaced.length > 0) {
        this.#queue = this.#queue.filter((event) => event.channel !== channel);
        if (replaced.some(({ offset, data }) => offset !== undefined || Array.isArray(data))) this.#hooks.dropped([channel]);
        return true;
      }
    }
    const oldest = this.#queue.shift();
    if (oldest) this.#hooks.dropped([oldest.channel]);
    return true;
  }

  /** Ends the loop after the events that are held; with an error, the loop throws it. */
  end(error: unknown): void {
    if (this.#end) return;
    this.#end = { error };
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#hooks.done();
    for (const waiter of this.#waiting.splice(0)) this.#finish(waiter);
  }

  #finish({ resolve, reject }: Waiter<T>): void {
    const error = this.#end?.error;
    this.#end = { error: undefined };
    if (error) reject(error);
    else resolve({ done: true, value: undefined });
  }

  next(): Promise<IteratorResult<TickEvent<T>>> {
    return new Promise((resolve, reject) => {
      const value = this.#queue.shift();
      if (value) resolve({ done: false, value });
      else if (this.#end) this.#finish({ resolve, reject });
      else this.#waiting.push({ resolve, reject });
    });
  }

  return(): Promise<IteratorResult<TickEvent<T>>> {
    this.#queue = [];
    this.end(undefined);
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
