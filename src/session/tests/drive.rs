//! One session on virtual time. Its requests are kept until the test answers them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::{Identity, Mode, Permissions, TokenError};
use crate::event::{Event, NewEvent, PublishOptions, Refusal};
use crate::session::limits::Limits;
use crate::session::{
    CommandOutcome, Context, HistoryPage, Input, Opening, Output, Outputs, Session, Settings, Suspended, Token,
};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::dialect::{Dialect, encode_event};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::{
    Beyond, Cursor, ErrorCode, Position, RequestId, RequestRef, Resume, SubscribeOutcome,
};
use tickgate_protocol::rate::Rate;

/// When every test begins: 2023-12-29T08:00:00Z, some time after the start of the machine.
pub(super) const START: Now = Now {
    mono_ms: 5_000_000,
    unix_ms: 1_703_836_800_000,
};

/// The connection's name becomes `client_0000000000004e1f`, and its first heartbeat is due after 20 s.
pub(super) const NONCE: u64 = 0x4e1f;

/// The epoch of the store in every test.
pub(super) fn epoch() -> Epoch {
    Epoch(0xe9)
}

pub(super) fn permissions(channels: &str, commands: &str, publish: &str) -> Arc<Permissions> {
    let patterns = |list: &str| -> Vec<Pattern> {
        let names = list.split(',').filter(|name| !name.is_empty());
        names.map(|name| Pattern::parse(name).unwrap()).collect()
    };
    Arc::new(Permissions {
        admin: false,
        gateway: false,
        channels: patterns(channels),
        commands: patterns(commands),
        publish: patterns(publish),
        max_rate: None,
        bytes_per_second: None,
    })
}

pub(super) fn settings() -> Settings {
    Settings {
        dialect: Dialect::Native,
        limits: Limits::default(),
        auth_mode: Mode::Required,
        anonymous: Arc::new(Identity::anonymous(permissions("market.*", "", ""))),
        auto_subscribe: Box::default(),
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tenant_name: None,
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        refused_values: std::sync::Arc::default(),
        classes: std::sync::Arc::default(),
        heartbeat_timeout_ms: 60_000,
    }
}

/// A user whose token expires in an hour.
pub(super) fn user(name: &str, permissions: Arc<Permissions>) -> Identity {
    Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some(name.into()),
        role: Some("trader".into()),
        permissions,
        expires_at_ms: Some(START.unix_ms + 3_605_000),
        exp_ms: Some(START.unix_ms + 3_600_000),
        token_id: None,
        issued_at_ms: None,
    }
}

/// The result of verifying a token, by its text.
pub(super) type Tokens = HashMap<String, Result<Arc<Identity>, TokenError>>;

pub(super) struct Drive {
    pub(super) session: Session,
    pub(super) settings: Settings,
    pub(super) tokens: Tokens,
    pub(super) resumed_ms: u64,
    pub(super) now: Now,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) cursor: Option<Cursor>,
    pub(super) verify: Option<(u32, String)>,
    pub(super) subscribe: Option<(u32, Vec<Pattern>)>,
    pub(super) take_back: Option<u32>,
    /// What the session has left to be taken back.
    pub(super) suspended: Option<Suspended>,
    /// The outcome of the next subscribe request.
    pub(super) outcome: SubscribeOutcome,
    pub(super) history: Option<RequestRef>,
    pub(super) publish: Option<u32>,
    pub(super) commands: Vec<(u32, RequestId)>,
    /// The outputs that the test has not looked at yet.
    pub(super) seen: Vec<Seen>,
    scratch: Scratch,
    outputs: Outputs,
}

/// One output in a form that is easy to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    CloseFrame(Option<(u16, String)>),
    Verify(String),
    Subscribe(Vec<Pattern>, Option<Resume>, Option<Rate>),
    SetRate(Vec<Pattern>, Option<Rate>),
    LimitBytes(u32),
    History(String),
    Skipped(Vec<Pattern>),
    TakeBack(String),
    Suspend(String),
    Unsubscribe(Vec<Pattern>),
    Publish(String),
    Command(String),
    Forbidden(String),
    Challenged(bool),
    Close(Disconnect),
}

impl Drive {
    /// An Engine.IO session.
    pub(super) fn engine_io(settings: Settings, tokens: Tokens, opening: Opening) -> Self {
        let session = Session::engine_io(NONCE, opening, START, &settings);
        Self::of(session, settings, tokens)
    }

    pub(super) fn new(settings: Settings, tokens: Tokens, handshake: Option<&str>) -> Self {
        let identity = match handshake {
            None => Ok(None),
            Some(token) => verdict(&tokens, token).map(Some),
        };
        let session = Session::new(NONCE, identity, START, &settings);
        Self::of(session, settings, tokens)
    }

    fn of(session: Session, settings: Settings, tokens: Tokens) -> Self {
        let mut drive = Self {
            session,
            settings,
            tokens,
            now: START,
            resumed_ms: 0,
            delivered: 0,
            dropped: 0,
            cursor: None,
            verify: None,
            subscribe: None,
            take_back: None,
            suspended: None,
            outcome: SubscribeOutcome::default(),
            history: None,
            publish: None,
            commands: Vec::new(),
            seen: Vec::new(),
            scratch: Scratch::default(),
            outputs: Outputs::default(),
        };
        drive.input(Input::Opened);
        drive
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        let context = Context {
            resumed_ms: self.resumed_ms,
            now: self.now,
            settings: &self.settings,
            delivered: self.delivered,
            dropped: self.dropped,
            cursor: self.cursor,
            beyond: Beyond::default(),
        };
        self.outputs.clear();
        self.session
            .handle(input, &context, &mut self.scratch, &mut self.outputs);
        for output in std::mem::take(&mut self.outputs.list) {
            self.take(output);
        }
    }

    /// Lets time pass and fires the timer when it is due.
    pub(super) fn pass(&mut self, ms: u64) {
        let end_ms = self.now.mono_ms + ms;
        while !self.session.is_closed() && self.session.next_deadline_ms() <= end_ms {
            let deadline_ms = self.session.next_deadline_ms();
            self.now = self.now.after_ms(deadline_ms.saturating_sub(self.now.mono_ms));
            self.input(Input::Timer);
            assert!(
                self.session.is_closed() || self.session.next_deadline_ms() > self.now.mono_ms,
                "the timer would fire again at once"
            );
        }
        self.now = self.now.after_ms(end_ms - self.now.mono_ms);
    }

    pub(super) fn answer_verify(&mut self) {
        let (request, token) = self.verify.take().expect("a verification is pending");
        let outcome = verdict(&self.tokens, &token);
        self.input(Input::Verified { request, outcome });
    }

    pub(super) fn answer_subscribe(&mut self) {
        let (request, patterns) = self.subscribe.take().expect("a subscribe is pending");
        let outcome = std::mem::take(&mut self.outcome);
        self.input(Input::Subscribed {
            request,
            patterns,
            outcome,
        });
    }

    pub(super) fn answer_overloaded(&mut self, retry_after_ms: u32) {
        let (request, _) = self.subscribe.take().expect("a subscribe is pending");
        self.input(Input::Overloaded {
            request,
            retry_after_ms,
        });
    }

    pub(super) fn refuse_subscribe(&mut self) {
        let (request, _) = self.subscribe.take().expect("a subscribe is pending");
        self.input(Input::SubscribeRefused { request });
    }

    /// Answers a session that takes back what another one had.
    pub(super) fn answer_take_back(&mut self, suspended: Option<Suspended>) {
        let request = self.take_back.take().expect("a session is taken back");
        let suspended = suspended.map(|suspended| (suspended, epoch()));
        self.input(Input::TakenBack { request, suspended });
    }

    pub(super) fn refuse_publish(&mut self, refusal: Refusal) {
        let request = self.publish.take().expect("a publish is pending");
        self.input(Input::PublishRefused { request, refusal });
    }

    pub(super) fn answer_publish(&mut self, offset: Option<u64>) {
        let request = self.publish.take().expect("a publish is pending");
        let position = offset.map(|offset| Position { epoch: epoch(), offset });
        self.input(Input::Published { request, position });
    }

    pub(super) fn answer_history(&mut self, page: HistoryPage) {
        let request_ref = self.history.take().expect("a history request is pending");
        self.input(Input::History { request_ref, page });
    }

    pub(super) fn answer_command(&mut self, id: &RequestId, outcome: CommandOutcome) {
        let index = self.commands.iter().position(|(_, pending)| pending == id);
        let (request, _) = self.commands.remove(index.expect("such a command is pending"));
        self.input(Input::Responded { request, outcome });
    }

    /// Delivers an event as the shard does: encoded once, and only if the session holds a matching pattern.
    pub(super) fn publish_by_others(&mut self, channel: &str, name: &str, data: &str) {
        let encoding = self.settings.dialect.encoding().expect("a dialect with events");
        if !self
            .session
            .patterns()
            .iter()
            .any(|pattern| pattern.matches_name(channel))
        {
            return;
        }
        let new = NewEvent {
            channel: Channel::parse(channel).unwrap(),
            name: name.into(),
            data: data.to_owned().into(),
            timestamp_ms: self.now.unix_ms,
            options: PublishOptions::default(),
        };
        self.seen
            .push(frame(&encode_event(encoding, &Event::new(new, None).view())));
    }

    fn take(&mut self, output: Output) {
        let seen = match output {
            Output::Reply { start, end } => frame(&self.outputs.bytes[start..end]),
            Output::Verify {
                request,
                token: Token(token),
            } => {
                assert!(self.verify.replace((request, token.to_string())).is_none());
                Seen::Verify(token.into())
            }
            Output::Subscribe {
                request,
                patterns,
                resume,
                max_rate,
                is_automatic: _,
            } => {
                assert!(self.subscribe.replace((request, patterns.clone())).is_none());
                Seen::Subscribe(patterns, resume, max_rate)
            }
            Output::SetRate { patterns, max_rate } => Seen::SetRate(patterns, max_rate),
            Output::LimitBytes { per_second } => Seen::LimitBytes(per_second),
            Output::History {
                request_ref,
                channel,
                range,
            } => {
                self.history = Some(request_ref);
                let epoch = range
                    .epoch
                    .map(|epoch| epoch.map_or("?".to_owned(), |epoch| epoch.to_string()));
                let since = range.since.map(|since| since.to_string());
                let part = |name, part: Option<String>| part.map_or(String::new(), |part| format!(" {name} {part}"));
                let (since, epoch) = (part("since", since), part("epoch", epoch));
                Seen::History(format!("{channel}{since}{epoch} limit {}", range.limit))
            }
            Output::Skipped { patterns } => Seen::Skipped(patterns),
            Output::TakeBack { request, pid, user } => {
                self.take_back = Some(request);
                Seen::TakeBack(format!("{pid} for {}", user.as_deref().unwrap_or("-")))
            }
            Output::Suspend { pid, suspended } => {
                let patterns = suspended.patterns.iter().map(|(pattern, _)| pattern.as_str());
                let seen = format!("{pid} {}", patterns.collect::<Vec<_>>().join(" "));
                self.suspended = Some(suspended);
                Seen::Suspend(seen)
            }
            Output::Unsubscribe { patterns } => Seen::Unsubscribe(patterns),
            Output::Publish { request, event } => {
                assert!(self.publish.replace(request).is_none());
                let data = String::from_utf8(event.data.to_vec()).unwrap();
                assert_eq!(event.timestamp_ms, self.now.unix_ms);
                Seen::Publish(format!("{} {} {data}", event.channel, event.name))
            }
            Output::Command { request, command } => {
                let params = String::from_utf8(command.params.to_vec()).unwrap();
                let user = command.identity.user.as_deref().unwrap_or("-").to_owned();
                let key = command.key.map_or(String::new(), |key| format!(" key {key}"));
                let trace = command.trace.map_or(String::new(), |trace| format!(" trace {trace}"));
                let seen = format!("{:?} {} {params} for {user}{key}{trace}", command.id, command.action);
                self.commands.push((request, command.id));
                Seen::Command(seen)
            }
            Output::CommandStatus { request, identity, key } => {
                let user = identity.user.as_deref().unwrap_or("-").to_owned();
                let mut in_flight = self.session.activity.iter().flat_map(|activity| &activity.commands);
                let (_, id) = in_flight
                    .find(|(number, _)| *number == request)
                    .expect("in flight")
                    .clone();
                let seen = format!("{id:?} status of {key} for {user}");
                self.commands.push((request, id));
                Seen::Command(seen)
            }
            Output::Forbidden { command } => {
                let user = command.identity.user.as_deref().unwrap_or("-");
                Seen::Forbidden(format!("{:?} {} for {user}", command.id, command.action))
            }
            Output::Challenged { has_answered } => Seen::Challenged(has_answered),
            Output::Close(ending) => Seen::Close(ending),
        };
        assert!(
            !matches!(self.seen.last(), Some(Seen::Close(_))),
            "an output after the end: {seen:?}"
        );
        self.seen.push(seen);
    }
}

fn verdict(tokens: &Tokens, token: &str) -> Result<Arc<Identity>, TokenError> {
    let unknown = || {
        Err(TokenError {
            code: ErrorCode::TokenInvalid,
            message: "bad signature".into(),
        })
    };
    tokens.get(token).cloned().unwrap_or_else(unknown)
}

// Reads one whole unmasked frame according to RFC 6455, section 5.2, without the code that wrote it.
fn frame(bytes: &[u8]) -> Seen {
    let length_code = bytes[1];
    let (header, length) = match length_code {
        0..=125 => (2, usize::from(length_code)),
        126 => (4, usize::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap()))),
        _ => (
            10,
            usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap(),
        ),
    };
    let payload = &bytes[header..];
    assert_eq!(payload.len(), length, "one whole frame, not masked");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match bytes[0] {
        0x81 => Seen::Text(text(payload)),
        0x82 => Seen::Binary(payload.to_vec()),
        0x88 if payload.is_empty() => Seen::CloseFrame(None),
        0x88 => Seen::CloseFrame(Some((
            u16::from_be_bytes([payload[0], payload[1]]),
            text(&payload[2..]),
        ))),
        0x89 => Seen::Ping(payload.to_vec()),
        0x8a => Seen::Pong(payload.to_vec()),
        other => panic!("unexpected first byte {other:#x}"),
    }
}
