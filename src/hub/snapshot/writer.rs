//! The thread that writes the snapshot at intervals and at the end.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, thread};

use super::Snapshot;
use crate::hub::Hub;
use crate::time::Clock;

/// Writes until it is ended. Dropping it leaves the file open, as a crash would.
pub struct SnapshotWriter {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl SnapshotWriter {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(mut snapshot: Snapshot, hub: Arc<Hub>, clock: Clock) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let interval = snapshot.settings.interval;
        let keep = move || {
            loop {
                match ended.recv_timeout(interval) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) => return close(snapshot, &hub, clock),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if let Err(error) = snapshot.save(&hub, clock.now()) {
                    tracing::error!(%error, path = %snapshot.path().display(), "the snapshot could not be written");
                }
            }
        };
        let thread = thread::Builder::new().name("snapshot".to_owned()).spawn(keep)?;
        Ok(Self { end, thread })
    }

    /// Writes what is left and marks the file as complete. To be called when nothing can be published any more; returns
    /// when it is done.
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
            tracing::error!(%error, %path, "the last snapshot could not be written: the next start begins a new epoch");
        }
    }
}
