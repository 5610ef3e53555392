//! `[state]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::check::{Because, DAY, at_least, at_most, ensure, no_longer_than};
use crate::config::declare::section;
use crate::config::value::milliseconds;
use crate::hub::{Quota, STRIPES, StateSettings, snapshot};
use tickgate_protocol::channel::TenantNames;

/// The smallest bound that holds a few events of the longest kind.
pub(super) const BYTES_MIN: u64 = 1 << 20;

/// The largest bound, 1 TiB.
pub(super) const BYTES_MAX: u64 = 1 << 40;
/// The most channels and names.
pub(super) const NAMES_MAX: u64 = 100_000_000;

/// Each stripe holds at least one evicted name.
const _: () = assert!(
    STRIPES == 16,
    "the documentation and the message of evicted_names say 16"
);

section! {
    /// `[state]`.
    struct State {
        /// Channels of which something is kept, 1 to 100,000,000. Channels of the plain class (`system.log`, and names that no class
        /// matches) keep nothing and do not count.
        value channels: u64 = 100_000,
            check |channels| at_least(*channels, 1)
                .because("nothing could be kept")
                .and(at_most(*channels, NAMES_MAX).because("each channel is kept in memory"));
        /// Bytes of everything that is kept of channels, including the encoded frames of events, as an estimate. 1 MiB to 1 TiB.
        /// Ids of events have a bound of their own: at most 1,000,000, of 30 to 60 bytes each.
        value bytes: u64 = 256 << 20,
            check |bytes| at_least(*bytes, BYTES_MIN)
                .because("1 MiB holds a few events of the longest kind")
                .and(at_most(*bytes, BYTES_MAX).because("1 TiB is more memory than a machine has"));
        /// Channels with state that one publisher may have begun, at most 100,000,000. Above it, the publisher loses its own
        /// channels, the least used first, before any other channel is evicted. That matters only while `state.channels` or
        /// `state.bytes` is exceeded: while there is room, a publisher may have it all. A publisher is a user, or all anonymous
        /// clients together; the admin key, the role `admin` and feeds have no quota. Not set: a tenth of `state.channels`. 0: no
        /// quota.
        value channels_per_publisher: Option<u64> = None,
            check |channels| at_most(channels.unwrap_or(0), NAMES_MAX).because("each channel is kept in memory");
        /// The same in bytes, at most 1 TiB. Not set: a tenth of `state.bytes`. 0: no quota.
        value bytes_per_publisher: Option<u64> = None,
            check |bytes| at_most(bytes.unwrap_or(0), BYTES_MAX).because("1 TiB is more memory than a machine has");
        /// How many names of evicted channels with a history are remembered, 16 to 100,000,000. A client that comes back after its
        /// channel's name was forgotten is told only `"positions_complete":false`. A name of 20 bytes costs 195 bytes (measured,
        /// `cargo test --test memory -- --nocapture`) and a longer one accordingly more, in addition to `state.bytes`. The names
        /// are spread over 16 parts by the first two segments of the name; each part remembers a sixteenth of them.
        value evicted_names: u64 = 64 * 1024,
            check |names| at_least(*names, STRIPES as u64)
                .because("each of the 16 parts of the state keeps one")
                .and(at_most(*names, NAMES_MAX).because("each name takes 195 bytes of memory or more"));
        /// The absolute path of the file that the state is written to, at intervals and at the end of a drain. With it, epoch,
        /// offsets, histories, last values and ids survive a restart. Its folder must exist, and the gateway's user must be
        /// allowed to write there.
        value snapshot: Option<PathBuf> = None,
            check is_in_a_folder;
        /// The time between two writes of the file, 1 s to 1 d. Only channels that changed are written.
        value snapshot_interval: Duration = Duration::from_secs(30),
            check |time| at_least_a_second(time)
                .because("each time waits for the disk")
                .and(no_longer_than(time, DAY).because("a crash loses what is newer"));
        /// How long the `id` of a published event is remembered, 1 s to 30 d. An id is forgotten earlier if 500,000 later ids were
        /// accepted, and may be remembered twice as long.
        value dedup_window: Duration = Duration::from_secs(5 * 60),
            check |time| at_least_a_second(time)
                .because("a publisher that tries again would be too late")
                .and(no_longer_than(time, 30 * DAY).because("every id is kept in memory"));
    }
}

fn is_in_a_folder(path: &Option<PathBuf>) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    ensure(path.is_absolute(), "must be an absolute path")?;
    ensure(!path.is_dir(), "is a folder: name a file in it")?;
    let folder = path.parent().unwrap_or(path).display();
    ensure(
        path.parent().is_some_and(Path::is_dir),
        format_args!(
            "the folder {folder} does not exist: create it for the user that runs the gateway (with systemd, \
             StateDirectory=tickgate makes /var/lib/tickgate)"
        ),
    )
}

fn at_least_a_second(duration: &Duration) -> Result<(), String> {
    ensure(*duration >= Duration::from_secs(1), "must be at least 1s")
}

impl State {
    /// The bounds of the hub's state.
    pub(in crate::config) fn hub(&self) -> StateSettings {
        let bound = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        StateSettings {
            channels: bound(self.channels),
            bytes: bound(self.bytes),
            per_publisher: Quota {
                channels: bound(self.channels_per_publisher.unwrap_or(self.channels.div_ceil(10))),
                bytes: bound(self.bytes_per_publisher.unwrap_or(self.bytes / 10)),
            },
            tombstones: bound(self.evicted_names),
            dedup_window_ms: milliseconds(self.dedup_window),
        }
    }

    /// The file that the state is written to, if there is one.
    pub(in crate::config) fn snapshot(&self) -> Option<snapshot::Settings> {
        Some(snapshot::Settings {
            path: self.snapshot.clone()?,
            interval: self.snapshot_interval,
            dedup_window_ms: milliseconds(self.dedup_window),
            // The gateway fills them in.
            tenants: TenantNames::default(),
        })
    }
}
