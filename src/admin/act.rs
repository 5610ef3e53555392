//! What operators do: with a reason, and with a line in the audit trail.
//!
//! Invariant: nothing is done before there is room for its audit line, if the trail has to be complete (`log.audit`).

use std::net::IpAddr;

use hyper::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::access::Operator;
use super::query::Query;
use super::routes::Call;
use crate::event::{NewEvent, PublishOptions};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::Channel;
use tickgate_protocol::message::ErrorCode;

/// Longest body of an action.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// Longest reason, in characters. What is longer is cut.
const REASON_MAX: usize = 200;

/// Why something is done, and to what: the `params` of the audit line.
#[derive(Serialize)]
pub(super) struct Reason<'a> {
    target: &'a str,
    reason: String,
}

impl<'a> Reason<'a> {
    /// The reason that a caller gave; an empty one if none.
    pub(super) fn given(reason: Option<&str>, target: &'a str) -> Self {
        let reason = reason.unwrap_or_default().trim().chars().take(REASON_MAX).collect();
        Self { target, reason }
    }

    /// The reason in the query.
    ///
    /// # Errors
    ///
    /// The response 400.
    pub(super) fn of_query(query: &Query<'_>, target: &'a str) -> Result<Self, Box<HttpResponse>> {
        let reason = query
            .get("reason")
            .map_err(|message| response::error(HttpErrorCode::InvalidMessage, &message))?;
        Ok(Self::given(reason.as_deref(), target))
    }
}

/// A body that may only say why.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

#[derive(Serialize)]
struct DrainReply {
    draining: bool,
}

impl Admin {
    /// Does something that belongs into the audit trail. Its response tells the outcome.
    pub(super) async fn operate(
        &self,
        action: &'static str,
        operator: &Operator,
        address: Option<IpAddr>,
        reason: &Reason<'_>,
        work: impl Future<Output = HttpResponse>,
    ) -> HttpResponse {
        let params = serde_json::to_vec(reason).unwrap_or_default().into();
        let router = &self.parts.router;
        let operation = match router
            .begin_operation(action, operator.name(), operator.tenant(), params, address)
            .await
        {
            Ok(operation) => operation,
            Err(full) => return response::error(HttpErrorCode::Overloaded, &full.to_string()),
        };
        let response = work.await;
        let outcome = match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(ErrorCode::InvalidMessage),
            status if status.is_client_error() => Err(ErrorCode::InvalidMessage),
            _ => Err(ErrorCode::Internal),
        };
        router.end_operation(operation, outcome);
        response
    }

    /// Reads the body of an action, with the address of the caller. An empty body is `{}`.
    ///
    /// # Errors
    ///
    /// The response 400, 408, 413 or 415; `help` says what the body must be.
    pub(super) async fn small_body<T: DeserializeOwned>(
        &self,
        call: Call,
        help: &str,
    ) -> Result<(Option<IpAddr>, T), Box<HttpResponse>> {
        let address = call.address;
        let body = match self.body(call.request) {
            Ok(body) => body.whole(BODY_BYTES_MAX).await,
            Err(refused) => Err(refused),
        };
        let body = body.map_err(|refused| refused.response())?;
        let bytes = if body.bytes.trim_ascii().is_empty() {
            &b"{}"[..]
        } else {
            &body.bytes
        };
        let read = serde_json::from_slice(bytes).map_err(|_| response::error(HttpErrorCode::InvalidMessage, help))?;
        Ok((address, read))
    }

    /// `POST /api/drain`
    pub(super) async fn drain(&self, operator: Operator, call: Call) -> HttpResponse {
        if let Err(refused) = operator.acts_for_all() {
            return *refused;
        }
        let (address, Why { reason }) = match self.small_body(call, "the body may be {\"reason\":\"…\"}").await {
            Ok(body) => body,
            Err(refused) => return *refused,
        };
        let reason = Reason::given(reason.as_deref(), &self.parts.node);
        self.operate("admin.drain", &operator, address, &reason, async {
            match self.drain.get() {
                Some(drain) => drain(),
                None => return response::error(HttpErrorCode::Internal, "this gateway cannot drain by the API"),
            }
            response::json(StatusCode::ACCEPTED, &DrainReply { draining: true })
        })
        .await
    }

    /// `POST /api/channels/{channel}/test`
    pub(super) async fn publish_test(&self, operator: Operator, call: Call) -> HttpResponse {
        let channel = match Channel::parse(&call.segment) {
            Ok(channel) => channel.in_tenant(operator.tenant()),
            Err(error) => {
                let message = format!("channel {:?} {error}", call.segment);
                return response::error(HttpErrorCode::InvalidChannel, &message);
            }
        };
        let (address, Why { reason }) = match self.small_body(call, "the body may be {\"reason\":\"…\"}").await {
            Ok(body) => body,
            Err(refused) => return *refused,
        };
        let name = channel.as_str().to_owned();
        let reason = Reason::given(reason.as_deref(), &name);
        self.operate("admin.publish_test", &operator, address, &reason, async {
            let new = NewEvent {
                channel,
                name: "test".into(),
                data: serde_json::to_vec(&serde_json::json!({"test": true, "by": operator.name()}))
                    .unwrap_or_default()
                    .into(),
                timestamp_ms: self.parts.clock.now().unix_ms,
                options: PublishOptions::default(),
            };
            match self.parts.broker.publish(vec![new]).await.pop() {
                Some(Ok(_)) => response::empty(StatusCode::NO_CONTENT),
                Some(Err(refusal)) => response::error(HttpErrorCode::BrokerUnavailable, &refusal.to_string()),
                None => response::error(HttpErrorCode::Internal, "the event was lost"),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_and_never_missing() {
        assert_eq!(Reason::given(None, "x").reason, "");
        assert_eq!(Reason::given(Some("  because  "), "x").reason, "because");
        assert_eq!(Reason::given(Some(&"é".repeat(500)), "x").reason.chars().count(), 200);
        let of = |query| Reason::of_query(&Query::of(query), "x").map(|reason| reason.reason);
        assert_eq!(of("reason=too%20slow").expect("valid"), "too slow");
        assert!(of("reason=%ff").is_err());
    }
}
