//! How gateways reach Redis: with TLS, also in a Redis Cluster, as an ACL user, by a Sentinel, and with the files of
//! `deploy/scaling`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use tickgate::auth::Secret;
use tickgate::broker::{Claimed, Link, SharedSettings, redis};
use tickgate::config::{Config, Environment};
use tickgate::redis::RedisServer;

use crate::node::{Node, event, until};
use crate::process::free_port;
use crate::redis_cluster::{Cluster, query};
use crate::redis_server::{Certificate, Keeps, Redis};
use crate::world::World;

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/scaling").join(name);
    std::fs::read_to_string(path).expect("a file of deploy/scaling")
}

/// The lines of a configuration of Redis as arguments. The test chooses address and port.
fn arguments(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut arguments = Vec::new();
    for line in lines {
        let (key, value) = line.split_once(' ').expect("a key and its value");
        if !["bind", "port"].contains(&key) {
            arguments.push(format!("--{key}"));
            arguments.extend(value.split(' ').map(str::to_owned));
        }
    }
    arguments
}

#[test]
fn the_files_of_the_deployment_over_redis_work_together() {
    let arguments = arguments(&deployed("redis.conf").replace("CHANGE-ME", "hidden"));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Redis::start_with(Path::new("redis-server"), Keeps::Nothing, &arguments);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let long = "0123456789abcdef0123456789abcdef";
    let text = deployed("gateway-redis.toml")
        .replace("redis-1:6379", &format!("127.0.0.1:{}", server.port))
        .replace("/etc/tickgate/secrets/redis-password", &secret("password", "hidden"))
        .replace("/etc/tickgate/secrets/jwt-secret", &secret("jwt", long))
        .replace("/etc/tickgate/secrets/admin-key", &secret("admin", &long.repeat(2)));
    let file = secret("tickgate.toml", &text);
    let config = Config::load(Some(Path::new(&file)), &Environment::of([]));
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let Some(SharedSettings::Redis(settings)) = config.gateway(1000).shared else {
        panic!("the gateway shares a Redis server");
    };
    let mut node = Node::redis(settings.clone());
    node.wait_for(Link::Up);
    node.publish_one(event("kept.a", 1));
    assert_eq!(node.last("kept.a").as_deref(), Some("1"));
    assert!(matches!(node.claim("key", "text"), Ok(Claimed::Now(_))));
    let other = redis::Settings {
        prefix: "another".into(),
        ..settings.clone()
    };
    let mut other = Node::redis(other);
    assert_eq!(
        other.broker.link(),
        Link::Down,
        "the user may use the keys of the gateways only"
    );
    let without = redis::Settings {
        server: RedisServer {
            addresses: settings.server.addresses.clone(),
            ..RedisServer::default()
        },
        ..settings
    };
    assert_eq!(Node::redis(without).broker.link(), Link::Down, "there is no other user");
    other.take_messages();
}

/// A server that speaks TLS on a port of its own.
pub(crate) struct Encrypted {
    pub(crate) server: Redis,
    port: u16,
    certificate: Certificate,
}

impl Encrypted {
    /// Starts one with an ACL user `gateway`, whose password is `hidden`.
    pub(crate) fn start(rules: &[&str]) -> Self {
        let (port, certificate) = (free_port(), Certificate::make());
        let encrypted = certificate.arguments(&port.to_string());
        let mut arguments: Vec<&str> = encrypted.iter().map(String::as_str).collect();
        arguments.extend(["--user", "gateway", "on", ">hidden"]);
        arguments.extend(rules);
        let server = Redis::start_with(Path::new("redis-server"), Keeps::Nothing, &arguments);
        Self {
            server,
            port,
            certificate,
        }
    }

    /// The server as the ACL user with this password, by TLS.
    pub(crate) fn access(&self, password: &str) -> RedisServer {
        let address = format!("rediss://127.0.0.1:{}", self.port);
        RedisServer {
            addresses: vec![address.parse().expect("an address")],
            user: Some("gateway".into()),
            password: Some(Secret::new(password.as_bytes())),
            ca_file: Some(self.certificate.path.as_str().into()),
        }
    }

    /// The same without the certificate, which no authority of the system has signed.
    pub(crate) fn untrusted(&self) -> RedisServer {
        RedisServer {
            ca_file: None,
            ..self.access("hidden")
        }
    }
}

#[test]
fn a_gateway_speaks_tls_as_an_acl_user() {
    let encrypted = Encrypted::start(&["~{suite.one}:*", "+@all"]);
    let start = |server: RedisServer| Node::redis(Node::redis_settings_at(server, "one"));
    let mut node = start(encrypted.access("hidden"));
    node.wait_for(Link::Up);
    node.publish_one(event("kept.a", 1));
    let (wrong, untrusted) = (start(encrypted.access("wrong")), start(encrypted.untrusted()));
    assert_eq!((wrong.broker.link(), untrusted.broker.link()), (Link::Down, Link::Down));
}

#[test]
fn gateways_speak_tls_with_every_node_of_a_redis_cluster() {
    let cluster = Rc::new(Cluster::start_encrypted(Path::new("redis-server"), "{suite.one}"));
    let mut world = World::cluster(Rc::clone(&cluster));
    let before = world.nodes[0].publish_one(event("kept.a", 1));
    cluster.replicate(cluster.owner, cluster.replica);
    query::<()>(&cluster.nodes[cluster.replica], ::redis::cmd("CLUSTER").arg("FAILOVER"));
    for node in &mut world.nodes {
        let broker = node.redis.clone().expect("Redis");
        until("the new owner", || broker.sample().servers_changed == 1);
        node.wait_for(Link::Up);
    }
    world.nodes[1].publish_one(event("kept.a", 2));
    for node in &mut world.nodes {
        until("the event", || node.last("kept.a").as_deref() == Some("2"));
        let recovered = node.recover("kept.a", node.hub.epoch(), before.offset.expect("a history"));
        assert_eq!((recovered, node.resyncs), (Some(vec!["2".to_owned()]), 0));
    }
}

/// A Sentinel that watches one master.
pub(crate) struct Sentinel {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Sentinel {
    pub(crate) fn start(master: u16) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (file, port) = (directory.path().join("sentinel.conf"), free_port());
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor events 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds events 500\nsentinel failover-timeout events 3000\n",
            directory.path().display()
        );
        std::fs::write(&file, text).expect("written");
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self {
            process,
            port,
            _directory: directory,
        }
    }
}

impl Sentinel {
    pub(crate) fn url(&self) -> String {
        format!("sentinel://127.0.0.1:{}/events", self.port)
    }

    /// Whether it has found a replica of the master.
    pub(crate) fn knows(&self, replica: &Redis) -> bool {
        let client = ::redis::Client::open(("127.0.0.1", self.port)).expect("an address");
        let mut connection = client.get_connection().expect("connected");
        let mut command = ::redis::cmd("SENTINEL");
        let replicas: ::redis::Value = command
            .arg("REPLICAS")
            .arg("events")
            .query(&mut connection)
            .expect("a list");
        format!("{replicas:?}").contains(&replica.port.to_string())
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_sentinel_leads_gateways_to_the_new_master() {
    let program = Path::new("redis-server");
    let master = Redis::start_with(program, Keeps::Nothing, &["--repl-diskless-sync-delay", "0"]);
    let of = format!("127.0.0.1 {}", master.port);
    let replica = Redis::start_with(program, Keeps::Nothing, &["--replicaof", &of]);
    until("the replica", || replica.info_text("master_link_status") == "up");
    let sentinel = Sentinel::start(master.port);
    let mut node = Node::redis(Node::redis_settings(&sentinel.url(), "one"));
    node.wait_for(Link::Up);
    let before = node.publish_one(event("kept.a", 1));
    // The Sentinel has found the replica, and the replica has the event.
    until("the replica", || sentinel.knows(&replica));
    let offset = master.info("master_repl_offset");
    until("the event", || replica.info("slave_repl_offset") >= offset);
    drop(master);
    node.wait_for(Link::Down);
    node.wait_for(Link::Up);
    assert_eq!(replica.info_text("role"), "master");
    let changes = node.redis.as_ref().expect("Redis").sample().servers_changed;
    assert_eq!(changes, 1);
    let after = node.publish_one(event("kept.a", 2));
    assert_eq!(after.epoch, before.epoch);
    let recovered = node.recover("kept.a", node.hub.epoch(), before.offset.expect("a history"));
    assert_eq!((recovered, node.resyncs), (Some(vec!["2".to_owned()]), 0));
}
