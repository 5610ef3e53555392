//! A Redis server whose keys feeds read, or the nodes of a Redis Cluster. The feeds of a server share its connections.
//!
//! The server at the configured addresses is asked first. Of a Redis Cluster this is any node, and it names the one that has
//! the key. No owner of a slot is remembered, so none can be out of date.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, RetryMethod, ServerErrorKind};
use tokio::sync::OnceCell;

use crate::backend::feeds::failure::PollFailure;
use crate::redis::{Found, NODES_MAX, NoConnection, RedisServer};

/// The URL of a node of a Redis Cluster; `None`: the server at the configured addresses.
type Node = Option<Box<str>>;

/// Where a key is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Place {
    node: Node,
    /// Whether the key is just being handed over to the node, which answers only if it is told that the gateway knows it.
    is_handed_over: bool,
}

/// See the module's docs. A connection is made when a poll needs it, and again after it broke.
pub(super) struct Server {
    server: RedisServer,
    // Many polls make one connection together.
    connections: Mutex<HashMap<Node, Arc<OnceCell<Found>>>>,
    attempts: AtomicUsize,
}

impl Server {
    pub(super) fn new(server: RedisServer) -> Self {
        Self {
            server,
            connections: Mutex::default(),
            attempts: AtomicUsize::new(0),
        }
    }

    pub(super) fn forget_connections(&self) {
        self.connections.lock().clear();
    }

    /// Asks for keys. The answers have the order of the keys.
    ///
    /// # Errors
    ///
    /// Why there is no answer for one of the keys.
    pub(super) async fn ask<K, T: FromRedisValue>(
        &self,
        keys: &[K],
        command: impl Fn(&K) -> Cmd,
    ) -> Result<Vec<T>, PollFailure> {
        let mut answers: Vec<Option<T>> = keys.iter().map(|_| None).collect();
        let mut rest = HashMap::from([(Place::default(), (0..keys.len()).collect::<Vec<_>>())]);
        for _ in 0..NODES_MAX {
            let mut elsewhere: HashMap<Place, Vec<usize>> = HashMap::new();
            for (place, indices) in rest {
                let commands = indices.iter().map(|index| command(&keys[*index]));
                let results = self.ask_at(&place, commands).await?;
                for (index, result) in indices.into_iter().zip(results) {
                    match result {
                        Ok(answer) => answers[index] = Some(answer),
                        Err(other) => elsewhere.entry(other).or_default().push(index),
                    }
                }
            }
            if elsewhere.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            rest = elsewhere;
        }
        Err(no_connection(NoConnection::without_owner()))
    }

    /// Sends commands to one place together. The result of each is its answer, or the place to which the node refers.
    async fn ask_at<T: FromRedisValue>(
        &self,
        place: &Place,
        commands: impl Iterator<Item = Cmd>,
    ) -> Result<Vec<Result<T, Place>>, PollFailure> {
        let mut all = redis::pipe();
        all.ignore_errors();
        for command in commands {
            if place.is_handed_over {
                all.cmd("ASKING").ignore();
            }
            all.add_command(command);
        }
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let node = &place.node;
        let connection = Arc::clone(self.connections.lock().entry(node.clone()).or_default());
        let connect = || async {
            match node {
                None => self.server.find(self.attempts.fetch_add(1, Relaxed), None).await,
                Some(url) => self.server.connect_to(url).await,
            }
        };
        let found = connection.get_or_try_init(connect).await.map_err(no_connection)?;
        let results = all.query_async(&mut found.connection.clone()).await;
        let results: Vec<RedisResult<T>> = results.map_err(|error| self.failure(node, &error))?;
        let result = |result: RedisResult<T>| match result {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) => match found.other_node(&error) {
                Some(other) => Ok(Err(Place {
                    node: Some(other.into()),
                    is_handed_over: error.kind() == ErrorKind::Server(ServerErrorKind::Ask),
                })),
                None => Err(self.failure(node, &error)),
            },
        };
        results.into_iter().map(result).collect()
    }

    /// Why a node did not give what it was asked for. If another server may, the next poll makes a new connection.
    fn failure(&self, node: &Node, error: &RedisError) -> PollFailure {
        if !matches!(error.retry_method(), RetryMethod::NoRetry) {
            self.connections.lock().remove(node);
        }
        if error.code().is_some() {
            PollFailure::Refused(error.to_string())
        } else if error.is_io_error() || error.is_unrecoverable_error() {
            PollFailure::Lost(error.to_string())
        } else {
            PollFailure::BadResponse(error.to_string())
        }
    }
}

fn no_connection(error: NoConnection) -> PollFailure {
    match error {
        NoConnection::Refused(_) => PollFailure::Refused(error.to_string()),
        NoConnection::Unreachable(why) => PollFailure::Unreachable(why),
    }
}
