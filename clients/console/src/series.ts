// The geometry of charts. Pure.

/** The upper end of a scale from 0, and its ticks: round numbers, at most `count` steps. */
export function scale(max: number, count: number): { max: number; ticks: number[] } {
  const top = max > 0 ? max : 1;
  const rough = top / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * (1 - 1e-9)) ?? 10 * power;
  const steps = Math.max(1, Math.ceil(top / step - 1e-9));
  return { max: step * steps, ticks: Array.from({ length: steps + 1 }, (_, n) => Number((n * step).toPrecision(12))) };
}

/** The same for bytes: the steps are round in the unit of the largest value. */
export function byteScale(max: number, count: number): { max: number; ticks: number[] } {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(1, max)) / 10));
  const inUnits = scale(max / unit, count);
  return { max: inUnits.max * unit, ticks: inUnits.ticks.map((tick) => tick * unit) };
}

/** Round times within a span, in Unix milliseconds, at most `count`. */
export function timeTicks(from: number, to: number, count: number): number[] {
  const minute = 60_000;
  const step = [1, 2, 5, 10, 15, 30, 60].map((minutes) => minutes * minute).find((candidate) => (to - from) / candidate <= count) ?? 60 * minute;
  const ticks = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) ticks.push(at);
  return ticks;
}

/** A place to draw in, and what its edges stand for. */
export interface Frame {
  width: number;
  height: number;
  from: number;
  to: number;
  max: number;
}

export const xOf = (frame: Frame, time: number): number => ((time - frame.from) / Math.max(1, frame.to - frame.from)) * frame.width;
export const yOf = (frame: Frame, value: number): number => frame.height - (Math.min(value, frame.max) / frame.max) * frame.height;

/**
 * The path of a line. Where two points are further apart than `gap` milliseconds, the line is interrupted: nothing is known
 * of the time between.
 */
export function linePath(frame: Frame, times: number[], values: number[], gap: number): string {
  let path = "";
  let last = -Infinity;
  times.forEach((time, index) => {
    const value = values[index];
    if (value === undefined || !Number.isFinite(value)) return;
    path += `${time - last > gap ? "M" : "L"}${xOf(frame, time).toFixed(1)} ${yOf(frame, value).toFixed(1)}`;
    last = time;
  });
  return path;
}

/** The index of the time that is nearest; -1 without times. Times ascend. */
export function nearest(times: number[], time: number): number {
  let low = 0;
  let high = times.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle]! < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - times[low - 1]! <= times[low]! - time ? low - 1 : low;
}
