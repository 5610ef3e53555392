//! What one client is owed, from what went over the wire and when.
//!
//! Time is the log: the list of all events in the order of publishing. A request takes effect somewhere between the
//! log's length when its last byte went in (`fed`) and its length when the shard was seen to have done all it was
//! given (`done`), mostly the same number. Between them an event may or may not come; outside them it must or must not.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};
use tickgate_protocol::channel::Pattern;

use crate::wire::Received;

/// Every event published, in order; `data.id` names it.
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

/// What a request asks for, as far as the model cares.
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
    // What had been popped for sure when it was fed.
    popped: usize,
    answers: u32,
}

/// For how long a pattern was held, in log positions.
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
    // In order of feeding.
    requests: Vec<(String, Request)>,
    held: Vec<Pattern>,
    spans: Vec<Span>,
    received: BTreeSet<usize>,
    last: HashMap<String, usize>,
    // Events before this one were looked at for losses.
    checked: usize,
    missing: HashSet<usize>,
    told: u64,
    told_channels: HashSet<String>,
    last_auth: Option<(usize, usize)>,
    /// Whether admin-only channels may come, and whether they must.
    pub(crate) may_admin: bool,
    pub(crate) must_admin: bool,
    pub(crate) closed: Option<Option<u16>>,
    told_in_place: bool,
}

fn is_admin_only(channel: &str) -> bool {
    channel.starts_with("system.gateway.")
}

impl Model {
    /// With `told_in_place`, losses must be told before anything later arrives (which is not promised to a client
    /// whose replies are at their bound).
    pub(crate) fn new(told_in_place: bool) -> Self {
        Self {
            told_in_place,
            ..Self::default()
        }
    }

    /// A request's last byte goes in.
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

    /// Everything fed so far has taken effect.
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
                self.told += message["data"]["count"].as_u64().ok_or("no count")?;
                let names = message["data"]["channels"].as_array().ok_or("no channels")?;
                self.told_channels
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
            // Of errors: `RATE_LIMITED`, which stands for several requests. Of the others: a refused handshake token.
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
        let (_, request) = known.ok_or("an answer to nothing")?;
        request.answers += 1;
        if request.answers > 1 {
            return Err("a second answer".into());
        }
        let request = request.clone();
        // Not done yet means that the shard is in the middle of it: then now.
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
            (ask, _) => Err(format!("no answer to {ask:?}")),
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
        let number = *log.by_id.get(id).ok_or("an event that nobody published")?;
        let channel = &log.channels[number];
        if message["channel"] != channel.as_str() {
            return Err("another channel than published".into());
        }
        if !self.held.iter().any(|held| held.matches(channel)) {
            return Err(format!("event {number} matches nothing held {:?}", self.held));
        }
        if is_admin_only(channel) && !self.may_admin {
            return Err("for admins only".into());
        }
        let last = self.last.insert(channel.clone(), number);
        if last.is_some_and(|last| last >= number) {
            return Err(format!("event {number} after {last:?}"));
        }
        let covers = |span: &Span| span.from_may <= number && span.to.is_none_or(|to| number < to.may);
        if !self
            .spans
            .iter()
            .any(|span| span.pattern.matches(channel) && covers(span))
        {
            return Err(format!("event {number} was published before the subscription"));
        }
        self.received.insert(number);
        self.look_for_losses(number, log);
        if self.told_in_place {
            self.check_told()?;
        }
        Ok(())
    }

    fn look_for_losses(&mut self, before: usize, log: &Log) {
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
                .any(|span| span.pattern.matches(channel) && covers(span))
    }

    fn is_allowed(&self, number: usize, channel: &str) -> bool {
        let covers = |span: &Span| span.from_may <= number && span.to.is_none_or(|to| number < to.may);
        self.spans
            .iter()
            .any(|span| span.pattern.matches(channel) && covers(span))
    }

    fn check_told(&self) -> Result<(), String> {
        if self.missing.len() as u64 > self.told {
            return Err(format!(
                "events {:?} are missing and {} were told",
                self.missing, self.told
            ));
        }
        Ok(())
    }

    /// The connection has got all it ever will, and was alive for events up to `popped`.
    pub(crate) fn check_end(&mut self, popped: usize, log: &Log) -> Result<(), String> {
        self.look_for_losses(popped, log);
        self.check_told()?;
        let lost = (0..log.len()).filter(|n| self.is_allowed(*n, &log.channels[*n]) && !self.received.contains(n));
        let lost = lost.count() as u64;
        if self.told > lost {
            return Err(format!("{} losses told, {lost} at most happened", self.told));
        }
        // A `dropped` message names up to 32 channels; there are fewer here.
        let named = |number: &&usize| self.told_channels.contains(&log.channels[**number]);
        match self.missing.iter().find(|number| !named(number)) {
            Some(number) => Err(format!("the loss of event {number} was told without its channel")),
            None => Ok(()),
        }
    }

    pub(crate) fn received(&self) -> usize {
        self.received.len()
    }
}

/// What planted faults need to look right.
impl Model {
    pub(crate) fn is_unsubscribe(&self, id: &str) -> bool {
        let is_it = |(known, request): &(String, Request)| known == id && matches!(request.ask, Ask::Unsubscribe(_));
        self.requests.iter().any(is_it)
    }

    /// How many patterns are held without those that the message names.
    pub(crate) fn held_without(&self, message: &Value) -> usize {
        let named = patterns(message).unwrap_or_default();
        self.held.iter().filter(|held| !named.contains(held)).count()
    }

    /// An event from before a subscription, as a join without position would deliver it.
    pub(crate) fn event_before(&self, subscribed: &Value, log: &Log) -> Option<Value> {
        let joined = patterns(subscribed).ok()?;
        let matches = |channel: &str| joined.iter().any(|pattern| pattern.matches(channel));
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
