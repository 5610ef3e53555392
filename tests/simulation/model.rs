//! Decides which events one client is owed, from what was sent and received, and when.
//!
//! Time is a position in the log, the list of all events in the order of publishing. A request takes effect between two
//! positions: the log's length when its last byte was passed in (`fed`), and its length when the shard had surely
//! processed all input (`done`). They are mostly equal. An event between them may arrive or not; outside them it must
//! arrive, or must not.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};
use tickgate_protocol::channel::Pattern;

use crate::wire::Received;

/// Every published event, in order, identified by `data.id`.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) channels: Vec<String>,
    by_id: HashMap<String, usize>,
}

impl Log {
    pub(crate) fn push(&mut self, channel: &str, data: &[u8]) {
        let data: Value = serde_json::from_slice(data).expect("the world publishes JSON");
        let id = data["id"].as_str().expect("the world gives ids").to_owned();
        self.by_id.insert(id, self.channels.len());
        self.channels.push(channel.to_owned());
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }
}

/// The kind of request, as far as it matters to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Subscribe(Vec<Pattern>),
    Unsubscribe(Vec<Pattern>),
    Auth { admin: bool },
    Other(&'static str),
}

#[derive(Clone, Debug)]
struct Request {
    ask: Ask,
    fed: usize,
    done: Option<usize>,
    // The log position up to which the shard had surely taken all events when the request was passed in.
    popped: usize,
    answers: u32,
}

/// The log positions between which a pattern was held.
struct Span {
    pattern: Pattern,
    from_may: usize,
    from_must: usize,
    to: Option<SpanEnd>,
}

#[derive(Clone, Copy)]
struct SpanEnd {
    must: usize,
    may: usize,
}

#[derive(Default)]
pub(crate) struct Model {
    // In the order of being passed in.
    requests: Vec<(String, Request)>,
    held: Vec<Pattern>,
    spans: Vec<Span>,
    received: BTreeSet<usize>,
    last: HashMap<String, usize>,
    // Events before this position were checked for losses.
    checked: usize,
    missing: HashSet<usize>,
    reported: u64,
    reported_channels: HashSet<String>,
    last_auth: Option<(usize, usize)>,
    /// Whether events of admin-only channels may arrive, and whether they must.
    pub(crate) may_admin: bool,
    pub(crate) must_admin: bool,
    pub(crate) closed: Option<Option<u16>>,
    reported_in_order: bool,
}

fn is_admin_only(channel: &str) -> bool {
    channel.starts_with("system.gateway.")
}

impl Model {
    /// Creates a model. With `reported_in_order`, a loss must be reported before any later event arrives. That is not
    /// promised to a client whose replies have reached their limit.
    pub(crate) fn new(reported_in_order: bool) -> Self {
        Self {
            reported_in_order,
            ..Self::default()
        }
    }

    /// The last byte of a request is passed in.
    pub(crate) fn fed(&mut self, id: &str, ask: Ask, log: usize, popped: usize) {
        if matches!(ask, Ask::Auth { admin: true }) {
            self.may_admin = true;
        }
        if matches!(ask, Ask::Auth { admin: false }) {
            self.must_admin = false;
        }
        let request = Request {
            ask,
            fed: log,
            done: None,
            popped,
            answers: 0,
        };
        self.requests.push((id.to_owned(), request));
    }

    /// Everything passed in so far has taken effect.
    pub(crate) fn done(&mut self, log: usize) {
        let open = self
            .requests
            .iter_mut()
            .rev()
            .take_while(|(_, request)| request.done.is_none());
        open.for_each(|(_, request)| request.done = Some(log));
    }

    pub(crate) fn unanswered(&self) -> Vec<&str> {
        let open = self.requests.iter().filter(|(_, request)| request.answers == 0);
        open.map(|(id, _)| id.as_str()).collect()
    }

    /// Takes one frame of the server.
    pub(crate) fn frame(&mut self, frame: &Received, log: &Log) -> Result<(), String> {
        if self.closed.is_some() {
            return Err(format!("after the Close frame: {frame:?}"));
        }
        match frame {
            Received::Ping | Received::Pong => Ok(()),
            Received::Close(code) => {
                self.closed = Some(*code);
                Ok(())
            }
            Received::Text(message) => self
                .message(message, log)
                .map_err(|wrong| format!("{wrong}: {message}")),
        }
    }

    fn message(&mut self, message: &Value, log: &Log) -> Result<(), String> {
        match message["type"].as_str() {
            Some("event") => self.event(message, log),
            Some("dropped") => {
                self.reported += message["data"]["count"].as_u64().ok_or("no count")?;
                let names = message["data"]["channels"].as_array().ok_or("no channels")?;
                self.reported_channels
                    .extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                Ok(())
            }
            Some("unsubscribed") if message["data"]["reason"] == "permission" || message["reason"] == "permission" => {
                let (popped, done) = self.last_auth.ok_or("permission lost without an auth")?;
                let lost = patterns(message)?;
                self.end_spans(
                    &lost,
                    SpanEnd {
                        must: popped,
                        may: done,
                    },
                );
                Ok(())
            }
            // An `error` without id is `RATE_LIMITED`, which answers several requests. An `auth_result` without id
            // refuses the token of the handshake.
            Some("ping" | "auth_expiring" | "going_away" | "error" | "auth_result") if message["id"].is_null() => {
                Ok(())
            }
            Some(answer) => self.answer(answer, message, log),
            None => Err("no type".into()),
        }
    }

    fn answer(&mut self, answer: &str, message: &Value, log: &Log) -> Result<(), String> {
        let id = message["id"].as_str().ok_or("an answer without id")?;
        let known = self.requests.iter_mut().find(|(known, _)| known == id);
        let (_, request) = known.ok_or("an answer to an unknown request")?;
        request.answers += 1;
        if request.answers > 1 {
            return Err("a second answer".into());
        }
        let request = request.clone();
        // If the request is not done, the shard is processing it now.
        let done = request.done.unwrap_or(log.len());
        match (&request.ask, answer) {
            (_, "error") => Ok(()),
            (Ask::Subscribe(asked), "subscribed") => {
                let new: Vec<_> = asked
                    .iter()
                    .filter(|pattern| !self.held.contains(pattern))
                    .cloned()
                    .collect();
                for pattern in new {
                    if !self.held.contains(&pattern) {
                        self.held.push(pattern.clone());
                        self.spans.push(Span {
                            pattern,
                            from_may: request.fed,
                            from_must: done,
                            to: None,
                        });
                    }
                }
                self.check_count(message)
            }
            (Ask::Unsubscribe(asked), "unsubscribed") => {
                let end = SpanEnd {
                    must: request.popped,
                    may: done,
                };
                self.end_spans(asked, end);
                self.check_count(message)
            }
            (Ask::Auth { .. }, "auth_result") => {
                self.last_auth = Some((request.popped, done));
                Ok(())
            }
            (Ask::Other(expected), got) if *expected == got => Ok(()),
            (ask, _) => Err(format!("not an answer to {ask:?}")),
        }
    }

    fn check_count(&self, message: &Value) -> Result<(), String> {
        let count = message["data"]["active_subscriptions"].as_u64();
        if count == Some(self.held.len() as u64) {
            return Ok(());
        }
        Err(format!("counts {count:?} subscriptions, not {}", self.held.len()))
    }

    fn end_spans(&mut self, ended: &[Pattern], end: SpanEnd) {
        self.held.retain(|held| !ended.contains(held));
        for span in &mut self.spans {
            if span.to.is_none() && ended.contains(&span.pattern) {
                span.to = Some(end);
            }
        }
    }

    fn event(&mut self, message: &Value, log: &Log) -> Result<(), String> {
        let id = message["data"]["id"].as_str().ok_or("an event without id")?;
        let number = *log.by_id.get(id).ok_or("an event that was never published")?;
        let channel = &log.channels[number];
        if message["channel"] != channel.as_str() {
            return Err("a channel other than the published one".into());
        }
        if !self.held.iter().any(|held| held.matches_name(channel)) {
            return Err(format!("event {number} matches no held pattern {:?}", self.held));
        }
        if is_admin_only(channel) && !self.may_admin {
            return Err("an event for admins only".into());
        }
        let last = self.last.insert(channel.clone(), number);
        if last.is_some_and(|last| last >= number) {
            return Err(format!("event {number} after {last:?}"));
        }
        let covers = |span: &Span| span.from_may <= number && span.to.is_none_or(|to| number < to.may);
        if !self
            .spans
            .iter()
            .any(|span| span.pattern.matches_name(channel) && covers(span))
        {
            return Err(format!("event {number} was published before the subscription"));
        }
        self.received.insert(number);
        self.find_losses(number, log);
        if self.reported_in_order {
            self.check_reported()?;
        }
        Ok(())
    }

    fn find_losses(&mut self, before: usize, log: &Log) {
        for number in self.checked..before {
            if self.is_owed(number, &log.channels[number]) && !self.received.contains(&number) {
                self.missing.insert(number);
            }
        }
        self.checked = self.checked.max(before);
    }

    fn is_owed(&self, number: usize, channel: &str) -> bool {
        let covers = |span: &Span| span.from_must <= number && span.to.is_none_or(|to| number < to.must);
        (self.must_admin || !is_admin_only(channel))
            && self
                .spans
                .iter()
                .any(|span| span.pattern.matches_name(channel) && covers(span))
    }

    fn is_allowed(&self, number: usize, channel: &str) -> bool {
        let covers = |span: &Span| span.from_may <= number && span.to.is_none_or(|to| number < to.may);
        self.spans
            .iter()
            .any(|span| span.pattern.matches_name(channel) && covers(span))
    }

    fn check_reported(&self) -> Result<(), String> {
        if self.missing.len() as u64 > self.reported {
            return Err(format!(
                "events {:?} are missing and {} were reported",
                self.missing, self.reported
            ));
        }
        Ok(())
    }

    /// Checks the end of a connection that has received everything, and was open for events up to `popped`.
    pub(crate) fn check_end(&mut self, popped: usize, log: &Log) -> Result<(), String> {
        self.find_losses(popped, log);
        self.check_reported()?;
        let lost = (0..log.len()).filter(|n| self.is_allowed(*n, &log.channels[*n]) && !self.received.contains(n));
        let lost = lost.count() as u64;
        if self.reported > lost {
            return Err(format!(
                "{} losses were reported, at most {lost} happened",
                self.reported
            ));
        }
        // A `dropped` message names at most 32 channels, and the simulation has fewer.
        let named = |number: &&usize| self.reported_channels.contains(&log.channels[**number]);
        match self.missing.iter().find(|number| !named(number)) {
            Some(number) => Err(format!("the loss of event {number} was reported without its channel")),
            None => Ok(()),
        }
    }

    pub(crate) fn received(&self) -> usize {
        self.received.len()
    }
}

/// State that planted faults need to look plausible.
impl Model {
    pub(crate) fn is_unsubscribe(&self, id: &str) -> bool {
        let is_it = |(known, request): &(String, Request)| known == id && matches!(request.ask, Ask::Unsubscribe(_));
        self.requests.iter().any(is_it)
    }

    /// The number of patterns that remain without those of the message.
    pub(crate) fn held_without(&self, message: &Value) -> usize {
        let named = patterns(message).unwrap_or_default();
        self.held.iter().filter(|held| !named.contains(held)).count()
    }

    /// An event from before a subscription, as a join without an inbox position would deliver it.
    pub(crate) fn event_before(&self, subscribed: &Value, log: &Log) -> Option<Value> {
        let joined = patterns(subscribed).ok()?;
        let matches = |channel: &str| joined.iter().any(|pattern| pattern.matches_name(channel));
        let (id, number) = (log.by_id.iter())
            .filter(|(_, number)| matches(&log.channels[**number]) && !is_admin_only(&log.channels[**number]))
            .max_by_key(|(_, number)| **number)?;
        let channel = log.channels[*number].as_str();
        let is_new = self.last.get(channel).is_none_or(|last| last < number);
        is_new.then(|| json!({"type": "event", "channel": channel, "data": {"id": id}}))
    }
}

fn patterns(message: &Value) -> Result<Vec<Pattern>, String> {
    let names = message["data"]["channels"].as_array().ok_or("no channels")?;
    let parse = |name: &Value| name.as_str().and_then(|name| Pattern::parse(name).ok());
    names
        .iter()
        .map(|name| parse(name).ok_or_else(|| "no pattern".to_owned()))
        .collect()
}
