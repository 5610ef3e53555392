//! Tests of sessions: golden transcripts, a table of bad input, and random input.

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
    assert!(bytes <= 120, "{bytes}");
}

/// The `Debug` output of a session and of its outputs shows neither a token nor the secret of an Engine.IO session.
#[test]
fn debug_output_shows_no_token_and_no_secret() {
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
        // Neither as text nor byte by byte.
        assert!(!shown.contains("s3cr3t") && !shown.contains("94, 194"), "{shown}");
    }
}

/// The box for requests under way is larger than the session, and clients that have just subscribed are idle.
#[test]
fn the_memory_of_a_request_is_freed_with_its_answer() {
    let tokens = drive::Tokens::from([(
        "good".to_owned(),
        Ok(Arc::new(user("u42", permissions("grid.*", "", "")))),
    )]);
    let mut drive = drive::Drive::new(drive::settings(), tokens, Some("good"));
    drive.input(Input::Frame(Message::Text(
        r#"{"type":"subscribe","channels":["grid.*"]}"#,
    )));
    assert!(drive.session.activity.is_some(), "the subscribe request is under way");
    drive.answer_subscribe();
    assert_eq!(drive.session.patterns().len(), 1);
    assert!(drive.session.activity.is_none());
}
