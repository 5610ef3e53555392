//! The packet's head: `<type>[<attachments>-][<namespace>,][<acknowledgement>]<payload>`.

/// Attachments of one packet; one with more breaks the protocol (the reference implementation's own bound).
pub const ATTACHMENTS_MAX: u32 = 10;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `0`
    Connect,
    /// `1`
    Disconnect,
    /// `2`
    Event,
    /// `3`
    Acknowledgement,
    /// `4`: CONNECT_ERROR, or ERROR in revision 4.
    Error,
    /// `5`
    BinaryEvent,
    /// `6`
    BinaryAcknowledgement,
}

/// A packet's head, and its payload unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'t> {
    /// What it is.
    pub kind: Kind,
    /// How many binary messages follow that belong to it.
    pub attachments: u32,
    /// `/`: the main one. A query behind it (revision 4) is left out.
    pub namespace: &'t str,
    /// Its number, when the sender waits for an acknowledgement (or this is one).
    pub acknowledgement: Option<u64>,
    /// JSON, or nothing.
    pub payload: &'t str,
}

/// The main namespace.
pub(super) const MAIN: &str = "/";

/// Digits of an acknowledgement's number: what JavaScript counts exactly.
const NUMBER_DIGITS_MAX: usize = 16;

impl<'t> Packet<'t> {
    /// Reads the data of an Engine.IO message; `None`: it is no packet.
    #[must_use]
    pub fn parse(text: &'t str) -> Option<Self> {
        let kind = match text.as_bytes().first()? {
            b'0' => Kind::Connect,
            b'1' => Kind::Disconnect,
            b'2' => Kind::Event,
            b'3' => Kind::Acknowledgement,
            b'4' => Kind::Error,
            b'5' => Kind::BinaryEvent,
            b'6' => Kind::BinaryAcknowledgement,
            _ => return None,
        };
        let mut rest = &text[1..];
        let mut attachments = 0;
        if matches!(kind, Kind::BinaryEvent | Kind::BinaryAcknowledgement) {
            let (digits, behind) = digits(rest);
            attachments = digits.parse().ok().filter(|&count| count <= ATTACHMENTS_MAX)?;
            rest = behind.strip_prefix('-')?;
        }
        let mut namespace = MAIN;
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
            namespace = namespace.split_once('?').map_or(namespace, |(name, _)| name);
        }
        let (number, payload) = digits(rest);
        let acknowledgement = match number {
            "" => None,
            number if number.len() <= NUMBER_DIGITS_MAX => Some(number.parse().ok()?),
            _ => return None,
        };
        Some(Self {
            kind,
            attachments,
            namespace,
            acknowledgement,
            payload,
        })
    }

    /// Whether it concerns the main namespace, the only one there is.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.namespace == MAIN
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}
