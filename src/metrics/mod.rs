//! Counters, gauges and histograms: how the gateway counts, and how a metric is declared.
//!
//! Invariant: each metric has one declaration. It states the Prometheus name, the type, the help text and where the value
//! comes from. `/metrics` is printed from these declarations, and a test compares `docs/metrics.md` with that page.
//!
//! # Declaring a metric
//!
//! - A counter or gauge of a struct below is one line in its `metrics!` block. The line declares the
//!   field that the code counts with, the field of its sample, and the line of `/metrics`.
//! - A metric that is computed, or that has labels of its own, is one [`Metric`] in a table next to its sample.
//!
//! `admin/metrics.rs` puts the tables in order. The metric's row in `docs/metrics.md` is written by hand.
//!
//! A reader sees the exact value of every counter, but not the values of all counters at one instant.

mod declare;
mod histogram;
mod ingress;
mod instrument;
mod page;
mod reload;
mod shard;

pub(crate) use declare::metrics;
pub use declare::{Kind, Metric};
pub use histogram::{BOUNDS_US, Exemplar, Exemplars, Histogram, HistogramSample, TracedHistogram, TracedSample};
pub use ingress::{AcceptMetrics, AcceptSample, IngressMetrics, IngressSample, REFUSALS, RefusalReason};
pub use instrument::{Counter, Gauge, Instrument, Readable};
pub use page::{Format, Labels, Page, Samples};
pub use reload::{ReloadMetrics, ReloadSample};
pub use shard::{ENDINGS, LATENCY, ShardMetrics, ShardSample};
