//! Decides whether the server or the tool was the bottleneck.

use crate::process::Sample;
use crate::report::Report;

/// How busy the tool and the server were during the measurement.
pub(crate) struct Effort<'a> {
    pub(crate) tool: (&'a Sample, &'a Sample),
    pub(crate) server: Option<(&'a Sample, &'a Sample)>,
    /// The longest time that an event waited in the tool, in milliseconds, because the previous request was not
    /// answered.
    pub(crate) late_ms_max: f64,
}

const BUSY: f64 = 0.9;
const LATE_MS: f64 = 50.0;

impl Effort<'_> {
    /// Sets the figures of the tool, and the verdict that follows from them.
    pub(crate) fn judge(&self, report: &mut Report) {
        let (before, after) = self.tool;
        let (busiest, waited) = (after.busiest_since(before), after.waited_since(before));
        let server_load = self
            .server
            .map(|(start, end)| end.busiest_since(start) + end.waited_since(start));
        report.set("tool_busiest_thread", busiest);
        report.set("tool_waited", waited);
        report.set("publish_late_ms_max", self.late_ms_max);
        report.verdict = verdict(busiest + waited, server_load, self.late_ms_max).into();
    }
}

fn verdict(tool_load: f64, server_load: Option<f64>, late_ms_max: f64) -> &'static str {
    let is_busy = tool_load > BUSY;
    match server_load {
        Some(load) if is_busy && load < BUSY => {
            "THE TOOL WAS THE BOTTLENECK: latencies and backlog are its own; give it more cores and --threads"
        }
        _ if is_busy => "the tool was as busy as it can be: latencies and backlog may be its own",
        _ if late_ms_max > LATE_MS => "not the bottleneck, but the server accepted events later than they were due",
        _ => "not the bottleneck",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tool_says_when_it_is_the_bottleneck() {
        for (tool, server, late_ms, told) in [
            (0.95, Some(0.5), 0.0, "THE TOOL WAS"),
            (0.95, Some(1.0), 0.0, "as busy as it can be"),
            (0.95, None, 0.0, "as busy as it can be"),
            (0.5, Some(1.0), 100.0, "later than they were due"),
            (0.5, Some(0.5), 1.0, "not the bottleneck"),
        ] {
            assert!(verdict(tool, server, late_ms).contains(told), "{told}");
        }
    }
}
