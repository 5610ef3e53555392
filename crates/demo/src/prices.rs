//! The Redis that the stock feeds poll: a small server of the demo's own, or a real Redis that the demo writes to.
//!
//! Invariant: both hold the same values under the same keys, so the gateway's feeds differ only in the URL.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::store::{Store, Write, request};

/// The time between two writes of all prices.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// The time that one write may take, connecting included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The source of the stock prices.
pub enum Prices {
    /// The demo's own server: its listener and its URL.
    Own(std::net::TcpListener, String),
    /// A real Redis at this URL.
    Real(String),
}

impl Prices {
    /// Uses the real Redis at this URL, or opens the demo's own server on a free port of loopback.
    ///
    /// # Errors
    ///
    /// No port can be opened.
    pub fn open(real: Option<String>) -> io::Result<Self> {
        if let Some(url) = real {
            return Ok(Self::Real(url));
        }
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let url = format!("redis://{}", listener.local_addr()?);
        Ok(Self::Own(listener, url))
    }

    /// The URL that feeds poll.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Own(_, url) | Self::Real(url) => url,
        }
    }

    /// Writes what `current` returns once a second, until the future is dropped. Fails only if the open port cannot be used.
    pub(super) async fn run(self, current: impl Fn() -> Vec<Write>) -> io::Result<Infallible> {
        match self {
            Self::Own(listener, _) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let store = Arc::new(Mutex::new(Store::default()));
                // Written before the first request, so that no feed finds the store empty.
                store.lock().apply(current());
                tokio::select! {
                    never = keep(&store, current) => match never {},
                    never = serve(listener, &store) => match never {},
                }
            }
            Self::Real(url) => match write(&url, current).await {},
        }
    }
}

async fn keep(store: &Mutex<Store>, current: impl Fn() -> Vec<Write>) -> Infallible {
    let mut ticks = tokio::time::interval(WRITE_INTERVAL);
    loop {
        ticks.tick().await;
        store.lock().apply(current());
    }
}

async fn serve(listener: tokio::net::TcpListener, store: &Arc<Mutex<Store>>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    // An error here is a client that disconnected.
                    let _ = converse(stream, &store).await;
                });
            }
            Err(error) => {
                // The process probably has no free file descriptor at the moment.
                tracing::warn!(%error, "accepting failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, store: &Mutex<Store>) -> io::Result<()> {
    let (mut bytes, mut answers) = (Vec::new(), Vec::new());
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let mut used = 0;
        while let Some((words, length)) = request(&bytes[used..]).map_err(io::Error::other)? {
            used += length;
            answers.extend(store.lock().answer(&words));
        }
        bytes.drain(..used);
        stream.write_all(&answers).await?;
        answers.clear();
    }
}

// Every write holds all prices, so a server that was away or comes back empty is complete a second later.
async fn write(url: &str, current: impl Fn() -> Vec<Write>) -> Infallible {
    let mut ticks = tokio::time::interval(WRITE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut connection, mut was_failing) = (None, false);
    loop {
        ticks.tick().await;
        let written = tokio::time::timeout(WRITE_TIMEOUT, write_once(url, &mut connection, current())).await;
        let problem = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".to_owned()),
        };
        match &problem {
            Some(problem) if !was_failing => tracing::warn!(address = url, problem, "writing stock prices fails"),
            None if was_failing => tracing::info!(address = url, "stock prices are written again"),
            _ => {}
        }
        was_failing = problem.is_some();
        if was_failing {
            connection = None;
        }
    }
}

async fn write_once(
    url: &str,
    connection: &mut Option<MultiplexedConnection>,
    writes: Vec<Write>,
) -> redis::RedisResult<()> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => redis::Client::open(url)?.get_multiplexed_async_connection().await?,
    };
    // One transaction: no reader sees only some of the new prices.
    let mut pipe = redis::pipe();
    pipe.atomic();
    for write in &writes {
        match write {
            Write::Hash { key, fields } => pipe.del(key).ignore().hset_multiple(key, fields).ignore(),
            Write::List { key, items } => pipe.del(key).ignore().rpush(key, items).ignore(),
        };
    }
    pipe.exec_async(&mut open).await?;
    *connection = Some(open);
    Ok(())
}
