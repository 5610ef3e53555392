//! `POST /api/websocket/push/prices?strategy=…`: runs price feeds now and sends all they have.
//!
//! Invariant: what is answered as pushed was published; a feed that fails stops no other.

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use crate::backend::feeds::PushRefused;
use crate::ingress::http::answer::{self, Answer};
use crate::ingress::http::request::query_value;
use tickgate_protocol::channel::{Pattern, is_segment};

#[derive(Serialize)]
struct Outcome {
    pushed: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    channel: Box<str>,
    message: Box<str>,
}

impl Admin {
    pub(super) async fn push_prices(&self, query: &str) -> Answer {
        let channels = match price_channels(query) {
            Ok(channels) => channels,
            Err((code, message)) => return answer::error(StatusCode::BAD_REQUEST, code, message),
        };
        let pushed = match self.feeds.push(channels).await {
            Ok(pushed) => pushed,
            Err(PushRefused::Unknown) => {
                return answer::error(StatusCode::NOT_FOUND, "NOT_FOUND", "no feed has such a channel");
            }
            Err(PushRefused::Ending) => {
                return answer::error(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", "the gateway ends");
            }
        };
        let (mut outcome, mut succeeded) = (
            Outcome {
                pushed: 0,
                errors: Vec::new(),
            },
            pushed.is_empty(),
        );
        for feed in pushed {
            match feed.records {
                Ok(records) => {
                    succeeded = true;
                    outcome.pushed += records;
                }
                Err(message) => outcome.errors.push(Failed {
                    channel: feed.channel,
                    message,
                }),
            }
        }
        match outcome.errors.first() {
            Some(failed) if !succeeded => {
                let message = format!("{}: {}", failed.channel, failed.message);
                answer::error(StatusCode::BAD_GATEWAY, "BACKEND_UNAVAILABLE", &message)
            }
            _ => answer::json(StatusCode::OK, &outcome),
        }
    }
}

/// The channels that a query names, or code and message of what is wrong with it.
fn price_channels(query: &str) -> Result<Pattern, (&'static str, &'static str)> {
    let strategy = query_value(query, "strategy").map_err(|_| {
        (
            "INVALID_MESSAGE",
            "`strategy` is given twice or is not percent-encoded UTF-8",
        )
    })?;
    let strategy = match &strategy {
        Some(strategy) if !is_segment(strategy) => return Err(("INVALID_CHANNEL", "`strategy` is no channel segment")),
        Some(strategy) => strategy,
        None => "*",
    };
    Pattern::parse(&format!("strategy.{strategy}.prices"))
        .map_err(|_| ("INVALID_CHANNEL", "`strategy` is too long for a channel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_name_channels() {
        let named = |query| price_channels(query).map(|pattern| pattern.to_string());
        assert_eq!(named("strategy=volume_wave"), Ok("strategy.volume_wave.prices".into()));
        assert_eq!(named("strategy=%E6%B3%A2"), Ok("strategy.波.prices".into()));
        assert_eq!(named("other=1"), Ok("strategy.*.prices".into()));
        let long = format!("strategy={}", "x".repeat(250));
        for (bad, code) in [
            ("strategy=", "INVALID_CHANNEL"),
            ("strategy=*", "INVALID_CHANNEL"),
            ("strategy=a.b", "INVALID_CHANNEL"),
            ("strategy=%ff", "INVALID_MESSAGE"),
            ("strategy=a&strategy=b", "INVALID_MESSAGE"),
            (&long, "INVALID_CHANNEL"),
        ] {
            assert_eq!(price_channels(bad).expect_err(bad).0, code, "{bad}");
        }
    }
}
