//! Line charts as inline SVG, without a script: colours come from the page's style, values from tool tips.

use std::fmt::Write;

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
    /// Places on the x axis with a name.
    pub(crate) marks: Vec<(f64, &'a str)>,
}

/// What x is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Seconds,
    /// Quantiles, drawn by the logarithm of what lies beyond them.
    Quantile,
}

pub(crate) struct Line<'a> {
    pub(crate) label: &'a str,
    /// Which of the style's lines, `l1` to `l5`.
    pub(crate) style: u8,
    pub(crate) x: Option<&'a [f64]>,
    pub(crate) values: &'a [Option<f64>],
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 30.0;
/// Points of a line: more than the eye tells apart, and a page of an hour stays small.
const POINTS: usize = 240;
/// Between two labels at the ends of lines.
const LABEL_HEIGHT: f64 = 13.0;
/// Between two ticks of the x axis, at least.
const TICK_WIDTH: f64 = 44.0;
const LETTER_WIDTH: f64 = 6.5;

/// From values to places.
struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Between two ticks of a linear one.
    step: f64,
}

impl Scale {
    /// From 0, or logarithmic where the largest would press the others to the ground. Ticks are round in `unit_size`.
    fn of_values(values: impl Iterator<Item = f64> + Clone, unit_size: f64) -> Self {
        let high = values.clone().fold(0.0, f64::max);
        let low = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let is_log = low.is_finite() && high / low > 50.0;
        if is_log {
            let decade = |value: f64, round: fn(f64) -> f64| 10f64.powf(round(value.log10()));
            let (low, high) = (decade(low, f64::floor), decade(high, f64::ceil));
            return Self {
                low,
                high,
                is_log,
                step: 0.0,
            };
        }
        let step = nice_step(high.max(1e-9) / 4.0 / unit_size) * unit_size;
        let high = (high / step).ceil().max(1.0) * step;
        Self {
            low: 0.0,
            high,
            is_log,
            step,
        }
    }

    /// 0 at the bottom, 1 at the top.
    fn share(&self, value: f64) -> f64 {
        if self.is_log {
            let value = value.max(self.low);
            return (value / self.low).log10() / (self.high / self.low).log10().max(1e-9);
        }
        (value - self.low) / (self.high - self.low).max(1e-9)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades).map(|decade| self.low * 10f64.powi(decade)).collect();
        }
        let steps = ((self.high - self.low) / self.step).round() as u32;
        (0..=steps)
            .map(|index| self.low + self.step * f64::from(index))
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

impl Axis {
    fn place(self, x: f64, range: (f64, f64)) -> f64 {
        let share = match self {
            Self::Seconds => (x - range.0) / (range.1 - range.0).max(1e-9),
            // What lies beyond the last point before 1 has no place; the longest of all stands at the end.
            Self::Quantile => (-(1.0 - x).max(1e-9).log10() / range.1.max(1e-9)).min(1.0),
        };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn range(self, x: &[f64]) -> (f64, f64) {
        match self {
            Self::Seconds => (0.0, x.last().copied().unwrap_or(1.0)),
            Self::Quantile => {
                let last = x.iter().rev().find(|quantile| **quantile < 1.0);
                (0.0, -(1.0 - last.copied().unwrap_or(0.9)).log10())
            }
        }
    }

    fn ticks(self, range: (f64, f64)) -> Vec<(f64, String)> {
        match self {
            Self::Seconds => {
                let step = nice_step((range.1 / 6.0).max(0.1));
                let steps = (range.1 / step).floor() as u32;
                let tick = |index| {
                    (
                        step * f64::from(index),
                        format!("{} s", format::count(step * f64::from(index))),
                    )
                };
                (0..=steps).map(tick).collect()
            }
            Self::Quantile => [
                (0.0, "0 %"),
                (0.5, "50 %"),
                (0.9, "90 %"),
                (0.99, "99 %"),
                (0.999, "99.9 %"),
            ]
            .into_iter()
            .chain([(0.9999, "99.99 %"), (0.99999, "99.999 %")])
            .filter(|(quantile, _)| -f64::log10(1.0 - quantile) <= range.1)
            .map(|(quantile, label)| (quantile, label.to_owned()))
            .collect(),
        }
    }
}

/// At most [`POINTS`] of a line: the largest of each stretch, so that no peak is lost.
fn thinned(x: &[f64], values: &[Option<f64>]) -> Vec<(f64, Option<f64>)> {
    let stretch = x.len().div_ceil(POINTS).max(1);
    let largest = |values: &[Option<f64>]| values.iter().flatten().copied().reduce(f64::max);
    x.chunks(stretch)
        .zip(values.chunks(stretch))
        .map(|(x, values)| (x[x.len() - 1], largest(values)))
        .collect()
}

impl Chart<'_> {
    /// The chart as a `figure`; nothing when there is nothing to draw.
    pub(crate) fn svg(&self) -> String {
        let values = self.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        if self.x.len() < 2 || values.clone().next().is_none() {
            return String::new();
        }
        let largest = values.clone().fold(0.0, f64::max);
        let unit_size = match self.unit {
            Unit::Bytes if largest >= 4.0 * 1_048_576.0 => 1_048_576.0,
            Unit::Bytes => 1024.0,
            _ => 1.0,
        };
        let scale = Scale::of_values(values, unit_size);
        let all_x: Vec<f64> = self
            .lines
            .iter()
            .flat_map(|line| line.x.unwrap_or(self.x))
            .copied()
            .collect();
        let longest = self.lines.iter().map(|line| line.x.unwrap_or(self.x)).max_by(|a, b| {
            let end = |x: &[f64]| self.axis.range(x).1;
            end(a).total_cmp(&end(b))
        });
        let range = self.axis.range(longest.unwrap_or(&all_x));
        let mut svg = String::new();
        let title = escape(self.title);
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<figure><figcaption><b>{title}</b> {}{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">",
            escape(self.note),
            if scale.is_log { " (logarithmic)" } else { "" }
        );
        self.grid(&mut svg, &scale, range);
        let drawn: Vec<_> = self
            .lines
            .iter()
            .map(|line| thinned(line.x.unwrap_or(self.x), line.values))
            .collect();
        for (line, points) in self.lines.iter().zip(&drawn) {
            self.path(&mut svg, line, points, &scale, range);
        }
        self.labels(&mut svg, &drawn, &scale);
        self.tips(&mut svg, &drawn, range);
        svg.push_str("</svg></figure>");
        svg
    }

    fn grid(&self, svg: &mut String, scale: &Scale, range: (f64, f64)) {
        for value in scale.ticks() {
            let y = scale.y(value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{}\" y=\"{:.1}\" class=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                escape(&self.unit.show(value))
            );
        }
        let mut last = f64::NEG_INFINITY;
        for (x, label) in self.axis.ticks(range) {
            let x = self.axis.place(x, range);
            if x - last < TICK_WIDTH {
                continue;
            }
            last = x;
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" class=\"mid\">{}</text>",
                HEIGHT - BOTTOM + 18.0,
                escape(&label)
            );
        }
        // From the right: of two phases that begin together the one that goes on keeps its name.
        let mut next = WIDTH;
        for (at, label) in self.marks.iter().rev() {
            let x = self.axis.place(*at, range);
            let _ = write!(svg, "<path class=\"mark\" d=\"M{x:.1} {TOP}V{:.1}\"/>", HEIGHT - BOTTOM);
            if x + LETTER_WIDTH * label.chars().count() as f64 <= next {
                let _ = write!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    x + 3.0,
                    TOP - 6.0,
                    escape(label)
                );
                next = x;
            }
        }
    }

    fn path(&self, svg: &mut String, line: &Line<'_>, points: &[(f64, Option<f64>)], scale: &Scale, range: (f64, f64)) {
        let mut path = String::new();
        let mut is_drawing = false;
        for (x, value) in points {
            let Some(value) = value else {
                is_drawing = false;
                continue;
            };
            let command = if is_drawing { 'L' } else { 'M' };
            let _ = write!(
                path,
                "{command}{:.1} {:.1}",
                self.axis.place(*x, range),
                scale.y(*value)
            );
            is_drawing = true;
        }
        let _ = write!(svg, "<path class=\"line l{}\" d=\"{path}\"/>", line.style);
    }

    /// Names at the ends of the lines, moved apart where they would meet.
    fn labels(&self, svg: &mut String, drawn: &[Vec<(f64, Option<f64>)>], scale: &Scale) {
        let last = |points: &[(f64, Option<f64>)]| points.iter().rev().find_map(|(_, value)| *value);
        let mut ends: Vec<(f64, &Line<'_>)> = self
            .lines
            .iter()
            .zip(drawn)
            .filter_map(|(line, points)| Some((scale.y(last(points)?), line)))
            .collect();
        ends.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut below = f64::INFINITY;
        for (y, line) in ends {
            let y = y.min(below - LABEL_HEIGHT).max(TOP);
            below = y;
            let (x, baseline) = (WIDTH - RIGHT + 8.0, y + 4.0);
            let label = escape(line.label);
            let _ = write!(
                svg,
                "<text x=\"{x}\" y=\"{baseline:.1}\" class=\"name t{}\">{label}</text>",
                line.style
            );
        }
    }

    /// What a pointer sees: the values at each x.
    fn tips(&self, svg: &mut String, drawn: &[Vec<(f64, Option<f64>)>], range: (f64, f64)) {
        // Lines with an x of their own (quantiles of two runs) have no common places.
        let Some(places) = drawn.first().filter(|_| self.lines.iter().all(|line| line.x.is_none())) else {
            return;
        };
        let mut left = LEFT;
        for (index, (x, _)) in places.iter().enumerate() {
            let here = self.axis.place(*x, range);
            let next = places.get(index + 1).map_or(here, |(x, _)| self.axis.place(*x, range));
            let right = f64::midpoint(here, next);
            let at = match self.axis {
                Axis::Seconds => format!("{x:.1} s"),
                Axis::Quantile => format!("{:.4} %", x * 100.0),
            };
            let mut tip = at;
            for (line, points) in self.lines.iter().zip(drawn) {
                if let Some((_, Some(value))) = points.get(index) {
                    let _ = write!(tip, "\n{} {}", line.label, self.unit.show(*value));
                }
            }
            let (width, height) = ((right - left).max(0.1), HEIGHT - TOP - BOTTOM);
            let _ = write!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"><title>{}</title></rect>",
                escape(&tip)
            );
            left = right;
        }
    }
}

/// Text in HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
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
        let svg = chart(&[1.0, 2.0, 3.0, 4.0], &[Some(1.0), Some(2.0), None, Some(1.0)]).svg();
        let path = svg
            .split("class=\"line l1\" d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
        assert!(
            svg.contains("a &lt;title&gt;") && svg.contains("from &quot;here&quot;"),
            "{svg}"
        );
        assert_eq!(chart(&[1.0, 2.0], &[None, None]).svg(), "");
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
    fn scales_hold_all_values_between_round_ticks() {
        for (low, high) in [(0.0, 1.0), (3.0, 7.3), (0.001, 900.0), (5.0, 5.0), (1e6, 3e6)] {
            let scale = Scale::of_values([low, high].into_iter(), 1.0);
            assert!((0.0..=1.0001).contains(&scale.share(low)), "{low} of {low}..{high}");
            assert!((0.0..=1.0001).contains(&scale.share(high)), "{high} of {low}..{high}");
            let ticks = scale.ticks();
            assert!((2..=8).contains(&ticks.len()), "{ticks:?}");
        }
    }
}
