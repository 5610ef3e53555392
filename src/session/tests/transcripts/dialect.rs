//! The lines of a transcript that choose and configure the dialect.

use std::sync::Arc;

use tickgate_protocol::dialect::{Dialect, socket_io, typed};

/// `% dialect`, `% types` and `% connected`. `words` begins with the kind of the line.
pub(super) fn configure(dialect: &mut Dialect, words: &[&str], at: &str) {
    *dialect = match *words {
        ["dialect", "echo"] => Dialect::Echo,
        ["dialect", "socket_io"] => Dialect::SocketIo(socket_io::Settings::default()),
        ["dialect", "socket_io", "naive"] => Dialect::SocketIo(socket_io::Settings {
            timestamps: typed::Timestamps::Naive,
            ..socket_io::Settings::default()
        }),
        ["dialect", "socket_io", "recovery"] => Dialect::SocketIo(socket_io::Settings {
            recovery_window_ms: Some(120_000),
            ..socket_io::Settings::default()
        }),
        ["dialect", "typed"] => typed(typed::Settings::default()),
        ["dialect", "typed", "naive"] => typed(typed::Settings {
            timestamps: typed::Timestamps::Naive,
            ..typed::Settings::default()
        }),
        ["types", ref types @ ..] => typed(typed::Settings {
            subscription_types: types.iter().map(template).collect(),
            ..typed::Settings::default()
        }),
        ["connected", ref text @ ..] => with_message(dialect, text.join(" ").into()),
        _ => panic!("{at}: {words:?}"),
    };
}

fn template(word: &&str) -> (Box<str>, typed::Template) {
    let (name, template) = word.split_once('=').expect("<name>=<template>");
    (name.into(), template.parse().expect("a template"))
}

fn with_message(dialect: &Dialect, connected_message: Arc<str>) -> Dialect {
    match dialect {
        Dialect::Typed(before) => typed(typed::Settings {
            connected_message,
            ..(**before).clone()
        }),
        Dialect::SocketIo(before) => Dialect::SocketIo(socket_io::Settings {
            connected_message,
            ..before.clone()
        }),
        Dialect::Native | Dialect::Echo => panic!("this dialect has no `connected`"),
    }
}

fn typed(settings: typed::Settings) -> Dialect {
    Dialect::Typed(Arc::new(settings))
}
