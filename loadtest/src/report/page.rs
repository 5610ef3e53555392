//! A report as one self-contained page, without scripts, fonts or images from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{Axis, Chart, Line};
use super::figure::{self, FAMILIES, Unit};
use super::{Point, Report, Series};

const STYLE: &str = include_str!("page.css");

/// A column of the series, its label, and the style of its line.
struct Drawn(&'static str, &'static str, u8);

/// A chart of some columns of the series.
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

/// The most important figures, shown first if the scenario has them.
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
    document(
        &title,
        &html! {
            h1 { (title) }
            (setup(report))
            (verdict(report))
            @if let Some(error) = &report.first_error {
                p.verdict.bad { "First error: " (error) }
            }
            (tiles(report))
            div.charts {
                (distributions(&[("", report)]))
                @for plot in &PLOTS { (over_time(plot, &report.series)) }
            }
            (table(report))
        },
    )
}

/// The common frame of all pages.
pub(super) fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

/// The options of the run.
pub(super) fn setup(report: &Report) -> Markup {
    html! {
        ul.setup {
            li { "adapter " b { (report.adapter) } }
            @for (key, value) in &report.setup {
                li { (key.replace('_', " ")) " " b { (super::format::count(*value as f64)) } }
            }
        }
    }
}

/// Whether the load tool itself was the bottleneck.
pub(super) fn verdict(report: &Report) -> Markup {
    let warns = report.verdict.contains("THE TOOL");
    html! {
        p.verdict.bad[warns] { "Load tool: " (report.verdict) }
    }
}

fn tiles(report: &Report) -> Markup {
    let all = figure::all();
    let shown = TILES.iter().filter_map(|key| {
        let figure = all.iter().find(|figure| figure.key == *key)?;
        let label = match figure.section {
            "latency" | "requests" | "deliveries" => format!("{} {}", figure.section, figure.label),
            _ => figure.label.to_owned(),
        };
        Some((figure.unit.show(*report.figures.get(figure.key)?), label))
    });
    html! {
        ul.tiles {
            @for (value, label) in shown {
                li { b { (value) } (label) }
            }
        }
    }
}

fn over_time(plot: &Plot, series: &Series) -> Markup {
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
    chart.figure()
}

/// Latencies by quantile, one line for each report that has them. Baselines are drawn next to the disturbed latencies.
pub(super) fn distributions(reports: &[(&str, &Report)]) -> Markup {
    let mut charts = Vec::new();
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
        charts.push(by_quantile(&format!("Distribution: {section}"), meaning, &lines));
    }
    html! { @for chart in charts { (chart) } }
}

fn by_quantile(title: &str, note: &str, lines: &[(String, &Vec<Point>)]) -> Markup {
    let columns: Vec<(Vec<f64>, Vec<Option<f64>>)> = lines
        .iter()
        .map(|(_, points)| points.iter().map(|point| (point.quantile, Some(point.ms))).unzip())
        .collect();
    let Some((x, _)) = columns.first() else {
        return html! {};
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
    chart.figure()
}

fn table(report: &Report) -> Markup {
    html! {
        h2 { "All figures" }
        table {
            @for (section, figures) in figure::by_section(report.figures.keys().map(String::as_str)) {
                tbody {
                    tr { th colspan="2" { (section) } }
                    @for figure in figures {
                        tr {
                            td { (figure.label) }
                            td.value { (figure.unit.show(report.figures[figure.key])) }
                        }
                    }
                }
            }
        }
    }
}

/// The same columns of two reports, for the comparison.
pub(super) fn together(a: &Report, b: &Report) -> Markup {
    let mut charts = Vec::new();
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
        charts.push(chart.figure());
    }
    html! { @for chart in charts { (chart) } }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn a_page_is_complete_and_self_contained() {
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
            "a reference to another resource"
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
        assert!(!super::page(&report).contains("Throughput"), "an empty chart");
    }
}
