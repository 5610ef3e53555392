import { backOff } from "./advice.js";
import type { Host } from "./host.js";

/** Refresh this long before the token ends, or at half of its time if that is less. */
const REFRESH_BEFORE_MS = 60_000;

/** So many new tokens may be refused in a row before the client gives up. */
const REFUSED_MAX = 3;

/** The token: what is known of it, and when to ask for the next one. One question is under way at a time. */
export class Credentials {
  token: string | null;
  readonly #host: Host;
  readonly #canAsk: boolean;
  #isAsking = false;
  // The application set a token after the question, so the answer counts no more.
  #ignoresAnswer = false;
  // The gateway refused the token, or it ended.
  #isBad = false;
  // Nobody has given an answer yet, or `setToken(null)` made the last one void.
  #isUnasked = true;
  #failures = 0;
  #refused = 0;
  #endsAt = Infinity;
  #refreshAt = Infinity;

  constructor(host: Host, canAsk: boolean, token: string | null) {
    this.#host = host;
    this.#canAsk = canAsk;
    this.token = token;
    this.#isUnasked = token === null;
  }

  /** Whether a connection has to wait for a new token. */
  get isNeeded(): boolean {
    return this.#canAsk && (this.#isBad || this.#isUnasked || this.#host.now() >= this.#endsAt);
  }

  /** Whether coming back with another token is possible. */
  get canAsk(): boolean {
    return this.#canAsk;
  }

  /** Whether the gateway refused the present token. */
  get isBad(): boolean {
    return this.#isBad;
  }

  ask(): void {
    this.#refreshAt = Infinity;
    if (this.#isAsking || !this.#canAsk) return;
    this.#isAsking = true;
    this.#host.askToken();
  }

  /** An answer came. Returns `false` if it counts no more; then another one may have to be asked for. */
  got(token: string | null): boolean {
    this.#isAsking = false;
    if (this.#ignoresAnswer) {
      this.#ignoresAnswer = false;
      return false;
    }
    this.#take(token);
    return true;
  }

  /** Asking failed. Returns the time to wait; `undefined` if the answer counts no more. */
  failed(): number | undefined {
    this.#isAsking = false;
    if (this.#ignoresAnswer) {
      this.#ignoresAnswer = false;
      return undefined;
    }
    const wait = backOff(this.#failures++, this.#host.random());
    this.#refreshAt = this.#host.now() + wait;
    return wait;
  }

  /** The application gave a token; `null`: the next one has to be asked for. */
  set(token: string | null): void {
    this.#ignoresAnswer = this.#isAsking;
    this.#refused = 0;
    this.#take(token);
    this.#isUnasked = token === null;
  }

  #take(token: string | null): void {
    this.token = token;
    this.#isBad = this.#isUnasked = false;
    this.#endsAt = this.#refreshAt = Infinity;
  }

  /** The gateway accepted the token, which ends in `leftMs`. */
  accepted(leftMs: number): void {
    this.#refused = this.#failures = 0;
    this.#isBad = false;
    if (!Number.isFinite(leftMs)) return;
    const now = this.#host.now();
    this.#endsAt = now + leftMs;
    this.#refreshAt = now + Math.max(leftMs - REFRESH_BEFORE_MS, leftMs / 2);
  }

  /** The gateway refused the token. Returns whether to give up. */
  refused(): boolean {
    this.#isBad = true;
    this.#refused += 1;
    return !this.#canAsk || this.#refused > REFUSED_MAX;
  }

  /** A refresh failed; the token before stays in force. Another one is asked for later. */
  refreshFailed(isTokenBad: boolean): void {
    this.#isBad ||= isTokenBad;
    this.#refreshAt = this.#host.now() + backOff(++this.#failures, this.#host.random());
  }

  /** When to ask for the next token while connected. */
  refreshAt(): number {
    return this.#canAsk ? this.#refreshAt : Infinity;
  }
}
