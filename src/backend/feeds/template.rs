//! Channels with at most one placeholder, and the texts it is put into.
//!
//! Invariant: what fills a placeholder is one channel segment, so it holds no dot, no white space and no control
//! character; a filled channel that is valid gives the same value back.

use std::fmt;
use std::str::FromStr;

use tickgate_protocol::channel::{Channel, ChannelError, Pattern, is_segment};

/// A channel of which one whole segment may be `{name}`: `user.{id}.balance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTemplate(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Fixed(Channel),
    // What stands before and behind the placeholder, dots included; its name without braces.
    Open {
        before: Box<str>,
        name: Box<str>,
        behind: Box<str>,
    },
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace that is part of no placeholder, or a second placeholder.
    #[error("may hold one placeholder such as {{id}}, as a whole segment")]
    Placeholder,
    /// A name that is none.
    #[error("the name of a placeholder is letters, digits and `_`")]
    Name,
    /// Filled, it is no channel.
    #[error("{0}")]
    Channel(ChannelError),
}

impl FromStr for ChannelTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let Some((before, rest)) = text.split_once('{') else {
            if text.contains('}') {
                return Err(TemplateError::Placeholder);
            }
            return Channel::parse(text)
                .map(|channel| Self(Form::Fixed(channel)))
                .map_err(TemplateError::Channel);
        };
        let (name, behind) = rest.split_once('}').ok_or(TemplateError::Placeholder)?;
        let is_whole = (before.is_empty() || before.ends_with('.')) && (behind.is_empty() || behind.starts_with('.'));
        if !is_whole || [before, name, behind].iter().any(|part| part.contains(['{', '}'])) {
            return Err(TemplateError::Placeholder);
        }
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(TemplateError::Name);
        }
        // The shortest value there is.
        Channel::parse(&format!("{before}x{behind}")).map_err(TemplateError::Channel)?;
        Ok(Self(Form::Open {
            before: before.into(),
            name: name.into(),
            behind: behind.into(),
        }))
    }
}

impl fmt::Display for ChannelTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Fixed(channel) => channel.fmt(f),
            Form::Open { before, name, behind } => write!(f, "{before}{{{name}}}{behind}"),
        }
    }
}

impl ChannelTemplate {
    /// The channel, when there is no placeholder.
    #[must_use]
    pub fn fixed(&self) -> Option<&Channel> {
        match &self.0 {
            Form::Fixed(channel) => Some(channel),
            Form::Open { .. } => None,
        }
    }

    /// The placeholder as it is written: `{id}`.
    #[must_use]
    pub fn placeholder(&self) -> Option<String> {
        match &self.0 {
            Form::Fixed(_) => None,
            Form::Open { name, .. } => Some(format!("{{{name}}}")),
        }
    }

    /// What fills the placeholder so that the channel is the (valid) `channel`.
    pub(super) fn value<'c>(&self, channel: &'c str) -> Option<&'c str> {
        let Form::Open { before, behind, .. } = &self.0 else {
            return None;
        };
        let value = channel.strip_prefix(&**before)?.strip_suffix(&**behind)?;
        is_segment(value).then_some(value)
    }

    /// Whether this pattern can concern it: the channel is matched or, with a placeholder, it is exactly one filling.
    pub(super) fn concerns(&self, pattern: &Pattern) -> bool {
        match &self.0 {
            Form::Fixed(channel) => pattern.matches(channel.as_str()),
            Form::Open { .. } => self.value(pattern.as_str()).is_some(),
        }
    }

    /// Whether some filling is matched by this pattern.
    pub(super) fn can_match(&self, pattern: &Pattern) -> bool {
        match &self.0 {
            Form::Open { before, behind, .. } if !pattern.is_exact() => pattern.matches(&format!("{before}x{behind}")),
            _ => self.concerns(pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> ChannelTemplate {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn templates_are_checked() {
        for good in ["a", "system.health", "user.{id}.balance", "{x}", "stock.{code_2}"] {
            assert_eq!(template(good).to_string(), good);
        }
        assert_eq!(template("user.{id}.pnl").placeholder().as_deref(), Some("{id}"));
        for (bad, why) in [
            ("", "empty"),
            ("a..b", "empty segment"),
            ("a.*", "not allowed"),
            ("user.{id}.{x}", "one placeholder"),
            ("user.u{id}.x", "whole segment"),
            ("user.{id", "whole segment"),
            ("user.id}", "whole segment"),
            ("user.{}", "name"),
            ("user.{a.b}", "name"),
            ("user.{id}. ", "not allowed"),
        ] {
            let error = bad.parse::<ChannelTemplate>().expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn only_exact_subscriptions_fill() {
        let balance = template("user.{id}.balance");
        assert_eq!(balance.value("user.42.balance"), Some("42"));
        let last = template("stock.{code}");
        assert_eq!(last.value("stock.600519"), Some("600519"));
        for other in [
            "user.42.pnl",
            "user.balance",
            "user..balance",
            "user.a.b.balance",
            "x.42.balance",
        ] {
            assert_eq!(balance.value(other), None, "{other}");
        }
        for pattern in ["user.*.balance", "user.*", "*"] {
            let pattern = Pattern::parse(pattern).expect("valid");
            assert!(!balance.concerns(&pattern) && balance.can_match(&pattern), "{pattern}");
        }
        assert!(!last.concerns(&Pattern::parse("stock.*").expect("valid")));
        let prices = template("strategy.a.prices");
        for (pattern, concerns) in [("strategy.*.prices", true), ("*", true), ("strategy.b.prices", false)] {
            let pattern = Pattern::parse(pattern).expect("valid");
            assert_eq!(prices.concerns(&pattern), concerns, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn a_filled_template_gives_its_value_back(value in "[^\\s.*>{}\\p{Cc}]{1,20}") {
            for text in ["user.{id}.balance", "{id}", "stock.{id}"] {
                let filled = text.replace("{id}", &value);
                prop_assert_eq!(template(text).value(&filled), Some(&*value));
            }
        }
    }
}
