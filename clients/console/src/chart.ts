// A line chart over time, as SVG. The pointer or the arrow keys select a time, and the legend shows the values there.

import { h, setText, svg } from "./dom.js";
import { clock } from "./format.js";
import { byteScale, linePath, nearest, scale, timeTicks, xOf, yOf, type Frame } from "./series.js";

const HEIGHT = 150;
const LEFT = 66;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 20;
/** Half the width of a time below the axis, so that the last one is not cut off. */
const HALF_LABEL = 16;

export interface ChartOptions {
  title: string;
  /** The names of the lines. */
  lines: string[];
  format: (value: number) => string;
  /** Whether the values are bytes, whose round numbers are powers of 1024. */
  isBytes?: boolean;
  /** The shortest scale, so that noise near zero does not look like load. */
  atLeast?: number;
  /** What the chart shows, in one sentence. */
  about?: string;
}

export class Chart {
  readonly element: HTMLElement;
  readonly #plot: SVGSVGElement;
  readonly #legend: HTMLElement[];
  readonly #time: HTMLElement;
  #times: number[] = [];
  #values: number[][] = [];
  #span = { from: 0, to: 1 };
  #gap = Infinity;
  // The selected index; -1: the newest.
  #at = -1;
  // One unit of the drawing is one pixel, so that texts have their size on a phone as well.
  #width = 600;

  constructor(readonly options: ChartOptions) {
    this.#plot = svg("svg", { role: "img", tabindex: 0, class: "chart" });
    this.#legend = options.lines.map(() => h("span", { class: "value" }));
    this.#time = h("span", { class: "soft" });
    const entries = options.lines.map((name, index) =>
      h("span", { class: "entry" }, h("i", { class: `key line-${index % 8}`, "aria-hidden": "true" }), `${name} `, this.#legend[index]));
    this.element = h("figure", {},
      h("figcaption", {}, h("h3", {}, options.title), h("span", { class: "legend" }, ...entries, this.#time)),
      this.#plot, options.about ? h("p", { class: "about" }, options.about) : null);
    this.#plot.addEventListener("pointermove", (event) => this.#point(event.clientX));
    this.#plot.addEventListener("pointerleave", () => this.#select(-1));
    this.#plot.addEventListener("blur", () => this.#select(-1));
    this.#plot.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry?.contentRect.width ?? 0);
      if (width === 0 || width === this.#width) return;
      this.#width = width;
      this.#draw();
    }).observe(this.#plot);
  }

  /** Shows these values; `values` has one list for each line. `gap` as for `linePath`. */
  update(times: number[], values: number[][], span: { from: number; to: number }, gap: number): void {
    [this.#times, this.#values, this.#span, this.#gap] = [times, values, span, gap];
    this.#draw();
  }

  #scale(): { max: number; ticks: number[] } {
    let max = this.options.atLeast ?? 0;
    for (const line of this.#values) for (const value of line) if (value > max) max = value;
    return (this.options.isBytes ? byteScale : scale)(max, 4);
  }

  #draw(): void {
    const { max, ticks } = this.#scale();
    const frame: Frame = { width: this.#width - LEFT - RIGHT, height: HEIGHT, ...this.#span, max };
    this.#plot.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT + TOP + BOTTOM}`);
    const grid = ticks.flatMap((tick) => {
      const y = (TOP + yOf(frame, tick)).toFixed(1);
      return [
        svg("line", { class: "grid", x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y }),
        svg("text", { x: LEFT - 8, y, "text-anchor": "end", "dominant-baseline": "middle" }, this.options.format(tick)),
      ];
    });
    const times = timeTicks(frame.from, frame.to, Math.max(2, Math.floor(frame.width / 80))).map((time) =>
      svg("text", { x: Math.min(LEFT + xOf(frame, time), this.#width - HALF_LABEL).toFixed(1), y: TOP + HEIGHT + 15, "text-anchor": "middle" }, clock(time).slice(0, 5)));
    const lines = this.#values.map((line, index) =>
      svg("path", { class: `line-${index % 8}`, transform: `translate(${LEFT} ${TOP})`, d: linePath(frame, this.#times, line, this.#gap) }));
    const at = this.#at >= 0 ? this.#times[this.#at] : undefined;
    const x = at === undefined ? 0 : (LEFT + xOf(frame, at)).toFixed(1);
    const cross = at === undefined ? null : svg("line", { class: "cross", x1: x, x2: x, y1: TOP, y2: TOP + HEIGHT });
    this.#plot.replaceChildren(...grid, ...times, ...lines, ...(cross ? [cross] : []));
    this.#tell();
  }

  #tell(): void {
    const index = this.#at >= 0 ? this.#at : this.#times.length - 1;
    const texts = this.options.lines.map((_, line) => {
      const value = this.#values[line]?.[index];
      return value === undefined || value === null ? "–" : this.options.format(value);
    });
    texts.forEach((text, line) => setText(this.#legend[line]!, text));
    const time = this.#times[index];
    setText(this.#time, this.#at >= 0 && time !== undefined ? clock(time) : "");
    const told = this.options.lines.map((name, line) => `${name} ${texts[line]}`).join(", ");
    this.#plot.setAttribute("aria-label", `${this.options.title}${time === undefined ? "" : `, ${clock(time)}`}: ${told}`);
  }

  #point(clientX: number): void {
    const box = this.#plot.getBoundingClientRect();
    const x = clientX - box.left - LEFT;
    const { from, to } = this.#span;
    this.#select(nearest(this.#times, from + (x / (this.#width - LEFT - RIGHT)) * (to - from)));
  }

  #key(event: KeyboardEvent): void {
    const last = this.#times.length - 1;
    const at = this.#at < 0 ? last : this.#at;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") return this.#select(-1);
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.#select(Math.max(0, Math.min(last, next)));
  }

  #select(index: number): void {
    if (index === this.#at) return;
    this.#at = index;
    this.#draw();
  }
}
