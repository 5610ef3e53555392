export function scale(max, count) {
    const top = max > 0 ? max : 1;
    const rough = top / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * (1 - 1e-9)) ?? 10 * power;
    const steps = Math.max(1, Math.ceil(top / step - 1e-9));
    return { max: step * steps, ticks: Array.from({ length: steps + 1 }, (_, n) => Number((n * step).toPrecision(12))) };
}
export function byteScale(max, count) {
    const unit = 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(1, max)) / 10));
    const inUnits = scale(max / unit, count);
    return { max: inUnits.max * unit, ticks: inUnits.ticks.map((tick) => tick * unit) };
}
export function timeTicks(from, to, count) {
    const minute = 60_000;
    const step = [1, 2, 5, 10, 15, 30, 60].map((minutes) => minutes * minute).find((candidate) => (to - from) / candidate <= count) ?? 60 * minute;
    const ticks = [];
    for (let at = Math.ceil(from / step) * step; at <= to; at += step)
        ticks.push(at);
    return ticks;
}
export const xOf = (frame, time) => ((time - frame.from) / Math.max(1, frame.to - frame.from)) * frame.width;
export const yOf = (frame, value) => frame.height - (Math.min(value, frame.max) / frame.max) * frame.height;
export function linePath(frame, times, values, gap) {
    let path = "";
    let last = -Infinity;
    times.forEach((time, index) => {
        const value = values[index];
        if (value === undefined || !Number.isFinite(value))
            return;
        path += `${time - last > gap ? "M" : "L"}${xOf(frame, time).toFixed(1)} ${yOf(frame, value).toFixed(1)}`;
        last = time;
    });
    return path;
}
export function nearest(times, time) {
    let low = 0;
    let high = times.length - 1;
    if (high < 0)
        return -1;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (times[middle] < time)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && time - times[low - 1] <= times[low] - time ? low - 1 : low;
}
