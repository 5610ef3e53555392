//! Socket.IO packets: `<type>[<attachments>-][<namespace>,][<acknowledgement>]<payload>`.

/// The limit on the attachments of one packet, as in the reference implementation.
pub const ATTACHMENTS_MAX: u32 = 10;

/// The type of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `0`: CONNECT.
    Connect,
    /// `1`: DISCONNECT.
    Disconnect,
    /// `2`: EVENT.
    Event,
    /// `3`: ACK.
    Acknowledgement,
    /// `4`: CONNECT_ERROR, which is ERROR in revision 4.
    Error,
    /// `5`: BINARY_EVENT.
    BinaryEvent,
    /// `6`: BINARY_ACK.
    BinaryAcknowledgement,
}

/// A packet. Its payload is not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'t> {
    /// The type.
    pub kind: Kind,
    /// The number of binary messages that follow and belong to this packet.
    pub attachments: u32,
    /// The namespace, without the query that revision 4 allows. The main namespace is `/`.
    pub namespace: &'t str,
    /// The acknowledgement id: of the acknowledgement that the sender asks for, or that this packet is.
    pub acknowledgement: Option<u64>,
    /// JSON, or an empty text.
    pub payload: &'t str,
}

/// The main namespace.
pub(super) const MAIN: &str = "/";

/// The limit on the digits of an acknowledgement id, within which JavaScript counts exactly.
const NUMBER_DIGITS_MAX: usize = 16;

impl<'t> Packet<'t> {
    /// Parses the data of an Engine.IO message; `None` if it is not a packet.
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
            let (digits, after) = split_digits(rest);
            attachments = digits.parse().ok().filter(|&count| count <= ATTACHMENTS_MAX)?;
            rest = after.strip_prefix('-')?;
        }
        let mut namespace = MAIN;
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
            namespace = namespace.split_once('?').map_or(namespace, |(name, _)| name);
        }
        let (number, payload) = split_digits(rest);
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

    /// Whether the packet belongs to the main namespace, the only one of the gateway.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.namespace == MAIN
    }
}

/// Splits `text` after its leading digits.
fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}
