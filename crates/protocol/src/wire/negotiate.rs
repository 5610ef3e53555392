//! Negotiates permessage-deflate with the header `Sec-WebSocket-Extensions` (RFC 6455, section 9.1; RFC 7692, section 7.1).
//!
//! Invariant: an offer is accepted only if each of its parameters is understood. The response answers each parameter that
//! needs an answer and promises only what the gateway does: no context takeover on either side, and a window no larger than
//! the client asked for.

use super::deflate::{Deflate, WINDOW_BITS_MAX};

/// The smallest window that the gateway accepts, as a power of two. The RFC also allows 8, but zlib writes streams for 9 then.
const WINDOW_BITS_MIN: u8 = 9;

/// The result of the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The parameters of the connection.
    pub deflate: Deflate,
    /// Whether the client asked for a window. It may close the connection if the response names none.
    names_window: bool,
}

/// Accepts the first acceptable offer in the values of a request's `Sec-WebSocket-Extensions` headers; `None` if there is none.
///
/// Other extensions are skipped, and so are offers with an unknown, repeated or malformed parameter.
///
/// ```
/// use tickgate_protocol::wire::negotiate;
///
/// let chromium = "permessage-deflate; client_max_window_bits";
/// let agreement = negotiate::accept([chromium]).expect("acceptable");
/// assert_eq!(
///     agreement.answer(),
///     "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
/// );
/// ```
#[must_use]
pub fn accept<'h>(headers: impl IntoIterator<Item = &'h str>) -> Option<Agreement> {
    let offers = headers.into_iter().flat_map(|header| split(header, b','));
    offers.filter_map(accept_one).next()
}

impl Agreement {
    /// The value of `Sec-WebSocket-Extensions` in the 101 response.
    ///
    /// A client must do without context takeover if the response says so, even if it did not offer that (RFC 7692, section
    /// 7.1.1.2). A window is named if and only if the client asked for one (section 7.1.2.1).
    #[must_use]
    pub fn answer(self) -> String {
        let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        if self.names_window {
            format!("{answer}; server_max_window_bits={}", self.deflate.window_bits)
        } else {
            answer.to_owned()
        }
    }
}

fn accept_one(offer: &str) -> Option<Agreement> {
    let mut parts = split(offer, b';');
    // The names of extensions and parameters are tokens, which are compared case-sensitively.
    if parts.next()?.trim_matches(is_space) != "permessage-deflate" {
        return None;
    }
    let mut server_bits = None;
    let mut client_bits = None;
    let (mut server_forgets, mut client_forgets) = (false, false);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value.trim_matches(is_space))?)),
            None => (part, None),
        };
        let is_new = match (name.trim_matches(is_space), value) {
            ("server_no_context_takeover", None) => !std::mem::replace(&mut server_forgets, true),
            ("client_no_context_takeover", None) => !std::mem::replace(&mut client_forgets, true),
            ("server_max_window_bits", Some(bits)) => server_bits.replace(window_bits(bits)?).is_none(),
            // Limits the window of the client's compressor. The gateway inflates any window.
            ("client_max_window_bits", None) => client_bits.replace(WINDOW_BITS_MAX).is_none(),
            ("client_max_window_bits", Some(bits)) => client_bits.replace(window_bits(bits)?).is_none(),
            _ => false,
        };
        if !is_new {
            return None;
        }
    }
    let window_bits = server_bits.unwrap_or(WINDOW_BITS_MAX);
    (window_bits >= WINDOW_BITS_MIN).then_some(Agreement {
        deflate: Deflate { window_bits },
        names_window: server_bits.is_some(),
    })
}

/// Reads 8 to 15, in decimal without leading zeros (RFC 7692, section 7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" => Some(8),
        "9" => Some(9),
        _ => text
            .strip_prefix('1')
            .filter(|digit| matches!(digit.as_bytes(), [b'0'..=b'5']))
            .and_then(|digit| digit.parse::<u8>().ok())
            .map(|digit| 10 + digit),
    }
}

/// Removes the quotes that a value may have (RFC 6455, section 9.1). The quoted value must be a token too, so it needs no
/// escapes. `None` if the closing quote is missing.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"'),
        None => Some(value),
    }
}

/// Splits `text` at separators outside quoted strings. In a quoted string a backslash escapes the next byte (RFC 9110, section
/// 5.6.4).
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut in_quotes, mut is_escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            let was_escaped = is_escaped;
            is_escaped = in_quotes && !was_escaped && byte == b'\\';
            in_quotes ^= byte == b'"' && !was_escaped;
            byte == separator && !in_quotes
        });
        match end {
            Some(end) => {
                rest = Some(&text[end + 1..]);
                Some(&text[..end])
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(header: &str) -> Option<u8> {
        accept([header]).map(|agreement| agreement.deflate.window_bits)
    }

    #[test]
    fn offers_of_browsers_and_libraries_are_accepted() {
        for (header, expected) in [
            ("permessage-deflate", 15),
            ("permessage-deflate; client_max_window_bits", 15),
            ("permessage-deflate;client_max_window_bits=10", 15),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                15,
            ),
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits",
                12,
            ),
            (" permessage-deflate\t;\tserver_max_window_bits = \"9\" ", 9),
            ("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", 15),
            (
                "a; b=\"c, permessage-deflate; d\", permessage-deflate; server_max_window_bits=11",
                11,
            ),
            (
                r#"a; b="c\", permessage-deflate; d", permessage-deflate; server_max_window_bits=11"#,
                11,
            ),
            (r#"a; b="c\\", permessage-deflate, "d"#, 15),
            (
                r#"a; b=c\", permessage-deflate; ", permessage-deflate; server_max_window_bits=9"#,
                9,
            ),
        ] {
            assert_eq!(bits(header), Some(expected), "{header}");
        }
        for window in 9..=15 {
            let header = format!("permessage-deflate; server_max_window_bits={window}");
            assert_eq!(bits(&header), Some(window));
        }
    }

    #[test]
    fn unknown_malformed_and_unsupported_offers_are_declined() {
        for header in [
            "",
            ";",
            ",",
            "x-webkit-deflate-frame",
            "permessage-deflate2",
            "Permessage-Deflate",
            "permessage-deflate;",
            "permessage-deflate; ;",
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"\"",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=1",
            "permessage-deflate; server_max_window_bits=115",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=9\"",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=x",
        ] {
            assert_eq!(bits(header), None, "{header}");
        }
    }

    #[test]
    fn the_first_acceptable_offer_is_accepted() {
        for (headers, expected) in [
            (
                &["permessage-deflate; server_max_window_bits=8, permessage-deflate"][..],
                15,
            ),
            (
                &[
                    "permessage-deflate; unknown",
                    "foo, permessage-deflate; server_max_window_bits=10, permessage-deflate",
                ],
                10,
            ),
            (&["", "permessage-deflate"], 15),
        ] {
            let agreement = accept(headers.iter().copied());
            assert_eq!(
                agreement.map(|agreement| agreement.deflate.window_bits),
                Some(expected),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn the_response_names_a_window_only_if_the_client_asked_for_one() {
        for (offer, named) in [
            ("", ""),
            ("; client_max_window_bits=15", ""),
            ("; server_max_window_bits=10", "; server_max_window_bits=10"),
            // This is the default window, but Python's `websockets` closes the connection if the response leaves it out.
            ("; server_max_window_bits=15", "; server_max_window_bits=15"),
        ] {
            let header = format!("permessage-deflate{offer}");
            let answer = accept([header.as_str()]).expect("acceptable").answer();
            let expected = format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{named}");
            assert_eq!(answer, expected, "{header}");
        }
    }
}
