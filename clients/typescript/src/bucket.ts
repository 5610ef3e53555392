/** A token bucket: `rate` messages per second, bursts of `rate`. */
export class Bucket {
  readonly #rate: number;
  #left: number;
  #at = 0;

  constructor(rate: number) {
    this.#rate = rate;
    this.#left = rate;
  }

  /** Fills the bucket, as for a new connection. */
  fill(now: number): void {
    this.#left = this.#rate;
    this.#at = now;
  }

  /** Takes one message; `false` if there is none. */
  take(now: number): boolean {
    this.#left = Math.min(this.#rate, this.#left + ((now - this.#at) * this.#rate) / 1000);
    this.#at = now;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }

  /** When the next message is available. */
  nextAt(now: number): number {
    return now + Math.ceil(((1 - this.#left) * 1000) / this.#rate);
  }
}
