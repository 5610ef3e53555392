//! Sessions by golden transcripts, by a table of bad input, and under random input.

mod bad_input;
mod drive;
mod properties;
mod transcripts;

use std::sync::Arc;

use super::{Input, Session};
use crate::wire::Message;
use drive::{permissions, user};

#[test]
fn an_idle_session_is_small() {
    let bytes = size_of::<Session>();
    assert!(bytes <= 112, "{bytes}");
}

/// The box for requests under way is more than the session itself, and a crowd that has just subscribed is idle.
#[test]
fn what_a_request_needed_goes_with_its_answer() {
    let tokens = drive::Tokens::from([(
        "good".to_owned(),
        Ok(Arc::new(user("u42", permissions("grid.*", "", "")))),
    )]);
    let mut drive = drive::Drive::new(drive::settings(), tokens, Some("good"));
    drive.input(Input::Frame(Message::Text(
        r#"{"type":"subscribe","channels":["grid.*"]}"#,
    )));
    assert!(drive.session.extra.is_some(), "the join is under way");
    drive.answer_join();
    assert_eq!(drive.session.patterns().len(), 1);
    assert!(drive.session.extra.is_none());
}
