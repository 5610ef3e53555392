//! Problems of a configuration and where they are.
//!
//! Invariant: the text of a problem names keys, lines and variables, never a value that could be a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On this line of the file. The first line is 1.
    Line(usize),
    /// In this environment variable.
    Variable(Box<str>),
    /// Nowhere: it is a default, or a key is missing.
    Default,
}

/// The full name of `key` in the section `path`. Either may be empty.
pub(super) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", name) | (name, "") => name.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub origin: Origin,
    /// The full name of the key, such as `server.listen`. Empty: the file as a whole.
    pub key: Box<str>,
    /// What is wrong.
    pub message: Box<str>,
}

/// All problems of a configuration. `Display` writes one line for each, in the order of the file, with escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    file: Option<PathBuf>,
    list: Vec<Problem>,
}

impl Problems {
    /// An empty list of problems of `file`.
    #[must_use]
    pub fn in_file(file: Option<&Path>) -> Self {
        Self {
            file: file.map(Path::to_owned),
            list: Vec::new(),
        }
    }

    /// Whether there are no problems.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems, in the order in which they were found.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    pub(super) fn add(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.list.push(Problem {
            origin,
            key: key.into(),
            message: message.into().into(),
        });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Problem> = self.list.iter().collect();
        sorted.sort_by_key(|problem| match problem.origin {
            Origin::Line(line) => (0, line),
            Origin::Variable(_) => (1, 0),
            Origin::Default => (2, 0),
        });
        for (index, problem) in sorted.into_iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let place = match (&problem.origin, &self.file) {
                (Origin::Line(line), Some(file)) => format!("{}:{line}", file.display()),
                (Origin::Line(line), None) => format!("line {line}"),
                (Origin::Variable(name), _) => format!("variable {name}"),
                (Origin::Default, Some(file)) => file.display().to_string(),
                (Origin::Default, None) => "configuration".to_owned(),
            };
            let key = if problem.key.is_empty() {
                String::new()
            } else {
                format!("{}: ", problem.key)
            };
            // Keys, values and names of variables may hold anything.
            f.write_str(&tickgate_escape::line(&format!("{place}: {key}{}", problem.message)))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
