//! Prints sections as TOML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::declare::{Key, Section, Visitor};
use crate::config::problem::join;
use crate::config::value::Value;

/// `section` as TOML. Values that are not set are left out.
pub(in crate::config) fn print<S: Section>(mut section: S) -> String {
    let mut printer = Printer {
        text: String::new(),
        path: String::new(),
    };
    section.visit(&mut printer);
    printer.text
}

/// The value as TOML. Characters that act on a terminal or on the order of text are escaped.
pub(super) fn shown(value: &toml::Value) -> String {
    let text = value.to_string();
    if text.contains(tickgate_escape::is_unsafe) {
        escaped(value)
    } else {
        text
    }
}

fn escaped(value: &toml::Value) -> String {
    let string = |text: &str| {
        let mut out = String::from('"');
        for character in text.chars() {
            match character {
                '"' | '\\' => out.extend(['\\', character]),
                // These characters have at most 16 bits. Writing to a string cannot fail.
                _ if tickgate_escape::is_unsafe(character) => {
                    let _ = write!(out, "\\u{:04X}", u32::from(character));
                }
                _ => out.push(character),
            }
        }
        out + "\""
    };
    match value {
        toml::Value::String(text) => string(text),
        toml::Value::Array(array) => format!("[{}]", array.iter().map(escaped).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(table) => {
            let entry = |(name, value): (&String, &toml::Value)| format!("{} = {}", string(name), escaped(value));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
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
    fn value<T: Value>(&mut self, key: &Key<T>, value: &mut T) {
        if let Some(value) = value.write() {
            let _ = writeln!(self.text, "{} = {}", key.name, shown(&value));
        }
    }

    fn table<S: Section>(&mut self, key: &Key<S>, section: &mut S) {
        let path = join(&self.path, key.name);
        self.inside(&format!("[{path}]"), path, section);
    }

    fn tables<S: Section>(&mut self, key: &Key<Vec<S>>, sections: &mut Vec<S>) {
        let path = join(&self.path, key.name);
        for section in sections {
            self.inside(&format!("[[{path}]]"), path.clone(), section);
        }
    }

    fn named<S: Section>(&mut self, key: &Key<BTreeMap<String, S>>, sections: &mut BTreeMap<String, S>) {
        for (name, section) in sections {
            let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let name = if !name.is_empty() && name.bytes().all(is_bare) {
                name.clone()
            } else {
                shown(&toml::Value::String(name.clone()))
            };
            let path = format!("{}.{name}", join(&self.path, key.name));
            self.inside(&format!("[{path}]"), path, section);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_acts_on_nothing_and_is_read_back() {
        let text = "a\n[server]\u{202e}\u{9b}\u{1b}[2J\\\"'é";
        let mut table = toml::Table::new();
        table.insert(text.to_owned(), toml::Value::Array(vec![text.into(), 7.into()]));
        for value in [text.into(), toml::Value::Table(table), "plain 'text'".into()] {
            let printed = format!("key = {}", shown(&value));
            assert!(!printed.contains(tickgate_escape::is_unsafe), "{printed:?}");
            let read: toml::Table = printed.parse().unwrap_or_else(|error| panic!("{printed}: {error}"));
            assert_eq!(read["key"], value);
        }
    }
}
