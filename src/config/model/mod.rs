//! The sections of the file: their keys, their defaults, and what contradicts what.

use super::secrets::Secrets;
use super::source::Environment;
use super::visit::{Section, Visitor};
use tickgate_protocol::channel::Classes;

mod auth;
pub(super) mod check;
mod endpoint;
mod feed;
mod operations;
mod server;
mod state;

pub(super) use auth::{Admin, Auth, DEFAULT_ADMIN_KEY_ENV, Key, Role};
use check::Check;
pub(super) use endpoint::{Endpoint, Name as DialectName};
pub(super) use feed::Feed;
pub(super) use operations::{Broker, Command, Compression, Heartbeat, Limits, Log};
pub use operations::{Format, Level};
pub(super) use server::{Flush, Server};
use state::{ChannelClass, State};

/// The whole configuration. [`Config::load`] makes one; its default is what no file at all means.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) server: Server,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) auth: Auth,
    pub(super) admin: Admin,
    pub(super) limits: Limits,
    pub(super) heartbeat: Heartbeat,
    pub(super) compression: Compression,
    pub(super) state: State,
    pub(super) channels: Vec<ChannelClass>,
    pub(super) commands: Vec<Command>,
    pub(super) feeds: Vec<Feed>,
    pub(super) broker: Broker,
    pub(super) log: Log,
    /// What the named secrets hold; never printed.
    pub(super) secrets: Secrets,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            endpoints: Endpoint::defaults(),
            auth: Auth::default(),
            admin: Admin::default(),
            limits: Limits::default(),
            heartbeat: Heartbeat::default(),
            compression: Compression::default(),
            state: State::default(),
            channels: Vec::new(),
            commands: Vec::new(),
            feeds: Vec::new(),
            broker: Broker::default(),
            log: Log::default(),
            secrets: Secrets::default(),
        }
    }
}

impl Section for Config {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.table("server", &mut self.server);
        visitor.tables("endpoint", &mut self.endpoints);
        visitor.table("auth", &mut self.auth);
        visitor.table("admin", &mut self.admin);
        visitor.table("limits", &mut self.limits);
        visitor.table("heartbeat", &mut self.heartbeat);
        visitor.table("compression", &mut self.compression);
        visitor.table("state", &mut self.state);
        visitor.tables("channel", &mut self.channels);
        visitor.tables("command", &mut self.commands);
        visitor.tables("feed", &mut self.feeds);
        visitor.table("broker", &mut self.broker);
        visitor.table("log", &mut self.log);
    }
}

impl Config {
    /// Without any `[[auth.key]]`, the variable of the reference configuration is a key when it is set.
    pub(super) fn add_default_key(&mut self, environment: &Environment) {
        if self.auth.keys.is_empty() && environment.get(auth::DEFAULT_SECRET_ENV).is_some() {
            self.auth.keys.push(Key::default_of_environment());
        }
    }

    /// Refuses what contradicts itself.
    pub(super) fn check(&self, check: &mut Check<'_>) {
        self.server.check(check);
        endpoint::check_endpoints(&self.endpoints, check);
        self.auth.check(check);
        self.admin.check(check);
        self.limits.check(check);
        self.heartbeat.check(check);
        self.state.check(check);
        state::check_channels(&self.channels, check);
        operations::check_commands(&self.commands, check);
        feed::check_feeds(&self.feeds, check);
        state::check_feed_classes(&self.feeds, &self.classes(), check);
    }

    /// The classes of all channels.
    pub(super) fn classes(&self) -> Classes {
        state::classes(&self.channels)
    }

    /// How to log.
    #[must_use]
    pub fn log(&self) -> (Format, Level) {
        (self.log.format, self.log.level)
    }
}
