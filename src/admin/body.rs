//! Reading request bodies: bounded in bytes and in time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};

/// Between two pieces of a body.
const IDLE: Duration = Duration::from_secs(60);

/// A body could not be read; holds the answer.
pub(super) struct BodyError(pub(super) HttpResponse);

/// The next piece of a body; `None` at its end.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = match timeout(IDLE, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(failed(HttpErrorCode::InvalidMessage, "the body broke off")),
            Err(_) => {
                return Err(failed(HttpErrorCode::Timeout, "the body did not go on in time"));
            }
        };
        // Trailers say nothing to us.
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// The whole body, refused with 413 when it is longer than `bytes_max`: at once when it says so, else as soon as it
/// is.
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
    // What was announced is not reserved: it may never come.
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
    let mut answer = response::error(code, message);
    // Whatever is left of the body is not read.
    answer.headers_mut().insert(
        hyper::header::CONNECTION,
        hyper::header::HeaderValue::from_static("close"),
    );
    BodyError(answer)
}
