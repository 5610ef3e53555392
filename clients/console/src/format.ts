// Numbers for people. Pure.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A count or rate: `0`, `3.2`, `812`, `12,400`, `1.24 M`. */
export function number(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9) return `${trim(value / 1e9)} G`;
  if (size >= 1e6) return `${trim(value / 1e6)} M`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return size >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/0$/, "");
}

function trim(value: number): string {
  return value.toFixed(2).replace(/\.?0+$/, "");
}

/** Bytes: `512 B`, `1.5 MiB`. */
export function bytes(value: number): string {
  let unit = 0;
  let rest = value;
  while (Math.abs(rest) >= 1024 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${UNITS[unit]}`;
}

export const perSecond = (value: number): string => `${number(value)} /s`;
export const bytesPerSecond = (value: number): string => `${bytes(value)}/s`;
export const percent = (part: number): string => `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;
export const cores = percent;

/** A length of time: `0.4 s`, `12 s`, `3 min`, `5 h 20 min`, `4 d 2 h`. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A length of time in milliseconds: `0.42 ms`, `12 ms`, `1.3 s`. */
export function milliseconds(value: number): string {
  if (value >= 1000) return duration(value / 1000);
  return `${value < 10 ? value.toFixed(2) : Math.round(value)} ms`;
}

/** How long ago a Unix time in seconds was. */
export function ago(seconds: number, nowMs: number): string {
  const passed = Math.max(0, nowMs / 1000 - seconds);
  return passed < 1 ? "now" : `${duration(Math.floor(passed)).replace(".0", "")} ago`;
}

/** The time of day of a Unix time in milliseconds. */
export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString("en-GB");
}
