//! What is wrong with a configuration, and where.
//!
//! Invariant: a problem's text names keys, lines and variables, never a value that could be a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file, on this line (the first is 1).
    Line(usize),
    /// In this environment variable.
    Variable(Box<str>),
    /// Nowhere: a default, or a key that is missing.
    Default,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// The key's full name, such as `server.listen`; empty when the file as a whole is meant.
    pub key: Box<str>,
    /// What is wrong with it.
    pub message: Box<str>,
}

/// Everything that is wrong, for people: one line each, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    file: Option<PathBuf>,
    list: Vec<Problem>,
}

impl Problems {
    /// No problem yet with `file`.
    #[must_use]
    pub fn in_file(file: Option<&Path>) -> Self {
        Self {
            file: file.map(Path::to_owned),
            list: Vec::new(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in the order found.
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
            match (&problem.origin, &self.file) {
                (Origin::Line(line), Some(file)) => write!(f, "{}:{line}: ", file.display())?,
                (Origin::Line(line), None) => write!(f, "line {line}: ")?,
                (Origin::Variable(name), _) => write!(f, "variable {name}: ")?,
                (Origin::Default, Some(file)) => write!(f, "{}: ", file.display())?,
                (Origin::Default, None) => f.write_str("configuration: ")?,
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
