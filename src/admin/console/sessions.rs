//! The sessions of the console: who has signed in, by the token in their cookie.
//!
//! Invariant: a session lives for at most [`LIFETIME_MS`], and there are at most [`SESSIONS_MAX`]. A token has 256 random
//! bits, so that finding one by guessing is out of reach. Sessions are in memory: a restart ends them.

use std::fmt;
use std::fmt::Write as _;

use hashbrown::HashMap;
use hyper::header::{COOKIE, HOST, HeaderMap, ORIGIN};
use parking_lot::Mutex;

use crate::admin::access::Holder;

/// How long a session lives: one working day.
pub(in crate::admin) const LIFETIME_MS: u64 = 12 * 3_600_000;

/// The most sessions. One more ends the one that would end first.
const SESSIONS_MAX: usize = 1024;

const COOKIE_PREFIX: &str = "tickgate_console";

/// What a person signed in with. `Debug` does not show a token.
#[derive(Clone)]
pub(in crate::admin) enum Credential {
    /// A key of `[admin]` or `[tenant.admin]`.
    Key(Holder),
    /// A token with the role admin. It is verified at each use.
    Token(Box<str>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(holder) => f.debug_tuple("Key").field(holder).finish(),
            Self::Token(_) => f.write_str("Token(..)"),
        }
    }
}

/// The sessions of one gateway.
#[derive(Debug, Default)]
pub(in crate::admin) struct Sessions(Mutex<HashMap<Box<str>, Session>>);

#[derive(Debug)]
struct Session {
    credential: Credential,
    ends_ms: u64,
}

impl Sessions {
    /// Begins a session and returns its token. Times are monotonic milliseconds.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub(super) fn begin(&self, credential: Credential, now_ms: u64) -> Result<String, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let mut token = String::with_capacity(64);
        for byte in bytes {
            let _ = write!(token, "{byte:02x}");
        }
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| session.ends_ms > now_ms);
        if sessions.len() >= SESSIONS_MAX {
            let first = sessions.iter().min_by_key(|(_, session)| session.ends_ms);
            let first = first.map(|(token, _)| token.clone());
            first.and_then(|token| sessions.remove(&token));
        }
        let ends_ms = now_ms + LIFETIME_MS;
        sessions.insert(token.as_str().into(), Session { credential, ends_ms });
        Ok(token)
    }

    /// The credential of a session that has not ended.
    pub(in crate::admin) fn find(&self, token: &str, now_ms: u64) -> Option<Credential> {
        let sessions = self.0.lock();
        let session = sessions.get(token)?;
        (session.ends_ms > now_ms).then(|| session.credential.clone())
    }

    /// Milliseconds until a session ends.
    pub(in crate::admin) fn left_ms(&self, token: &str, now_ms: u64) -> Option<u64> {
        let sessions = self.0.lock();
        sessions
            .get(token)
            .map(|session| session.ends_ms.saturating_sub(now_ms))
    }

    /// Ends a session.
    pub(super) fn end(&self, token: &str) {
        self.0.lock().remove(token);
    }
}

/// The name of the cookie. Browsers send a cookie to all ports of a host, so the port is part of the name: the consoles of
/// two gateways on one machine do not sign each other out.
pub(super) fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    match host.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{COOKIE_PREFIX}_{port}")
        }
        _ => COOKIE_PREFIX.to_owned(),
    }
}

/// The token of the session that a request names by its cookie.
pub(in crate::admin) fn session_token(headers: &HeaderMap) -> Option<&str> {
    let name = cookie_name(headers);
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(given, value)| (given == name).then_some(value))
}

/// Whether a request comes from a page of this listener: it has one `Origin`, which names the request's host.
pub(in crate::admin) fn is_own_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return false;
    };
    let (Some(Ok(host)), Ok(origin)) = (headers.get(HOST).map(|host| host.to_str()), origin.to_str()) else {
        return false;
    };
    [("http://", ":80"), ("https://", ":443")]
        .into_iter()
        .any(|(scheme, port)| {
            let named = origin.strip_prefix(scheme).filter(|named| !named.is_empty());
            // A browser leaves the scheme's own port out; a proxy may write it.
            named.is_some_and(|named| named.eq_ignore_ascii_case(host.strip_suffix(port).unwrap_or(host)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).expect("allowed"));
        }
        headers
    }

    #[test]
    fn a_session_ends_by_time_by_sign_out_or_for_a_newer_one() {
        let sessions = Sessions::default();
        let begin = |now_ms| {
            sessions
                .begin(Credential::Token("t".into()), now_ms)
                .expect("randomness")
        };
        let first = begin(0);
        assert_eq!(first.len(), 64);
        assert!(sessions.find(&first, LIFETIME_MS - 1).is_some());
        assert!(sessions.find(&first, LIFETIME_MS).is_none());
        assert!(sessions.find("", 0).is_none());
        assert_eq!(sessions.left_ms(&first, 1_000), Some(LIFETIME_MS - 1_000));
        let second = begin(1);
        assert_ne!(first, second);
        sessions.end(&second);
        assert!(sessions.find(&second, 1).is_none());
        let tokens: Vec<_> = (0..SESSIONS_MAX as u64).map(|n| begin(2 + n)).collect();
        let newest = &tokens[SESSIONS_MAX - 1];
        assert!(sessions.find(&first, 2).is_none(), "the oldest makes room");
        assert!(sessions.find(newest, 2).is_some());
        assert_eq!(sessions.0.lock().len(), SESSIONS_MAX);
    }

    #[test]
    fn the_cookie_of_this_listener_is_found_among_others() {
        let token = |lines: &[(HeaderName, &str)]| session_token(&headers(lines)).map(str::to_owned);
        let here = (HOST, "127.0.0.1:8081");
        assert_eq!(token(std::slice::from_ref(&here)), None);
        assert_eq!(token(&[here.clone(), (COOKIE, "tickgate_console_8082=b")]), None);
        let cookies = "x=1; tickgate_console_8081=a; tickgate_console=c";
        assert_eq!(token(&[here, (COOKIE, cookies)]).as_deref(), Some("a"));
        for host in ["ops.example", "[::1]"] {
            assert_eq!(
                token(&[(HOST, host), (COOKIE, cookies)]).as_deref(),
                Some("c"),
                "{host}"
            );
        }
    }

    #[test]
    fn only_a_page_of_the_listener_is_its_own() {
        for (host, origin, own) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081", true),
            ("ops.example", "https://ops.example", true),
            ("ops.example:443", "https://ops.example", true),
            ("OPS.example", "https://ops.EXAMPLE", true),
            ("127.0.0.1:8081", "http://127.0.0.1:8080", false),
            ("127.0.0.1:8081", "http://localhost:8081", false),
            ("ops.example:443", "http://ops.example", false),
            ("ops.example", "https://evil.example", false),
            ("ops.example", "null", false),
            ("ops.example", "https://", false),
            ("", "https://", false),
            ("ops.example", "ops.example", false),
        ] {
            let headers = headers(&[(HOST, host), (ORIGIN, origin)]);
            assert_eq!(is_own_origin(&headers), own, "{host} {origin}");
        }
        assert!(!is_own_origin(&headers(&[(HOST, "a")])));
        let two = [(HOST, "a"), (ORIGIN, "http://a"), (ORIGIN, "http://a")];
        assert!(!is_own_origin(&headers(&two)));
    }

    #[test]
    fn a_credential_shows_no_token() {
        assert_eq!(format!("{:?}", Credential::Token("hush".into())), "Token(..)");
    }
}
