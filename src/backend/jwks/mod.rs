//! Keeps the keys of JSON Web Key Sets: reads them from files and URLs, again by age, and when a token names an unknown key.
//!
//! Invariant: a set that cannot be read, or from which no key can be used, does not replace the keys of the last good one.
//! A set is read at most once in [`ATTEMPT_INTERVAL`], whatever tokens clients send.
//!
//! One task for each set, on the main threads. It puts the keys into a [`KeySource`], which verification reads.

mod client;
mod metrics;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::auth::verifier::Verifier;
use crate::auth::{Algorithm, JWKS_BYTES_MAX, Jwks, KeySource};
use crate::time::unix_ms;

pub(in crate::backend) use client::Client;
pub use client::JwksUrl;
use metrics::JwksMetrics;
pub use metrics::{JwksCounts, JwksSample};

/// The shortest time between two attempts to read a set.
pub const ATTEMPT_INTERVAL: Duration = Duration::from_secs(10);

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a start waits for the sets of URLs. A gateway whose sets do not come starts without them.
const FIRST_ATTEMPT: Duration = Duration::from_secs(3);

/// Where a set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url(JwksUrl),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// One set.
#[derive(Clone, Debug)]
pub struct SetSettings {
    /// Where it is.
    pub location: Location,
    /// The only algorithm that is used, if one is given.
    pub algorithm: Option<Algorithm>,
    /// After how long it is read again.
    pub refresh: Duration,
    /// Where its keys go.
    pub keys: Arc<KeySource>,
}

impl SetSettings {
    /// Whether the keys of the other set are those of this one.
    fn is_same(&self, other: &Self) -> bool {
        self.location == other.location && self.algorithm == other.algorithm
    }
}

/// Keeps the keys of all sets.
pub struct KeySets {
    verifier: Arc<Verifier>,
    runtime: Handle,
    sets: Mutex<Sets>,
    interval: Duration,
}

#[derive(Default)]
struct Sets {
    kept: Vec<Kept>,
    // It is built with the first URL, because it reads the certificates of the system.
    client: Option<Client>,
}

/// A set, and the task that keeps its keys.
struct Kept {
    settings: SetSettings,
    metrics: Arc<JwksMetrics>,
    // Whether the first attempt has ended.
    tried: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeySets {
    /// Starts to keep these sets: their keys go to the verifier.
    #[must_use]
    pub fn start(sets: Vec<SetSettings>, verifier: Arc<Verifier>, runtime: Handle) -> Self {
        Self::with_interval(sets, verifier, runtime, ATTEMPT_INTERVAL)
    }

    fn with_interval(sets: Vec<SetSettings>, verifier: Arc<Verifier>, runtime: Handle, interval: Duration) -> Self {
        let keeper = Self {
            verifier,
            runtime,
            sets: Mutex::default(),
            interval,
        };
        keeper.replace(sets);
        keeper
    }

    /// Keeps other sets from now on, and reads all of them soon. A set that was kept before begins with the keys that it had.
    pub fn replace(&self, wanted: Vec<SetSettings>) {
        let mut sets = self.sets.lock();
        let before = std::mem::take(&mut sets.kept);
        for settings in wanted {
            if let Some(kept) = before.iter().find(|kept| kept.settings.is_same(&settings)) {
                settings.keys.adopt(&kept.settings.keys);
            }
            let kept = self.keep(settings, &mut sets.client);
            sets.kept.push(kept);
        }
    }

    fn keep(&self, settings: SetSettings, client: &mut Option<Client>) -> Kept {
        let metrics = Arc::<JwksMetrics>::default();
        let (tried, has_tried) = watch::channel(false);
        let keeper = Keeper {
            client: match settings.location {
                Location::Url(_) => Some(client.get_or_insert_with(Client::of_system).clone()),
                Location::File(_) => None,
            },
            settings: settings.clone(),
            verifier: Arc::clone(&self.verifier),
            metrics: Arc::clone(&metrics),
            interval: self.interval,
            last: Bytes::new(),
            is_failing: false,
        };
        Kept {
            settings,
            metrics,
            tried: has_tried,
            task: self.runtime.spawn(keeper.run(tried)).abort_handle(),
        }
    }

    /// Waits until every set has been tried once, for at most three seconds. It blocks, and may be called within another
    /// runtime.
    pub fn wait_for_first(&self) {
        let tried: Vec<_> = self.sets.lock().kept.iter().map(|kept| kept.tried.clone()).collect();
        if tried.is_empty() {
            return;
        }
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        self.runtime.spawn(async move {
            let all = async {
                for mut tried in tried {
                    let _ = tried.wait_for(|tried| *tried).await;
                }
            };
            let _ = timeout(FIRST_ATTEMPT, all).await;
            drop(ended);
        });
        // The channel closes when the task ends.
        let _ = wait.recv();
    }

    /// Reads what was counted of each set, in the order of the configuration.
    #[must_use]
    pub fn read(&self) -> Vec<JwksSample> {
        let sets = self.sets.lock();
        let sample = |kept: &Kept| JwksSample::new(kept.settings.location.to_string(), &kept.metrics);
        sets.kept.iter().map(sample).collect()
    }
}

/// Keeps the keys of one set.
struct Keeper {
    settings: SetSettings,
    client: Option<Client>,
    verifier: Arc<Verifier>,
    metrics: Arc<JwksMetrics>,
    interval: Duration,
    // The text that was read last and is in use.
    last: Bytes,
    is_failing: bool,
}

impl Keeper {
    async fn run(mut self, tried: watch::Sender<bool>) {
        let wanted = Arc::new(Notify::new());
        let notify = Arc::clone(&wanted);
        self.settings.keys.on_wanted(move || notify.notify_one());
        let mut pause = self.interval;
        loop {
            let start = Instant::now();
            let is_good = self.attempt().await;
            tried.send_replace(true);
            // After a failure it is tried sooner, each time after a longer pause.
            pause = if is_good {
                self.interval
            } else {
                (pause * 2).min(self.settings.refresh)
            };
            let due = if is_good { self.settings.refresh } else { pause };
            tokio::select! {
                () = tokio::time::sleep_until(start + due.max(self.interval)) => {}
                () = wanted.notified() => tokio::time::sleep_until(start + self.interval).await,
            }
        }
    }

    /// Reads the set once; returns whether its keys can be used.
    async fn attempt(&mut self) -> bool {
        self.metrics.attempts.add(1);
        let read = match timeout(ATTEMPT_TIMEOUT, self.read()).await {
            Ok(read) => read.and_then(|text| self.take(text)),
            Err(_) => Err(format!("it did not come within {} s", ATTEMPT_TIMEOUT.as_secs())),
        };
        let (set, is_good) = (&self.settings.location, read.is_ok());
        match read {
            Ok(()) if self.is_failing => tracing::info!(%set, "the key set can be read again"),
            Ok(()) => {}
            Err(error) => {
                self.metrics.failures.add(1);
                if self.is_failing {
                    tracing::debug!(%set, %error, "the key set cannot be read");
                } else if self.settings.keys.keys().is_empty() {
                    tracing::error!(%set, %error, "the key set cannot be read: tokens that need it are refused until it can");
                } else {
                    tracing::warn!(%set, %error, "the key set cannot be read: its last keys stay in use");
                }
            }
        }
        self.is_failing = !is_good;
        self.metrics.failing.set(self.is_failing.into());
        is_good
    }

    async fn read(&self) -> Result<Bytes, String> {
        match (&self.settings.location, &self.client) {
            (Location::Url(url), Some(client)) => client.get(url, JWKS_BYTES_MAX).await,
            (Location::Url(_), None) => Err("there is no client".to_owned()),
            (Location::File(path), _) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                let read = read.map_err(|error| error.to_string())?;
                read.map(Bytes::from).map_err(|error| error.to_string())
            }
        }
    }

    /// Gives the keys of a text to the verifier, if they are new.
    fn take(&mut self, text: Bytes) -> Result<(), String> {
        if text != self.last {
            let Jwks { keys, left_out } =
                Jwks::parse(&text, self.settings.algorithm).map_err(|error| error.to_string())?;
            let count = keys.len();
            tracing::info!(set = %self.settings.location, keys = count, left_out, "took over the keys of a key set");
            self.metrics.keys.set(i64::try_from(count).unwrap_or(i64::MAX));
            self.settings.keys.set(keys);
            self.verifier.forget();
            self.last = text;
        }
        self.settings.keys.note_read(self.interval);
        let seconds = unix_ms() / 1000;
        self.metrics.read.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        Ok(())
    }
}
