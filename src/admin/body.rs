//! Reading request bodies, bounded in bytes and in time.
//!
//! Invariant: no body with a `Content-Encoding` is read. What is in memory of a body has its share of the room for bodies,
//! and does not stay there longer than a client with the slowest allowed rate needs. [`Admin::body`] is the only way to a
//! body.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use tokio::time::Instant;

use super::Admin;
use super::metrics::AdminMetrics;
use crate::ingress::http::request::content_encoding;
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{BodyShare, HttpErrorCode};
use crate::pause::timeout;

/// Room for the bodies that are in memory at one time, unless one body may be longer.
pub(super) const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The longest pause between two chunks of a body.
const IDLE: Duration = Duration::from_secs(60);

/// The time for any body or line, however slow it is. The slowest allowed rate counts after it.
const GRACE: Duration = Duration::from_secs(20);

/// After how many seconds a client may try again when there is no room for its body.
const RETRY_AFTER_S: u32 = 1;

/// Why a body could not be read.
#[derive(Debug)]
pub(super) struct BodyError {
    pub(super) code: HttpErrorCode,
    pub(super) message: Box<str>,
}

impl BodyError {
    fn new(code: HttpErrorCode, message: impl Into<Box<str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    fn too_large(bytes_max: u64) -> Self {
        let message = format!("the body is longer than {bytes_max} bytes");
        Self::new(HttpErrorCode::MessageTooLarge, message)
    }

    /// The response that tells the error.
    pub(super) fn response(&self) -> HttpResponse {
        self.finish(response::error(self.code, &self.message))
    }

    /// Adds the headers of the error to a response.
    pub(super) fn finish(&self, mut response: HttpResponse) -> HttpResponse {
        // The rest of the body is not read, so the connection cannot be used again.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        match self.code {
            HttpErrorCode::UnsupportedMediaType => response::accept_plain_bodies(response),
            HttpErrorCode::Overloaded => response::retry_after(response, RETRY_AFTER_S),
            _ => response,
        }
    }
}

/// The time that a client has for a part of a body.
struct Pace {
    /// 0: no slowest rate.
    bytes_per_second: u32,
    /// Bytes of the part that have arrived.
    arrived: u64,
    /// How long the gateway waited for them.
    waited: Duration,
}

impl Pace {
    /// How long the client may take for its next bytes.
    fn left(&self) -> Duration {
        let Some(earned_ms) = self
            .arrived
            .saturating_mul(1000)
            .checked_div(self.bytes_per_second.into())
        else {
            return IDLE;
        };
        let granted = GRACE.saturating_add(Duration::from_millis(earned_ms));
        granted.saturating_sub(self.waited).min(IDLE)
    }
}

/// A body that is being read.
pub(super) struct BodyReader<'a> {
    metrics: &'a AdminMetrics,
    incoming: Incoming,
    share: BodyShare<'a>,
    bytes_per_second: u32,
    // The part of the body that is in memory and not complete.
    part: Option<Pace>,
}

/// A whole body, with its share of the room.
pub(super) struct WholeBody<'a> {
    pub(super) bytes: Bytes,
    _share: BodyShare<'a>,
}

impl Admin {
    /// The body of a request, which must not be encoded.
    ///
    /// # Errors
    ///
    /// 415 for a body with a `Content-Encoding`.
    pub(super) fn body(&self, request: Request<Incoming>) -> Result<BodyReader<'_>, BodyError> {
        match content_encoding(request.headers()) {
            None => Ok(BodyReader {
                metrics: &self.metrics,
                incoming: request.into_body(),
                share: self.parts.bodies.share(),
                bytes_per_second: self.publish_body_rate,
                part: None,
            }),
            Some(coding) => Err(BodyError::new(
                HttpErrorCode::UnsupportedMediaType,
                format!("`Content-Encoding: {coding}` is not supported; send the body as it is"),
            )),
        }
    }
}

impl<'a> BodyReader<'a> {
    /// Reads the next chunk; `None` at the end of the body.
    ///
    /// # Errors
    ///
    /// 400 when the body breaks off, or 408 when the next chunk does not come in time: within [`IDLE`], and within the
    /// time of the part that it belongs to.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let begun = Instant::now();
            let time = self.part.as_ref().map_or(IDLE, Pace::left);
            let frame = match timeout(time, self.incoming.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(BodyError::new(HttpErrorCode::InvalidMessage, "the body broke off")),
                Err(_) => {
                    self.metrics.late_bodies.add(1);
                    return Err(BodyError::new(HttpErrorCode::Timeout, self.too_slow()));
                }
            };
            if let Some(part) = &mut self.part {
                // More than the time is a pause of the process.
                part.waited += Some(begun.elapsed())
                    .filter(|waited| *waited <= time)
                    .unwrap_or_default();
            }
            // Trailers are ignored.
            if let Ok(data) = frame.into_data() {
                if let Some(part) = &mut self.part {
                    part.arrived += data.len() as u64;
                }
                return Ok(Some(data));
            }
        }
    }

    fn too_slow(&self) -> String {
        match self.bytes_per_second {
            0 => "the body did not continue in time".to_owned(),
            rate => format!("the body did not continue in time, or is slower than {rate} bytes per second"),
        }
    }

    /// Takes room for `length` bytes that are in memory, or gives room back.
    ///
    /// # Errors
    ///
    /// 503 when the bodies of other requests hold the room for too long.
    pub(super) async fn hold(&mut self, length: usize) -> Result<(), BodyError> {
        self.share.resize(length).await.map_err(|_| {
            self.metrics.bodies_without_room.add(1);
            BodyError::new(
                HttpErrorCode::Overloaded,
                "the bodies of other requests take all memory",
            )
        })
    }

    /// States that `length` bytes of an incomplete part stay in memory, of the same part as before or of a new one. 0: the
    /// last part is complete.
    pub(super) fn keep(&mut self, length: usize, is_same_part: bool) {
        match &mut self.part {
            _ if length == 0 => self.part = None,
            Some(part) if is_same_part => part.arrived = length as u64,
            part => *part = Some(Self::pace(self.bytes_per_second, length)),
        }
    }

    const fn pace(bytes_per_second: u32, arrived: usize) -> Pace {
        Pace {
            bytes_per_second,
            arrived: arrived as u64,
            waited: Duration::ZERO,
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    ///
    /// 413 when the body is longer than `bytes_max`: at once when its announced length is, otherwise as soon as it becomes
    /// too long. Also the errors of [`next`](Self::next) and [`hold`](Self::hold).
    pub(super) async fn whole(mut self, bytes_max: u64) -> Result<WholeBody<'a>, BodyError> {
        let length = self.incoming.size_hint().exact();
        if length.is_some_and(|length| length > bytes_max) {
            return Err(BodyError::too_large(bytes_max));
        }
        self.part = Some(Self::pace(self.bytes_per_second, 0));
        let mut whole = BytesMut::new();
        while let Some(data) = self.next().await? {
            let length = whole.len() + data.len();
            if length as u64 > bytes_max {
                return Err(BodyError::too_large(bytes_max));
            }
            self.hold(length).await?;
            // The usual body comes in one chunk and is not copied.
            if whole.is_empty() && self.incoming.is_end_stream() {
                return Ok(self.into_whole(data));
            }
            // The announced length is not reserved, since the rest may never arrive.
            whole.extend_from_slice(&data);
        }
        Ok(self.into_whole(whole.freeze()))
    }

    fn into_whole(self, bytes: Bytes) -> WholeBody<'a> {
        WholeBody {
            bytes,
            _share: self.share,
        }
    }
}

/// The text of a body or of one line, without a byte order mark at its beginning (RFC 8259, section 8.1).
///
/// # Errors
///
/// What the bytes are instead of UTF-8, to follow the words "the body" or "the line".
pub(super) fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";
    let text = bytes.strip_prefix(UTF_8_MARK).unwrap_or(bytes);
    simdutf8::basic::from_utf8(text).map_err(|_| match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is not UTF-8 (its byte order mark is that of UTF-16)",
        [0x1f, 0x8b, ..] => "is not UTF-8 (it looks like gzip; send it as it is)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "is not UTF-8 (it looks like zstd; send it as it is)",
        _ => "is not UTF-8",
    })
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn a_byte_order_mark_is_skipped_or_named() {
        assert_eq!(text(b"{}"), Ok("{}"));
        assert_eq!(text(b"\xef\xbb\xbf{}"), Ok("{}"));
        assert_eq!(text(b"\xef\xbb\xbf"), Ok(""));
        for (bytes, names) in [
            (b"\xff\xfe{\0}\0".as_slice(), "UTF-16"),
            (b"\xfe\xff\0{\0}", "UTF-16"),
            (b"\x1f\x8b\x08\0\xff", "gzip"),
            (b"{\xff}", "is not UTF-8"),
        ] {
            let error = text(bytes).expect_err("not UTF-8");
            assert!(error.contains(names), "{error}");
        }
    }
}
