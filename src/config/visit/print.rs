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
            let _ = writeln!(self.text, "{} = {value}", key.name);
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
                toml::Value::String(name.clone()).to_string()
            };
            let path = format!("{}.{name}", join(&self.path, key.name));
            self.inside(&format!("[{path}]"), path, section);
        }
    }
}
