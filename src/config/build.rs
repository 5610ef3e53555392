//! From the configuration to the settings of the rooms.

use std::sync::Arc;
use std::time::Duration;

use super::model::{Config, DialectName, Endpoint, Feed, Flush};
use super::source::Environment;
use super::value::Coalesce;
use crate::auth::{Algorithm, Key, KeySet, Mode, Policy, Secret};
use crate::backend::commands::{HttpSettings, RouteSettings, Target};
use crate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use crate::backend::{commands, feeds};
use crate::hub::{SHARDS_MAX, snapshot};
use crate::ingress::{Origins, TrustedProxies};
use crate::{admin, auth, gateway, hub, ingress, session, shard};
use tickgate_protocol::channel::{Pattern, is_segment};

/// Descriptors a gateway needs beside those of its connections: listeners, doorbells, backends, admin requests, logs.
const DESCRIPTORS_APART: u64 = 512;
/// A shorter admin key is warned of.
const ADMIN_KEY_BYTES_MIN: usize = 16;

/// Keys made for one run, where none is configured.
pub struct RunKeys {
    /// The admin key, when that is one of them.
    pub admin_key: Option<String>,
}

/// No key is configured, and not only this machine can reach the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no [[auth.key]] is configured, and not every listener is on loopback or a Unix socket: name a key (such as \
     TICKGATE_JWT_SECRET), or listen on 127.0.0.1 only to try it with a key made for the run"
)]
pub struct NoKey;

impl Config {
    /// The admin listener's and the public listeners' settings and all that stands behind them, for a process that
    /// may have `descriptors_max` descriptors open.
    #[must_use]
    pub fn gateway(&self, descriptors_max: u64) -> gateway::Settings {
        gateway::Settings {
            node: node_name(),
            shards: self.shards(),
            coalesce: self.coalesce(),
            deflate_bytes_min: self.compression.threshold as usize,
            flush: self.flush(),
            drain_ms: ms(self.server.drain),
            door: self.door(descriptors_max),
            admin: self.admin(),
            hub: self.hub(),
            snapshot: self.snapshot(),
            keys: self.keys(),
            auth: self.auth(),
            commands: self.commands(),
            feeds: self.feeds(),
        }
    }

    /// The connections that fit under `descriptors_max` and under `server.max_connections`.
    #[must_use]
    pub fn connections_max(&self, descriptors_max: u64) -> u32 {
        let room = descriptors_max
            .saturating_sub(DESCRIPTORS_APART.min(descriptors_max / 2))
            .max(1);
        self.server.max_connections.min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// Descriptors that `server.max_connections` needs.
    #[must_use]
    pub fn descriptors_wanted(&self) -> u64 {
        u64::from(self.server.max_connections) + DESCRIPTORS_APART
    }

    /// The keys that sign and verify tokens.
    #[must_use]
    pub fn keys(&self) -> KeySet {
        KeySet::new(self.secrets.keys.clone())
    }

    /// How tokens are read.
    #[must_use]
    pub fn auth(&self) -> auth::Settings {
        let role = |role: &super::model::Role| Arc::new(role.0.clone());
        auth::Settings {
            subject_claim: self.auth.subject_claim.as_str().into(),
            leeway_ms: ms(self.auth.leeway),
            issuer: self.auth.issuer.as_deref().map(Into::into),
            audience: self.auth.audience.as_deref().map(Into::into),
            policy: Policy {
                roles: self
                    .auth
                    .roles
                    .iter()
                    .map(|(name, of)| (name.as_str().into(), role(of)))
                    .collect(),
                default: role(&self.auth.default),
                anonymous: role(&self.auth.anonymous),
            },
        }
    }

    /// The path of the first endpoint of the native dialect, for lines to try.
    #[must_use]
    pub fn native_path(&self) -> Option<&str> {
        let native = |endpoint: &&Endpoint| endpoint.dialect == Some(DialectName::Native);
        self.endpoints.iter().find(native)?.path.as_deref()
    }

    /// Whether `serve` has to make keys of its own: no token could be verified and, where none is needed, nobody could
    /// use the admin API otherwise.
    ///
    /// # Errors
    ///
    /// [`NoKey`] when others than this machine could reach the listeners (those passed by systemd count as such).
    pub fn needs_run_keys(&self, environment: &Environment) -> Result<bool, NoKey> {
        // Where clients need no token the admin API still needs its key.
        let is_open = self.auth.mode == Mode::Off;
        if !self.secrets.keys.is_empty() || (is_open && self.secrets.admin_key.is_some()) {
            return Ok(false);
        }
        let listeners = self.server.listen.iter().chain([&self.server.admin_listen]);
        let passed = environment.get("LISTEN_FDS").is_some();
        if passed || !listeners.into_iter().all(ingress::ListenAddress::is_local) {
            if is_open { Ok(false) } else { Err(NoKey) }
        } else {
            Ok(true)
        }
    }

    /// What is likely not meant, though it contradicts nothing: told by `serve` and `check`.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let exposed = self
            .secrets
            .exposed_files
            .iter()
            .map(|file| format!("{} can be read by everybody on this machine", file.display()));
        let closed = self.auth.mode == Mode::Off && self.secrets.keys.is_empty() && self.secrets.admin_key.is_none();
        let closed = closed.then(|| {
            "no admin key and no key for tokens is configured: nobody may publish or use the admin API".to_owned()
        });
        let key = self.secrets.admin_key.as_ref().map(Secret::expose);
        let guessable = key.filter(|key| key.len() < ADMIN_KEY_BYTES_MIN).map(|_| {
            format!("the admin key is shorter than {ADMIN_KEY_BYTES_MIN} bytes and could be guessed: openssl rand -hex 32 makes a good one")
        });
        exposed.chain(closed).chain(guessable).collect()
    }

    /// Makes a random secret for tokens, and a random admin key where none is configured.
    ///
    /// # Errors
    ///
    /// The system has no randomness to give.
    pub fn add_run_keys(&mut self) -> Result<RunKeys, getrandom::Error> {
        let secret = random_hex()?;
        let key = Key::hmac(Algorithm::Hs256, secret.as_bytes(), false).map_err(|_| getrandom::Error::UNEXPECTED)?;
        self.secrets.keys.push(key);
        if self.secrets.admin_key.is_some() {
            return Ok(RunKeys { admin_key: None });
        }
        let admin_key = random_hex()?;
        self.secrets.admin_key = Some(Secret::new(admin_key.as_bytes()));
        Ok(RunKeys {
            admin_key: Some(admin_key),
        })
    }

    fn shards(&self) -> u16 {
        match self.server.shards {
            0 => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                u16::try_from(cores).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
            }
            shards => shards,
        }
    }

    fn hub(&self) -> hub::Settings {
        let bound = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        hub::Settings {
            classes: Arc::new(self.classes()),
            state: hub::StateSettings {
                channels: bound(self.state.channels),
                bytes: bound(self.state.bytes),
                tombstones: bound(self.state.evicted_names),
                dedup_window_ms: ms(self.state.dedup_window),
            },
            ..hub::Settings::default()
        }
    }

    fn snapshot(&self) -> Option<snapshot::Settings> {
        Some(snapshot::Settings {
            path: self.state.snapshot.clone()?,
            interval: self.state.snapshot_interval,
            dedup_window_ms: ms(self.state.dedup_window),
        })
    }

    fn coalesce(&self) -> shard::CoalescePolicy {
        match self.server.coalesce {
            Coalesce::Auto => shard::CoalescePolicy::Auto,
            Coalesce::Fixed(time) => shard::CoalescePolicy::Fixed(u32::try_from(ms(time)).unwrap_or(u32::MAX)),
        }
    }

    fn flush(&self) -> shard::FlushMethod {
        match self.server.flush {
            Flush::Auto => shard::FlushMethod::Auto,
            Flush::IoUring => shard::FlushMethod::IoUring,
            Flush::Writev => shard::FlushMethod::Writev,
        }
    }

    fn door(&self, descriptors_max: u64) -> ingress::Settings {
        let server = &self.server;
        let proxies: Vec<&str> = server.trusted_proxies.iter().map(|entry| entry.0.as_str()).collect();
        let origins: Vec<&str> = server.allowed_origins.iter().map(|entry| entry.0.as_str()).collect();
        ingress::Settings {
            listen: server.listen.clone(),
            // Every entry was parsed when it was read.
            trusted_proxies: TrustedProxies::parse(&proxies).unwrap_or_default(),
            allowed_origins: Origins::parse(&origins).unwrap_or_default(),
            endpoints: self
                .endpoints
                .iter()
                .filter_map(|endpoint| self.endpoint(endpoint))
                .collect(),
            refuse: self.auth.refuse,
            deflate: self.compression.enabled,
            max_connections: self.connections_max(descriptors_max),
            max_connections_per_ip: server.max_connections_per_ip,
            max_connections_per_user: server.max_connections_per_user,
            connect_rate: server.connect_rate,
            handshake_timeout_ms: ms(server.handshake_timeout),
        }
    }

    /// `None` only for an endpoint that the check refuses.
    fn endpoint(&self, endpoint: &Endpoint) -> Option<ingress::Endpoint> {
        let mut limits = self.limits.connection;
        limits.message_bytes = endpoint.message_bytes.unwrap_or(limits.message_bytes);
        let auth_mode = match self.auth.mode {
            Mode::Required if endpoint.anonymous => Mode::Optional,
            mode => mode,
        };
        let dialect = endpoint.dialect()?;
        let heartbeat = &self.heartbeat;
        let (interval, silence) = if dialect.is_engine_io() {
            let interval = heartbeat.engine_io_interval;
            (interval, interval + heartbeat.engine_io_timeout)
        } else {
            (heartbeat.interval, heartbeat.timeout)
        };
        let settings = session::Settings {
            dialect,
            limits,
            auth_mode,
            anonymous: Arc::new(self.auth().policy.anonymous_identity()),
            auto_subscribe: distinct(&endpoint.auto_subscribe),
            auth_timeout_ms: ms(self.auth.timeout),
            expiry_warning_ms: ms(self.auth.expiry_warning),
            heartbeat_interval_ms: ms(interval),
            heartbeat_timeout_ms: ms(silence),
        };
        Some(ingress::Endpoint {
            path: endpoint.path.as_deref()?.into(),
            session: Arc::new(settings),
        })
    }

    fn admin(&self) -> admin::Settings {
        let key = self
            .secrets
            .admin_key
            .as_ref()
            .and_then(|key| std::str::from_utf8(key.expose()).ok());
        admin::Settings {
            listen: self.server.admin_listen.clone(),
            key: key.and_then(admin::AdminKey::new),
            publish_body_bytes: self.limits.publish_body_bytes,
            event_bytes: self.limits.connection.event_bytes,
        }
    }

    fn feeds(&self) -> feeds::Settings {
        feeds::Settings {
            feeds: self.feeds.iter().zip(&self.secrets.feeds).filter_map(feed).collect(),
            event_bytes: self.limits.connection.event_bytes as usize,
        }
    }

    fn commands(&self) -> commands::Settings {
        let secrets = self.secrets.commands.iter();
        let route = |(command, secret): (&super::model::Command, &Option<Secret>)| {
            let target = Target::Http(HttpSettings {
                url: command.http.clone()?,
                hmac_secret: secret.clone(),
            });
            Some(RouteSettings {
                timeout: command.timeout,
                idempotent: command.idempotent,
                audit: command.audit,
                in_flight_max: command.max_in_flight as usize,
                ..RouteSettings::new(command.pattern.clone()?, target)
            })
        };
        commands::Settings {
            routes: self.commands.iter().zip(secrets).filter_map(route).collect(),
            reply_bytes_max: self.limits.connection.reply_bytes as usize / 2,
            ..commands::Settings::default()
        }
    }
}

/// `None` only for a feed that the check refuses.
fn feed((feed, password): (&Feed, &Option<Secret>)) -> Option<FeedSettings> {
    let source = match (&feed.http, &feed.redis) {
        (Some(url), _) => SourceSettings::Http(url.clone()),
        (None, key) => SourceSettings::Redis {
            address: feed.url.clone().unwrap_or_default(),
            password: password.clone(),
            key: key.clone()?,
        },
    };
    Some(FeedSettings {
        channel: feed.channel.clone()?,
        event: feed.event.as_deref()?.into(),
        source,
        publish: match &feed.record_key {
            Some(key) => PublishMode::ChangedRecords(key.as_str().into()),
            None if feed.only_changed => PublishMode::Changed,
            None => PublishMode::Everything,
        },
        interval: feed.interval,
        timeout: feed.timeout,
    })
}

fn distinct(patterns: &[Pattern]) -> Box<[Pattern]> {
    let is_first = |index: &usize| !patterns[..*index].contains(&patterns[*index]);
    let first = (0..patterns.len()).filter(is_first);
    first.map(|index| patterns[index].clone()).collect()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The host's name as one channel segment.
fn node_name() -> Box<str> {
    let host = rustix::system::uname();
    let name: String = host
        .nodename()
        .to_string_lossy()
        .split('.')
        .next()
        .unwrap_or_default()
        .into();
    if is_segment(&name) {
        name.into()
    } else {
        "gateway".into()
    }
}

/// 256 random bits.
fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
