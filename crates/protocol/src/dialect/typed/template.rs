//! Templates convert a target to a pattern and back.

use std::fmt;
use std::str::FromStr;

use crate::channel::{ChannelError, Pattern, is_segment};

const PLACEHOLDER: &str = "{target}";

/// A pattern with the placeholder `{target}` as one whole segment, such as `strategy.{target}.prices`.
///
/// A client gives the target. A valid segment as the target gives a valid pattern, unless that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The text before the placeholder, with its dot.
    prefix: Box<str>,
    /// The text after the placeholder, with its dot.
    suffix: Box<str>,
}

/// The reason why a text is not a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The placeholder is missing, occurs more than once, or is not a whole segment.
    #[error("must hold {{target}} exactly once, as a whole segment")]
    Placeholder,
    /// There are other braces.
    #[error("has braces that are not {{target}}")]
    Braces,
    /// With a target in place of the placeholder, the text is not a valid pattern.
    #[error("{0}")]
    Pattern(ChannelError),
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let (prefix, suffix) = text.split_once(PLACEHOLDER).ok_or(TemplateError::Placeholder)?;
        let is_whole = (prefix.is_empty() || prefix.ends_with('.')) && (suffix.is_empty() || suffix.starts_with('.'));
        if !is_whole || suffix.contains(PLACEHOLDER) {
            return Err(TemplateError::Placeholder);
        }
        if prefix.contains(['{', '}']) || suffix.contains(['{', '}']) {
            return Err(TemplateError::Braces);
        }
        // A target of one byte, the shortest one.
        Pattern::parse(&format!("{prefix}x{suffix}")).map_err(TemplateError::Pattern)?;
        Ok(Self {
            prefix: prefix.into(),
            suffix: suffix.into(),
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACEHOLDER}{}", self.prefix, self.suffix)
    }
}

impl Template {
    /// The pattern for a target, which must be one segment without a wildcard.
    ///
    /// # Errors
    ///
    /// `target` is not such a segment, or the pattern would be too long.
    pub(super) fn fill(&self, target: &str) -> Result<Pattern, FillError> {
        fill(&self.prefix, target, &self.suffix)
    }

    /// The target for which this template gives `pattern`, if there is one.
    pub(super) fn target<'p>(&self, pattern: &'p Pattern) -> Option<&'p str> {
        target(&self.prefix, pattern, &self.suffix)
    }
}

/// The pattern for a symbol: all channels `market.<symbol>.*`.
///
/// # Errors
///
/// `symbol` is not one segment without a wildcard, or the pattern would be too long.
pub(super) fn fill_symbol(symbol: &str) -> Result<Pattern, FillError> {
    fill("market.", symbol, ".*")
}

/// The symbol for which [`fill_symbol`] gives `pattern`, if there is one.
pub(super) fn symbol(pattern: &Pattern) -> Option<&str> {
    target("market.", pattern, ".*")
}

/// The reason why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FillError {
    #[error("must be one segment without `.`, `*`, `>` and white space")]
    NotASegment,
    #[error("is too long")]
    TooLong,
}

fn fill(prefix: &str, target: &str, suffix: &str) -> Result<Pattern, FillError> {
    if !is_segment(target) {
        return Err(FillError::NotASegment);
    }
    Pattern::parse(&format!("{prefix}{target}{suffix}")).map_err(|_| FillError::TooLong)
}

fn target<'p>(prefix: &str, pattern: &'p Pattern, suffix: &str) -> Option<&'p str> {
    let target = pattern.as_str().strip_prefix(prefix)?.strip_suffix(suffix)?;
    is_segment(target).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_one_placeholder_as_a_whole_segment() {
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
            ("a b.{target}", TemplateError::Pattern(ChannelError::BadCharacter(' '))),
            ("a*.{target}", TemplateError::Pattern(ChannelError::BadCharacter('*'))),
            (
                "1.2.3.4.5.6.7.8.{target}",
                TemplateError::Pattern(ChannelError::TooManySegments),
            ),
        ] {
            assert_eq!(text.parse::<Template>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_target_can_be_read_back_from_its_pattern() {
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
                assert_eq!(template.fill(none), Err(FillError::NotASegment), "{text} {none:?}");
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
        // The prefix and the suffix must not overlap.
        assert_eq!(symbol(&Pattern::parse("market.*.*").unwrap()), None);
    }
}
