/** An error of the gateway or of this client. Decide by `code`; `message` is for people. */
export class TickgateError extends Error {
  /** A code of the gateway (`FORBIDDEN`, …) or of this client (`NOT_CONNECTED`, `CLOSED`, …). */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }
}

/** A request was surely not carried out. It is safe to make it again. */
export class RequestRefused extends TickgateError {
  /** With `RATE_LIMITED` and `OVERLOADED`: the time to wait, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(code: string, message: string, retryAfterMs?: number) {
    super(code, message);
    this.retryAfterMs = retryAfterMs;
  }
}

/** A command was surely not carried out. */
export class CommandRefused extends RequestRefused {}

/**
 * A command or a published event may or may not have been carried out: the connection ended or nobody answered in time.
 * Ask for the state instead of sending it again. A command with a `key` may be sent again with the same key, unless the code
 * is `UNKNOWN`: then the gateway does not know either.
 */
export class OutcomeUnknown extends TickgateError {}

/** Throw this in `getToken` to end the connection for good, for instance because the user's session is over. */
export class TokenRefused extends TickgateError {
  constructor(message: string, options?: ErrorOptions) {
    super("TOKEN_REFUSED", message, options);
  }
}
