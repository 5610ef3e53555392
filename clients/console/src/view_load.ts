// The load of the last hour.

import { get, withQuery } from "./api.js";
import { Chart, type ChartOptions } from "./chart.js";
import { h } from "./dom.js";
import { bytes, bytesPerSecond, cores, milliseconds, number, percent, perSecond } from "./format.js";
import type { Context, View } from "./view.js";

interface Load {
  interval_ms: number;
  times: number[];
  series: Record<string, number[]>;
  shards: number[][];
}

const HOUR_MS = 3_600_000;

const CHARTS: (ChartOptions & { of: string[] })[] = [
  { title: "Connections", lines: ["open"], of: ["connections"], format: number, atLeast: 10 },
  { title: "Events", lines: ["in", "delivered"], of: ["events_per_s", "deliveries_per_s"], format: perSecond, atLeast: 10 },
  { title: "Latency", lines: ["p50", "p99"], of: ["latency_p50_ms", "latency_p99_ms"], format: milliseconds, atLeast: 2, about: "From the publication of an event to its flush, in the gateway. One event in 32 is measured." },
  { title: "Bytes", lines: ["sent", "received"], of: ["bytes_out_per_s", "bytes_in_per_s"], format: bytesPerSecond, isBytes: true, atLeast: 10_240 },
  { title: "Connects and endings", lines: ["connects per second", "ended in 5 s"], of: ["connects_per_s", "ended"], format: number, atLeast: 5 },
  { title: "Queues", lines: ["shards' inboxes", "clients' frames"], of: ["inbox", "pending_frames"], format: number, atLeast: 100 },
  { title: "Queued bytes", lines: ["for clients"], of: ["pending_bytes"], format: bytes, isBytes: true, atLeast: 10_240 },
  { title: "Losses", lines: ["dropped per second", "refused, too fast, in 5 s"], of: ["dropped_per_s", "rate_limited"], format: number, atLeast: 5 },
  { title: "Credits lent", lines: ["of all"], of: ["credits_lent"], format: percent, atLeast: 1, about: "Near 100 %, publishers wait for the shards." },
  { title: "Memory", lines: ["resident"], of: ["rss_bytes"], format: bytes, isBytes: true, atLeast: 2 ** 25 },
];

/** What `GET /api/load` tells of one tenant. */
const OF_TENANT = ["connections", "events_per_s", "deliveries_per_s"];

export function open({ tenant }: Context): View {
  const load: Load = { interval_ms: 5000, times: [], series: {}, shards: [] };
  const shown = CHARTS.filter(({ of }) => !tenant || of.every((name) => OF_TENANT.includes(name)));
  const charts = shown.map((options) => ({ chart: new Chart(options), of: options.of }));
  const cpu = h("div");
  const element = h("div", { class: "charts" }, ...charts.map(({ chart }) => chart.element), cpu);
  let cpuChart: Chart | undefined;
  return {
    element,
    async refresh() {
      const newest = load.times.at(-1);
      const more = await get<Load>(withQuery("load", { since: newest }));
      append(load, more, Date.now() - HOUR_MS);
      const to = load.times.at(-1) ?? Date.now();
      const span = { from: Math.max(to - HOUR_MS, Math.min(load.times[0] ?? to, to - 5 * 60_000)), to };
      const gap = 3 * load.interval_ms;
      for (const { chart, of } of charts) chart.update(load.times, of.map((name) => load.series[name] ?? []), span, gap);
      if (!cpuChart && load.shards.length > 0) {
        const lines = ["process", ...load.shards.map((_, shard) => `shard ${shard}`)];
        cpuChart = new Chart({ title: "CPU", lines, format: cores, atLeast: 0.5, about: "100 % is one core. A shard has one thread." });
        cpu.replaceWith(cpuChart.element);
      }
      cpuChart?.update(load.times, [load.series.cpu ?? [], ...load.shards], span, gap);
    },
  };
}

/** Adds newer points, and drops those before `from`. */
export function append(load: Load, more: Load, from: number): void {
  // A gateway that was started again has a new history, with other shards perhaps.
  const isOther = load.shards.length !== more.shards.length;
  if (isOther) [load.times, load.series, load.shards] = [[], {}, more.shards.map(() => [])];
  load.interval_ms = more.interval_ms;
  load.times.push(...more.times);
  for (const [name, values] of Object.entries(more.series)) (load.series[name] ??= []).push(...values);
  more.shards.forEach((values, shard) => load.shards[shard]!.push(...values));
  const old = load.times.findIndex((time) => time >= from);
  const count = old < 0 ? load.times.length : old;
  for (const values of [load.times, ...Object.values(load.series), ...load.shards]) values.splice(0, count);
}
