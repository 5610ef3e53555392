//! Sessions by golden transcripts, by a table of bad input, and under random input.

mod bad_input;
mod drive;
mod properties;
mod transcripts;

use std::sync::Arc;

use super::{Input, Opening, Output, Session, Token};
use crate::time::Now;
use drive::{permissions, user};
use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::wire::Message;

#[test]
fn an_idle_session_is_small() {
    let bytes = size_of::<Session>();
    assert!(bytes <= 112, "{bytes}");
}

/// Neither what a session asks for nor the session itself shows a token or the name of an Engine.IO session.
#[test]
fn what_only_its_owner_may_know_is_not_shown() {
    let opening = Opening {
        revision: Revision::Four,
        by_poll: true,
        secret: *b"\x5e\xc2secret-of-sid!",
        token: Some("s3cr3t.token".into()),
    };
    let shown = format!("{opening:?}");
    let session = Session::engine_io(7, opening, Now::default(), &drive::settings());
    let verify = Output::Verify {
        request: 1,
        token: Token("s3cr3t.token".into()),
    };
    for shown in [shown, format!("{session:?}"), format!("{verify:?}")] {
        assert!(
            shown.contains("Opening") || shown.contains("EngineIo") || shown.contains("Verify"),
            "{shown}"
        );
        // As text, or byte by byte.
        assert!(!shown.contains("s3cr3t") && !shown.contains("94, 194"), "{shown}");
    }
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
