// What a view is.

import type { Session } from "./api.js";
import type { Live } from "./live.js";

/** What the page gives to a view. */
export interface Context {
  session: Session;
  /** The tenant that the page is about; empty: the gateway as a whole. */
  tenant: string;
  live: Live;
  /** The rest of the address behind the view's name. */
  argument: string;
  /** Shows a message for a while. */
  tell(text: string, tone?: "ok" | "bad"): void;
  /** Reads the view again at once. */
  refresh(): void;
}

/** A view that is open. */
export interface View {
  element: HTMLElement;
  /** Called every five seconds, and at once. It may fail with an `ApiError`, which the page shows. */
  refresh?(): Promise<void>;
  close?(): void;
}
