//! Notices, and the place of the hub in the log.
//!
//! Invariant: when a gateway has attached, the newest notice of the log names the broker that it is connected to. So
//! whatever the broker has lost before, no version is given twice. And the hub holds exactly what the log contains up to
//! the position, or begins anew.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::read_back::ReadBack;
use super::{Place, Replica};
use crate::broker::ClassTable;
use crate::broker::link::{End, SILENCE_MAX};
use crate::broker::message::Problem;
use crate::broker::terms::{FORMAT, Notice, Table};
use crate::hub::{Epoch, LOG_STEP};

/// Where a log begins and ends.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Extent {
    /// Everything that the log was to keep from this number on is in it.
    pub(in crate::broker) first: u64,
    /// The number of its newest message.
    pub(in crate::broker) last: u64,
}

/// The newest notice of a log.
#[derive(Clone, Debug)]
pub(in crate::broker) struct Newest {
    /// Its number.
    pub(in crate::broker) sequence: u64,
    pub(in crate::broker) notice: Notice,
    /// The table that it gives.
    pub(in crate::broker) table: Table,
}

impl Newest {
    /// Reads a notice that the broker stored under a number. `None`: it is not valid there.
    pub(in crate::broker) fn of(sequence: u64, stored_ms: u64, payload: &[u8]) -> Option<Self> {
        let notice = Notice::parse(payload)?;
        let table = Table::of(&notice, sequence, stored_ms)?;
        Some(Self {
            sequence,
            notice,
            table,
        })
    }
}

impl Replica {
    /// The notice of this second, and the number of the newest one that this gateway knows.
    ///
    /// # Errors
    ///
    /// When no notice comes back any more.
    pub(in crate::broker) fn next_notice(&self) -> Result<(Notice, u64), End> {
        let position = self.position.lock();
        let Some(table) = position.table.clone() else {
            return Err(End::Failed("the gateway has no place in the log".to_owned()));
        };
        if self.is_up() && position.heard.is_some_and(|heard| heard.elapsed() > SILENCE_MAX) {
            return Err(End::Failed("nothing comes from the log".to_owned()));
        }
        let notice = Notice {
            incarnation: position.incarnation.clone(),
            epoch: table.epoch,
            terms: table.terms,
            ..self.empty_notice()
        };
        Ok((notice, position.notice))
    }

    fn empty_notice(&self) -> Notice {
        Notice {
            v: FORMAT,
            node: self.membership.node.to_string(),
            classes: self.membership.classes.hash,
            incarnation: String::new(),
            epoch: 0,
            terms: Vec::new(),
            opens: None,
            above: 0,
        }
    }

    /// Whether the gateway that wrote a notice has other classes of channels.
    pub(in crate::broker) fn differs(&self, notice: &Notice) -> bool {
        notice.classes != self.membership.classes.hash
    }

    /// What is said if another gateway with other classes is there. `theirs` is what was stored of the classes.
    pub(in crate::broker) fn other_classes(&self, notice: &Notice, theirs: Option<&[u8]>) -> End {
        let theirs = theirs.and_then(|table| serde_json::from_slice::<ClassTable>(table).ok());
        let difference = match theirs.filter(|table| table.hash == notice.classes) {
            Some(theirs) => self.membership.classes.difference(&theirs),
            None => "compare the [[channel]] and [[feed]] entries".to_owned(),
        };
        End::Unfit(format!(
            "the classes of channels differ from those of the gateway {:?}: {difference}",
            notice.node
        ))
    }

    /// The notice of a gateway that attaches to a broker. It opens a term unless the newest notice names this broker.
    pub(in crate::broker) fn notice_at_attach(
        &self,
        newest: Option<Newest>,
        extent: Extent,
        incarnation: &str,
    ) -> Notice {
        let is_current = newest
            .as_ref()
            .is_some_and(|newest| newest.notice.incarnation == incarnation);
        let mut table = newest.map(|newest| newest.table);
        if let Some(table) = &mut table {
            table.forget_before(extent.first);
        }
        let head = |table: &Table, at: u64| table.version(at).unwrap_or(0) + LOG_STEP;
        let above = {
            let position = self.position.lock();
            let own = position.table.as_ref().map_or(0, |own| head(own, position.applied));
            own.max(table.as_ref().map_or(0, |table| head(table, extent.last)))
        };
        Notice {
            incarnation: incarnation.to_owned(),
            epoch: table.as_ref().map_or_else(rand::random, |table| table.epoch),
            terms: table.map_or(Vec::new(), |table| table.terms),
            opens: (!is_current).then(rand::random),
            above,
            ..self.empty_notice()
        }
    }

    /// The notice of a gateway that attaches is stored at `place`. Returns the table that it gives.
    pub(in crate::broker) fn attached_by(&self, notice: &Notice, place: Place) -> Result<Table, End> {
        let table = Table::of(notice, place.sequence, place.stored_ms)
            .ok_or_else(|| End::Failed("the terms in the log contradict each other".to_owned()))?;
        let mut position = self.position.lock();
        position.note_time(place.stored_ms, self.clock.now());
        position.notice = place.sequence;
        position.incarnation.clone_from(&notice.incarnation);
        if notice.opens.is_some() {
            self.metrics.terms_opened.add(1);
            tracing::info!(
                terms = table.terms.len(),
                start = table.current().start,
                "a new term of the log begins"
            );
        }
        Ok(table)
    }

    /// Goes on where the hub is, if the log still has that place, and returns true. Otherwise the hub begins anew: merged
    /// values are to be restored, and then [`Replica::read_back`] is to be called.
    pub(in crate::broker) fn place(&self, table: &Table, extent: Extent) -> bool {
        self.hub.set_lost(table.not_valid());
        self.metrics.term_ms.store(table.began_ms(), Ordering::Relaxed);
        let mut position = self.position.lock();
        // A log that has lost its end may have lost the events that would fill the gaps of a log that is read back.
        let is_complete = |before: &Table| position.read_back.is_none() || table.current() == before.current();
        let continues = |before: &Table| is_complete(before) && table.continues(before, position.applied, extent.last);
        if position.table.as_ref().is_some_and(continues) {
            position.table = Some(table.clone());
            return true;
        }
        let had_clients = std::mem::take(&mut position.was_up);
        let first = table.terms.first().map_or(0, |term| term.first);
        let first = first.max(extent.first).max(1);
        let newest = table.version(first).unwrap_or(0).saturating_sub(1);
        self.hub.reset(Epoch(table.epoch), newest);
        position.applied = first - 1;
        position.fences = [0; 2];
        position.table = None;
        position.read_back = None;
        drop(position);
        if had_clients {
            self.end_connections("the log is not the one that this gateway has followed");
        }
        false
    }

    /// The hub has begun anew, and the merged values are restored. The log is about to be read back.
    pub(in crate::broker) fn read_back(&self, table: Table, extent: Extent) {
        let mut position = self.position.lock();
        position.table = Some(table);
        position.read_back = Some(ReadBack::of(position.applied + 1, extent));
    }

    /// Takes a notice from the log.
    ///
    /// # Errors
    ///
    /// When the log is another one.
    pub(in crate::broker) fn take_notice(&self, place: Place, is_newest: bool, payload: &[u8]) -> Result<(), End> {
        let notice = Notice::parse(payload);
        if notice.is_none() {
            self.skip(Problem::Notice, "terms");
        }
        let mut position = self.position.lock();
        position.applied = place.sequence;
        position.notice = position.notice.max(place.sequence);
        position.heard = Some(Instant::now());
        if is_newest {
            position.note_time(place.stored_ms, self.clock.now());
        }
        let known = position.table.as_ref();
        let (current, epoch) = known.map_or((0, 0), |table| (table.current().first, table.epoch));
        let opens = |notice: &Notice| notice.opens.is_some() && place.sequence > current;
        let opened = notice.filter(opens);
        if let Some(table) = opened.and_then(|notice| Table::of(&notice, place.sequence, place.stored_ms)) {
            if table.epoch != epoch {
                return Err(End::Gap(
                    "another gateway has found no notice in the log, and began a new epoch".to_owned(),
                ));
            }
            self.hub.set_lost(table.not_valid());
            self.metrics.term_ms.store(table.began_ms(), Ordering::Relaxed);
            position.table = Some(table);
        }
        Ok(())
    }
}
