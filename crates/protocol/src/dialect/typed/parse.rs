//! Parses text messages. They differ from the native ones only in the fields that name subscriptions.

use super::template::{FillError, fill_symbol};
use super::{DEFAULT_TYPE, Settings};
use crate::channel::Pattern;
use crate::dialect::native::{Select, Selection, parse_with};
use crate::json::Scratch;
use crate::message::{ClientMessage, ErrorCode, FieldError, Fields, Malformed, shorten};

/// Parses one message.
pub(in crate::dialect) fn parse<'t>(
    text: &'t str,
    scratch: &mut Scratch,
    settings: &Settings,
) -> Result<ClientMessage<'t>, Malformed> {
    parse_with(text, scratch, settings, None)
}

/// The fields that name subscriptions. The reply repeats them in this order.
const SELECTION_FIELDS: [&str; 5] = ["subscription_type", "target", "symbol", "symbols", "channels"];

impl Select for Settings {
    // The fields can be combined.
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError> {
        if !SELECTION_FIELDS.into_iter().any(|name| fields.is_given(name)) {
            return Ok(None);
        }
        let mut patterns = Vec::new();
        if let Some(pattern) = self.typed_pattern(fields)? {
            patterns.push(pattern);
        }
        if fields.is_given("symbol") {
            let symbol = fields.text("symbol")?;
            patterns.push(fill_symbol(&symbol).map_err(|error| invalid("symbol", &symbol, error))?);
        }
        if fields.is_given("symbols") {
            fields.texts("symbols", |symbol| {
                patterns.push(fill_symbol(symbol).map_err(|error| invalid("symbol", symbol, error))?);
                Ok(())
            })?;
        }
        if fields.is_given("channels") {
            patterns.append(&mut fields.patterns()?);
        }
        Ok(Some(Selection {
            patterns,
            members: members(fields),
        }))
    }

    fn missing(&self) -> FieldError {
        FieldError::new(
            ErrorCode::InvalidMessage,
            "one of `target`, `symbol`, `symbols` and `channels` is needed",
        )
    }
}

impl Settings {
    /// The pattern for `subscription_type` and `target`.
    fn typed_pattern(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Pattern>, FieldError> {
        let has_target = fields.is_given("target");
        if !has_target && !fields.is_given("subscription_type") {
            return Ok(None);
        }
        let name = if fields.is_given("subscription_type") {
            fields.text("subscription_type")?
        } else {
            DEFAULT_TYPE.into()
        };
        let Some(template) = self.subscription_types.get(&*name) else {
            let known: Vec<&str> = self.subscription_types.keys().map(|name| &**name).collect();
            let what = format!("\"{}\" is not known here (known: {})", shorten(&name), known.join(", "));
            return Err(FieldError::invalid("subscription_type", &what));
        };
        // A type without a target is ignored if another field names subscriptions.
        let is_alone = !["symbol", "symbols", "channels"]
            .into_iter()
            .any(|name| fields.is_given(name));
        if !has_target && !is_alone {
            return Ok(None);
        }
        let target = fields.text("target")?;
        let pattern = template
            .fill(&target)
            .map_err(|error| invalid("target", &target, error))?;
        Ok(Some(pattern))
    }
}

fn invalid(name: &str, text: &str, error: FillError) -> FieldError {
    let message = format!("{name} \"{}\" {error}", shorten(text));
    FieldError::new(ErrorCode::InvalidChannel, message)
}

fn members(fields: &mut Fields<'_, '_>) -> Box<str> {
    let mut members = String::new();
    for name in SELECTION_FIELDS {
        if fields.is_given(name) {
            members += &format!(",\"{name}\":{}", fields.raw(name));
        }
    }
    members.into()
}
