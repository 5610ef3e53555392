//! The operator's interface: one TOML file and `TICKGATE_` variables, checked once, into every room's settings.
