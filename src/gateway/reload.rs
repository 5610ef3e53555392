//! Replaces settings while the gateway runs.
//!
//! Invariant: settings are replaced as a whole or not at all.

use std::sync::Arc;

use super::Settings;
use crate::admin::Admin;
use crate::auth::verifier::Verifier;
use crate::backend::commands::Router;
use crate::ingress::http::ListenerNames;
use crate::ingress::{Ingress, SelectionError, check_endpoints};

/// The parts of a running gateway that take new settings.
pub(super) struct Reload {
    pub(super) listeners: Vec<ListenerNames>,
    pub(super) ingress: Arc<Ingress>,
    pub(super) admin: Arc<Admin>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) router: Arc<Router>,
}

impl Reload {
    /// Replaces the keys and rules for tokens, the routes of commands, the longest event, and the settings of the public
    /// side, which hold for connections that are accepted from now on.
    ///
    /// # Errors
    ///
    /// When the endpoints and the listeners do not go together. Nothing is replaced then.
    pub(super) fn replace(&self, settings: Settings) -> Result<(), SelectionError> {
        check_endpoints(&settings.ingress.endpoints, &self.listeners)?;
        self.verifier.replace(settings.keys, settings.auth);
        self.router
            .replace(settings.commands.routes, settings.commands.reply_bytes_max);
        self.admin.set_event_bytes(settings.admin.event_bytes);
        self.ingress.replace(settings.ingress);
        Ok(())
    }
}
