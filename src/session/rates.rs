//! The rates of a client's subscriptions: what it asks for, and what it is granted.
//!
//! Invariant: a pattern has the slower of the rate that the client asked for and of the identity's limit. The limit of a
//! channel's class comes on top where values are delivered.

use super::{Output, Outputs, Session, Settings};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::message::ErrorCode;
use tickgate_protocol::rate::{Rate, faster, slower};

/// The rates that a client asked for, in the order of its patterns. Most clients ask for none and have no list.
#[derive(Debug, Default)]
pub(super) struct Wishes(Option<Box<List>>);

#[derive(Debug)]
struct List(Vec<Option<Rate>>);

impl Wishes {
    /// What was asked for the pattern with this index.
    pub(super) fn get(&self, index: usize) -> Option<Rate> {
        self.0.as_deref().and_then(|list| list.0.get(index).copied().flatten())
    }

    /// Notes what was asked for the pattern with this index, of so many.
    fn set(&mut self, index: usize, rate: Option<Rate>, patterns: usize) {
        if rate.is_none() && self.0.is_none() {
            return;
        }
        let List(list) = &mut **self.0.get_or_insert_with(|| Box::new(List(Vec::new())));
        if list.len() < patterns {
            list.reserve_exact(patterns - list.len());
            list.resize(patterns, None);
        }
        list[index] = rate;
        if list.iter().all(Option::is_none) {
            self.0 = None;
        }
    }

    /// Forgets the patterns for which `leaves` is true, called with their indices.
    pub(super) fn remove(&mut self, leaves: impl Fn(usize) -> bool) {
        if let Some(list) = &mut self.0 {
            let mut index = 0;
            list.0.retain(|_| {
                index += 1;
                !leaves(index - 1)
            });
            if list.0.iter().all(Option::is_none) {
                self.0 = None;
            }
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

impl Session {
    /// The bytes that the client is sent in a second; 0: no limit.
    #[must_use]
    pub fn bytes_per_second(&self, settings: &Settings) -> u32 {
        let own = self
            .identity
            .as_ref()
            .and_then(|identity| identity.permissions.bytes_per_second);
        own.unwrap_or(settings.limits.bytes_per_second)
    }

    /// The identity has changed, or is the first. `before`: [`Session::bytes_per_second`] until then.
    pub(super) fn limit_bytes(&self, before: u32, settings: &Settings, out: &mut Outputs) {
        let per_second = self.bytes_per_second(settings);
        if per_second != before {
            out.list.push(Output::LimitBytes { per_second });
        }
    }

    /// The rate that is granted to a client that asks for this one.
    pub(super) fn granted(&self, wish: Option<Rate>) -> Option<Rate> {
        let identity = self.identity.as_ref();
        slower(wish, identity.and_then(|identity| identity.permissions.max_rate))
    }

    /// Refuses a rate for a pattern of which the client gets every event.
    pub(super) fn check_wish(
        wish: Option<Rate>,
        patterns: &[Pattern],
        settings: &Settings,
    ) -> Result<(), (ErrorCode, String)> {
        let is_pointless = |pattern: &&Pattern| settings.classes.conflated_rate(pattern).is_none();
        match patterns.iter().find(|pattern| wish.is_some() && is_pointless(pattern)) {
            Some(pattern) => {
                let message = format!(
                    "`max_rate` has no effect on \"{pattern}\": no channel that it matches conflates, and of the others \
                     a client gets every event"
                );
                Err((ErrorCode::InvalidMessage, message))
            }
            None => Ok(()),
        }
    }

    /// Whether no pattern has a rate if the client asks for this one. Most gateways and clients have none, and looking at
    /// the classes of each pattern is much work.
    fn is_unlimited(&self, wish: Option<Rate>, settings: &Settings) -> bool {
        self.granted(wish).is_none() && !settings.classes.has_max_rate(settings.tenant)
    }

    /// The rate at which a client gets the values of the pattern's conflating channels if it asks for this one; `None`: there
    /// is no limit, or no such channel.
    fn rate_of(&self, pattern: &Pattern, wish: Option<Rate>, settings: &Settings) -> Option<Rate> {
        slower(self.granted(wish), settings.classes.conflated_rate(pattern)?)
    }

    /// What a client that asks for this rate is told: the rate of the fastest of the patterns.
    pub(super) fn told_rate(&self, patterns: &[Pattern], wish: Option<Rate>, settings: &Settings) -> Option<Rate> {
        if self.is_unlimited(wish, settings) {
            return None;
        }
        let conflating = patterns
            .iter()
            .filter(|pattern| settings.classes.conflated_rate(pattern).is_some());
        let rates = conflating.map(|pattern| self.rate_of(pattern, wish, settings));
        rates.reduce(faster).flatten()
    }

    /// The patterns that have a rate.
    #[must_use]
    pub fn max_rates(&self, settings: &Settings) -> Vec<(&Pattern, Rate)> {
        if self.wishes.0.is_none() && self.is_unlimited(None, settings) {
            return Vec::new();
        }
        let patterns = self.patterns.iter().enumerate();
        let limited = patterns.filter_map(|(index, pattern)| {
            let rate = self.rate_of(pattern, self.wishes.get(index), settings)?;
            Some((pattern, rate))
        });
        limited.collect()
    }

    /// Gives those of these patterns that are held, and for which the client asked for another rate before, this one.
    pub(super) fn change_wishes(&mut self, patterns: &[Pattern], wish: Option<Rate>, out: &mut Outputs) {
        let mut changed = Vec::new();
        for index in 0..self.patterns.len() {
            if self.wishes.get(index) != wish && patterns.contains(&self.patterns[index]) {
                self.wishes.set(index, wish, self.patterns.len());
                changed.push(self.patterns[index].clone());
            }
        }
        self.set_rate(changed, wish, out);
    }

    /// Notes the rate that the client asked for with its last `count` patterns.
    pub(super) fn note_wish(&mut self, count: usize, wish: Option<Rate>) {
        let patterns = self.patterns.len();
        for index in patterns - count..patterns {
            self.wishes.set(index, wish, patterns);
        }
    }

    /// Applies the limit of the identity to the patterns from the index `first` on, for which `limit` counted before.
    pub(super) fn apply_limit(&mut self, first: usize, limit: Option<Rate>, out: &mut Outputs) {
        for wish in Rate::ALL.into_iter().map(Some).chain([None]) {
            if slower(wish, limit) == self.granted(wish) {
                continue;
            }
            let patterns = self.patterns.iter().enumerate().skip(first);
            let concerned = patterns.filter(|(index, _)| self.wishes.get(*index) == wish);
            let concerned = concerned.map(|(_, pattern)| pattern.clone()).collect();
            self.set_rate(concerned, wish, out);
        }
    }

    fn set_rate(&self, patterns: Vec<Pattern>, wish: Option<Rate>, out: &mut Outputs) {
        if !patterns.is_empty() {
            let max_rate = self.granted(wish);
            out.list.push(Output::SetRate { patterns, max_rate });
        }
    }
}
