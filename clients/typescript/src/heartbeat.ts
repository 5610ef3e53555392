/** What to do after a look at the clock. */
export type Beat = "ping" | "stalled" | "dead" | undefined;

/** A timer that fires later than this was held back: by a background tab, a sleeping machine or a busy thread. */
export const LATE_MS = 1_000;

/**
 * Finds a connection that does not answer. Anything received counts as an answer.
 *
 * A timer that fires late proves nothing: the answer may wait in the same queue. So the first late timer repeats the ping
 * and gives it its full time. If nothing has come by the next timer, however late that one is, the verdict stands.
 */
export class Heartbeat {
  readonly #interval: number;
  readonly #timeout: number;
  #nextPing = Infinity;
  #pingedAt: number | undefined;
  #isStalled = false;
  #gaveGrace = false;

  constructor(interval: number, timeout: number) {
    this.#interval = interval;
    this.#timeout = timeout;
  }

  start(now: number): void {
    this.#nextPing = now + this.#interval;
    this.heard();
  }

  stop(): void {
    this.#nextPing = Infinity;
    this.heard();
  }

  /** Something was received. */
  heard(): void {
    this.#pingedAt = undefined;
    this.#isStalled = this.#gaveGrace = false;
  }

  /** Asks for a ping now: the network or the page came back. */
  probe(now: number): void {
    if (this.#nextPing !== Infinity && this.#pingedAt === undefined) this.#nextPing = now;
  }

  /** The time of the next look. */
  nextAt(): number {
    if (this.#pingedAt === undefined) return this.#nextPing;
    return this.#pingedAt + (this.#isStalled ? this.#timeout : this.#timeout / 2);
  }

  /** Looks at the clock. `dueAt` is the time for which the timer was set. */
  look(now: number, dueAt: number): Beat {
    if (now < this.nextAt()) return undefined;
    if (this.#pingedAt !== undefined) {
      if (now - dueAt <= LATE_MS || this.#gaveGrace) {
        if (now >= this.#pingedAt + this.#timeout) return "dead";
        this.#isStalled = true;
        return "stalled";
      }
      this.#gaveGrace = true;
    }
    this.#pingedAt = now;
    this.#nextPing = now + this.#interval;
    return "ping";
  }
}
