//! What reloads of the configuration count.

use super::{Counter, Gauge, metrics};

metrics! {
    /// What reloads count. Whoever reads the configuration writes them.
    pub struct ReloadMetrics, read as
    /// One reading of these counters.
    pub struct ReloadSample {
        taken_over: Counter, "tickgate_reloads_total", "Reloads of the configuration that were taken over.";
        refused: Counter, "tickgate_reloads_refused_total",
            "Reloads that were refused because something in the configuration is wrong.";
        failing: Gauge, "tickgate_reload_failing",
            "1 while the running configuration is not that of the file because the last reload was refused, otherwise 0.";
    }
}

impl ReloadMetrics {
    /// Counts one reload.
    pub fn count(&self, is_taken_over: bool) {
        let counter = if is_taken_over { &self.taken_over } else { &self.refused };
        counter.add(1);
        self.failing.set(i64::from(!is_taken_over));
    }
}
