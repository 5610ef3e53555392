//! Reads the tree of the file and the environment into sections.

use std::collections::BTreeMap;

use crate::config::check::Given;
use crate::config::declare::{Key, Section, Visitor};
use crate::config::problem::{Origin, Problems, join};
use crate::config::source::{Content, Node, Table};
use crate::config::value::Value;

/// Reads `tree` into `section` and returns where each key was written. Keys that are unknown or have a wrong type are
/// added to `problems`.
pub(in crate::config) fn read<S: Section>(tree: Table, section: &mut S, problems: &mut Problems) -> Given {
    let mut given = Given::new();
    Reader {
        table: tree,
        path: String::new(),
        known: Vec::new(),
        given: &mut given,
        problems,
    }
    .run(section);
    given
}

struct Reader<'a> {
    /// What is left of the section's table.
    table: Table,
    path: String,
    known: Vec<&'static str>,
    given: &'a mut Given,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn run<S: Section>(mut self, section: &mut S) {
        section.visit(&mut self);
        for (key, node) in std::mem::take(&mut self.table) {
            let message = format!("unknown key (known here: {})", self.known.join(", "));
            self.problems.add(node.origin, &join(&self.path, &key), message);
        }
    }

    fn take(&mut self, name: &'static str) -> Option<(String, Node)> {
        self.known.push(name);
        let node = self.table.remove(name)?;
        let path = join(&self.path, name);
        self.given.insert(path.clone(), node.origin.clone());
        Some((path, node))
    }

    fn inner<S: Section>(&mut self, path: String, node: Node, section: &mut S) {
        self.given.insert(path.clone(), node.origin.clone());
        match node.content {
            Content::Table(table) => {
                Reader {
                    table,
                    path,
                    known: Vec::new(),
                    given: self.given,
                    problems: self.problems,
                }
                .run(section);
            }
            other => self
                .problems
                .add(node.origin, &path, format!("expected a table, found {}", other.kind())),
        }
    }
}

impl Visitor for Reader<'_> {
    fn value<T: Value>(&mut self, key: &Key<T>, value: &mut T) {
        let Some((path, node)) = self.take(key.name) else {
            return;
        };
        match T::read(&node) {
            Ok(read) => *value = read,
            Err(refusal) => self
                .problems
                .add(refusal.origin.unwrap_or(node.origin), &path, refusal.message),
        }
    }

    fn table<S: Section>(&mut self, key: &Key<S>, section: &mut S) {
        if let Some((path, node)) = self.take(key.name) {
            self.inner(path, node, section);
        }
    }

    fn tables<S: Section>(&mut self, key: &Key<Vec<S>>, sections: &mut Vec<S>) {
        let Some((path, node)) = self.take(key.name) else {
            return;
        };
        match (node.content, &node.origin) {
            (Content::List(list), _) => {
                sections.clear();
                for (index, node) in list.into_iter().enumerate() {
                    let mut section = S::default();
                    self.inner(format!("{path}[{index}]"), node, &mut section);
                    sections.push(section);
                }
            }
            (_, Origin::Variable(_)) => {
                let message = "is an array of tables: it can be set in the file only";
                self.problems.add(node.origin, &path, message);
            }
            (other, _) => {
                let message = format!("expected an array of tables ([[{path}]]), found {}", other.kind());
                self.problems.add(node.origin, &path, message);
            }
        }
    }

    fn named<S: Section>(&mut self, key: &Key<BTreeMap<String, S>>, sections: &mut BTreeMap<String, S>) {
        let Some((path, node)) = self.take(key.name) else {
            return;
        };
        let Content::Table(table) = node.content else {
            let message = format!("expected tables ([{path}.<name>]), found {}", node.content.kind());
            return self.problems.add(node.origin, &path, message);
        };
        for (name, node) in table {
            let path = join(&path, &name);
            self.inner(path, node, sections.entry(name).or_default());
        }
    }

    fn refused(&mut self, name: &'static str, why: &str) {
        if let Some(node) = self.table.remove(name) {
            self.problems.add(node.origin, &join(&self.path, name), why);
        }
    }
}
