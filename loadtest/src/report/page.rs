//! A report as one page that needs nothing else: no script, no font, no picture from anywhere.

use std::fmt::Write;

use super::chart::{Axis, Chart, Line, escape};
use super::figure::{self, FAMILIES, Unit};
use super::{Point, Report, Series};

const STYLE: &str = include_str!("page.css");

/// A column of the series, and which line it is drawn as.
struct Drawn(&'static str, &'static str, u8);

/// A chart of columns of the series.
struct Plot {
    title: &'static str,
    note: &'static str,
    unit: Unit,
    columns: &'static [Drawn],
}

const PLOTS: [Plot; 7] = [
    Plot {
        title: "Latency",
        note: "from when an event was due to its arrival",
        unit: Unit::Ms,
        columns: &[
            Drawn("latency_ms_p50", "p50", 1),
            Drawn("latency_ms_p90", "p90", 2),
            Drawn("latency_ms_p99", "p99", 3),
            Drawn("latency_ms_p999", "p99.9", 4),
            Drawn("latency_ms_max", "max", 5),
        ],
    },
    Plot {
        title: "Requests",
        note: "from when a request was due to its answer",
        unit: Unit::Ms,
        columns: &[
            Drawn("request_ms_p50", "p50", 1),
            Drawn("request_ms_p90", "p90", 2),
            Drawn("request_ms_p99", "p99", 3),
            Drawn("request_ms_p999", "p99.9", 4),
            Drawn("request_ms_max", "max", 5),
        ],
    },
    Plot {
        title: "Throughput",
        note: "events delivered, and requests answered, per second",
        unit: Unit::PerSecond,
        columns: &[
            Drawn("deliveries_per_s", "deliveries", 2),
            Drawn("requests_per_s", "requests", 4),
        ],
    },
    Plot {
        title: "Live clients",
        note: "connected and subscribed",
        unit: Unit::Count,
        columns: &[Drawn("clients_live", "clients", 2)],
    },
    Plot {
        title: "CPU",
        note: "server process, and the tool's busiest thread; 100 % is one core",
        unit: Unit::Share,
        columns: &[
            Drawn("server_cores", "server", 3),
            Drawn("tool_busiest_thread", "load tool", 5),
        ],
    },
    Plot {
        title: "Server CPU per delivery",
        note: "",
        unit: Unit::Us,
        columns: &[Drawn("server_cpu_us_per_delivery", "CPU", 3)],
    },
    Plot {
        title: "Server memory",
        note: "without the kernel's socket buffers",
        unit: Unit::Bytes,
        columns: &[
            Drawn("server_rss_bytes", "RSS", 2),
            Drawn("server_anonymous_bytes", "anonymous", 1),
        ],
    },
];

/// What a reader looks for first, as far as the scenario has it.
const TILES: [&str; 8] = [
    "deliveries_per_s",
    "requests_per_s",
    "all_live_ms",
    "latency_ms_p50",
    "latency_ms_p99",
    "request_ms_p99",
    "server_cpu_us_per_delivery",
    "bytes_per_connection",
];

pub(super) fn page(report: &Report) -> String {
    let title = format!("{}: {}", report.scenario, report.name);
    let mut body = format!("<h1>{}</h1>{}", escape(&title), setup(report));
    let warns = report.verdict.contains("THE TOOL");
    let class = if warns { "verdict bad" } else { "verdict" };
    // Writing to a string cannot fail.
    let _ = write!(body, "<p class=\"{class}\">Load tool: {}</p>", escape(&report.verdict));
    if let Some(error) = &report.first_error {
        let _ = write!(body, "<p class=\"verdict bad\">First error: {}</p>", escape(error));
    }
    body.push_str(&tiles(report));
    body.push_str("<div class=\"charts\">");
    body.push_str(&distributions(&[("", report)]));
    for plot in &PLOTS {
        body.push_str(&over_time(plot, &report.series));
    }
    body.push_str("</div>");
    body.push_str(&table(report));
    document(&title, &body)
}

/// The frame around all pages.
pub(super) fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

/// What was asked for.
pub(super) fn setup(report: &Report) -> String {
    let mut list = format!(
        "<ul class=\"setup\"><li>adapter <b>{}</b></li>",
        escape(&report.adapter)
    );
    for (key, value) in &report.setup {
        let value = super::format::count(*value as f64);
        let _ = write!(list, "<li>{} <b>{value}</b></li>", escape(&key.replace('_', " ")));
    }
    list + "</ul>"
}

fn tiles(report: &Report) -> String {
    let all = figure::all();
    let mut tiles = String::from("<ul class=\"tiles\">");
    for figure in TILES
        .iter()
        .filter_map(|key| all.iter().find(|figure| figure.key == *key))
    {
        if let Some(value) = report.figures.get(figure.key) {
            let label = match figure.section {
                "latency" | "requests" | "deliveries" => format!("{} {}", figure.section, figure.label),
                _ => figure.label.to_owned(),
            };
            let _ = write!(tiles, "<li><b>{}</b>{}</li>", figure.unit.show(*value), escape(&label));
        }
    }
    tiles + "</ul>"
}

fn over_time(plot: &Plot, series: &Series) -> String {
    let has_something = |column: &&Drawn| {
        let values = series.columns.get(column.0);
        values.is_some_and(|values| values.iter().flatten().any(|value| *value > 0.0))
    };
    let chart = Chart {
        title: plot.title,
        note: plot.note,
        unit: plot.unit,
        axis: Axis::Seconds,
        x: &series.at_s,
        lines: plot
            .columns
            .iter()
            .filter(has_something)
            .map(|Drawn(key, label, style)| Line {
                label,
                style: *style,
                x: None,
                values: &series.columns[*key],
            })
            .collect(),
        marks: series
            .marks
            .iter()
            .map(|mark| (mark.at_s, mark.label.as_str()))
            .collect(),
    };
    chart.svg()
}

/// Latencies by quantile, a line for each report that has them; those without a disturbance beside those with it.
pub(super) fn distributions(reports: &[(&str, &Report)]) -> String {
    let mut charts = String::new();
    for (prefix, section, meaning) in FAMILIES.iter().filter(|(prefix, ..)| *prefix != "baseline_ms") {
        let mut lines: Vec<(String, &Vec<Point>)> = Vec::new();
        for (name, report) in reports {
            let with = report.distributions.get(*prefix);
            let without = report
                .distributions
                .get("baseline_ms")
                .filter(|_| *prefix == "latency_ms");
            let label = |what: &str| format!("{name} {}", if without.is_some() { what } else { "" });
            lines.extend(with.map(|points| (label("with"), points)));
            lines.extend(without.map(|points| (label("without"), points)));
        }
        charts.push_str(&by_quantile(&format!("Distribution: {section}"), meaning, &lines));
    }
    charts
}

fn by_quantile(title: &str, note: &str, lines: &[(String, &Vec<Point>)]) -> String {
    let columns: Vec<(Vec<f64>, Vec<Option<f64>>)> = lines
        .iter()
        .map(|(_, points)| points.iter().map(|point| (point.quantile, Some(point.ms))).unzip())
        .collect();
    let Some((x, _)) = columns.first() else {
        return String::new();
    };
    let line = |index: usize| Line {
        label: lines[index].0.trim(),
        style: [2, 4, 1, 5][index % 4],
        x: (lines.len() > 1).then_some(&columns[index].0),
        values: &columns[index].1,
    };
    let chart = Chart {
        title,
        note,
        unit: Unit::Ms,
        axis: Axis::Quantile,
        x,
        lines: (0..lines.len()).map(line).collect(),
        marks: Vec::new(),
    };
    chart.svg()
}

fn table(report: &Report) -> String {
    let mut table = String::from("<h2>All figures</h2><table>");
    for (section, figures) in figure::by_section(report.figures.keys().map(String::as_str)) {
        let _ = write!(table, "<tbody><tr><th colspan=\"2\">{section}</th></tr>");
        for figure in figures {
            let value = figure.unit.show(report.figures[figure.key]);
            let _ = write!(
                table,
                "<tr><td>{}</td><td class=\"value\">{value}</td></tr>",
                escape(figure.label)
            );
        }
        table.push_str("</tbody>");
    }
    table + "</table>"
}

/// The same columns of two reports, for the comparison.
pub(super) fn together(a: &Report, b: &Report) -> String {
    let mut charts = String::new();
    for (title, note, unit, key) in [
        ("p99 latency over time", "", Unit::Ms, "latency_ms_p99"),
        ("Request p99 over time", "", Unit::Ms, "request_ms_p99"),
        ("Deliveries", "", Unit::PerSecond, "deliveries_per_s"),
        ("Server CPU", "100 % is one core", Unit::Share, "server_cores"),
        ("Server CPU per delivery", "", Unit::Us, "server_cpu_us_per_delivery"),
        ("Server RSS", "", Unit::Bytes, "server_rss_bytes"),
    ] {
        let lines = [(a, 2), (b, 4)].into_iter().filter_map(|(report, style)| {
            Some(Line {
                label: &report.name,
                style,
                x: Some(&report.series.at_s),
                values: report.series.columns.get(key)?,
            })
        });
        let chart = Chart {
            title,
            note,
            unit,
            axis: Axis::Seconds,
            x: &a.series.at_s,
            lines: lines.collect(),
            marks: Vec::new(),
        };
        charts.push_str(&chart.svg());
    }
    charts
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        let mut report = example("<gateway>", 1.0);
        report.first_error = Some("<script>".into());
        let page = super::page(&report);
        for part in [
            "&lt;gateway&gt;",
            "&lt;script&gt;",
            "<svg",
            "1,000",
            "not the bottleneck",
            "5.00 ms",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            !page.contains("<script") && !page.contains("http"),
            "something from elsewhere"
        );
        for tag in ["figure", "svg", "table", "ul", "main"] {
            let count = |text: String| page.matches(&text).count();
            assert_eq!(
                count(format!("<{tag}>")) + count(format!("<{tag} ")),
                count(format!("</{tag}>")),
                "{tag}"
            );
        }
        report.series.columns.clear();
        assert!(!super::page(&report).contains("Throughput"), "a chart of nothing");
    }
}
