//! A shard's core without sockets: clients subscribe, events are published, and outboxes are emptied.

use std::hint::black_box;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::broker::{Broker, Origin, Outcomes, Submitted};
use tickgate::event::{NewEvent, PublishOptions};
use tickgate::hub::{self, Hub, Receipt, Wakes};
use tickgate::metrics::ShardMetrics;
use tickgate::session::limits::Limits;
use tickgate::session::{self, Command};
use tickgate::shard;
use tickgate::shard::core::{Arrival, Sent, ShardCore};
use tickgate::shard::mailbox::{ConnectionId, ConnectionPermit, Services};
use tickgate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern, Tenant};
use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::dialect::{self, Dialect, socket_io};
use tickgate_protocol::message::CommandKey;
use tickgate_protocol::wire::Deflate;

/// The constant time of all operations.
pub(crate) const NOW: Now = Now {
    mono_ms: 1_000_000,
    unix_ms: 1_703_836_800_000,
};

/// Messages of clients, by name. Each has two texts, which alternate. No service answers the command.
pub(crate) const MESSAGES: [(&str, [&str; 2]); 4] = [
    ("ping", [r#"{"type":"ping","timestamp":1703836800000}"#; 2]),
    (
        "subscribe",
        [
            r#"{"type":"subscribe","channels":["grid.grid_abc123.order","system.health"],"id":"s1"}"#,
            r#"{"type":"unsubscribe","channels":["grid.grid_abc123.order","system.health"],"id":"s1"}"#,
        ],
    ),
    ("get_status", [r#"{"type":"get_status"}"#; 2]),
    (
        "command refused",
        [r#"{"type":"command","id":"cmd_001","action":"grid.start","params":{"pair":"BTC-USDC","upper_price":100000,"grid_count":10}}"#;
            2],
    ),
];

struct NoServices;

impl Services for NoServices {
    fn verify(&self, _: ConnectionId, _: u32, _: Tenant, _: Box<str>) {}
    fn command(&self, _: ConnectionId, _: &str, _: Option<std::net::IpAddr>, _: u32, _: Command) {}
    fn command_status(&self, _: ConnectionId, _: u32, _: &Identity, _: &CommandKey) {}
    fn forbidden(&self, _: &str, _: Option<std::net::IpAddr>, _: Command) {}
}

impl Broker for NoServices {
    /// Publishes to no channel. The rig publishes through the hub.
    fn publish(&self, _: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(async { Vec::new() })
    }
    fn try_publish(&self, _: Origin, event: NewEvent, _: Now) -> Submitted {
        Submitted::NoRoom(event)
    }
}

#[derive(Debug)]
struct Permit;

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, _: &str) -> bool {
        true
    }
}

/// One shard's core with its hub.
pub(crate) struct Rig {
    pub(crate) hub: Arc<Hub>,
    pub(crate) core: ShardCore,
    pub(crate) stats: Arc<ShardMetrics>,
    /// The compression that further clients negotiate.
    pub(crate) deflate: Option<Deflate>,
    connections: u64,
    // By the number of the tenant.
    settings: Vec<Arc<session::Settings>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_tenants(1)
    }

    /// A rig with so many tenants, the default one included.
    #[allow(dead_code, reason = "not every benchmark has tenants")]
    pub(crate) fn with_tenants(count: usize) -> Self {
        let (hub, mut inboxes) = Hub::new(
            hub::Settings {
                credits: 4096,
                tenants: vec![hub::Quota::default(); count - 1],
                ..hub::Settings::default()
            },
            1,
            dialect::encode_event,
        );
        let stats = Arc::new(ShardMetrics::default());
        let core = ShardCore::new(
            shard::Settings::new(0),
            inboxes.remove(0),
            Arc::new(NoServices),
            Arc::new(NoServices),
            stats.clone(),
            NOW,
        );
        let anonymous = |tenant| Identity {
            tenant,
            user: None,
            role: None,
            permissions: Arc::new(Permissions {
                channels: vec![
                    Pattern::parse("*").expect("valid").in_tenant(tenant),
                    Pattern::parse("user.*").expect("valid").in_tenant(tenant),
                ],
                ..Permissions::default()
            }),
            expires_at_ms: None,
            exp_ms: None,
            token_id: None,
            issued_at_ms: None,
        };
        let settings = |tenant| session::Settings {
            dialect: Dialect::Native,
            limits: Limits::default(),
            auth_mode: Mode::Off,
            anonymous: Arc::new(anonymous(tenant)),
            auto_subscribe: Box::default(),
            tenant,
            tenant_name: None,
            auth_timeout_ms: 5_000,
            expiry_warning_ms: 30_000,
            heartbeat_interval_ms: 30_000,
            refused_values: std::sync::Arc::default(),
            classes: std::sync::Arc::default(),
            heartbeat_timeout_ms: 60_000,
        };
        Self {
            hub,
            core,
            stats,
            deflate: None,
            connections: 0,
            settings: (0..count).map(|index| Arc::new(settings(tenant(index)))).collect(),
        }
    }

    /// Adds a client with these subscriptions.
    pub(crate) fn connect(&mut self, patterns: &[String]) -> ConnectionId {
        let patterns = serde_json::to_string(patterns).expect("strings");
        self.connect_and_send(&format!(r#"{{"type":"subscribe","channels":{patterns}}}"#))
    }

    /// Adds a client that begins with this message.
    pub(crate) fn connect_and_send(&mut self, message: &str) -> ConnectionId {
        self.connect_of(0, message)
    }

    /// Adds a client of the tenant with this number that begins with this message.
    pub(crate) fn connect_of(&mut self, tenant: usize, message: &str) -> ConnectionId {
        let arrival = Arrival {
            settings: Arc::clone(&self.settings[tenant]),
            engine_io: None,
            identity: Ok(None),
            address: None,
            nonce: self.connections,
            deflate: self.deflate,
            permit: Box::new(Permit),
        };
        let id = self.core.adopt(arrival, NOW);
        self.core.on_bytes(id, &mut client_frame(message.as_bytes()), NOW);
        assert!(!self.core.is_closing(id), "a subscription failed");
        self.connections += 1;
        id
    }

    /// A rig whose clients speak Socket.IO, with or without connection state recovery.
    #[allow(dead_code, reason = "not every benchmark has such clients")]
    pub(crate) fn with_socket_io(recovers: bool) -> Self {
        let mut rig = Self::new();
        let dialect = Dialect::SocketIo(socket_io::Settings {
            recovery_window_ms: recovers.then_some(120_000),
            ..socket_io::Settings::default()
        });
        let settings = session::Settings {
            dialect,
            ..(*rig.settings[0]).clone()
        };
        rig.settings = vec![Arc::new(settings)];
        rig
    }

    /// Adds a client that connects to the namespace and subscribes.
    #[allow(dead_code, reason = "not every benchmark has such clients")]
    pub(crate) fn connect_socket_io(&mut self, pattern: &str) -> ConnectionId {
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&self.connections.to_be_bytes());
        let arrival = Arrival {
            settings: Arc::clone(&self.settings[0]),
            engine_io: Some(session::Opening {
                revision: Revision::Four,
                by_poll: false,
                secret,
                token: None,
            }),
            identity: Ok(None),
            address: None,
            nonce: self.connections,
            deflate: None,
            permit: Box::new(Permit),
        };
        let id = self.core.adopt(arrival, NOW);
        let subscribe = format!(r#"42["subscribe",{{"channels":["{pattern}"]}}]"#);
        for packet in ["40", &subscribe] {
            self.core.on_bytes(id, &mut client_frame(packet.as_bytes()), NOW);
        }
        assert!(!self.core.is_closing(id), "a subscription failed");
        self.connections += 1;
        id
    }

    /// Publishes to the inbox, and to the state that the channel's class keeps.
    pub(crate) fn publish(&self, event: NewEvent) -> Receipt {
        let credit = self
            .hub
            .credit_now(event.channel.tenant(), event.data.len())
            .expect("a credit is available");
        self.hub.publish(event, NOW, credit, &mut Wakes::default())
    }

    /// Takes everything out of the outboxes as if it were written, including what is read from the hub meanwhile. It
    /// takes as many passes as the reactor would, since a connection reads one page in each.
    pub(crate) fn drain(&mut self) {
        loop {
            while let Some(id) = self.core.next_dirty() {
                self.write(id);
            }
            if !self.core.has_turn_to_begin() {
                break;
            }
            self.core.begin_turn(NOW);
        }
    }

    fn write(&mut self, id: ConnectionId) {
        loop {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.core.pending(id, NOW, &mut slices);
            black_box(&slices);
            // Further pages follow in the next pass.
            if filled == 0 {
                break;
            }
            let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
            if self.core.sent(id, bytes, NOW) == Sent::Drained {
                break;
            }
        }
    }
}

/// The tenant with this number.
pub(crate) fn tenant(index: usize) -> Tenant {
    Tenant::new(index).expect("few")
}

/// A client's text frame with a mask of zero.
pub(crate) fn client_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).expect("below 64 KiB").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// An event of about 240 bytes on the wire.
pub(crate) fn event(channel: &str) -> NewEvent {
    let data = format!(
        r#"{{"symbol":"BTC/USDT","price":94123.25,"note":"{}"}}"#,
        "x".repeat(120)
    );
    NewEvent {
        channel: Channel::parse(channel).expect("valid"),
        name: "price_update".into(),
        data: Bytes::from(data),
        timestamp_ms: NOW.unix_ms,
        options: PublishOptions::default(),
    }
}
