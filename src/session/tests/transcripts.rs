//! Golden transcripts: `tests/transcripts/<dialect>/*.txt`, one session for each file.
//!
//! Each line of a transcript is one of
//!
//! ```text
//! # comment
//! % auth required|optional|off            settings and tokens, before `open`
//! % dialect echo|typed|socket_io [naive]
//! % connected <text>                       the `message` of `connected`, after `dialect`
//! % engine_io 3|4 poll|websocket [token]   how the session is opened; `open` has no token then
//! % types <name>=<template> ..             of the typed dialect, instead of the default types
//! % auto <patterns>                        separated by commas
//! % refused <template> <characters>        a feed whose placeholder must not contain these
//! % limit <field of Limits> <number>
//! % anonymous <channels> [commands] [publish]           lists are separated by commas, `-` is an empty list
//! % token <text> user=<sub> [role=..] [exp=<seconds>] [leeway=<seconds>] [channels=..] [commands=..] [publish=..] [max_rate=..]
//!         [bytes_per_second=..]
//! % token <text> TOKEN_EXPIRED <message>
//! open [token]                            the connection opens, perhaps with a handshake token
//! > text                                  the client sends a text message; `>*3 text`: three times, `$n` counts from 1
//! >> ping|pong|binary|close|protocol|invalid_utf8|too_big|lost [..]    another frame, an error, or the end of input
//! + verified|published [offset]           the shard answers the request
//! + subscribed [<channel>=<offset> ..] [<channel>=true|false ..] [cut]   .. with positions, recoveries, and a cut list
//! + history complete|more|gap [<event> ..]
//! + respond <id>|ack:<number>[:<id>] success|failure <json>   ... a command, too: or `refused <CODE> <message>`
//! + event <channel> <name> <data>          another client publishes; delivered if a pattern held matches
//! + challenge, + polled                    a sign of life is asked for, a GET arrives
//! + delivered <n>, + dropped <n>, + end <ending>, + going_away <close in> <reconnect after>
//! @+25s, @late+25s                        time passes (`ms`, `s`); late: without the timer
//! ? listens, ? waits                      whether the session takes frames now
//! < text                                  the server sends exactly this; `<*3 text`; `$t+5` is 5 ms after the start
//! << ping|pong|close|binary [..]          the server sends another frame
//! = verify|subscribe|set_rate|limit_bytes|skip|unsubscribe|publish|command ..  the session's request to its shard
//! ! close <ending>                        the session ends
//! ```
//!
//! All outputs follow the input that caused them, in order. With `BLESS=1` in the environment the test rewrites the
//! files with the real outputs; read the changes before committing them.

mod dialect;
mod outcome;
mod report;

use std::fmt::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use report::{at_rate, difference, message_of};

use super::drive::{Drive, START, Seen, Tokens, epoch, permissions, settings, user};
use crate::auth::{Identity, Mode, Permissions, TokenError};
use crate::event::Refusal;
use crate::session::{CommandOutcome, HistoryPage, Input, Opening, RefusedValue, Settings};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::{Cursor, ErrorCode, Recover, RequestId, Resume};
use tickgate_protocol::rate::Rate;
use tickgate_protocol::wire;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["native", "typed", "socket_io", "echo"]
        .into_iter()
        .flat_map(|dialect| std::fs::read_dir(folder().join(dialect)).expect("the transcripts are there"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn transcripts_hold() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut failures = Vec::new();
    for file in files() {
        let name = name_of(&file);
        let wanted = std::fs::read_to_string(&file).unwrap();
        let run = panic::catch_unwind(AssertUnwindSafe(|| Runner::default().run(&wanted, &name)));
        match run {
            Ok(got) if bless => std::fs::write(&file, &got).unwrap(),
            Ok(got) => failures.extend(difference(&name, &wanted, &got)),
            Err(panic) => failures.push(format!("{name}: {}", message_of(&*panic))),
        }
    }
    assert!(
        failures.is_empty(),
        "{} transcripts fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

// `<dialect>/<file>`: some file names occur in several dialects.
fn name_of(file: &Path) -> String {
    let name = file.strip_prefix(folder()).expect("a file of the folder");
    name.display().to_string()
}

#[test]
fn every_code_message_and_ending_has_a_transcript() {
    let all: String = files()
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let shown: Vec<&str> = all.lines().filter(|line| line.starts_with(['<', '!'])).collect();
    let seen = |part: &str| shown.iter().any(|line| line.contains(part));
    for code in ErrorCode::ALL {
        assert!(
            seen(&format!("\"code\":\"{}\"", code.as_str())),
            "no transcript shows {code:?}"
        );
    }
    for ending in Disconnect::ALL {
        assert!(
            seen(&format!("! close {}", ending.label())),
            "no transcript ends with {ending:?}"
        );
    }
    for message in [
        "auth_result",
        "auth_expiring",
        "subscribed",
        "unsubscribed",
        "response",
        "published",
        "ping",
        "pong",
        "status",
        "error",
        "going_away",
        "connected",
        "history",
    ] {
        assert!(
            seen(&format!("{{\"type\":\"{message}\"")),
            "no transcript shows {message}"
        );
    }
}

#[derive(Default)]
struct Runner {
    settings: Option<Settings>,
    opening: Option<Opening>,
    tokens: Tokens,
    drive: Option<Drive>,
}

impl Runner {
    // The real transcript: the inputs of `wanted`, each followed by the real outputs.
    fn run(mut self, wanted: &str, name: &str) -> String {
        self.settings = Some(settings());
        let mut got = String::new();
        for (index, line) in wanted.lines().enumerate() {
            if line.starts_with(['<', '=', '!']) {
                continue;
            }
            writeln!(got, "{line}").unwrap();
            if !line.trim().is_empty() && !line.starts_with('#') {
                self.step(line, &format!("{name}, line {}", index + 1), &mut got);
            }
        }
        got
    }

    fn step(&mut self, line: &str, at: &str, got: &mut String) {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        if head == "%" {
            return self.configure(rest, at);
        }
        if head == "open" {
            let token = Some(rest).filter(|token| !token.is_empty());
            let settings = self.settings.take().expect("opened once");
            self.drive = Some(match self.opening.take() {
                Some(opening) => Drive::engine_io(settings, self.tokens.clone(), opening),
                None => Drive::new(settings, self.tokens.clone(), token),
            });
        } else {
            let drive = self.drive.as_mut().unwrap_or_else(|| panic!("{at}: not open"));
            step(drive, head, rest, at, got);
        }
        let drive = self.drive.as_mut().unwrap();
        write_all(&std::mem::take(&mut drive.seen), got);
    }

    fn configure(&mut self, rest: &str, at: &str) {
        let words: Vec<&str> = rest.split(' ').collect();
        let settings = self.settings.as_mut().unwrap_or_else(|| panic!("{at}: open already"));
        let list = |index: usize| words.get(index).copied().filter(|word| *word != "-").unwrap_or("");
        match words[0] {
            "auth" => {
                settings.auth_mode = match words[1] {
                    "required" => Mode::Required,
                    "optional" => Mode::Optional,
                    "off" => Mode::Off,
                    other => panic!("{at}: {other}"),
                }
            }
            "dialect" | "types" | "connected" => dialect::configure(&mut settings.dialect, &words, at),
            "engine_io" => {
                // The configuration's defaults: 25 s between pings, 20 s for the answer.
                (settings.heartbeat_interval_ms, settings.heartbeat_timeout_ms) = (25_000, 45_000);
                self.opening = Some(Opening {
                    revision: Revision::parse(words[1]).unwrap_or_else(|| panic!("{at}: {rest}")),
                    by_poll: words[2] == "poll",
                    secret: *b"0123456789abcdef",
                    token: words.get(3).map(|&token| token.into()),
                });
            }
            "auto" => {
                let patterns = words[1].split(',').map(|name| Pattern::parse(name).unwrap());
                settings.auto_subscribe = patterns.collect();
            }
            "refused" => {
                let refused = RefusedValue {
                    template: words[1].parse().expect("a template"),
                    characters: words[2].to_owned().leak(),
                };
                settings.refused_values = Arc::new([refused]);
            }
            "anonymous" => {
                settings.anonymous = Arc::new(Identity::anonymous(permissions(list(1), list(2), list(3))));
            }
            "limit" => {
                let number = words[2].parse().unwrap();
                let limits = &mut settings.limits;
                *match words[1] {
                    "messages_per_second" => &mut limits.messages_per_second,
                    "bytes_per_second" => &mut limits.bytes_per_second,
                    "commands_per_second" => &mut limits.commands_per_second,
                    "subscriptions" => &mut limits.subscriptions,
                    "event_bytes" => &mut limits.event_bytes,
                    other => panic!("{at}: {other}"),
                } = number;
            }
            "token" if words[2].contains('=') => {
                self.tokens.insert(words[1].into(), Ok(Arc::new(identity(&words[2..]))));
            }
            "token" => {
                let refused = TokenError {
                    code: code(words[2]),
                    message: words[3..].join(" ").into(),
                };
                self.tokens.insert(words[1].into(), Err(refused));
            }
            other => panic!("{at}: {other}"),
        }
    }
}

fn identity(words: &[&str]) -> Identity {
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let list = |key| value(key).unwrap_or("");
    let mut identity = user(
        value("user").expect("a user"),
        Arc::new(Permissions {
            max_rate: value("max_rate").and_then(|rate| Rate::at_most(rate.parse().unwrap())),
            bytes_per_second: value("bytes_per_second").map(|bytes| bytes.parse().unwrap()),
            ..(*permissions(list("channels"), list("commands"), list("publish"))).clone()
        }),
    );
    identity.role = value("role").map(Into::into);
    if let Some(seconds) = value("exp") {
        let exp_ms = START.unix_ms + seconds.parse::<u64>().unwrap() * 1000;
        let leeway_ms = value("leeway").map_or(5_000, |seconds| seconds.parse::<u64>().unwrap() * 1000);
        identity.exp_ms = Some(exp_ms);
        identity.expires_at_ms = Some(exp_ms + leeway_ms);
    }
    identity
}

fn code(text: &str) -> ErrorCode {
    let code = ErrorCode::ALL.iter().find(|code| code.as_str() == text);
    *code.unwrap_or_else(|| panic!("no code {text}"))
}

fn step(drive: &mut Drive, head: &str, rest: &str, at: &str, got: &mut String) {
    match head {
        ">>" => other_frame(drive, rest, at),
        "+" => shard_says(drive, rest, at),
        "?" => {
            let wants = drive.session.wants_input();
            assert_eq!(wants, rest == "listens", "{at}: takes frames: {wants}");
        }
        _ if head.starts_with('>') => {
            let times = head.strip_prefix(">*").map_or(1, |times| times.parse().unwrap());
            for n in 1..=times {
                assert!(
                    drive.session.wants_input() || drive.session.is_closed(),
                    "{at}: the session takes no frames"
                );
                drive.input(Input::Frame(wire::Message::Text(&rest.replace("$n", &n.to_string()))));
            }
        }
        _ if head.starts_with('@') => {
            let (timer, ms) = head.split_once('+').unwrap();
            let ms: u64 = match ms.strip_suffix("ms") {
                Some(ms) => ms.parse().unwrap(),
                None => ms.strip_suffix('s').unwrap().parse::<u64>().unwrap() * 1000,
            };
            if timer == "@late" {
                drive.now = drive.now.after_ms(ms);
            } else {
                drive.pass(ms);
            }
        }
        other => panic!("{at}: {other}; so far:\n{got}"),
    }
}

fn other_frame(drive: &mut Drive, rest: &str, at: &str) {
    let (kind, payload) = rest.split_once(' ').unwrap_or((rest, ""));
    let (kind, times) = kind
        .split_once('*')
        .map_or((kind, 1), |(kind, times)| (kind, times.parse().unwrap()));
    for _ in 0..times {
        drive.input(match kind {
            "ping" => Input::Frame(wire::Message::Ping(payload.as_bytes())),
            "pong" => Input::Frame(wire::Message::Pong(payload.as_bytes())),
            "binary" => Input::Frame(wire::Message::Binary(payload.as_bytes())),
            "close" if payload.is_empty() => Input::Frame(wire::Message::Close(None)),
            "close" => {
                let (code, reason) = payload.split_once(' ').unwrap_or((payload, ""));
                Input::Frame(wire::Message::Close(Some((code.parse().unwrap(), reason))))
            }
            "protocol" => Input::Malformed(wire::Error::Protocol("a rule")),
            "invalid_utf8" => Input::Malformed(wire::Error::InvalidUtf8),
            "too_big" => Input::Malformed(wire::Error::TooBig),
            "lost" => Input::Lost,
            other => panic!("{at}: {other}"),
        });
    }
}

fn shard_says(drive: &mut Drive, rest: &str, at: &str) {
    let words: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    match words[0] {
        "verified" => drive.answer_verify(),
        "subscribed" => {
            drive.outcome = outcome::read(&words[1..]);
            drive.answer_subscribe();
        }
        "taken_back" => drive.answer_take_back(outcome::suspended(&words[1..])),
        "overloaded" => drive.answer_overloaded(u32::try_from(number(1)).unwrap()),
        "subscribe_refused" => drive.refuse_subscribe(),
        "unavailable" => drive.refuse_publish(Refusal::Unavailable),
        "unknown" => drive.refuse_publish(Refusal::Unknown),
        "history" => {
            let events = words[2..].iter().map(|text| text.to_string().into());
            drive.answer_history(HistoryPage {
                epoch: epoch(),
                events: events.collect(),
                complete: words[1] != "gap",
                offset: Some(57),
                more: words[1] == "more",
            });
        }
        "published" => drive.answer_publish(words.get(1).map(|_| number(1))),
        "event" => drive.publish_by_others(words[1], words[2], &words[3..].join(" ")),
        "challenge" => drive.input(Input::Challenge),
        "polled" => drive.session.polled(drive.now),
        "delivered" => drive.delivered = number(1),
        "cursor" => {
            drive.cursor = words.get(1).map(|version| Cursor {
                epoch: epoch(),
                holder: 0,
                version: version.parse().unwrap(),
                owes_values: words.get(2) == Some(&"owes_values"),
            });
        }
        "dropped" => drive.dropped = number(1),
        "going_away" => drive.input(Input::GoingAway {
            close_in_ms: number(1),
            reconnect_after_ms: number(2),
        }),
        "end" => {
            let ending = Disconnect::ALL.iter().find(|ending| ending.label() == words[1]);
            drive.input(Input::End(*ending.unwrap_or_else(|| panic!("{at}: {rest}"))));
        }
        "respond" => {
            let id = match words[1].strip_prefix("ack:").map(|number| number.split_once(':')) {
                Some(Some((number, id))) => acknowledgement(number, Some(id)),
                Some(None) => acknowledgement(&words[1][4..], None),
                None => words[1]
                    .parse()
                    .map_or_else(|_| RequestId::Text(words[1].into()), RequestId::Number),
            };
            let outcome = match words[2] {
                "success" => CommandOutcome::Success {
                    data: words[3..].join(" ").into(),
                },
                "failure" => CommandOutcome::Failure {
                    error: words[3..].join(" ").into(),
                },
                "refused" => CommandOutcome::Refused {
                    code: code(words[3]),
                    message: words[4..].join(" ").into(),
                },
                other => panic!("{at}: {other}"),
            };
            drive.answer_command(&id, outcome);
        }
        other => panic!("{at}: {other}"),
    }
}

fn acknowledgement(number: &str, id: Option<&str>) -> RequestId {
    RequestId::Acknowledgement {
        number: number.parse().unwrap(),
        id: id.map(Into::into),
    }
}

// Equal lines in a row become one line.
fn write_all(seen: &[Seen], got: &mut String) {
    for run in seen.chunk_by(|a, b| a == b) {
        let line = line(&run[0]);
        match (line.split_once(' '), run.len()) {
            (Some((head, rest)), 2..) => writeln!(got, "{head}*{} {rest}", run.len()).unwrap(),
            _ => writeln!(got, "{line}").unwrap(),
        }
    }
}

fn line(seen: &Seen) -> String {
    let bytes = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let names = |patterns: &[Pattern]| patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(" ");
    let line = match seen {
        Seen::Text(text) => format!("< {}", relative(text)),
        Seen::Binary(payload) => format!("<< binary {}", bytes(payload)),
        Seen::Ping(payload) => format!("<< ping {}", bytes(payload)),
        Seen::Pong(payload) => format!("<< pong {}", bytes(payload)),
        Seen::CloseFrame(None) => "<< close".to_owned(),
        Seen::CloseFrame(Some((code, reason))) => format!("<< close {code} {reason}"),
        Seen::Verify(token) => format!("= verify {token}"),
        Seen::Subscribe(patterns, None, rate) => format!("= subscribe {}{}", names(patterns), at_rate(*rate)),
        Seen::Subscribe(
            patterns,
            Some(Resume::Cursor {
                cursor,
                newest: _,
                seen,
            }),
            _,
        ) => {
            format!("= subscribe {}{}", names(patterns), outcome::cursor(*cursor, seen))
        }
        Seen::Subscribe(patterns, Some(Resume::Keys(Recover(keys))), _) => {
            let keys = keys.iter().map(|(channel, reached)| {
                let epoch = reached.epoch.map_or("?".to_owned(), |epoch| epoch.to_string());
                format!(" {channel}={epoch}/{}", reached.offset)
            });
            format!("= subscribe {} recover{}", names(patterns), keys.collect::<String>())
        }
        Seen::SetRate(patterns, None) => format!("= set_rate {} unlimited", names(patterns)),
        Seen::SetRate(patterns, rate) => format!("= set_rate {}{}", names(patterns), at_rate(*rate)),
        Seen::LimitBytes(per_second) => format!("= limit_bytes {per_second}"),
        Seen::History(request) => format!("= history {request}"),
        Seen::Skipped(patterns) => format!("= skip {}", names(patterns)),
        Seen::TakeBack(what) => format!("= take_back {what}"),
        Seen::Suspend(what) => format!("= suspend {what}"),
        Seen::Unsubscribe(patterns) => format!("= unsubscribe {}", names(patterns)),
        Seen::Publish(event) => format!("= publish {event}"),
        Seen::Command(command) => format!("= command {command}"),
        Seen::Forbidden(command) => format!("= forbidden {command}"),
        Seen::Challenged(has_answered) => {
            format!("= challenged {}", if *has_answered { "answered" } else { "silent" })
        }
        Seen::Close(ending) => format!("! close {}", ending.label()),
    };
    line.trim_end().to_owned()
}

// Replaces times by their distance from the start. Every integer within a day after the start counts as a time.
fn relative(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[start..]
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len() - start);
        let (before, from) = rest.split_at(start);
        let (number, after) = from.split_at(digits);
        out.push_str(before);
        match number.parse::<u64>() {
            Ok(ms) if (START.unix_ms..START.unix_ms + 86_400_000).contains(&ms) => {
                write!(out, "$t+{}", ms - START.unix_ms).unwrap();
            }
            _ => out.push_str(number),
        }
        rest = after;
    }
    out + rest
}
