import type { Client, Gap, RecordDelete, RecordKey, Records, Subscription, TickEvent, TickgateError } from "@tickgate/client";

/** What a hook shows of a subscription. A new object for each change. */
export interface View<V> {
  value: V;
  /** The gateway has confirmed the subscription. */
  isReady: boolean;
  /** Why the subscription ended, if the gateway refused it or took it away. */
  error: TickgateError | undefined;
  /** The last gap; `undefined` if nothing is missing. */
  gap: Gap | undefined;
}

/** Redraws at most once per frame, and also in a hidden tab, where there are no frames. */
const HIDDEN_FRAME_MS = 100;

function onFrame(run: () => void): () => void {
  if (typeof requestAnimationFrame === "function" && !globalThis.document?.hidden) {
    const frame = requestAnimationFrame(run);
    return () => cancelAnimationFrame(frame);
  }
  const timer = setTimeout(run, HIDDEN_FRAME_MS);
  return () => clearTimeout(timer);
}

/**
 * A subscription as React's `useSyncExternalStore` wants it. It subscribes while somebody watches. Events of one frame
 * are one change.
 */
export abstract class Store<V> {
  readonly #client: Client;
  readonly #pattern: string;
  #view: View<V>;
  #changes: Partial<View<V>> = {};
  #cancel: (() => void) | undefined;
  #maxRate: number | undefined;
  #subscription: Subscription<any> | undefined;

  constructor(client: Client, pattern: string, first: V) {
    this.#client = client;
    this.#pattern = pattern;
    this.#view = { value: first, isReady: false, error: undefined, gap: undefined };
  }

  /** Returns what makes the value to show of a frame's newest event. It is called before the first event. */
  protected abstract reader(subscription: Subscription<any>): (event: TickEvent<any>) => V;

  readonly getSnapshot = (): View<V> => this.#view;

  /** Asks for this rate, now or with the next subscription. */
  setRate(maxRate: number | undefined): void {
    if (maxRate === this.#maxRate) return;
    this.#maxRate = maxRate;
    this.#subscription?.setRate(maxRate);
  }

  readonly subscribe = (notify: () => void): (() => void) => {
    const subscription = this.#client.subscribe(this.#pattern, { maxRate: this.#maxRate });
    this.#subscription = subscription;
    const read = this.reader(subscription);
    let newest: TickEvent<any> | undefined;
    const apply = (): void => {
      this.#cancel = undefined;
      if (newest) this.#changes.value = read(newest);
      newest = undefined;
      this.#view = { ...this.#view, ...this.#changes };
      this.#changes = {};
      notify();
    };
    const change = (changes: Partial<View<V>>): void => {
      Object.assign(this.#changes, changes);
      this.#cancel ??= onFrame(apply);
    };
    const removers = [
      subscription.on("event", (event) => {
        newest = event;
        change({});
      }),
      subscription.on("gap", (gap) => change({ gap })),
      subscription.on("end", (error) => error && change({ error })),
    ];
    const awaitReady = (): void => void subscription.ready.then(
      () => change({ isReady: true }),
      // The client was closed first; the next `connect` asks again.
      (error) => error.code === "CLOSED" && awaitReady(),
    );
    awaitReady();
    return () => {
      for (const remove of removers) remove();
      this.#cancel?.();
      this.#cancel = undefined;
      this.#changes = {};
      this.#subscription = undefined;
      subscription.unsubscribe();
    };
  };
}

/** Shows the newest event. */
export class LatestStore extends Store<TickEvent<any> | undefined> {
  constructor(client: Client, pattern: string) {
    super(client, pattern, undefined);
  }

  protected override reader(): (event: TickEvent<any>) => TickEvent<any> {
    return (event) => event;
  }
}

/** Shows merged records, as a new map after each change. */
export class RecordsStore extends Store<Records> {
  readonly #key: RecordKey;
  readonly #deleted: RecordDelete | undefined;

  constructor(client: Client, pattern: string, key: RecordKey, deleted?: RecordDelete) {
    super(client, pattern, new Map());
    this.#key = key;
    this.#deleted = deleted;
  }

  protected override reader(subscription: Subscription<any>): () => Records {
    // From here on the client merges by this key: an event that came before would count alone.
    const records = subscription.records(this.#key, this.#deleted && { deleted: this.#deleted });
    return () => new Map(records);
  }
}
