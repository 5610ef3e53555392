//! Returning with a cursor, and what a cursor promises.

use serde_json::{Value, json};
use tickgate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::message::Cursor;

use super::{Ask, Client, Watch};
use crate::keeping::store::{CHANNELS, Kind, Store};

impl Client {
    /// A subscribe request with the cursor that the client has, as its first one on a connection; `None`: it has none.
    pub(crate) fn resume(
        &mut self,
        store: &Store,
        now: Now,
        sends_seen: bool,
        inject_fault: impl FnOnce(&mut Cursor),
    ) -> Option<Value> {
        let patterns = self.resumption.patterns().filter(|_| self.asked == 0)?;
        let mut message = json!({"type": "subscribe"});
        message["channels"] = patterns.iter().map(Pattern::as_str).collect();
        let resumes = (self.resumption).request(&mut message, store, now, sends_seen, inject_fault);
        let is_asked = |name: &&str| patterns.iter().any(|pattern| pattern.matches_name(name));
        let began = CHANNELS.iter().map(|(name, _)| *name).filter(is_asked);
        let ask = Ask::Subscribe {
            began: began.map(|name| (name, store.truth.of(name).len())).collect(),
            patterns: patterns.clone(),
            recover: None,
            missed: Vec::new(),
            resumes: Some(resumes),
            is_slow: store.is_slow,
        };
        self.wanted.extend(patterns);
        Some(self.ask(message, ask))
    }

    // A cursor that does not say that last values are owed: each that was there has come. Of a client with a limit of bytes,
    // it may have been lost with its history, which is told.
    pub(super) fn check_values(&self, message: &Value, store: &Store, now: Now) -> Result<(), String> {
        let cursor = message["cursor"].as_str().and_then(Cursor::parse);
        let Some(cursor) = cursor.filter(|cursor| !cursor.owes_values && self.resumption.is_used) else {
            return Ok(());
        };
        let is_owed = |(name, watch): &(&&'static str, &Watch)| {
            let facts = store.truth.of(name);
            let is_old =
                facts.len() == watch.began && facts.last().is_some_and(|last| last.offset <= Some(cursor.version));
            let is_told = store.is_limited && self.reported_channels.contains(**name);
            watch.kind == Kind::Life && watch.is_new && is_old && !is_told && store.has_last(name, now)
        };
        match self.watches.iter().find(is_owed) {
            Some((name, _)) => Err(format!("the last value of {name} never came: {message}")),
            None => Ok(()),
        }
    }
}
