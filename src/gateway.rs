//! One gateway, assembled: hub, broker, shards, verifier, command router, door, admin listener and pulse.
//!
//! Invariant: nothing of a gateway is global; several can live in one process, and each ends whole.

use std::io;

use crate::http::{ListenAddress, LocalAddress};
use crate::{admin, auth, commands, door, hub, shard};

/// Everything a gateway is started with. `config` builds it; tests write it down.
#[derive(Debug)]
pub struct Settings {
    /// The node's name: one valid channel segment (`system.gateway.<node>`).
    pub node: Box<str>,
    /// How many shard threads, 1 to 64.
    pub shards: u16,
    /// The time over which a drain spreads its closes.
    pub drain_ms: u64,
    /// The public listeners and endpoints.
    pub door: door::Settings,
    /// The admin listener.
    pub admin: admin::Settings,
    /// The hub.
    pub hub: hub::Settings,
    /// How long events may wait for company in a shard.
    pub coalesce: shard::Coalesce,
    /// The keys that tokens are verified with.
    pub keys: auth::KeySet,
    /// How tokens are read, and what roles may do.
    pub auth: auth::Settings,
    /// Where commands go.
    pub commands: commands::Settings,
}

/// Why a gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The listener.
        address: ListenAddress,
        /// Why.
        source: io::Error,
    },
    /// A thread or a runtime could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread of the gateway panicked; its connections are lost.
    #[error("{0} panicked")]
    Panicked(String),
}

/// A running gateway. Dropping it stops it at once.
pub struct Gateway {}

/// Tells a running gateway to end; from any thread, any number of times.
#[derive(Clone)]
pub struct Handle {}

impl Gateway {
    /// Opens the listeners and starts every thread. When it returns, connections are served.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        unimplemented!("{settings:?}")
    }

    /// Where the public listeners listen in fact, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[LocalAddress] {
        unimplemented!()
    }

    /// Where the admin listener listens in fact.
    #[must_use]
    pub fn admin_address(&self) -> &LocalAddress {
        unimplemented!()
    }

    /// To end it from elsewhere, such as a signal handler's thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        unimplemented!()
    }

    /// Blocks until the gateway has ended: drained (`Ok`), stopped (`Ok`), or one of its threads panicked.
    pub fn wait(self) -> Result<(), Error> {
        unimplemented!()
    }

    /// Ends it at once and waits for its threads: sockets are closed without ceremony.
    pub fn stop(self) -> Result<(), Error> {
        self.handle().stop();
        self.wait()
    }
}

impl Handle {
    /// Begins a drain: not ready, clients are told and closed with 1012 over `drain_ms`; then [`Gateway::wait`] returns.
    pub fn drain(&self) {
        unimplemented!()
    }

    /// Ends the gateway at once.
    pub fn stop(&self) {
        unimplemented!()
    }
}
