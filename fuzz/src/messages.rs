//! Text messages of clients, in the dialects whose messages are JSON.
//!
//! 1. A message that is accepted is JSON by serde_json too.
//! 2. Parsing twice with the same scratch memory gives the same result.
//! 3. `request_head` gives the same id as parsing the request, and says whether it is a command.

use serde_json::value::RawValue;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::{ClientMessage, MessageType, RequestHead, RequestId};

/// Checks one fuzz input: a text message.
pub fn check_input(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    let mut scratch = Scratch::default();
    for dialect in [Dialect::Native, Dialect::Typed(Default::default())] {
        let head = dialect.request_head(text, &mut scratch);
        let parsed = dialect.parse(text, &mut scratch);
        let again = dialect.parse(text, &mut scratch);
        assert_eq!(format!("{parsed:?}"), format!("{again:?}"));
        if let Ok(message) = &parsed {
            assert!(is_json, "{text:?} is accepted and is not JSON");
            check_head(head, message);
        }
    }
}

/// Checks that a request which is refused unread would be answered by the same id, and as the same kind of request.
fn check_head(head: Option<RequestHead>, message: &ClientMessage<'_>) {
    let is_command = |head: &RequestHead| head.message_type.is_some_and(MessageType::has_response);
    if message.message_type().has_response() {
        assert!(head.as_ref().is_some_and(is_command), "{message:?}");
    } else {
        assert!(!head.as_ref().is_some_and(is_command), "{message:?}");
    }
    assert_eq!(head.map(|head| head.id).as_ref(), id(message));
}

fn id<'m>(message: &'m ClientMessage<'_>) -> Option<&'m RequestId> {
    match message {
        ClientMessage::Command { id, .. } | ClientMessage::CommandStatus { id, .. } => Some(id),
        ClientMessage::Auth { request_ref, .. }
        | ClientMessage::Subscribe { request_ref, .. }
        | ClientMessage::Unsubscribe { request_ref, .. }
        | ClientMessage::Publish { request_ref, .. }
        | ClientMessage::Ping { request_ref }
        | ClientMessage::GetStatus { request_ref }
        | ClientMessage::History { request_ref, .. } => request_ref.id.as_ref(),
        ClientMessage::Pong => None,
    }
}
