import { OutcomeUnknown, RequestRefused, type TickgateError } from "./errors.js";
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

  constructor(host: Host, requests: Requests, maxBytes: number) {
    this.#host = host;
    this.#requests = requests;
    this.#maxBytes = maxBytes;
  }

  /**
   * Makes a request, or refuses it at once. Returns how to abort it. `hasEffect`: without an answer, the outcome is
   * unknown. `state`: that of the connection.
   */
  make(kind: string, body: any, timeout: number, { resolve, reject }: Answerer, Refused: typeof RequestRefused, hasEffect: boolean, state: State): () => void {
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
    return () => this.#requests.abort(id);
  }
}
