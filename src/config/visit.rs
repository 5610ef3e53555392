//! A section names its keys once, in [`Section::visit`]; reading, printing and cataloguing are visitors of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::problem::{Origin, Problems};
use super::source::{Content, Node, Table};
use super::value::Value;

/// A table of the file. Its `Default` holds the defaults of its keys.
pub(super) trait Section: Default {
    /// Shows every key to `visitor`: plain values first, then tables, as TOML wants it.
    fn visit<V: Visitor>(&mut self, visitor: &mut V);
}

/// What can be done with every key of a section.
pub(super) trait Visitor: Sized {
    /// A plain value.
    fn value<T: Value>(&mut self, key: &'static str, value: &mut T);
    /// A table: `[key]`.
    fn table<S: Section>(&mut self, key: &'static str, section: &mut S);
    /// An array of tables: `[[key]]`. Any given replaces all defaults.
    fn tables<S: Section>(&mut self, key: &'static str, sections: &mut Vec<S>);
    /// Tables with free names: `[key.<name>]`. One with a known name changes the keys it gives.
    fn named<S: Section>(&mut self, key: &'static str, sections: &mut BTreeMap<String, S>);
    /// A key that people try and that is not taken; `why` says what to do instead.
    fn refused(&mut self, key: &'static str, why: &str) {
        let _ = (key, why);
    }
    /// A key that this version does not have; `what` says what it would be.
    fn unsupported(&mut self, key: &'static str, what: &str) {
        self.refused(key, &format!("{what}: not supported by this version"));
    }
}

/// Where each given key was written, by its full name.
pub(super) type Given = BTreeMap<String, Origin>;

/// Reads `tree` into `section`.
pub(super) fn read<S: Section>(tree: Table, section: &mut S, problems: &mut Problems) -> Given {
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

/// `section` as TOML.
pub(super) fn print<S: Section>(mut section: S) -> String {
    let mut printer = Printer {
        text: String::new(),
        path: String::new(),
    };
    section.visit(&mut printer);
    printer.text
}

/// Every key that `S` knows, with its default.
pub(super) fn catalogue<S: Section>() -> Vec<(String, Option<String>)> {
    let mut catalogue = Catalogue {
        keys: Vec::new(),
        path: String::new(),
    };
    S::default().visit(&mut catalogue);
    catalogue.keys
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

struct Reader<'a> {
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

    fn take(&mut self, key: &'static str) -> Option<(String, Node)> {
        self.known.push(key);
        let node = self.table.remove(key)?;
        let path = join(&self.path, key);
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
    fn value<T: Value>(&mut self, key: &'static str, value: &mut T) {
        let Some((path, node)) = self.take(key) else { return };
        match T::read(&node) {
            Ok(read) => *value = read,
            Err(refusal) => self
                .problems
                .add(refusal.origin.unwrap_or(node.origin), &path, refusal.message),
        }
    }

    fn table<S: Section>(&mut self, key: &'static str, section: &mut S) {
        if let Some((path, node)) = self.take(key) {
            self.inner(path, node, section);
        }
    }

    fn tables<S: Section>(&mut self, key: &'static str, sections: &mut Vec<S>) {
        let Some((path, node)) = self.take(key) else { return };
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
                self.problems.add(
                    node.origin,
                    &path,
                    "is an array of tables: it can be set in the file only",
                );
            }
            (other, _) => {
                let message = format!("expected an array of tables ([[{path}]]), found {}", other.kind());
                self.problems.add(node.origin, &path, message);
            }
        }
    }

    fn named<S: Section>(&mut self, key: &'static str, sections: &mut BTreeMap<String, S>) {
        let Some((path, node)) = self.take(key) else { return };
        let Content::Table(table) = node.content else {
            let message = format!("expected tables ([{path}.<name>]), found {}", node.content.kind());
            return self.problems.add(node.origin, &path, message);
        };
        for (name, node) in table {
            let path = join(&path, &name);
            self.inner(path, node, sections.entry(name).or_default());
        }
    }

    fn refused(&mut self, key: &'static str, why: &str) {
        if let Some(node) = self.table.remove(key) {
            self.problems.add(node.origin, &join(&self.path, key), why);
        }
    }
}

struct Printer {
    text: String,
    path: String,
}

impl Printer {
    fn inside<S: Section>(&mut self, header: &str, path: String, section: &mut S) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{header}");
        let outer = std::mem::replace(&mut self.path, path);
        section.visit(self);
        self.path = outer;
    }
}

impl Visitor for Printer {
    fn value<T: Value>(&mut self, key: &'static str, value: &mut T) {
        if let Some(value) = value.write() {
            let _ = writeln!(self.text, "{key} = {value}");
        }
    }

    fn table<S: Section>(&mut self, key: &'static str, section: &mut S) {
        let path = join(&self.path, key);
        self.inside(&format!("[{path}]"), path, section);
    }

    fn tables<S: Section>(&mut self, key: &'static str, sections: &mut Vec<S>) {
        let path = join(&self.path, key);
        for section in sections {
            self.inside(&format!("[[{path}]]"), path.clone(), section);
        }
    }

    fn named<S: Section>(&mut self, key: &'static str, sections: &mut BTreeMap<String, S>) {
        for (name, section) in sections {
            let bare = !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let name = if bare {
                name.clone()
            } else {
                toml::Value::String(name.clone()).to_string()
            };
            let path = format!("{}.{name}", join(&self.path, key));
            self.inside(&format!("[{path}]"), path, section);
        }
    }
}

struct Catalogue {
    keys: Vec<(String, Option<String>)>,
    path: String,
}

impl Catalogue {
    fn inside<S: Section>(&mut self, path: String, section: &mut S) {
        let outer = std::mem::replace(&mut self.path, path);
        section.visit(self);
        self.path = outer;
    }
}

impl Visitor for Catalogue {
    fn value<T: Value>(&mut self, key: &'static str, value: &mut T) {
        self.keys
            .push((join(&self.path, key), value.write().map(|value| value.to_string())));
    }

    fn table<S: Section>(&mut self, key: &'static str, section: &mut S) {
        self.inside(join(&self.path, key), section);
    }

    fn tables<S: Section>(&mut self, key: &'static str, _: &mut Vec<S>) {
        self.inside(format!("{}[]", join(&self.path, key)), &mut S::default());
    }

    fn named<S: Section>(&mut self, key: &'static str, _: &mut BTreeMap<String, S>) {
        self.inside(format!("{}.<name>", join(&self.path, key)), &mut S::default());
    }
}
