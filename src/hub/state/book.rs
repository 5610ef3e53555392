//! Order books: the value of a channel whose events are changes of bids and asks.
//!
//! Invariant: [`Book`] has for each price the level of the newest event that contained it, with that event's version. A
//! client that applies [`Book::changes`] after a version to the book that it had at that version has the same book, or is
//! given the whole book. Prices are compared as exact decimals; the texts are the publisher's.
//!
//! With a depth, clients see only the best levels of each side, the view. The view is a book of its own: its levels have the
//! versions at which they changed *in the view*, also because a better level pushed them out.
//!
//! A removed level stays as it was published, for clients that are behind. What is forgotten of these to stay within the
//! bounds raises `begin`: a client from before gets the whole book.

mod levels;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(test)]
#[cfg(not(shuttle))]
pub(super) use levels::LEVELS_MAX;
use levels::Levels;
use tickgate_protocol::channel::BookRules;
use tickgate_protocol::json::{BookUpdate, Scratch, read_book, read_level, removed_level};

/// How many updates are remembered with the number of the update before them, so that merged changes can name it. A client
/// that is further behind gets the whole book.
const STEPS_MAX: usize = 1024;

/// Most other members that are kept.
const OTHERS_MAX: usize = 64;

/// The bytes of a book beside its levels and members.
const BOOK_OVERHEAD: usize = size_of::<Book>();

/// A book; see the module's docs.
#[derive(Debug)]
pub(super) struct Book {
    depth: Option<usize>,
    full: Levels,
    // The best levels, with a depth.
    view: Option<Levels>,
    // The newest of each other member, as JSON.
    others: Vec<(Arc<str>, Arc<str>)>,
    // A client with a lower version gets the whole book.
    begin: u64,
    // Of the newest update, and of the newest that was sent.
    seq: Option<u64>,
    sent_seq: Option<u64>,
    checksum: Option<Arc<str>>,
    // The publisher's numbers had a gap since the last snapshot.
    is_stale: bool,
    // The version of each update that was sent, and the number before it.
    steps: VecDeque<(u64, Option<u64>)>,
}

/// What an update did.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// What is sent instead of the update; `None`: the update itself.
    pub(super) data: Option<Bytes>,
    /// Nothing of what clients see has changed, and nothing is sent.
    pub(super) is_hidden: bool,
    /// There is a gap between the publisher's numbers.
    pub(super) has_gap: bool,
    /// Levels were forgotten, so that an export must be complete.
    pub(super) forgot: bool,
    /// How many levels were dropped because there are too many.
    pub(super) dropped: u64,
}

/// One thing to be exported: the name, the text, and the version. See [`Book::parts`].
pub(super) type Part = (Arc<str>, Arc<str>, u64);

impl Book {
    /// A book without levels. It begins with the update of this version.
    pub(super) fn new(rules: BookRules, version: u64) -> Self {
        Self {
            depth: rules.depth.map(|depth| depth as usize),
            full: Levels::default(),
            view: rules.depth.map(|_| Levels::default()),
            others: Vec::new(),
            begin: version,
            seq: None,
            sent_seq: None,
            checksum: None,
            is_stale: false,
            steps: VecDeque::new(),
        }
    }

    /// Applies an update.
    pub(super) fn apply(&mut self, update: BookUpdate, version: u64) -> Applied {
        let mut applied = Applied {
            has_gap: self.has_gap(&update),
            ..Applied::default()
        };
        if update.is_snapshot {
            self.full.clear();
            self.others.clear();
            self.steps.clear();
            self.begin = version;
            applied.forgot = true;
        }
        self.is_stale = update.is_stale || applied.has_gap || self.is_stale && !update.is_snapshot;
        let prev_seq = update.prev_seq.or(self.seq);
        self.seq = update.seq.or(self.seq);
        self.checksum = update.checksum.map(Into::into);
        let own: Vec<(Arc<str>, Arc<str>)> = (update.others.into_iter())
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        for (key, value) in &own {
            self.keep_other(key, value);
        }
        let mut raws = [Vec::new(), Vec::new()];
        for (side, levels) in update.sides.into_iter().enumerate() {
            for level in levels {
                let raw: Arc<str> = level.raw.into();
                raws[side].push(Arc::clone(&raw));
                self.full.put(side, level.price, raw, level.is_removed, version);
            }
        }
        let bounded = self.full.keep_bounds();
        applied.dropped = bounded.dropped;
        applied.forgot |= bounded.dropped > 0 || bounded.forgotten.is_some();
        let Some(depth) = self.depth else {
            self.begin = self.begin.max(bounded.forgotten.unwrap_or(0));
            self.note_step(version, prev_seq);
            if applied.has_gap && !update.is_stale {
                let mut writer = Writer::new();
                own.iter().for_each(|(key, value)| writer.member(key, value));
                writer.number("prev_seq", update.prev_seq);
                writer.number("seq", update.seq);
                writer.flag("stale", true);
                if let Some(checksum) = &self.checksum {
                    writer.member("\"checksum\"", checksum);
                }
                let [bids, asks] = &raws;
                applied.data = Some(writer.finish([bids.iter(), asks.iter()]));
            }
            return applied;
        };
        let changes = self.look_again(depth, update.is_snapshot, version);
        if changes.iter().all(Vec::is_empty) && !update.is_snapshot && !applied.has_gap {
            applied.is_hidden = true;
            return applied;
        }
        let prev_seq = self.sent_seq.or(prev_seq);
        self.note_step(version, prev_seq);
        let mut writer = Writer::new();
        writer.flag("snapshot", update.is_snapshot);
        own.iter().for_each(|(key, value)| writer.member(key, value));
        writer.number(
            "prev_seq",
            prev_seq.filter(|_| !update.is_snapshot && update.seq.is_some()),
        );
        writer.number("seq", update.seq);
        writer.flag(
            "stale",
            self.is_stale && (applied.has_gap || update.is_stale || update.is_snapshot),
        );
        let [bids, asks] = &changes;
        applied.data = Some(writer.finish([bids.iter(), asks.iter()]));
        self.sent_seq = self.seq;
        applied
    }

    // Without numbers there is nothing to find. A first update that names an earlier one comes too late.
    fn has_gap(&self, update: &BookUpdate) -> bool {
        let Some(seq) = update.seq.filter(|_| !update.is_snapshot) else {
            return false;
        };
        let before = update.prev_seq.unwrap_or(seq.saturating_sub(1));
        match self.seq {
            Some(last) => last != before || seq <= last,
            None => self.full.is_unused() && before > 0,
        }
    }

    fn keep_other(&mut self, key: &Arc<str>, value: &Arc<str>) {
        if let Some((_, kept)) = self.others.iter_mut().find(|(kept, _)| kept == key) {
            kept.clone_from(value);
            return;
        }
        if self.others.len() >= OTHERS_MAX {
            self.others.remove(0);
        }
        self.others.push((Arc::clone(key), Arc::clone(value)));
    }

    fn note_step(&mut self, version: u64, prev_seq: Option<u64>) {
        if self.seq.is_none() {
            return;
        }
        if self.steps.len() >= STEPS_MAX
            && let Some((oldest, _)) = self.steps.pop_front()
        {
            self.begin = self.begin.max(oldest);
        }
        self.steps.push_back((version, prev_seq));
    }

    /// Brings the view up to date; returns the levels that changed in it, on each side.
    fn look_again(&mut self, depth: usize, is_snapshot: bool, version: u64) -> [Vec<Arc<str>>; 2] {
        let (full, begin) = (&self.full, &mut self.begin);
        let view = self.view.get_or_insert_default();
        if is_snapshot {
            view.clear();
        }
        let changes = [0, 1].map(|side| {
            let mut changes = Vec::new();
            let best: Vec<_> = full.best(side).take(depth).collect();
            let pushed_out: Vec<_> = view
                .best(side)
                .filter(|(price, _)| !best.iter().any(|(kept, _)| kept == price))
                .map(|(price, raw)| (price.clone(), Arc::clone(raw)))
                .collect();
            for (price, raw) in pushed_out {
                let removed = full.removed(side, &price).cloned();
                let removed = removed.unwrap_or_else(|| removed_level(&raw).into());
                view.put(side, price, Arc::clone(&removed), true, version);
                changes.push(removed);
            }
            for (price, raw) in best {
                if view.get(side, price) != Some(raw) {
                    view.put(side, price.clone(), Arc::clone(raw), false, version);
                    changes.push(Arc::clone(raw));
                }
            }
            changes
        });
        *begin = (*begin).max(view.keep_bounds().forgotten.unwrap_or(0));
        changes
    }

    /// The version from which on [`changes`](Self::changes) are known, if a client with version `above` needs no whole book;
    /// 0 for the whole book.
    pub(super) const fn known_from(&self, above: u64) -> u64 {
        if above < self.begin { 0 } else { above }
    }

    /// The changes after a version; 0: the whole book.
    pub(super) fn changes(&self, above: u64) -> Bytes {
        let is_whole = above == 0;
        let levels = self.view.as_ref().unwrap_or(&self.full);
        let mut writer = Writer::new();
        writer.flag("snapshot", is_whole);
        self.others.iter().for_each(|(key, value)| writer.member(key, value));
        let seq = if self.view.is_some() { self.sent_seq } else { self.seq };
        if !is_whole {
            let first = self.steps.partition_point(|(version, _)| *version <= above);
            writer.number("prev_seq", self.steps.get(first).and_then(|(_, prev_seq)| *prev_seq));
        }
        writer.number("seq", seq);
        writer.flag("stale", self.is_stale);
        if let Some(checksum) = self.checksum.as_ref().filter(|_| self.depth.is_none()) {
            writer.member("\"checksum\"", checksum);
        }
        writer.finish([0, 1].map(|side| levels.changed_after(side, above)))
    }

    /// The size of the book, estimated.
    pub(super) fn bytes(&self) -> usize {
        let others: usize = self
            .others
            .iter()
            .map(|(key, value)| key.len() + value.len() + 64)
            .sum();
        let view = self.view.as_ref().map_or(0, Levels::bytes);
        BOOK_OVERHEAD
            + self.full.bytes()
            + view
            + others
            + size_of_val(self.steps.as_slices().0)
            + size_of_val(self.steps.as_slices().1)
    }

    /// What is exported of the book: its levels, and its other parts with the version `latest`.
    pub(super) fn parts(&self, latest: u64) -> impl Iterator<Item = Part> {
        let number =
            |name: &str, number: Option<u64>| number.map(|number| (name.into(), number.to_string().into(), latest));
        let numbers = [
            number("seq", self.seq),
            number("sent_seq", self.sent_seq),
            number("stale", self.is_stale.then_some(1)),
        ];
        // Also if there is none, so that it replaces an earlier one.
        let checksum = self.checksum.clone().unwrap_or_else(|| "null".into());
        let checksum = std::iter::once(("checksum".into(), checksum, latest));
        let others =
            (self.others.iter()).map(move |(key, value)| (format!("other {key}").into(), Arc::clone(value), latest));
        let levels = [0, 1].into_iter().flat_map(|side| {
            let name = move |price: &dyn std::fmt::Display| format!("{} {price}", SIDES[side]).into();
            self.full
                .iter(side)
                .map(move |(price, raw, version)| (name(price), Arc::clone(raw), version))
        });
        numbers
            .into_iter()
            .flatten()
            .chain(checksum)
            .chain(others)
            .chain(levels)
    }

    /// Restores a book from its parts. Clients of an earlier run get the whole book. Also returns whether parts are void.
    pub(super) fn restore<'p>(
        rules: BookRules,
        parts: impl Iterator<Item = (&'p str, &'p Arc<str>)>,
        latest: u64,
    ) -> (Self, bool) {
        let mut book = Self::new(rules, latest);
        let mut is_void = false;
        for (name, text) in parts {
            match name.split_once(' ') {
                Some(("other", key)) => book.others.push((key.into(), Arc::clone(text))),
                Some((side, _)) => match (SIDES.iter().position(|name| *name == side), read_level(text)) {
                    (Some(side), Ok(level)) if !level.is_removed => {
                        book.full.put(side, level.price, Arc::clone(text), false, latest);
                    }
                    _ => is_void = true,
                },
                None if name == "seq" => book.seq = text.parse().ok(),
                None if name == "sent_seq" => book.sent_seq = text.parse().ok(),
                None if name == "stale" => book.is_stale = true,
                None if name == "checksum" => book.checksum = Some(Arc::clone(text)).filter(|text| &**text != "null"),
                None => is_void = true,
            }
        }
        if let Some(depth) = book.depth {
            book.look_again(depth, true, latest);
        }
        (book, is_void)
    }
}

/// The names of the sides in an export.
const SIDES: [&str; 2] = ["bid", "ask"];

/// Reads an update from an event's data.
pub(super) fn read(data: &[u8]) -> Result<BookUpdate, tickgate_protocol::json::BookError> {
    let text = std::str::from_utf8(data).map_err(|_| tickgate_protocol::json::BookError::NotAnObject)?;
    read_book(text.trim_ascii(), &mut Scratch::default())
}

/// Writes a book's data.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(b"{".to_vec())
    }

    // `key` is JSON.
    fn member(&mut self, key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(value.as_bytes());
    }

    fn flag(&mut self, name: &str, flag: bool) {
        if flag {
            self.member(&format!("\"{name}\""), "true");
        }
    }

    fn number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.member(&format!("\"{name}\""), &number.to_string());
        }
    }

    fn finish<'l>(mut self, sides: [impl Iterator<Item = &'l Arc<str>>; 2]) -> Bytes {
        for (name, levels) in ["\"bids\"", "\"asks\""].into_iter().zip(sides) {
            self.member(name, "[");
            let mut is_first = true;
            for raw in levels {
                if !std::mem::take(&mut is_first) {
                    self.0.push(b',');
                }
                self.0.extend_from_slice(raw.as_bytes());
            }
            self.0.push(b']');
        }
        self.0.push(b'}');
        self.0.into()
    }
}
