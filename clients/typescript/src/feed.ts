import type { Cache } from "./cache.js";
import type { Clock } from "./clock.js";
import { RequestRefused } from "./errors.js";
import type { Host } from "./host.js";
import type { Positions } from "./positions.js";
import type { Plan, Registry } from "./registry.js";
import { refusal, type Requests } from "./requests.js";
import type { Stats, TickEvent } from "./types.js";

/** Subscribes for the {@link Registry}, and brings events to its subscribers. */
export class Feed {
  readonly #host: Host;
  readonly #connection: () => number;
  readonly #registry: Registry;
  readonly #positions: Positions;
  readonly #cache: Cache;
  readonly #requests: Requests;
  readonly #clock: Clock;
  readonly stats: Pick<Stats, "lagMs" | "dropped" | "events"> = { lagMs: undefined, dropped: 0, events: 0 };
  /** Nothing is asked for before this time, after the gateway postponed a request. */
  subscribeAt = 0;

  /** `connection` tells the number of this connection; 0 while there is none. */
  constructor(host: Host, connection: () => number, registry: Registry, positions: Positions, cache: Cache, requests: Requests, clock: Clock) {
    this.#host = host;
    this.#connection = connection;
    this.#registry = registry;
    this.#positions = positions;
    this.#cache = cache;
    this.#requests = requests;
    this.#clock = clock;
  }

  /** Gives back and asks for what has changed. */
  flush(): void {
    const leaving = this.#registry.leave();
    if (leaving) this.#unsubscribe(leaving.channels);
    if (this.#host.now() < this.subscribeAt) return;
    for (const plan of this.#registry.paces()) this.#pace(plan);
    const asking = this.#registry.ask();
    if (!asking) return;
    this.#subscribe(asking, (message, error) => {
      if (!error) {
        for (const handle of this.#registry.confirmed(message.data ?? {}, this.#connection())) handle.confirm();
      } else if (this.#isPostponed(error)) {
        this.#registry.postponed();
      } else {
        this.#registry.refused(error);
      }
    });
  }

  // Changes the rate of a pattern that is held. A refusal changes nothing.
  #pace(plan: Plan): void {
    this.#subscribe(plan, (_, error) => {
      const outcome = !error ? "done" : this.#isPostponed(error) ? "again" : "refused";
      this.#registry.paced(plan.channels[0]!, outcome);
      if (outcome === "refused") this.#host.report(error);
    });
  }

  #subscribe({ type, channels, cursor, rate }: Plan, answered: (message: any, error: RequestRefused | undefined) => void): void {
    const write = (id: string): string => this.#host.stringify({ type, channels, cursor, max_rate: rate, id });
    this.#requests.add("s", write, Infinity, (outcome) => {
      if (outcome.type !== "answer") return;
      answered(outcome.message, refusal(outcome.message));
      this.#host.soon();
    });
  }

  #isPostponed({ code, retryAfterMs = 1000 }: RequestRefused): boolean {
    const isPostponed = ["RATE_LIMITED", "OVERLOADED", "UNAUTHENTICATED", "INTERNAL"].includes(code);
    if (isPostponed) this.subscribeAt = this.#host.now() + retryAfterMs;
    return isPostponed;
  }

  #unsubscribe(channels: string[]): void {
    this.#requests.add("u", (id) => this.#host.stringify({ type: "unsubscribe", channels, id }), Infinity, (outcome) => {
      if (outcome.type !== "answer") return;
      // The send limit makes this rare. The gateway still holds the patterns, so it is asked again.
      if (refusal(outcome.message)) this.#unsubscribe(channels);
      else this.#registry.left(channels);
      this.#host.soon();
    });
  }

  /** An event came. */
  event(message: any): void {
    const { channel, event } = message;
    const data = message.data ?? null;
    const offset = message.offset === undefined ? undefined : Number(message.offset);
    const timestamp = Number(message.timestamp);
    const isSnapshot = message.snapshot === true;
    this.stats.events += 1;
    const handles = this.#registry.route(channel);
    if (handles.length === 0 || (offset !== undefined && !isSnapshot && this.#positions.has(channel, offset))) return;
    if (!isSnapshot) this.stats.lagMs = this.#clock.ageOf(timestamp);
    const tick: TickEvent<any> = { channel, event, data, timestamp, offset, isSnapshot };
    this.#cache.put(tick, this.#connection());
    const connection = this.#connection();
    for (const handle of handles) handle.deliver(tick);
    // A listener may have given the pattern back. If it has ended the connection, the event comes again after the cursor.
    const isHeld = this.#connection() === connection ? this.#registry.route(channel).length > 0 : this.#positions.covers(channel);
    if (offset === undefined || !isHeld) return;
    this.#positions.advance(channel, offset);
    this.#host.dirty();
  }

  /** The gateway dropped events, since this client read too slowly. */
  dropped(data: any): void {
    const channels: string[] = data?.channels ?? [];
    const count = Number(data?.count ?? 0);
    this.stats.dropped += count;
    // The gateway names up to 32 channels.
    for (const handle of this.#registry.handles()) handle.gap("dropped", channels, channels.length < 32);
  }

  /** Channels became silent, or go on. */
  freshness(type: "stale" | "fresh", data: any): void {
    const channels: string[] = data?.channels ?? [];
    for (const handle of this.#registry.handles()) handle.freshness(type, channels, Number(data?.count) <= channels.length);
  }

  /** Patterns were given back, or taken away. */
  unsubscribed(message: any): void {
    if (message.id !== undefined && this.#requests.answer(message.id, message)) return;
    for (const pattern of message.data?.channels ?? []) {
      this.#registry.end(pattern, new RequestRefused("FORBIDDEN", `"${pattern}" was taken away: the new token does not allow it`));
    }
    this.#host.dirty();
  }
}
