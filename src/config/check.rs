//! Collects what is wrong with values that were read, each at the line of a key that takes part in it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::problem::{Origin, Problems, join};

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

/// Accepts values from `min` on.
pub(super) fn at_least<T: PartialOrd + Display>(value: T, min: T) -> Result<(), String> {
    ensure(value >= min, format_args!("must be at least {min}"))
}

/// Accepts values up to `max`.
pub(super) fn at_most<T: PartialOrd + Display>(value: T, max: T) -> Result<(), String> {
    ensure(value <= max, format_args!("must be at most {max}"))
}

/// Accepts durations longer than zero.
pub(super) fn not_zero(duration: &Duration) -> Result<(), String> {
    ensure(!duration.is_zero(), "must be longer than 0s")
}

/// Accepts no text, and any but the empty one.
pub(super) fn not_empty(text: &Option<String>) -> Result<(), String> {
    ensure(text.as_deref() != Some(""), "must not be empty")
}
