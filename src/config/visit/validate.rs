//! Applies the declared checks to values that were read.

use std::collections::BTreeMap;

use crate::config::check::Check;
use crate::config::declare::{Key, Section, Visitor};
use crate::config::value::Value;

/// Checks every key of `section` and then its rules, and reports to `check`, which stands at the section.
pub(in crate::config) fn validate<S: Section>(section: &mut S, check: &mut Check<'_>) {
    section.visit(&mut Validator { check });
    section.check_rules(check);
}

struct Validator<'a, 'b> {
    check: &'a mut Check<'b>,
}

impl Validator<'_, '_> {
    fn apply<T>(&mut self, key: &Key<T>, value: &T) {
        if let Err(message) = (key.check)(value) {
            self.check.refuse(key.name, message);
        }
    }
}

impl Visitor for Validator<'_, '_> {
    fn value<T: Value>(&mut self, key: &Key<T>, value: &mut T) {
        match key.missing {
            Some(message) if value.write().is_none() => self.check.refuse(key.name, message),
            _ => self.apply(key, value),
        }
    }

    fn table<S: Section>(&mut self, key: &Key<S>, section: &mut S) {
        self.apply(key, section);
        self.check.inside(key.name, |check| validate(section, check));
    }

    fn tables<S: Section>(&mut self, key: &Key<Vec<S>>, sections: &mut Vec<S>) {
        self.apply(key, sections);
        for (index, section) in sections.iter_mut().enumerate() {
            let element = format!("{}[{index}]", key.name);
            self.check.inside(&element, |check| validate(section, check));
        }
    }

    fn named<S: Section>(&mut self, key: &Key<BTreeMap<String, S>>, sections: &mut BTreeMap<String, S>) {
        self.apply(key, sections);
        for (name, section) in sections {
            let table = format!("{}.{name}", key.name);
            self.check.inside(&table, |check| validate(section, check));
        }
    }
}
