//! `POST /api/publish`: one event, an array of them, or a stream of lines.
//!
//! Invariant: what is answered as published is kept, as its channel's class says, and in the inbox of every shard that
//! wants it; what is answered as a duplicate was published before in this very sense; an item that is refused is reported
//! by its index and stops no other; a request is not cut short by its client going away.

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request, StatusCode};
use serde::Serialize;

use super::access::{Caller, forbidden};
use super::{Admin, body};
use crate::event::{EventId, NewEvent, PublishOptions};
use crate::hub::Receipt;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::json::{self, Scratch};
use tickgate_protocol::message::PublishItem;

/// Items of an array.
const ITEMS_MAX: usize = 10_000;
/// Refused items and duplicates that are told; of more only the number. A stream of lines has no end.
const TOLD_MAX: usize = 10_000;
/// What a line may have beside its `data`.
const ENVELOPE_BYTES_MAX: usize = 16 * 1024;
/// Items that are parsed between two publications of a stream.
const LINES_PER_BATCH: usize = 512;

/// What became of the items, as it is answered.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    published: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<usize>,
    #[serde(skip_serializing_if = "is_zero")]
    duplicates_omitted: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unchanged: bool,
    #[serde(skip_serializing_if = "is_zero")]
    unchanged_items: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemError>,
    #[serde(skip_serializing_if = "is_zero")]
    errors_omitted: usize,
}

/// A refused item.
#[derive(Debug, Serialize)]
struct ItemError {
    index: usize,
    code: HttpErrorCode,
    message: Box<str>,
}

impl Outcome {
    fn duplicate_at(&mut self, index: usize) {
        if self.duplicates.len() < TOLD_MAX {
            self.duplicates.push(index);
        } else {
            self.duplicates_omitted += 1;
        }
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Admin {
    /// Serves the request of an authenticated caller.
    pub(super) async fn publish(&self, caller: Caller, request: Request<Incoming>) -> HttpResponse {
        if let Caller::User(identity) = &caller
            && identity.permissions.publish.is_empty()
        {
            return forbidden("this token may not publish");
        }
        if !self.broker.is_ready() {
            let answer = response::error(HttpErrorCode::BrokerUnavailable, "the broker is lost");
            return response::retry_after(answer, 1);
        }
        let mut batch = Batch::new(self, &caller);
        if is_lines(request.headers()) {
            return self.publish_lines(batch, request.into_body()).await;
        }
        // Until the end: the body is in memory as long as its items wait for the hub.
        let Ok(_room) = self.body_room(&request).await else {
            return response::error(HttpErrorCode::Overloaded, "the gateway ends");
        };
        let body = match body::whole(request.into_body(), self.publish_body_bytes).await {
            Ok(body) => body,
            Err(refused) => return refused.0,
        };
        let Ok(text) = simdutf8::basic::from_utf8(&body) else {
            return bad_request(HttpErrorCode::InvalidJson, "the body is not UTF-8");
        };
        if !text.trim_ascii_start().starts_with('[') {
            batch.take(text);
            if let Some(ItemError {
                code: HttpErrorCode::InvalidJson,
                message,
                ..
            }) = batch.outcome.errors.first_mut()
                && text.trim_ascii().contains('\n')
            {
                *message = format!("{message} (items in lines need `Content-Type: application/x-ndjson`)").into();
            }
            return self.publish_one(batch).await;
        }
        let items = match json::split_array(text, ITEMS_MAX) {
            Ok(items) => items,
            Err(error) => return bad_request(code_of(&error), &error.to_string()),
        };
        for item in items {
            batch.take(item);
        }
        self.send(&mut batch).await;
        response::json(StatusCode::OK, &batch.finish())
    }

    async fn publish_one(&self, mut batch: Batch<'_>) -> HttpResponse {
        let receipt = self.send(&mut batch).await;
        let mut outcome = batch.finish();
        if let Some(error) = outcome.errors.pop() {
            return response::error(error.code, &error.message);
        }
        outcome.duplicate = outcome.duplicates.pop().is_some();
        if let Some(receipt) = receipt {
            outcome.offset = receipt.offset;
            outcome.epoch = receipt.epoch.map(|epoch| epoch.to_string());
            outcome.unchanged = receipt.unchanged;
            outcome.unchanged_items = 0;
        }
        response::json(StatusCode::OK, &outcome)
    }

    /// Publishes lines as they come; how fast they are read is how fast the hub takes them.
    async fn publish_lines(&self, mut batch: Batch<'_>, mut body: Incoming) -> HttpResponse {
        let mut lines = Lines::new(self.event_bytes + ENVELOPE_BYTES_MAX);
        let failed = loop {
            let piece = body::next(&mut body).await;
            match &piece {
                Ok(Some(data)) => lines.push(data),
                Ok(None) => lines.end(),
                // The broken last line is no item.
                Err(_) => {}
            }
            while let Some(line) = lines.next() {
                batch.take_line(line);
                if batch.events.len() >= LINES_PER_BATCH {
                    self.send(&mut batch).await;
                }
            }
            self.send(&mut batch).await;
            match piece {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error.0),
            }
        };
        let Some(failed) = failed else {
            return response::json(StatusCode::OK, &batch.finish());
        };
        // The status is the failure's; the body still says what was published.
        let (parts, _) = failed.into_parts();
        let mut answer = response::json(parts.status, &batch.finish());
        answer.headers_mut().extend(
            parts
                .headers
                .get("connection")
                .map(|value| (hyper::header::CONNECTION, value.clone())),
        );
        answer
    }

    /// Publishes what the batch holds. A task of its own: dropping the request (its client went away) must not leave
    /// half of it published.
    async fn send(&self, batch: &mut Batch<'_>) -> Option<Receipt> {
        if batch.events.is_empty() {
            return None;
        }
        let events = std::mem::take(&mut batch.events);
        let indices = std::mem::take(&mut batch.indices);
        let count = events.len();
        let broker = self.broker.clone();
        match tokio::spawn(async move { broker.publish(events).await }).await {
            Ok(receipts) => {
                for (index, receipt) in indices.into_iter().zip(&receipts) {
                    batch.count(index, receipt);
                }
                receipts.first().copied()
            }
            Err(error) => {
                tracing::error!(%error, "publishing failed");
                batch.outcome.errors_omitted += count - 1;
                batch.fail(
                    batch.index.saturating_sub(1),
                    HttpErrorCode::Internal,
                    "publishing failed".into(),
                );
                None
            }
        }
    }
}

/// The items of one request, on their way from text to events.
struct Batch<'a> {
    admin: &'a Admin,
    caller: &'a Caller,
    scratch: Scratch,
    index: usize,
    events: Vec<NewEvent>,
    // The item that each event was.
    indices: Vec<usize>,
    outcome: Outcome,
}

impl<'a> Batch<'a> {
    fn new(admin: &'a Admin, caller: &'a Caller) -> Self {
        Self {
            admin,
            caller,
            scratch: Scratch::default(),
            index: 0,
            events: Vec::new(),
            indices: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Takes in one item.
    fn take(&mut self, text: &str) {
        let index = self.index;
        self.index += 1;
        match self.read(text) {
            Ok(event) => {
                self.events.push(event);
                self.indices.push(index);
            }
            Err((code, message)) => self.fail(index, code, message),
        }
    }

    /// Takes in one line of a stream; an empty one is none.
    fn take_line(&mut self, line: Line) {
        match line {
            Line::TooLong => {
                let line_bytes_max = self.admin.event_bytes + ENVELOPE_BYTES_MAX;
                let message = format!("the line is longer than {line_bytes_max} bytes");
                self.fail(self.index, HttpErrorCode::MessageTooLarge, message.into());
                self.index += 1;
            }
            Line::Whole(bytes) => match simdutf8::basic::from_utf8(&bytes) {
                Ok(text) if text.trim_ascii().is_empty() => {}
                Ok(text) => self.take(text),
                Err(_) => {
                    self.fail(self.index, HttpErrorCode::InvalidJson, "the line is not UTF-8".into());
                    self.index += 1;
                }
            },
        }
    }

    /// What became of an event.
    fn count(&mut self, index: usize, receipt: &Receipt) {
        let stats = &self.admin.stats;
        if receipt.duplicate {
            self.outcome.duplicate_at(index);
            stats.duplicates.add(1);
        } else if receipt.unchanged {
            self.outcome.unchanged_items += 1;
            stats.unchanged.add(1);
        } else {
            self.outcome.published += 1;
            stats.published.add(1);
        }
    }

    /// The event of an item.
    fn read(&mut self, text: &str) -> Result<NewEvent, (HttpErrorCode, Box<str>)> {
        let item = PublishItem::parse(text, &mut self.scratch).map_err(|(code, message)| (code.into(), message))?;
        if item.data.len() > self.admin.event_bytes {
            let message = format!("`data` is longer than {} bytes", self.admin.event_bytes);
            return Err((HttpErrorCode::MessageTooLarge, message.into()));
        }
        if let Caller::User(identity) = self.caller
            && !identity.may_publish(&item.channel)
        {
            return Err((
                HttpErrorCode::Forbidden,
                format!("this token may not publish to `{}`", item.channel).into(),
            ));
        }
        let options = PublishOptions {
            id: item.id.map(|id| EventId::of_request(&item.channel, &id)),
            ..PublishOptions::default()
        };
        Ok(NewEvent {
            channel: item.channel,
            name: item.event.into(),
            // Copied: a slice would keep the whole body in memory while one of its events waits somewhere.
            data: Bytes::copy_from_slice(item.data.as_bytes()),
            timestamp_ms: item.timestamp_ms.unwrap_or_else(|| self.admin.clock.now().unix_ms),
            options,
        })
    }

    fn fail(&mut self, index: usize, code: HttpErrorCode, message: Box<str>) {
        self.admin.stats.refused_items.add(1);
        if self.outcome.errors.len() < TOLD_MAX {
            self.outcome.errors.push(ItemError { index, code, message });
        } else {
            self.outcome.errors_omitted += 1;
        }
    }

    fn finish(self) -> Outcome {
        self.outcome
    }
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

fn bad_request(code: HttpErrorCode, message: &str) -> HttpResponse {
    response::error(code, message)
}

/// Cuts a stream into lines, keeping at most one incomplete line of bounded length.
struct Lines {
    line_bytes_max: usize,
    buffer: BytesMut,
    // The first bytes of `buffer` that are known to hold no line end.
    searched: usize,
    // The rest of a line that was reported as too long is passed over.
    skipping: bool,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(Bytes),
    TooLong,
}

impl Lines {
    fn new(line_bytes_max: usize) -> Self {
        Self {
            line_bytes_max,
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            ended: false,
        }
    }

    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// Nothing more comes: what is left is the last line.
    fn end(&mut self) {
        self.ended = true;
    }

    fn next(&mut self) -> Option<Line> {
        loop {
            let found = memchr::memchr(b'\n', &self.buffer[self.searched..]);
            let Some(found) = found else { return self.unfinished() };
            let line = self.buffer.split_to(self.searched + found);
            self.buffer.advance(1);
            self.searched = 0;
            if !std::mem::take(&mut self.skipping) {
                let fits = line.len() <= self.line_bytes_max;
                return Some(if fits {
                    Line::Whole(line.freeze())
                } else {
                    Line::TooLong
                });
            }
        }
    }

    fn unfinished(&mut self) -> Option<Line> {
        if self.skipping || self.buffer.len() > self.line_bytes_max {
            self.buffer.clear();
            self.searched = 0;
            return (!std::mem::replace(&mut self.skipping, true)).then_some(Line::TooLong);
        }
        self.searched = self.buffer.len();
        let last = self.ended && !self.buffer.is_empty();
        self.searched = if last { 0 } else { self.searched };
        last.then(|| Line::Whole(self.buffer.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]], max: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(max);
        let mut cut = Vec::new();
        for piece in pieces.iter().map(Some).chain([None]) {
            match piece {
                Some(piece) => lines.push(piece),
                None => lines.end(),
            }
            while let Some(line) = lines.next() {
                cut.push(match line {
                    Line::Whole(bytes) => Some(bytes.to_vec()),
                    Line::TooLong => None,
                });
            }
        }
        cut
    }

    #[test]
    fn lines_are_cut_and_long_ones_reported_once() {
        let whole = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(cut(&[b"a\nb\n"], 9), [whole("a"), whole("b")]);
        assert_eq!(cut(&[b"a\n", b"", b"b"], 9), [whole("a"), whole("b")]);
        assert_eq!(cut(&[b"", b"\n\n"], 9), [whole(""), whole("")]);
        assert_eq!(
            cut(&[b"1234\n123", b"4567", b"89", b"\nx"], 3),
            [None, None, whole("x")]
        );
        assert_eq!(cut(&[b"123456"], 3), [None]);
        assert_eq!(cut(&[], 3), Vec::<Option<Vec<u8>>>::new());
    }

    #[test]
    fn what_is_told_of_a_stream_without_end_is_bounded() {
        let mut outcome = Outcome::default();
        (0..TOLD_MAX + 3).for_each(|index| outcome.duplicate_at(index));
        assert_eq!((outcome.duplicates.len(), outcome.duplicates_omitted), (TOLD_MAX, 3));
    }

    proptest! {
        #[test]
        fn cutting_does_not_depend_on_the_pieces(text in "[ab\n]{0,60}", cuts in prop::collection::vec(0usize..60, 0..8), max in 1usize..8) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let mut expected: Vec<_> = text.split('\n').map(|line| (line.len() <= max).then(|| line.as_bytes().to_vec())).collect();
            if text.is_empty() || text.ends_with('\n') {
                expected.pop();
            }
            prop_assert_eq!(cut(&pieces, max), expected);
        }
    }
}
