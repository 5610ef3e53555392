//! From a message to the name of its channel and of its event: `market.{2}.trade`, `user.{order.user}.fills`.
//!
//! Invariant: a value fills exactly its place. It is one segment of a channel, or with `{2..}` several that end the name, so
//! that whoever writes to a source cannot leave the first segment of the template.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use tickgate_protocol::channel::{Channel, Pattern, is_segment};
use tickgate_protocol::json::{Kind, Scratch};

/// Members of a JSON object, one in the other: `order.user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Box<[Box<str>]>);

impl FromStr for FieldPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.split('.').any(str::is_empty) || text.contains(['{', '}']) {
            return Err("must be the name of a field, or names with dots between them: order.user");
        }
        Ok(Self(text.split('.').map(Into::into).collect()))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl FieldPath {
    /// The text of the value in this JSON text, with its kind; `None`: there is none, or there are several.
    pub(super) fn find<'t>(&self, scratch: &mut Scratch, text: &'t str) -> Option<(&'t str, Kind)> {
        let mut found = (text, Kind::Object);
        for name in &*self.0 {
            let object = scratch.object(found.0).ok()?;
            if object.is_duplicate(name) {
                return None;
            }
            let value = object.get(name)?;
            found = (value.raw, value.kind);
        }
        Some(found)
    }
}

/// What stands for a part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A part of the subject, from 1 on.
    Part(usize),
    /// The parts of the subject from this one on.
    Parts(usize),
    /// A member of the message.
    Field(FieldPath),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let part = match text.strip_suffix("..") {
                Some(from) => number(from).map(Self::Parts),
                None => number(text).map(Self::Part),
            };
            return part.ok_or("has a placeholder that begins with a digit and is not {2} or {2..}");
        }
        text.parse().map(Self::Field)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(number) => write!(f, "{{{number}}}"),
            Self::Parts(from) => write!(f, "{{{from}..}}"),
            Self::Field(path) => write!(f, "{{{path}}}"),
        }
    }
}

/// One segment of a template, or the whole name of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Place(Place),
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Place(place) => place.fmt(f),
        }
    }
}

/// A message, as templates see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    /// The parts of the subject or of the name in Redis.
    pub(super) parts: &'a [&'a str],
    /// The text of the message, which is JSON.
    pub(super) text: &'a str,
}

impl Piece {
    /// The text that stands here for this message; the error is what is missing.
    fn fill<'a>(&'a self, subject: Subject<'a>, scratch: &mut Scratch) -> Result<Cow<'a, str>, String> {
        let place = match self {
            Self::Text(text) => return Ok(Cow::Borrowed(text)),
            Self::Place(place) => place,
        };
        match place {
            Place::Part(number) => match subject.parts.get(number - 1) {
                Some(part) => Ok(Cow::Borrowed(part)),
                None => Err(format!("the subject has no part {number}")),
            },
            Place::Parts(from) => match subject.parts.get(from - 1..) {
                Some(parts @ [_, ..]) => Ok(Cow::Owned(parts.join("."))),
                _ => Err(format!("the subject has no part {from}")),
            },
            Place::Field(path) => {
                let Some((raw, kind)) = path.find(scratch, subject.text) else {
                    return Err(format!("the message has no field {path}"));
                };
                match kind {
                    Kind::String { .. } => serde_json::from_str(raw)
                        .map(Cow::Owned)
                        .map_err(|_| format!("the field {path} is not Unicode text")),
                    Kind::Integer | Kind::Number | Kind::Bool => Ok(Cow::Borrowed(raw)),
                    Kind::Null | Kind::Array | Kind::Object => {
                        Err(format!("the field {path} is neither text nor a number"))
                    }
                }
            }
        }
    }
}

/// A channel, any segments of which but the first may be placeholders: `{2}` is a part of the subject, `{2..}` are all from
/// the second on, `{order.user}` is a field of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChannel(Box<[Piece]>);

/// Splits a template at its dots, except those in braces.
fn pieces(text: &str) -> Result<Vec<Piece>, &'static str> {
    const WRONG: &str =
        "must be segments with dots between them; a placeholder such as {2} or {user} is a whole segment";
    let (mut pieces, mut rest) = (Vec::new(), text);
    loop {
        let end = match rest.strip_prefix('{') {
            Some(inside) => {
                let end = inside.find('}').ok_or(WRONG)?;
                pieces.push(Piece::Place(inside[..end].parse()?));
                end + 2
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                if rest[..end].contains(['{', '}']) {
                    return Err(WRONG);
                }
                pieces.push(Piece::Text(rest[..end].into()));
                end
            }
        };
        match rest[end..].strip_prefix('.') {
            Some(next) => rest = next,
            None if end == rest.len() => return Ok(pieces),
            None => return Err(WRONG),
        }
    }
}

impl FromStr for SourceChannel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pieces = pieces(text)?;
        if !matches!(pieces.first(), Some(Piece::Text(_))) {
            return Err("must begin with a fixed segment: otherwise the source could choose every channel".to_owned());
        }
        let (_, before) = pieces.split_last().unwrap_or((&Piece::Text("".into()), &[]));
        if before
            .iter()
            .any(|piece| matches!(piece, Piece::Place(Place::Parts(_))))
        {
            return Err("may have {2..} only at its end".to_owned());
        }
        let template = Self(pieces.into());
        Channel::parse(&template.example()).map_err(|error| error.to_string())?;
        Ok(template)
    }
}

impl fmt::Display for SourceChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&pieces.join("."))
    }
}

impl SourceChannel {
    fn filled_with(&self, value: &str) -> String {
        let segments = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Place(_) => value,
        });
        segments.collect::<Vec<_>>().join(".")
    }

    /// A channel of the template: each placeholder is `x`.
    #[must_use]
    pub fn example(&self) -> String {
        self.filled_with("x")
    }

    /// The pattern of all channels of the template.
    ///
    /// # Panics
    ///
    /// Never: a template filled with one character is a valid channel, and `*` is as long.
    #[must_use]
    pub fn pattern(&self) -> Pattern {
        Pattern::parse(&self.filled_with("*")).expect("a template is a valid channel")
    }

    /// The channel of a message, in the default tenant; the error says what does not fit.
    pub(super) fn fill(&self, subject: Subject<'_>, scratch: &mut Scratch) -> Result<Channel, String> {
        let mut name = String::new();
        for piece in &*self.0 {
            let value = piece.fill(subject, scratch)?;
            if !value.split('.').all(is_segment)
                || value.contains('.') && !matches!(piece, Piece::Place(Place::Parts(_)))
            {
                return Err(format!("{piece} is not one segment of a channel"));
            }
            if !name.is_empty() {
                name.push('.');
            }
            name += &value;
        }
        Channel::parse(&name).map_err(|error| format!("its channel {error}"))
    }
}

/// The name of an event: a text, or one placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEvent(Piece);

impl FromStr for SourceEvent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains(['{', '}']) {
            return Ok(Self(Piece::Text(text.into())));
        }
        match &pieces(text)?[..] {
            [place @ Piece::Place(_)] => Ok(Self(place.clone())),
            _ => Err("must be a name, or one placeholder such as {type}"),
        }
    }
}

impl fmt::Display for SourceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl SourceEvent {
    /// The name, if it is the same for all messages.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match &self.0 {
            Piece::Text(text) => Some(text),
            Piece::Place(_) => None,
        }
    }

    /// The name of the event of a message; the error says what is missing.
    pub(super) fn fill<'a>(&'a self, subject: Subject<'a>, scratch: &mut Scratch) -> Result<Cow<'a, str>, String> {
        self.0.fill(subject, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> SourceChannel {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn fill(text: &str, subject: &str, message: &str) -> Result<String, String> {
        let parts: Vec<_> = subject.split('.').collect();
        let subject = Subject {
            parts: &parts,
            text: message,
        };
        let filled = template(text).fill(subject, &mut Scratch::default());
        filled.map(|channel| channel.as_str().to_owned())
    }

    #[test]
    fn templates_are_checked() {
        for good in [
            "a",
            "market.{2}.trade",
            "user.{order.user}.{3}",
            "md.{2..}",
            "a.{x}.{x}",
        ] {
            assert_eq!(template(good).to_string(), good);
        }
        assert_eq!(template("a.{x}.b.{2..}").pattern().as_str(), "a.*.b.*");
        for (bad, why) in [
            ("", "empty"),
            ("{1}.a", "fixed segment"),
            ("{1..}", "fixed segment"),
            ("a.{2..}.b", "only at its end"),
            ("a.x{2}", "a whole segment"),
            ("a.{2}x", "a whole segment"),
            ("a.{2", "a whole segment"),
            ("a.{}", "name of a field"),
            ("a.{x..y}", "name of a field"),
            ("a.{0}", "begins with a digit"),
            ("a.{2x}", "begins with a digit"),
            ("a..b", "empty segment"),
            ("a.*", "not allowed"),
        ] {
            let error = bad.parse::<SourceChannel>().expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
        for good in ["trade", "{type}", "{3}"] {
            assert_eq!(good.parse::<SourceEvent>().expect(good).to_string(), good);
        }
        assert!("a{x}".parse::<SourceEvent>().is_err() && "{x}.{y}".parse::<SourceEvent>().is_err());
    }

    #[test]
    fn parts_of_the_subject_and_fields_of_the_message_fill_their_places() {
        let message = r#"{"user":"u\u0031","n":7,"on":true,"order":{"id":42},"a":[1],"no":null}"#;
        for (text, filled) in [
            ("md.{2}.trade", "md.BTC.trade"),
            ("md.{2..}", "md.BTC.spot"),
            ("md.{3}.{2}", "md.spot.BTC"),
            ("user.{user}.order.{order.id}", "user.u1.order.42"),
            ("flag.{on}.{n}", "flag.true.7"),
            ("all", "all"),
        ] {
            assert_eq!(fill(text, "ticks.BTC.spot", message).as_deref(), Ok(filled), "{text}");
        }
        for (text, why) in [
            ("md.{4}", "no part 4"),
            ("md.{4..}", "no part 4"),
            ("md.{price}", "no field price"),
            ("md.{user.id}", "no field user.id"),
            ("md.{a}", "neither text nor a number"),
            ("md.{no}", "neither text nor a number"),
            ("md.{order}", "neither text nor a number"),
        ] {
            let error = fill(text, "ticks.BTC.spot", message).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn no_value_leaves_its_segment() {
        for value in ["a.b", "", " ", "*", "a\\n", "x.", ".", "system.log"] {
            let message = format!(r#"{{"v":"{value}"}}"#);
            assert!(fill("md.{v}.x", "s", &message).is_err(), "{value:?}");
            assert!(fill("md.{v}", "s", &message).is_err(), "{value:?}");
        }
        // A name of Redis may have anything between its separators.
        let parts = ["a", "", "*", "x"];
        let subject = Subject {
            parts: &parts,
            text: "1",
        };
        for text in ["md.{2}", "md.{3}", "md.{2..}"] {
            assert!(template(text).fill(subject, &mut Scratch::default()).is_err(), "{text}");
        }
        assert!(fill("a.b.c.d.e.f.{2..}", "s.1.2.3", "1").is_err(), "too many segments");
        assert!(fill("md.{v}", "s", r#"{"v":"a","v":"b"}"#).is_err(), "two of them");
    }
}
