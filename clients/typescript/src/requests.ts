import { RequestRefused } from "./errors.js";

/** How a request ended. `wasSent` tells whether the gateway may have seen it. */
export type Outcome =
  | { type: "answer"; message: any }
  | { type: "lost" | "late" | "aborted"; wasSent: boolean };

interface Request {
  text: string;
  wasSent: boolean;
  deadline: number;
  done: (outcome: Outcome) => void;
}

/** Requests that wait for the send limit, or for their answers. */
export class Requests {
  readonly #open = new Map<string, Request>();
  readonly #queue: string[] = [];
  #count = 0;

  /** Numbers a request. The id is unique for this client, over all its connections. */
  add(kind: string, write: (id: string) => string, deadline: number, done: Request["done"]): string {
    const id = `${kind}${++this.#count}`;
    this.#open.set(id, { text: write(id), wasSent: false, deadline, done });
    this.#queue.push(id);
    return id;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  /** The next text to send, which counts as sent. */
  next(): string | undefined {
    for (;;) {
      const id = this.#queue.shift();
      if (id === undefined) return undefined;
      const request = this.#open.get(id);
      if (!request) continue;
      request.wasSent = true;
      return request.text;
    }
  }

  /** An answer came. Returns `false` if nobody waits for it. */
  answer(id: unknown, message: any): boolean {
    const request = this.#take(String(id));
    request?.done({ type: "answer", message });
    return request !== undefined;
  }

  abort(id: string): void {
    const request = this.#take(id);
    request?.done({ type: "aborted", wasSent: request.wasSent });
  }

  /** Ends requests whose time is over. */
  expire(now: number): void {
    for (const [id, { deadline, wasSent, done }] of this.#open) {
      if (deadline <= now && this.#open.delete(id)) done({ type: "late", wasSent });
    }
  }

  /** Ends all requests: the connection is gone. */
  lost(): void {
    const all = [...this.#open.values()];
    this.#open.clear();
    this.#queue.length = 0;
    for (const { wasSent, done } of all) done({ type: "lost", wasSent });
  }

  nextAt(): number {
    let next = Infinity;
    for (const { deadline } of this.#open.values()) next = Math.min(next, deadline);
    return next;
  }

  #take(id: string): Request | undefined {
    const request = this.#open.get(id);
    this.#open.delete(id);
    return request;
  }
}

/** The error of an answer, or `undefined` if it is a success. */
export function refusal(message: any, Class: new (code: string, text: string, retryAfterMs?: number) => RequestRefused = RequestRefused): RequestRefused | undefined {
  const error = message.error;
  if (!error) return undefined;
  const wait = message.data?.retry_after_ms;
  return new Class(String(error.code), String(error.message), wait === undefined ? undefined : Number(wait));
}
