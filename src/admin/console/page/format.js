const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
export function number(value) {
    const size = Math.abs(value);
    if (size >= 1e9)
        return `${trim(value / 1e9)} G`;
    if (size >= 1e6)
        return `${trim(value / 1e6)} M`;
    if (size >= 100 || Number.isInteger(value))
        return Math.round(value).toLocaleString("en");
    return size >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/0$/, "");
}
function trim(value) {
    return value.toFixed(2).replace(/\.?0+$/, "");
}
export function bytes(value) {
    let unit = 0;
    let rest = value;
    while (Math.abs(rest) >= 1024 && unit < UNITS.length - 1) {
        rest /= 1024;
        unit += 1;
    }
    return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${UNITS[unit]}`;
}
export const perSecond = (value) => `${number(value)} /s`;
export const bytesPerSecond = (value) => `${bytes(value)}/s`;
export const percent = (part) => `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;
export const cores = percent;
export function duration(seconds) {
    if (seconds < 10)
        return `${seconds.toFixed(1)} s`;
    if (seconds < 90)
        return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    if (minutes < 60)
        return `${minutes} min`;
    const hours = Math.floor(minutes / 60);
    if (hours < 24)
        return `${hours} h ${minutes % 60} min`;
    return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
export function milliseconds(value) {
    if (value >= 1000)
        return duration(value / 1000);
    return `${value < 10 ? value.toFixed(2) : Math.round(value)} ms`;
}
export function ago(seconds, nowMs) {
    const passed = Math.max(0, nowMs / 1000 - seconds);
    return passed < 1 ? "now" : `${duration(Math.floor(passed)).replace(".0", "")} ago`;
}
export function clock(ms) {
    return new Date(ms).toLocaleTimeString("en-GB");
}
