//! Sessions by golden transcripts, by a table of bad input, and under random input.

mod bad_input;
mod drive;
mod properties;
mod transcripts;

use super::Session;

#[test]
fn an_idle_session_is_small() {
    let bytes = size_of::<Session>();
    assert!(bytes <= 112, "{bytes}");
}
