/**
 * The interface of the platform's `ZigQuantWebSocket` class, on top of this client, for applications that use that class.
 *
 * @packageDocumentation
 */
import { createClient, type Client } from "./client.js";
import { CommandRefused } from "./errors.js";
import { matches } from "./pattern.js";
import type { Subscription } from "./subscription.js";
import type { ClientOptions, TickEvent } from "./types.js";

/** Gets the `data` of an event. */
export type Handler = (data: any) => void;

/** Six methods, as applications know them. What they did wrong before is mended; see `docs/clients.md`. */
export class ZigQuantWebSocket {
  readonly #options: Partial<ClientOptions>;
  #client: Client | undefined;
  readonly #wanted = new Set<string>();
  readonly #subscriptions = new Map<string, Subscription<any>>();
  readonly #handlers = new Set<{ pattern: string; handler: Handler }>();
  // An event that several patterns match reaches each handler once.
  readonly #delivered = new WeakSet<TickEvent<any>>();

  /** `url` may be given here or to {@link connect}; `options` are those of the client beneath. */
  constructor(url?: string, options: Partial<ClientOptions> = {}) {
    this.#options = url === undefined ? options : { ...options, url };
  }

  /** The client beneath, once {@link connect} was called. */
  get client(): Client | undefined {
    return this.#client;
  }

  /** Connects; resolves when the gateway has accepted the token. The connection comes back by itself. */
  async connect(url?: string, token?: string): Promise<void> {
    this.disconnect();
    const options = { ...this.#options, ...(url !== undefined && { url }), ...(token !== undefined && { token }) };
    if (options.url === undefined) throw new TypeError("give a `url`");
    this.#client = createClient(options as ClientOptions);
    for (const pattern of this.#wanted) this.#open(pattern);
    await this.#client.connect();
  }

  subscribe(channels: string[]): void {
    for (const pattern of channels) {
      this.#wanted.add(pattern);
      this.#open(pattern);
    }
  }

  unsubscribe(channels: string[]): void {
    for (const pattern of channels) {
      this.#wanted.delete(pattern);
      this.#subscriptions.get(pattern)?.unsubscribe();
      this.#subscriptions.delete(pattern);
    }
  }

  /** Calls the handler with the `data` of each event whose channel the pattern matches. Returns a function that removes it. */
  on(channel: string, handler: Handler): () => void {
    const entry = { pattern: channel, handler };
    this.#handlers.add(entry);
    return () => void this.#handlers.delete(entry);
  }

  /** Sends a command, once or not at all. Rejects with an error that has `code` and `message`. */
  command<R = any>(action: string, params: unknown): Promise<R> {
    if (!this.#client) return Promise.reject(new CommandRefused("NOT_CONNECTED", "call `connect` first; nothing was sent"));
    return this.#client.command<R>(action, params);
  }

  disconnect(): void {
    void this.#client?.close();
    this.#client = undefined;
    this.#subscriptions.clear();
  }

  #open(pattern: string): void {
    if (!this.#client || this.#subscriptions.has(pattern)) return;
    const subscription = this.#client.subscribe(pattern);
    this.#subscriptions.set(pattern, subscription);
    subscription.on("event", (event) => this.#deliver(event));
  }

  #deliver(event: TickEvent<any>): void {
    if (this.#delivered.has(event)) return;
    this.#delivered.add(event);
    for (const { pattern, handler } of [...this.#handlers]) {
      if (matches(pattern, event.channel)) call(handler, event.data);
    }
  }
}

// One handler that throws does not keep the others from their event.
function call(handler: Handler, data: unknown): void {
  try {
    handler(data);
  } catch (error) {
    if (typeof reportError === "function") reportError(error);
    else console.error(error);
  }
}
