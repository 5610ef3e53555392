export class Candles {
    spanMs;
    max;
    list = [];
    constructor(spanMs, max) {
        this.spanMs = spanMs;
        this.max = max;
    }
    add(time, price) {
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
        if (this.list.length > this.max)
            this.list.shift();
    }
}
export class Orders {
    fillsMax;
    open = new Map();
    fills = [];
    constructor(fillsMax = 200) {
        this.fillsMax = fillsMax;
    }
    event(name, order, at) {
        if (name === "placed")
            this.open.set(order.level, order);
        else
            this.open.delete(order.level);
        if (name !== "filled")
            return;
        this.fills.push({ at, side: order.side, price: order.price });
        if (this.fills.length > this.fillsMax)
            this.fills.shift();
    }
    clear() {
        this.open.clear();
        this.fills.length = 0;
    }
}
export function range(candles, orders) {
    let low = Infinity;
    let high = -Infinity;
    for (const candle of candles) {
        low = Math.min(low, candle.low);
        high = Math.max(high, candle.high);
    }
    if (low > high)
        return { low: 0, high: 1 };
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
export function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? 10 * power;
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step)
        found.push(Number(at.toPrecision(12)));
    return found;
}
