//! Assembles the gateway's settings from the sections.

use std::sync::Arc;

use super::Config;
use super::problem::Origin;
use super::reload::effect;
use super::secrets::OwnSecrets;
use super::sections::{self, Endpoint, Server, Space};
use super::value::milliseconds;
use crate::auth::{KeySet, Secret};
use crate::backend::{commands, feeds, ingest};
use crate::broker::{ClassTable, SharedSettings, nats, redis};
use crate::{admin, auth, gateway, hub, ingress, session};
use tickgate_protocol::channel::{Classes, Pattern, Tenant, TenantNames, is_segment};

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
        let spaces = sections.spaces();
        let endpoints = spaces.iter().flat_map(|space| {
            let endpoints = space.endpoints.iter();
            endpoints.filter_map(|endpoint| self.endpoint(space, endpoint, &refused_values, &channel_classes))
        });
        gateway::Settings {
            node: self.node_name(),
            shards: sections.server.shards(),
            coalesce: sections.server.coalesce(),
            memory_bytes: sections.limits.memory,
            scan_budget: sections.limits.scan_budget(),
            deflate_bytes_min: sections.compression.threshold as usize,
            flush: sections.server.flush(),
            drain_ms: milliseconds(sections.server.drain),
            restart_drain_ms: milliseconds(sections.server.restart_drain),
            ingress: sections.server.ingress(
                endpoints.collect(),
                self.tenant_connections(),
                self.connections_max(descriptors_max),
            ),
            admin: self.admin(),
            hub: hub::Settings {
                classes,
                state: sections.state.hub(),
                tenants: sections.tenants.iter().map(|tenant| tenant.limits.state()).collect(),
                ..hub::Settings::default()
            },
            tenants: self.tenants(),
            publish_per_second: sections.limits.publish_per_second,
            shared: self.shared(),
            snapshot: sections.state.snapshot(),
            keys: self.keys(),
            key_sets: self.secrets.spaces().flat_map(|own| own.key_sets.clone()).collect(),
            auth: self.auth(),
            commands: self.commands(),
            feeds,
            sources: self.sources(),
            otlp: sections.otlp.settings(),
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
        self.secrets.own.key_set()
    }

    /// How tokens are read.
    #[must_use]
    pub fn auth(&self) -> auth::Settings {
        self.sections.auth.settings(Tenant::DEFAULT)
    }

    /// The tenants beside the default one, in the order of their numbers.
    fn tenants(&self) -> Vec<gateway::TenantSettings> {
        let tenants = self.sections.tenants.iter().zip(&self.secrets.tenants);
        let settings = |(space, (tenant, secrets)): (Space<'_>, (&sections::Tenant, &OwnSecrets))| {
            Some(gateway::TenantSettings {
                name: tenant.name.as_deref()?.into(),
                keys: secrets.key_set(),
                auth: space.auth.settings(space.tenant),
                admin_key: admin_key(secrets.admin_key.as_ref()),
                viewer_key: admin_key(secrets.viewer_key.as_ref()),
                event_bytes: space.limits.event_bytes,
                publish_per_second: space.limits.publish_per_second,
            })
        };
        let spaces = self.sections.spaces().into_iter().skip(1);
        spaces.zip(tenants).filter_map(settings).collect()
    }

    fn tenant_connections(&self) -> Vec<ingress::TenantLimits> {
        let tenants = self.sections.tenants.iter();
        let limits = tenants.map(|tenant| ingress::TenantLimits {
            max_connections: tenant.limits.connections,
            max_connections_per_user: (tenant.limits.connections_per_user)
                .unwrap_or(self.sections.server.max_connections_per_user),
        });
        limits.collect()
    }

    /// Whether `auth.mode` is `off`: no connection needs a token, and tokens are ignored.
    #[must_use]
    pub fn ignores_tokens(&self) -> bool {
        self.sections.auth.mode == auth::Mode::Off
    }

    /// `None` only for an endpoint that the check refuses.
    fn endpoint(
        &self,
        space: &Space<'_>,
        endpoint: &Endpoint,
        refused_values: &Arc<[session::RefusedValue]>,
        classes: &Arc<Classes>,
    ) -> Option<ingress::Endpoint> {
        let (auth, tenant) = (space.auth, space.tenant);
        let mut limits = space.limits.connection();
        limits.message_bytes = endpoint.message_bytes.unwrap_or(limits.message_bytes);
        let dialect = endpoint.dialect()?;
        let (interval, silence) = self.sections.heartbeat.times(dialect.is_engine_io());
        let settings = session::Settings {
            dialect,
            limits,
            auth_mode: auth.endpoint_mode(endpoint.anonymous),
            anonymous: Arc::new(auth.settings(tenant).anonymous_identity()),
            auto_subscribe: endpoint.auto_subscribe(tenant),
            refused_values: Arc::clone(refused_values),
            classes: Arc::clone(classes),
            tenant,
            tenant_name: space.name.map(Into::into),
            auth_timeout_ms: milliseconds(auth.timeout),
            expiry_warning_ms: milliseconds(auth.expiry_warning),
            heartbeat_interval_ms: milliseconds(interval),
            heartbeat_timeout_ms: milliseconds(silence),
        };
        Some(ingress::Endpoint {
            path: endpoint.path.as_deref()?.into(),
            selector: endpoint.selector(),
            session: Arc::new(settings),
            token_refusal: auth.refuse,
            deflate: endpoint.compression.unwrap_or(self.sections.compression.enabled),
        })
    }

    fn node_name(&self) -> Box<str> {
        let configured = self.sections.server.node.as_deref();
        configured.map_or_else(host_name, Into::into)
    }

    pub(super) fn shared(&self) -> Option<SharedSettings> {
        let sections = &self.sections;
        let spaces = sections.spaces();
        let tenants = spaces.iter().filter_map(|space| Some(space.name?.into())).collect();
        let histories = spaces.iter().map(|space| history_max(&space.classes()));
        let event_bytes = spaces.iter().map(|space| space.limits.event_bytes).max();
        let node = self.node_name();
        // One more than the largest history, so that a gateway that reads the log back sees that there were more.
        let events_per_channel = 1 + histories.max().unwrap_or(0).max(LOG_EVENTS_MIN);
        let (classes, duplicate_window) = (class_table(&spaces), sections.state.dedup_window);
        let publish_per_second = spaces.iter().map(|space| space.limits.publish_per_second).collect();
        Some(match sections.broker.shared(self.secrets.broker.clone())? {
            SharedSettings::Nats(nats) => SharedSettings::Nats(nats::Settings {
                node,
                events_per_channel,
                classes,
                duplicate_window,
                event_bytes: event_bytes.unwrap_or(0) as usize,
                publish_per_second,
                tenants,
                ..nats
            }),
            SharedSettings::Redis(redis) => SharedSettings::Redis(redis::Settings {
                node,
                events_per_channel,
                classes,
                duplicate_window,
                publish_per_second,
                tenants,
                ..redis
            }),
        })
    }

    fn admin(&self) -> admin::Settings {
        let admin = &self.sections.admin;
        admin::Settings {
            listen: self.sections.server.admin_listen.clone(),
            key: admin_key(self.secrets.own.admin_key.as_ref()),
            viewer_key: admin_key(self.secrets.own.viewer_key.as_ref()),
            // The gateway fills them in.
            tenants: Vec::new(),
            trace_masks: admin.trace_masks.iter().map(|name| name.as_str().into()).collect(),
            configuration: self.configuration(),
            publish_body_bytes: self.sections.limits.publish_body_bytes,
            publish_body_rate: self.sections.limits.publish_body_rate,
            max_connections: admin.max_connections,
            max_connections_without_key: admin.max_connections_without_key,
            max_connections_without_key_per_ip: admin.max_connections_without_key_per_ip,
            log_lines_dropped: Arc::default(),
            reloads: Arc::default(),
            log_control: None,
            event_bytes: self.sections.limits.event_bytes,
        }
    }

    fn configuration(&self) -> Vec<admin::ConfigurationKey> {
        let shown = |key: super::EffectiveKey| admin::ConfigurationKey {
            effect: effect(&key.key),
            origin: match key.origin {
                Origin::Line(line) => format!("line {line}"),
                Origin::Variable(name) => name.into(),
                Origin::Default => "default".to_owned(),
            },
            value: key.value,
            key: key.key,
        };
        self.effective().into_iter().map(shown).collect()
    }

    fn feeds(&self) -> feeds::Settings {
        let spaces = self.sections.spaces().into_iter().zip(self.secrets.spaces());
        let feeds = spaces.flat_map(|(space, secrets)| {
            let feeds = space.feeds.iter().zip(&secrets.feeds);
            feeds.filter_map(move |(feed, password)| feed.settings(space.tenant, password.clone()))
        });
        feeds::Settings {
            feeds: feeds.collect(),
            tenants: TenantNames::default(),
            event_bytes: self.sections.limits.event_bytes as usize,
        }
    }

    fn sources(&self) -> ingest::Settings {
        let spaces = self.sections.spaces().into_iter().zip(self.secrets.spaces());
        let sources = spaces.flat_map(|(space, secrets)| {
            let sources = space.sources.iter().zip(&secrets.sources);
            let (tenant, event_bytes) = (space.tenant, space.limits.event_bytes);
            sources.filter_map(move |(source, password)| source.settings(tenant, password.clone(), event_bytes))
        });
        ingest::Settings {
            sources: sources.collect(),
            // The gateway fills it in.
            tenants: TenantNames::default(),
        }
    }

    fn commands(&self) -> commands::Settings {
        let spaces = self.sections.spaces().into_iter().zip(self.secrets.spaces());
        let routes = spaces.flat_map(|(space, secrets)| {
            let commands = space.commands.iter().zip(&secrets.commands);
            commands.filter_map(move |(command, secret)| command.route(space.tenant, secret.clone()))
        });
        commands::Settings {
            routes: routes.collect(),
            keys: self.sections.limits.command_keys(),
            reply_bytes_max: self.sections.limits.reply_bytes as usize / 2,
            ..commands::Settings::default()
        }
    }
}

fn admin_key(secret: Option<&Secret>) -> Option<admin::AdminKey> {
    let key = std::str::from_utf8(secret?.expose()).ok()?;
    admin::AdminKey::new(key)
}

/// The log keeps at least so many events of each channel, however short the histories are. A gateway that was away while a
/// channel had more has to begin anew.
const LOG_EVENTS_MIN: u64 = 5000;

/// The size of the largest history, and of those that the built-in classes have.
fn history_max(classes: &Classes) -> u64 {
    let sizes = classes.entries().iter().filter_map(|(_, class)| class.history);
    sizes.map(|history| u64::from(history.size)).max().unwrap_or(0)
}

/// What the classes of all tenants keep, which must be the same on all gateways that share a log. The tenants may stand in
/// any order.
fn class_table(spaces: &[Space<'_>]) -> ClassTable {
    let mut spaces: Vec<_> = spaces.iter().collect();
    spaces.sort_by_key(|space| space.name);
    let (mut text, mut entries) = (String::new(), Vec::new());
    for space in spaces {
        let classes = space.classes();
        text += &space.name.map(|name| format!("[{name}]\n")).unwrap_or_default();
        text += &kept(&classes);
        text += &of_feeds(space.feeds);
        let tenant = space.name.map(|name| format!("{name}: ")).unwrap_or_default();
        let name = |pattern: &Pattern| format!("{tenant}{}", pattern.as_str());
        let classes = classes.entries().iter();
        entries.extend(classes.map(|(pattern, class)| (name(pattern), sections::kept_keys(pattern, class))));
    }
    ClassTable {
        hash: xxhash_rust::xxh3::xxh3_64(text.as_bytes()),
        entries,
    }
}

/// What feeds decide about the classes of their channels, in any order.
fn of_feeds(feeds: &[sections::Feed]) -> String {
    let line = |feed: &sections::Feed| {
        let channel = feed.channel.as_ref().map(ToString::to_string).unwrap_or_default();
        let record_key = feed
            .record_key
            .as_ref()
            .map_or_else(String::new, |key| format!(" record_key {key}"));
        format!("[[feed]] {channel}{record_key}\n")
    };
    let mut lines: Vec<String> = feeds.iter().map(line).collect();
    lines.sort_unstable();
    lines.concat()
}

fn kept(classes: &Classes) -> String {
    let mut text = String::new();
    for (pattern, class) in classes.entries() {
        let history = class.history.map(|history| (history.size, history.ttl_ms));
        let kept = (
            class.cache_last,
            history,
            class.last_ttl_ms,
            &class.record_key,
            &class.record_delete,
            class.only_changed,
        );
        text += &format!("{} {kept:?}\n", pattern.as_str());
        if let Some(book) = class.book {
            text += &format!("{book:?}\n");
        }
    }
    text
}

/// The first part of the host's name, if it is a valid channel segment.
fn host_name() -> Box<str> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let name = host.split('.').next().unwrap_or_default();
    if is_segment(name) {
        name.into()
    } else {
        "gateway".into()
    }
}
