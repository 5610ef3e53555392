//! The check of the HTTP header `Origin`: which pages may connect.
//!
//! A browser sets the header and no page can forge it. Other programs can send anything. So the check protects the users
//! of browsers from foreign pages, and nothing else (RFC 6455, section 10.2).

/// The checked entries of `allowed_origins`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// `*`
    Any,
    /// `https://app.example.com`, `capacitor://localhost`, `file://` or `null`, in the form of [`normalize`].
    Exact(Box<str>),
    /// `https://*.example.com` as `https://` and `.example.com`, in the form of [`normalize`].
    Subdomains { scheme: Box<str>, suffix: Box<str> },
}

/// An entry of `allowed_origins` is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be \"*\", scheme://host[:port], scheme://*.domain[:port], \"file://\" or \"null\", without a path")]
pub struct OriginError;

impl AllowedOrigins {
    /// Checks the entries. An empty list allows the host name of the request itself, with any port.
    ///
    /// # Errors
    ///
    /// The index of the first entry that is not valid.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, (usize, OriginError)> {
        let rule = |(index, entry): (usize, &S)| Rule::parse(entry.as_ref()).ok_or((index, OriginError));
        entries.iter().enumerate().map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a page of `origin` may connect to `host`: the request's `Host`, with or without a port.
    #[must_use]
    pub fn allows(&self, origin: &str, host: &str) -> bool {
        let origin = normalize(origin);
        if self.0.is_empty() {
            return origin.as_deref().and_then(split).is_some_and(|(_, authority)| {
                host_name(authority)
                    .trim_end_matches('.')
                    .eq_ignore_ascii_case(host_name(host).trim_end_matches('.'))
            });
        }
        self.0.iter().any(|rule| rule.allows(origin.as_deref()))
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::Any);
        }
        let entry = normalize(entry)?;
        let Some((scheme, authority)) = split(&entry) else {
            return Some(Self::Exact(entry.into()));
        };
        if let Some(domain) = authority.strip_prefix("*.") {
            let plain = !domain.contains('*') && !host_name(domain).is_empty();
            let (scheme, suffix) = (format!("{scheme}://").into(), format!(".{domain}").into());
            return plain.then_some(Self::Subdomains { scheme, suffix });
        }
        (!authority.contains('*')).then(|| Self::Exact(entry.into()))
    }

    /// `origin` is in the form of [`normalize`]; `None` is not an origin.
    fn allows(&self, origin: Option<&str>) -> bool {
        match (self, origin) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::Exact(allowed), Some(origin)) => **allowed == *origin,
            (Self::Subdomains { scheme, suffix }, Some(origin)) => origin
                .strip_prefix(&**scheme)
                .and_then(|authority| authority.strip_suffix(&**suffix))
                .is_some_and(|sub| !sub.is_empty() && sub.bytes().all(|b| b != b':' && b != b'/' && b != b'@')),
        }
    }
}

/// The one form of an origin: lower case, without the scheme's default port. `None` when the text is not an origin.
///
/// Browsers send this form (RFC 6454, section 6.2). Native clients often build the header themselves and add the port.
fn normalize(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    // What apps send whose pages have no host: pages of files and sandboxed ones.
    if origin == "null" || origin == "file://" {
        return Some(origin);
    }
    let (scheme, authority) = split(&origin)?;
    let port = match scheme {
        "https" | "wss" => ":443",
        "http" | "ws" => ":80",
        _ => return Some(origin),
    };
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    Some(format!("{scheme}://{authority}"))
}

/// The scheme and authority of an origin; `None` when the text is not one, or has more, such as a path.
fn split(origin: &str) -> Option<(&str, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme_ok = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority_ok = !host_name(authority).is_empty()
        && authority
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/?#@\\".contains(&b));
    (scheme_ok && authority_ok).then_some((scheme, authority))
}

/// The host name of an authority: without the port, with the brackets of an IPv6 address.
pub(super) fn host_name(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or("", |end| &authority[..=end]);
    }
    authority.split_once(':').map_or(authority, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_allowed_by_the_rules() {
        // (allowed_origins, Origin, Host, allowed)
        const TABLE: &[(&[&str], &str, &str, bool)] = &[
            (&[], "https://app.example.com", "app.example.com", true),
            (&[], "https://app.example.com:8443", "app.example.com", true),
            (&[], "http://APP.example.com", "app.Example.com:8080", true),
            (&[], "http://[::1]:3000", "[::1]:8080", true),
            (&[], "http://[::1]:3000", "[::2]:8080", false),
            (&[], "https://evil.example", "app.example.com", false),
            (&[], "https://app.example.com.evil.example", "app.example.com", false),
            (&[], "null", "app.example.com", false),
            (&[], "", "", false),
            (&[], "https://", "", false),
            (&[], "https://:80", "", false),
            (&[], "https://app.example.com/path", "app.example.com", false),
            (&[], "https://evil@app.example.com", "app.example.com", false),
            (&["*"], "null", "x", true),
            (&["*"], "https://evil.example", "x", true),
            (&["https://app.example.com"], "https://app.example.com", "x", true),
            (&["https://app.example.com"], "HTTPS://App.example.com", "x", true),
            (&["https://app.example.com:443"], "https://app.example.com", "x", true),
            (&["https://app.example.com"], "http://app.example.com", "x", false),
            (&["https://app.example.com"], "https://app.example.com:8443", "x", false),
            (&["https://app.example.com"], "null", "x", false),
            // The default port is left out on both sides.
            (&["https://app.example.com"], "https://app.example.com:443", "x", true),
            (
                &["https://app.example.com:443"],
                "https://app.example.com:443",
                "x",
                true,
            ),
            (&["http://app.example.com"], "http://app.example.com:80", "x", true),
            (&["http://app.example.com:80"], "http://app.example.com", "x", true),
            (&["https://app.example.com"], "https://app.example.com:80", "x", false),
            (&["https://app.example.com"], "https://app.example.com:0443", "x", false),
            (
                &["https://app.example.com"],
                "https://app.example.com:8443:443",
                "x",
                false,
            ),
            (&["http://[::1]"], "http://[::1]:80", "x", true),
            (&["https://*.example.com"], "https://app.example.com:443", "x", true),
            (&["https://*.example.com:443"], "https://app.example.com", "x", true),
            (&["http://*.example.com:80"], "http://app.example.com:80", "x", true),
            (&["https://*.example.com"], "https://app.example.com:80", "x", false),
            (&["wss://ws.example.com"], "wss://ws.example.com:443", "x", true),
            (&["ws://ws.example.com:80"], "ws://ws.example.com", "x", true),
            (&["wss://ws.example.com"], "https://ws.example.com", "x", false),
            (&[], "wss://ws.example.com:443", "ws.example.com", true),
            // Native apps.
            (&["file://"], "file://", "x", true),
            (&["null"], "null", "x", true),
            (&["null"], "file://", "x", false),
            (&["file://"], "null", "x", false),
            (&["file://"], "file:///", "x", false),
            (&["file://"], "https://x", "x", false),
            (&[], "file://", "", false),
            (&["capacitor://localhost"], "capacitor://localhost", "x", true),
            (&["ionic://localhost"], "ionic://localhost", "x", true),
            (&["ionic://localhost"], "ionic://localhost:443", "x", false),
            (&["app://-"], "app://-", "x", true),
            // A list replaces the rule of the same host name.
            (&["https://app.example.com"], "https://x", "x", false),
            (&["https://*.example.com"], "https://app.example.com", "x", true),
            (&["https://*.example.com"], "https://a.b.example.com", "x", true),
            (&["https://*.example.com"], "https://example.com", "x", false),
            (&["https://*.example.com"], "https://.example.com", "x", false),
            (&["https://*.example.com"], "https://evilexample.com", "x", false),
            (&["https://*.example.com"], "http://app.example.com", "x", false),
            (&["https://*.example.com"], "https://app.example.com:8443", "x", false),
            (
                &["https://*.example.com"],
                "https://evil.example/.example.com",
                "x",
                false,
            ),
            (
                &["https://*.example.com"],
                "https://evil.example:1.example.com",
                "x",
                false,
            ),
            (
                &["https://*.example.com:8443"],
                "https://app.example.com:8443",
                "x",
                true,
            ),
            (
                &["https://a.example", "https://b.example"],
                "https://b.example",
                "x",
                true,
            ),
        ];
        for (entries, origin, host, allowed) in TABLE {
            let origins = AllowedOrigins::parse(entries).expect("valid entries");
            assert_eq!(
                origins.allows(origin, host),
                *allowed,
                "{entries:?}: {origin} to {host}"
            );
        }
    }

    #[test]
    fn invalid_entries_are_refused() {
        for entry in [
            "",
            "example.com",
            "https://",
            "https://x/",
            "https://*",
            "https://*.",
            "https://a*.example",
            "https://*.*.x",
            "https://x y",
            "https://:443",
            "file:///",
            "file://*",
            "app://",
        ] {
            assert_eq!(AllowedOrigins::parse(&["*", entry]), Err((1, OriginError)), "{entry}");
        }
    }
}
