//! The subjects of events: `<prefix>.log.<tenant>.<channel>` for channels that keep state, and `<prefix>.plain.…` for all
//! others. Merged values have `<prefix>.merged.…`.

use super::streams::terms_subject;

/// The subjects under a prefix.
#[derive(Debug)]
pub(super) struct Subjects {
    // Up to and including the last dot before a name.
    log: Box<str>,
    plain: Box<str>,
    merged: Box<str>,
    /// The subject of notices.
    pub(super) terms: Box<str>,
}

impl Subjects {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            log: format!("{prefix}.log.").into(),
            plain: format!("{prefix}.plain.").into(),
            merged: format!("{prefix}.merged.").into(),
            terms: terms_subject(prefix).into(),
        }
    }

    /// What stands before the name of a channel.
    pub(super) fn before(&self, is_kept: bool) -> &str {
        if is_kept { &self.log } else { &self.plain }
    }

    /// What stands before the name of a channel with a merged value.
    pub(super) fn before_merged(&self) -> &str {
        &self.merged
    }

    /// The name of a channel in a subject; empty: it has none.
    pub(super) fn name<'a>(&self, subject: &'a str) -> &'a str {
        let lanes = [&self.log, &self.plain, &self.merged].into_iter();
        { lanes }
            .find_map(|lane| subject.strip_prefix(&**lane))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_channels() {
        let subjects = Subjects::new("t.one");
        assert_eq!(subjects.before(true), "t.one.log.");
        assert_eq!(subjects.name("t.one.log.~.a.b"), "~.a.b");
        assert_eq!(subjects.name("t.one.plain.acme.a"), "acme.a");
        assert_eq!(subjects.name(&format!("{}~.a", subjects.before_merged())), "~.a");
        for other in ["t.two.log.~.a.b", "t.one.terms", "t.one.log", "x"] {
            assert_eq!(subjects.name(other), "");
        }
    }
}
