//! The sections of the configuration. A file holds the declarations of its keys, their rules, and the conversion into the
//! settings of the modules that use them.

use crate::config::check::Check;
use crate::config::declare::section;
use tickgate_protocol::channel::{Classes, Tenant as Number};

mod auth;
mod broker;
mod channel;
mod command;
mod endpoint;
mod feed;
mod limits;
mod otlp;
mod process;
mod record;
mod redis;
mod server;
mod source;
mod state;
mod tenant;

pub(super) use auth::{Admin, Auth, DEFAULT_ADMIN_KEY_ENV, DEFAULT_SECRET_ENV, Key};
pub(super) use broker::Broker;
pub(super) use channel::{ChannelClass, built_in_classes, kept_keys};
pub(super) use command::Command;
pub(super) use endpoint::{DialectName, Endpoint};
pub(super) use feed::Feed;
pub(super) use limits::{Compression, Heartbeat, Limits};
pub(super) use otlp::Otlp;
pub(super) use process::Log;
pub use process::{AuditMode, Format};
pub(super) use server::Server;
pub(super) use source::Source;
pub(super) use state::State;
pub(super) use tenant::{Tenant, TenantAdmin};

section! {
    /// All keys of the file.
    struct Sections {
        /// Listeners, threads and bounds on connections.
        table server: Server = Server::default();
        /// Paths that accept connections.
        tables endpoints as "endpoint": Vec<Endpoint> = Endpoint::defaults();
        /// How clients authenticate.
        table auth: Auth = Auth::default();
        /// The key of the admin listener.
        table admin: Admin = Admin::default();
        /// Limits of one connection and of a published event.
        table limits: Limits = Limits::default();
        /// Pings, and how long a connection may be silent.
        table heartbeat: Heartbeat = Heartbeat::default();
        /// Compression of messages.
        table compression: Compression = Compression::default();
        /// How much is kept of all channels together, and where it is saved.
        table state: State = State::default();
        /// What is kept of a channel, and what happens to clients that are too slow for it.
        tables channels as "channel": Vec<ChannelClass> = Vec::new();
        /// Backends that answer commands.
        tables commands as "command": Vec<Command> = Vec::new();
        /// Sources that are polled.
        tables feeds as "feed": Vec<Feed> = Vec::new();
        /// Streams and subjects of NATS or Redis whose messages become events ([sources.md](sources.md)).
        tables sources as "source": Vec<Source> = Vec::new();
        /// The connection between gateways.
        table broker: Broker = Broker::default();
        /// Log lines.
        table log: Log = Log::default();
        /// Traces of publications and commands ([tracing.md](tracing.md)).
        table otlp: Otlp = Otlp::default();
        /// Applications that share the gateway and see nothing of each other ([tenants.md](tenants.md)).
        tables tenants as "tenant": Vec<Tenant> = Vec::new();

        rule there_is_an_endpoint;
        rule elements_fit_each_other;
    }
}

fn there_is_an_endpoint(sections: &Sections, check: &mut Check<'_>) {
    let is_served = !sections.endpoints.is_empty() || !sections.tenants.is_empty();
    check.require(is_served, "endpoint", "at least one [[endpoint]] is needed");
}

fn elements_fit_each_other(sections: &Sections, check: &mut Check<'_>) {
    let endpoints = sections.spaces().into_iter().flat_map(|space| {
        let prefix = space.prefix();
        let endpoints = space.endpoints.iter().enumerate();
        endpoints.map(move |(index, endpoint)| (format!("{prefix}endpoint[{index}]"), endpoint))
    });
    endpoint::check_selection(&endpoints.collect::<Vec<_>>(), &sections.server.listen, check);
    for space in sections.spaces() {
        let prefix = space.prefix();
        let section = prefix.strip_suffix('.').unwrap_or_default();
        check.inside(section, |check| {
            channel::check_distinct(space.channels, check);
            feed::check_distinct(space.feeds, check);
            channel::check_feeds(space.feeds, &channel::classes(space.channels), check);
            source::check_all(space.sources, &channel::classes(space.channels), check);
        });
    }
    let sources = sections.spaces().into_iter().flat_map(|space| {
        let prefix = space.prefix();
        let sources = space.sources.iter().enumerate();
        sources.map(move |(index, source)| (format!("{prefix}source[{index}]"), source))
    });
    source::check_positions(&sources.collect::<Vec<_>>(), check);
    tenant::check_all(&sections.tenants, &sections.limits, check);
    broker::check_shared(sections, check);
}

/// What the default tenant and all others have: the sections that may stand at the top level and under `[[tenant]]`.
pub(super) struct Space<'a> {
    pub(super) tenant: Number,
    /// `None`: the default tenant.
    pub(super) name: Option<&'a str>,
    pub(super) endpoints: &'a [Endpoint],
    pub(super) auth: &'a Auth,
    pub(super) limits: Limits,
    pub(super) channels: &'a [ChannelClass],
    pub(super) commands: &'a [Command],
    pub(super) feeds: &'a [Feed],
    pub(super) sources: &'a [Source],
}

impl Space<'_> {
    /// What stands before the names of its keys: nothing, or `tenant[0].`.
    pub(super) fn prefix(&self) -> String {
        let index = self.tenant.index().checked_sub(1);
        index.map(|index| format!("tenant[{index}].")).unwrap_or_default()
    }
}

impl Space<'_> {
    /// The classes of the tenant's channels.
    pub(super) fn classes(&self) -> Classes {
        channel::classes(self.channels)
    }
}

impl Sections {
    /// The default tenant's sections, and those of all others.
    pub(super) fn spaces(&self) -> Vec<Space<'_>> {
        let default = Space {
            tenant: Number::DEFAULT,
            name: None,
            endpoints: &self.endpoints,
            auth: &self.auth,
            limits: self.limits.clone(),
            channels: &self.channels,
            commands: &self.commands,
            feeds: &self.feeds,
            sources: &self.sources,
        };
        // A tenant without a number is one too many, which the check refuses.
        let others = self.tenants.iter().enumerate().filter_map(|(index, tenant)| {
            Some(Space {
                tenant: Number::new(index + 1)?,
                name: tenant.name.as_deref(),
                endpoints: &tenant.endpoints,
                auth: &tenant.auth,
                limits: tenant.limits.over(&self.limits),
                channels: &tenant.channels,
                commands: &tenant.commands,
                feeds: &tenant.feeds,
                sources: &tenant.sources,
            })
        });
        std::iter::once(default).chain(others).collect()
    }

    /// The classes of all channels.
    pub(super) fn classes(&self) -> Classes {
        let tenants = self.tenants.iter();
        channel::classes(&self.channels)
            .with_tenants(tenants.map(|tenant| channel::classes(&tenant.channels)).collect())
    }
}
