//! Lists every key with its value and where the value was written, for people.

use std::collections::BTreeMap;

use super::print::shown;
use crate::config::check::Given;
use crate::config::declare::{Key, Section, Visitor};
use crate::config::problem::{Origin, join};
use crate::config::value::Value;

/// One key of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveKey {
    /// The full name, such as `server.listen` or `channel[0].pattern`.
    pub key: String,
    /// The value as TOML; `None`: it is not set. A secret appears by the name of its variable or file only.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Origin,
}

/// Every key of `section`, in the order of their declaration.
pub(in crate::config) fn describe<S: Section>(mut section: S, given: &Given) -> Vec<EffectiveKey> {
    let mut describer = Describer {
        path: String::new(),
        given,
        keys: Vec::new(),
    };
    section.visit(&mut describer);
    describer.keys
}

struct Describer<'a> {
    path: String,
    given: &'a Given,
    keys: Vec<EffectiveKey>,
}

impl Describer<'_> {
    fn inside<S: Section>(&mut self, path: String, section: &mut S) {
        let outer = std::mem::replace(&mut self.path, path);
        section.visit(self);
        self.path = outer;
    }
}

impl Visitor for Describer<'_> {
    fn value<T: Value>(&mut self, key: &Key<T>, value: &mut T) {
        let name = join(&self.path, key.name);
        self.keys.push(EffectiveKey {
            value: value.write().map(|value| shown(&value)),
            origin: self.given.get(&name).cloned().unwrap_or(Origin::Default),
            key: name,
        });
    }

    fn table<S: Section>(&mut self, key: &Key<S>, section: &mut S) {
        let path = join(&self.path, key.name);
        self.inside(path, section);
    }

    fn tables<S: Section>(&mut self, key: &Key<Vec<S>>, sections: &mut Vec<S>) {
        let path = join(&self.path, key.name);
        for (index, section) in sections.iter_mut().enumerate() {
            self.inside(format!("{path}[{index}]"), section);
        }
    }

    fn named<S: Section>(&mut self, key: &Key<BTreeMap<String, S>>, sections: &mut BTreeMap<String, S>) {
        let path = join(&self.path, key.name);
        for (name, section) in sections {
            self.inside(join(&path, name), section);
        }
    }
}
