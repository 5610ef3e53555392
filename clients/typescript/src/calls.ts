import { CommandRefused, OutcomeUnknown, RequestRefused, type TickgateError } from "./errors.js";
import type { Host } from "./host.js";
import { utf8Length } from "./pattern.js";
import { refusal, type Outcome, type Requests } from "./requests.js";
import type { State } from "./types.js";

/** How a request of the application ends. */
export interface Answerer {
  resolve: (message: any) => void;
  reject: (error: TickgateError) => void;
}

/** The most requests that wait for the send limit. */
const QUEUE_MAX = 1000;

/** Errors after which a command may have been carried out. With a key, the gateway tells by `UNKNOWN` alone. */
const UNKNOWN_OUTCOMES = ["TIMEOUT", "BACKEND_UNAVAILABLE", "INTERNAL"];
const UNKNOWN_OUTCOMES_WITH_KEY = ["UNKNOWN"];

/** The requests that the application makes: commands, events to publish, and pages of histories. */
export class Calls {
  readonly #host: Host;
  readonly #requests: Requests;
  readonly #maxBytes: number;
  readonly #state: () => State;
  readonly #made: () => void;

  /** `state` tells that of the connection. `made` is called when a request waits to be sent. */
  constructor(host: Host, requests: Requests, maxBytes: number, state: () => State, made: () => void) {
    this.#host = host;
    this.#requests = requests;
    this.#maxBytes = maxBytes;
    this.#state = state;
    this.#made = made;
  }

  /** Sends a command, once or not at all. Returns how to abort it. */
  command(action: string, params: unknown, timeout: number, answerer: Answerer, key?: string, traceparent?: string): () => void {
    return this.#make("c", { type: "command", action, params, key, traceparent }, timeout, answerer, CommandRefused, true);
  }

  commandStatus(key: string, timeout: number, answerer: Answerer): void {
    this.#make("k", { type: "command_status", key }, timeout, answerer, RequestRefused, false);
  }

  publish(channel: string, event: string, data: unknown, timeout: number, answerer: Answerer): void {
    this.#make("p", { type: "publish", channel, event, data }, timeout, answerer, RequestRefused, true);
  }

  history(channel: string, options: object, timeout: number, answerer: Answerer): void {
    this.#make("h", { type: "history", channel, ...options }, timeout, answerer, RequestRefused, false);
  }

  // Makes a request, or refuses it at once. Returns how to abort it. `hasEffect`: without an answer, the outcome is unknown.
  #make(kind: string, body: any, timeout: number, { resolve, reject }: Answerer, Refused: typeof RequestRefused, hasEffect: boolean): () => void {
    const state = this.#state();
    const refuse = (code: string, text: string): (() => void) => {
      reject(new Refused(code, `${text}; nothing was sent`));
      return () => {};
    };
    if (state !== "live") return refuse("NOT_CONNECTED", `the connection is ${state}`);
    if (this.#requests.waiting >= QUEUE_MAX) return refuse("RATE_LIMITED", "too many requests wait to be sent");
    let size = 0;
    const write = (id: string): string => {
      const text = this.#host.stringify({ ...body, id });
      size = utf8Length(text);
      return text;
    };
    const unknownOutcomes = body.key === undefined ? UNKNOWN_OUTCOMES : UNKNOWN_OUTCOMES_WITH_KEY;
    const done = (outcome: Outcome): void => {
      if (outcome.type === "answer") {
        const error = refusal(outcome.message, Refused);
        if (!error) resolve(outcome.message);
        else if (hasEffect && unknownOutcomes.includes(error.code)) reject(new OutcomeUnknown(error.code, error.message));
        else reject(error);
        return;
      }
      const [code, text] = {
        lost: ["NOT_CONNECTED", "the connection was lost"],
        late: ["TIMEOUT", `no answer within ${timeout} ms`],
        aborted: ["ABORTED", "aborted by the application"],
      }[outcome.type] as [string, string];
      if (!outcome.wasSent) refuse(code, text);
      else if (hasEffect) reject(new OutcomeUnknown(code, `${text}; the outcome is unknown`));
      else reject(new RequestRefused(code, text));
    };
    const id = this.#requests.add(kind, write, this.#host.now() + timeout, done);
    if (size > this.#maxBytes) {
      this.#requests.answer(id, { error: { code: "MESSAGE_TOO_LARGE", message: `the message has ${size} bytes; the limit is ${this.#maxBytes}; nothing was sent` } });
      return () => {};
    }
    this.#made();
    return () => this.#requests.abort(id);
  }
}
