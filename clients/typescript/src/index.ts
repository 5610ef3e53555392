/**
 * A client of the tickgate WebSocket gateway. Begin with {@link createClient}.
 *
 * @packageDocumentation
 */
export { Client, createClient, type ClientEvents } from "./client.js";
export { CommandRefused, OutcomeUnknown, RequestRefused, TickgateError, TokenRefused } from "./errors.js";
export type { BufferOptions } from "./iterate.js";
export { isPattern, matches } from "./pattern.js";
export { Subscription, type Silence, type SubscribeOptions, type SubscriptionEvents } from "./subscription.js";
export type { Book, Level } from "./book.js";
export type { Records } from "./cache.js";
export type { RecordDelete, RecordKey } from "./records.js";
export type {
  ClientOptions, CommandOptions, CommandStatus, Gap, HistoryOptions, HistoryPage, Published, State, StateChange, Stats, Storage, TickEvent, WebSocketClass,
} from "./types.js";
