//! Line charts as inline SVG, drawn by `plotters`. The page's style sheet gives the colours their dark variants.

use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;

use super::figure::Unit;
use super::format;

/// One chart.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) note: &'a str,
    pub(crate) unit: Unit,
    pub(crate) axis: Axis,
    pub(crate) x: &'a [f64],
    pub(crate) lines: Vec<Line<'a>>,
    /// Positions on the x axis, in the unit of `x`, with a label each.
    pub(crate) marks: Vec<(f64, &'a str)>,
}

/// The meaning of the x axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Seconds,
    /// Quantiles from 0 to 1, drawn by the logarithm of their distance from 1.
    Quantile,
}

pub(crate) struct Line<'a> {
    pub(crate) label: &'a str,
    /// Index of a colour, 1 to 5.
    pub(crate) style: u8,
    /// The line's x values, if they differ from the chart's.
    pub(crate) x: Option<&'a [f64]>,
    pub(crate) values: &'a [Option<f64>],
}

const WIDTH: u32 = 720;
const HEIGHT: u32 = 250;
/// Maximum number of points of a line. It exceeds what the eye can tell apart, and keeps the page of a long run small.
const POINTS: usize = 240;
/// The page's style sheet selects these colours by their values, so a change here needs one there.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0x0d, 0x8a, 0x7d),
    RGBColor(0x2f, 0x6b, 0xd8),
    RGBColor(0xb5, 0x27, 0x8a),
    RGBColor(0xd1, 0x60, 0x0a),
    RGBColor(0x80, 0x85, 0x8f),
];
const GRID: RGBColor = RGBColor(0xe0, 0xe3, 0xe8);
const TEXT: RGBColor = RGBColor(0x60, 0x64, 0x6c);
/// Quantiles with a label on the x axis.
const QUANTILES: [(f64, &str); 7] = [
    (0.0, "0 %"),
    (0.5, "50 %"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
    (0.9999, "99.99 %"),
    (0.99999, "99.999 %"),
];

/// The y axis: linear from 0, or logarithmic if the values differ by a large factor.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    /// The ends of the axis: values, or their decimal logarithms when `is_log`.
    low: f64,
    high: f64,
    is_log: bool,
}

impl Scale {
    /// An axis that holds these values.
    fn of_values(values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(0.0, f64::max);
        let low = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let is_log = low.is_finite() && high / low > 50.0;
        let (low, high) = if is_log {
            (low.log10().floor(), high.log10().ceil())
        } else {
            (0.0, high.max(1e-9) * 1.05)
        };
        Self { low, high, is_log }
    }

    /// The position at which a value is drawn.
    fn position(self, value: f64) -> f64 {
        if self.is_log {
            value.max(f64::MIN_POSITIVE).log10().max(self.low)
        } else {
            value
        }
    }

    /// The value at a position.
    fn value(self, position: f64) -> f64 {
        if self.is_log { 10f64.powf(position) } else { position }
    }
}

impl Axis {
    /// The position at which an x value is drawn. Quantile 1 has no logarithm, so it is drawn at the end of the axis.
    fn position(self, x: f64, end: f64) -> f64 {
        match self {
            Self::Seconds => x,
            Self::Quantile => (-(1.0 - x).max(1e-9).log10()).min(end),
        }
    }

    /// The end of the axis for these x values.
    fn end(self, x: &[f64]) -> f64 {
        match self {
            Self::Seconds => x.last().copied().unwrap_or(1.0),
            Self::Quantile => {
                let last = x.iter().rev().find(|quantile| **quantile < 1.0);
                -(1.0 - last.copied().unwrap_or(0.9)).log10()
            }
        }
    }
}

/// Reduces a line to at most [`POINTS`] points. Each is the largest of its interval, so that no peak is lost.
fn thinned(x: &[f64], values: &[Option<f64>]) -> Vec<(f64, Option<f64>)> {
    let interval = x.len().div_ceil(POINTS).max(1);
    let largest = |values: &[Option<f64>]| values.iter().flatten().copied().reduce(f64::max);
    x.chunks(interval)
        .zip(values.chunks(interval))
        .map(|(x, values)| (x[x.len() - 1], largest(values)))
        .collect()
}

impl Chart<'_> {
    /// The chart as a `figure` element; empty when there is nothing to draw.
    pub(crate) fn figure(&self) -> Markup {
        let values = self.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        if self.x.len() < 2 || values.clone().next().is_none() {
            return html! {};
        }
        let scale = Scale::of_values(values);
        html! {
            figure {
                figcaption {
                    b { (self.title) } " " (self.note)
                    @if scale.is_log { " (logarithmic)" }
                }
                (PreEscaped(self.svg(scale)))
            }
        }
    }

    fn svg(&self, scale: Scale) -> String {
        let ends = self.lines.iter().map(|line| self.axis.end(line.x.unwrap_or(self.x)));
        let end = ends.fold(1e-9, f64::max);
        let mut svg = String::new();
        self.draw(&mut svg, scale, end)
            .expect("drawing into a string does not fail");
        // Inline SVG needs no XML namespace and takes its size from the page.
        let fixed = format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\"");
        svg.replacen(&fixed, "<svg role=\"img\"", 1)
            .replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
    }

    fn draw(&self, svg: &mut String, scale: Scale, end: f64) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
        let text = ("sans-serif", 12).into_font().color(&TEXT);
        let mut chart = ChartBuilder::on(&root)
            .margin_top(18)
            .margin_right(12)
            .x_label_area_size(26)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, scale.low..scale.high)?;
        let y_label = |position: &f64| self.unit.show(scale.value(*position));
        let x_label = |position: &f64| format!("{} s", format::count(*position));
        let is_time = self.axis == Axis::Seconds;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(text.clone())
            .y_labels(if scale.is_log {
                (scale.high - scale.low) as usize + 1
            } else {
                5
            })
            .y_label_formatter(&y_label)
            .x_labels(if is_time { 8 } else { 0 })
            .x_label_formatter(&x_label)
            .draw()?;
        if self.axis == Axis::Quantile {
            for (quantile, label) in QUANTILES {
                let position = self.axis.position(quantile, f64::INFINITY);
                if position <= end {
                    let at = chart.backend_coord(&(position, scale.low));
                    root.draw(&Text::new(label, (at.0 - 12, at.1 + 8), text.clone()))?;
                }
            }
        }
        for (x, label) in &self.marks {
            let line = [(*x, scale.low), (*x, scale.high)];
            chart.draw_series(DashedLineSeries::new(line, 2, 3, TEXT.stroke_width(1)))?;
            let at = chart.backend_coord(&(*x, scale.high));
            root.draw(&Text::new((*label).to_owned(), (at.0 + 3, at.1 - 15), text.clone()))?;
        }
        for line in &self.lines {
            let colour = COLOURS[usize::from(line.style - 1) % COLOURS.len()];
            let style = colour.stroke_width(2);
            let points = thinned(line.x.unwrap_or(self.x), line.values);
            // A missing value breaks the line.
            let mut is_named = false;
            for part in points
                .split(|(_, value)| value.is_none())
                .filter(|part| !part.is_empty())
            {
                let point = |(x, value): &(f64, Option<f64>)| {
                    (self.axis.position(*x, end), scale.position(value.unwrap_or_default()))
                };
                let drawn = chart.draw_series(LineSeries::new(part.iter().map(point), style))?;
                if !is_named {
                    is_named = true;
                    drawn
                        .label(line.label)
                        .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
                }
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(text)
            .draw()?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn chart<'a>(x: &'a [f64], values: &'a [Option<f64>]) -> Chart<'a> {
        Chart {
            title: "a <title>",
            note: "",
            unit: Unit::Ms,
            axis: Axis::Seconds,
            x,
            lines: vec![Line {
                label: "p50",
                style: 1,
                x: None,
                values,
            }],
            marks: vec![(1.0, "from \"here\"")],
        }
    }

    #[test]
    fn gaps_break_a_line_and_texts_are_escaped() {
        let svg = chart(&[1.0, 2.0, 3.0, 4.0], &[Some(1.0), Some(2.0), None, Some(1.0)]).figure();
        let svg = svg.into_string();
        let lines: Vec<_> = svg
            .split("<polyline")
            .skip(1)
            .map(|line| line.split("/>").next().expect("a tag"))
            .filter(|line| line.contains("#0D8A7D"))
            .collect();
        // Two parts of the line, and the line of the legend.
        assert_eq!(lines.len(), 3, "{svg}");
        assert!(
            svg.contains("a &lt;title&gt;") && svg.contains("from &quot;here&quot;"),
            "{svg}"
        );
        assert_eq!(chart(&[1.0, 2.0], &[None, None]).figure().into_string(), "");
    }

    #[test]
    fn a_peak_survives_thinning() {
        let x: Vec<f64> = (0..3600).map(f64::from).collect();
        let mut values = vec![Some(1.0); 3600];
        values[1801] = Some(500.0);
        let points = thinned(&x, &values);
        assert!(points.len() <= POINTS);
        assert!(points.contains(&(
            points.iter().find(|(_, value)| *value == Some(500.0)).unwrap().0,
            Some(500.0)
        )));
    }

    #[test]
    fn scales_cover_all_values() {
        for (low, high) in [(0.0, 1.0), (3.0, 7.3), (0.001, 900.0), (5.0, 5.0), (1e6, 3e6)] {
            let scale = Scale::of_values([low, high].into_iter());
            for value in [low, high] {
                let position = scale.position(value);
                assert!((scale.low..=scale.high).contains(&position), "{value} of {low}..{high}");
                if value > 0.0 {
                    assert!((scale.value(position) / value - 1.0).abs() < 1e-9, "{value}");
                }
            }
        }
    }

    #[test]
    fn the_style_sheet_contains_every_colour() {
        let style = include_str!("page.css");
        for RGBColor(red, green, blue) in COLOURS.into_iter().chain([GRID, TEXT]) {
            let mut colour = String::new();
            write!(colour, "=\"#{red:02X}{green:02X}{blue:02X}\"]").unwrap();
            assert!(style.contains(&colour), "{colour}");
        }
    }
}
