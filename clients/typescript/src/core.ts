import { adviceOf, backOff, slowBackOff } from "./advice.js";
import { Bucket } from "./bucket.js";
import { Cache } from "./cache.js";
import { Calls } from "./calls.js";
import { Clock } from "./clock.js";
import { Credentials } from "./credentials.js";
import { RequestRefused, TickgateError, TokenRefused } from "./errors.js";
import { Feed } from "./feed.js";
import { Heartbeat, LATE_MS } from "./heartbeat.js";
import type { Host, Saved, Settings } from "./host.js";
import { isPattern } from "./pattern.js";
import { Positions } from "./positions.js";
import { Registry } from "./registry.js";
import { Requests, refusal } from "./requests.js";
import { Subscription, checkRate, type Owner, type SubscribeOptions } from "./subscription.js";
import type { State, Stats } from "./types.js";

// `token`: a token is asked for; `restoring`: saved positions are read.
type Phase = "idle" | "token" | "opening" | "auth" | "restoring" | "open" | "waiting" | "closed";

/** A connection that lived this long was a success: the next back-off begins anew. */
const STABLE_MS = 10_000;

/**
 * The client without its surroundings: inputs are method calls, outputs are calls of the {@link Host}. With a virtual
 * clock and seeded random numbers, a run can be repeated.
 */
export class Core implements Owner {
  readonly #host: Host;
  readonly #settings: Settings;
  readonly cache: Cache;
  readonly #positions = new Positions();
  readonly #registry: Registry;
  readonly #requests = new Requests();
  /** The requests of the application. */
  readonly calls: Calls;
  readonly #bucket: Bucket;
  readonly #heartbeat: Heartbeat;
  readonly #credentials: Credentials;
  #phase: Phase = "idle";
  #isStalled = false;
  #failures = 0;
  // In `waiting`: the next try. In `opening` to `restoring`: the end of patience.
  #timer = Infinity;
  // The gateway asked not to come back before.
  #notBefore = 0;
  #reconnectAfter: number | undefined;
  #liveSince = 0;
  #connections = 0;
  #wakeAt = Infinity;
  #looksAgain = false;
  /** The user of the connection, or of the last one; empty: anonymous. */
  user: string | undefined;
  #isRestored = false;
  #releasing: Subscription<any>[] = [];
  readonly #clock: Clock;
  readonly #feed: Feed;

  constructor(host: Host, settings: Settings) {
    this.#host = host;
    this.#settings = settings;
    this.cache = new Cache(settings.cacheChannels, settings.recordKeys);
    this.#registry = new Registry(this.#positions, this.cache, settings.maxPatterns, settings.maxMessageBytes);
    this.calls = new Calls(host, this.#requests, settings.maxMessageBytes, () => this.state, () => {
      this.#drain();
      this.#schedule();
    });
    this.#clock = new Clock(host);
    const connection = (): number => (this.#phase === "open" ? this.#connections : 0);
    this.#feed = new Feed(host, connection, this.#registry, this.#positions, this.cache, this.#requests, this.#clock);
    this.#bucket = new Bucket(settings.messagesPerSecond);
    this.#heartbeat = new Heartbeat(settings.pingInterval, settings.pongTimeout);
    this.#credentials = new Credentials(host, settings.canAsk, settings.token);
  }

  get state(): State {
    switch (this.#phase) {
      case "idle": case "waiting": case "closed": return this.#phase;
      case "open": return this.#isStalled ? "stalled" : "live";
      default: return "connecting";
    }
  }

  get stats(): Stats {
    return { ...this.#feed.stats, roundTripMs: this.#clock.roundTripMs, reconnects: Math.max(0, this.#connections - 1), patterns: this.#registry.size };
  }

  // -- What the application does ------------------------------------------------------------------------------------

  connect(): void {
    if (this.#phase === "idle" || this.#phase === "closed") {
      this.#failures = 0;
      this.#begin();
    } else if (this.#phase === "waiting") {
      this.resumed();
    }
  }

  /** Stays closed until `connect`. */
  close(forget: boolean): void {
    if (forget) {
      this.#credentials.set(null);
      this.#forget();
    }
    if (this.#phase !== "closed") this.#close(1000, "closed by the application", false);
  }

  setToken(token: string | null): void {
    this.#credentials.set(token);
    if (token === null) {
      this.#forget();
      // A connection cannot give back its user.
      if (!["idle", "closed", "waiting"].includes(this.#phase)) {
        this.#drop();
        this.#begin();
      }
    } else if (this.#phase === "token") {
      this.#open();
    } else if (this.#phase === "auth" || this.#phase === "restoring" || this.#phase === "open") {
      this.#authenticate();
    }
  }

  subscribe<T>(pattern: string, options: SubscribeOptions = {}): Subscription<T> {
    const handle = new Subscription<T>(this, pattern, options);
    try {
      if (!isPattern(pattern)) throw new RequestRefused("INVALID_CHANNEL", `"${pattern}" is not a pattern`);
      checkRate(options.maxRate);
      if (this.#registry.add(handle)) {
        this.#registry.welcome(handle, pattern, this.#connections);
        handle.confirm();
      }
    } catch (error) {
      handle.end(error as TickgateError, error as TickgateError);
    }
    this.#host.soon();
    return handle;
  }

  paced(): void {
    this.#host.soon();
  }

  leave(handle: Subscription<any>): void {
    this.#registry.remove(handle);
    handle.end(undefined, new TickgateError("UNSUBSCRIBED", `"${handle.pattern}" was given back before it was confirmed`));
    this.#host.dirty();
    this.#host.soon();
  }

  release(handle: Subscription<any>): void {
    this.#releasing.push(handle);
    this.#host.soon();
  }

  report(error: unknown): void {
    this.#host.report(error);
  }

  dropped(): void {
    this.#feed.stats.dropped += 1;
  }

  saved(): Saved {
    return this.#positions.save();
  }

  // -- What the surroundings tell -----------------------------------------------------------------------------------

  gotToken(token: string | null): void {
    const counts = this.#credentials.got(token);
    if (this.#phase === "token") {
      if (!counts && this.#credentials.isNeeded) this.#credentials.ask();
      else this.#open();
    } else if (counts && this.#phase === "open" && token !== null) {
      this.#authenticate();
    }
    this.#schedule();
  }

  tokenFailed(error: unknown): void {
    const wait = this.#credentials.failed();
    const reason = `getToken failed: ${error instanceof Error ? error.message : String(error)}`;
    if (wait === undefined) {
      if (this.#phase === "token") this.#begin();
    } else if (error instanceof TokenRefused && this.#phase !== "closed" && this.#phase !== "idle") {
      this.#close(error.code, error.message, true);
    } else if (this.#phase === "token") {
      this.#wait(wait, undefined, reason);
    } else if (this.#phase === "open") {
      this.#host.report(new TickgateError("TOKEN_FAILED", reason, { cause: error }));
    }
    this.#schedule();
  }

  opened(): void {
    if (this.#phase !== "opening") return;
    this.#bucket.fill(this.#host.now());
    this.#phase = "auth";
    if (this.#credentials.token === null) this.#askWhoIAm();
    else this.#authenticate();
  }

  ended(code: number, reason: string): void {
    // The application may have closed the client since a socket could not be made.
    if (["idle", "token", "waiting", "closed"].includes(this.#phase)) return;
    const advice = adviceOf(code);
    const lived = this.#phase === "open" && this.#host.now() - this.#liveSince >= STABLE_MS;
    if (lived) this.#failures = 0;
    const random = this.#host.random();
    const after = this.#reconnectAfter;
    this.#drop();
    if (advice === "never") return this.#close(code, reason, true);
    if (advice === "token") {
      if (this.#credentials.token === null && !this.#credentials.isNeeded) {
        return this.#close(code, reason || "the gateway requires a token", true);
      }
      // Without an `auth_result`, as after the end of a token in use, the code alone refuses it.
      if (code !== 4002 && !this.#credentials.isBad && this.#credentials.refused()) return this.#close(code, reason, true);
    }
    let wait = advice === "slowly" ? slowBackOff(this.#failures, random) : backOff(this.#failures, random);
    if (after !== undefined) wait = Math.max(after, this.#failures === 0 ? 0 : wait);
    if (advice === "slowly" || after !== undefined) this.#notBefore = this.#host.now() + wait;
    this.#failures += 1;
    this.#wait(wait, code, reason);
  }

  restored(user: string, saved: Saved | null): void {
    if (this.#phase !== "restoring" || user !== this.user) return;
    if (saved) this.#positions.restore(saved);
    this.#isRestored = true;
    this.#live();
  }

  /** The network or the page came back: connects now, unless the gateway asked to wait. */
  resumed(): void {
    if (this.#phase === "waiting" && this.#host.now() >= this.#notBefore) this.#begin();
    this.probe();
  }

  /** The connection may be gone: asks for a sign of life now. */
  probe(): void {
    this.#heartbeat.probe(this.#host.now());
    this.#schedule();
  }

  /** The timer fired. */
  woke(): void {
    const now = this.#host.now();
    const dueAt = this.#wakeAt;
    this.#wakeAt = Infinity;
    // What a late timer would judge may wait in the queue behind it, so it looks again a little later, once.
    const looksAgain = now - dueAt > LATE_MS && !this.#looksAgain && this.#phase !== "waiting";
    this.#looksAgain = looksAgain;
    if (!looksAgain && now >= this.#timer) {
      this.#timer = Infinity;
      if (this.#phase === "waiting") this.#begin();
      else this.ended(1006, "no connection in time");
    }
    if (this.#phase === "open") {
      const beat = this.#heartbeat.look(now, dueAt);
      if (beat === "ping") {
        this.#bucket.take(now); // A ping does not wait; the limit has room for it.
        this.#clock.ping();
      }
      if (beat === "stalled") this.#stall(true);
      if (beat === "dead") this.ended(1006, "the gateway does not answer");
      if (now >= this.#credentials.refreshAt()) this.#credentials.ask();
    }
    if (!looksAgain) this.#requests.expire(now);
    this.turn();
  }

  /** A task of its own, soon after something was asked for: sends what came together. */
  turn(): void {
    for (const handle of this.#releasing.splice(0)) handle.release();
    if (this.#phase === "open") this.#feed.flush();
    this.#drain();
    this.#schedule();
  }

  /** A message of the gateway. */
  received(text: string): void {
    let message: any;
    try {
      message = this.#host.parse(text);
    } catch (error) {
      this.#host.report(new TickgateError("INVALID_JSON", "a message of the gateway cannot be read", { cause: error }));
      return;
    }
    this.#heartbeat.heard();
    if (this.#isStalled) this.#stall(false);
    switch (message?.type) {
      case "event": this.#feed.event(message); break;
      case "dropped": this.#feed.dropped(message.data); break;
      case "stale": case "fresh": this.#feed.freshness(message.type, message.data); break;
      case "unsubscribed": this.#feed.unsubscribed(message); break;
      case "auth_expiring": this.#credentials.ask(); break;
      case "going_away": this.#reconnectAfter = Number(message.data?.reconnect_after_ms ?? 0); break;
      case "pong": this.#clock.pong(message); break;
      case "auth_result": this.#answer(message) || this.#authResult(message); break;
      case "error": case "subscribed": case "response": case "published": case "history": case "status": this.#answer(message); break;
      default: // Kinds that this client does not know; `ping` is answered by the WebSocket itself.
    }
    // The message may have ended the connection.
    if (message?.cursor && this.#phase === "open") {
      this.#registry.reached(String(message.cursor));
      this.#host.dirty();
    }
    this.#schedule();
  }

  #answer(message: any): boolean {
    if (message.id !== undefined && this.#requests.answer(message.id, message)) return true;
    if (message.type === "error") this.#host.report(refusal(message));
    return false;
  }

  // -- Connecting ---------------------------------------------------------------------------------------------------

  #begin(): void {
    if (this.#credentials.isNeeded) {
      this.#phase = "token";
      this.#timer = Infinity;
      this.#credentials.ask();
      this.#changed();
    } else {
      this.#open();
    }
  }

  #open(): void {
    const wasConnecting = this.state === "connecting";
    this.#phase = "opening";
    this.#timer = this.#host.now() + this.#settings.connectTimeout;
    this.#host.open();
    this.#schedule();
    if (!wasConnecting) this.#changed();
  }

  #authenticate(): void {
    const { token } = this.#credentials;
    const at = this.#host.now();
    this.#requests.add("a", (id) => this.#host.stringify({ type: "auth", token, id }), Infinity, (outcome) => {
      if (outcome.type !== "answer") return;
      this.#clock.answered(at, outcome.message);
      this.#authResult(outcome.message, token);
    });
    this.#drain();
  }

  // Without a token the gateway says nothing by itself. Where it requires one, it refuses this.
  #askWhoIAm(): void {
    const at = this.#host.now();
    this.#requests.add("i", (id) => this.#host.stringify({ type: "get_status", id }), Infinity, (outcome) => {
      if (outcome.type !== "answer" || this.#phase !== "auth") return;
      this.#clock.answered(at, outcome.message);
      const error = refusal(outcome.message);
      if (error) this.#close(error.code, "the gateway requires a token", true);
      else this.#identified(outcome.message.user ?? "");
    });
    this.#drain();
  }

  // `token` is undefined if the answer belongs to no request of this client.
  #authResult(message: any, token?: string | null): void {
    if (this.#phase !== "auth" && this.#phase !== "restoring" && this.#phase !== "open") return;
    if (token !== undefined && token !== this.#credentials.token) return; // Another one is on its way.
    if (message.success) {
      this.#credentials.accepted(Number(message.data?.expires_at ?? NaN) - Number(message.timestamp));
      if (this.#phase === "auth") this.#identified(message.data?.user ?? "");
      else this.#changeUser(message.data?.user ?? "");
      return;
    }
    const error = refusal(message) ?? new RequestRefused("INTERNAL", "authentication failed");
    if (error.code === "AUTH_SUBJECT_MISMATCH") {
      // Another user: nothing of the old connection may reach it.
      this.#drop();
      this.#forget();
      return this.#begin();
    }
    const isTokenBad = error.code === "TOKEN_INVALID" || error.code === "TOKEN_EXPIRED";
    if (this.#phase === "open") {
      // The old token stays in force until it ends.
      this.#credentials.refreshFailed(isTokenBad);
      return this.#host.report(error);
    }
    if (isTokenBad && this.#credentials.refused()) return this.#close(error.code, error.message, true);
    this.#drop();
    const wait = backOff(this.#failures++, this.#host.random());
    this.#wait(Math.max(wait, error.retryAfterMs ?? 0), error.code, error.message);
  }

  #identified(user: string): void {
    this.#changeUser(user);
    if (this.#settings.isStored && !this.#isRestored) {
      this.#phase = "restoring";
      this.#host.load(user);
    } else {
      this.#live();
    }
  }

  #changeUser(user: string): void {
    // Who was anonymous before keeps what it has.
    if (this.user && this.user !== user) this.#forget();
    this.user = user;
  }

  #live(): void {
    const now = this.#host.now();
    this.#phase = "open";
    this.#timer = Infinity;
    this.#liveSince = now;
    this.#connections += 1;
    this.cache.evicted = false;
    this.#heartbeat.start(now);
    this.#changed();
    this.turn();
  }

  // Ends the socket and everything that belongs to it.
  #drop(): void {
    this.#host.shut();
    this.#phase = "waiting";
    this.#isStalled = false;
    this.#timer = Infinity;
    this.#reconnectAfter = undefined;
    this.#feed.subscribeAt = 0;
    this.#clock.forget();
    this.#heartbeat.stop();
    this.#registry.lost();
    this.#requests.lost();
    this.#host.dirty();
  }

  #wait(ms: number, code: number | string | undefined, reason: string): void {
    this.#phase = "waiting";
    this.#timer = this.#host.now() + ms;
    this.#schedule();
    this.#changed(code, reason, this.#host.wallNow() + ms);
  }

  #close(code: number | string, reason: string, final: boolean): void {
    this.#drop();
    this.#phase = "closed";
    this.#schedule();
    const error = new TickgateError("CLOSED", `the client is closed: ${reason || code}`);
    for (const handle of this.#registry.handles()) handle.interrupt(error);
    this.#changed(code, reason, undefined, final);
  }

  #forget(): void {
    this.#registry.forget();
    this.user = undefined;
    this.#isRestored = false;
    this.#host.dirty();
  }

  #changed(code?: number | string, reason = "", retryAt?: number, final = false): void {
    this.#host.changed({ state: this.state, code, reason, retryAt, final });
  }

  #stall(isStalled: boolean): void {
    this.#isStalled = isStalled;
    this.#changed(undefined, isStalled ? "the gateway has not answered a ping" : "");
  }

  // -- Sending ------------------------------------------------------------------------------------------------------

  // Sends what the limit permits.
  #drain(): void {
    if (this.#phase !== "auth" && this.#phase !== "restoring" && this.#phase !== "open") return;
    const now = this.#host.now();
    while (this.#requests.waiting > 0 && this.#bucket.take(now)) {
      const text = this.#requests.next();
      if (text !== undefined) this.#host.send(text);
    }
  }

  #schedule(): void {
    const now = this.#host.now();
    let next = Math.min(this.#timer, this.#requests.nextAt());
    if (this.#phase === "open") {
      next = Math.min(next, this.#heartbeat.nextAt(), this.#credentials.refreshAt());
      if (this.#feed.subscribeAt > now) next = Math.min(next, this.#feed.subscribeAt);
    }
    if (this.#requests.waiting > 0) next = Math.min(next, this.#bucket.nextAt(now));
    if (this.#looksAgain) next = Math.max(next, now + LATE_MS);
    if (next === this.#wakeAt) return;
    this.#wakeAt = next;
    this.#host.wake(next);
  }
}
