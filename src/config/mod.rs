//! The operator's interface: one TOML file and `TICKGATE_` variables, checked once, into every room's settings.
//!
//! Invariant: a [`Config`] is complete and free of contradictions, every secret it names was found, and nothing in
//! it (nor in a problem's text) shows a secret.
//!
//! # Layout
//!
//! - `source`: the file and the environment as one tree in which every value knows where it stands.
//! - `visit`: one function per section names its keys, once; reading, printing and the catalogue of keys are three
//!   visitors of it.
//! - `value`: how one value is written in TOML.
//! - `model`: the sections, their defaults, and what contradicts what.
//! - `secrets`: keys from variables and files.
//! - `build`: from here to the settings of the rooms.

mod build;
mod model;
mod problem;
mod secrets;
mod source;
mod value;
mod visit;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use build::{NoKey, RunKeys};
pub use model::{Config, Format, Level};
pub use problem::{Origin, Problem, Problems};
pub use source::Environment;
pub use value::{duration_from_text, duration_text};

use model::check::Check;

impl Config {
    /// Reads `file` (none: nothing but defaults) and what `environment` sets, and checks the whole.
    ///
    /// # Errors
    ///
    /// All problems found, each with file, line and key: first those of the syntax alone, then those of keys and
    /// types, then contradictions and missing secrets.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, Problems> {
        let mut problems = Problems::in_file(file);
        let Some(tree) = source::read(file, environment, &mut problems) else {
            return Err(problems);
        };
        let mut config = Self::default();
        let given = visit::read(tree, &mut config, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut check = Check::new(&given, &mut problems);
        config.add_default_key(environment);
        config.check(&mut check);
        // Only then is it clear which secrets are meant.
        if check.is_fine() {
            config.secrets = secrets::resolve(&config, environment, &mut check);
        }
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The effective configuration as TOML that [`Config::load`] reads back to the same. Secrets are named by their
    /// variable or file and never shown.
    #[must_use]
    pub fn to_toml(&self) -> String {
        visit::print(self.clone())
    }

    /// Every key that can be written, with its default as TOML (`None`: unset), in the order of the sections.
    /// `[]` stands for an element of an array of tables, `<name>` for a table's free name.
    #[must_use]
    pub fn catalogue() -> Vec<(String, Option<String>)> {
        visit::catalogue::<Self>()
    }
}
