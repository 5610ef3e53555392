//! How much of the log is written: one level, and others for single modules.
//!
//! The text is `info`, or `info,hub=debug,backend::commands=trace`. A module is named as in the crate's documentation, and its
//! level holds for the modules in it.

use std::fmt;
use std::str::FromStr;

/// The least important lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No lines.
    Off,
    /// Failures.
    Error,
    /// Also what an operator should look at.
    Warn,
    /// Also normal events that an operator wants to have on record.
    Info,
    /// Also details that help to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    const ALL: [(&'static str, Self); 6] = [
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(known, _)| *known == name).map(|(_, level)| level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].0)
    }
}

/// The modules that may have a level of their own, with all modules in them.
const MODULES: [&str; 19] = [
    "admin",
    "auth",
    "backend",
    "broker",
    "cli",
    "config",
    "event",
    "gateway",
    "hub",
    "ingress",
    "memory",
    "metrics",
    "pause",
    "redis",
    "session",
    "shard",
    "suspended",
    "sync",
    "time",
];

/// The level of all modules, and those of single ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The level of all other modules.
    pub all: Level,
    /// The modules, such as `backend::commands`, and their levels.
    pub modules: Vec<(Box<str>, Level)>,
}

/// A text is not a level, or names a module that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// A part of the text is no level.
    #[error("must be off, error, warn, info, debug or trace, and may be followed by modules: \"info,hub=debug\"")]
    Syntax,
    /// There is no such module.
    #[error("there is no module {0:?}; the modules are {list}", list = MODULES.join(", "))]
    Module(String),
    /// A module is named twice.
    #[error("the module {0:?} is named twice")]
    Twice(String),
}

impl Levels {
    /// The level of a module.
    #[must_use]
    pub fn level_of(&self, module: &str) -> Level {
        let holds = |name: &str| {
            module
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let named = self.modules.iter().filter(|(name, _)| holds(name));
        named
            .max_by_key(|(name, _)| name.len())
            .map_or(self.all, |(_, level)| *level)
    }

    /// One level for all modules.
    #[must_use]
    pub const fn of(all: Level) -> Self {
        Self {
            all,
            modules: Vec::new(),
        }
    }
}

impl FromStr for Levels {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        let mut parts = text.split(',').map(str::trim);
        let all = parts.next().and_then(Level::named).ok_or(LevelError::Syntax)?;
        let mut levels = Self::of(all);
        for part in parts {
            let (module, level) = part.split_once('=').ok_or(LevelError::Syntax)?;
            let level = Level::named(level).ok_or(LevelError::Syntax)?;
            let is_name =
                |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let mut names = module.split("::");
            let is_known = names.next().is_some_and(|first| MODULES.contains(&first)) && names.all(is_name);
            if !is_known {
                return Err(LevelError::Module(module.to_owned()));
            }
            if levels.modules.iter().any(|(known, _)| **known == *module) {
                return Err(LevelError::Twice(module.to_owned()));
            }
            levels.modules.push((module.into(), level));
        }
        Ok(levels)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)?;
        self.modules
            .iter()
            .try_for_each(|(module, level)| write!(f, ",{module}={level}"))
    }
}

/// Changes the levels of a running gateway.
pub trait LevelControl: fmt::Debug + Send + Sync {
    /// The present levels.
    fn levels(&self) -> Levels;
    /// The levels of the configuration.
    fn configured(&self) -> Levels;
    /// Changes the levels until the next call or reload.
    fn set_levels(&self, levels: &Levels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written_alike() {
        for text in [
            "off",
            "info",
            "warn,hub=debug",
            "error,backend::commands=trace,shard=info",
        ] {
            assert_eq!(text.parse::<Levels>().expect(text).to_string(), text);
        }
        let levels: Levels = "warn,hub=debug,hub::snapshot=off".parse().expect("levels");
        for (module, level) in [
            ("hub", Level::Debug),
            ("hub::state::page", Level::Debug),
            ("hub::snapshot::save", Level::Off),
            ("hubs", Level::Warn),
        ] {
            assert_eq!(levels.level_of(module), level, "{module}");
        }
        let spaced: Levels = "info, hub=debug".parse().expect("spaces are ignored");
        assert_eq!(spaced.to_string(), "info,hub=debug");
        for (text, error) in [
            ("", LevelError::Syntax),
            ("loud", LevelError::Syntax),
            ("hub=debug", LevelError::Syntax),
            ("info,hub", LevelError::Syntax),
            ("info,hub=loud", LevelError::Syntax),
            ("info,hubs=debug", LevelError::Module("hubs".to_owned())),
            ("info,hub::=debug", LevelError::Module("hub::".to_owned())),
            ("info,hub=debug,hub=trace", LevelError::Twice("hub".to_owned())),
        ] {
            assert_eq!(text.parse::<Levels>(), Err(error), "{text}");
        }
    }

    #[test]
    fn every_module_of_the_crate_has_a_level() {
        let declared = include_str!("lib.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        let mut declared: Vec<_> = declared
            .filter(|module| *module != "log_level")
            .chain(["cli"])
            .collect();
        declared.sort_unstable();
        assert_eq!(declared, MODULES);
    }
}
