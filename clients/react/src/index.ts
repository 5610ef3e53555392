/**
 * React hooks for `@tickgate/client`.
 *
 * @packageDocumentation
 */
import type { Client, Gap, RecordDelete, RecordKey, Records, StateChange, TickEvent, TickgateError } from "@tickgate/client";
import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useSyncExternalStore, type ReactElement, type ReactNode } from "react";
import { LatestStore, RecordsStore, type Store, type View } from "./store.js";

const ClientContext = createContext<Client | undefined>(undefined);

/** Gives a client to the hooks below it. The application makes, connects and closes the client. */
export function TickgateProvider({ client, children }: { client: Client; children?: ReactNode }): ReactElement {
  return createElement(ClientContext.Provider, { value: client }, children);
}

/**
 * The client of the nearest {@link TickgateProvider}.
 *
 * @throws Error if there is none.
 */
export function useTickgate(): Client {
  const client = useContext(ClientContext);
  if (!client) throw new Error("put a <TickgateProvider client={...}> around this component");
  return client;
}

/** What the hooks tell besides the data. */
export interface ChannelStatus {
  /** The gateway has confirmed the subscription. */
  isReady: boolean;
  /** Why the subscription ended, if the gateway refused it or took it away. */
  error: TickgateError | undefined;
  /** The last gap; `undefined` if nothing is missing. */
  gap: Gap | undefined;
}

/** How a hook subscribes. */
export interface ChannelOptions {
  /**
   * The most updates per second of each channel that conflates; by default every update comes. A change of it changes the
   * rate without a new subscription.
   */
  maxRate?: number | undefined;
}

/**
 * Subscribes to a pattern while the component is mounted, and shows the newest event of the channels that it matches.
 * Events of one frame redraw once, so use `client.subscribe` where each event counts. `null`: no subscription.
 */
export function useChannel<T = any>(pattern: string | null, { maxRate }: ChannelOptions = {}): ChannelStatus & { event: TickEvent<T> | undefined; data: T | undefined } {
  const client = useTickgate();
  const store = useMemo(() => (pattern === null ? undefined : new LatestStore(client, pattern)), [client, pattern]);
  const { value: event, ...status } = useView<TickEvent<any> | undefined>(store, undefined, maxRate);
  return { ...status, event, data: event?.data };
}

/** How {@link useRecords} subscribes and merges. */
export interface RecordsOptions extends ChannelOptions {
  /** Which records are gone, as `record_delete` of the gateway says. */
  deleted?: RecordDelete | undefined;
}

/**
 * Subscribes to a pattern while the component is mounted, and shows the records of its channels, merged by the field `key`
 * or by several. The map is a new one after each change. `null`: no subscription.
 */
export function useRecords<R = any>(pattern: string | null, key: RecordKey = "code", { maxRate, deleted }: RecordsOptions = {}): ChannelStatus & { records: Records<R> } {
  const client = useTickgate();
  // A list of fields or a rule that is written in the component is another object each time.
  const rule = JSON.stringify([key, deleted]);
  const store = useMemo(() => (pattern === null ? undefined : new RecordsStore(client, pattern, key, deleted)), [client, pattern, rule]);
  const { value: records, ...status } = useView<Records<R>>(store, NO_RECORDS, maxRate);
  return { ...status, records };
}

/** The state of the connection, with its reason. */
export function useConnection(): StateChange {
  const client = useTickgate();
  const subscribe = useCallback((notify: () => void) => client.on("state", notify), [client]);
  const read = useCallback(() => client.status, [client]);
  return useSyncExternalStore(subscribe, read, read);
}

const NO_RECORDS: Records = new Map();
const noSubscription = (): (() => void) => () => {};

function useView<V>(store: Store<V> | undefined, none: V, maxRate: number | undefined): View<V> {
  // Before the effect that subscribes, so that the first subscription has the rate.
  useEffect(() => store?.setRate(maxRate), [store, maxRate]);
  const nothing = useMemo(() => ({ value: none, isReady: false, error: undefined, gap: undefined }), [none]);
  const read = store?.getSnapshot ?? ((): View<V> => nothing);
  return useSyncExternalStore(store?.subscribe ?? noSubscription, read, read);
}
