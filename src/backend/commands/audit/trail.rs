//! Room in the audit trail, if the trail must be complete.
//!
//! Invariant: at most as many lines are reserved or not yet written as the writer's queue takes. So a line with a
//! reservation always finds a place, and writing it never waits. Only tasks of commands wait for a reservation.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// Commands that wait for room at one time, before they are carried out. One more is refused at once.
const COMMANDS_MAX: usize = 1024;
/// Refused commands whose lines wait for room at one time. Further lines are counted as lost.
const REFUSALS_MAX: usize = 8192;

/// The room for lines that are not written yet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditRoom {
    free: Arc<Semaphore>,
    lines_max: u32,
}

impl AuditRoom {
    /// Room for `lines_max` lines.
    #[must_use]
    pub fn new(lines_max: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(lines_max as usize)),
            lines_max,
        }
    }

    /// Gives back the room of one line. To be called by the writer, once the line is written.
    pub fn written(&self) {
        self.free.add_permits(1);
    }

    /// Waits until every line is written, for at most `limit`. Returns how many are not. Needs a tokio runtime with a timer.
    pub async fn flush(&self, limit: Duration) -> usize {
        let _ = timeout(limit, self.free.acquire_many(self.lines_max)).await;
        (self.lines_max as usize).saturating_sub(self.free.available_permits())
    }

    fn try_reserve(&self) -> Option<Reservation> {
        self.free.try_acquire().ok()?.forget();
        Some(Reservation(self.clone()))
    }

    async fn reserve(&self) -> Reservation {
        // The semaphore is never closed.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        Reservation(self.clone())
    }
}

/// Room for one line. Dropping it gives the room back.
#[derive(Debug)]
pub(in crate::backend::commands) struct Reservation(AuditRoom);

impl Reservation {
    /// The line takes the room. The writer gives it back.
    pub(super) fn use_up(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.written();
    }
}

/// There is no room, so the command must not be carried out.
#[derive(Debug)]
pub(in crate::backend::commands) struct NoRoom;

/// The room and those who wait for it.
pub(super) struct Trail {
    room: AuditRoom,
    // One permit for each command and each line that may wait.
    commands: Semaphore,
    refusals: Arc<Semaphore>,
}

impl Trail {
    pub(super) fn new(room: AuditRoom) -> Self {
        Self {
            room,
            commands: Semaphore::new(COMMANDS_MAX),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        }
    }

    /// Room for the line of a command that is going to be carried out. Waits for it until `deadline`.
    pub(super) async fn reserve(&self, deadline: Instant) -> Result<Reservation, NoRoom> {
        if let Some(reservation) = self.room.try_reserve() {
            return Ok(reservation);
        }
        let _waits = self.commands.try_acquire().map_err(|_| NoRoom)?;
        timeout_at(deadline, self.room.reserve()).await.map_err(|_| NoRoom)
    }

    /// Room that is there at present.
    pub(super) fn try_reserve(&self) -> Option<Reservation> {
        self.room.try_reserve()
    }

    /// A future that waits for room for the line of a command that was refused. `None`: too many wait already.
    pub(super) fn wait(&self) -> Option<impl Future<Output = (Reservation, OwnedSemaphorePermit)> + Send + 'static> {
        let waits = Arc::clone(&self.refusals).try_acquire_owned().ok()?;
        let room = self.room.clone();
        Some(async move { (room.reserve().await, waits) })
    }

    /// How many commands and lines wait for room.
    pub(super) fn waiting(&self) -> usize {
        (COMMANDS_MAX - self.commands.available_permits()) + (REFUSALS_MAX - self.refusals.available_permits())
    }
}
