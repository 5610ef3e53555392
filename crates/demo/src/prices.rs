//! Where the stock feeds find their prices: a small Redis of the demo's own, or a real one that it writes to.
//!
//! Invariant: both hold the same under the same keys, so the gateway's feeds differ by an address only.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::store::{Store, Write, request};

/// Between two writes of all prices.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// For one of them, connecting included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// One of the two.
pub enum Prices {
    /// A port of the demo's own.
    Own(std::net::TcpListener, String),
    /// A server.
    Real(String),
}

impl Prices {
    /// The real one, or a free port of loopback.
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

    /// Keeps what `current` says there, once a second, until dropped. Fails only when its port does.
    pub(super) async fn run(self, current: impl Fn() -> Vec<Write>) -> io::Result<Infallible> {
        match self {
            Self::Own(listener, _) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let store = Arc::new(Mutex::new(Store::default()));
                // Before the first answer, so that nobody finds it empty.
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
                    // A client that breaks off is its own affair.
                    let _ = converse(stream, &store).await;
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: that passes.
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

// A server that is away, or comes back empty, has everything again a second later.
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
    // All of it or nothing: no reader sees half a set of prices.
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
