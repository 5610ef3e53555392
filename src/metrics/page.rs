//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::{BOUNDS_US, HistogramSample, Metric};

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Label names and values, in the order in which they are printed.
pub type Labels = Vec<(&'static str, String)>;

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new() -> Self {
        Self {
            text: String::with_capacity(16 * 1024),
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
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, sample) in samples {
                write(
                    sample,
                    &mut Samples {
                        name,
                        labels,
                        text: &mut self.text,
                    },
                );
            }
        }
    }

    /// The finished page.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

/// Writes the values of one metric.
pub struct Samples<'a> {
    name: &'static str,
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
        let mut count = 0;
        for (bound, bucket) in BOUNDS_US.iter().zip(&histogram.buckets) {
            count += bucket;
            let bound = Duration::from_micros(*bound).as_secs_f64();
            self.suffixed("_bucket", &[("le", &bound)], count);
        }
        self.suffixed("_bucket", &[("le", &"+Inf")], histogram.count());
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
    use super::*;

    #[test]
    fn a_histogram_is_cumulative() {
        let mut sample = HistogramSample {
            sum_us: 1_500_000,
            ..HistogramSample::default()
        };
        (sample.buckets[0], sample.buckets[1], sample.buckets[16]) = (2, 1, 4);
        let metric = Metric::<HistogramSample>::histogram("h", "An h.", |sample, samples| samples.histogram(sample));
        let mut page = Page::new();
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
        let mut page = Page::new();
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
}
