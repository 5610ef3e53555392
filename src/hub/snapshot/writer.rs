//! The thread that saves the snapshot at intervals and completes it at the end.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, thread};

use super::{Error, LastRecords, Snapshot};
use crate::hub::Hub;
use crate::metrics::{Counter, Gauge, metrics};
use crate::time::Clock;

metrics! {
    /// What the thread counts.
    pub struct SnapshotMetrics, read as
    /// One reading of its counters.
    pub struct SnapshotSample {
        writes: Counter, "tickgate_snapshot_writes_total", "Writes of the snapshot that succeeded.";
        failures: Counter, "tickgate_snapshot_failures_total", "Writes of the snapshot that failed.";
        failing: Gauge, "tickgate_snapshot_failing", "1 while the last write of the snapshot failed, otherwise 0.";
        /// In seconds since 1970-01-01T00:00:00Z.
        written: Gauge, "tickgate_snapshot_written_timestamp_seconds",
            "Unix time of the last write of the snapshot that succeeded; 0: none yet.";
    }
}

impl SnapshotMetrics {
    /// Whether the last write failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing.get() != 0
    }

    fn count(&self, written: &Result<(), Error>, clock: Clock) {
        self.failing.set(i64::from(written.is_err()));
        match written {
            Ok(()) => {
                self.writes.add(1);
                let seconds = clock.now().unix_ms / 1000;
                self.written.set(i64::try_from(seconds).unwrap_or(i64::MAX));
            }
            Err(_) => self.failures.add(1),
        }
    }
}

/// The handle of the thread that saves the snapshot. Dropping it ends the thread without completing the file, as a crash
/// would.
pub struct SnapshotWriter {
    end: Sender<LastRecords>,
    thread: JoinHandle<Result<(), Error>>,
    metrics: Arc<SnapshotMetrics>,
}

impl SnapshotWriter {
    /// Starts the thread, which saves the hub's changes at the interval of the snapshot's settings.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(mut snapshot: Snapshot, hub: Arc<Hub>, clock: Clock) -> io::Result<Self> {
        let (end, ended) = mpsc::channel::<LastRecords>();
        let interval = snapshot.settings.interval;
        let metrics = Arc::<SnapshotMetrics>::default();
        let counts = Arc::clone(&metrics);
        let save = move || {
            loop {
                match ended.recv_timeout(interval) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(last) => {
                        snapshot.keep_last(last);
                        return close(snapshot, &hub, clock, &counts);
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                let written = snapshot.save(&hub, clock.now());
                counts.count(&written, clock);
                if let Err(error) = written {
                    tracing::error!(%error, path = %snapshot.path().display(), "cannot write the snapshot");
                }
            }
        };
        let thread = thread::Builder::new().name("snapshot".to_owned()).spawn(save)?;
        Ok(Self { end, thread, metrics })
    }

    /// What the thread counts.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<SnapshotMetrics> {
        &self.metrics
    }

    /// Saves the last changes and `last`, marks the file as complete, and waits until that is done. To be called when nothing
    /// can be published, and no command and no session can end any more.
    ///
    /// # Errors
    ///
    /// If the file could not be completed.
    pub fn end(self, last: LastRecords) -> Result<(), Error> {
        let _ = self.end.send(last);
        let panicked = |_| Err(Error::damaged("the thread that writes it panicked"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

fn close(snapshot: Snapshot, hub: &Hub, clock: Clock, metrics: &SnapshotMetrics) -> Result<(), Error> {
    let (begun, path) = (Instant::now(), snapshot.path().to_owned());
    let path = path.display();
    let closed = snapshot.close(hub, clock.now());
    metrics.count(&closed, clock);
    match &closed {
        Ok(()) => tracing::info!(%path, took_ms = begun.elapsed().as_millis(), "the snapshot is complete"),
        Err(error) => {
            tracing::error!(%error, %path, "cannot complete the snapshot: the next start begins a new epoch");
        }
    }
    closed
}
