//! Payloads of long polling: the packets in one HTTP body.
//!
//! * In revision 4 the character U+001E separates packets.
//! * In revision 3 each packet follows its length and a colon. The length counts UTF-16 code units, as JavaScript does: `€` is
//!   one, `😀` is two.
//! * The packets of `socket.io-client` 1 are UTF-8 twice: each byte of the packet is written as one character, in both
//!   directions. Version 2 does not, and a request does not tell the two apart. So written JSON has only ASCII, which both read
//!   alike, and a packet that is UTF-8 twice is decoded twice.
//! * A revision 3 client that sends binary data as such uses a binary framing. The first byte of the body distinguishes the
//!   two.
//! * Otherwise a binary packet is base64 after a `b`.
//!
//! Invariant: every byte of a body belongs to exactly one packet or to the framing. Any other byte is an error.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Revision;
use crate::json::push_u64;

/// The separator of packets in revision 4.
const SEPARATOR: u8 = 0x1e;

/// The limit on the digits of a length in revision 3. No body is that long.
const LENGTH_DIGITS_MAX: usize = 9;

/// One packet of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'b> {
    /// A text packet, for [`super::Packet::parse`].
    Text(Cow<'b, str>),
    /// The data of a binary message.
    Binary(Vec<u8>),
}

/// The body is not a valid payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a payload of Engine.IO packets")]
pub struct BadPayload;

/// Reads the packet at `position` of a body and advances `position`, which becomes `None` after the last packet. Start with
/// `Some(0)`. Returns `None` after the last packet.
///
/// An empty body has one empty packet in revision 4 and no packet in revision 3.
///
/// # Errors
///
/// The body is not a valid payload at `position`. There are no further packets then.
pub fn next<'b>(
    revision: Revision,
    body: &'b [u8],
    position: &mut Option<usize>,
) -> Option<Result<Item<'b>, BadPayload>> {
    let at = (*position)?;
    // The packet, and where the next one starts, if there can be one.
    let read = match revision {
        Revision::Four => read_separated(&body[at..]).map(|(item, taken)| (item, taken.map(|taken| at + taken))),
        Revision::Three if at >= body.len() => {
            *position = None;
            return None;
        }
        Revision::Three => match body[0] {
            0 | 1 => read_binary_framing(&body[at..]),
            _ => read_counted(&body[at..]),
        }
        .map(|(item, taken)| (item, Some(at + taken))),
    };
    Some(match read {
        Some((item, next)) => {
            *position = next;
            Ok(item)
        }
        None => {
            *position = None;
            Err(BadPayload)
        }
    })
}

/// Revision 4: reads up to the separator or the end.
fn read_separated(rest: &[u8]) -> Option<(Item<'_>, Option<usize>)> {
    let end = memchr::memchr(SEPARATOR, rest);
    let packet = str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()?;
    let item = match packet.strip_prefix('b') {
        Some(data) => Item::Binary(BASE64.decode(data).ok()?),
        None => Item::Text(packet.into()),
    };
    Some((item, end.map(|end| end + 1)))
}

/// Revision 3: reads `<number of UTF-16 code units>:<packet>`.
fn read_counted(rest: &[u8]) -> Option<(Item<'_>, usize)> {
    let colon = memchr::memchr(b':', &rest[..rest.len().min(LENGTH_DIGITS_MAX + 1)])?;
    let units = number(&rest[..colon])?;
    let start = colon + 1;
    // A code unit takes at most three bytes, so this range includes the whole packet.
    let within = &rest[start..rest.len().min(start.saturating_add(units.saturating_mul(3)))];
    let text = utf8_prefix(within);
    let mut left = units;
    let mut bytes = 0;
    for character in text.chars() {
        if left == 0 {
            break;
        }
        left = left.checked_sub(character.len_utf16())?;
        bytes += character.len_utf8();
    }
    let packet = (left == 0).then(|| &text[..bytes])?;
    let item = match packet.strip_prefix('b') {
        // The packet type precedes the data.
        Some(data) => Item::Binary(BASE64.decode(data.strip_prefix('4')?).ok()?),
        None => Item::Text(decoded_twice(packet)),
    };
    Some((item, start + bytes))
}

/// Revision 3, binary framing: the kind (0 for text, 1 for binary), the digits of the length as bytes 0 to 9, the byte 255, the
/// packet.
fn read_binary_framing(rest: &[u8]) -> Option<(Item<'_>, usize)> {
    let (&kind, rest_of_it) = rest.split_first()?;
    let digits = memchr::memchr(255, &rest_of_it[..rest_of_it.len().min(LENGTH_DIGITS_MAX + 1)])?;
    if digits == 0 || rest_of_it[..digits].iter().any(|&digit| digit > 9) {
        return None;
    }
    let length = rest_of_it[..digits]
        .iter()
        .fold(0, |number, &digit| number * 10 + usize::from(digit));
    let packet = rest_of_it.get(digits + 1..)?.get(..length)?;
    let item = match kind {
        0 => Item::Text(str::from_utf8(packet).ok()?.into()),
        1 => Item::Binary(packet.strip_prefix(&[4])?.to_vec()),
        _ => return None,
    };
    Some((item, 1 + digits + 1 + length))
}

/// The packet, decoded once more if it was encoded twice: if its characters are the bytes of UTF-8. Text that is meant to look
/// like that is decoded too, such as `Ã©`.
fn decoded_twice(packet: &str) -> Cow<'_, str> {
    if packet.is_ascii() {
        return packet.into();
    }
    let bytes: Option<Vec<u8>> = packet.chars().map(|character| u8::try_from(character).ok()).collect();
    match bytes.map(String::from_utf8) {
        Some(Ok(text)) => text.into(),
        _ => packet.into(),
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// The longest prefix that is UTF-8.
fn utf8_prefix(bytes: &[u8]) -> &str {
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// Base64 as Node.js decodes it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Appends a text packet to a payload. In revision 3 its JSON is written with escapes in place of other characters than ASCII.
pub fn append(revision: Revision, packet: &str, out: &mut Vec<u8>) {
    match revision {
        Revision::Four => {
            if !out.is_empty() {
                out.push(SEPARATOR);
            }
        }
        Revision::Three if !packet.is_ascii() => return append_escaped(packet, out),
        Revision::Three => {
            push_u64(out, packet.len() as u64);
            out.push(b':');
        }
    }
    out.extend_from_slice(packet.as_bytes());
}

/// Appends a packet of revision 3 with other characters than ASCII. They are escaped from the first one on that can begin
/// JSON. Before it stands at most a namespace.
fn append_escaped(packet: &str, out: &mut Vec<u8>) {
    let json = packet.find(['[', '{', '"']).unwrap_or(packet.len());
    let (head, json) = packet.split_at(json);
    let units_of = |character: char| match character.len_utf16() {
        _ if character.is_ascii() => 1,
        units => ESCAPE_BYTES * units,
    };
    let units = head.encode_utf16().count() + json.chars().map(units_of).sum::<usize>();
    push_u64(out, units as u64);
    out.push(b':');
    out.extend_from_slice(head.as_bytes());
    for character in json.chars() {
        if let Ok(byte) = u8::try_from(character)
            && byte.is_ascii()
        {
            out.push(byte);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            out.extend_from_slice(b"\\u");
            let digits = [12, 8, 4, 0].map(|shift| b"0123456789abcdef"[usize::from(*unit >> shift & 15)]);
            out.extend_from_slice(&digits);
        }
    }
}

/// The length of `\uXXXX`.
const ESCAPE_BYTES: usize = 6;
