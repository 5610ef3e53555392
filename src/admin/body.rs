//! Reading request bodies, bounded in bytes and in time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use tokio::time::timeout;

use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};

/// The longest pause between two chunks of a body.
const IDLE: Duration = Duration::from_secs(60);

/// A body that could not be read, as the response that says so.
pub(super) struct BodyError(pub(super) HttpResponse);

/// Reads the next chunk of a body; `None` at its end.
///
/// # Errors
///
/// The response 400 when the body breaks off, or 408 after a pause of [`IDLE`].
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = match timeout(IDLE, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(failed(HttpErrorCode::InvalidMessage, "the body broke off")),
            Err(_) => {
                return Err(failed(HttpErrorCode::Timeout, "the body did not continue in time"));
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
/// The response 413 when the body is longer than `bytes_max`: at once when its announced length is, otherwise as soon as
/// it becomes too long. Also the errors of [`next`].
pub(super) async fn whole(mut body: Incoming, bytes_max: u64) -> Result<Bytes, BodyError> {
    let length = body.size_hint().exact();
    if length.is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max));
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
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&data);
    }
    if whole.len() as u64 > bytes_max {
        Err(too_large(bytes_max))
    } else {
        Ok(whole.freeze())
    }
}

fn too_large(bytes_max: u64) -> BodyError {
    let message = format!("the body is longer than {bytes_max} bytes");
    failed(HttpErrorCode::MessageTooLarge, &message)
}

fn failed(code: HttpErrorCode, message: &str) -> BodyError {
    let mut response = response::error(code, message);
    // The rest of the body is not read, so the connection cannot be used again.
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    BodyError(response)
}
