//! Assembles the gateway's settings from the sections.

use std::sync::Arc;

use super::Config;
use super::sections::{Endpoint, Server};
use super::value::milliseconds;
use crate::auth::{KeySet, Secret};
use crate::backend::{commands, feeds};
use crate::{admin, auth, gateway, hub, ingress, session};
use tickgate_protocol::channel::{Classes, is_segment};

/// File descriptors that a gateway needs apart from those of its connections: listeners, doorbells, backends, admin
/// requests, logs.
const OTHER_DESCRIPTORS: u64 = 512;

impl Config {
    /// The settings of a gateway in a process that may have `descriptors_max` file descriptors open.
    #[must_use]
    pub fn gateway(&self, descriptors_max: u64) -> gateway::Settings {
        let sections = &self.sections;
        let feeds = self.feeds();
        let refused_values = feeds.refused_values();
        let classes = Arc::new(sections.classes());
        let channel_classes = Arc::new(feeds.classes(&classes));
        gateway::Settings {
            node: node_name(),
            shards: sections.server.shards(),
            coalesce: sections.server.coalesce(),
            memory_bytes: sections.limits.memory,
            scan_budget: sections.limits.scan_budget(),
            deflate_bytes_min: sections.compression.threshold as usize,
            flush: sections.server.flush(),
            drain_ms: milliseconds(sections.server.drain),
            restart_drain_ms: milliseconds(sections.server.restart_drain),
            ingress: sections.server.ingress(
                sections
                    .endpoints
                    .iter()
                    .filter_map(|endpoint| self.endpoint(endpoint, &refused_values, &channel_classes))
                    .collect(),
                sections.auth.refuse,
                self.connections_max(descriptors_max),
            ),
            admin: self.admin(),
            hub: hub::Settings {
                classes,
                state: sections.state.hub(),
                ..hub::Settings::default()
            },
            publish_per_second: sections.limits.publish_per_second,
            snapshot: sections.state.snapshot(),
            keys: self.keys(),
            auth: self.auth(),
            commands: self.commands(),
            feeds,
        }
    }

    /// The number of connections that fit under both `descriptors_max` and `server.max_connections`.
    #[must_use]
    pub fn connections_max(&self, descriptors_max: u64) -> u32 {
        let for_connections = descriptors_max
            .saturating_sub(OTHER_DESCRIPTORS.min(descriptors_max / 2))
            .max(1);
        let configured = self.sections.server.max_connections;
        configured.min(u32::try_from(for_connections).unwrap_or(u32::MAX))
    }

    /// Whether `server.max_connections` was chosen, and is not just the default, which is more than most machines allow.
    #[must_use]
    pub fn chooses_connections_max(&self) -> bool {
        self.sections.server.max_connections != Server::default().max_connections
    }

    /// The number of file descriptors that `server.max_connections` needs.
    #[must_use]
    pub fn descriptors_wanted(&self) -> u64 {
        u64::from(self.sections.server.max_connections) + OTHER_DESCRIPTORS
    }

    /// The keys that sign and verify tokens.
    #[must_use]
    pub fn keys(&self) -> KeySet {
        KeySet::new(self.secrets.keys.clone())
    }

    /// How tokens are read.
    #[must_use]
    pub fn auth(&self) -> auth::Settings {
        self.sections.auth.settings()
    }

    /// Whether `auth.mode` is `off`: no connection needs a token, and tokens are ignored.
    #[must_use]
    pub fn ignores_tokens(&self) -> bool {
        self.sections.auth.mode == auth::Mode::Off
    }

    /// `None` only for an endpoint that the check refuses.
    fn endpoint(
        &self,
        endpoint: &Endpoint,
        refused_values: &Arc<[session::RefusedValue]>,
        classes: &Arc<Classes>,
    ) -> Option<ingress::Endpoint> {
        let auth = &self.sections.auth;
        let mut limits = self.sections.limits.connection();
        limits.message_bytes = endpoint.message_bytes.unwrap_or(limits.message_bytes);
        let dialect = endpoint.dialect()?;
        let (interval, silence) = self.sections.heartbeat.times(dialect.is_engine_io());
        let settings = session::Settings {
            dialect,
            limits,
            auth_mode: auth.endpoint_mode(endpoint.anonymous),
            anonymous: Arc::new(auth.settings().policy.anonymous_identity()),
            auto_subscribe: endpoint.auto_subscribe(),
            refused_values: Arc::clone(refused_values),
            classes: Arc::clone(classes),
            tenant: tickgate_protocol::channel::Tenant::DEFAULT,
            auth_timeout_ms: milliseconds(auth.timeout),
            expiry_warning_ms: milliseconds(auth.expiry_warning),
            heartbeat_interval_ms: milliseconds(interval),
            heartbeat_timeout_ms: milliseconds(silence),
        };
        Some(ingress::Endpoint {
            path: endpoint.path.as_deref()?.into(),
            selector: endpoint.selector(),
            session: Arc::new(settings),
            deflate: endpoint.compression.unwrap_or(self.sections.compression.enabled),
        })
    }

    fn admin(&self) -> admin::Settings {
        let key = |secret: &Option<Secret>| {
            let text = secret.as_ref().and_then(|key| std::str::from_utf8(key.expose()).ok());
            text.and_then(admin::AdminKey::new)
        };
        let admin = &self.sections.admin;
        admin::Settings {
            listen: self.sections.server.admin_listen.clone(),
            key: key(&self.secrets.admin_key),
            viewer_key: key(&self.secrets.viewer_key),
            publish_body_bytes: self.sections.limits.publish_body_bytes,
            publish_body_rate: self.sections.limits.publish_body_rate,
            max_connections: admin.max_connections,
            max_connections_without_key: admin.max_connections_without_key,
            max_connections_without_key_per_ip: admin.max_connections_without_key_per_ip,
            log_lines_dropped: Arc::default(),
            log_control: None,
            event_bytes: self.sections.limits.event_bytes,
        }
    }

    fn feeds(&self) -> feeds::Settings {
        let feeds = self.sections.feeds.iter().zip(&self.secrets.feeds);
        feeds::Settings {
            feeds: feeds
                .filter_map(|(feed, password)| feed.settings(password.clone()))
                .collect(),
            event_bytes: self.sections.limits.event_bytes as usize,
        }
    }

    fn commands(&self) -> commands::Settings {
        let commands = self.sections.commands.iter().zip(&self.secrets.commands);
        commands::Settings {
            routes: commands
                .filter_map(|(command, secret)| command.route(secret.clone()))
                .collect(),
            keys: self.sections.limits.command_keys(),
            reply_bytes_max: self.sections.limits.reply_bytes as usize / 2,
            ..commands::Settings::default()
        }
    }
}

/// The first part of the host's name, if it is a valid channel segment.
fn node_name() -> Box<str> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let name = host.split('.').next().unwrap_or_default();
    if is_segment(name) {
        name.into()
    } else {
        "gateway".into()
    }
}
