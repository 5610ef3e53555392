//! Reports changes of a source's state to operators, by a log line and an event on `system.log`.
//!
//! Invariant: there is one report for each change of state, in order. Its event names feeds, but no users, keys or
//! addresses.

use serde_json::json;

use super::failure::PollFailure;
use super::health::{FeedState, Health};
use super::metrics::FeedMetrics;
use crate::backend::report::Reports;

/// Reports on the `system.log` of the feed's tenant that the state of the feed changed from `last`. The poll of `channel`
/// changed it, by `failure` if it failed.
pub(super) fn changed(
    reports: &Reports,
    metrics: &FeedMetrics,
    last: FeedState,
    health: &Health,
    (channel, failure): (&str, Option<&PollFailure>),
) {
    let (feed, tenant) = (&*metrics.channel, metrics.tenant_name.as_deref());
    let state = health.state();
    let (failing, polled) = health.counts();
    let why = failure.map_or_else(String::new, |failure| format!(": {}", failure.class()));
    let (level, message) = match state {
        FeedState::Failing => ("error", format!("feed {feed} fails{why}")),
        FeedState::Partly => (
            "warn",
            format!("feed {feed} fails for {failing} of {polled} channels{why}"),
        ),
        FeedState::Good if last != FeedState::Unknown => ("info", format!("feed {feed} works again")),
        FeedState::Good | FeedState::Unknown => return,
    };
    match failure {
        Some(failure) => tracing::warn!(tenant, feed, channel, state = state.as_str(), %failure, "{message}"),
        None => tracing::info!(tenant, feed, state = state.as_str(), "{message}"),
    }
    let data = json!({
        "level": level, "source": "feed", "message": message,
        "feed": feed, "state": state.as_str(), "failing": failing, "channels": polled,
    });
    reports.publish(metrics.tenant, level, &data);
}
