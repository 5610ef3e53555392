//! The console: the page for operators and developers, its sessions, and its WebSocket.
//!
//! Invariant: the page is embedded and makes no request to another host; its policy (CSP) forbids it. Everything that it
//! shows and does is an endpoint of the API, with the same access rules.
//!
//! The page's modules are compiled from `clients/console/`; a test there compares them with the compiler's output.

mod session_routes;
mod sessions;
pub(super) mod socket;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, LOCATION};

use super::Admin;
use crate::ingress::http::response::{self, HttpResponse};

pub(super) use sessions::{Credential, Sessions, is_own_origin, session_token};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

macro_rules! assets {
    ($($name:literal: $kind:ident,)*) => {
        /// The files of the page, by name.
        const ASSETS: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("page/", $name))),)*];
    };
}

assets! {
    "icon.svg": ICON,
    "style.css": CSS,
    "act.js": SCRIPT,
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "chart.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "live.js": SCRIPT,
    "series.js": SCRIPT,
    "trace.js": SCRIPT,
    "view_channel.js": SCRIPT,
    "view_clients.js": SCRIPT,
    "view_config.js": SCRIPT,
    "view_develop.js": SCRIPT,
    "view_fresh.js": SCRIPT,
    "view_load.js": SCRIPT,
    "view_revoked.js": SCRIPT,
    "view_user.js": SCRIPT,
}

const PAGE: &str = include_str!("page/index.html");

/// The TypeScript client in one file. `npm run bundle` in `clients/typescript` writes it.
const CLIENT: &str = include_str!("../../../crates/demo/src/client.js");

/// What a browser must not do with the page.
const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

impl Admin {
    /// `GET /` and `GET /console/…`
    #[expect(clippy::unused_self, reason = "the form of a handler")]
    pub(super) fn console_page(&self, path: &str) -> HttpResponse {
        // The page's addresses are relative, so that a proxy may serve it below another path.
        let found = match path {
            "/" => return redirect("console/"),
            "/console" => return redirect("console/"),
            "/console/" => Some((HTML, PAGE)),
            path => path.strip_prefix("/console/").and_then(asset),
        };
        let Some((kind, text)) = found else {
            return response::not_found();
        };
        let mut response = response::with_body(StatusCode::OK, kind, text.as_bytes());
        for (name, value) in HEADERS {
            let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
            response.headers_mut().insert(name, value);
        }
        response
    }
}

fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    if name == "client.js" {
        return Some((SCRIPT, CLIENT));
    }
    let found = ASSETS.iter().find(|(known, ..)| *known == name)?;
    Some((found.1, found.2))
}

fn redirect(to: &'static str) -> HttpResponse {
    let mut response = response::empty(StatusCode::FOUND);
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let mut named = 0;
        let texts = [PAGE].into_iter().chain(ASSETS.iter().map(|(.., text)| *text));
        for text in texts {
            for part in text.split("\"./").skip(1) {
                let name = part.split('"').next().expect("a name");
                if name.starts_with("ws") {
                    continue;
                }
                assert!(asset(name).is_some(), "{name}");
                named += 1;
            }
        }
        assert!(named > ASSETS.len(), "{named}");
        assert!(asset("../mod.rs").is_none() && asset("").is_none());
    }

    #[test]
    fn the_page_has_nothing_inline_that_its_policy_forbids() {
        assert!(!PAGE.contains("<style") && !PAGE.contains(" style=") && !PAGE.contains(" on"));
        for (name, _, text) in ASSETS {
            for word in [
                "innerHTML",
                "insertAdjacentHTML",
                "eval(",
                "setAttribute(\"style\"",
                "https://",
            ] {
                assert!(!text.contains(word), "{name}: {word}");
            }
        }
    }
}
