const SEGMENTS_MAX = 8;
const BYTES_MAX = 255;
const FORBIDDEN = /[\p{White_Space}\p{Cc}*>]/u;

/** The length of a text in bytes of UTF-8. */
export function utf8Length(text: string): number {
  return /^[\0-\x7f]*$/.test(text) ? text.length : new TextEncoder().encode(text).length;
}

/** Whether a text is a pattern: 1 to 8 segments joined by `.`, at most 255 bytes; whole segments may be `*`. */
export function isPattern(text: string): boolean {
  const segments = text.split(".");
  return segments.length <= SEGMENTS_MAX && utf8Length(text) <= BYTES_MAX
    && segments.every((segment) => segment === "*" || (segment !== "" && !FORBIDDEN.test(segment)));
}

/**
 * Whether a pattern matches a channel. A `*` in the last segment stands for one or more segments, any other for one. Both
 * texts must be valid.
 */
export function matches(pattern: string, channel: string): boolean {
  if (pattern === channel || pattern === "*") return true;
  if (!pattern.includes("*")) return false;
  const wanted = pattern.split(".");
  const given = channel.split(".");
  const isOpen = wanted[wanted.length - 1] === "*";
  return (isOpen ? given.length >= wanted.length : given.length === wanted.length)
    && wanted.every((segment, index) => segment === "*" || segment === given[index]);
}

/** Whether two patterns have a channel in common. */
export function intersects(one: string, other: string): boolean {
  const [a, b] = [one.split("."), other.split(".")];
  const length = Math.max(a.length, b.length);
  const reaches = (segments: string[]): boolean => segments.length === length || segments.at(-1) === "*";
  return reaches(a) && reaches(b)
    && a.every((segment, index) => index >= b.length || segment === b[index] || segment === "*" || b[index] === "*");
}
