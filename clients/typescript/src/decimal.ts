/**
 * JSON whose numbers keep their digits. `JSON.parse` rounds order ids above 2^53 and prices that binary floating point
 * cannot hold.
 *
 * ```ts
 * import { createClient } from "@tickgate/client";
 * import { parseDecimals, stringifyDecimals } from "@tickgate/client/decimal";
 *
 * const tg = createClient({ url, parse: parseDecimals, stringify: stringifyDecimals });
 * ```
 *
 * @packageDocumentation
 */

/** The deepest nesting that is read; the gateway's limit is 64. */
const DEPTH_MAX = 128;

/** A number as it was written. Two of them are compared by value, not by their digits. */
export class Decimal {
  readonly #text: string;

  /** @throws SyntaxError if the text is no JSON number. */
  constructor(text: string) {
    if (!/^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text)) throw new SyntaxError(`"${text}" is not a number`);
    this.#text = text;
  }

  /** The digits as they were written. */
  toString(): string {
    return this.#text;
  }

  /** The nearest binary floating-point number, so that arithmetic and formatting work as with numbers. */
  valueOf(): number {
    return Number(this.#text);
  }

  /** `JSON.stringify` writes a text, since it would round a number. {@link stringifyDecimals} writes the digits. */
  toJSON(): string {
    return this.#text;
  }

  /** The integer. @throws RangeError if it has a fraction or is too large. */
  toBigInt(): bigint {
    const { sign, digits, exponent } = this.#parts();
    if (exponent < 0 || exponent > 1000) throw new RangeError(`${this.#text} is no integer of up to 1000 digits`);
    return BigInt(sign) * BigInt(digits + "0".repeat(exponent));
  }

  /** A negative number if this one is less than the other, a positive one if it is greater, 0 if they are equal. */
  compare(other: Decimal): number {
    const [a, b] = [this.#parts(), other.#parts()];
    if (a.sign !== b.sign) return a.sign - b.sign;
    const [sizeA, sizeB] = [a.digits.length + a.exponent, b.digits.length + b.exponent];
    if (sizeA !== sizeB) return a.sign * (sizeA - sizeB);
    const length = Math.max(a.digits.length, b.digits.length);
    const [digitsA, digitsB] = [a.digits.padEnd(length, "0"), b.digits.padEnd(length, "0")];
    return digitsA === digitsB ? 0 : a.sign * (digitsA < digitsB ? -1 : 1);
  }

  /** Whether the values are the same: 1.0 equals 1. */
  equals(other: Decimal): boolean {
    return this.compare(other) === 0;
  }

  // The value is sign * digits * 10^exponent; the digits begin and end with another digit than 0.
  #parts(): { sign: number; digits: string; exponent: number } {
    const [, minus, whole, fraction = "", exponent = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(this.#text) as unknown as string[];
    const digits = (whole! + fraction).replace(/^0+/, "");
    const trimmed = digits.replace(/0+$/, "");
    if (trimmed === "") return { sign: 0, digits: "0", exponent: 0 };
    return { sign: minus ? -1 : 1, digits: trimmed, exponent: Number(exponent) - fraction.length + digits.length - trimmed.length };
  }
}

/**
 * Reads JSON like `JSON.parse`, but every number becomes a {@link Decimal}.
 *
 * @throws SyntaxError if the text is not JSON, or is nested deeper than 128.
 */
export function parseDecimals(text: string): any {
  const reader = new Reader(text);
  const value = reader.value(0);
  reader.end();
  return value;
}

/** Writes JSON like `JSON.stringify`, but a {@link Decimal} becomes the number that it is, with its digits. */
export function stringifyDecimals(value: unknown): string {
  return write(value) ?? "null";
}

function write(value: any): string | undefined {
  if (value instanceof Decimal) return value.toString();
  if (typeof value === "bigint") return String(value);
  if (typeof value?.toJSON === "function") return write(value.toJSON());
  if (Array.isArray(value)) return `[${value.map((item) => write(item) ?? "null").join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members: string[] = [];
  for (const [key, member] of Object.entries(value)) {
    const text = write(member);
    if (text !== undefined) members.push(`${JSON.stringify(key)}:${text}`);
  }
  return `{${members.join(",")}}`;
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\x00-\x1f]|\\.)*"/y;
const WORD = /true|false|null/y;

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #fail(): never {
    throw new SyntaxError(`not JSON at position ${this.#at}`);
  }

  // Takes a character behind white space, if it is the next one.
  #takes(character: string): boolean {
    this.#match(SPACE);
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #string(): string {
    this.#match(SPACE);
    const found = this.#match(STRING) ?? this.#fail();
    return found.includes("\\") ? JSON.parse(found) : found.slice(1, -1);
  }

  value(depth: number): unknown {
    if (depth > DEPTH_MAX) throw new SyntaxError(`nested deeper than ${DEPTH_MAX}`);
    if (this.#takes("{")) return this.#object(depth);
    if (this.#takes("[")) return this.#array(depth);
    if (this.#text[this.#at] === '"') return this.#string();
    const number = this.#match(NUMBER);
    if (number !== undefined) return new Decimal(number);
    switch (this.#match(WORD)) {
      case "true": return true;
      case "false": return false;
      case "null": return null;
      default: return this.#fail();
    }
  }

  #object(depth: number): object {
    const object = {};
    if (this.#takes("}")) return object;
    do {
      const key = this.#string();
      if (!this.#takes(":")) this.#fail();
      // An assignment to `__proto__` would set the prototype.
      Object.defineProperty(object, key, { value: this.value(depth + 1), enumerable: true, writable: true, configurable: true });
    } while (this.#takes(","));
    return this.#takes("}") ? object : this.#fail();
  }

  #array(depth: number): unknown[] {
    const array: unknown[] = [];
    if (this.#takes("]")) return array;
    do array.push(this.value(depth + 1)); while (this.#takes(","));
    return this.#takes("]") ? array : this.#fail();
  }

  end(): void {
    this.#match(SPACE);
    if (this.#at < this.#text.length) this.#fail();
  }
}
