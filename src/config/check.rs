//! Collects what is wrong with values that were read, each at the line of a key that takes part in it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::problem::{Origin, Problems, join};
use super::value::duration_text;
use tickgate_protocol::message::is_event_name;

/// Where each given key was written, by its full name.
pub(super) type Given = BTreeMap<String, Origin>;

/// Reports problems of the section that it stands at. Names of keys are relative to that section; the empty name is the
/// section itself.
pub(super) struct Check<'a> {
    given: &'a Given,
    problems: &'a mut Problems,
    path: String,
}

impl<'a> Check<'a> {
    /// Stands at the file as a whole.
    pub(super) fn new(given: &'a Given, problems: &'a mut Problems) -> Self {
        Self {
            given,
            problems,
            path: String::new(),
        }
    }

    /// Whether nothing was refused so far.
    pub(super) fn is_fine(&self) -> bool {
        self.problems.is_empty()
    }

    /// Does `work` while this stands at `section`, which is relative to where it stands now.
    pub(super) fn inside(&mut self, section: &str, work: impl FnOnce(&mut Self)) {
        let inner = join(&self.path, section);
        let outer = std::mem::replace(&mut self.path, inner);
        work(self);
        self.path = outer;
    }

    /// Refuses `key`. The problem's origin is the key or, if the key was not given, the section that holds it.
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let key = join(&self.path, key);
        self.problems.add(self.origin(&key), &key, message);
    }

    /// Refuses two keys that contradict each other. The problem is reported at the first of them that was given.
    pub(super) fn contradiction(&mut self, keys: [&str; 2], message: impl Into<String>) {
        let is_given = |key: &&str| self.given.contains_key(&join(&self.path, key));
        let key = keys.into_iter().find(is_given).unwrap_or(keys[0]);
        self.refuse(key, message);
    }

    /// Refuses `key` unless `fine`.
    pub(super) fn require(&mut self, fine: bool, key: &str, message: &str) {
        if !fine {
            self.refuse(key, message);
        }
    }

    /// Whether `key` was given.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(&join(&self.path, key))
    }

    fn origin(&self, key: &str) -> Origin {
        let mut name = key;
        loop {
            if let Some(origin) = self.given.get(name) {
                return origin.clone();
            }
            match name.rfind('.') {
                Some(dot) => name = &name[..dot],
                None => return Origin::Default,
            }
        }
    }
}

/// Accepts `fine` values. The error is `message`.
pub(super) fn ensure(fine: bool, message: impl Display) -> Result<(), String> {
    if fine { Ok(()) } else { Err(message.to_string()) }
}

/// Adds the reason to the message of a bound.
pub(super) trait Because {
    /// The message, followed by `why`.
    fn because(self, why: &str) -> Self;
}

impl Because for Result<(), String> {
    fn because(self, why: &str) -> Self {
        self.map_err(|message| format!("{message}: {why}"))
    }
}

/// Accepts values from `min` on.
pub(super) fn at_least<T: PartialOrd + Display>(value: T, min: T) -> Result<(), String> {
    ensure(value >= min, format_args!("must be at least {min}"))
}

/// Accepts values up to `max`.
pub(super) fn at_most<T: PartialOrd + Display>(value: T, max: T) -> Result<(), String> {
    ensure(value <= max, format_args!("must be at most {max}"))
}

/// The longest time for which new connections wait.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// The longest duration of one request or step.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// The longest time between two pings, polls or saves.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Accepts durations up to `max`.
pub(super) fn no_longer_than(duration: &Duration, max: Duration) -> Result<(), String> {
    ensure(*duration <= max, format_args!("must be at most {}", duration_text(max)))
}

/// Accepts durations longer than zero.
pub(super) fn not_zero(duration: &Duration) -> Result<(), String> {
    ensure(!duration.is_zero(), "must be longer than 0s")
}

/// Accepts no text, and one that can be the name of an event.
pub(super) fn event_name(name: Option<&str>) -> Result<(), String> {
    ensure(
        name.is_none_or(is_event_name),
        "must have 1 to 128 bytes and no control characters",
    )
}

/// Accepts no text, and any but an empty or blank one. Taking an empty security setting for an unset one would open what
/// it is meant to close, so it is refused.
pub(super) fn not_blank(text: &Option<String>) -> Result<(), String> {
    let is_blank = text.as_deref().is_some_and(|text| text.trim().is_empty());
    ensure(!is_blank, "must not be empty")
}
