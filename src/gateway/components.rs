//! The parts of a gateway without listeners: hub, broker, verifier, command router, feeds and shards.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;

use super::{Error, Settings, memory};
use crate::admin::self_report::{HealthSeen, HealthWatch};
use crate::auth::verifier::{self, Verifier};
use crate::auth::{Identity, Revocations};
use crate::backend::commands::{self, CommandSource, Router};
use crate::backend::feeds::{self, Feeds, Runner};
use crate::backend::ingest::{self, Sources};
use crate::backend::jwks::KeySets;
use crate::backend::spans::Tracer;
use crate::broker::nats::Nats;
use crate::broker::redis::Redis;
use crate::broker::{Broker, BrokerSample, Duties, Embedded, Listeners, Peers, SharedSettings, contend};
use crate::hub::snapshot::{self, Snapshot, SnapshotWriter};
use crate::hub::{Hub, Inbox};
use crate::ingress::http::Verify;
use crate::memory::Budget;
use crate::session::Command;
use crate::shard::mailbox::{ConnectionId, Mailbox, Services, ShardHandle, ShardMessage, mailbox};
use crate::suspended::SuspendedSessions;
use crate::time::{Clock, unix_ms};
use crate::{admin, hub, shard};
use tickgate_protocol::channel::{Channel, Tenant};
use tickgate_protocol::dialect;
use tickgate_protocol::message::CommandKey;

/// A broker, as publishers, as the other gateways, and as its counters are read.
type Carrier = (
    Arc<dyn Broker>,
    Option<Arc<dyn Peers>>,
    Box<dyn Fn() -> BrokerSample + Send + Sync>,
);

/// The started components.
pub(super) struct Components {
    pub(super) clock: Clock,
    pub(super) budget: Arc<Budget>,
    /// What Socket.IO sessions had that ended.
    pub(super) suspended: Arc<SuspendedSessions>,
    pub(super) hub: Arc<Hub>,
    pub(super) snapshot_writer: Option<SnapshotWriter>,
    pub(super) watch: Arc<HealthWatch>,
    pub(super) broker: Arc<dyn Broker>,
    /// The other gateways, if there may be some.
    pub(super) peers: Option<Arc<dyn Peers>>,
    pub(super) duties: Duties,
    pub(super) broker_sample: Box<dyn Fn() -> BrokerSample + Send + Sync>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) key_sets: Arc<KeySets>,
    pub(super) router: Arc<Router>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) tracer: Tracer,
    pub(super) feed_runner: Runner,
    pub(super) sources: Arc<Sources>,
    pub(super) source_runner: ingest::Runner,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) shard_threads: Vec<JoinHandle<()>>,
}

impl Components {
    /// Starts the components, the shards last. Commands and feeds run on `runtime`.
    ///
    /// # Errors
    ///
    /// When the snapshot cannot be used or a thread cannot be started. No shard is left running then.
    pub(super) fn start(settings: &Settings, runtime: &Handle) -> Result<Self, Error> {
        let clock = Clock::start();
        let open = |snapshot: &snapshot::Settings| {
            open_snapshot(&snapshot::Settings {
                tenants: settings.tenant_names(),
                ..snapshot.clone()
            })
        };
        let snapshot = settings.snapshot.as_ref().map(open).transpose()?;
        let hub_settings = hub::Settings {
            epoch: snapshot.as_ref().map(Snapshot::epoch),
            classes: Arc::new(settings.feeds.classes(&settings.hub.classes)),
            numbering: match settings.shared {
                Some(_) => hub::Numbering::Log,
                None => hub::Numbering::Own,
            },
            ..settings.hub.clone()
        };
        let (hub, inboxes) = Hub::new(hub_settings, settings.shards.into(), dialect::encode_event);
        let mut snapshot = snapshot;
        let command_keys = snapshot.as_mut().map(Snapshot::take_commands).unwrap_or_default();
        let suspended = Arc::<SuspendedSessions>::default();
        let sessions = snapshot.as_mut().map(Snapshot::take_sessions).unwrap_or_default();
        suspended.restore(sessions, hub.epoch(), clock.now());
        let revocations = Arc::<Revocations>::default();
        if let Some(snapshot) = &mut snapshot {
            snapshot.keep_revocations(Arc::clone(&revocations), clock.now());
        }
        let snapshot_writer = snapshot.map(|snapshot| restore(snapshot, &hub, clock)).transpose()?;
        hub.set_deflate_bytes_min(settings.deflate_bytes_min);
        let (shards, mailboxes): (Vec<_>, Vec<_>) = inboxes
            .iter()
            .map(|inbox| mailbox(Arc::clone(inbox.doorbell()), Arc::default()))
            .unzip();
        let rates = std::iter::once(settings.publish_per_second)
            .chain(settings.tenants.iter().map(|tenant| tenant.publish_per_second));
        let verifier_settings = verifier::Settings {
            tenants: settings.token_rules(),
            revocations,
            ..verifier::Settings::new(settings.keys.clone(), settings.auth.clone())
        };
        let verifier = Verifier::start(verifier_settings, shards.clone()).map_err(|source| Error::Start {
            what: "the verifier's threads",
            source,
        })?;
        let verifier = Arc::new(verifier);
        let seen = HealthSeen::new(clock);
        let listeners = || {
            let (applied, learner, tenants) = (Arc::clone(&seen), Arc::clone(&verifier), settings.tenant_names());
            Listeners {
                applied: Box::new(move |channel: &Channel| applied.note(channel)),
                learn: Box::new(move |fact| admin::learn(&learner, &tenants, fact)),
            }
        };
        let parts = || (Arc::clone(&hub), shards.clone());
        let mut nats = None;
        let (carrier, peers, broker_sample): Carrier = match &settings.shared {
            None => {
                let embedded = Embedded::new(Arc::clone(&hub), clock).limited(rates.collect());
                (Arc::new(embedded), None, Box::new(BrokerSample::default))
            }
            Some(SharedSettings::Nats(shared)) => {
                let started = Nats::start(shared.clone(), parts(), clock, runtime, listeners());
                let started = Arc::new(started.map_err(Error::Broker)?);
                nats = Some(Arc::clone(&started));
                let sampled = Arc::clone(&started);
                (started.clone(), Some(started), Box::new(move || sampled.sample()))
            }
            Some(SharedSettings::Redis(shared)) => {
                let started = Redis::start(shared.clone(), parts(), clock, runtime, listeners());
                let started = Arc::new(started.map_err(Error::Broker)?);
                let sampled = Arc::clone(&started);
                (started.clone(), Some(started), Box::new(move || sampled.sample()))
            }
        };
        let watch = HealthWatch::new(carrier, seen);
        let (duties, watch) = match &peers {
            Some(peers) => {
                let duties = contend(Arc::clone(peers), runtime);
                (duties.clone(), Arc::new(watch.among_others(duties)))
            }
            None => (Duties::alone(), Arc::new(watch)),
        };
        let broker: Arc<dyn Broker> = Arc::clone(&watch) as Arc<dyn Broker>;
        let key_sets = KeySets::start(settings.key_sets.clone(), Arc::clone(&verifier), runtime.clone());
        let tracer = settings
            .otlp
            .as_ref()
            .map_or_else(Tracer::default, |otlp| Tracer::start(otlp, &settings.node, runtime));
        let router = Router::new(
            commands::Settings {
                tracer: tracer.clone(),
                tenants: settings.tenant_names(),
                nats,
                ..settings.commands.clone()
            },
            Box::new(shards.clone()),
            Arc::clone(&broker),
            runtime.clone(),
        );
        let forgotten = router.restore_keys(command_keys);
        if forgotten > 0 {
            tracing::warn!(
                keys = forgotten,
                "keys of commands found no room and are forgotten (limits.command_keys, limits.command_key_bytes)"
            );
        }
        let feed_settings = feeds::Settings {
            tenants: settings.tenant_names(),
            ..settings.feeds.clone()
        };
        let (feeds, feed_runner) = Runner::new(
            feed_settings,
            Arc::clone(&hub),
            Arc::clone(&broker),
            clock,
            (duties.clone(), peers.clone()),
        );
        let source_settings = ingest::Settings {
            tenants: settings.tenant_names(),
            ..settings.sources.clone()
        };
        let (sources, source_runner) =
            ingest::Runner::new(source_settings, Arc::clone(&broker), duties.clone(), &settings.node);
        let limit = match settings.memory_bytes {
            0 => memory::default_budget(settings.hub.state.bytes as u64),
            bytes => bytes,
        };
        let mut components = Self {
            clock,
            budget: Arc::new(Budget::new(limit, settings.shards)),
            suspended,
            hub,
            snapshot_writer,
            watch,
            broker,
            peers,
            duties,
            broker_sample,
            verifier,
            key_sets: Arc::new(key_sets),
            router: Arc::new(router),
            feeds,
            tracer,
            feed_runner,
            sources,
            source_runner,
            shards,
            shard_threads: Vec::new(),
        };
        components.start_shards(settings, inboxes, mailboxes)?;
        components.key_sets.wait_for_first();
        Ok(components)
    }

    fn start_shards(&mut self, settings: &Settings, inboxes: Vec<Inbox>, mailboxes: Vec<Mailbox>) -> Result<(), Error> {
        for (number, (inbox, mailbox)) in (0..settings.shards).zip(inboxes.into_iter().zip(mailboxes)) {
            let shard_settings = shard::Settings {
                coalesce: settings.coalesce,
                scan_budget: settings.scan_budget,
                flush: settings.flush,
                ..shard::Settings::new(number)
            };
            match self.start_shard(shard_settings, inbox, mailbox) {
                Ok(thread) => self.shard_threads.push(thread),
                Err(source) => {
                    self.stop_shards();
                    let what = "a shard";
                    return Err(Error::Start { what, source });
                }
            }
        }
        Ok(())
    }

    fn start_shard(&self, settings: shard::Settings, inbox: Inbox, mailbox: Mailbox) -> io::Result<JoinHandle<()>> {
        let services = Arc::new(ShardServices {
            budget: Arc::clone(&self.budget),
            suspended: Arc::clone(&self.suspended),
            verifier: Arc::clone(&self.verifier),
            router: Arc::clone(&self.router),
        });
        shard::spawn(settings, self.clock, inbox, mailbox, services, Arc::clone(&self.broker))
    }

    fn stop_shards(&mut self) {
        for (shard, thread) in self.shards.iter().zip(self.shard_threads.drain(..)) {
            let _ = shard.send(ShardMessage::Drain { over_ms: 0 });
            let _ = thread.join();
        }
    }

    /// The verifier, for the ingress.
    pub(super) fn verify(&self) -> Arc<Verify> {
        let verifier = Arc::clone(&self.verifier);
        Arc::new(move |tenant, token| verifier.verify(tenant, token, unix_ms()))
    }
}

fn open_snapshot(settings: &snapshot::Settings) -> Result<Snapshot, Error> {
    Snapshot::open(settings.clone()).map_err(|source| Error::Snapshot {
        path: settings.path.clone(),
        source,
    })
}

/// Restores the state of the last run into the hub, and starts the thread that saves it from now on.
fn restore(mut snapshot: Snapshot, hub: &Arc<Hub>, clock: Clock) -> Result<SnapshotWriter, Error> {
    let path = snapshot.path().to_owned();
    let is_new = snapshot.is_new();
    let loaded = snapshot.load(hub, clock.now());
    let (path, epoch) = (path.display(), hub.epoch());
    let (channels, events) = (loaded.channels, loaded.events);
    if is_new {
        tracing::info!(%path, %epoch, "the snapshot is new: the state begins empty");
    } else if loaded.was_open {
        tracing::warn!(%path, %epoch, channels, events,
            "the last run did not end with a drain: events after its last snapshot are lost, and a new epoch begins");
    } else {
        tracing::info!(%path, %epoch, channels, events, "the state of the last run is restored");
    }
    for (tenant, channels) in &loaded.unknown_tenants {
        tracing::warn!(%path, tenant, channels,
            "the snapshot has channels of a tenant that is not configured any more: they are dropped");
    }
    SnapshotWriter::start(snapshot, Arc::clone(hub), clock).map_err(|source| Error::Start {
        what: "the snapshot's thread",
        source,
    })
}

/// The services that shards call.
struct ShardServices {
    budget: Arc<Budget>,
    suspended: Arc<SuspendedSessions>,
    verifier: Arc<Verifier>,
    router: Arc<Router>,
}

impl Services for ShardServices {
    fn verify(&self, from: ConnectionId, request: u32, tenant: Tenant, token: Box<str>) {
        self.verifier.request(from, request, tenant, token);
    }

    fn command(&self, from: ConnectionId, client_id: &str, address: Option<IpAddr>, request: u32, command: Command) {
        let source = CommandSource {
            connection: from,
            request,
            client_id,
            address,
        };
        self.router.route(source, command);
    }

    fn command_status(&self, from: ConnectionId, request: u32, identity: &Identity, key: &CommandKey) {
        self.router.status(from, request, identity, key);
    }

    fn forbidden(&self, client_id: &str, address: Option<IpAddr>, command: Command) {
        self.router.forbidden(client_id, address, command);
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        self.verifier.revocations().has(identity)
    }

    fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    fn suspended(&self) -> Arc<SuspendedSessions> {
        Arc::clone(&self.suspended)
    }
}
