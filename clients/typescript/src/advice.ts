/** What a close code advises. */
export type Advice =
  /** Come back, with back-off and jitter. */
  | "retry"
  /** Come back with a new token only. */
  | "token"
  /** Come back after ten seconds or more. */
  | "slowly"
  /** Do not come back by oneself. */
  | "never";

const SLOW_MS = 10_000;
const BASE_MS = 1_000;
const CAP_MS = 30_000;

/** The advice of the gateway's table of close codes. An unknown code is a failure of something in between. */
export function adviceOf(code: number): Advice {
  switch (code) {
    case 1002: case 1003: case 1007: case 1008: case 1009: case 4003: case 4005: return "never";
    case 4001: case 4002: case 4004: case 4006: return "token";
    case 4029: return "slowly";
    default: return "retry";
  }
}

/** Exponential back-off with full jitter: a random time up to 1 s, doubled with each failure up to 30 s. */
export function backOff(failures: number, random: number): number {
  return random * Math.min(CAP_MS, BASE_MS * 2 ** Math.min(failures, 10));
}

/** The least time before coming back after code 4029, with jitter. */
export function slowBackOff(failures: number, random: number): number {
  return SLOW_MS + backOff(failures + 1, random);
}
