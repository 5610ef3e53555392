//! `POST /api/websocket/push/prices?strategy=…`: polls price feeds now and publishes all their records.
//!
//! Invariant: the records that the reply counts were published. A feed that fails does not stop the others.

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Operator;
use super::query::Query;
use super::routes::Call;
use crate::backend::feeds::{PushError, PushRefused};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::{Pattern, is_segment};

#[derive(Default, Serialize)]
struct PushReply {
    pushed: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FeedError>,
}

#[derive(Serialize)]
struct FeedError {
    channel: Box<str>,
    message: Box<str>,
}

impl Admin {
    pub(super) async fn push_prices(&self, operator: Operator, call: Call) -> HttpResponse {
        let channels = match price_channels(&call.query()) {
            Ok(channels) => channels.in_tenant(operator.tenant()),
            Err((code, message)) => return response::error(code, &message),
        };
        let pushed = match self.parts.feeds.push(channels).await {
            Ok(pushed) => pushed,
            Err(PushRefused::Unknown) => {
                return response::error(HttpErrorCode::NotFound, "no feed has such a channel");
            }
            Err(PushRefused::Value) => {
                let message = "`strategy` must not contain `:` or white space: it would name another Redis key";
                return response::error(HttpErrorCode::InvalidMessage, message);
            }
            Err(PushRefused::Ending) => {
                let message = "the gateway is shutting down";
                return response::error(HttpErrorCode::Overloaded, message);
            }
        };
        let mut reply = PushReply::default();
        // Nothing to push is a success.
        let mut succeeded = pushed.is_empty();
        let mut failed_code = HttpErrorCode::NotFound;
        for feed in pushed {
            match feed.records {
                Ok(records) => {
                    succeeded = true;
                    reply.pushed += records;
                }
                Err(error) => {
                    let message = match error {
                        PushError::Missing => "the source has no such key".into(),
                        PushError::Failed(message) => {
                            failed_code = HttpErrorCode::BackendUnavailable;
                            message
                        }
                    };
                    reply.errors.push(FeedError {
                        channel: feed.channel,
                        message,
                    });
                }
            }
        }
        match reply.errors.first() {
            Some(failed) if !succeeded => {
                let message = format!("{}: {}", failed.channel, failed.message);
                response::error(failed_code, &message)
            }
            _ => response::json(StatusCode::OK, &reply),
        }
    }
}

/// The channels that a query names. The error is the code and the message for the client.
fn price_channels(query: &Query<'_>) -> Result<Pattern, (HttpErrorCode, String)> {
    let strategy = query
        .get("strategy")
        .map_err(|message| (HttpErrorCode::InvalidMessage, message))?;
    let invalid = |message: &str| (HttpErrorCode::InvalidChannel, message.to_owned());
    let strategy = match &strategy {
        Some(strategy) if !is_segment(strategy) => return Err(invalid("`strategy` must be one channel segment")),
        Some(strategy) => strategy,
        None => "*",
    };
    Pattern::parse(&format!("strategy.{strategy}.prices")).map_err(|_| invalid("`strategy` is too long for a channel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_name_channels() {
        let named = |query| price_channels(&Query::of(query)).map(|pattern| pattern.to_string());
        assert_eq!(named("strategy=volume_wave"), Ok("strategy.volume_wave.prices".into()));
        assert_eq!(named("strategy=%E6%B3%A2"), Ok("strategy.波.prices".into()));
        for empty in ["", "strategy="] {
            assert_eq!(named(empty), Ok("strategy.*.prices".into()), "{empty}");
        }
        let long = format!("strategy={}", "x".repeat(250));
        for (bad, code) in [
            ("strategy=*", HttpErrorCode::InvalidChannel),
            ("strategy=a.b", HttpErrorCode::InvalidChannel),
            ("strategy=%ff", HttpErrorCode::InvalidMessage),
            (&long, HttpErrorCode::InvalidChannel),
        ] {
            assert_eq!(price_channels(&Query::of(bad)).expect_err(bad).0, code, "{bad}");
        }
    }
}
