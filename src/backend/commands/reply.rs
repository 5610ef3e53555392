//! The JSON of a backend: the request's body, and the reply `{"success": true, "data": …}` or
//! `{"success": false, "error": {"code", "message"}}`.
//!
//! Invariant: `params`, `data` and `error` pass byte for byte. `data` and `error` are slices of the reply.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::keys::Status;
use super::{BackendReply, Failure, Request};
use crate::session::CommandOutcome;
use tickgate_protocol::json::check_value;
use tickgate_protocol::message::RequestId;

#[derive(Deserialize)]
struct Reply<'a> {
    success: bool,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

// Checks for the members that clients rely on. Other members are allowed.
#[derive(Deserialize)]
struct ReplyError {
    #[serde(rename = "code")]
    _code: String,
    #[serde(rename = "message")]
    _message: String,
}

/// Parses a reply. A byte order mark at its beginning is skipped.
///
/// # Errors
///
/// [`Failure::BadReply`] for anything else than the two forms.
pub(super) fn parse(body: &Bytes) -> Result<BackendReply, Failure> {
    let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let reply: Reply<'_> = serde_json::from_slice(json)
        .map_err(|_| Failure::BadReply("it must be a JSON object with the boolean field success".into()))?;
    if reply.success {
        return Ok(BackendReply::Success(raw(body, "data", reply.data)?));
    }
    let error = raw(body, "error", reply.error)?;
    match serde_json::from_slice::<ReplyError>(&error) {
        Ok(_) => Ok(BackendReply::Failure(error)),
        Err(_) => Err(Failure::BadReply(
            "error must be an object with the strings code and message".into(),
        )),
    }
}

/// A member's bytes. It may be nested as deep as a publisher's `data`, because it reaches clients in a message as well.
fn raw(body: &Bytes, name: &str, value: Option<&RawValue>) -> Result<Bytes, Failure> {
    let Some(value) = value else {
        return Ok(Bytes::from_static(b"null"));
    };
    match check_value(value.get()) {
        Ok(value) => Ok(body.slice_ref(value.as_bytes())),
        Err(error) => Err(Failure::BadReply(format!("{name}: {error}").into())),
    }
}

/// The body of the request to a backend: `{id, action, params, key, user, role, client_id, timestamp}`, and `tenant` if there
/// is one. It is written by hand because `params` is copied without being parsed again.
pub(super) fn request_body(request: &Request) -> Bytes {
    let mut body = Vec::with_capacity(request.params.len() + 256);
    body.extend_from_slice(b"{\"id\":");
    match &request.id {
        RequestId::Text(text) => string(&mut body, Some(text)),
        RequestId::Number(number) => body.extend_from_slice(number.to_string().as_bytes()),
        RequestId::Acknowledgement { id: Some(id), .. } => string(&mut body, Some(id)),
        RequestId::Acknowledgement { number, id: None } => string(&mut body, Some(&format!("ack-{number}"))),
    }
    body.extend_from_slice(b",\"action\":");
    string(&mut body, Some(request.action.as_str()));
    body.extend_from_slice(b",\"params\":");
    body.extend_from_slice(&request.params);
    if let (Some(key), Some(user)) = (&request.key, request.user.as_deref()) {
        // A key has no space, so no two pairs of user and key give the same text.
        body.extend_from_slice(b",\"key\":");
        string(&mut body, Some(&format!("{user} {key}")));
    }
    body.extend_from_slice(b",\"user\":");
    string(&mut body, request.user.as_deref());
    body.extend_from_slice(b",\"role\":");
    string(&mut body, request.role.as_deref());
    body.extend_from_slice(b",\"client_id\":");
    string(&mut body, Some(&request.client_id));
    body.extend_from_slice(b",\"timestamp\":");
    body.extend_from_slice(request.timestamp_ms.to_string().as_bytes());
    if let Some(tenant) = &request.tenant {
        body.extend_from_slice(b",\"tenant\":");
        string(&mut body, Some(tenant));
    }
    body.push(b'}');
    Bytes::from(body)
}

/// What a client is told of the status of a key: `{state, response}`, where `response` is `{success, data | error}`.
pub(super) fn status(status: &Status) -> Bytes {
    let Status::Done(outcome) = status else {
        return Bytes::from_static(br#"{"state":"running"}"#);
    };
    let mut data = br#"{"state":"done","response":{"success":"#.to_vec();
    match outcome {
        CommandOutcome::Success { data: success } => {
            data.extend_from_slice(b"true,\"data\":");
            data.extend_from_slice(success);
        }
        CommandOutcome::Failure { error } => {
            data.extend_from_slice(b"false,\"error\":");
            data.extend_from_slice(error);
        }
        CommandOutcome::Refused { code, message } => {
            data.extend_from_slice(b"false,\"error\":{\"code\":");
            string(&mut data, Some(code.as_str()));
            data.extend_from_slice(b",\"message\":");
            string(&mut data, Some(message));
            data.push(b'}');
        }
    }
    data.extend_from_slice(b"}}");
    Bytes::from(data)
}

fn string(body: &mut Vec<u8>, text: Option<&str>) {
    serde_json::to_writer(body, &text).expect("writing a string into memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickgate_protocol::channel::Channel;
    use tickgate_protocol::message::CommandKey;

    fn parsed(text: &'static str) -> Result<BackendReply, Failure> {
        parse(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn data_and_error_pass_byte_for_byte() {
        for data in [
            r#"{"n": 1e400, "s":"\u00e9\/", "big":123456789012345678901234567890}"#,
            "[ 1,\t2 ]",
            "null",
            "0.10",
        ] {
            let body = Bytes::from(format!(r#" {{"data": {data} ,"success":true,"more":[]}} "#));
            assert_eq!(parse(&body), Ok(BackendReply::Success(Bytes::from(data))));
        }
        assert_eq!(
            parsed("\u{feff}{\"success\":true,\"data\":1}"),
            Ok(BackendReply::Success(Bytes::from_static(b"1")))
        );
        assert_eq!(
            parsed(r#"{"success":true}"#),
            Ok(BackendReply::Success(Bytes::from_static(b"null")))
        );
        let error = r#"{"code":"VALIDATION_ERROR","message":"no","field":"pair"}"#;
        let body = Bytes::from(format!(r#"{{"success":false,"error":{error}}}"#));
        assert_eq!(parse(&body), Ok(BackendReply::Failure(Bytes::from(error))));
    }

    #[test]
    fn a_malformed_reply_is_a_failure() {
        for text in [
            "",
            "null",
            "[]",
            "true",
            "{}",
            "<html>",
            "{\"success\":1}",
            "{\"success\":\"true\"}",
            "{\"data\":1}",
            "{\"success\":false}",
            "{\"success\":false,\"error\":\"no\"}",
            "{\"success\":false,\"error\":{\"code\":1,\"message\":\"\"}}",
            "{\"success\":false,\"error\":{\"code\":\"A\"}}",
            "{\"success\":true,\"success\":false}",
            "{\"success\":true}x",
            "{\"success\":true,\"data\":}",
            "{\"success\":true,\"data\":nul}",
            "{\"success\":true,\"data\":\"\n\"}",
            "{\"success\":true",
        ] {
            assert!(matches!(parsed(text), Err(Failure::BadReply(_))), "{text}");
        }
        let not_utf8 = Bytes::from_static(b"{\"success\":true,\"data\":\"\xff\"}");
        assert!(matches!(parse(&not_utf8), Err(Failure::BadReply(_))));
    }

    #[test]
    fn a_reply_is_nested_no_deeper_than_a_published_event() {
        use tickgate_protocol::json::{MAX_DEPTH, Scratch};
        use tickgate_protocol::message::PublishItem;
        // The message that carries the value is the first level.
        for (depth, is_accepted) in [(MAX_DEPTH as usize - 1, true), (MAX_DEPTH as usize, false)] {
            let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let event = format!(r#"{{"channel":"a","event":"e","data":{value}}}"#);
            assert_eq!(
                PublishItem::parse(&event, &mut Scratch::default()).is_ok(),
                is_accepted,
                "{depth}"
            );
            let success = Bytes::from(format!(r#"{{"success":true,"data":{value}}}"#));
            assert_eq!(parse(&success).is_ok(), is_accepted, "{depth}");
            let error = format!(r#"{{"code":"C","message":"m","more":{}}}"#, &value[1..value.len() - 1]);
            let failure = Bytes::from(format!(r#"{{"success":false,"error":{error}}}"#));
            assert_eq!(parse(&failure).is_ok(), is_accepted, "{depth}");
        }
    }

    #[test]
    fn the_request_holds_the_params_byte_for_byte() {
        let request = Request {
            tenant: None,
            id: RequestId::Text("a\"b".into()),
            action: Channel::parse("grid.start").expect("valid"),
            params: Bytes::from_static(b"{\"x\" : 1.50}"),
            key: None,
            user: Some("u42".into()),
            role: None,
            client_id: "c1".into(),
            timestamp_ms: 17,
            trace: None,
        };
        assert_eq!(
            std::str::from_utf8(&request_body(&request)).expect("UTF-8"),
            r#"{"id":"a\"b","action":"grid.start","params":{"x" : 1.50},"user":"u42","role":null,"client_id":"c1","timestamp":17}"#
        );
        let request = Request {
            key: CommandKey::parse("order:7"),
            ..request
        };
        assert_eq!(
            std::str::from_utf8(&request_body(&request)).expect("UTF-8"),
            r#"{"id":"a\"b","action":"grid.start","params":{"x" : 1.50},"key":"u42 order:7","user":"u42","role":null,"client_id":"c1","timestamp":17}"#
        );
    }
}
