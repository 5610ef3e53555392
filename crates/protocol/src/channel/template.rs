//! Channel templates: channels with at most one placeholder.
//!
//! Invariant: the value of a placeholder is one channel segment, so it contains no dot, no white space and no control
//! character. A template finds in a filled channel the value that filled it.

use std::fmt;
use std::str::FromStr;

use super::{Channel, ChannelError, Pattern, Tenant, is_segment};

/// A channel of a tenant, one whole segment of which may be the placeholder `{name}`: `user.{id}.balance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTemplate {
    tenant: Tenant,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Fixed(Channel),
    // The texts before and after the placeholder, dots included, and its name without braces.
    Placeholder {
        before: Box<str>,
        name: Box<str>,
        after: Box<str>,
    },
}

/// Why a text is not a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A stray brace, a second placeholder, or one that is not a whole segment.
    #[error("may hold one placeholder such as {{id}}, as a whole segment")]
    Placeholder,
    /// The placeholder's name is empty or has other characters.
    #[error("the name of a placeholder must be letters, digits and `_`")]
    Name,
    /// The filled template is not a valid channel.
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
                .map(|channel| Self::of_default(Kind::Fixed(channel)))
                .map_err(TemplateError::Channel);
        };
        let (name, after) = rest.split_once('}').ok_or(TemplateError::Placeholder)?;
        let is_whole = (before.is_empty() || before.ends_with('.')) && (after.is_empty() || after.starts_with('.'));
        if !is_whole || [before, name, after].iter().any(|part| part.contains(['{', '}'])) {
            return Err(TemplateError::Placeholder);
        }
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(TemplateError::Name);
        }
        // Filled with the shortest value.
        Channel::parse(&format!("{before}x{after}")).map_err(TemplateError::Channel)?;
        Ok(Self::of_default(Kind::Placeholder {
            before: before.into(),
            name: name.into(),
            after: after.into(),
        }))
    }
}

impl fmt::Display for ChannelTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Fixed(channel) => channel.fmt(f),
            Kind::Placeholder { before, name, after } => write!(f, "{before}{{{name}}}{after}"),
        }
    }
}

impl ChannelTemplate {
    fn of_default(kind: Kind) -> Self {
        Self {
            tenant: Tenant::DEFAULT,
            kind,
        }
    }

    /// The template of this text in another tenant. A parsed template is one of the default tenant.
    #[must_use]
    pub fn in_tenant(self, tenant: Tenant) -> Self {
        let kind = match self.kind {
            Kind::Fixed(channel) => Kind::Fixed(channel.in_tenant(tenant)),
            placeholder @ Kind::Placeholder { .. } => placeholder,
        };
        Self { tenant, kind }
    }

    /// The template's tenant.
    #[must_use]
    pub const fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// The channel of a template without a placeholder.
    #[must_use]
    pub fn fixed(&self) -> Option<&Channel> {
        match &self.kind {
            Kind::Fixed(channel) => Some(channel),
            Kind::Placeholder { .. } => None,
        }
    }

    /// The placeholder with its braces: `{id}`.
    #[must_use]
    pub fn placeholder(&self) -> Option<String> {
        match &self.kind {
            Kind::Fixed(_) => None,
            Kind::Placeholder { name, .. } => Some(format!("{{{name}}}")),
        }
    }

    /// The value that fills the placeholder in this valid channel name; `None` if the template does not match.
    #[must_use]
    pub fn value<'c>(&self, channel: &'c str) -> Option<&'c str> {
        let Kind::Placeholder { before, after, .. } = &self.kind else {
            return None;
        };
        let value = channel.strip_prefix(&**before)?.strip_suffix(&**after)?;
        is_segment(value).then_some(value)
    }

    /// Whether a channel of the template's tenant with this valid name is one of the template's.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        match &self.kind {
            Kind::Fixed(fixed) => fixed.as_str() == channel,
            Kind::Placeholder { .. } => self.value(channel).is_some(),
        }
    }

    /// Whether the pattern names a channel of the template: it matches the fixed channel or, with a placeholder, is itself
    /// one filled channel.
    #[must_use]
    pub fn concerns(&self, pattern: &Pattern) -> bool {
        match &self.kind {
            Kind::Fixed(channel) => pattern.matches(channel),
            Kind::Placeholder { .. } => pattern.tenant() == self.tenant && self.value(pattern.as_str()).is_some(),
        }
    }

    /// The pattern of the filled channels: `*` in place of the placeholder. As the last segment it matches deeper channels,
    /// too.
    ///
    /// # Panics
    ///
    /// Never: a template filled with one character is a valid channel, and `*` is as long.
    #[must_use]
    pub fn pattern(&self) -> Pattern {
        match &self.kind {
            Kind::Fixed(channel) => channel.clone().into(),
            Kind::Placeholder { before, after, .. } => {
                let pattern = Pattern::parse(&format!("{before}*{after}")).expect("a template is a valid channel");
                pattern.in_tenant(self.tenant)
            }
        }
    }

    /// Whether the pattern matches any filled channel.
    #[must_use]
    pub fn can_match(&self, pattern: &Pattern) -> bool {
        match &self.kind {
            Kind::Placeholder { before, after, .. } if !pattern.is_exact() => {
                pattern.tenant() == self.tenant && pattern.matches_name(&format!("{before}x{after}"))
            }
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
    fn only_exact_subscriptions_fill_the_placeholder() {
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
        assert_eq!(balance.pattern().as_str(), "user.*.balance");
        assert_eq!(last.pattern().as_str(), "stock.*");
        let prices = template("strategy.a.prices");
        assert_eq!(prices.pattern().as_str(), "strategy.a.prices");
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
