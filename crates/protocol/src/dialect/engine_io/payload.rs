//! What the body of a poll holds: any number of packets.
//!
//! Revision 4 parts them by the character U+001E. Revision 3 writes each one's length and a colon before it, counted in
//! UTF-16 code units, as JavaScript counts characters (`€` is one, `😀` are two); clients that send binary packets as
//! such use a framing in bytes instead, and the body's first byte tells the two apart. Binary packets are otherwise
//! written in base64 behind a `b`.
//!
//! Invariant: every byte of a body belongs to exactly one packet or is framing; what is neither is an error.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Revision;
use crate::json::push_u64;

/// What parts packets in revision 4.
const SEPARATOR: u8 = 0x1e;

/// Digits of a length in revision 3; what is longer would not fit a body.
const LENGTH_DIGITS_MAX: usize = 9;

/// One packet of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'b> {
    /// A text packet, to be read by [`super::Packet::parse`].
    Text(&'b str),
    /// The data of a binary message.
    Binary(Vec<u8>),
}

/// A body that is no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no payload of Engine.IO packets")]
pub struct BadPayload;

/// Reads the packet at `position` of a body and moves behind it; `None`: there is no further one. An empty body holds
/// one empty packet in revision 4 and none in revision 3.
///
/// # Errors
/// The body is no payload from here on.
pub fn next<'b>(
    revision: Revision,
    body: &'b [u8],
    position: &mut Option<usize>,
) -> Option<Result<Item<'b>, BadPayload>> {
    let at = (*position)?;
    // Where the next one begins; `None` behind the last one.
    let read = match revision {
        Revision::Four => separated(&body[at..]).map(|(item, taken)| (item, taken.map(|taken| at + taken))),
        Revision::Three if at >= body.len() => {
            *position = None;
            return None;
        }
        Revision::Three => match body[0] {
            0 | 1 => in_bytes(&body[at..]),
            _ => counted(&body[at..]),
        }
        .map(|(item, taken)| (item, Some(at + taken))),
    };
    Some(match read {
        Some((item, behind)) => {
            *position = behind;
            Ok(item)
        }
        None => {
            *position = None;
            Err(BadPayload)
        }
    })
}

// Revision 4: up to the separator or the end.
fn separated(rest: &[u8]) -> Option<(Item<'_>, Option<usize>)> {
    let end = memchr::memchr(SEPARATOR, rest);
    let packet = str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()?;
    let item = match packet.strip_prefix('b') {
        Some(data) => Item::Binary(BASE64.decode(data).ok()?),
        None => Item::Text(packet),
    };
    Some((item, end.map(|end| end + 1)))
}

// Revision 3: `<UTF-16 code units>:<packet>`.
fn counted(rest: &[u8]) -> Option<(Item<'_>, usize)> {
    let colon = memchr::memchr(b':', &rest[..rest.len().min(LENGTH_DIGITS_MAX + 1)])?;
    let units = number(&rest[..colon])?;
    let start = colon + 1;
    // A unit is at most three bytes; what is cut by that bound is cut behind the packet.
    let within = &rest[start..rest.len().min(start.saturating_add(units.saturating_mul(3)))];
    let text = longest_text(within);
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
        // Its type stands before the data.
        Some(data) => Item::Binary(BASE64.decode(data.strip_prefix('4')?).ok()?),
        None => Item::Text(packet),
    };
    Some((item, start + bytes))
}

// Revision 3, with binary packets as such: 0 (text) or 1, the length's digits as bytes 0 to 9, 255, the packet.
fn in_bytes(rest: &[u8]) -> Option<(Item<'_>, usize)> {
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
        0 => Item::Text(str::from_utf8(packet).ok()?),
        1 => Item::Binary(packet.strip_prefix(&[4])?.to_vec()),
        _ => return None,
    };
    Some((item, 1 + digits + 1 + length))
}

fn number(digits: &[u8]) -> Option<usize> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

// All of it that is UTF-8.
fn longest_text(bytes: &[u8]) -> &str {
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// Node's decoder takes base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Appends a text packet to a payload.
pub fn append(revision: Revision, packet: &str, out: &mut Vec<u8>) {
    match revision {
        Revision::Four => {
            if !out.is_empty() {
                out.push(SEPARATOR);
            }
        }
        Revision::Three => {
            push_u64(out, packet.encode_utf16().count() as u64);
            out.push(b':');
        }
    }
    out.extend_from_slice(packet.as_bytes());
}
