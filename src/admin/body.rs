//! Reading request bodies, bounded in bytes and in time.
//!
//! Invariant: no body with a `Content-Encoding` is read. [`plain`] is the only way to a body.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use tokio::time::timeout;

use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::request::content_encoding;
use crate::ingress::http::response::{self, HttpResponse};

/// The longest pause between two chunks of a body.
const IDLE: Duration = Duration::from_secs(60);

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
            _ => response,
        }
    }
}

/// The body of a request, which must not be encoded.
///
/// # Errors
///
/// 415 for a body with a `Content-Encoding`.
pub(super) fn plain(request: Request<Incoming>) -> Result<Incoming, BodyError> {
    match content_encoding(request.headers()) {
        None => Ok(request.into_body()),
        Some(coding) => Err(BodyError::new(
            HttpErrorCode::UnsupportedMediaType,
            format!("`Content-Encoding: {coding}` is not supported; send the body as it is"),
        )),
    }
}

/// Reads the next chunk of a body; `None` at its end.
///
/// # Errors
///
/// 400 when the body breaks off, or 408 after a pause of [`IDLE`].
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = match timeout(IDLE, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(BodyError::new(HttpErrorCode::InvalidMessage, "the body broke off")),
            Err(_) => {
                let message = "the body did not continue in time";
                return Err(BodyError::new(HttpErrorCode::Timeout, message));
            }
        };
        // Trailers are ignored.
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Reads a whole body.
///
/// # Errors
///
/// 413 when the body is longer than `bytes_max`: at once when its announced length is, otherwise as soon as it becomes
/// too long. Also the errors of [`plain`] and [`next`].
pub(super) async fn whole(request: Request<Incoming>, bytes_max: u64) -> Result<Bytes, BodyError> {
    let mut body = plain(request)?;
    let length = body.size_hint().exact();
    if length.is_some_and(|length| length > bytes_max) {
        return Err(BodyError::too_large(bytes_max));
    }
    let Some(first) = next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    if body.is_end_stream() && first.len() as u64 <= bytes_max {
        return Ok(first);
    }
    // The announced length is not reserved, since the rest may never arrive.
    let mut whole = BytesMut::from(first);
    while let Some(data) = next(&mut body).await? {
        if (whole.len() + data.len()) as u64 > bytes_max {
            return Err(BodyError::too_large(bytes_max));
        }
        whole.extend_from_slice(&data);
    }
    if whole.len() as u64 > bytes_max {
        Err(BodyError::too_large(bytes_max))
    } else {
        Ok(whole.freeze())
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
