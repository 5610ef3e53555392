//! Compares two reports: each figure that both have, and the second as a multiple of the first.

use std::fmt::Write;
use std::path::Path;

use maud::{Markup, html};

use super::figure::{self, Better, Figure};
use super::page::document;
use super::{Report, page};

/// Smaller differences, as a share of the base, count as noise.
const NOISE: f64 = 0.05;

struct Row {
    figure: Figure,
    base: f64,
    other: f64,
}

impl Row {
    /// The other value as a multiple of the base, or `None` if the base is not positive.
    fn ratio(&self) -> Option<f64> {
        (self.base > 0.0).then(|| self.other / self.base)
    }

    fn ratio_text(&self) -> String {
        self.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
    }

    fn judgement(&self) -> &'static str {
        let noise = self.base.abs() * NOISE;
        let (low, high) = (self.base - noise, self.base + noise);
        let is_less = match self.other {
            less if less < low => true,
            more if more > high => false,
            _ => return "",
        };
        match (self.figure.better, is_less) {
            (Better::Neither, _) => "",
            (Better::Lower, true) | (Better::Higher, false) => "better",
            _ => "worse",
        }
    }
}

fn rows(base: &Report, other: &Report) -> Vec<(&'static str, Vec<Row>)> {
    let common = base.figures.keys().filter(|key| other.figures.contains_key(*key));
    let row = |figure: Figure| Row {
        figure,
        base: base.figures[figure.key],
        other: other.figures[figure.key],
    };
    figure::by_section(common.map(String::as_str))
        .into_iter()
        .map(|(section, figures)| (section, figures.into_iter().map(row).collect()))
        .collect()
}

/// Prints the comparison and writes the page if `html` is given.
pub(crate) fn compare(base: &Path, other: &Path, html: Option<&Path>) -> Result<(), String> {
    let (base, other) = (Report::read(base)?, Report::read(other)?);
    if base.scenario != other.scenario {
        return Err(format!(
            "the first report is of {}, the second of {}",
            base.scenario, other.scenario
        ));
    }
    if let Some(path) = html {
        super::write_file(path, &html_page(&base, &other))?;
    }
    super::print(&text(&base, &other))
}

fn differing_setup(base: &Report, other: &Report) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = base.setup.keys().chain(other.setup.keys()).collect();
    let show = |value: Option<&u64>| value.map_or("none".to_owned(), u64::to_string);
    keys.into_iter()
        .map(|key| (key, base.setup.get(key), other.setup.get(key)))
        .filter(|(_, base, other)| base != other)
        .map(|(key, base, other)| format!("{key} {} and {}", show(base), show(other)))
        .collect()
}

fn text(base: &Report, other: &Report) -> String {
    let mut text = format!("{}: {} and {}", base.scenario, base.name, other.name);
    for differs in differing_setup(base, other) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  NOT THE SAME: {differs}");
    }
    let _ = write!(
        text,
        "\n{:<46}{:>16}{:>16}{:>9}",
        "",
        cut(&base.name),
        cut(&other.name),
        "ratio"
    );
    for (section, rows) in rows(base, other) {
        let _ = write!(text, "\n{section}");
        for row in rows {
            let ratio = row.ratio_text();
            let unit = row.figure.unit;
            let line = format!(
                "\n  {:<44}{:>16}{:>16}{ratio:>9}  {}",
                row.figure.label,
                unit.show(row.base),
                unit.show(row.other),
                row.judgement()
            );
            text.push_str(line.trim_end_matches(' '));
        }
    }
    let _ = write!(text, "\nverdict of {}: {}", base.name, base.verdict);
    let _ = write!(text, "\nverdict of {}: {}", other.name, other.verdict);
    text
}

fn cut(name: &str) -> String {
    name.chars().take(15).collect()
}

fn html_page(base: &Report, other: &Report) -> String {
    let title = format!("{}: {} and {}", base.scenario, base.name, other.name);
    document(
        &title,
        &html! {
            h1 { (title) }
            @for report in [base, other] {
                h2 { (report.name) }
                (page::setup(report))
                (page::verdict(report))
            }
            @for differs in differing_setup(base, other) {
                p.verdict.bad { "Not the same: " (differs) }
            }
            h2 { "Figures" }
            (table(base, other))
            h2 { "Plots" }
            div.charts {
                (page::distributions(&[(&base.name, base), (&other.name, other)]))
                (page::together(base, other))
            }
        },
    )
}

fn table(base: &Report, other: &Report) -> Markup {
    html! {
        table {
            tr {
                th {}
                th.value { (base.name) }
                th.value { (other.name) }
                th.value { "ratio" }
                th {}
            }
            @for (section, rows) in rows(base, other) {
                tbody {
                    tr { th colspan="5" { (section) } }
                    @for row in rows {
                        tr {
                            td { (row.figure.label) }
                            td.value { (row.figure.unit.show(row.base)) }
                            td.value { (row.figure.unit.show(row.other)) }
                            td.value { (row.ratio_text()) }
                            td class=(row.judgement()) { (row.judgement()) }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    fn row_of(key: &str) -> Figure {
        figure::all().into_iter().find(|figure| figure.key == key).unwrap()
    }

    #[test]
    fn ratios_are_judged_by_the_better_direction() {
        let (base, other) = (example("naive", 2.0), example("gateway", 1.0));
        let text = text(&base, &other);
        let line = |of: &str| {
            text.lines()
                .find(|line| line.trim().starts_with(of))
                .unwrap()
                .to_owned()
        };
        assert!(line("CPU per delivery").ends_with("0.50  better"), "{text}");
        assert!(line("p99").ends_with("0.50  better"), "{text}");
        assert!(line("RSS").ends_with("1.00"), "{text}");
        assert!(line("missing").ends_with('-'), "{text}");
        let shrinks = Row {
            figure: row_of("rss_growth_bytes_per_hour"),
            base: -300.0,
            other: -300.0,
        };
        assert_eq!((shrinks.ratio(), shrinks.judgement()), (None, ""));
        let back = super::text(&other, &base);
        assert!(back.contains("2.00  worse") && !back.contains("better"), "{back}");
    }

    #[test]
    fn differences_of_the_setup_are_printed() {
        let (base, mut other) = (example("a", 1.0), example("b", 1.0));
        assert!(!text(&base, &other).contains("NOT THE SAME"));
        other.setup.insert("clients".into(), 20);
        other.setup.insert("stalled".into(), 1);
        assert!(text(&base, &other).contains("NOT THE SAME: clients 10 and 20"));
        let page = html_page(&base, &other);
        assert!(
            page.contains("stalled none and 1") && page.matches("<svg").count() >= 3,
            "{page}"
        );
    }
}
