// Candles of a price: opening, highest, lowest and last price of each span. Pure.

export interface Candle {
  /** The beginning of the span, in Unix milliseconds. */
  at: number;
  open: number;
  high: number;
  low: number;
  close: number;
}

export class Candles {
  readonly list: Candle[] = [];

  constructor(readonly spanMs: number, readonly max: number) {}

  /** Adds a price. Prices of a span that has passed change its candle only if it is the last one. */
  add(time: number, price: number): void {
    const at = Math.floor(time / this.spanMs) * this.spanMs;
    const last = this.list.at(-1);
    if (last && at <= last.at) {
      last.high = Math.max(last.high, price);
      last.low = Math.min(last.low, price);
      last.close = price;
      return;
    }
    const open = last?.close ?? price;
    this.list.push({ at, open, high: Math.max(open, price), low: Math.min(open, price), close: price });
    if (this.list.length > this.max) this.list.shift();
  }
}

/** An order of a bot that rests in the book. */
export interface Order {
  level: number;
  side: "buy" | "sell";
  price: number;
  amount: number;
}

/** A fill of such an order. */
export interface Fill {
  at: number;
  side: "buy" | "sell";
  price: number;
}

/** The orders of one bot, by the line of its grid. */
export class Orders {
  readonly open = new Map<number, Order>();
  readonly fills: Fill[] = [];

  constructor(readonly fillsMax = 200) {}

  /** Takes in an event of `grid.<id>.order`. */
  event(name: string, order: Order, at: number): void {
    if (name === "placed") this.open.set(order.level, order);
    else this.open.delete(order.level);
    if (name !== "filled") return;
    this.fills.push({ at, side: order.side, price: order.price });
    if (this.fills.length > this.fillsMax) this.fills.shift();
  }

  clear(): void {
    this.open.clear();
    this.fills.length = 0;
  }
}

/** The range of prices to show: all candles, and the orders that are near them. */
export function range(candles: Candle[], orders: Iterable<Order>): { low: number; high: number } {
  let low = Infinity;
  let high = -Infinity;
  for (const candle of candles) {
    low = Math.min(low, candle.low);
    high = Math.max(high, candle.high);
  }
  if (low > high) return { low: 0, high: 1 };
  // A grid that reaches far beyond the prices must not flatten them.
  const reach = Math.max(high - low, high * 0.002);
  const [least, most] = [low - 2 * reach, high + 2 * reach];
  for (const { price } of orders) {
    if (price >= least && price <= most) {
      low = Math.min(low, price);
      high = Math.max(high, price);
    }
  }
  const margin = Math.max((high - low) * 0.06, high * 0.0002);
  return { low: low - margin, high: high + margin };
}

/** Round prices within a range, at most `count`. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? 10 * power;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}
