//! Channels that a feed cannot poll, because their name has a character that its source cannot take.

use tickgate_protocol::channel::{ChannelTemplate, Pattern};

/// A channel with a placeholder whose source cannot carry every text, such as a Redis key.
///
/// A subscription to such a channel would never get an event, so it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedValue {
    /// The channel.
    pub template: ChannelTemplate,
    /// The characters that the placeholder's value must not contain.
    pub characters: &'static str,
}

impl RefusedValue {
    /// What is wrong with the pattern as a channel of this template; `None` if nothing is.
    pub(super) fn problem(&self, pattern: &Pattern) -> Option<String> {
        let value = self.template.value(pattern.as_str())?;
        let refused = value.chars().find(|&character| self.characters.contains(character))?;
        let placeholder = self.template.placeholder().unwrap_or_default();
        Some(format!(
            "channel \"{pattern}\" cannot be served: {placeholder} in `{}` must not contain `{refused}`",
            self.template
        ))
    }
}
