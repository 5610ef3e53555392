//! From a target to the pattern it stands for, and back.

use std::fmt;
use std::str::FromStr;

use crate::channel::{ChannelError, Pattern, is_segment};

const PLACEHOLDER: &str = "{target}";

/// A pattern in which one whole segment, `{target}`, is filled by the client: `strategy.{target}.prices`.
///
/// Filled with a valid segment it is a valid pattern, unless that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    // What stands before and behind the placeholder, dots included.
    before: Box<str>,
    behind: Box<str>,
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// None, or more than one.
    #[error("must hold {{target}} exactly once, as a whole segment")]
    Placeholder,
    /// Some other `{...}`.
    #[error("has braces that are not {{target}}")]
    Braces,
    /// Filled, it is no pattern.
    #[error("{0}")]
    Pattern(ChannelError),
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let (before, behind) = text.split_once(PLACEHOLDER).ok_or(TemplateError::Placeholder)?;
        let is_whole = (before.is_empty() || before.ends_with('.')) && (behind.is_empty() || behind.starts_with('.'));
        if !is_whole || behind.contains(PLACEHOLDER) {
            return Err(TemplateError::Placeholder);
        }
        if before.contains(['{', '}']) || behind.contains(['{', '}']) {
            return Err(TemplateError::Braces);
        }
        // The shortest target there is.
        Pattern::parse(&format!("{before}x{behind}")).map_err(TemplateError::Pattern)?;
        Ok(Self {
            before: before.into(),
            behind: behind.into(),
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACEHOLDER}{}", self.before, self.behind)
    }
}

impl Template {
    /// The pattern for a target, which must be one segment without wildcard.
    pub(super) fn fill(&self, target: &str) -> Result<Pattern, FillError> {
        fill(&self.before, target, &self.behind)
    }

    /// The target that makes this pattern.
    pub(super) fn target<'p>(&self, pattern: &'p Pattern) -> Option<&'p str> {
        target(&self.before, pattern, &self.behind)
    }
}

/// The pattern for a symbol.
pub(super) fn fill_symbol(symbol: &str) -> Result<Pattern, FillError> {
    fill("market.", symbol, ".*")
}

/// The symbol that makes this pattern.
pub(super) fn symbol(pattern: &Pattern) -> Option<&str> {
    target("market.", pattern, ".*")
}

/// Why a target leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FillError {
    #[error("must be one segment without `.`, `*`, `>` and white space")]
    NoSegment,
    #[error("is too long")]
    TooLong,
}

fn fill(before: &str, target: &str, behind: &str) -> Result<Pattern, FillError> {
    if !is_segment(target) {
        return Err(FillError::NoSegment);
    }
    Pattern::parse(&format!("{before}{target}{behind}")).map_err(|_| FillError::TooLong)
}

fn target<'p>(before: &str, pattern: &'p Pattern, behind: &str) -> Option<&'p str> {
    let target = pattern.as_str().strip_prefix(before)?.strip_suffix(behind)?;
    is_segment(target).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_holds_its_placeholder_once_and_whole() {
        use TemplateError::{Braces, Placeholder};
        for (text, error) in [
            ("strategy.prices", Placeholder),
            ("", Placeholder),
            ("strategy.{target}.{target}", Placeholder),
            ("strategy.a{target}.prices", Placeholder),
            ("strategy.{target}b", Placeholder),
            ("strategy.{Target}", Placeholder),
            ("strategy.{target}.{symbol}", Braces),
            ("{.{target}", Braces),
            ("strategy..{target}", TemplateError::Pattern(ChannelError::EmptySegment)),
            ("strategy.{target}.", TemplateError::Pattern(ChannelError::EmptySegment)),
            ("a b.{target}", TemplateError::Pattern(ChannelError::BadCharacter)),
            ("a*.{target}", TemplateError::Pattern(ChannelError::BadCharacter)),
            (
                "1.2.3.4.5.6.7.8.{target}",
                TemplateError::Pattern(ChannelError::TooManySegments),
            ),
        ] {
            assert_eq!(text.parse::<Template>(), Err(error), "{text}");
        }
    }

    #[test]
    fn filling_and_reading_back_are_inverse() {
        for text in [
            "strategy.{target}.prices",
            "{target}",
            "{target}.*",
            "*.{target}",
            "a.{target}",
        ] {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.to_string(), text);
            for target in ["600519", "KOGE/USDT", "贵州茅台", "{target}", "a-b_c"] {
                let pattern = template.fill(target).unwrap();
                assert_eq!(template.target(&pattern), Some(target), "{text} {target}");
            }
            for none in ["", ".", "a.b", "*", "a*", ">", "a b", "\u{3000}", "\u{7}"] {
                assert_eq!(template.fill(none), Err(FillError::NoSegment), "{text} {none:?}");
            }
        }
        let template: Template = "strategy.{target}.prices".parse().unwrap();
        assert_eq!(template.fill(&"x".repeat(240)), Err(FillError::TooLong));
        for other in [
            "strategy.*.prices",
            "strategy.a.b.prices",
            "strategy.prices",
            "stock.a.prices",
            "*",
        ] {
            assert_eq!(template.target(&Pattern::parse(other).unwrap()), None, "{other}");
        }
        assert_eq!(symbol(&fill_symbol("BTC/USDT").unwrap()), Some("BTC/USDT"));
        assert_eq!(symbol(&Pattern::parse("market.*").unwrap()), None);
        // The two dots must not be the same one.
        assert_eq!(symbol(&Pattern::parse("market.*.*").unwrap()), None);
    }
}
