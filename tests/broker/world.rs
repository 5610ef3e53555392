//! Several gateways with one broker, and the brokers that the suite runs with.

use std::cell::RefCell;
use std::rc::Rc;

use tickgate::broker::Link;

use crate::node::Node;
use crate::redis_cluster::Cluster;
use crate::{nats_server, redis_server};

/// Several gateways with one broker.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) server: Option<nats_server::Nats>,
    pub(crate) redis: Option<redis_server::Redis>,
    pub(crate) cluster: Option<Rc<Cluster>>,
}

thread_local! {
    // With which `World::each` runs once, in the place of all brokers.
    static INSTEAD: RefCell<Option<(&'static str, World)>> = const { RefCell::new(None) };
}

impl World {
    pub(crate) fn embedded() -> Self {
        Self {
            nodes: vec![Node::embedded()],
            server: None,
            redis: None,
            cluster: None,
        }
    }

    pub(crate) fn nats(server: nats_server::Nats) -> Self {
        let node = |index: usize| Node::nats(Node::settings(server.url(), &format!("n{index}")));
        let mut nodes: Vec<Node> = (0..3).map(node).collect();
        nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
        Self {
            nodes,
            server: Some(server),
            redis: None,
            cluster: None,
        }
    }

    pub(crate) fn redis(server: redis_server::Redis) -> Self {
        Self {
            nodes: Vec::new(),
            server: None,
            redis: Some(server),
            cluster: None,
        }
        .with_three()
    }

    pub(crate) fn cluster(cluster: Rc<Cluster>) -> Self {
        Self {
            nodes: Vec::new(),
            server: None,
            redis: None,
            cluster: Some(cluster),
        }
        .with_three()
    }

    fn with_three(mut self) -> Self {
        while self.nodes.len() < 3 {
            self.add();
        }
        self
    }

    /// Whether several gateways share the broker.
    pub(crate) fn is_shared(&self) -> bool {
        self.server.is_some() || self.redis.is_some() || self.cluster.is_some()
    }

    /// Every broker that the suite runs with, by name.
    pub(crate) fn each(run: impl Fn(&str, Self)) {
        if let Some((name, world)) = INSTEAD.take() {
            return run(name, world);
        }
        run("embedded", Self::embedded());
        for program in nats_server::servers() {
            let server = nats_server::Nats::start_with(&program);
            run(&program.display().to_string(), Self::nats(server));
        }
        for program in redis_server::servers() {
            let server = redis_server::Redis::start_with(&program, redis_server::Keeps::Nothing, &[]);
            run(&program.display().to_string(), Self::redis(server));
        }
    }

    /// Runs checks that call [`World::each`] over one cluster, since a cluster takes seconds to start.
    pub(crate) fn each_over(cluster: Cluster, checks: impl Iterator<Item = fn()>) {
        let cluster = Rc::new(cluster);
        for check in checks {
            cluster.forget_all();
            Self::cluster(Rc::clone(&cluster)).run("a Redis Cluster", check);
        }
    }

    /// Runs a check that calls [`World::each`] over this broker.
    pub(crate) fn run(self, name: &'static str, check: fn()) {
        INSTEAD.set(Some((name, self)));
        check();
        assert!(INSTEAD.take().is_none(), "the check runs with every broker");
    }

    /// Adds a gateway that knows nothing, as after a restart. The embedded broker has none.
    pub(crate) fn add(&mut self) -> bool {
        let name = format!("n{}", self.nodes.len());
        let mut node = match (&self.server, &self.redis, &self.cluster) {
            (Some(server), ..) => Node::nats(Node::settings(server.url(), &name)),
            (_, Some(server), _) => Node::redis(Node::redis_settings(&server.address(), &name)),
            (_, _, Some(cluster)) => Node::redis(Node::redis_settings_at(cluster.server(), &name)),
            (None, None, None) => return false,
        };
        node.wait_for(Link::Up);
        self.nodes.push(node);
        true
    }
}
