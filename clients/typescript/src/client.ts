import { Core } from "./core.js";
import { Emitter } from "./emitter.js";
import { TickgateError } from "./errors.js";
import { SavedPositions } from "./saved.js";
import type { SubscribeOptions, Subscription } from "./subscription.js";
import type {
  ClientOptions, CommandOptions, CommandStatus, HistoryOptions, HistoryPage, Published, State, StateChange, Stats, TickEvent, WebSocketClass,
} from "./types.js";

/** What a client may tell. */
export interface ClientEvents {
  /** The state of the connection changed. */
  state: StateChange;
  /**
   * Something failed that belongs to no call: a listener threw, a refresh of the token failed, the gateway reported an
   * error. Without a listener it goes to `reportError` or the console.
   */
  error: unknown;
}

/** The answer to a question for a token must come within this time. */
const TOKEN_PATIENCE_MS = 30_000;

/** The longest time that `setTimeout` takes. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;

/** How long `close` waits for the gateway's part of the closing handshake. */
const CLOSE_PATIENCE_MS = 1_000;

type Socket = InstanceType<WebSocketClass>;

/**
 * Makes a client. It does not connect by itself; subscriptions may be made before.
 *
 * @throws TypeError if `url` is no WebSocket URL, or there is no WebSocket class.
 */
export function createClient(options: ClientOptions): Client {
  return new Client(options);
}

/** A connection to the gateway that comes back by itself. Made by {@link createClient}. */
export class Client {
  readonly #options: ClientOptions;
  readonly #core: Core;
  readonly #emitter: Emitter<ClientEvents>;
  readonly #saved: SavedPositions | undefined;
  #socket: Socket | undefined;
  #closing: Promise<void> = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isSoon = false;
  #hasErrorListener = false;
  #status: StateChange = { state: "idle", code: undefined, reason: "", retryAt: undefined, final: false };
  #stopWatching: (() => void) | undefined;
  readonly #connecting = new Set<{ resolve: () => void; reject: (error: unknown) => void }>();

  /** @internal */
  constructor(options: ClientOptions) {
    const { protocol } = new URL(options.url);
    if (!/^wss?:$/.test(protocol)) throw new TypeError(`\`url\` must begin with ws: or wss:, not ${protocol}`);
    const Class = options.WebSocket ?? (globalThis.WebSocket as WebSocketClass | undefined);
    if (!Class) throw new TypeError("there is no WebSocket class here: give one as `WebSocket`, such as that of npm `ws`");
    this.#options = options;
    this.#emitter = new Emitter(reportToConsole);
    const parse = options.parse ?? JSON.parse;
    const { storage, getToken } = options;
    const host = {
      now: () => performance.now(),
      wallNow: () => Date.now(),
      random: () => Math.random(),
      wake: (at: number) => this.#wake(at),
      soon: () => this.#soon(),
      open: () => this.#open(Class),
      send: (text: string) => this.#socket?.send(text),
      shut: () => this.#shut(),
      askToken: () => this.#askToken(getToken!),
      load: (user: string) => void this.#saved?.load(user).then((saved) => this.#core.restored(user, saved)),
      dirty: () => this.#saved?.dirty(this.#core.user),
      parse: (text: string) => parse(text),
      stringify: options.stringify ?? JSON.stringify,
      changed: (change: StateChange) => this.#changed(change),
      report: (error: unknown) => this.#report(error),
    };
    this.#core = new Core(host, {
      canAsk: getToken !== undefined,
      token: options.token ?? null,
      isStored: storage !== undefined,
      maxPatterns: options.maxPatterns ?? 50,
      messagesPerSecond: options.messagesPerSecond ?? 90,
      maxMessageBytes: options.maxMessageBytes ?? 65_536,
      cacheChannels: options.cacheChannels ?? 10_000,
      recordKeys: options.recordKeys ?? ["code"],
      pingInterval: options.pingInterval ?? 30_000,
      pongTimeout: options.pongTimeout ?? 10_000,
      connectTimeout: options.connectTimeout ?? 10_000,
    });
    if (storage) this.#saved = new SavedPositions(storage, options.url, options.tab, () => this.#core.saved(), host.report);
  }

  /** The state of the connection. */
  get state(): State {
    return this.#core.state;
  }

  /** The state with its reason. The object is the same until the state changes. */
  get status(): StateChange {
    return this.#status;
  }

  /** Figures since the client was created. */
  stats(): Stats {
    return this.#core.stats;
  }

  /** Adds a listener; the returned function removes it. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (value: ClientEvents[Name]) => void): () => void {
    if (name === "error") this.#hasErrorListener = true;
    return this.#emitter.on(name, listener);
  }

  /**
   * Connects, and stays connected until {@link close} or a final refusal. While the client waits for its next try, it tries
   * now. Resolves when the connection is live. Rejects when the client is closed before, with the code and reason of that, or
   * when `signal` aborts; a signal that aborts while nobody else waits closes the client.
   */
  connect({ signal }: { signal?: AbortSignal } = {}): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.state === "live") return Promise.resolve();
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        this.#connecting.delete(waiter);
        if (this.#connecting.size === 0) this.#core.close(false);
        reject(signal?.reason);
      };
      const settled = (settle: (value?: any) => void) => (value?: unknown) => {
        signal?.removeEventListener("abort", abort);
        settle(value);
      };
      const waiter = { resolve: settled(resolve), reject: settled(reject) };
      this.#connecting.add(waiter);
      signal?.addEventListener("abort", abort);
      this.#watch();
      this.#core.connect();
    });
  }

  /**
   * Closes the connection, and stays closed until {@link connect}. Subscriptions remain and continue then. With `forget`,
   * the token, the positions and the cache are dropped, also in `storage`: use it when the user logs out.
   */
  async close({ forget = false }: { forget?: boolean } = {}): Promise<void> {
    const { user } = this.#core;
    this.#core.close(forget);
    await Promise.all([this.#closing, forget ? this.#saved?.forget(user) : this.#saved?.flush()]);
  }

  /**
   * Subscribes to the channels that a pattern matches. Identical patterns share one subscription of the gateway; a late
   * subscriber gets last values and records from the client's cache, as snapshots.
   */
  subscribe<T = any>(pattern: string, options: SubscribeOptions = {}): Subscription<T> {
    return this.#core.subscribe<T>(pattern, options);
  }

  /**
   * Sends a command and waits for its answer. It is sent once or not at all, and only while the connection is live. With a
   * `key`, the call may be made again: the gateway carries the command out once.
   *
   * @throws {@link CommandRefused} if it was surely not carried out; {@link OutcomeUnknown} if nobody knows.
   */
  command<R = any>(action: string, params?: unknown, { key, traceparent, timeout = 30_000, signal }: CommandOptions = {}): Promise<R> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    return new Promise<any>((resolve, reject) => {
      let abort = (): void => {};
      const settled = (settle: (value: any) => void) => (value: any) => {
        signal?.removeEventListener("abort", abort);
        settle(value);
      };
      abort = this.#core.calls.command(action, params ?? null, timeout, { resolve: settled(({ data }) => resolve(data)), reject: settled(reject) }, key, traceparent);
      signal?.addEventListener("abort", abort);
    });
  }

  /**
   * Asks how the command with a key ended, without sending it again.
   *
   * @throws {@link RequestRefused}, with `UNKNOWN_KEY` if the gateway has forgotten the key or never saw it. The command may
   * have been carried out all the same.
   */
  commandStatus<R = any>(key: string, { timeout = 30_000 }: { timeout?: number } = {}): Promise<CommandStatus<R>> {
    return new Promise((resolve, reject) => {
      this.#core.calls.commandStatus(key, timeout, { resolve: ({ data }: any) => resolve(data), reject });
    });
  }

  /**
   * Publishes an event, for clients whose token allows it. It is sent once or not at all.
   *
   * @throws {@link RequestRefused} if it was surely not published; {@link OutcomeUnknown} if nobody knows.
   */
  publish(channel: string, event: string, data: unknown, { timeout = 30_000 }: { timeout?: number } = {}): Promise<Published> {
    return new Promise((resolve, reject) => {
      const answered = ({ data: at }: any): void => resolve({ epoch: at?.epoch, offset: numeric(at?.offset) });
      this.#core.calls.publish(channel, event, data, timeout, { resolve: answered, reject });
    });
  }

  /**
   * Reads what is kept of a channel's history, without a subscription.
   *
   * @throws {@link RequestRefused}
   */
  history<T = any>(channel: string, { timeout = 30_000, ...options }: HistoryOptions = {}): Promise<HistoryPage<T>> {
    return new Promise((resolve, reject) => {
      const answered = ({ data }: any): void => resolve({
        epoch: data.epoch,
        events: (data.events ?? []).map((event: any): TickEvent<T> => ({
          channel: event.channel, event: event.event, data: event.data ?? null,
          timestamp: Number(event.timestamp), offset: numeric(event.offset), isSnapshot: false,
        })),
        complete: data.complete === true,
        offset: numeric(data.offset),
        more: data.more === true,
      });
      this.#core.calls.history(channel, options, timeout, { resolve: answered, reject });
    });
  }

  /**
   * Uses another token from now on, at once if connected. With a token of another user, the connection is replaced.
   * `null` ends the session of the user: positions and cache are dropped, and the connection is replaced by one with a
   * token of `getToken`, or without a token.
   */
  setToken(token: string | null): void {
    this.#core.setToken(token);
  }

  // -- What the core asks for ---------------------------------------------------------------------------------------

  #wake(at: number): void {
    clearTimeout(this.#timer);
    if (at === Infinity) return;
    this.#timer = setTimeout(() => this.#core.woke(), Math.min(Math.max(0, at - performance.now()), TIMEOUT_MAX_MS));
  }

  #soon(): void {
    if (this.#isSoon) return;
    this.#isSoon = true;
    later(() => {
      this.#isSoon = false;
      this.#core.turn();
    });
  }

  #open(Class: WebSocketClass): void {
    let socket: Socket;
    try {
      socket = new Class(this.#options.url);
    } catch (error) {
      later(() => this.#core.ended(1006, String(error)));
      return;
    }
    this.#socket = socket;
    socket.onopen = () => this.#socket === socket && this.#core.opened();
    socket.onmessage = ({ data }) => this.#socket === socket && typeof data === "string" && this.#core.received(data);
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      this.#core.ended(Number(code), String(reason));
    };
  }

  #shut(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    this.#closing = new Promise((resolve) => {
      const patience = setTimeout(resolve, CLOSE_PATIENCE_MS);
      socket.onclose = () => {
        clearTimeout(patience);
        resolve();
      };
    });
    socket.close(1000);
  }

  #askToken(getToken: NonNullable<ClientOptions["getToken"]>): void {
    const controller = new AbortController();
    let patience: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      patience = setTimeout(() => {
        const error = new TickgateError("TIMEOUT", `no token within ${TOKEN_PATIENCE_MS} ms`);
        controller.abort(error);
        reject(error);
      }, TOKEN_PATIENCE_MS);
    });
    const asked = new Promise<string | null>((resolve) => resolve(getToken({ signal: controller.signal })));
    void Promise.race([asked, late]).finally(() => clearTimeout(patience)).then(
      (token) => this.#core.gotToken(token ?? null),
      (error) => this.#core.tokenFailed(error),
    );
  }

  #changed(change: StateChange): void {
    this.#status = change;
    const waiting = change.state === "live" || change.state === "closed" ? [...this.#connecting] : [];
    if (waiting.length > 0) this.#connecting.clear();
    for (const { resolve, reject } of waiting) {
      if (change.state === "live") resolve();
      else reject(new TickgateError(String(change.code), change.reason || "closed"));
    }
    if (change.state === "closed") {
      this.#stopWatching?.();
      this.#stopWatching = undefined;
    }
    this.#emitter.emit("state", change);
  }

  #report(error: unknown): void {
    if (this.#hasErrorListener) this.#emitter.emit("error", error);
    else reportToConsole(error);
  }

  // In a browser: comes back when the network or the page does.
  #watch(): void {
    const page = globalThis.document as Document | undefined;
    if (!page || this.#stopWatching) return;
    const controller = new AbortController();
    const { signal } = controller;
    const resumed = (): void => this.#core.resumed();
    addEventListener("online", resumed, { signal });
    addEventListener("offline", () => this.#core.probe(), { signal });
    addEventListener("pageshow", resumed, { signal });
    addEventListener("pagehide", () => void this.#saved?.flush(), { signal });
    page.addEventListener("visibilitychange", () => {
      if (page.visibilityState === "visible") resumed();
      else void this.#saved?.flush();
    }, { signal });
    this.#stopWatching = () => controller.abort();
  }
}

function numeric(value: unknown): number | undefined {
  return value === undefined || value === null ? undefined : Number(value);
}

function reportToConsole(error: unknown): void {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

// Runs a function behind the tasks that are due. A timer would be throttled in a background tab.
function later(run: () => void): void {
  const { setImmediate } = globalThis as { setImmediate?: (run: () => void) => unknown };
  if (setImmediate) return void setImmediate(run);
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    run();
  };
  port2.postMessage(null);
}
