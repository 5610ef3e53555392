//! The sections of the configuration. A file holds the declarations of its keys, their rules, and the conversion into the
//! settings of the modules that use them.

use crate::config::check::{Check, ensure};
use crate::config::declare::section;
use tickgate_protocol::channel::Classes;

mod auth;
mod channel;
mod command;
mod endpoint;
mod feed;
mod limits;
mod process;
mod record;
mod server;
mod state;

pub(super) use auth::{Admin, Auth, DEFAULT_ADMIN_KEY_ENV, DEFAULT_SECRET_ENV, Key};
pub(super) use channel::{ChannelClass, built_in_classes};
pub(super) use command::Command;
pub(super) use endpoint::{DialectName, Endpoint};
pub(super) use feed::Feed;
pub(super) use limits::{Compression, Heartbeat, Limits};
pub use process::{AuditMode, Format};
pub(super) use process::{Broker, Log};
pub(super) use server::Server;
pub(super) use state::State;

section! {
    /// All keys of the file.
    struct Sections {
        /// Listeners, threads and bounds on connections.
        table server: Server = Server::default();
        /// Paths that accept connections.
        tables endpoints as "endpoint": Vec<Endpoint> = Endpoint::defaults(),
            check |endpoints| ensure(!endpoints.is_empty(), "at least one [[endpoint]] is needed");
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
        /// The connection between gateways.
        table broker: Broker = Broker::default();
        /// Log lines.
        table log: Log = Log::default();

        rule elements_fit_each_other;
    }
}

fn elements_fit_each_other(sections: &Sections, check: &mut Check<'_>) {
    endpoint::check_selection(&sections.endpoints, &sections.server.listen, check);
    channel::check_distinct(&sections.channels, check);
    feed::check_distinct(&sections.feeds, check);
    channel::check_feeds(&sections.feeds, &sections.classes(), check);
}

impl Sections {
    /// The classes of all channels.
    pub(super) fn classes(&self) -> Classes {
        channel::classes(&self.channels)
    }
}
