//! Text messages of clients, in the dialects whose messages are JSON.
//!
//! 1. A message that is accepted is JSON by serde_json too.
//! 2. Parsing twice with the same scratch memory gives the same result.
//! 3. `command_id` gives the same id as parsing the command.

use serde_json::value::RawValue;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::ClientMessage;

/// Checks one fuzz input: a text message.
pub fn check_input(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    let mut scratch = Scratch::default();
    for dialect in [Dialect::Native, Dialect::Typed(Default::default())] {
        let command_id = dialect.command_id(text, &mut scratch);
        let parsed = dialect.parse(text, &mut scratch);
        let again = dialect.parse(text, &mut scratch);
        assert_eq!(format!("{parsed:?}"), format!("{again:?}"));
        if let Ok(message) = &parsed {
            assert!(is_json, "{text:?} is accepted and is not JSON");
            if let ClientMessage::Command { id, .. } = message {
                assert_eq!(command_id.as_ref(), Some(id));
            }
        }
    }
}
