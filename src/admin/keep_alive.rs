//! `POST /api/keep_alive`: says that channels are alive although nothing is published to them.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::access::{Caller, forbidden};
use super::gateways::Order;
use super::routes::Call;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::Pattern;

/// Longest body.
const BYTES_MAX: u64 = 64 * 1024;

/// Most patterns of one request.
const PATTERNS_MAX: usize = 100;

#[derive(Deserialize)]
struct KeepAlive {
    channels: Vec<String>,
}

#[derive(Serialize)]
struct KeepAliveReply {
    /// How many channels were confirmed.
    channels: usize,
}

impl Admin {
    /// `POST /api/keep_alive` with `{"channels":[pattern, ...]}`
    pub(super) async fn keep_alive(&self, caller: Caller, call: Call) -> HttpResponse {
        let body = match self.body(call.request) {
            Ok(body) => body.whole(BYTES_MAX).await,
            Err(refused) => Err(refused),
        };
        let body = match body {
            Ok(body) => body,
            Err(refused) => return refused.response(),
        };
        let patterns = match patterns(&body.bytes) {
            Ok(patterns) => patterns,
            Err((code, message)) => return response::error(code, &message),
        };
        if matches!(caller, Caller::Viewer(_)) {
            return forbidden("the viewer key may not publish");
        }
        let tenant = caller.tenant();
        let patterns: Vec<Pattern> = patterns.into_iter().map(|of| of.in_tenant(tenant)).collect();
        if let Caller::User(identity) = &caller
            && let Some(pattern) = patterns.iter().find(|pattern| !identity.may_publish_all(pattern))
        {
            return forbidden(&format!("this token may not publish to `{pattern}`"));
        }
        let channels = self.keep_alive_here(&patterns);
        let elsewhere = self.order_others(Order::KeepAlive {
            tenant: self.tenants.label(tenant).into(),
            channels: patterns.iter().map(|pattern| pattern.as_str().into()).collect(),
        });
        match elsewhere.await.unless_all(0) {
            Some(unknown) => unknown,
            None => response::json(StatusCode::OK, &KeepAliveReply { channels }),
        }
    }

    /// Confirms channels at this gateway. Returns how many.
    pub(super) fn keep_alive_here(&self, patterns: &[Pattern]) -> usize {
        let now = self.parts.clock.now();
        let confirm = |pattern| self.parts.hub.keep_alive(pattern, now);
        patterns.iter().map(confirm).sum()
    }
}

fn patterns(body: &[u8]) -> Result<Vec<Pattern>, (HttpErrorCode, String)> {
    let KeepAlive { channels } = serde_json::from_slice(body).map_err(|error| {
        let message = format!("the body must be {{\"channels\":[\"market.*.price\"]}}: {error}");
        (HttpErrorCode::InvalidMessage, message)
    })?;
    if channels.len() > PATTERNS_MAX {
        let message = format!("`channels` has more than {PATTERNS_MAX} patterns: send several requests");
        return Err((HttpErrorCode::InvalidMessage, message));
    }
    let parse = |text: &String| {
        Pattern::parse(text).map_err(|error| (HttpErrorCode::InvalidChannel, format!("pattern {text:?} {error}")))
    };
    channels.iter().map(parse).collect()
}
