//! What is counted of a key set.

use crate::metrics::{Counter, Gauge, metrics};

metrics! {
    /// What is counted of one key set.
    pub(super) struct JwksMetrics, read as
    /// One reading of it. The label `set` is added.
    pub struct JwksCounts {
        keys: Gauge, "tickgate_jwks_keys", "Keys of a key set that are in use.";
        attempts: Counter, "tickgate_jwks_reads_total", "Attempts to read a key set.";
        failures: Counter, "tickgate_jwks_failures_total", "Attempts after which the last keys stay in use.";
        failing: Gauge, "tickgate_jwks_failing", "1 while a key set cannot be read, otherwise 0.";
        /// In seconds since 1970-01-01T00:00:00Z.
        read: Gauge, "tickgate_jwks_read_timestamp_seconds",
            "Unix time at which a key set was read last; 0: not yet.";
    }
}

/// One reading of a set.
#[derive(Clone, Debug)]
pub struct JwksSample {
    /// The path or URL, without a query.
    pub set: String,
    /// The counts.
    pub counts: JwksCounts,
}

impl JwksSample {
    pub(super) fn new(set: String, metrics: &JwksMetrics) -> Self {
        Self {
            set,
            counts: metrics.read(),
        }
    }
}
