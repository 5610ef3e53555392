//! Reads the file and the environment into one tree in which every value knows where it was written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::{Origin, Problems};

/// The beginning of the names of the gateway's variables.
const PREFIX: &str = "TICKGATE_";

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A type that no key has, such as a date.
    Other(&'static str),
    /// A value from the environment: the text, and the text read as TOML if it is TOML. A key that wants a text takes the
    /// text, so a variable needs no quotes inside the shell's quotes.
    Variable {
        text: String,
        typed: Option<Box<Node>>,
    },
}

pub(super) type Table = BTreeMap<String, Node>;

/// The environment variables of a process.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The variables of this process. Names that are not UTF-8 are left out: no key has such a name.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
        )
    }

    /// An environment of these names and values.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
        )
    }

    /// Sets a variable. The environment of the process does not change.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The names of the variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The value of a variable. `None`: it is not set, or is not UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str()
    }
}

impl Content {
    /// The type, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
            Self::Variable { typed, .. } => typed.as_ref().map_or("a string", |node| node.content.kind()),
        }
    }
}

/// The tree of `file` with the variables laid over it. `None`: the file cannot be read or is not TOML. The reasons are in
/// `problems`.
pub(super) fn read(file: Option<&Path>, environment: &Environment, problems: &mut Problems) -> Option<Table> {
    let text = match file.map(std::fs::read_to_string) {
        None => String::new(),
        Some(Ok(text)) => text,
        Some(Err(error)) => {
            problems.add(Origin::Default, "", format!("cannot be read: {error}"));
            return None;
        }
    };
    let lines = Lines::of(&text);
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        // `Display` would quote the line, which may hold a secret in the wrong place.
        let origin = error.span().map_or(Origin::Default, |span| lines.at(&span));
        problems.add(origin, "", format!("is not TOML: {}", error.message()));
    }
    if !problems.is_empty() {
        return None;
    }
    let mut tree = table(document.get_ref(), &lines);
    overlay(&mut tree, environment, problems);
    Some(tree)
}

/// The byte offsets at which the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(
            std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
        )
    }

    fn at(&self, span: &Range<usize>) -> Origin {
        Origin::Line(self.0.partition_point(|&begin| begin <= span.start))
    }
}

fn table(from: &DeTable<'_>, lines: &Lines) -> Table {
    let entry = |(key, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let node = Node {
            content: content(value.get_ref(), lines),
            // The line of the key. The value may begin on a later line.
            origin: lines.at(&key.span()),
        };
        (key.get_ref().clone().into_owned(), node)
    };
    from.iter().map(entry).collect()
}

fn content(from: &DeValue<'_>, lines: &Lines) -> Content {
    match from {
        DeValue::String(text) => Content::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => parse_integer(integer),
        DeValue::Float(float) => Content::Float(float.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(truth) => Content::Boolean(*truth),
        DeValue::Datetime(_) => Content::Other("a date or time"),
        DeValue::Array(list) => Content::List(
            list.iter()
                .map(|value| Node {
                    content: content(value.get_ref(), lines),
                    origin: lines.at(&value.span()),
                })
                .collect(),
        ),
        DeValue::Table(inner) => Content::Table(table(inner, lines)),
    }
}

fn parse_integer(integer: &DeInteger<'_>) -> Content {
    i64::from_str_radix(integer.as_str(), integer.radix())
        .map_or(Content::Other("an integer beyond 64 bits"), Content::Integer)
}

/// Sets key `a.b` for every variable `TICKGATE_A__B`.
fn overlay(tree: &mut Table, environment: &Environment, problems: &mut Problems) {
    for (name, value) in &environment.0 {
        let Some(path) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else {
            continue;
        };
        let path = path.to_ascii_lowercase();
        let origin = Origin::Variable(name.as_str().into());
        let key = path.replace("__", ".");
        let Some(text) = value.to_str() else {
            problems.add(origin, &key, "is not UTF-8");
            continue;
        };
        // A variable that is made from a file ends with the file's line end.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if let Err(message) = set(tree, &path, variable(text, &origin), &origin) {
            problems.add(origin, &key, message);
        }
    }
}

fn variable(text: &str, origin: &Origin) -> Node {
    let typed = DeValue::parse(text).ok().map(|value| {
        let mut content = content(value.get_ref(), &Lines::of(text));
        adopt(&mut content, origin);
        Box::new(Node {
            content,
            origin: origin.clone(),
        })
    });
    Node {
        content: Content::Variable {
            text: text.to_owned(),
            typed,
        },
        origin: origin.clone(),
    }
}

/// Sets the origin of everything inside `content`.
fn adopt(content: &mut Content, origin: &Origin) {
    let children: Box<dyn Iterator<Item = &mut Node>> = match content {
        Content::List(list) => Box::new(list.iter_mut()),
        Content::Table(table) => Box::new(table.values_mut()),
        _ => return,
    };
    for node in children {
        node.origin = origin.clone();
        adopt(&mut node.content, origin);
    }
}

/// Sets the key that `path` names, with `__` between its parts. The error is a message.
fn set(tree: &mut Table, path: &str, node: Node, origin: &Origin) -> Result<(), String> {
    let (parents, key) = path.rsplit_once("__").ok_or("names no section")?;
    let mut table = tree;
    for parent in parents.split("__") {
        let new = || Node {
            content: Content::Table(Table::new()),
            origin: origin.clone(),
        };
        let inner = table.entry(parent.to_owned()).or_insert_with(new);
        match &mut inner.content {
            Content::Table(inner) => table = inner,
            Content::List(_) => {
                return Err(format!(
                    "`{parent}` is an array of tables: variables set single keys only"
                ));
            }
            _ => return Err(format!("`{parent}` is not a table")),
        }
    }
    table.insert(key.to_owned(), node);
    Ok(())
}
