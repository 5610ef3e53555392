//! A real Redis Cluster for a test: three masters, and a replica of the one that owns the slot of the test's keys.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, FromRedisValue, cmd};
use tickgate::redis::RedisServer;

use crate::process::free_port;
use crate::redis_server::{Certificate, Keeps, Redis};

/// The slots of a cluster.
const SLOTS: u16 = 16384;

/// The longest wait. A test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
    // Where gateways reach the nodes.
    ports: Vec<u16>,
    certificate: Option<Certificate>,
    /// The slot of the test's keys.
    pub(crate) slot: u16,
    /// The node that owned the slot at first.
    pub(crate) owner: usize,
    /// The replica of that node.
    pub(crate) replica: usize,
}

/// The number of masters.
const MASTERS: u16 = 3;

impl Cluster {
    /// Starts a cluster. The test's keys have the hash tag `tag`.
    pub(crate) fn start(program: &Path, tag: &str) -> Self {
        Self::start_with(program, tag, None)
    }

    /// Starts a cluster that speaks TLS, with gateways and between its nodes. Tests may use the ports without it.
    pub(crate) fn start_encrypted(program: &Path, tag: &str) -> Self {
        Self::start_with(program, tag, Some(Certificate::make()))
    }

    fn start_with(program: &Path, tag: &str, certificate: Option<Certificate>) -> Self {
        let start = |_| {
            // The usual port of the bus is too high for a high port of clients.
            let (bus, port) = (free_port().to_string(), free_port());
            let mut arguments: Vec<String> = ["--cluster-enabled", "yes", "--cluster-port", &bus]
                .into_iter()
                .chain(["--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"])
                .map(str::to_owned)
                .collect();
            if let Some(certificate) = &certificate {
                arguments.extend(certificate.arguments(&port.to_string()));
                arguments.extend(["--tls-cluster", "yes", "--tls-replication", "yes"].map(str::to_owned));
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let node = Redis::start_with(program, Keeps::Nothing, &arguments);
            let port = if certificate.is_some() { port } else { node.port };
            (node, (port, bus))
        };
        let (nodes, ports): (Vec<Redis>, Vec<(u16, String)>) = (0..=MASTERS).map(start).unzip();
        let slot: u16 = query(&nodes[0], cmd("CLUSTER").arg("KEYSLOT").arg(tag));
        let share = SLOTS.div_ceil(MASTERS);
        let cluster = Self {
            nodes,
            ports: ports.iter().map(|(port, _)| *port).collect(),
            certificate,
            slot,
            owner: usize::from(slot / share),
            replica: usize::from(MASTERS),
        };
        for (number, node) in (0u16..).zip(&cluster.nodes) {
            // Nodes with one epoch would have to settle first whose is the higher one.
            query::<()>(node, cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(number + 1));
            let (first, last) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
            if number < MASTERS {
                query::<()>(node, cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last));
            }
        }
        for (port, bus) in &ports[1..] {
            let meet = ["MEET", "127.0.0.1", &port.to_string(), bus].map(str::to_owned);
            query::<()>(&cluster.nodes[0], cmd("CLUSTER").arg(&meet));
        }
        cluster.until("the cluster", |node| {
            let info: String = query(node, cmd("CLUSTER").arg("INFO"));
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:4")
        });
        let owner = cluster.id(cluster.owner);
        query::<()>(
            &cluster.nodes[cluster.replica],
            cmd("CLUSTER").arg("REPLICATE").arg(&owner),
        );
        until("the replica", || {
            cluster.nodes[cluster.replica].info_text("role") == "slave"
                && cluster.nodes[cluster.replica].info_text("master_link_status") == "up"
        });
        cluster.until("the replica's name", |node| {
            let nodes: String = query(node, cmd("CLUSTER").arg("NODES"));
            nodes.contains(&format!(" {owner} "))
        });
        cluster
    }

    fn until(&self, what: &str, holds: impl Fn(&Redis) -> bool) {
        for node in &self.nodes {
            until(what, || holds(node));
        }
    }

    /// Where the cluster is: all of its nodes, the owner of the slot last.
    pub(crate) fn server(&self) -> RedisServer {
        let scheme = if self.certificate.is_some() { "rediss" } else { "redis" };
        let mut addresses: Vec<_> = { self.ports.iter() }
            .map(|port| format!("{scheme}://127.0.0.1:{port}").parse().expect("an address"))
            .collect();
        let owner = addresses.remove(self.owner);
        addresses.push(owner);
        RedisServer {
            addresses,
            ca_file: self
                .certificate
                .as_ref()
                .map(|certificate| certificate.path.as_str().into()),
            ..RedisServer::default()
        }
    }

    pub(crate) fn id(&self, node: usize) -> String {
        query(&self.nodes[node], cmd("CLUSTER").arg("MYID"))
    }

    /// Deletes all keys of all masters.
    pub(crate) fn forget_all(&self) {
        for node in &self.nodes[..usize::from(MASTERS)] {
            node.run(&["FLUSHALL"]);
        }
    }

    /// Runs a command with one key at the node that has it.
    pub(crate) fn write(&self, command: &[&str]) {
        let takes = |node: &Redis| !node.ask_any(command).starts_with('-');
        until("the owner of the key", || self.nodes.iter().any(takes));
    }

    /// Waits until a replica has everything that its master has.
    pub(crate) fn replicate(&self, master: usize, replica: usize) {
        until("the replica", || {
            self.nodes[replica].info_text("master_link_status") == "up"
        });
        let wanted = self.nodes[master].info("master_repl_offset");
        until("the replica", || {
            self.nodes[replica].info("slave_repl_offset") >= wanted
        });
    }

    /// Begins to hand the slot over.
    pub(crate) fn open_slot(&self, from: usize, to: usize) {
        for (node, state, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let mut command = cmd("CLUSTER");
            command.arg("SETSLOT").arg(self.slot).arg(state).arg(self.id(other));
            query::<()>(&self.nodes[node], &command);
        }
    }

    /// Hands over keys of the slot that the rule chooses.
    pub(crate) fn move_keys(&self, from: usize, to: usize, is_chosen: impl Fn(&str) -> bool) {
        let mut command = cmd("CLUSTER");
        command.arg("GETKEYSINSLOT").arg(self.slot).arg(1_000_000);
        let mut keys: Vec<String> = query(&self.nodes[from], &command);
        keys.retain(|key| is_chosen(key));
        let mut command = cmd("MIGRATE");
        command
            .arg("127.0.0.1")
            .arg(self.nodes[to].port)
            .arg("")
            .arg(0)
            .arg(5000);
        query::<()>(&self.nodes[from], command.arg("KEYS").arg(keys));
    }

    /// Ends the handing over of the slot.
    pub(crate) fn close_slot(&self, from: usize, to: usize) {
        for node in [to, from] {
            let mut command = cmd("CLUSTER");
            command.arg("SETSLOT").arg(self.slot).arg("NODE").arg(self.id(to));
            query::<()>(&self.nodes[node], &command);
        }
    }
}

/// Asks a node.
pub(crate) fn query<T: FromRedisValue>(node: &Redis, command: &Cmd) -> T {
    let client = redis::Client::open(node.address()).expect("an address");
    let mut connection: Connection = client.get_connection().expect("connected");
    command
        .query(&mut connection)
        .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(&command.get_packed_command())))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
