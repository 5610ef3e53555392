//! Replaces settings while the gateway runs.
//!
//! Invariant: settings are replaced as a whole or not at all. Classes and feeds, which belong together, stay as they are if
//! they need a restart.

use std::sync::Arc;

use super::Settings;
use crate::admin::Admin;
use crate::auth::verifier::Verifier;
use crate::backend::commands::Router;
use crate::backend::feeds::Feeds;
use crate::backend::ingest::Sources;
use crate::backend::jwks::KeySets;
use crate::broker::{Duties, Peers, SharedSettings};
use crate::hub::{ClassesKept, Hub};
use crate::ingress::http::ListenerNames;
use crate::ingress::{Ingress, SelectionError, check_endpoints};
use crate::time::Clock;
use tickgate_protocol::channel::TenantNames;

/// The parts of a running gateway that take new settings.
pub(super) struct Reload {
    pub(super) peers: Option<Arc<dyn Peers>>,
    pub(super) duties: Duties,
    pub(super) tenants: TenantNames,
    pub(super) listeners: Vec<ListenerNames>,
    /// The hash of the classes that all gateways of a broker must have.
    pub(super) shared_classes: Option<u64>,
    pub(super) clock: Clock,
    pub(super) hub: Arc<Hub>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) sources: Arc<Sources>,
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

/// Why the classes of channels and the feeds stay, while other settings are replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelsKept {
    /// The hub cannot take the classes.
    #[error(transparent)]
    Classes(#[from] ClassesKept),
    /// Other gateways keep the same channels.
    #[error("gateways that share a broker keep the same: restart them one after the other")]
    Shared,
}

impl Reload {
    /// Replaces the keys and rules for tokens, the routes of commands, the longest event, the classes and feeds, the sources, and the
    /// settings of the public side, which hold for connections that are accepted from now on. Returns why the classes and
    /// feeds stay, if they do.
    ///
    /// # Errors
    ///
    /// When the endpoints and the listeners do not go together, or when there are other tenants. Nothing is replaced then.
    pub(super) fn replace(&self, mut settings: Settings) -> Result<Option<ChannelsKept>, ReloadError> {
        // Connections, channels and keys know a tenant by its number.
        if settings.tenant_names() != self.tenants {
            return Err(ReloadError::Tenants);
        }
        check_endpoints(&settings.ingress.endpoints, &self.listeners)?;
        let kept = self.replace_channels(&settings).err();
        if kept.is_some() {
            settings.feeds.feeds = self.feeds.settings();
        }
        let refused_values = settings.feeds.refused_values();
        for endpoint in &mut settings.ingress.endpoints {
            let session = Arc::make_mut(&mut endpoint.session);
            session.classes = Arc::clone(self.hub.classes());
            session.refused_values = Arc::clone(&refused_values);
        }
        self.key_sets.replace(settings.key_sets.clone());
        self.admin
            .set_event_bytes(settings.admin.event_bytes, &settings.tenant_access());
        self.verifier.replace(settings.token_rules());
        self.router
            .replace(settings.commands.routes, settings.commands.reply_bytes_max);
        self.sources.replace(settings.sources.sources);
        self.ingress.replace(settings.ingress);
        let why = kept.as_ref().map(ToString::to_string);
        self.admin
            .replace_configuration(settings.admin.configuration, why.as_deref());
        Ok(kept)
    }

    // A feed needs the class of its channels, so both are replaced or none.
    fn replace_channels(&self, settings: &Settings) -> Result<(), ChannelsKept> {
        let shared = settings.shared.as_ref().map(SharedSettings::classes);
        if self.shared_classes.is_some() && shared != self.shared_classes {
            return Err(ChannelsKept::Shared);
        }
        let running = self.hub.classes();
        let classes = settings.feeds.classes(&settings.hub.classes).with_defaults_of(running);
        if classes != **running {
            self.hub.replace_classes(Arc::new(classes), self.clock.now())?;
        }
        self.feeds.replace(settings.feeds.feeds.clone());
        Ok(())
    }
}
