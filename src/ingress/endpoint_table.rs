//! Which endpoint serves a request: the most specific one of those that fit it.
//!
//! Invariant: the choice does not depend on the order of the endpoints. [`check`] refuses endpoints that a request could
//! fit equally well.

use std::sync::Arc;

use hyper::HeaderMap;

use super::http::{ListenerName, ListenerNames};
use super::selector::host;
use super::settings::Endpoint;
use crate::session;

/// The endpoints of one listener.
pub(super) struct EndpointTable(Vec<Arc<Endpoint>>);

/// Which endpoint serves a request.
pub(super) enum Selection<'a> {
    Endpoint(&'a Arc<Endpoint>),
    /// Endpoints have the path, but none of them fits the host, the listener and the subprotocols.
    Unfit,
    /// No endpoint has the path.
    UnknownPath,
}

impl EndpointTable {
    /// The endpoints that serve connections of `listener`.
    pub(super) fn new(endpoints: &[Endpoint], listener: &ListenerNames) -> Self {
        let serves = |endpoint: &&Endpoint| {
            endpoint
                .selector
                .listen
                .as_ref()
                .is_none_or(|name| listener.include(name))
        };
        Self(endpoints.iter().filter(serves).cloned().map(Arc::new).collect())
    }

    /// The endpoint of a request with this path and these headers.
    pub(super) fn select(&self, path: &str, headers: &HeaderMap) -> Selection<'_> {
        let mut of_path = self.0.iter().filter(|endpoint| endpoint.serves(path)).peekable();
        if of_path.peek().is_none() {
            return Selection::UnknownPath;
        }
        let host = host(headers);
        let fits = of_path.filter_map(|endpoint| Some((endpoint.selector.fit(host.as_deref(), headers)?, endpoint)));
        fits.max_by_key(|(fit, _)| *fit)
            .map_or(Selection::Unfit, |(_, endpoint)| Selection::Endpoint(endpoint))
    }
}

/// The session settings of the endpoint that serves a request which came over `listener`. For checks of the selection.
#[must_use]
pub fn selected(
    endpoints: &[Endpoint],
    listener: &ListenerNames,
    path: &str,
    headers: &HeaderMap,
) -> Option<Arc<session::Settings>> {
    match EndpointTable::new(endpoints, listener).select(path, headers) {
        Selection::Endpoint(endpoint) => Some(Arc::clone(&endpoint.session)),
        Selection::Unfit | Selection::UnknownPath => None,
    }
}

/// Why endpoints and listeners do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// An endpoint names a listener that the gateway does not have.
    #[error("the endpoint {path} has listen = \"{listen}\", and no listener has this name; there are {listeners}")]
    NoListener {
        /// The endpoint's path.
        path: Box<str>,
        /// The name that it asks for.
        listen: ListenerName,
        /// The names of the listeners, separated by commas.
        listeners: String,
    },
    /// Two endpoints fit some request equally well.
    #[error("two endpoints serve {path} equally well: let them differ in listen, hosts or subprotocols")]
    Ambiguous {
        /// Their path.
        path: Box<str>,
    },
}

/// Checks that every endpoint has a listener, and that no request fits two endpoints equally well.
///
/// # Errors
///
/// The first endpoint that does not fit.
pub fn check(endpoints: &[Endpoint], listeners: &[ListenerNames]) -> Result<(), SelectionError> {
    for endpoint in endpoints {
        if let Some(listen) = &endpoint.selector.listen
            && !listeners.iter().any(|listener| listener.include(listen))
        {
            let names: Vec<_> = listeners
                .iter()
                .map(|listener| listener.configured.to_string())
                .collect();
            return Err(SelectionError::NoListener {
                path: endpoint.path.clone(),
                listen: listen.clone(),
                listeners: names.join(", "),
            });
        }
    }
    for listener in listeners {
        let EndpointTable(endpoints) = EndpointTable::new(endpoints, listener);
        for (index, one) in endpoints.iter().enumerate() {
            let is_twin = |other: &&Arc<Endpoint>| other.serves(&one.path) && one.selector.ties_with(&other.selector);
            if let Some(twin) = endpoints[..index].iter().find(is_twin) {
                let path = twin.path.clone();
                return Err(SelectionError::Ambiguous { path });
            }
        }
    }
    Ok(())
}
