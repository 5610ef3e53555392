//! The configuration: one TOML file and `TICKGATE_` variables, checked once and turned into every module's settings.
//!
//! Invariant: a [`Config`] is complete and free of contradictions, and every secret that it names was found. Neither a
//! `Config` nor the text of a problem shows a secret.
//!
//! A key is declared once, in `sections`: its name, type, default, check and documentation. Everything else is derived
//! from the declaration, including the tables in `docs/configuration.md`. There is no configuration library here because
//! those that exist (`serde` with `toml`, `figment`) stop at the first error or lose its line, and print no defaults.
//!
//! # Layout
//!
//! - `source`: reads the file and the environment into one tree in which every value knows where it was written.
//! - `value`: the types of values and how they are written in TOML.
//! - `declare`: the macro that declares a section.
//! - `sections`: the declarations, their rules, and the conversion into settings.
//! - `visit`: reads, prints, validates and catalogues whatever is declared.
//! - `check`, `problem`: problems and where they are.
//! - `secrets`: keys from variables and files.
//! - `gateway`: the settings of the gateway as a whole.
//! - `reload`: what a running gateway takes over from a changed configuration.
//! - `run_keys`: keys for a run without configured keys.
//! - `warnings`: settings that are valid but probably not intended.

mod check;
mod declare;
mod explain;
mod gateway;
mod problem;
mod reload;
mod run_keys;
mod secrets;
mod sections;
mod source;
mod value;
mod visit;
mod warnings;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use problem::{Origin, Problem, Problems};
pub use reload::{Changes, restart_reason};
pub use run_keys::{NoKey, RunKeys};
pub use sections::{AuditMode, Format};
pub use source::Environment;
pub use value::{duration_from_text, duration_text};
pub use visit::{EffectiveKey, KeyDocumentation, SectionDocumentation};

use crate::log_level::Levels;
use check::{Check, Given};
use secrets::Secrets;
use sections::{DialectName, Endpoint, Sections};

/// The whole configuration. The default is that of an empty file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    sections: Sections,
    /// The secrets that the sections name. They are never printed.
    secrets: Secrets,
    /// Where the keys that are given were written.
    given: Given,
}

impl Config {
    /// Reads `file` and lays the variables of `environment` over it. `None`: every key that no variable sets has its
    /// default.
    ///
    /// # Errors
    ///
    /// All problems of the first of these kinds that occurs, each with file, line and key: malformed TOML; unknown keys
    /// and wrong types; values that are out of range or contradict each other; missing or unsuitable secrets.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, Problems> {
        let mut problems = Problems::in_file(file);
        let Some(tree) = source::read(file, environment, &mut problems) else {
            return Err(problems);
        };
        let mut config = Self::default();
        let given = visit::read(tree, &mut config.sections, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        if !config.sections.tenants.is_empty() && !given.contains_key("endpoint") {
            // The built-in endpoints are for a file without tenants: their paths are those of applications.
            config.sections.endpoints.clear();
        }
        secrets::add_default_key(&mut config.sections, environment);
        let mut check = Check::new(&given, &mut problems);
        visit::validate(&mut config.sections, &mut check);
        if check.is_fine() {
            config.secrets = secrets::resolve(&config.sections, environment, &mut check);
        }
        config.given = given;
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Every key with its value and where that was written. Secrets appear by the name of their variable or file only.
    #[must_use]
    pub fn effective(&self) -> Vec<EffectiveKey> {
        visit::describe(self.sections.clone(), &self.given)
    }

    /// The effective configuration as TOML, from which [`Config::load`] reads the same configuration. Secrets appear by
    /// the name of their variable or file only.
    #[must_use]
    pub fn to_toml(&self) -> String {
        visit::print(self.sections.clone())
    }

    /// The built-in classes of channels as commented `[[channel]]` tables. They stand behind those of the file.
    #[must_use]
    pub fn built_in_classes() -> String {
        sections::built_in_classes()
    }

    /// All sections and keys that exist, in the order of their declaration.
    #[must_use]
    pub fn catalogue() -> Vec<SectionDocumentation> {
        visit::catalogue::<Sections>()
    }

    /// How to log.
    #[must_use]
    pub fn log(&self) -> (Format, Levels, AuditMode) {
        let log = &self.sections.log;
        (log.format, log.level.clone(), log.audit)
    }

    /// The file of `state.snapshot`.
    #[must_use]
    pub fn snapshot_path(&self) -> Option<&Path> {
        self.sections.state.snapshot.as_deref()
    }

    /// The path of the first endpoint of the native dialect.
    #[must_use]
    pub fn native_path(&self) -> Option<&str> {
        let is_native = |endpoint: &&Endpoint| endpoint.dialect == Some(DialectName::Native);
        self.sections.endpoints.iter().find(is_native)?.path.as_deref()
    }
}
