//! `GET` and `PUT /api/log`: the level of the log.
//!
//! Invariant: every change leaves a line that says what it was and what it is, whatever the levels are.

use std::time::Duration;

use hyper::{Method, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Admin;
use super::access::Operator;
use super::routes::Call;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::log_level::{Level, LevelControl, Levels};

/// The longest time after which the level goes back, in seconds: a day.
const FOR_SECONDS_MAX: u32 = 86_400;

/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    level: String,
    for_seconds: Option<u32>,
}

#[derive(Serialize)]
struct LogReply {
    configured: String,
    level: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

/// When the level goes back to that of the configuration.
#[derive(Default)]
pub(super) struct Reversion(Mutex<Option<(Instant, AbortHandle)>>);

impl Reversion {
    /// Forgets the last one, and sets the next one if there is one.
    fn replace(&self, next: Option<(Instant, AbortHandle)>) {
        if let Some((_, task)) = std::mem::replace(&mut *self.0.lock(), next) {
            task.abort();
        }
    }

    fn seconds_left(&self) -> Option<u64> {
        let due = self.0.lock().as_ref().map(|(due, _)| *due)?;
        let left = due.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.as_secs() + 1)
    }
}

impl Admin {
    /// `GET /api/log`, and `PUT /api/log` with `{"level", "for_seconds"?}`
    pub(super) async fn log_level(&self, operator: Operator, call: Call) -> HttpResponse {
        if let Err(refused) = operator.acts_for_all() {
            return *refused;
        }
        let Some(control) = &self.log_control else {
            return no_log();
        };
        if call.request.method() != Method::PUT {
            return self.log_reply(&**control);
        }
        let body = match self.body(call.request) {
            Ok(body) => body.whole(BODY_BYTES_MAX).await,
            Err(refused) => Err(refused),
        };
        let body = match body {
            Ok(body) => body,
            Err(refused) => return refused.response(),
        };
        let change: Change = match serde_json::from_slice(&body.bytes) {
            Ok(change) => change,
            Err(error) => return response::error(HttpErrorCode::InvalidMessage, &format!("the body: {error}")),
        };
        let levels: Levels = match change.level.parse() {
            Ok(levels) => levels,
            Err(error) => return response::error(HttpErrorCode::InvalidMessage, &format!("`level` {error}")),
        };
        if change
            .for_seconds
            .is_some_and(|seconds| !(1..=FOR_SECONDS_MAX).contains(&seconds))
        {
            let message = format!("`for_seconds` must be between 1 and {FOR_SECONDS_MAX}");
            return response::error(HttpErrorCode::InvalidMessage, &message);
        }
        let reversion = change.for_seconds.map(|seconds| {
            let due = Instant::now() + Duration::from_secs(seconds.into());
            let control = control.clone();
            let task = tokio::spawn(async move {
                tokio::time::sleep_until(due).await;
                change_levels(&*control, &control.configured(), None);
            });
            (due, task.abort_handle())
        });
        self.log_reversion.replace(reversion);
        change_levels(&**control, &levels, change.for_seconds);
        self.log_reply(&**control)
    }

    fn log_reply(&self, control: &dyn LevelControl) -> HttpResponse {
        let reply = LogReply {
            configured: control.configured().to_string(),
            level: control.levels().to_string(),
            seconds_left: self.log_reversion.seconds_left(),
        };
        response::json(StatusCode::OK, &reply)
    }
}

/// Changes the levels, and writes a line while the levels let it through.
fn change_levels(control: &dyn LevelControl, levels: &Levels, for_seconds: Option<u32>) {
    let before = control.levels();
    let tell = || tracing::warn!(%before, level = %levels, for_seconds, "the level of the log is changed");
    let is_told_before = before.level_of("admin") >= Level::Warn;
    if is_told_before {
        tell();
    }
    control.set_levels(levels);
    if !is_told_before {
        tell();
    }
}

fn no_log() -> HttpResponse {
    response::error(HttpErrorCode::NotFound, "the log of this gateway is not its own")
}
