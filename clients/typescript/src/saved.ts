import type { Saved } from "./positions.js";
import type { Storage } from "./types.js";

/** Changes are written together after this time. */
const DELAY_MS = 1_000;

/** A storage that does not answer must not keep the client from connecting. */
const LOAD_PATIENCE_MS = 2_000;

/** How long a page waits for the lock of its tab's id: the page before it may not be gone yet. */
const LOCK_PATIENCE_MS = 500;

/** Keeps the core's positions in a storage, by URL, user and tab. */
export class SavedPositions {
  readonly #storage: Storage;
  readonly #url: string;
  readonly #read: () => Saved;
  readonly #report: (error: unknown) => void;
  readonly #tab: () => Promise<string>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  // Known after the first load; nothing is written before.
  #key: string | undefined;
  #user: string | undefined;

  constructor(storage: Storage, url: string, tab: string | undefined, read: () => Saved, report: (error: unknown) => void) {
    this.#storage = storage;
    this.#url = url;
    this.#read = read;
    this.#report = report;
    this.#tab = tab === undefined ? tabId : () => Promise.resolve(tab);
  }

  /** Reads what was saved for a user; `null` if nothing can be read. */
  async load(user: string): Promise<Saved | null> {
    try {
      const late = new Promise<null>((resolve) => setTimeout(resolve, LOAD_PATIENCE_MS, null));
      const text = await Promise.race([this.#load(user), late]);
      return text === null ? null : check(JSON.parse(text));
    } catch (error) {
      this.#report(error);
      return null;
    }
  }

  async #load(user: string): Promise<string | null> {
    const key = `tickgate ${this.#url} ${user} ${await this.#tab()}`;
    const text = await this.#storage.getItem(key);
    this.#key = key;
    this.#user = user;
    return text;
  }

  /** The positions of a user have changed. */
  dirty(user: string | undefined): void {
    if (user !== this.#user) this.#key = undefined;
    else if (this.#key !== undefined) this.#timer ??= setTimeout(() => void this.flush(), DELAY_MS);
  }

  /** Writes what has changed. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#timer === undefined || this.#key === undefined) return;
    this.#timer = undefined;
    try {
      await this.#storage.setItem(this.#key, JSON.stringify(this.#read()));
    } catch (error) {
      this.#report(error);
    }
  }

  async forget(user: string | undefined): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = this.#key = undefined;
    if (user === undefined) return;
    try {
      await this.#storage.removeItem(`tickgate ${this.#url} ${user} ${await this.#tab()}`);
    } catch (error) {
      this.#report(error);
    }
  }
}

// Another program may have written under the key.
function check(saved: any): Saved | null {
  const { cursors, offsets } = saved ?? {};
  const isSaved = cursors && Object.values(cursors).every((cursor) => typeof cursor === "string")
    && offsets && Object.values(offsets).every(Number.isSafeInteger);
  return isSaved ? saved : null;
}

let ownTab: Promise<string> | undefined;

// The id of this tab. A duplicated tab begins with a copy of the session storage, so a lock tells which one is the first.
function tabId(): Promise<string> {
  return (ownTab ??= findTabId());
}

async function findTabId(): Promise<string> {
  const name = "tickgate tab";
  const store = globalThis.sessionStorage as globalThis.Storage | undefined;
  if (!store) return "main";
  const kept = store.getItem(name);
  if (kept !== null && (await isFirst(`${name} ${kept}`))) return kept;
  const id = crypto.randomUUID?.() ?? String(Math.random());
  store.setItem(name, id);
  await isFirst(`${name} ${id}`);
  return id;
}

function isFirst(lock: string): Promise<boolean> {
  const locks = globalThis.navigator?.locks as LockManager | undefined;
  if (!locks) return Promise.resolve(true);
  return new Promise((resolve) => {
    const held = locks.request(lock, { signal: AbortSignal.timeout(LOCK_PATIENCE_MS) }, () => {
      resolve(true);
      return new Promise(() => {}); // Held as long as the page lives.
    });
    held.catch(() => resolve(false));
  });
}
