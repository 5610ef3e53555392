/** The state of the connection. See {@link StateChange}. */
export type State = "idle" | "connecting" | "live" | "stalled" | "waiting" | "closed";

/** Why the client is in its state. */
export interface StateChange {
  /**
   * - `idle`: {@link Client.connect} was not called yet.
   * - `connecting`: a connection is being opened, or its token is asked for.
   * - `live`: connected and authenticated.
   * - `stalled`: the gateway has not answered a ping for a while. Becomes `live` or `waiting`.
   * - `waiting`: the connection is lost; the next try is at `retryAt`.
   * - `closed`: the client does not connect again by itself.
   */
  state: State;
  /** The close code, 1000 to 4999, or the code of an error such as `TOKEN_INVALID`; `undefined` when there is none. */
  code: number | string | undefined;
  /** A text for people; empty when there is nothing to say. */
  reason: string;
  /** Unix time of the next try in milliseconds, in the state `waiting`. */
  retryAt: number | undefined;
  /** In the state `closed`: whether the gateway or `getToken` refused, so that coming back needs a person or a fix. */
  final: boolean;
}

/** An event of a channel. */
export interface TickEvent<T = unknown> {
  channel: string;
  event: string;
  data: T;
  /** Unix time in milliseconds, as the publisher gave it. */
  timestamp: number;
  /** The position in the channel's history; `undefined` on channels without history. */
  offset: number | undefined;
  /** The event is the state as it is kept, not news: the last value, or the whole set of records. */
  isSnapshot: boolean;
}

/** Something is missing: reload the state of these channels from its source. */
export interface Gap {
  /**
   * - `dropped`: this client read too slowly.
   * - `unrecovered`: events were missed while the connection was lost.
   * - `epoch`: the gateway cannot tell what was missed, since its store began anew or too much is gone.
   */
  reason: "dropped" | "unrecovered" | "epoch";
  /** The channels that are known to miss events. */
  channels: string[];
  /** `false`: channels that are not named may miss events as well. Reload everything of this subscription. */
  complete: boolean;
}

/** Keeps texts by key. `localStorage` and `sessionStorage` are such stores; methods may be asynchronous. */
export interface Storage {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): unknown;
  removeItem(key: string): unknown;
}

/** The part of a WebSocket class that the client uses: the browser's, Node's, or npm `ws`. */
export type WebSocketClass = new (url: string) => {
  send(text: string): void;
  close(code?: number, reason?: string): void;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
};

/** The options of {@link createClient}. Only `url` is required. */
export interface ClientOptions {
  /** The native endpoint, such as `wss://ws.example.com/ws`. */
  url: string;
  /**
   * Returns a token, or `null` for none. It is called before the first connection, before a token ends, and after one
   * was refused; never twice at a time. When it fails, it is called again with back-off, unless the error is a
   * {@link TokenRefused}.
   */
  getToken?: (options: { signal: AbortSignal }) => string | null | Promise<string | null>;
  /** The first token, if there is one already. */
  token?: string | null;
  /** Reads a message; `JSON.parse` by default. See the subpath `decimal` for numbers that keep their digits. */
  parse?: (text: string) => any;
  /** Writes a message; `JSON.stringify` by default. */
  stringify?: (value: unknown) => string;
  /** Keeps cursors over page reloads, so that what was missed arrives. Off by default. */
  storage?: Storage;
  /** The name of this tab or process in `storage`. In browsers the default is an id that `sessionStorage` keeps. */
  tab?: string;
  /** The WebSocket class; `globalThis.WebSocket` by default. Node below 22 has none: give npm `ws`. */
  WebSocket?: WebSocketClass;
  /** How many different patterns the gateway permits; 50 by default. */
  maxPatterns?: number;
  /** Messages per second that are sent at most; 90 by default, below the gateway's limit of 100. */
  messagesPerSecond?: number;
  /** The longest message in bytes of UTF-8; 65,536 by default, the gateway's limit. */
  maxMessageBytes?: number;
  /** How many channels the cache of last values holds; 10,000 by default. */
  cacheChannels?: number;
  /** The fields by which arrays of records are merged for late subscribers; `["code"]` by default. */
  recordKeys?: string[];
  /** Milliseconds between pings; 30,000 by default. */
  pingInterval?: number;
  /** Milliseconds until an unanswered ping ends the connection; 10,000 by default. It is `stalled` after half of them. */
  pongTimeout?: number;
  /** Milliseconds until an attempt to connect is given up; 10,000 by default. */
  connectTimeout?: number;
}

/** How {@link Client.command} waits. */
export interface CommandOptions {
  /**
   * An idempotency key: 1 to 128 visible ASCII characters, such as a UUID. The gateway carries out a command with a key once.
   * After an {@link OutcomeUnknown} of this client (`NOT_CONNECTED`, `TIMEOUT`, `ABORTED`), make the same call with the same
   * key again, and get the recorded outcome.
   */
  key?: string;
  /** The `traceparent` (W3C Trace Context) of the span that sends the command; the gateway passes its trace on to the backend. */
  traceparent?: string;
  /** Milliseconds to wait for the answer; 30,000 by default. */
  timeout?: number;
  /** Gives up waiting. What was sent is not called back. */
  signal?: AbortSignal;
}

/** What the gateway knows of a key. */
export type CommandStatus<R = any> =
  | { state: "running" }
  | { state: "done"; response: { success: true; data: R } | { success: false; error: { code: string; message: string } } };

/** What {@link Client.history} reads. */
export interface HistoryOptions {
  /** The offset behind which to begin; the channel's beginning by default. */
  since?: number;
  /** The epoch of `since`. In another epoch the answer is not complete. */
  epoch?: string;
  /** 1 to 1000 events; 100 by default. */
  limit?: number;
  /** Milliseconds to wait for the answer; 30,000 by default. */
  timeout?: number;
}

/** A page of a channel's history. */
export interface HistoryPage<T = unknown> {
  epoch: string | undefined;
  /** Oldest first. */
  events: TickEvent<T>[];
  /** None between `since` and these is missing. */
  complete: boolean;
  /** Ask again with `since: offset` while `more` is true. */
  offset: number | undefined;
  more: boolean;
}

/** Where a published event stands; both are `undefined` on channels without history. */
export interface Published {
  epoch: string | undefined;
  offset: number | undefined;
}

/** Figures of a client since it was created. */
export interface Stats {
  /** The last round trip, of a token or a ping, in milliseconds. */
  roundTripMs: number | undefined;
  /** The age of the newest live event when it arrived, in milliseconds, corrected by the difference of the clocks. */
  lagMs: number | undefined;
  /** Events that the gateway or a buffer of this client dropped. */
  dropped: number;
  /** How often the connection was replaced. */
  reconnects: number;
  /** Events received. */
  events: number;
  /** Patterns held or asked for. */
  patterns: number;
}
