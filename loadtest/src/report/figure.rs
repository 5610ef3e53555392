//! The catalogue of figures: names, descriptions, units, and which direction is better.
//!
//! Invariant: A report holds only figures that are listed here and in docs/loadtest.md, so that text, page and
//! comparison can show all of them without knowing the scenario.

use crate::report::format;

/// A figure that a report may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Its name in JSON.
    pub(crate) key: &'static str,
    pub(crate) section: &'static str,
    pub(crate) label: &'static str,
    pub(crate) unit: Unit,
    pub(crate) better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    PerSecond,
    Ms,
    Us,
    Bytes,
    BytesPerHour,
    /// Share of one core, or of the time.
    Share,
    /// Multiple of another figure.
    Ratio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
    /// Describes the load, not the quality of the server.
    Neither,
}

impl Unit {
    /// A value as text for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Count => format::count(value),
            Self::PerSecond => format!("{}/s", format::count(value)),
            Self::Ms => format!("{} ms", format::short(value)),
            Self::Us => format!("{} µs", format::short(value)),
            Self::Bytes => format::bytes(value),
            Self::BytesPerHour => format!("{}/h", format::bytes(value)),
            Self::Share => format!("{:.1} %", value * 100.0),
            Self::Ratio => format!("x {}", format::short(value)),
        }
    }
}

const fn figure(key: &'static str, section: &'static str, label: &'static str, unit: Unit, better: Better) -> Figure {
    Figure {
        key,
        section,
        label,
        unit,
        better,
    }
}

use Better::{Higher, Lower, Neither};
use Unit::{Bytes, BytesPerHour, Count, Ms, PerSecond, Ratio, Share, Us};

/// All figures except quantiles, in the order in which they are shown.
pub(crate) const FIGURES: [Figure; 49] = [
    figure("deliveries", "deliveries", "delivered", Count, Neither),
    figure("deliveries_expected", "deliveries", "expected", Count, Neither),
    figure("deliveries_per_s", "deliveries", "rate", PerSecond, Higher),
    figure("received_bytes", "deliveries", "received", Bytes, Lower),
    figure("bytes_per_delivery", "deliveries", "per delivery", Bytes, Lower),
    figure("missing", "deliveries", "missing", Count, Lower),
    figure("conflated", "deliveries", "replaced by newer ones", Count, Neither),
    figure("out_of_order", "deliveries", "out of order or duplicate", Count, Lower),
    figure("told_dropped", "deliveries", "losses the server reported", Count, Lower),
    figure("stray", "deliveries", "after unsubscribing", Count, Lower),
    figure("clients_live", "deliveries", "clients live at the end", Count, Neither),
    figure("clients_ended", "deliveries", "clients ended", Count, Lower),
    figure("errors", "deliveries", "error messages", Count, Lower),
    figure(
        "behind_ms",
        "latency",
        "last arrival after the last event was due",
        Ms,
        Lower,
    ),
    figure("worst_second_p99_ms", "latency", "p99 of the worst second", Ms, Lower),
    figure(
        "p99_ratio",
        "latency",
        "p99 as a multiple of the baseline",
        Ratio,
        Lower,
    ),
    figure("all_live_ms", "going live", "all live after", Ms, Lower),
    figure("again_live_ms", "going live", "all live after, last round", Ms, Lower),
    figure("live_per_s", "going live", "rate", PerSecond, Higher),
    figure("requests_sent", "requests", "sent", Count, Neither),
    figure("requests_answered", "requests", "answered", Count, Neither),
    figure("requests_unanswered", "requests", "unanswered", Count, Lower),
    figure("requests_failed", "requests", "refused", Count, Lower),
    figure("requests_per_s", "requests", "rate", PerSecond, Higher),
    figure(
        "backend_answered",
        "requests",
        "answered by the backend",
        Count,
        Neither,
    ),
    figure("stalled_ended", "stalled", "ended by the server", Count, Neither),
    figure(
        "stalled_missing",
        "stalled",
        "missing between events they read",
        Count,
        Neither,
    ),
    figure(
        "stalled_told_dropped",
        "stalled",
        "reported as lost, including after the last read",
        Count,
        Neither,
    ),
    figure("server_cpu_us_per_delivery", "server", "CPU per delivery", Us, Lower),
    figure(
        "server_cpu_us_per_update",
        "server",
        "CPU per update of a subscription",
        Us,
        Lower,
    ),
    figure(
        "proxy_cpu_us_per_delivery",
        "server",
        "CPU of the proxy per delivery",
        Us,
        Lower,
    ),
    figure("proxy_cores", "server", "CPU of the proxy", Share, Lower),
    figure("server_cpu_us_per_request", "server", "CPU per request", Us, Lower),
    figure(
        "server_cpu_us_per_connection",
        "server",
        "CPU per new connection",
        Us,
        Lower,
    ),
    figure("server_cores", "server", "CPU", Share, Lower),
    figure("server_waited", "server", "waited for a core", Share, Neither),
    figure("idle_cores", "server", "CPU while idle", Share, Lower),
    figure("rss_bytes", "memory", "RSS", Bytes, Lower),
    figure("rss_max_bytes", "memory", "maximum RSS", Bytes, Lower),
    figure(
        "rss_growth_bytes_per_hour",
        "memory",
        "RSS growth over the second half",
        BytesPerHour,
        Lower,
    ),
    figure("anonymous_before_bytes", "memory", "anonymous before", Bytes, Neither),
    figure("anonymous_connected_bytes", "memory", "connected", Bytes, Lower),
    figure("anonymous_after_burst_bytes", "memory", "after the burst", Bytes, Lower),
    figure("bytes_per_connection", "memory", "per connection", Bytes, Lower),
    figure(
        "bytes_per_connection_after_burst",
        "memory",
        "per connection after the burst",
        Bytes,
        Lower,
    ),
    figure("tool_busiest_thread", "load tool", "busiest thread", Share, Neither),
    figure("tool_waited", "load tool", "waited for a core", Share, Neither),
    figure("publish_late_ms_max", "load tool", "maximum publish delay", Ms, Neither),
    figure("connected_ms", "load tool", "clients connected in", Ms, Neither),
];

/// Latencies that a report may have: the prefix of their figures, the section, and a description.
pub(crate) const FAMILIES: [(&str, &str, &str); 4] = [
    ("latency_ms", "latency", "from when an event was due to its arrival"),
    (
        "baseline_ms",
        "baseline",
        "the same before the storm, the churn or the stall",
    ),
    (
        "live_ms",
        "going live",
        "from when a connection was due to its subscription",
    ),
    ("request_ms", "requests", "from when a request was due to its answer"),
];

/// The quantiles of each family, with the suffix of the figure's name.
pub(crate) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

/// Sections in the order in which they are shown.
const SECTIONS: [&str; 9] = [
    "deliveries",
    "latency",
    "baseline",
    "going live",
    "requests",
    "stalled",
    "server",
    "memory",
    "load tool",
];

/// The figures with these names, by section, in order. Unknown names, as of a newer version, are left out.
pub(crate) fn by_section<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Vec<(&'static str, Vec<Figure>)> {
    let all = all();
    let of = |section: &'static str| {
        let has = |figure: &Figure| figure.section == section && keys.clone().any(|key| key == figure.key);
        (
            section,
            all.iter().filter(|figure| has(figure)).copied().collect::<Vec<_>>(),
        )
    };
    SECTIONS
        .into_iter()
        .map(of)
        .filter(|(_, figures)| !figures.is_empty())
        .collect()
}

/// All figures, quantiles first.
pub(crate) fn all() -> Vec<Figure> {
    let quantile = |(prefix, section, _): (&'static str, &'static str, &'static str)| {
        QUANTILES.map(|(name, _)| {
            // A leak of fewer than thirty names, once per run.
            let key = String::leak(format!("{prefix}_{name}"));
            figure(key, section, if name == "p999" { "p99.9" } else { name }, Ms, Lower)
        })
    };
    FAMILIES.into_iter().flat_map(quantile).chain(FIGURES).collect()
}

/// Whether a figure is listed here.
pub(crate) fn is_known(key: &str) -> bool {
    FIGURES.iter().any(|figure| figure.key == key)
        || FAMILIES.iter().any(|(prefix, ..)| {
            let quantile = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
            QUANTILES.iter().any(|(label, _)| quantile == Some(label))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_shown_once_and_documented() {
        let document = include_str!("../../../docs/loadtest.md");
        let all = all();
        for figure in &all {
            assert!(is_known(figure.key), "{}", figure.key);
            assert!(SECTIONS.contains(&figure.section), "{}", figure.section);
            assert_eq!(
                all.iter().filter(|other| other.key == figure.key).count(),
                1,
                "{}",
                figure.key
            );
        }
        for figure in FIGURES {
            assert!(
                document.contains(&format!("`{}`", figure.key)),
                "{} is not documented",
                figure.key
            );
        }
        for (prefix, ..) in FAMILIES {
            assert!(
                document.contains(&format!("`{prefix}_p50`")),
                "{prefix} is not documented"
            );
        }
        let shown: usize = by_section(all.iter().map(|figure| figure.key))
            .iter()
            .map(|(_, figures)| figures.len())
            .sum();
        assert_eq!(shown, all.len());
        assert!(!is_known("latency_ms_p42") && !is_known("no_such"));
    }
}
