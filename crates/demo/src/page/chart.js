import { range, ticks } from "./candles.js";
const RIGHT = 74;
const BOTTOM = 22;
export class PriceChart {
    canvas;
    #picture;
    #isDue = false;
    constructor(canvas) {
        this.canvas = canvas;
        new ResizeObserver(() => this.#draw()).observe(canvas);
        matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    }
    show(picture) {
        this.#picture = picture;
        if (this.#isDue)
            return;
        this.#isDue = true;
        requestAnimationFrame(() => {
            this.#isDue = false;
            this.#draw();
        });
    }
    #draw() {
        const { canvas } = this;
        const picture = this.#picture;
        const context = canvas.getContext("2d");
        if (!picture || !context || canvas.clientWidth === 0)
            return;
        const scale = devicePixelRatio;
        const [width, height] = [canvas.clientWidth, canvas.clientHeight];
        if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
            canvas.width = Math.round(width * scale);
            canvas.height = Math.round(height * scale);
        }
        context.setTransform(scale, 0, 0, scale, 0, 0);
        context.clearRect(0, 0, width, height);
        const style = getComputedStyle(canvas);
        const color = (name) => style.getPropertyValue(name).trim();
        context.font = `11px ${style.fontFamily}`;
        const [right, bottom] = [width - RIGHT, height - BOTTOM];
        const shown = picture.candles.slice(-Math.max(10, Math.floor(right / 9)));
        const orders = [...picture.orders];
        const { low, high } = range(shown, orders);
        const y = (price) => bottom - ((price - low) / (high - low)) * (bottom - 6);
        const first = shown[0]?.at ?? 0;
        const step = right / Math.max(30, shown.length);
        const x = (at) => ((at - first) / picture.spanMs) * step + step / 2;
        context.textBaseline = "middle";
        for (const price of ticks(low, high, Math.max(2, Math.floor(bottom / 56)))) {
            context.strokeStyle = color("--line");
            line(context, 0, y(price), right, y(price));
            context.fillStyle = color("--soft");
            context.fillText(picture.format(price), right + 8, y(price));
        }
        context.textAlign = "center";
        shown.forEach((candle, index) => {
            if (index % Math.ceil(90 / step) !== 0)
                return;
            context.fillText(new Date(candle.at).toLocaleTimeString("en-GB"), Math.max(26, x(candle.at)), height - 8);
        });
        context.textAlign = "left";
        for (const { price, side } of orders) {
            if (price < low || price > high)
                continue;
            context.strokeStyle = color(side === "buy" ? "--up" : "--down");
            context.globalAlpha = 0.55;
            context.setLineDash([4, 4]);
            line(context, 0, y(price), right, y(price));
            context.setLineDash([]);
            context.globalAlpha = 1;
            context.fillStyle = context.strokeStyle;
            context.fillRect(right - 4, y(price) - 2, 6, 4);
        }
        for (const { at, open, high: top, low: foot, close } of shown) {
            context.strokeStyle = context.fillStyle = color(close >= open ? "--up" : "--down");
            const middle = Math.round(x(at)) + 0.5;
            line(context, middle, y(top), middle, y(foot));
            const body = Math.max(2, step * 0.62);
            context.fillRect(middle - body / 2, Math.min(y(open), y(close)), body, Math.max(1, Math.abs(y(open) - y(close))));
        }
        for (const { at, side, price } of picture.fills) {
            if (at < first || price < low || price > high)
                continue;
            const [center, middle] = [x(Math.floor(at / picture.spanMs) * picture.spanMs), y(price)];
            const tip = side === "buy" ? 1 : -1;
            context.fillStyle = color(side === "buy" ? "--up" : "--down");
            context.strokeStyle = color("--card");
            context.beginPath();
            context.moveTo(center, middle + tip);
            context.lineTo(center - 5, middle + 10 * tip);
            context.lineTo(center + 5, middle + 10 * tip);
            context.closePath();
            context.fill();
            context.stroke();
        }
        const last = shown.at(-1);
        if (!last)
            return;
        context.fillStyle = color("--accent");
        context.fillRect(right + 2, y(last.close) - 9, RIGHT - 2, 18);
        context.strokeStyle = color("--accent");
        context.globalAlpha = 0.5;
        line(context, 0, y(last.close), right, y(last.close));
        context.globalAlpha = 1;
        context.fillStyle = color("--on-accent");
        context.fillText(picture.format(last.close), right + 8, y(last.close));
    }
}
function line(context, x1, y1, x2, y2) {
    context.beginPath();
    context.moveTo(x1, Math.round(y1) + 0.5 * Number(y1 === y2));
    context.lineTo(x2, Math.round(y2) + 0.5 * Number(y1 === y2));
    context.stroke();
}
