//! Collects contradictions, each at the line of a key that takes part in it.

use crate::config::problem::{Origin, Problems};
use crate::config::visit::Given;

/// Where contradictions are reported.
pub(in crate::config) struct Check<'a> {
    given: &'a Given,
    problems: &'a mut Problems,
}

impl<'a> Check<'a> {
    pub(in crate::config) fn new(given: &'a Given, problems: &'a mut Problems) -> Self {
        Self { given, problems }
    }

    /// Whether nothing was refused so far.
    pub(in crate::config) fn is_fine(&self) -> bool {
        self.problems.is_empty()
    }

    /// Refuses `key`. The place told is its own or, when it is a default, that of its section.
    pub(in crate::config) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        self.problems.add(self.origin(key), key, message);
    }

    /// Refuses two keys that contradict each other; told at the first one that was written.
    pub(in crate::config) fn contradiction(&mut self, keys: [&str; 2], message: impl Into<String>) {
        let key = keys
            .into_iter()
            .find(|key| self.given.contains_key(*key))
            .unwrap_or(keys[0]);
        self.problems.add(self.origin(key), key, message);
    }

    /// Refuses `key` unless `fine`.
    pub(in crate::config) fn require(&mut self, fine: bool, key: &str, message: &str) {
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
