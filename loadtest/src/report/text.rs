//! A report as text for a terminal.

use std::fmt::Write;

use super::{Report, figure};

pub(crate) fn text(report: &Report) -> String {
    let setup: Vec<_> = report
        .setup
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    let mut text = format!(
        "{}: {} by {}; {}",
        report.scenario,
        report.name,
        report.adapter,
        setup.join(", ")
    );
    if let Some(error) = &report.first_error {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {:<12}{error}", "first error");
    }
    for (section, figures) in figure::by_section(report.figures.keys().map(String::as_str)) {
        let shown: Vec<_> = figures
            .iter()
            .map(|figure| format!("{} {}", figure.label, figure.unit.show(report.figures[figure.key])))
            .collect();
        let _ = write!(text, "\n  {section:<12}{}", shown.join("; "));
    }
    let _ = write!(text, "\n  {:<12}{}", "verdict", report.verdict);
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn every_figure_of_a_report_is_printed() {
        let text = super::text(&example("gateway", 1.0));
        for part in [
            "fanout: gateway by tickgate; clients 10, rate 5",
            "deliveries  delivered 1,000; missing 0",
            "p50 5.00 ms; p90 9.01 ms",
            "CPU per delivery 2.00 µs",
            "RSS 4,883 KiB",
            "verdict     not the bottleneck",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
