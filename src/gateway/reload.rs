//! Replaces settings while the gateway runs.
//!
//! Invariant: settings are replaced as a whole or not at all.

use std::sync::Arc;

use super::Settings;
use crate::admin::Admin;
use crate::auth::verifier::Verifier;
use crate::backend::commands::Router;
use crate::backend::jwks::KeySets;
use crate::ingress::http::ListenerNames;
use crate::ingress::{Ingress, SelectionError, check_endpoints};
use tickgate_protocol::channel::TenantNames;

/// The parts of a running gateway that take new settings.
pub(super) struct Reload {
    pub(super) tenants: TenantNames,
    pub(super) listeners: Vec<ListenerNames>,
    pub(super) ingress: Arc<Ingress>,
    pub(super) admin: Arc<Admin>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) key_sets: Arc<KeySets>,
    pub(super) router: Arc<Router>,
}

/// Why settings are not replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// Endpoints and listeners do not go together.
    #[error(transparent)]
    Endpoint(#[from] SelectionError),
    /// The tenants are not those that the gateway was started with.
    #[error("tenants were added, removed, renamed or moved: this takes effect only after a restart")]
    Tenants,
}

impl Reload {
    /// Replaces the keys and rules for tokens, the routes of commands, the longest event, and the settings of the public
    /// side, which hold for connections that are accepted from now on.
    ///
    /// # Errors
    ///
    /// When the endpoints and the listeners do not go together, or when there are other tenants. Nothing is replaced then.
    pub(super) fn replace(&self, settings: Settings) -> Result<(), ReloadError> {
        // Connections, channels and keys know a tenant by its number.
        if settings.tenant_names() != self.tenants {
            return Err(ReloadError::Tenants);
        }
        check_endpoints(&settings.ingress.endpoints, &self.listeners)?;
        self.key_sets.replace(settings.key_sets.clone());
        self.admin
            .set_event_bytes(settings.admin.event_bytes, &settings.tenant_access());
        self.verifier.replace(settings.token_rules());
        self.router
            .replace(settings.commands.routes, settings.commands.reply_bytes_max);
        self.ingress.replace(settings.ingress);
        self.admin.replace_configuration(settings.admin.configuration);
        Ok(())
    }
}
