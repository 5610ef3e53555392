//! Which endpoint serves a request, compared with a naive model.
//!
//! 1. The choice does not depend on the order of endpoints that were accepted together.
//! 2. A naive model, which compares every endpoint with every other, chooses the same.

use std::sync::Arc;

use hyper::header::{HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tickgate::ingress::http::ListenerNames;
use tickgate::ingress::{Endpoint, Selector, TokenRefusal, check_endpoints, selected};
use tickgate::session::Settings;

use super::services;

const LINES_MAX: usize = 16;
const LISTENERS: [&str; 2] = ["127.0.0.1:1", "systemd:market"];

struct Request<'a> {
    path: &'a str,
    host: Option<&'a str>,
    protocols: Vec<&'a str>,
}

/// Checks one fuzz input. Its lines are `e <path> <listener> <hosts> <subprotocols>` for an endpoint and
/// `r <path> <host> <subprotocols>` for a request. Lists are separated by commas, and `-` stands for none.
pub fn check_input(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (mut endpoints, mut requests) = (Vec::new(), Vec::new());
    for line in text.lines().take(LINES_MAX) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["e", path, listener, hosts, protocols] => endpoints.extend(endpoint(path, listener, hosts, protocols)),
            ["r", path, host, protocols] => requests.push(Request {
                path,
                host: (host != "-").then_some(host),
                protocols: list(protocols).collect(),
            }),
            _ => {}
        }
    }
    let listeners = [0, 1].map(|index| ListenerNames {
        configured: LISTENERS[index].parse().expect("a listener"),
        bound: format!("127.0.0.1:{}", index + 1).parse().expect("an address"),
    });
    if check_endpoints(&endpoints, &listeners).is_err() {
        return;
    }
    let reversed: Vec<_> = endpoints.iter().rev().cloned().collect();
    for request in &requests {
        let Some(headers) = headers(request) else { continue };
        for (index, listener) in listeners.iter().enumerate() {
            let chosen = selected(&endpoints, listener, request.path, &headers);
            let other_way = selected(&reversed, listener, request.path, &headers);
            assert!(
                is_same(chosen.as_ref(), other_way.as_ref()),
                "the order decides: {text}"
            );
            let expected = model(&endpoints, LISTENERS[index], request);
            assert!(
                is_same(chosen.as_ref(), expected.as_ref()),
                "on {}: {text}",
                LISTENERS[index]
            );
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.is_empty() && *item != "-")
}

fn endpoint(path: &str, listener: &str, hosts: &str, protocols: &str) -> Option<Endpoint> {
    let hosts: Result<Vec<_>, _> = list(hosts).map(str::parse).collect();
    Some(Endpoint {
        path: path.into(),
        selector: Selector {
            listen: match listener {
                "-" => None,
                name => Some(name.parse().ok()?),
            },
            hosts: hosts.ok()?,
            subprotocols: list(protocols).map(Into::into).collect(),
        },
        // Each endpoint has settings of its own, by which it is known again.
        session: services::endpoint(0),
        deflate: false,
        token_refusal: TokenRefusal::Auto,
    })
}

fn headers(request: &Request<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(host) = request.host {
        headers.insert(HOST, HeaderValue::from_str(host).ok()?);
    }
    if !request.protocols.is_empty() {
        let protocols = request.protocols.join(",");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&protocols).ok()?);
    }
    Some(headers)
}

fn is_same(one: Option<&Arc<Settings>>, other: Option<&Arc<Settings>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

fn model(endpoints: &[Endpoint], listener: &str, request: &Request<'_>) -> Option<Arc<Settings>> {
    let path = |path: &str| match path {
        "/" => "/".to_owned(),
        path => path.strip_suffix('/').unwrap_or(path).to_owned(),
    };
    let host = request.host.map(plain_host);
    let mut best: Option<((bool, usize, usize), &Endpoint)> = None;
    for endpoint in endpoints
        .iter()
        .filter(|endpoint| path(&endpoint.path) == path(request.path))
    {
        let Selector {
            listen,
            hosts,
            subprotocols,
        } = &endpoint.selector;
        let names_listener = match listen.as_ref().map(ToString::to_string) {
            None => false,
            Some(name) if name == listener || (name == "127.0.0.1:2" && listener == LISTENERS[1]) => true,
            Some(_) => continue,
        };
        let host_rank = match (&host, hosts.is_empty()) {
            (_, true) => 0,
            (None, false) => continue,
            (Some(host), false) => {
                let ranks = hosts.iter().filter_map(|pattern| rank(&pattern.to_string(), host));
                match ranks.max() {
                    Some(rank) => rank,
                    None => continue,
                }
            }
        };
        // The client's first choice is worth most.
        let offered = request
            .protocols
            .iter()
            .position(|offer| subprotocols.iter().any(|ours| **ours == **offer));
        let protocol_rank = match (subprotocols.is_empty(), offered) {
            (true, _) => 0,
            (false, None) => continue,
            (false, Some(place)) => request.protocols.len() - place,
        };
        let rank = (names_listener, host_rank, protocol_rank);
        if best.is_none_or(|(known, _)| rank > known) {
            best = Some((rank, endpoint));
        }
    }
    best.map(|(_, endpoint)| Arc::clone(&endpoint.session))
}

/// The host without case, port and final dot.
fn plain_host(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    let end = if lower.starts_with('[') {
        lower.find(']').map_or(lower.len(), |end| end + 1)
    } else {
        lower.find(':').unwrap_or(lower.len())
    };
    let name = &lower[..end];
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

fn rank(pattern: &str, host: &str) -> Option<usize> {
    match pattern.strip_prefix('*') {
        None => (pattern == host).then_some(usize::MAX),
        Some(domain) => (host.len() > domain.len() && host.ends_with(domain)).then_some(domain.len()),
    }
}
