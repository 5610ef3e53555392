//! How one value is written in TOML: durations `"5s"`, sizes in bytes, addresses, patterns, choices.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Origin;
use super::source::{Content, Node};
use crate::auth::Algorithm;
use crate::backend::commands::BackendUrl;
use crate::backend::feeds::{ChannelTemplate, RedisAddress, RedisKey, UrlTemplate};
use crate::ingress::{ListenAddress, Origins, TrustedProxies};
use tickgate_protocol::channel::{History, Pattern};
use tickgate_protocol::dialect::typed::Template;

/// A value of a key.
pub(super) trait Value: Sized {
    /// Reads it, or says what it should have been.
    fn read(node: &Node) -> Result<Self, Refusal>;
    /// Writes it; `None`: unset.
    fn write(&self) -> Option<toml::Value>;
}

/// Why a value was refused, and where, when a part of it is meant.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) origin: Option<Origin>,
    pub(super) message: String,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self {
            origin: None,
            message: message.into(),
        }
    }

    fn wanted(what: &str, found: &Node) -> Self {
        Self::new(format!("expected {what}, found {}", found.content.kind()))
    }
}

/// The node as a text, whatever type a variable looks like.
fn text<'a>(node: &'a Node, what: &str) -> Result<&'a str, Refusal> {
    match &node.content {
        Content::Text(text) | Content::Variable { text, .. } => Ok(text),
        _ => Err(Refusal::wanted(what, node)),
    }
}

/// The node as TOML, also when it comes from a variable.
fn typed(node: &Node) -> &Node {
    match &node.content {
        Content::Variable { typed: Some(typed), .. } => typed,
        _ => node,
    }
}

impl Value for bool {
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
    fn read(node: &Node) -> Result<Self, Refusal> {
        text(node, "a string").map(str::to_owned)
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.as_str().into())
    }
}

impl Value for PathBuf {
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

/// A duration from text: a whole number and one of the units `ms s m h d`.
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

/// A duration as text in the largest unit that keeps it whole.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let (name, unit_ms) = UNITS
        .into_iter()
        .find(|(_, unit_ms)| ms % unit_ms == 0)
        .unwrap_or(("ms", 1));
    format!("{}{name}", ms / unit_ms)
}

impl<T: Value> Value for Option<T> {
    fn read(node: &Node) -> Result<Self, Refusal> {
        T::read(node).map(Some)
    }
    fn write(&self) -> Option<toml::Value> {
        self.as_ref().and_then(Value::write)
    }
}

impl<T: Value> Value for Vec<T> {
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

impl Value for ListenAddress {
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "an address in quotes")?;
        text.parse()
            .map_err(|error| Refusal::new(format!("\"{text}\" {error}")))
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }
}

impl Value for Pattern {
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "a pattern in quotes")?;
        Self::parse(text).map_err(|error| Refusal::new(format!("pattern \"{text}\" {error}")))
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.as_str().into())
    }
}

impl Value for Algorithm {
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
    fn read(node: &Node) -> Result<Self, Refusal> {
        Self::parse(text(node, "a URL in quotes")?).map_err(Refusal::new)
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }
}

macro_rules! parsed {
    ($($type:ty, $what:literal);*) => { $(
        impl Value for $type {
            fn read(node: &Node) -> Result<Self, Refusal> {
                // The text itself could hold a secret.
                text(node, $what)?.parse().map_err(|error| Refusal::new(format!("{error}")))
            }
            fn write(&self) -> Option<toml::Value> {
                Some(self.to_string().into())
            }
        }
    )* };
}
parsed!(
    ChannelTemplate, "a channel in quotes";
    UrlTemplate, "a URL in quotes";
    RedisKey, "a Redis key in quotes";
    RedisAddress, "an address in quotes"
);

/// `subscription_types`: templates by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Templates(pub(super) BTreeMap<Box<str>, Template>);

impl Value for Templates {
    fn read(node: &Node) -> Result<Self, Refusal> {
        let Content::Table(table) = &typed(node).content else {
            return Err(Refusal::wanted("a table ({ name = \"pattern with {target}\" })", node));
        };
        let entry = |(name, node): (&String, &Node)| {
            let at = |message| Refusal {
                origin: Some(node.origin.clone()),
                message,
            };
            let template = text(node, "a pattern in quotes").map_err(|refusal| at(refusal.message))?;
            match template.parse() {
                Ok(template) => Ok((name.as_str().into(), template)),
                Err(error) => Err(at(format!("{name} = \"{template}\" {error}"))),
            }
        };
        table.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }
    fn write(&self) -> Option<toml::Value> {
        let entries = self.0.iter();
        let table = entries.map(|(name, template)| (name.to_string(), template.to_string().into()));
        Some(toml::Value::Table(table.collect()))
    }
}

/// `history`: `{ size = 5000, ttl = "1h" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HistoryKeys {
    pub(super) size: u32,
    pub(super) ttl: Duration,
}

impl Value for HistoryKeys {
    fn read(node: &Node) -> Result<Self, Refusal> {
        let Content::Table(table) = &typed(node).content else {
            return Err(Refusal::wanted("a table ({ size = 5000, ttl = \"1h\" })", node));
        };
        let mut keys = Self {
            size: 0,
            ttl: Duration::from_millis(History::BUILT_IN.ttl_ms),
        };
        let mut has_size = false;
        for (name, node) in table {
            let at = |refusal: Refusal| Refusal {
                origin: Some(node.origin.clone()),
                message: format!("{name}: {}", refusal.message),
            };
            match name.as_str() {
                "size" => {
                    keys.size = u32::read(node).map_err(at)?;
                    has_size = true;
                }
                "ttl" => keys.ttl = Duration::read(node).map_err(at)?,
                _ => return Err(at(Refusal::new("unknown key (known here: size, ttl)"))),
            }
        }
        if has_size {
            Ok(keys)
        } else {
            Err(Refusal::new(
                "size is missing: how many events are kept of each channel",
            ))
        }
    }
    fn write(&self) -> Option<toml::Value> {
        let mut table = toml::Table::new();
        table.insert("size".to_owned(), self.size.write()?);
        table.insert("ttl".to_owned(), self.ttl.write()?);
        Some(toml::Value::Table(table))
    }
}

/// An entry of `trusted_proxies`, as written and known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy(pub(super) String);

impl Value for Proxy {
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "a network in quotes")?;
        match TrustedProxies::parse(&[text]) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err((_, error)) => Err(Refusal::new(format!("\"{text}\" {error}"))),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.0.as_str().into())
    }
}

/// An entry of `allowed_origins`, as written and known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AllowedOrigin(pub(super) String);

impl Value for AllowedOrigin {
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "an origin in quotes")?;
        match Origins::parse(&[text]) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err((_, error)) => Err(Refusal::new(format!("\"{text}\" {error}"))),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.0.as_str().into())
    }
}

/// `coalesce`: how far apart a shard's ticks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coalesce {
    /// Adapts under load.
    Auto,
    /// Always at least this far apart.
    Fixed(Duration),
}

impl Value for Coalesce {
    fn read(node: &Node) -> Result<Self, Refusal> {
        match text(node, "\"auto\" or a duration in quotes")? {
            "auto" => Ok(Self::Auto),
            text => duration_from_text(text)
                .map(Self::Fixed)
                .ok_or_else(|| Refusal::new("expected \"auto\" or a duration such as \"2ms\"")),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        match self {
            Self::Auto => Some("auto".into()),
            Self::Fixed(duration) => duration.write(),
        }
    }
}

/// Implements [`Value`] for an enum whose variants stand for texts. `not` names texts that later versions know.
macro_rules! choices {
    ($type:ty { $($text:literal => $variant:path),* $(,)? } $(not { $($later:literal),* $(,)? })?) => {
        impl $crate::config::value::Value for $type {
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
