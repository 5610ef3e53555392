//! The configuration file. Any text is accepted or refused with at least one problem. An accepted configuration is printed as
//! a file that is accepted again and prints the same.

use std::cell::RefCell;
use std::io::Write as _;

use tempfile::NamedTempFile;
use tickgate::config::{Config, Environment};

thread_local! {
    static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
}

/// One fuzz input: a file.
pub fn check_input(data: &[u8]) {
    let environment = Environment::of([("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
    match load(data, &environment) {
        Err(problems) => assert!(!problems.is_empty()),
        Ok(config) => {
            let printed = config.to_toml();
            let again =
                load(printed.as_bytes(), &environment).unwrap_or_else(|problems| panic!("{problems}\nof\n{printed}"));
            assert_eq!(again.to_toml(), printed);
            let _ = config.warnings(&environment);
        }
    }
}

fn load(text: &[u8], environment: &Environment) -> Result<Config, tickgate::config::Problems> {
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| NamedTempFile::new().expect("a file"));
        file.as_file().set_len(0).expect("emptied");
        std::io::Seek::rewind(file).expect("at its start");
        file.write_all(text).expect("written");
        Config::load(Some(file.path()), environment)
    })
}
