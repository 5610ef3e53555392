//! What runs without the door: hub, broker, verifier, command router, feeds and shards.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Runtime;

use super::{Error, Settings};
use crate::admin::self_report::HealthWatch;
use crate::auth::verifier;
use crate::auth::verifier::Verifier;
use crate::backend::commands::{CommandSource, Router};
use crate::backend::feeds::{Feeds, Runner};
use crate::broker::Broker;
use crate::broker::Embedded;
use crate::hub::snapshot::{self, Snapshot, SnapshotWriter};
use crate::hub::{Hub, Inbox};
use crate::ingress::http::Verify;
use crate::session::Command;
use crate::shard::mailbox::{ConnectionId, Mailbox, Services, ShardHandle, ShardMessage, mailbox};
use crate::time::{Clock, unix_ms};
use crate::{hub, shard};
use tickgate_protocol::dialect;

/// The engine, started.
pub(super) struct Core {
    pub(super) clock: Clock,
    pub(super) hub: Arc<Hub>,
    pub(super) watch: Arc<HealthWatch>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) router: Arc<Router>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) feed_runner: Runner,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) keeper: Option<SnapshotWriter>,
}

impl Core {
    pub(super) fn start(settings: &Settings, runtime: &Runtime) -> Result<Self, Error> {
        let clock = Clock::start();
        let snapshot = settings.snapshot.as_ref().map(open).transpose()?;
        let hub_settings = hub::Settings {
            epoch: snapshot.as_ref().map(Snapshot::epoch),
            ..settings.hub.clone()
        };
        let (hub, inboxes) = Hub::new(hub_settings, settings.shards.into(), dialect::encode_event);
        let keeper = snapshot.map(|snapshot| take_back(snapshot, &hub, clock)).transpose()?;
        hub.set_deflate_bytes_min(settings.deflate_bytes_min);
        let watch = Arc::new(HealthWatch::new(
            Arc::new(Embedded::new(Arc::clone(&hub), clock)),
            clock,
        ));
        let broker: Arc<dyn Broker> = Arc::clone(&watch) as Arc<dyn Broker>;
        let (shards, mailboxes): (Vec<_>, Vec<_>) = inboxes
            .iter()
            .map(|inbox| mailbox(Arc::clone(inbox.doorbell()), Arc::default()))
            .unzip();
        let verify = verifier::Settings::new(settings.keys.clone(), settings.auth.clone());
        let verifier = Verifier::start(verify, shards.clone()).map_err(|source| Error::Start {
            what: "the verifier's threads",
            source,
        })?;
        let router = Router::new(
            settings.commands.clone(),
            Box::new(shards.clone()),
            Arc::clone(&broker),
            runtime.handle().clone(),
        );
        let (verifier, router) = (Arc::new(verifier), Arc::new(router));
        let (feeds, feed_runner) = Runner::new(settings.feeds.clone(), Arc::clone(&hub), Arc::clone(&broker), clock);
        let mut engine = Self {
            clock,
            hub,
            watch,
            broker,
            verifier,
            router,
            feeds,
            feed_runner,
            shards,
            threads: Vec::new(),
            keeper,
        };
        for (number, ends) in (0..settings.shards).zip(inboxes.into_iter().zip(mailboxes)) {
            let settings = shard::Settings {
                coalesce: settings.coalesce,
                flush: settings.flush,
                ..shard::Settings::new(number)
            };
            match engine.start_shard(settings, ends) {
                Ok(thread) => engine.threads.push(thread),
                Err(source) => {
                    engine.stop();
                    return Err(Error::Start {
                        what: "a shard",
                        source,
                    });
                }
            }
        }
        Ok(engine)
    }

    fn start_shard(&self, settings: shard::Settings, (inbox, mailbox): (Inbox, Mailbox)) -> io::Result<JoinHandle<()>> {
        let services = ShardServices {
            verifier: Arc::clone(&self.verifier),
            router: Arc::clone(&self.router),
        };
        shard::spawn(
            settings,
            self.clock,
            inbox,
            mailbox,
            Arc::new(services),
            Arc::clone(&self.broker),
        )
    }

    /// Ends the shards that were started.
    fn stop(&mut self) {
        for (shard, thread) in self.shards.iter().zip(self.threads.drain(..)) {
            let _ = shard.send(ShardMessage::Drain { over_ms: 0 });
            let _ = thread.join();
        }
    }

    pub(super) fn verify(&self) -> Arc<Verify> {
        let verifier = Arc::clone(&self.verifier);
        Arc::new(move |token| verifier.verify(token, unix_ms()))
    }
}

fn open(settings: &snapshot::Settings) -> Result<Snapshot, Error> {
    Snapshot::open(settings.clone()).map_err(|source| Error::Snapshot {
        path: settings.path.clone(),
        source,
    })
}

/// Gives the hub the state of the last run, and keeps it written from now on.
fn take_back(mut snapshot: Snapshot, hub: &Arc<Hub>, clock: Clock) -> Result<SnapshotWriter, Error> {
    let path = snapshot.path().to_owned();
    let loaded = match snapshot.load(hub, clock.now()) {
        Ok(loaded) => loaded,
        Err(source) => return Err(Error::Snapshot { path, source }),
    };
    let (path, epoch) = (path.display(), hub.epoch());
    let (channels, events) = (loaded.channels, loaded.events);
    if loaded.was_open {
        tracing::warn!(%path, %epoch, channels, events,
            "the last run was not ended by a drain: what came after its last snapshot is lost, a new epoch begins");
    } else {
        tracing::info!(%path, %epoch, channels, events, "the state of the last run is taken back");
    }
    SnapshotWriter::start(snapshot, Arc::clone(hub), clock).map_err(|source| Error::Start {
        what: "the snapshot's thread",
        source,
    })
}

/// What shards ask for.
struct ShardServices {
    verifier: Arc<Verifier>,
    router: Arc<Router>,
}

impl Services for ShardServices {
    fn verify(&self, from: ConnectionId, request: u32, token: Box<str>) {
        self.verifier.request(from, request, token);
    }

    fn command(&self, from: ConnectionId, client_id: &str, address: Option<IpAddr>, request: u32, command: Command) {
        self.router.route(
            CommandSource {
                connection: from,
                request,
                client_id,
                address,
            },
            command,
        );
    }

    fn forbidden(&self, client_id: &str, address: Option<IpAddr>, command: Command) {
        self.router.forbidden(client_id, address, command);
    }
}
