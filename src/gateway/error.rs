//! Why a gateway did not start, or did not end well.

use std::io;
use std::path::PathBuf;

use crate::hub::snapshot;
use crate::ingress::SelectionError;
use crate::ingress::http::ListenAddress;

/// Why a gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {source}{remedy}", remedy = listen_remedy(source, key))]
    Listen {
        /// The key of the configuration that names the address.
        key: &'static str,
        /// The address of the listener.
        address: ListenAddress,
        /// The cause.
        source: io::Error,
    },
    /// A thread or a runtime could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What could not be started.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The snapshot cannot be used.
    #[error("cannot use the snapshot {path} (state.snapshot): {source}{remedy}", path = path.display(),
        remedy = snapshot_remedy(source))]
    Snapshot {
        /// The snapshot's file.
        path: PathBuf,
        /// The cause.
        source: snapshot::Error,
    },
    /// The broker cannot be used.
    #[error("cannot use the broker ([broker]): {0}")]
    Broker(String),
    /// The gateway drained, but its state could not be written at the end.
    #[error("the snapshot {path} (state.snapshot) could not be completed: {source}; the state since its last write is lost",
        path = path.display())]
    SnapshotIncomplete {
        /// The snapshot's file.
        path: PathBuf,
        /// The cause.
        source: snapshot::Error,
    },
    /// The listening sockets could not be kept for the next program.
    #[error("cannot restart in place: {source}")]
    HandOver {
        /// The cause.
        source: io::Error,
    },
    /// Endpoints and listeners do not go together.
    #[error(transparent)]
    Endpoint(#[from] SelectionError),
    /// The node's name is not a channel segment.
    #[error("the node's name {0:?} is not a valid channel segment")]
    Node(Box<str>),
    /// A task or thread of the gateway panicked.
    #[error("{0} panicked")]
    Panicked(&'static str),
}

/// What to do when a listener could not be opened, as the end of a message.
fn listen_remedy(error: &io::Error, key: &str) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: end it, or choose another address with",
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has the address: choose another one with",
        io::ErrorKind::PermissionDenied => {
            "this user may not use the port (below 1024) or the folder of the socket: choose another address with"
        }
        io::ErrorKind::NotFound => "the folder of the socket does not exist: create it, or choose another address with",
        _ => return String::new(),
    };
    format!("; {remedy} {key}")
}

/// What to do when a snapshot cannot be used, as the end of a message.
fn snapshot_remedy(error: &snapshot::Error) -> &'static str {
    if error.is_forbidden() {
        "; the user that runs the gateway must be allowed to write to the file and its folder (with systemd, \
         StateDirectory=)"
    } else if error.is_damage() {
        "; the file is left as it is: `tickgate snapshot repair` keeps what can be read of it, `tickgate snapshot drop` \
         sets it aside, so that the gateway begins empty"
    } else if matches!(error, snapshot::Error::InUse) {
        "; end that process, or name another file"
    } else if matches!(error, snapshot::Error::Layout { .. }) {
        "; run the version that wrote it, or set it aside with `tickgate snapshot drop`"
    } else {
        ""
    }
}
