//! Ends accept loops between two connections, so that no connection is lost that has been accepted.

use tokio::sync::watch;

/// Which listening sockets are not accepted on any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// None of them.
    #[default]
    No,
    /// Those that were passed to the process: the connections in their queues are for the next process.
    Inherited,
    /// All of them.
    All,
}

/// Ends the accept loops of several listeners.
#[derive(Debug, Default)]
pub struct Gate(watch::Sender<Closed>);

impl Gate {
    /// Ends the loops of these listeners. A gate that is closed stays closed.
    pub fn close(&self, closed: Closed) {
        self.0.send_if_modified(|now| {
            let is_more = closed > *now;
            *now = closed.max(*now);
            is_more
        });
    }

    /// Waits until every loop has ended.
    pub async fn loops_ended(&self) {
        self.0.closed().await;
    }

    /// What one loop listens to, until it ends.
    #[must_use]
    pub fn enter(&self) -> Passage {
        Passage(self.0.subscribe())
    }
}

/// What an accept loop holds while it runs.
#[derive(Debug)]
pub struct Passage(watch::Receiver<Closed>);

impl Passage {
    /// Waits until the loop must end.
    pub(super) async fn closed(&mut self, is_inherited: bool) {
        let ends = if is_inherited { Closed::Inherited } else { Closed::All };
        // An error says that the gate is gone, and with it the gateway. Then the loop's task is aborted.
        if self.0.wait_for(|closed| *closed >= ends).await.is_err() {
            std::future::pending().await
        }
    }
}
