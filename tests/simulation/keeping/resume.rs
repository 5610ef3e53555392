//! A client that returns with a cursor, and what it expects then.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tickgate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::message::Cursor;

use super::client::Watch;
use super::store::{CHANNELS, Kind, Store};

/// What a client keeps over its connections in order to return.
#[derive(Default)]
pub(super) struct Resumption {
    /// Whether the client uses cursors; it uses the positions of channels otherwise.
    pub(super) is_used: bool,
    // The last cursor, and the patterns that were held then.
    cursor: Option<String>,
    patterns: Vec<Pattern>,
    // What it had of each channel when the connection ended.
    carried: BTreeMap<&'static str, Watch>,
}

/// A subscribe request with a cursor, with the state at the time it was sent.
pub(super) struct Resumes {
    // The version that it begins with; `None`: the cursor is not one of this store.
    version: Option<u64>,
    // The offsets that it gave beyond the cursor.
    seen: BTreeMap<&'static str, u64>,
    // The channels of which everything missed was kept.
    possible: BTreeSet<&'static str>,
}

impl Resumption {
    /// A message has a cursor. `held`: the patterns whose subscription is confirmed.
    pub(super) fn note(&mut self, message: &Value, held: &[Pattern]) {
        if let Some(cursor) = message["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
            self.patterns = held.to_vec();
        }
    }

    /// The connection has ended.
    pub(super) fn carry(&mut self, held: &[Pattern], watches: BTreeMap<&'static str, Watch>) {
        self.patterns.retain(|pattern| held.contains(pattern));
        self.carried = watches;
    }

    /// The store that the client knew is gone.
    pub(super) fn lose_store(&mut self) {
        self.carried.clear();
    }

    /// The patterns with which the client returns; `None` if it has no cursor.
    pub(super) fn patterns(&self) -> Option<Vec<Pattern>> {
        let patterns = self.patterns.clone();
        (self.is_used && self.cursor.is_some() && !patterns.is_empty()).then_some(patterns)
    }

    /// Adds the cursor to a request for these patterns. `inject_fault` may change it. `sends_seen`: the client says what it
    /// has beyond the cursor.
    pub(super) fn request(
        &self,
        message: &mut Value,
        store: &Store,
        now: Now,
        sends_seen: bool,
        inject_fault: impl FnOnce(&mut Cursor),
    ) -> Resumes {
        let mut cursor = Cursor::parse(self.cursor.as_deref().unwrap_or_default()).expect("a cursor of the gateway");
        let holder = cursor.holder;
        inject_fault(&mut cursor);
        message["cursor"] = cursor.to_string().into();
        let newest = CHANNELS
            .iter()
            .filter_map(|(name, _)| store.truth.of(name).last()?.offset);
        let newest = newest.max().unwrap_or(0);
        let is_ours = cursor.epoch == store.hub.epoch() && cursor.holder == holder;
        // Values take versions, too, so the newest version is not known exactly.
        let version = (is_ours && cursor.version < newest + 500_000).then_some(cursor.version);
        let mut seen = BTreeMap::new();
        if sends_seen {
            for (name, watch) in &self.carried {
                let last = watch
                    .next
                    .checked_sub(1)
                    .and_then(|last| store.truth.of(name).get(last));
                if let Some(offset) = last.and_then(|fact| fact.offset) {
                    seen.insert(*name, offset);
                }
            }
            message["seen"] = seen
                .iter()
                .map(|(name, offset)| ((*name).to_owned(), json!(offset)))
                .collect();
        }
        let is_possible = |name: &&str| {
            let from = version.map(|version| version.max(seen.get(*name).copied().unwrap_or(0)));
            from.is_some_and(|from| store.covers(name, from, now) == Some(true))
        };
        let possible = CHANNELS.iter().map(|(name, _)| *name).filter(is_possible).collect();
        Resumes {
            version,
            seen,
            possible,
        }
    }

    /// What the client has of a channel with history after the answer to its request. `began`: how many events the channel
    /// had when the request was sent, and has now.
    pub(super) fn watch(
        &mut self,
        asked: &Resumes,
        (name, kind): (&'static str, Kind),
        (began, since): (usize, usize),
        data: &Value,
        still_covers: &dyn Fn(u64) -> bool,
    ) -> Result<Watch, String> {
        let seen = asked.seen.get(name).copied();
        let from = asked.version.map(|version| version.max(seen.unwrap_or(0)));
        let is_named = data["recovered"][name] == false;
        if is_named && asked.possible.contains(name) && from.is_some_and(still_covers) {
            return Err(format!("{name} is not recovered, although it is kept"));
        }
        if data["recovered"] == true && asked.version.is_none() {
            return Err("recovered: by the cursor of another store".to_owned());
        }
        let is_cut = data["positions_complete"] == false;
        let carried = self
            .carried
            .remove(name)
            .filter(|_| !is_named && asked.version.is_some());
        let mut watch = carried.unwrap_or_else(|| Watch {
            // The last value may come first.
            next: began.saturating_sub(usize::from(kind == Kind::Life)),
            ..Watch::new(kind, began, since)
        });
        if is_named || is_cut {
            watch.begins_by = Some(since);
        } else if watch.is_new && kind == Kind::Life {
            // The last value was still owed. A newer event takes its place.
            watch.begins_by = watch.begins_by.max(Some(watch.since));
        }
        (watch.began, watch.since, watch.newest) = (began, since, 0);
        watch.again_after = asked.version.filter(|_| seen.is_none());
        Ok(watch)
    }
}
