//! One client: what it holds of each channel, and what it checks of every message.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tickgate::shard::mailbox::ConnectionId;
use tickgate::time::Now;
use tickgate_protocol::channel::Pattern;

use super::store::{CHANNELS, Kind, Store, Truth, numbers};
use crate::wire::{Reader, Received};

/// What a request asks for, and how things stood when it took effect.
enum Ask {
    Subscribe {
        patterns: Vec<Pattern>,
        // Of each newly covered channel: how many events there were.
        began: BTreeMap<&'static str, usize>,
        // Of each that is to be recovered: from which offset, and whether that can be.
        recover: Option<BTreeMap<&'static str, (u64, bool)>>,
        // Those without a position that had events since the client last had the channel.
        missed: Vec<&'static str>,
        // Its shard may carry it out over several turns, so that it begins later than it was asked for.
        is_slow: bool,
    },
    Unsubscribe(Vec<Pattern>),
}

/// What it got of a channel since it is covered.
struct Watch {
    kind: Kind,
    // Events before this one are accounted for. Of values: how many there were at the beginning.
    next: usize,
    began: usize,
    // How many there were at the latest when it began.
    since: usize,
    // Nothing said where it began: with the first event that comes, of those up to this one.
    begins_by: Option<usize>,
    // The numbers it holds, by record.
    values: BTreeMap<String, u64>,
    newest: u64,
    missing: u64,
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) connection: Option<ConnectionId>,
    /// Bytes that its socket takes now.
    pub(crate) room: usize,
    pub(crate) reader: Reader,
    asks: BTreeMap<u64, Ask>,
    asked: u64,
    // What it has asked for, and what it was told that it has.
    wanted: Vec<Pattern>,
    held: Vec<Pattern>,
    watches: BTreeMap<&'static str, Watch>,
    told: u64,
    told_of: BTreeSet<String>,
    pub(crate) closed: Option<u16>,
    /// Where it is in each history, over all its connections.
    positions: BTreeMap<String, (String, u64)>,
    /// How many events there were of each channel when it was last told that it has it, over this connection and the one
    /// before.
    had: BTreeMap<&'static str, usize>,
    was_subscribed: bool,
}

impl Client {
    /// It is connected anew.
    pub(crate) fn connected(&mut self, connection: ConnectionId) {
        let positions = std::mem::take(&mut self.positions);
        let mut had = std::mem::take(&mut self.had);
        if self.was_subscribed {
            had.retain(|name, _| self.watches.contains_key(name));
        }
        *self = Self {
            had,
            connection: Some(connection),
            room: usize::MAX,
            positions,
            ..Self::default()
        };
    }

    /// Everything that it had is of a store that is no more.
    pub(crate) fn lose_store(&mut self) {
        self.connection = None;
        self.had.clear();
    }

    /// Whether a channel's position was no part of what this message answers.
    pub(crate) fn gave_no_position(&self, answer: &Value, name: &str) -> bool {
        let ask = answer["id"].as_u64().and_then(|id| self.asks.get(&id));
        matches!(ask, Some(Ask::Subscribe { recover: Some(recover), .. }) if recover.get(name).is_none_or(|(offset, _)| *offset == 0))
    }

    pub(crate) fn wanted(&self) -> &[Pattern] {
        &self.wanted
    }

    /// Places that were left, to be recovered from. `spoil` may change what the client remembers.
    pub(crate) fn subscribe(
        &mut self,
        patterns: Vec<Pattern>,
        recovers: bool,
        store: &Store,
        now: Now,
        mut spoil: impl FnMut(&mut (String, u64)),
    ) -> Value {
        let is_wanted = |name: &str| self.wanted.iter().any(|held| held.matches(name));
        let is_asked = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
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
                spoil(&mut known);
                let (epoch, offset) = known;
                let can_be = epoch == store.epoch() && store.covers(name, offset, now) == Some(true);
                keys[*name] = json!({"epoch": epoch, "offset": offset});
                expected.insert(*name, (offset, can_be));
            }
            // Without a key: what began since comes from its beginning, if it was this store that the client was in.
            let knows_store = (keys.as_object().into_iter().flatten()).any(|(_, key)| key["epoch"] == store.epoch());
            message["recover"] = keys;
            for (name, _) in new.iter().filter(|(_, kind)| kind.has_history()) {
                let count = store.truth.of(name).len();
                if !expected.contains_key(name) && self.had.get(name).is_some_and(|had| *had < count) {
                    missed.push(*name);
                }
                if !expected.contains_key(name) && count > 0 {
                    let can_be = knows_store && store.covers(name, 0, now) == Some(true);
                    expected.insert(*name, (0, can_be));
                }
            }
            recover = Some(expected);
        }
        let ask = Ask::Subscribe {
            patterns: patterns.clone(),
            began,
            recover,
            missed,
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
            }
        }
        Ok(())
    }

    fn message(&mut self, message: &Value, store: &Store, now: Now) -> Result<(), String> {
        match message["type"].as_str() {
            Some("event") => self.event(message, &store.truth),
            Some("ping") => Ok(()),
            Some("dropped") => {
                self.told += message["data"]["count"].as_u64().ok_or("no count")?;
                let names = message["data"]["channels"].as_array().ok_or("no channels")?;
                self.told_of
                    .extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                Ok(())
            }
            Some("subscribed" | "unsubscribed") => {
                let id = message["id"].as_u64().ok_or("no id")?;
                match self.asks.remove(&id).ok_or("an answer to nothing")? {
                    Ask::Unsubscribe(patterns) => {
                        self.held.retain(|held| !patterns.contains(held));
                        let (held, had) = (&self.held, &mut self.had);
                        self.watches.retain(|name, _| {
                            let is_held = held.iter().any(|pattern| pattern.matches(name));
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
                        is_slow,
                    } => {
                        self.held.extend(patterns);
                        self.was_subscribed = true;
                        let data = &message["data"];
                        let is_silent = |name: &&&str| data["recovered"][**name].is_null();
                        let silent = missed.iter().find(is_silent);
                        if let Some(name) = silent.filter(|_| data["positions_complete"] != false) {
                            return Err(format!("{name} came and went, and nothing said so"));
                        }
                        began.into_iter().try_for_each(|(name, began)| {
                            let latest = if is_slow { store.truth.of(name).len() } else { began };
                            let still = |offset| !is_slow || store.covers(name, offset, now) == Some(true);
                            self.begin(name, (began, latest), recover.as_ref(), message, (&store.truth, &still))
                        })
                    }
                }
            }
            _ => Err("an answer that nobody expects".into()),
        }
    }

    // A channel is newly covered, from between two numbers of events on.
    fn begin(
        &mut self,
        name: &'static str,
        (began, since): (usize, usize),
        recover: Option<&BTreeMap<&'static str, (u64, bool)>>,
        message: &Value,
        (truth, still_covers): (&Truth, &dyn Fn(u64) -> bool),
    ) -> Result<(), String> {
        let data = &message["data"];
        let kind = CHANNELS.iter().find(|(known, _)| *known == name).expect("known").1;
        let position = &data["positions"][name];
        let mut next = began;
        if let Some(offset) = position["offset"].as_u64() {
            next = truth.up_to(name, offset);
            // A channel whose last value follows is left at the event before it.
            let least = began.saturating_sub(usize::from(kind == Kind::Life));
            let is_recovered = data["recovered"][name] == true;
            if !is_recovered && !(least..=since).contains(&next) || next > since {
                return Err(format!("the position of {name} is after event {next}, of {began}"));
            }
            let epoch = position["epoch"].as_str().ok_or("no epoch")?.to_owned();
            self.positions.insert(name.to_owned(), (epoch, offset));
        }
        if let Some((offset, can_be)) = recover.and_then(|recover| recover.get(name)) {
            let told = &data["recovered"][name];
            // What could be recovered when it was asked for may be gone when it is the request's turn.
            let is_gone = told == false && !still_covers(*offset);
            if told.as_bool() != Some(*can_be) && !is_gone && !(*offset == 0 && told.is_null()) {
                return Err(format!("{name} is recovered: {told}, not {can_be}"));
            }
            if told == true && position["offset"] != *offset {
                return Err(format!("the position of {name} is not where it was left, {offset}"));
            }
        }
        let watch = Watch {
            kind,
            next,
            began,
            since,
            begins_by: (since > began && position.is_null()).then_some(since),
            values: BTreeMap::new(),
            newest: 0,
            missing: 0,
        };
        self.watches.insert(name, watch);
        self.had.insert(name, since);
        Ok(())
    }

    fn event(&mut self, message: &Value, truth: &Truth) -> Result<(), String> {
        let name = message["channel"].as_str().ok_or("no channel")?;
        let watch = self.watches.get_mut(name).ok_or("nothing held covers it")?;
        let said = numbers(&message["data"]);
        let newest = said.values().copied().max().ok_or("no number")?;
        let facts = truth.of(name);
        let place = facts.iter().rposition(|fact| fact.number == newest);
        let place = place.ok_or("an event that nobody published")?;
        match watch.kind {
            Kind::Last | Kind::Records => {
                if place + 1 < watch.began {
                    return Err(format!(
                        "older than the newest at the beginning, {place} of {}",
                        watch.began
                    ));
                }
                let is_again = facts[..place].iter().any(|fact| fact.number == newest);
                if newest <= watch.newest && !is_again {
                    return Err(format!("{newest} came again or late, after {}", watch.newest));
                }
                watch.newest = newest;
                for (code, number) in said {
                    let held = watch.values.insert(code, number);
                    if held.is_some_and(|held| held > number) {
                        return Err(format!("a record that is older than what is held, {held:?}"));
                    }
                }
            }
            Kind::Orders | Kind::Life | Kind::Trades | Kind::Log => {
                if let Some(by) = watch.begins_by.take() {
                    watch.next = watch.next.max(place.min(by));
                }
                // The newest value may come without its place in the history, which was over: at its own position.
                let is_value = watch.kind == Kind::Life && watch.newest == 0 && place + 1 == watch.next;
                watch.newest = newest;
                if place < watch.next && !is_value {
                    return Err(format!("event {place} came again, the next is {}", watch.next));
                }
                let skipped = place.saturating_sub(watch.next) as u64;
                if skipped > 0 && matches!(watch.kind, Kind::Orders | Kind::Life) {
                    return Err(format!("a hole: event {place}, the next is {}", watch.next));
                }
                watch.missing += skipped;
                watch.next = place + 1;
                if watch.kind.has_history() {
                    let offset = message["offset"].as_u64().ok_or("no offset")?;
                    if facts[place].offset != Some(offset) {
                        return Err(format!("another offset than published, {:?}", facts[place].offset));
                    }
                    // An event does not name its store: [`Client::name_epoch`].
                    let known = self.positions.entry(name.to_owned()).or_default();
                    known.1 = offset;
                }
            }
        }
        self.check_told()
    }

    fn check_told(&self) -> Result<(), String> {
        let missing: u64 = self.watches.values().map(|watch| watch.missing).sum();
        let unnamed = self
            .watches
            .iter()
            .find(|(name, watch)| watch.missing > 0 && !self.told_of.contains(**name));
        match unnamed {
            _ if missing > self.told => Err(format!("{missing} events are missing, told were {}", self.told)),
            Some((name, watch)) => Err(format!(
                "{} events of {name} are missing and it was not named",
                watch.missing
            )),
            None => Ok(()),
        }
    }

    /// Everything has drained: its state is the server's.
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
                Kind::Orders | Kind::Life if watch.next < all => {
                    return Err(format!("a hole: {name} ended at event {} of {all}", watch.next));
                }
                Kind::Trades | Kind::Log => {
                    watch.missing += (all - watch.next) as u64;
                    watch.next = all;
                }
                _ => {}
            }
        }
        self.check_told()?;
        let watches = self.watches.iter().filter(|(name, _)| !self.told_of.contains(**name));
        for (name, watch) in watches {
            let since = watch.since;
            match watch.kind {
                Kind::Last => {
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
                Kind::Records => {
                    let mut owed = store.value(name, now).unwrap_or_default();
                    let news = store.truth.records(name, since);
                    owed.extend(news.into_iter().map(|(code, number)| (code.to_owned(), number)));
                    for (code, number) in owed {
                        let held = watch.values.get(&code);
                        if held != Some(&number) {
                            return Err(format!("the record {code} of {name} is {number}, not {held:?}"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// It learns what store it talks to; that is also the one of histories that began while it was there.
    pub(crate) fn name_epoch(&mut self, epoch: &str) {
        for (known, _) in self.positions.values_mut() {
            if known.is_empty() {
                epoch.clone_into(known);
            }
        }
    }
}
