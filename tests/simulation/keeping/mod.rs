//! No event is lost: channels of every class, and clients that come back, on two shards of one hub.
//!
//! Clients subscribe with overlapping patterns, stall, read partially, unsubscribe, hang up and are closed. They come
//! back with the positions they hold, or with a cursor, sometimes with those of another store or with older ones. The hub keeps little,
//! so histories are trimmed and expire. Whole channels are evicted, and the hub forgets their names as well. Sometimes
//! a new hub replaces it, as after a restart. The truth is kept beside all this: what was published to each channel, in
//! order.
//!
//! Checks of every message, per channel and class (`client.rs`): no event arrives twice or out of order, no event of a
//! history is skipped without a report, positions are correct, and `recovered` agrees with the history. At the end,
//! when everything has drained, a client's state equals the server's, or the difference was reported.
//!
//! `TICKGATE_SEEDS` and `TICKGATE_SEED` work as in `main.rs`.

mod client;
mod resume;
mod store;
mod world;

use world::{Summary, World};

/// A planted fault, between the gateway and a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// An event of a history is lost, as if a page began too late.
    SkipsEvent,
    /// An event of a history arrives twice, as if live events began before the end of the last page.
    DoublesEvent,
    /// A record of a merged array is lost.
    LosesRecord,
    /// The last of several values is lost.
    KeepsOldValue,
    /// A channel that was not recovered is reported as recovered.
    ClaimsRecovery,
    /// A position is too new: events before it were never sent.
    MovesPosition,
    /// A level of a merged book is lost.
    LosesLevel,
    /// A deleted record comes back.
    RevivesRecord,
    /// The deletion of a channel is not told.
    HidesDeletion,
    /// A cursor is too new: events before it were never sent.
    MovesCursor,
    /// A cursor hides that last values are owed.
    HidesOwedValues,
    /// A client with a cursor is told that everything is recovered.
    ClaimsAll,
    /// Losses are not reported.
    HidesDropped,
    /// Channels that began and were evicted while the client was away are not reported.
    HidesEvicted,
}

fn run(seed: u64, fault: Fault) -> Result<Summary, String> {
    super::caught(|| World::new(seed, fault).run())
}

#[test]
fn no_event_is_lost_with_many_seeds() {
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
    assert_found(Fault::SkipsEvent, &["a gap"]);
}

#[test]
fn a_duplicate_event_of_a_history_is_found() {
    assert_found(Fault::DoublesEvent, &["arrived again"]);
}

#[test]
fn a_lost_record_is_found() {
    assert_found(Fault::LosesRecord, &["the record"]);
}

#[test]
fn a_stale_value_is_found() {
    assert_found(Fault::KeepsOldValue, &["the value"]);
}

#[test]
fn a_lost_level_is_found() {
    assert_found(Fault::LosesLevel, &["the record"]);
}

#[test]
fn a_deleted_record_that_comes_back_is_found() {
    assert_found(Fault::RevivesRecord, &["was deleted and is held"]);
}

#[test]
fn a_hidden_deletion_is_found() {
    assert_found(Fault::HidesDeletion, &["was deleted", "a gap", "missing"]);
}

#[test]
fn a_false_recovery_is_found() {
    assert_found(Fault::ClaimsRecovery, &["recovered", "a gap"]);
}

#[test]
fn a_position_that_is_too_new_is_found() {
    assert_found(Fault::MovesPosition, &["position"]);
}

#[test]
fn a_cursor_that_is_too_new_is_found() {
    assert_found(Fault::MovesCursor, &["a gap", "are missing"]);
}

#[test]
fn a_cursor_that_hides_what_is_owed_is_found() {
    assert_found(Fault::HidesOwedValues, &["never came"]);
}

#[test]
fn a_false_recovery_by_a_cursor_is_found() {
    assert_found(Fault::ClaimsAll, &["recovered", "a gap", "are missing"]);
}

#[test]
fn an_unreported_loss_is_found() {
    assert_found(Fault::HidesDropped, &["are missing"]);
}

#[test]
fn an_unreported_evicted_channel_is_found() {
    assert_found(Fault::HidesEvicted, &["began and was evicted"]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7, Fault::None), run(7, Fault::None));
}
