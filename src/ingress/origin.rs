//! Which pages may connect: the check of the `Origin` header.
//!
//! A browser sends it and no page can forge it; other programs can send anything, so it protects users of browsers
//! from foreign pages and nobody else (RFC 6455, section 10.2).

/// `allowed_origins`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// `*`
    Any,
    /// `https://app.example.com`, with its port when one was given; lower case.
    Exact(Box<str>),
    /// `https://*.example.com`: the scheme with `://`, and the rest with its leading dot; lower case.
    Subdomains { scheme: Box<str>, suffix: Box<str> },
}

/// Why an entry of `allowed_origins` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no origin: expected \"*\", scheme://host[:port] or scheme://*.domain[:port], without a path")]
pub struct OriginError;

impl Origins {
    /// Checks the entries; an empty list means: the same host name as the request's, any port. On failure tells the
    /// index of the bad entry.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, (usize, OriginError)> {
        let rule = |(index, entry): (usize, &S)| Rule::parse(entry.as_ref()).ok_or((index, OriginError));
        entries.iter().enumerate().map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a page of `origin` may connect to `host` (the request's `Host`, with or without a port).
    #[must_use]
    pub fn allows(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.0.is_empty() {
            return split(&origin).is_some_and(|(_, authority)| {
                host_name(authority)
                    .trim_end_matches('.')
                    .eq_ignore_ascii_case(host_name(host).trim_end_matches('.'))
            });
        }
        self.0.iter().any(|rule| rule.allows(&origin))
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::Any);
        }
        let entry = entry.to_ascii_lowercase();
        let (scheme, authority) = split(&entry)?;
        if let Some(domain) = authority.strip_prefix("*.") {
            let plain = !domain.contains('*') && !host_name(domain).is_empty();
            let (scheme, suffix) = (format!("{scheme}://").into(), format!(".{domain}").into());
            return plain.then_some(Self::Subdomains { scheme, suffix });
        }
        (!authority.contains('*')).then(|| Self::Exact(without_default_port(scheme, authority).into()))
    }

    fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(allowed) => **allowed == *origin,
            Self::Subdomains { scheme, suffix } => origin
                .strip_prefix(&**scheme)
                .and_then(|authority| authority.strip_suffix(&**suffix))
                .is_some_and(|sub| !sub.is_empty() && sub.bytes().all(|b| b != b':' && b != b'/' && b != b'@')),
        }
    }
}

/// An origin as browsers write it leaves the scheme's own port out (RFC 6454, section 6.2).
fn without_default_port(scheme: &str, authority: &str) -> String {
    let port = match scheme {
        "https" | "wss" => ":443",
        "http" | "ws" => ":80",
        _ => "",
    };
    let authority = if port.is_empty() {
        authority
    } else {
        authority.strip_suffix(port).unwrap_or(authority)
    };
    format!("{scheme}://{authority}")
}

/// Scheme and authority of a text that is an origin and nothing more.
fn split(origin: &str) -> Option<(&str, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme_ok = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority_ok = !host_name(authority).is_empty()
        && authority
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/?#@\\".contains(&b));
    (scheme_ok && authority_ok).then_some((scheme, authority))
}

/// The host name of an authority: without its port, brackets of an IPv6 address kept.
fn host_name(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or("", |end| &authority[..=end]);
    }
    authority.split_once(':').map_or(authority, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_table() {
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
            // A list replaces the rule of the same host.
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
            let origins = Origins::parse(entries).expect("the table's entries are good");
            assert_eq!(
                origins.allows(origin, host),
                *allowed,
                "{entries:?}: {origin} to {host}"
            );
        }
    }

    #[test]
    fn entries_that_are_no_origin_are_refused() {
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
        ] {
            assert_eq!(Origins::parse(&["*", entry]), Err((1, OriginError)), "{entry}");
        }
    }
}
