//! Nothing is lost: channels of every class, clients that come back, on two shards of one hub.
//!
//! Clients subscribe with overlapping patterns, stall, half-read, leave patterns, break off, are closed, and come back
//! with the positions they hold, sometimes with another store's or with older ones. The hub keeps little, so histories
//! are trimmed, expire, and whole channels are evicted, whose names it forgets as well; now and then it is a new one, as after a restart. Beside it all
//! stands the truth: what was published to each channel, in order.
//!
//! Checked with every message, per channel and class (`client.rs`): nothing twice, nothing out of order, nothing
//! skipped in a history that nobody told of, positions that hold what they say, `recovered` as the history allows. At
//! the end, when everything has drained: a client's state is the server's, or it was told.
//!
//! `TICKGATE_SEEDS` and `TICKGATE_SEED` as for the other half (`main.rs`).

mod client;
mod store;
mod world;

use world::{Summary, World};

/// What is broken on purpose, between the gateway and a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// One event of a history does not come, as if a page began too late.
    SkipsEvent,
    /// An event of a history comes again, as if the live ones began before the end of the last page.
    DoublesEvent,
    /// A record of a merged array does not come.
    LosesRecord,
    /// The last of several values does not come.
    KeepsOldValue,
    /// What was not recovered is said to be.
    ClaimsRecovery,
    /// A position that is too new: what lies before it was never sent.
    MovesPosition,
    /// Losses are not told.
    HidesDropped,
    /// Channels that began and were evicted while the client was away are not told of.
    HidesEvicted,
}

fn run(seed: u64, fault: Fault) -> Result<Summary, String> {
    super::caught(|| World::new(seed, fault).run())
}

#[test]
fn nothing_is_lost_in_many_seeds() {
    let mut sum = Summary::default();
    if super::sweep(&mut sum, |seed| run(seed, Fault::None), Summary::add) {
        sum.assert_everything_happened();
    }
}

fn assert_found(fault: Fault, symptoms: &[&str]) {
    super::assert_found_by(0..60, fault, |seed| run(seed, fault), symptoms);
}

#[test]
fn a_skipped_event_of_a_history_is_found() {
    assert_found(Fault::SkipsEvent, &["a hole"]);
}

#[test]
fn a_doubled_event_of_a_history_is_found() {
    assert_found(Fault::DoublesEvent, &["came again"]);
}

#[test]
fn a_lost_record_is_found() {
    assert_found(Fault::LosesRecord, &["the record"]);
}

#[test]
fn a_value_that_stays_old_is_found() {
    assert_found(Fault::KeepsOldValue, &["the value"]);
}

#[test]
fn a_recovery_that_is_none_is_found() {
    assert_found(Fault::ClaimsRecovery, &["recovered", "a hole"]);
}

#[test]
fn a_position_that_holds_too_much_is_found() {
    assert_found(Fault::MovesPosition, &["position"]);
}

#[test]
fn a_loss_that_is_not_told_of_is_found() {
    assert_found(Fault::HidesDropped, &["are missing"]);
}

#[test]
fn a_channel_that_came_and_went_and_is_not_told_of_is_found() {
    assert_found(Fault::HidesEvicted, &["came and went"]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7, Fault::None), run(7, Fault::None));
}
