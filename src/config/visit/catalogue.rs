//! Lists all keys with their types, defaults and documentation.

use std::collections::BTreeMap;

use crate::config::declare::{Key, Section, Visitor};
use crate::config::problem::join;
use crate::config::value::Value;

/// A table of the configuration with the keys that stand in it directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionDocumentation {
    /// The full name as a header in TOML, such as `[server]` or `[[auth.key]]`. `<name>` stands for a free name.
    pub header: String,
    /// What the section is for, in Markdown.
    pub documentation: &'static str,
    /// The keys, in the order of the declaration.
    pub keys: Vec<KeyDocumentation>,
}

/// What is declared about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDocumentation {
    /// The full name. `[]` stands for an element of an array of tables, `<name>` for a free name.
    pub name: String,
    /// The type of the values, in Markdown.
    pub kind: String,
    /// Whether the key must be given.
    pub required: bool,
    /// The default as TOML. `None`: the key is not set.
    pub default: Option<String>,
    /// What the key means, in Markdown.
    pub documentation: &'static str,
}

/// The sections of `S`, in the order of the declaration.
pub(in crate::config) fn catalogue<S: Section>() -> Vec<SectionDocumentation> {
    let mut catalogue = Catalogue {
        top: Vec::new(),
        sections: Vec::new(),
        section: 0,
        path: String::new(),
    };
    S::default().visit(&mut catalogue);
    catalogue.sections
}

struct Catalogue {
    /// The types of the sections at the top level, with their headers.
    top: Vec<(&'static str, String)>,
    sections: Vec<SectionDocumentation>,
    /// The index of the section that is visited.
    section: usize,
    path: String,
}

impl Catalogue {
    fn inside<S: Section>(&mut self, header: String, documentation: &'static str, path: String, section: &mut S) {
        let kind = std::any::type_name::<S>();
        if self.path.is_empty() {
            self.top.push((kind, header.clone()));
        } else if let Some((_, same)) = self.top.iter().find(|(known, _)| *known == kind) {
            // What may stand at the top level and within another section is listed once.
            let name = path.strip_suffix("[]").unwrap_or(&path).to_owned();
            self.sections[self.section].keys.push(KeyDocumentation {
                name,
                kind: format!("as `{same}`"),
                required: false,
                default: None,
                documentation: documentation.trim(),
            });
            return;
        }
        self.sections.push(SectionDocumentation {
            header,
            documentation: documentation.trim(),
            keys: Vec::new(),
        });
        let outer = (self.section, std::mem::replace(&mut self.path, path));
        self.section = self.sections.len() - 1;
        section.visit(self);
        (self.section, self.path) = outer;
    }
}

impl Visitor for Catalogue {
    fn value<T: Value>(&mut self, key: &Key<T>, value: &mut T) {
        self.sections[self.section].keys.push(KeyDocumentation {
            name: join(&self.path, key.name),
            kind: T::kind(),
            required: key.missing.is_some(),
            default: value.write().map(|value| value.to_string()),
            documentation: key.documentation.trim(),
        });
    }

    fn table<S: Section>(&mut self, key: &Key<S>, section: &mut S) {
        let path = join(&self.path, key.name);
        self.inside(
            format!("[{}]", path.replace("[]", "")),
            key.documentation,
            path,
            section,
        );
    }

    fn tables<S: Section>(&mut self, key: &Key<Vec<S>>, _: &mut Vec<S>) {
        let path = join(&self.path, key.name);
        let header = format!("[[{}]]", path.replace("[]", ""));
        self.inside(header, key.documentation, format!("{path}[]"), &mut S::default());
    }

    fn named<S: Section>(&mut self, key: &Key<BTreeMap<String, S>>, _: &mut BTreeMap<String, S>) {
        let path = format!("{}.<name>", join(&self.path, key.name));
        self.inside(format!("[{path}]"), key.documentation, path, &mut S::default());
    }
}
