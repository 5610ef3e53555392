import type { Host } from "./host.js";

/** Measures round trips, and by how much the gateway's clock and this machine's differ. */
export class Clock {
  readonly #host: Host;
  // The gateway's clock minus this machine's.
  #offset = 0;
  #sent: { id: string; at: number } | undefined;
  /** The last round trip, in milliseconds; `undefined` before the first answer. */
  roundTripMs: number | undefined;

  constructor(host: Host) {
    this.#host = host;
  }

  /** Sends a ping. A pong to an earlier one counts no more. */
  ping(): void {
    const at = this.#host.now();
    this.#sent = { id: `g${at}`, at };
    this.#host.send(this.#host.stringify({ type: "ping", id: this.#sent.id }));
  }

  pong(message: { id?: unknown; timestamp?: unknown }): void {
    if (this.#sent?.id === String(message.id)) this.answered(this.#sent.at, message);
  }

  /** Something that was sent at this time is answered. */
  answered(at: number, { timestamp }: { timestamp?: unknown }): void {
    this.roundTripMs = this.#host.now() - at;
    this.#offset = Number(timestamp) + this.roundTripMs / 2 - this.#host.wallNow();
  }

  /** The connection is gone, and its pongs with it. */
  forget(): void {
    this.#sent = undefined;
  }

  /** The age of something with this time of the gateway's clock, in milliseconds, at least 0. */
  ageOf(timestamp: number): number {
    return Math.max(0, this.#host.wallNow() + this.#offset - timestamp);
  }
}
