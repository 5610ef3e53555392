import type { Saved } from "./positions.js";
import type { StateChange } from "./types.js";

/** What the core needs of the world. The core itself knows no socket, clock or timer. */
export interface Host {
  /** Milliseconds of a clock that is never set. */
  now(): number;
  /** Unix time in milliseconds. */
  wallNow(): number;
  /** A random number from 0 to 1, 1 excluded. */
  random(): number;
  /** Calls `Core.woke` at this time; replaces the time before. `Infinity`: never. */
  wake(at: number): void;
  /** Calls `Core.turn` a little later, behind tasks that are due. */
  soon(): void;
  /** Opens a socket: `Core.opened`, `Core.received` and `Core.ended` follow. */
  open(): void;
  send(text: string): void;
  /** Closes the socket; nothing of it is reported any more. */
  shut(): void;
  /** Asks the application for a token: `Core.gotToken` or `Core.tokenFailed` follows, once. */
  askToken(): void;
  /** Reads what was saved for a user: `Core.restored` follows, once. */
  load(user: string): void;
  /** Something that is saved has changed. */
  dirty(): void;
  parse(text: string): any;
  stringify(value: unknown): string;
  changed(change: StateChange): void;
  /** An error that belongs to no request. */
  report(error: unknown): void;
}

/** The settings of a core; see `ClientOptions`. */
export interface Settings {
  canAsk: boolean;
  token: string | null;
  isStored: boolean;
  maxPatterns: number;
  messagesPerSecond: number;
  maxMessageBytes: number;
  cacheChannels: number;
  recordKeys: string[];
  pingInterval: number;
  pongTimeout: number;
  connectTimeout: number;
}

export type { Saved };
