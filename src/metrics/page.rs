//! Prometheus' text format, version 0.0.4, and OpenMetrics, version 1.0.0, which has exemplars.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::{BOUNDS_US, Exemplars, HistogramSample, Kind, Metric, TracedSample};

/// The format of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format.
    #[default]
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// The media type of OpenMetrics, with which a scraper asks for it.
    const OPEN_METRICS: &str = "application/openmetrics-text";

    /// The format for a request with this `Accept`: OpenMetrics if it is among the media types.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let asks = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(Self::OPEN_METRICS));
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            is_named && weight.is_none_or(|weight| weight > 0.0)
        });
        if asks { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of a page.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Label names and values, in the order in which they are printed.
pub type Labels = Vec<(&'static str, String)>;

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    format: Format,
    families: Vec<Family>,
}

/// A metric and its samples.
#[derive(Debug)]
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: String,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            families: Vec::with_capacity(256),
        }
    }

    /// Adds metrics that are read from a single sample.
    pub fn add<S>(&mut self, metrics: &[Metric<S>], sample: &S) {
        self.add_each(metrics, &[(Labels::new(), sample)]);
    }

    /// Adds metrics that are read from several samples, such as those of all shards. The labels tell the samples apart.
    pub fn add_each<S>(&mut self, metrics: &[Metric<S>], samples: &[(Labels, &S)]) {
        for metric in metrics {
            let Metric {
                name,
                kind,
                help,
                write,
                ..
            } = metric;
            let mut text = String::new();
            for (labels, sample) in samples {
                write(
                    sample,
                    &mut Samples {
                        name,
                        format: self.format,
                        labels,
                        text: &mut text,
                    },
                );
            }
            self.families.push(Family {
                name,
                kind: *kind,
                help,
                samples: text,
            });
        }
    }

    /// The finished page.
    #[must_use]
    pub fn finish(self) -> String {
        let mut text = String::with_capacity(64 * 1024);
        for family in &self.families {
            let Family {
                name,
                kind,
                help,
                samples,
            } = family;
            match self.format {
                Format::Prometheus => {
                    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
                }
                Format::OpenMetrics => {
                    let (name, kind) = self.in_open_metrics(name, *kind);
                    let help = help.replace('"', "\\\"");
                    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
                }
            }
        }
        if self.format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    /// The name and the type that OpenMetrics has for a metric. It names a counter without `_total`, and no other metric
    /// may have that name: the counter beside a gauge of that name has no type.
    fn in_open_metrics(&self, name: &'static str, kind: Kind) -> (&'static str, String) {
        let counted = name.strip_suffix("_total").filter(|_| kind == Kind::Counter);
        match counted {
            None => (name, kind.to_string()),
            Some(counted) if self.families.iter().any(|other| other.name == counted) => (name, "unknown".to_owned()),
            Some(counted) => (counted, kind.to_string()),
        }
    }
}

/// Writes the values of one metric.
pub struct Samples<'a> {
    name: &'static str,
    format: Format,
    // Printed before the metric's own labels.
    labels: &'a Labels,
    text: &'a mut String,
}

impl Samples<'_> {
    /// Writes the metric's only value.
    pub fn value(&mut self, value: impl Display) {
        self.labelled(&[], value);
    }

    /// Writes a number of microseconds in seconds.
    pub fn seconds(&mut self, us: u64) {
        self.value(Duration::from_micros(us).as_secs_f64());
    }

    /// Writes a histogram: the number of durations up to each bound, in seconds, then their sum and number.
    pub fn histogram(&mut self, histogram: &HistogramSample) {
        self.buckets(histogram, &Exemplars::default());
    }

    /// Writes a histogram, in OpenMetrics with its exemplars.
    pub fn traced(&mut self, sample: &TracedSample) {
        match self.format {
            Format::Prometheus => self.histogram(&sample.histogram),
            Format::OpenMetrics => self.buckets(&sample.histogram, &sample.exemplars),
        }
    }

    fn buckets(&mut self, histogram: &HistogramSample, exemplars: &Exemplars) {
        let mut count = 0;
        let bounds = BOUNDS_US
            .iter()
            .map(|bound| Some(Duration::from_micros(*bound).as_secs_f64()));
        for ((bound, bucket), exemplar) in bounds.chain([None]).zip(&histogram.buckets).zip(exemplars) {
            count += bucket;
            let bound = match (bound, self.format) {
                (None, _) => "+Inf".to_owned(),
                (Some(bound), Format::Prometheus) => bound.to_string(),
                // With a decimal point.
                (Some(bound), Format::OpenMetrics) => format!("{bound:?}"),
            };
            self.suffixed("_bucket", &[("le", &bound)], count);
            if let Some(exemplar) = exemplar {
                self.text.pop();
                let seconds = Duration::from_micros(exemplar.us).as_secs_f64();
                let at = Duration::from_millis(exemplar.unix_ms).as_secs_f64();
                let _ = writeln!(
                    self.text,
                    " # {{trace_id=\"{:032x}\"}} {seconds} {at}",
                    exemplar.trace_id
                );
            }
        }
        self.suffixed("_sum", &[], Duration::from_micros(histogram.sum_us).as_secs_f64());
        self.suffixed("_count", &[], histogram.count());
    }

    /// Writes one value with labels of the metric's own.
    pub fn labelled(&mut self, labels: &[(&'static str, &dyn Display)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&'static str, &dyn Display)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let common = self.labels.iter().map(|(label, text)| (*label, text as &dyn Display));
        let mut separator = '{';
        for (label, text) in common.chain(labels.iter().copied()) {
            let text = text
                .to_string()
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            let _ = write!(self.text, "{separator}{label}=\"{text}\"");
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Exemplar;
    use super::*;

    #[test]
    fn a_histogram_is_cumulative() {
        let mut sample = HistogramSample {
            sum_us: 1_500_000,
            ..HistogramSample::default()
        };
        (sample.buckets[0], sample.buckets[1], sample.buckets[16]) = (2, 1, 4);
        let metric = Metric::<HistogramSample>::histogram("h", "An h.", |sample, samples| samples.histogram(sample));
        let mut page = Page::new(Format::Prometheus);
        page.add_each(&[metric], &[(vec![("x", "y".to_owned())], &sample)]);
        let page = page.finish();
        for line in [
            "# TYPE h histogram",
            "h_bucket{x=\"y\",le=\"0.0001\"} 2",
            "h_bucket{x=\"y\",le=\"0.00025\"} 3",
            "h_bucket{x=\"y\",le=\"10\"} 3",
            "h_bucket{x=\"y\",le=\"+Inf\"} 7",
            "h_sum{x=\"y\"} 1.5",
            "h_count{x=\"y\"} 7",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert_eq!(page.lines().count(), 2 + 17 + 2);
    }

    #[test]
    fn labels_are_escaped_and_common_ones_come_first() {
        let metrics = [
            Metric::<u64>::gauge("a", "An a.", |sample, samples| samples.value(sample)),
            Metric::<u64>::counter("b", "A b.", |sample, samples| {
                samples.labelled(&[("x", &"q\"\\\n")], sample);
            }),
        ];
        let mut page = Page::new(Format::Prometheus);
        page.add(&metrics[..1], &7);
        let shard = |number: u64| vec![("shard", number.to_string())];
        page.add_each(&metrics[1..], &[(shard(0), &1), (shard(1), &2)]);
        assert_eq!(
            page.finish(),
            "# HELP a An a.\n# TYPE a gauge\na 7\n\
             # HELP b A b.\n# TYPE b counter\n\
             b{shard=\"0\",x=\"q\\\"\\\\\\n\"} 1\nb{shard=\"1\",x=\"q\\\"\\\\\\n\"} 2\n"
        );
    }

    #[test]
    fn open_metrics_are_for_those_who_ask_for_them() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("application/openmetrics-text;q=0, text/plain", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn open_metrics_have_exemplars_and_counters_without_their_suffix() {
        let mut sample = TracedSample::default();
        sample.histogram.buckets[15] = 2;
        sample.exemplars[15] = Some(Exemplar {
            trace_id: 0x0af7,
            us: 6_500_000,
            unix_ms: 1_700_000_000_125,
        });
        let metrics = [
            Metric::<TracedSample>::histogram("h", "An h.", |sample, samples| samples.traced(sample)),
            Metric::counter("a_total", "All \"a\".", |_, samples| samples.value(1)),
            Metric::counter("b_total", "All b.", |_, samples| samples.value(2)),
            Metric::gauge("b", "A b.", |_, samples| samples.value(3)),
        ];
        let page = |format| {
            let mut page = Page::new(format);
            page.add(&metrics, &sample);
            page.finish()
        };
        let open = page(Format::OpenMetrics);
        assert!(
            open.contains(
                "h_bucket{le=\"10.0\"} 2 # {trace_id=\"00000000000000000000000000000af7\"} 6.5 1700000000.125\n"
            ),
            "{open}"
        );
        let end = "# HELP a All \\\"a\\\".\n# TYPE a counter\na_total 1\n\
                   # HELP b_total All b.\n# TYPE b_total unknown\nb_total 2\n\
                   # HELP b A b.\n# TYPE b gauge\nb 3\n# EOF\n";
        assert!(open.ends_with(end), "{open}");
        let plain = page(Format::Prometheus);
        assert!(
            !plain.contains("trace_id") && plain.contains("# TYPE a_total counter\n"),
            "{plain}"
        );
    }
}
