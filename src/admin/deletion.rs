//! `DELETE /api/channels/{pattern}`: removes what is kept of channels.
//!
//! Invariant: a channel that is counted as deleted was deleted for everybody: its subscribers are told, and newcomers get
//! nothing of what was kept.

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Operator;
use super::act::Reason;
use super::routes::Call;
use crate::event::{Deletion, NewEvent};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::Pattern;

/// Channels that are deleted together.
const CHANNELS_PER_BATCH: usize = 512;

#[derive(Serialize)]
struct DeletionReply {
    /// How many channels were deleted.
    deleted: usize,
}

impl Admin {
    /// `DELETE /api/channels/{pattern}?reason`
    pub(super) async fn delete(&self, operator: Operator, call: Call) -> HttpResponse {
        let pattern = match Pattern::parse(&call.segment) {
            Ok(pattern) => pattern.in_tenant(operator.tenant()),
            Err(error) => {
                let message = format!("pattern {:?} {error}", call.segment);
                return response::error(HttpErrorCode::InvalidChannel, &message);
            }
        };
        if !self.parts.broker.is_ready() {
            return response::error(HttpErrorCode::BrokerUnavailable, "the broker is not connected");
        }
        let query = call.query();
        let reason = match Reason::of_query(&query, pattern.as_str()) {
            Ok(reason) => reason,
            Err(refused) => return *refused,
        };
        let work = self.delete_kept(&pattern);
        self.operate("admin.delete", &operator, call.address, &reason, work)
            .await
    }

    async fn delete_kept(&self, pattern: &Pattern) -> HttpResponse {
        let now = self.parts.clock.now();
        let kept = self.parts.hub.kept(pattern, now);
        let (mut deleted, mut refused) = (0, None);
        for channels in kept.chunks(CHANNELS_PER_BATCH) {
            let deletion = |channel| NewEvent::deletion(channel, Deletion::Everything, now.unix_ms);
            let events = channels.iter().cloned().map(deletion).collect();
            for outcome in self.parts.broker.publish(events).await {
                match outcome {
                    Ok(receipt) => deleted += usize::from(!receipt.unchanged),
                    Err(refusal) => refused = Some(refusal),
                }
            }
        }
        tracing::info!(
            tenant = self.tenants.of(pattern.tenant()),
            pattern = pattern.as_str(),
            deleted,
            "channels were deleted by an operator"
        );
        if let Some(refusal) = refused {
            let code: HttpErrorCode = refusal.into();
            let message = format!("{deleted} channels were deleted, others may be left: {refusal}");
            return response::error(code, &message);
        }
        response::json(StatusCode::OK, &DeletionReply { deleted })
    }
}
