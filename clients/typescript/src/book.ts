/** A level as it was published: price, size, and whatever else an exchange adds. */
export type Level = readonly [price: any, size: any, ...rest: any[]];

/** The order book of a channel whose class has `merge = "book"`, kept up to date. */
export interface Book {
  /** The highest price first. */
  readonly bids: readonly Level[];
  /** The lowest price first. */
  readonly asks: readonly Level[];
  /** The number of the newest update, if the publisher numbers them. */
  readonly seq: any;
  /** Updates of the publisher are missing since the last whole book. */
  readonly stale: boolean;
  /** The newest of each other member, such as the symbol. */
  readonly members: Readonly<Record<string, any>>;
}

/** A {@link Book} that takes updates. */
export class BookState implements Book {
  bids: Level[] = [];
  asks: Level[] = [];
  seq: any;
  stale = false;
  members: Record<string, any> = {};

  /** Whether data is a whole book. */
  static isWhole(data: any): boolean {
    return data?.snapshot === true && !!(data.bids || data.asks);
  }

  apply(data: any): void {
    const { bids, asks, snapshot, stale, seq, prev_seq: _, ...members } = data ?? {};
    if (snapshot === true) Object.assign(this, new BookState());
    for (const level of bids ?? []) put(this.bids, level, -1);
    for (const level of asks ?? []) put(this.asks, level, 1);
    this.seq = seq ?? this.seq;
    this.stale ||= stale === true;
    this.members = { ...this.members, ...members };
  }

  /** The whole book as the gateway sends it. */
  data(): object {
    return { ...this.members, snapshot: true, seq: this.seq, stale: this.stale, bids: [...this.bids], asks: [...this.asks] };
  }
}

function put(levels: Level[], level: Level, direction: number): void {
  let [low, high] = [0, levels.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(levels[middle]![0], level[0]) * direction < 0) low = middle + 1;
    else high = middle;
  }
  const isHeld = low < levels.length && compare(levels[low]![0], level[0]) === 0;
  if (isZero(level[1])) {
    if (isHeld) levels.splice(low, 1);
  } else {
    levels.splice(low, isHeld ? 1 : 0, level);
  }
}

function isZero(size: unknown): boolean {
  return !/[1-9]/.test(String(size).split(/e/i)[0]!);
}

// Compares numbers, texts and objects by all their digits. Fails if they are no numbers.
function compare(a: any, b: any): number {
  let [x, p] = scaled(a);
  let [y, q] = scaled(b);
  // No market has such prices.
  if (Math.abs(p - q) > 1000) return Number(a) - Number(b);
  x *= 10n ** BigInt(Math.max(q - p, 0));
  y *= 10n ** BigInt(Math.max(p - q, 0));
  return x < y ? -1 : x > y ? 1 : 0;
}

// A decimal as an integer and the number of its digits that are a fraction.
function scaled(value: unknown): [bigint, number] {
  const [mantissa, exponent = 0] = String(value).split(/e/i);
  const [whole, fraction = ""] = mantissa!.split(".");
  return [BigInt(whole! + fraction), fraction.length - Number(exponent)];
}
