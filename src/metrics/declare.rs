//! The declaration of a metric.

use std::fmt;

use super::Samples;

/// The type of a metric, as Prometheus names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of durations, in buckets.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// The declaration of one metric. Its value is read from a sample of type `S`.
pub struct Metric<S> {
    /// The Prometheus name, such as `tickgate_connections`.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// One sentence for `# HELP`.
    pub help: &'static str,
    /// Writes the value, or one value for each set of labels.
    pub write: fn(&S, &mut Samples<'_>),
}

impl<S> Metric<S> {
    /// Declares a counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, write: fn(&S, &mut Samples<'_>)) -> Self {
        Self {
            name,
            kind: Kind::Counter,
            help,
            write,
        }
    }

    /// Declares a histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str, write: fn(&S, &mut Samples<'_>)) -> Self {
        Self {
            name,
            kind: Kind::Histogram,
            help,
            write,
        }
    }

    /// Declares a gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, write: fn(&S, &mut Samples<'_>)) -> Self {
        Self {
            name,
            kind: Kind::Gauge,
            help,
            write,
        }
    }
}

/// Declares a struct of counters and gauges, the struct of one reading of them, and their lines of `/metrics`.
///
/// ```text
/// metrics! {
///     /// What one shard counts.
///     pub struct ShardMetrics, read as
///     /// One reading.
///     pub struct ShardSample {
///         connections: Gauge, "tickgate_connections", "Connections: WebSockets, and sessions that poll.";
///         cpu_us: Counter as seconds, "tickgate_shard_cpu_seconds_total", "CPU time of a shard's thread.";
///     }
///     // Fields that other code prints.
///     besides {
///         /// Connections ended, by close code.
///         endings: [Counter; 15];
///     }
/// }
/// ```
///
/// The help text is also the documentation of both fields. A field `as seconds` counts microseconds.
macro_rules! metrics {
    (@write $samples:ident, $value:expr) => {
        $samples.value($value)
    };
    (@write $samples:ident, $value:expr, seconds) => {
        $samples.seconds($value)
    };
    (
        $(#[$doc:meta])*
        $vis:vis struct $Metrics:ident, read as
        $(#[$sample_doc:meta])*
        $sample_vis:vis struct $Sample:ident {
            $($(#[$field_doc:meta])* $field:ident: $kind:ty $(as $unit:ident)?, $name:literal, $help:literal;)*
        }
        $(besides {
            $($(#[$other_doc:meta])* $other:ident: $other_kind:ty;)*
        })?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        $vis struct $Metrics {
            $(#[doc = $help] $(#[$field_doc])* $vis $field: $kind,)*
            $($($(#[$other_doc])* $vis $other: $other_kind,)*)?
        }

        $(#[$sample_doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        $sample_vis struct $Sample {
            $(#[doc = $help] $(#[$field_doc])* $sample_vis $field: <$kind as $crate::metrics::Readable>::Reading,)*
            $($($(#[$other_doc])* $sample_vis $other: <$other_kind as $crate::metrics::Readable>::Reading,)*)?
        }

        impl $Metrics {
            /// Reads every counter and gauge.
            #[must_use]
            $vis fn read(&self) -> $Sample {
                $crate::metrics::Readable::read(self)
            }
        }

        impl $crate::metrics::Readable for $Metrics {
            type Reading = $Sample;

            fn read(&self) -> $Sample {
                $Sample {
                    $($field: $crate::metrics::Readable::read(&self.$field),)*
                    $($($other: $crate::metrics::Readable::read(&self.$other),)*)?
                }
            }

            fn sum(total: &mut $Sample, other: &$Sample) {
                $(<$kind as $crate::metrics::Readable>::sum(&mut total.$field, &other.$field);)*
                $($(<$other_kind as $crate::metrics::Readable>::sum(&mut total.$other, &other.$other);)*)?
            }
        }

        impl $Sample {
            /// The metrics that are printed from a sample, in the order of their declaration.
            $sample_vis const METRICS: &'static [$crate::metrics::Metric<Self>] = &[$(
                $crate::metrics::Metric {
                    name: $name,
                    kind: <$kind as $crate::metrics::Instrument>::KIND,
                    help: $help,
                    write: |sample, samples| $crate::metrics::metrics!(@write samples, sample.$field $(, $unit)?),
                },
            )*];
        }
    };
}
pub(crate) use metrics;
