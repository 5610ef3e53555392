//! One client: the state it holds of each channel, and its checks of every message.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tickgate::shard::mailbox::ConnectionId;
use tickgate::time::Now;
use tickgate_protocol::channel::Pattern;

mod returning;
mod watch;

pub(super) use watch::Watch;

use super::resume::{Resumes, Resumption};
use super::store::{CHANNELS, Kind, Store, deleted, numbers};
use crate::wire::{Reader, Received};

/// A request, with the state at the time it was sent.
enum Ask {
    Subscribe {
        patterns: Vec<Pattern>,
        // For each newly covered channel, the number of its events.
        began: BTreeMap<&'static str, usize>,
        // For each channel to recover, the offset to recover from, and whether recovery is possible.
        recover: Option<BTreeMap<&'static str, (u64, bool)>>,
        // Channels without a position that had events since the client last held them.
        missed: Vec<&'static str>,
        // The client returns with a cursor.
        resumes: Option<Resumes>,
        // The shard may need several passes, so the subscription may begin after it was requested.
        is_slow: bool,
    },
    Unsubscribe(Vec<Pattern>),
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) connection: Option<ConnectionId>,
    /// Bytes that its socket accepts now.
    pub(crate) writable_bytes: usize,
    pub(crate) reader: Reader,
    asks: BTreeMap<u64, Ask>,
    asked: u64,
    // The patterns it has requested, and the patterns the server has confirmed.
    wanted: Vec<Pattern>,
    held: Vec<Pattern>,
    watches: BTreeMap<&'static str, Watch>,
    reported: u64,
    reported_channels: BTreeSet<String>,
    pub(crate) closed: Option<u16>,
    /// Its position in each history, kept over all its connections: epoch and offset.
    positions: BTreeMap<String, (String, u64)>,
    // The same when the connection began.
    old_positions: BTreeMap<String, (String, u64)>,
    /// The number of events of each channel when its subscription was last confirmed, over this connection and the
    /// previous one.
    had: BTreeMap<&'static str, usize>,
    was_subscribed: bool,
    pub(super) resumption: Resumption,
}

impl Client {
    /// A client that returns with cursors, or with the positions of channels.
    pub(crate) fn new(uses_cursors: bool) -> Self {
        let mut client = Self::default();
        client.resumption.is_used = uses_cursors;
        client
    }

    /// Whether a message answers a request with a cursor.
    pub(crate) fn resumes(&self, answer: &Value) -> bool {
        let ask = answer["id"].as_u64().and_then(|id| self.asks.get(&id));
        matches!(ask, Some(Ask::Subscribe { resumes: Some(_), .. }))
    }

    /// Begins a new connection.
    pub(crate) fn connected(&mut self, connection: ConnectionId) {
        let positions = std::mem::take(&mut self.positions);
        let mut had = std::mem::take(&mut self.had);
        if self.was_subscribed {
            had.retain(|name, _| self.watches.contains_key(name));
        }
        let mut resumption = std::mem::take(&mut self.resumption);
        if self.was_subscribed {
            resumption.carry(&self.held, std::mem::take(&mut self.watches));
        }
        // What was reported before the break stays reported.
        let (reported, reported_channels) = match resumption.is_used {
            true => (self.reported, std::mem::take(&mut self.reported_channels)),
            false => Default::default(),
        };
        *self = Self {
            resumption,
            reported,
            reported_channels,
            had,
            connection: Some(connection),
            writable_bytes: usize::MAX,
            old_positions: positions.clone(),
            positions,
            ..Self::default()
        };
    }

    /// The store that its state belongs to is gone.
    pub(crate) fn lose_store(&mut self) {
        self.connection = None;
        self.had.clear();
        self.watches.clear();
        self.resumption.lose_store();
    }

    /// Whether the request that this message answers gave no position for a channel.
    pub(crate) fn gave_no_position(&self, answer: &Value, name: &str) -> bool {
        let ask = answer["id"].as_u64().and_then(|id| self.asks.get(&id));
        matches!(ask, Some(Ask::Subscribe { recover: Some(recover), .. }) if recover.get(name).is_none_or(|(offset, _)| *offset == 0))
    }

    pub(crate) fn wanted(&self) -> &[Pattern] {
        &self.wanted
    }

    /// A subscribe request, with positions to recover from if `recovers`. `inject_fault` may change those positions.
    pub(crate) fn subscribe(
        &mut self,
        patterns: Vec<Pattern>,
        recovers: bool,
        store: &Store,
        now: Now,
        mut inject_fault: impl FnMut(&mut (String, u64)),
    ) -> Value {
        let is_wanted = |name: &str| self.wanted.iter().any(|held| held.matches_name(name));
        let is_asked = |name: &str| patterns.iter().any(|pattern| pattern.matches_name(name));
        let new: Vec<_> = (CHANNELS.iter())
            .filter(|(name, _)| is_asked(name) && !is_wanted(name))
            .collect();
        let began = new
            .iter()
            .map(|(name, _)| (*name, store.truth.of(name).len()))
            .collect();
        let mut message = json!({"type": "subscribe"});
        let (mut recover, mut missed) = (None, Vec::new());
        if recovers {
            let (mut keys, mut expected) = (json!({}), BTreeMap::new());
            for (name, _) in new.iter().filter(|(_, kind)| kind.has_history()) {
                let Some(known) = self.positions.get(*name) else {
                    continue;
                };
                let mut known = known.clone();
                inject_fault(&mut known);
                let (epoch, offset) = known;
                let is_possible = epoch == store.epoch() && store.covers(name, offset, now) == Some(true);
                keys[*name] = json!({"epoch": epoch, "offset": offset});
                expected.insert(*name, (offset, is_possible));
            }
            // A position that grew on this connection says that what was evicted before is known. Nothing is promised of what
            // the client did not hold meanwhile.
            let is_old = |name: &String| self.positions.get(name) == self.old_positions.get(name);
            let all_old = keys.as_object().into_iter().flatten().all(|(name, _)| is_old(name));
            // A channel without a position is recovered from its beginning, if another position shows that the client
            // knew this store.
            let knows_store = (keys.as_object().into_iter().flatten()).any(|(_, key)| key["epoch"] == store.epoch());
            message["recover"] = keys;
            for (name, _) in new.iter().filter(|(_, kind)| kind.has_history()) {
                let count = store.truth.of(name).len();
                if all_old && !expected.contains_key(name) && self.had.get(name).is_some_and(|had| *had < count) {
                    missed.push(*name);
                }
                if !expected.contains_key(name) && count > 0 {
                    let is_possible = knows_store && store.covers(name, 0, now) == Some(true);
                    expected.insert(*name, (0, is_possible));
                }
            }
            recover = Some(expected);
        }
        let ask = Ask::Subscribe {
            patterns: patterns.clone(),
            began,
            recover,
            missed,
            resumes: None,
            is_slow: store.is_slow,
        };
        message["channels"] = patterns.iter().map(Pattern::as_str).collect();
        self.wanted.extend(patterns);
        self.ask(message, ask)
    }

    pub(crate) fn unsubscribe(&mut self, patterns: Vec<Pattern>) -> Value {
        self.wanted.retain(|held| !patterns.contains(held));
        let names: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        self.ask(
            json!({"type": "unsubscribe", "channels": names}),
            Ask::Unsubscribe(patterns),
        )
    }

    fn ask(&mut self, mut message: Value, ask: Ask) -> Value {
        self.asked += 1;
        message["id"] = self.asked.into();
        self.asks.insert(self.asked, ask);
        message
    }

    pub(crate) fn frame(&mut self, frame: Received, store: &Store, now: Now) -> Result<(), String> {
        match frame {
            Received::Close(code) => self.closed = Some(code.unwrap_or(1005)),
            Received::Ping | Received::Pong => {}
            Received::Text(message) => {
                if self.closed.is_some() {
                    return Err(format!("after the Close frame: {message}"));
                }
                self.message(&message, store, now)
                    .map_err(|wrong| format!("{wrong}: {message}"))?;
                self.resumption.note(&message, &self.held);
                self.check_values(&message, store, now)?;
            }
        }
        Ok(())
    }

    fn message(&mut self, message: &Value, store: &Store, now: Now) -> Result<(), String> {
        match message["type"].as_str() {
            Some("event") => self.event(message, store),
            Some("ping" | "cursor") => Ok(()),
            Some("dropped") => {
                let count = message["data"]["count"].as_u64().ok_or("no count")?;
                self.reported += if store.is_limited { 1 << 32 } else { count };
                let names = message["data"]["channels"].as_array().ok_or("no channels")?;
                self.reported_channels
                    .extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                Ok(())
            }
            Some("subscribed" | "unsubscribed") => {
                let id = message["id"].as_u64().ok_or("no id")?;
                match self.asks.remove(&id).ok_or("an answer to an unknown request")? {
                    Ask::Unsubscribe(patterns) => {
                        self.held.retain(|held| !patterns.contains(held));
                        let (held, had) = (&self.held, &mut self.had);
                        self.watches.retain(|name, _| {
                            let is_held = held.iter().any(|pattern| pattern.matches_name(name));
                            if !is_held {
                                had.remove(name);
                            }
                            is_held
                        });
                        Ok(())
                    }
                    Ask::Subscribe {
                        patterns,
                        began,
                        recover,
                        missed,
                        resumes,
                        is_slow,
                    } => {
                        self.held.extend(patterns);
                        self.was_subscribed = true;
                        let data = &message["data"];
                        let is_silent = |name: &&&str| data["recovered"][**name].is_null();
                        let silent = missed.iter().find(is_silent);
                        if let Some(name) = silent.filter(|_| data["positions_complete"] != false) {
                            return Err(format!("{name} began and was evicted, and no message reported it"));
                        }
                        began.into_iter().try_for_each(|(name, began)| {
                            let latest = if is_slow { store.truth.of(name).len() } else { began };
                            let still = |offset| !is_slow || store.covers(name, offset, now) == Some(true);
                            let kind = CHANNELS.iter().find(|(known, _)| *known == name).expect("known").1;
                            if let Some(asked) = resumes.as_ref().filter(|_| kind.has_history()) {
                                let (ours, began) = ((name, kind), (began, latest));
                                let watch = self.resumption.watch(asked, ours, began, data, &still)?;
                                self.watches.insert(name, watch);
                                self.had.insert(name, latest);
                                return Ok(());
                            }
                            self.begin(name, (began, latest), recover.as_ref(), message, (&store.truth, &still))
                        })
                    }
                }
            }
            _ => Err("an unexpected answer".into()),
        }
    }

    fn event(&mut self, message: &Value, store: &Store) -> Result<(), String> {
        let name = message["channel"].as_str().ok_or("no channel")?;
        let watch = self.watches.get_mut(name).ok_or("no held pattern covers it")?;
        let is_deletion = message["event"] == "deleted";
        let is_book = watch.kind == Kind::Book;
        let data = &message["data"];
        // A whole book says so itself, also to a client that was too far behind.
        let is_snapshot = if is_book {
            data["snapshot"] == true
        } else {
            message["snapshot"] == true
        };
        let values = if is_deletion {
            BTreeMap::new()
        } else {
            numbers(&message["data"])
        };
        if watch.kind.merges() && is_snapshot {
            watch.values.clear();
            if values.is_empty() && !is_book {
                return Ok(()); // all records are deleted
            }
        }
        let of_event = match watch.kind {
            _ if is_deletion => message["timestamp"].as_u64(),
            Kind::Book => data["n"].as_u64(),
            _ => values.values().copied().max(),
        };
        let newest = of_event.ok_or("no number")?;
        let facts = store.truth.of(name);
        let index = facts.iter().rposition(|fact| fact.number == newest);
        let index = index.ok_or("an event that was never published")?;
        if watch.kind.merges() && is_snapshot {
            // It takes the place of all before it: the hub may have evicted the channel and begun anew.
            watch.since = watch.since.max(index + 1);
        }
        match watch.kind {
            Kind::Last | Kind::Records | Kind::Book => {
                // The newest events may have deleted records only, which a newcomer does not get.
                let is_merged = watch.kind.merges() && is_snapshot;
                if index + 1 < watch.began && !is_merged {
                    return Err(format!(
                        "older than the newest at the beginning, {index} of {}",
                        watch.began
                    ));
                }
                let is_again = facts[..index].iter().any(|fact| fact.number == newest);
                if newest <= watch.newest && !is_again && !is_merged {
                    return Err(format!("{newest} arrived again or late, after {}", watch.newest));
                }
                watch.newest = watch.newest.max(newest);
                if is_deletion {
                    watch.values.clear();
                }
                let gone = deleted(&message["data"]);
                if is_snapshot && !gone.is_empty() {
                    return Err(format!("a newcomer got deleted records, {gone:?}"));
                }
                for code in &gone {
                    watch.values.remove(code);
                }
                for (code, number) in values.into_iter().filter(|(code, _)| !gone.contains(code)) {
                    let held = watch.values.insert(code, number);
                    if held.is_some_and(|held| held > number) {
                        return Err(format!("a record that is older than what is held, {held:?}"));
                    }
                }
            }
            Kind::Orders | Kind::Life | Kind::Trades | Kind::Log => {
                if let Some(by) = watch.begins_by.take() {
                    watch.next = watch.next.max(index.min(by));
                }
                // If the history has expired, the newest value is sent without it. Its position is then the event's
                // own.
                let is_value = watch.kind == Kind::Life
                    && watch.newest == 0
                    && index + 1 == watch.next
                    && (watch.again_after.is_none() || message["snapshot"] == true);
                watch.newest = newest;
                watch.is_new = false;
                if let Some(after) = watch.again_after
                    && index < watch.next
                    && facts[index].offset > Some(after)
                {
                    watch.again_after = facts[index].offset;
                    return Ok(());
                }
                if index < watch.next && !is_value {
                    return Err(format!("event {index} arrived again, the next is {}", watch.next));
                }
                let skipped = index.saturating_sub(watch.next) as u64;
                let is_told = store.is_limited && self.reported_channels.contains(name);
                if skipped > 0 && !is_told && matches!(watch.kind, Kind::Orders | Kind::Life) {
                    return Err(format!("a gap: event {index}, the next is {}", watch.next));
                }
                watch.missing += skipped;
                watch.next = index + 1;
                if watch.kind.has_history() {
                    let offset = message["offset"].as_u64().ok_or("no offset")?;
                    if facts[index].offset != Some(offset) {
                        return Err(format!("another offset than published, {:?}", facts[index].offset));
                    }
                    // An event does not contain the epoch; [`Client::name_epoch`] sets it.
                    let known = self.positions.entry(name.to_owned()).or_default();
                    known.1 = offset;
                }
            }
        }
        self.check_reported()
    }

    fn check_reported(&self) -> Result<(), String> {
        let missing: u64 = self.watches.values().map(|watch| watch.missing).sum();
        let unnamed = self
            .watches
            .iter()
            .find(|(name, watch)| watch.missing > 0 && !self.reported_channels.contains(**name));
        match unnamed {
            _ if missing > self.reported => {
                Err(format!("{missing} events are missing, {} were reported", self.reported))
            }
            Some((name, watch)) => Err(format!(
                "{} events of {name} are missing and it was not named",
                watch.missing
            )),
            None => Ok(()),
        }
    }

    /// Checks that the client's state equals the server's, after everything has drained.
    pub(crate) fn check_end(&mut self, store: &mut Store, now: Now) -> Result<(), String> {
        if !self.asks.is_empty() {
            return Err(format!("{} requests were never answered", self.asks.len()));
        }
        for (name, watch) in &mut self.watches {
            let all = store.truth.of(name).len();
            if let Some(by) = watch.begins_by.take() {
                watch.next = watch.next.max(by);
            }
            match watch.kind {
                Kind::Orders | Kind::Life if watch.next < all && !self.reported_channels.contains(*name) => {
                    return Err(format!("a gap: {name} ended at event {} of {all}", watch.next));
                }
                Kind::Trades | Kind::Log => {
                    watch.missing += (all - watch.next) as u64;
                    watch.next = all;
                }
                _ => {}
            }
        }
        self.check_reported()?;
        let watches = self
            .watches
            .iter()
            .filter(|(name, _)| !self.reported_channels.contains(**name));
        for (name, watch) in watches {
            let since = watch.since;
            match watch.kind {
                Kind::Last => {
                    if store.truth.is_deleted(name) {
                        if watch.values.is_empty() {
                            continue;
                        }
                        let held = &watch.values;
                        return Err(format!("the value of {name} was deleted, and {held:?} is held"));
                    }
                    let news = store
                        .truth
                        .of(name)
                        .last()
                        .filter(|_| store.truth.of(name).len() > since);
                    let news = news.map(|fact| fact.number);
                    let kept = store.value(name, now).and_then(|value| value.values().copied().next());
                    let owed = news.or(kept);
                    if owed.is_some_and(|owed| watch.values.get("") != Some(&owed)) {
                        return Err(format!("the value of {name} is {owed:?}, not {:?}", watch.values));
                    }
                }
                Kind::Records | Kind::Book => {
                    let mut owed = store.value(name, now).unwrap_or_default();
                    for (code, number) in store.truth.records(name, since) {
                        match number {
                            Some(number) => owed.insert(code.to_owned(), number),
                            None => owed.remove(code),
                        };
                    }
                    for (code, number) in owed {
                        let held = watch.values.get(&code);
                        if held != Some(&number) {
                            return Err(format!("the record {code} of {name} is {number}, not {held:?}"));
                        }
                    }
                    for (code, number) in store.truth.records(name, 0) {
                        if number.is_none() && watch.values.contains_key(code) {
                            return Err(format!("the record {code} of {name} was deleted and is held"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets the epoch of positions in histories that began during this connection.
    pub(crate) fn name_epoch(&mut self, epoch: &str) {
        for (known, _) in self.positions.values_mut() {
            if known.is_empty() {
                epoch.clone_into(known);
            }
        }
    }
}
