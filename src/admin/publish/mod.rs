//! `POST /api/publish`: one event, an array of events, or a stream of lines. And the same by a request over the broker.
//!
//! Invariant: an event that the reply counts as published is kept as its channel's class says, and is in the inbox of
//! every interested shard. A duplicate was published in the same sense before. A refused item is reported by its index and
//! does not stop the others. A client that goes away does not cut its request short.

mod batch;
mod lines;
mod requests;

use std::time::Instant;

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, StatusCode};

use self::batch::{Batch, PublishReply, ReplyError};
use self::lines::Lines;
use super::Admin;
use super::access::{Caller, forbidden};
use super::body::{self, BodyReader};
use super::routes::Call;
use crate::backend::spans::{Kind, Span};
use crate::hub::Receipt;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::pause::give_way;
use tickgate_protocol::json;
use tickgate_protocol::trace_context::TRACE_HEADER;

/// Most items of an array.
const ITEMS_MAX: usize = 10_000;
/// Items of an array that are read at one go. Then others have a turn.
const ITEMS_AT_ONCE: usize = 128;
/// What a line may contain beside its `data`, in bytes.
const ENVELOPE_BYTES_MAX: usize = 16 * 1024;
/// Items of a stream that are published together.
const LINES_PER_BATCH: usize = 512;

impl Admin {
    /// `POST /api/publish`
    pub(super) async fn publish(&self, caller: Caller, call: Call) -> HttpResponse {
        let trace = call.request.headers().get(TRACE_HEADER);
        let trace = trace.and_then(|trace| trace.to_str().ok()?.parse().ok());
        let mut span = self.parts.tracer.begin(Kind::Server, trace, || "publish".to_owned());
        let response = self.publish_body(caller, call, &span).await;
        span.set("http.response.status_code", u64::from(response.status().as_u16()));
        if !response.status().is_success() {
            span.fail(response.status().canonical_reason().unwrap_or_default());
        }
        response
    }

    async fn publish_body(&self, caller: Caller, call: Call, span: &Span) -> HttpResponse {
        let request = call.request;
        match &caller {
            Caller::Viewer(_) => return forbidden("the viewer key may not publish"),
            Caller::User(identity) if identity.permissions.publish.is_empty() => {
                return forbidden("this token may not publish");
            }
            Caller::User(_) | Caller::Operator(_) => {}
        }
        if !self.parts.broker.is_ready() {
            let response = response::error(HttpErrorCode::BrokerUnavailable, "the broker is not connected");
            return response::retry_after(response, 1);
        }
        let batch = Batch::new(self, &caller);
        let is_lines = is_lines(request.headers());
        let body = match self.body(request) {
            Ok(body) if is_lines => return self.publish_lines(batch, body).await,
            Ok(body) => body.whole(self.publish_body_bytes).await,
            Err(refused) => Err(refused),
        };
        // Its room is held until the end: the body stays in memory as long as its items wait for the hub.
        let body = match body {
            Ok(body) => body,
            Err(refused) => return refused.response(),
        };
        let text = match body::text(&body.bytes) {
            Ok(text) => text,
            Err(what) => return response::error(HttpErrorCode::InvalidJson, &format!("the body {what}")),
        };
        match self.publish_text(batch, text, span).await {
            Ok(reply) => response::json(StatusCode::OK, &reply),
            Err((HttpErrorCode::InvalidJson, message)) if is_one_item(text) && text.trim_ascii().contains('\n') => {
                let message = format!("{message} (items in lines need `Content-Type: application/x-ndjson`)");
                response::error(HttpErrorCode::InvalidJson, &message)
            }
            Err((code, message)) => when_to_retry(code, response::error(code, &message)),
        }
    }

    /// Publishes one item or an array of items.
    ///
    /// # Errors
    ///
    /// Why the text is not an array, or why its only item is refused.
    async fn publish_text(
        &self,
        batch: Batch<'_>,
        text: &str,
        span: &Span,
    ) -> Result<PublishReply, (HttpErrorCode, Box<str>)> {
        let start = Instant::now();
        let outcome = self.publish_items(batch, text).await;
        self.publish_duration.add(start.elapsed(), span.sampled_trace());
        outcome
    }

    async fn publish_items(&self, mut batch: Batch<'_>, text: &str) -> Result<PublishReply, (HttpErrorCode, Box<str>)> {
        if is_one_item(text) {
            batch.take(text);
            return self.publish_one(batch).await;
        }
        let items = json::split_array(text, ITEMS_MAX).map_err(|error| (code_of(&error), error.to_string().into()))?;
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 && index % ITEMS_AT_ONCE == 0 {
                give_way().await;
            }
            batch.take(item);
        }
        self.send(&mut batch).await;
        Ok(batch.reply)
    }

    async fn publish_one(&self, mut batch: Batch<'_>) -> Result<PublishReply, (HttpErrorCode, Box<str>)> {
        let receipt = self.send(&mut batch).await;
        let mut reply = batch.reply;
        if let Some(error) = reply.errors.pop() {
            return Err((error.code, error.message));
        }
        reply.duplicate = reply.duplicates.pop().is_some();
        if let Some(receipt) = receipt {
            reply.offset = receipt.offset;
            reply.epoch = receipt.epoch.map(|epoch| epoch.to_string());
            reply.unchanged = receipt.unchanged;
            reply.unchanged_items = 0;
        }
        Ok(reply)
    }

    /// Publishes lines as they arrive. The body is read only as fast as the hub takes its events.
    async fn publish_lines(&self, mut batch: Batch<'_>, mut body: BodyReader<'_>) -> HttpResponse {
        let mut lines = Lines::new(batch.event_bytes() + ENVELOPE_BYTES_MAX);
        let failed = loop {
            let chunk = match body.next().await {
                Ok(Some(data)) => body.hold(lines.buffered() + data.len()).await.map(|()| Some(data)),
                other => other,
            };
            match &chunk {
                Ok(Some(data)) => lines.push(data),
                Ok(None) => lines.end(),
                // The incomplete last line is not an item.
                Err(_) => {}
            }
            let mut is_same_line = true;
            while let Some(line) = lines.next() {
                is_same_line = false;
                batch.take_line(line);
                if batch.len() >= LINES_PER_BATCH {
                    self.send(&mut batch).await;
                }
            }
            self.send(&mut batch).await;
            match chunk {
                Ok(Some(_)) => {
                    body.keep(lines.buffered(), is_same_line);
                    // What is given back needs no room.
                    let _ = body.hold(lines.buffered()).await;
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let mut reply = batch.reply;
        // The body tells what was published, whatever the status is.
        if let Some(failed) = failed {
            reply.error = Some(ReplyError {
                code: failed.code,
                message: failed.message.clone(),
            });
            return failed.finish(response::json(failed.code.status(), &reply));
        }
        reply.error = reply.nothing_taken();
        match reply.error.as_ref().map(|error| error.code) {
            None => response::json(StatusCode::OK, &reply),
            Some(code) => when_to_retry(code, response::json(code.status(), &reply)),
        }
    }

    /// Publishes the events of the batch.
    async fn send(&self, batch: &mut Batch<'_>) -> Option<Receipt> {
        let (indices, events) = batch.take_events()?;
        let outcomes = self.parts.broker.publish(events).await;
        for (index, outcome) in indices.into_iter().zip(&outcomes) {
            batch.count(index, outcome);
        }
        outcomes.first().copied()?.ok()
    }
}

/// Adds when to try again to the response to a publisher that is too fast, whose bucket fills within a second, or whose
/// event the broker did not take.
fn when_to_retry(code: HttpErrorCode, response: HttpResponse) -> HttpResponse {
    match code {
        HttpErrorCode::RateLimited | HttpErrorCode::BrokerUnavailable | HttpErrorCode::OutcomeUnknown => {
            response::retry_after(response, 1)
        }
        _ => response,
    }
}

/// Whether a body is one item and not an array.
fn is_one_item(text: &str) -> bool {
    !text.trim_ascii_start().starts_with('[')
}

fn is_lines(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/x-ndjson", "application/ndjson"]
        .iter()
        .any(|lines| kind.eq_ignore_ascii_case(lines))
}

fn code_of(error: &json::Error) -> HttpErrorCode {
    match error {
        json::Error::Syntax { .. } | json::Error::TooDeep { .. } | json::Error::TooManyEscapes => {
            HttpErrorCode::InvalidJson
        }
        json::Error::WrongKind(_) | json::Error::TooManyItems(_) => HttpErrorCode::InvalidMessage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::{KEY, fixture};

    #[tokio::test]
    async fn while_a_long_array_is_read_others_have_turns() {
        let fixture = fixture(|_| {});
        let caller = fixture.admin.present(KEY).unwrap_or_else(|_| panic!("the key"));
        let item = r#"{"channel":"grid.a","event":"e"}"#;
        let text = format!("[{}]", vec![item; 5 * ITEMS_AT_ONCE].join(","));
        let mut turns = 0;
        let others = async {
            while fixture.hub.metrics().events == 0 {
                turns += 1;
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        let batch = Batch::new(&fixture.admin, &caller);
        let published = tokio::select! {
            biased;
            published = fixture.admin.publish_items(batch, &text) => published,
            () = others => unreachable!(),
        };
        assert!(published.is_ok());
        assert_eq!(fixture.hub.metrics().events, 5 * ITEMS_AT_ONCE as u64);
        assert!(turns >= 4, "{turns} turns before the first event is published");
    }
}
