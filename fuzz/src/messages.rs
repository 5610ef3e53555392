//! What clients say, in the dialects whose messages are JSON.
//!
//! 1. A message that is understood is JSON by serde_json's measure too; what is not JSON is not understood.
//! 2. Parsing twice with the same memory gives the same.
//! 3. A command whose message is refused unread has the same id as when it is read.

use serde_json::value::RawValue;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::ClientMessage;

/// One fuzz input: a text message.
pub fn check_input(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    let mut scratch = Scratch::default();
    for dialect in [Dialect::Native, Dialect::Typed(Default::default())] {
        let unread = dialect.command_id(text, &mut scratch);
        let parsed = dialect.parse(text, &mut scratch);
        let again = dialect.parse(text, &mut scratch);
        assert_eq!(format!("{parsed:?}"), format!("{again:?}"));
        if let Ok(message) = &parsed {
            assert!(is_json, "{text:?} is understood and is no JSON");
            if let ClientMessage::Command { id, .. } = message {
                assert_eq!(unread.as_ref(), Some(id));
            }
        }
    }
}
