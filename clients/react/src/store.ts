import type { Client, Gap, Records, Subscription, TickEvent, TickgateError } from "@tickgate/client";

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

  /** The value to show after an event, the newest of its frame. */
  protected abstract read(subscription: Subscription<any>, event: TickEvent<any>): V;

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
    let newest: TickEvent<any> | undefined;
    const apply = (): void => {
      this.#cancel = undefined;
      if (newest) this.#changes.value = this.read(subscription, newest);
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
    subscription.ready.then(() => change({ isReady: true }), () => {});
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

  protected override read(_: Subscription<any>, event: TickEvent<any>): TickEvent<any> {
    return event;
  }
}

/** Shows merged records, as a new map after each change. */
export class RecordsStore extends Store<Records> {
  readonly #key: string;

  constructor(client: Client, pattern: string, key: string) {
    super(client, pattern, new Map());
    this.#key = key;
  }

  protected override read(subscription: Subscription<any>): Records {
    return new Map(subscription.records(this.#key));
  }
}
