//! The types of values and how they are written in TOML: durations such as `"5s"`, sizes in bytes, addresses, patterns,
//! choices.

use std::path::PathBuf;
use std::time::Duration;

use super::problem::Origin;
use super::source::{Content, Node};
use crate::auth::Algorithm;
use crate::backend::commands::BackendUrl;
use crate::backend::feeds::{RedisKey, UrlTemplate};
use crate::backend::ingest::{FieldPath, NatsFrom, RedisFrom, SourceChannel, SourceEvent};
use crate::backend::jwks::JwksUrl;
use crate::backend::spans::CollectorUrl;
use crate::ingress::{HostPattern, ListenAddress, ListenerName};
use crate::log_level::Levels;
use tickgate_protocol::channel::{ChannelTemplate, Pattern};
use tickgate_protocol::rate::Rate;

/// A type that a key can have.
pub(super) trait Value: Sized {
    /// The name of the type in the documentation, in Markdown.
    fn kind() -> String;
    /// Reads a value.
    ///
    /// # Errors
    ///
    /// A message that says what was expected.
    fn read(node: &Node) -> Result<Self, Refusal>;
    /// The value as TOML. `None`: the key is not set.
    fn write(&self) -> Option<toml::Value>;
}

/// Why a value was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Where the mistake is, if it is in a part of the value.
    pub(super) origin: Option<Origin>,
    /// A message without the key's name.
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            origin: None,
            message: message.into(),
        }
    }

    /// "expected `what`, found ..."
    pub(super) fn wanted(what: &str, found: &Node) -> Self {
        Self::new(format!("expected {what}, found {}", found.content.kind()))
    }
}

/// The node's text. A variable is a text whatever type it looks like.
pub(super) fn text<'a>(node: &'a Node, what: &str) -> Result<&'a str, Refusal> {
    match &node.content {
        Content::Text(text) | Content::Variable { text, .. } => Ok(text),
        _ => Err(Refusal::wanted(what, node)),
    }
}

/// The node's content. A variable is read as TOML if it is TOML.
pub(super) fn typed(node: &Node) -> &Node {
    match &node.content {
        Content::Variable { typed: Some(typed), .. } => typed,
        _ => node,
    }
}

impl Value for bool {
    fn kind() -> String {
        "boolean".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        match typed(node).content {
            Content::Boolean(truth) => Ok(truth),
            _ => Err(Refusal::wanted("true or false", node)),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some((*self).into())
    }
}

macro_rules! integers {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn kind() -> String {
                "integer".to_owned()
            }
            fn read(node: &Node) -> Result<Self, Refusal> {
                match typed(node).content {
                    Content::Integer(n) => Self::try_from(n)
                        .map_err(|_| Refusal::new(format!("must be between {} and {}", Self::MIN, Self::MAX))),
                    _ => Err(Refusal::wanted("an integer", node)),
                }
            }
            fn write(&self) -> Option<toml::Value> {
                i64::try_from(*self).ok().map(toml::Value::Integer)
            }
        }
    )* };
}
integers!(u16, u32, u64);

impl Value for String {
    fn kind() -> String {
        "string".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        text(node, "a string").map(str::to_owned)
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.as_str().into())
    }
}

impl Value for PathBuf {
    fn kind() -> String {
        "path".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        match text(node, "a path in quotes")? {
            "" => Err(Refusal::new("must not be empty")),
            path => Ok(path.into()),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.display().to_string().into())
    }
}

impl Value for Duration {
    fn kind() -> String {
        "duration".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        const WANTED: &str = "a duration in quotes such as \"500ms\", \"5s\", \"10m\" or \"1h\"";
        let text = text(node, WANTED)?;
        duration_from_text(text).ok_or_else(|| Refusal::new(format!("expected {WANTED}")))
    }
    fn write(&self) -> Option<toml::Value> {
        Some(duration_text(*self).into())
    }
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Parses a duration: a whole number and one of the units `ms`, `s`, `m`, `h` and `d`, such as `"5s"`. `None`: malformed,
/// or longer than 2^64 ms.
#[must_use]
pub fn duration_from_text(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, unit_ms) = UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
}

/// Writes a duration in the largest unit that needs no fraction. Parts of a millisecond are cut off.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let ms = milliseconds(duration);
    if ms == 0 {
        return "0s".to_owned();
    }
    let (name, unit_ms) = UNITS
        .into_iter()
        .find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms))
        .unwrap_or(("ms", 1));
    format!("{}{name}", ms / unit_ms)
}

/// A duration in milliseconds, at most 2^64 - 1.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<T: Value> Value for Option<T> {
    fn kind() -> String {
        T::kind()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        T::read(node).map(Some)
    }
    fn write(&self) -> Option<toml::Value> {
        self.as_ref().and_then(Value::write)
    }
}

impl<T: Value> Value for Vec<T> {
    fn kind() -> String {
        let kind = T::kind();
        let plural = if kind.ends_with('s') { "es" } else { "s" };
        format!("array of {kind}{plural}")
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let Content::List(list) = &typed(node).content else {
            return Err(Refusal::wanted("an array ([...])", node));
        };
        let element = |node: &Node| {
            T::read(node).map_err(|refusal| Refusal {
                origin: refusal.origin.or_else(|| Some(node.origin.clone())),
                message: refusal.message,
            })
        };
        list.iter().map(element).collect()
    }
    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::Array(self.iter().filter_map(Value::write).collect()))
    }
}

/// Implements [`Value`] for types that are written as text and read by `FromStr`.
macro_rules! texts {
    ($($type:ty: $kind:literal, $wanted:literal;)*) => { $(
        impl Value for $type {
            fn kind() -> String {
                $kind.to_owned()
            }
            fn read(node: &Node) -> Result<Self, Refusal> {
                let text = text(node, $wanted)?;
                text.parse().map_err(|error| Refusal::new(format!("\"{text}\" {error}")))
            }
            fn write(&self) -> Option<toml::Value> {
                Some(self.to_string().into())
            }
        }
    )* };
}
texts! {
    ListenAddress: "address", "an address in quotes";
    ListenerName: "address or name", "the address or name of a listener in quotes";
    HostPattern: "host", "a host in quotes";
}

impl Value for Pattern {
    fn kind() -> String {
        "pattern".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "a pattern in quotes")?;
        Self::parse(text).map_err(|error| Refusal::new(format!("pattern \"{text}\" {error}")))
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.as_str().into())
    }
}

impl Value for Rate {
    fn kind() -> String {
        "number".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let number = match typed(node).content {
            #[expect(clippy::cast_precision_loss, reason = "rates are small")]
            Content::Integer(n) => n as f64,
            Content::Float(n) => n,
            _ => return Err(Refusal::wanted("a number", node)),
        };
        Self::at_most(number).ok_or_else(|| Refusal::new(format!("must be at least {}", Self::ALL[0])))
    }
    fn write(&self) -> Option<toml::Value> {
        let text = self.as_str();
        let integer = text.parse().ok().map(toml::Value::Integer);
        integer.or_else(|| text.parse().ok().map(toml::Value::Float))
    }
}

impl Value for Algorithm {
    fn kind() -> String {
        "algorithm".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "an algorithm in quotes")?;
        text.parse()
            .map_err(|error| Refusal::new(format!("\"{text}\" {error}")))
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.as_str().into())
    }
}

impl Value for BackendUrl {
    fn kind() -> String {
        "URL".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        Self::parse(text(node, "a URL in quotes")?).map_err(Refusal::new)
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }
}

macro_rules! parsed {
    ($($type:ty, $kind:literal, $what:literal);*) => { $(
        impl Value for $type {
            fn kind() -> String {
                $kind.to_owned()
            }
            fn read(node: &Node) -> Result<Self, Refusal> {
                // The message does not repeat the text, which could hold a secret.
                text(node, $what)?.parse().map_err(|error| Refusal::new(format!("{error}")))
            }
            fn write(&self) -> Option<toml::Value> {
                Some(self.to_string().into())
            }
        }
    )* };
}
parsed!(
    ChannelTemplate, "channel", "a channel in quotes";
    UrlTemplate, "URL", "a URL in quotes";
    RedisKey, "Redis key", "a Redis key in quotes";
    Levels, "level", "a level in quotes";
    FieldPath, "field", "the name of a field in quotes";
    NatsFrom, "subject or stream", "a subject or stream in quotes";
    RedisFrom, "stream or channel", "a stream or channel in quotes";
    SourceChannel, "channel", "a channel in quotes";
    SourceEvent, "string", "a string";
    JwksUrl, "URL", "a URL in quotes";
    CollectorUrl, "URL", "a URL in quotes"
);

/// Implements [`Value`] for an enum whose variants stand for texts. Texts behind `not` are refused as unsupported.
macro_rules! choices {
    ($type:ty { $($text:literal => $variant:path),* $(,)? } $(not { $($later:literal),* $(,)? })?) => {
        impl $crate::config::value::Value for $type {
            fn kind() -> String {
                $crate::config::value::kind_of_choices(&[$($text),*])
            }
            fn read(node: &$crate::config::source::Node) -> Result<Self, $crate::config::value::Refusal> {
                const WANTED: &str = concat!("expected one of", $(" \"", $text, "\""),*);
                match $crate::config::value::choice(node, WANTED)? {
                    $($text => Ok($variant),)*
                    $($(later @ $later => Err($crate::config::value::unsupported(later, WANTED)),)*)?
                    _ => Err($crate::config::value::refused(WANTED)),
                }
            }
            fn write(&self) -> Option<toml::Value> {
                match self { $($variant => Some($text.into()),)* }
            }
        }
    };
}
pub(super) use choices;

/// "`a`, `b` or `c`".
pub(super) fn kind_of_choices(texts: &[&str]) -> String {
    let quoted = |text: &&str| format!("`{text}`");
    match texts {
        [] => String::new(),
        [only] => quoted(only),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(quoted).collect();
            format!("{} or {}", first.join(", "), quoted(last))
        }
    }
}

/// The text of a node that must be one of several texts. The error begins with `wanted`.
pub(super) fn choice<'a>(node: &'a Node, wanted: &str) -> Result<&'a str, Refusal> {
    match &node.content {
        Content::Text(text) | Content::Variable { text, .. } => Ok(text),
        other => Err(Refusal::new(format!("{wanted}, found {}", other.kind()))),
    }
}

pub(super) fn refused(wanted: &str) -> Refusal {
    Refusal::new(wanted)
}

pub(super) fn unsupported(text: &str, wanted: &str) -> Refusal {
    Refusal::new(format!("\"{text}\" is not supported by this version; {wanted}"))
}
