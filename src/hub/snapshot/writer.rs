//! The thread that saves the snapshot at intervals and completes it at the end.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, thread};

use super::Snapshot;
use crate::hub::Hub;
use crate::time::Clock;

/// The handle of the thread that saves the snapshot. Dropping it ends the thread without completing the file, as a crash
/// would.
pub struct SnapshotWriter {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl SnapshotWriter {
    /// Starts the thread, which saves the hub's changes at the interval of the snapshot's settings.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(mut snapshot: Snapshot, hub: Arc<Hub>, clock: Clock) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let interval = snapshot.settings.interval;
        let save = move || {
            loop {
                match ended.recv_timeout(interval) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) => return close(snapshot, &hub, clock),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if let Err(error) = snapshot.save(&hub, clock.now()) {
                    tracing::error!(%error, path = %snapshot.path().display(), "cannot write the snapshot");
                }
            }
        };
        let thread = thread::Builder::new().name("snapshot".to_owned()).spawn(save)?;
        Ok(Self { end, thread })
    }

    /// Saves the last changes, marks the file as complete, and waits until that is done. To be called when nothing can be
    /// published any more.
    pub fn end(self) {
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

fn close(snapshot: Snapshot, hub: &Hub, clock: Clock) {
    let (begun, path) = (Instant::now(), snapshot.path().to_owned());
    let path = path.display();
    match snapshot.close(hub, clock.now()) {
        Ok(()) => tracing::info!(%path, took_ms = begun.elapsed().as_millis(), "the snapshot is complete"),
        Err(error) => {
            tracing::error!(%error, %path, "cannot complete the snapshot: the next start begins a new epoch");
        }
    }
}
