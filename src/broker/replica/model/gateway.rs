//! A gateway of the model: a real hub that follows the log, without a connection to a broker.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tickgate_protocol::channel::{Class, Classes, History, Overflow, Pattern};

use super::log::{Entry, Event, Log};
use super::{HISTORY, channel};
use crate::broker::ClassTable;
use crate::broker::link::End;
use crate::broker::replica::read_back::ReadBack;
use crate::broker::replica::{Extent, Listeners, Membership, Place, Reader, Replica};
use crate::broker::terms::Table;
use crate::hub::{Hub, Inbox, Numbering, Settings, Wakes};
use crate::time::Clock;

/// A planted fault of a gateway that begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It restores no merged value.
    RestoresNothing,
    /// It reads the log back to its end once, whatever the log has forgotten meanwhile.
    ReadsOnce,
    /// It forgets nothing of what is older than the oldest event of the log.
    ForgetsNothing,
    /// It does not begin again if the log forgets events faster than they are read back.
    IsTooSlow,
    /// It goes on with reading back if the log has lost its end.
    ReadsAnotherLog,
    /// It goes on with its events if the log has lost them.
    KeepsLostEvents,
    /// It does not notice when the log has lost events before it came to them.
    SeesNoGap,
}

/// See the module's docs.
pub(super) struct Gateway {
    pub(super) replica: Replica,
    // Events need credits, which an inbox gives back.
    _inbox: Inbox,
    /// While it is connected.
    pub(super) reader: Option<Reader>,
    /// The events that the log had up to the last entry that was applied, also those that were forgotten.
    pub(super) followed: Vec<Option<Event>>,
    fault: Fault,
}

impl Gateway {
    pub(super) fn start(node: usize, fault: Fault) -> Self {
        let kept = Class {
            cache_last: true,
            history: Some(History {
                size: HISTORY,
                ttl_ms: 1 << 40,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        };
        let rows = Class {
            cache_last: true,
            record_key: Some("id".into()),
            overflow: Overflow::Conflate,
            ..Class::default()
        };
        let pattern = |text| Pattern::parse(text).expect("valid");
        let settings = Settings {
            // An inbox takes memory for each of them.
            credits: 64,
            numbering: Numbering::Log,
            classes: Arc::new(Classes::new(vec![(pattern("kept.*"), kept), (pattern("rows.*"), rows)])),
            ..Settings::default()
        };
        let (hub, mut inboxes) = Hub::new(settings, 1, |_, _| Bytes::new());
        let membership = Membership {
            node: format!("n{node}").into(),
            classes: ClassTable::default(),
            events_per_channel: u64::from(HISTORY) + 1,
            tenants: Vec::new(),
            publish_per_second: Vec::new(),
        };
        let listeners = Listeners {
            applied: Box::new(|_| {}),
            learn: Box::new(|_| true),
        };
        Self {
            replica: Replica::new(membership, (hub, Vec::new()), Clock::start(), listeners),
            _inbox: inboxes.remove(0),
            reader: None,
            followed: Vec::new(),
            fault,
        }
    }

    pub(super) fn disconnect(&mut self, end: &End) {
        self.replica.go_down(end);
        self.reader = None;
    }

    /// Returns whether the hub goes on where it is.
    pub(super) fn place(&self, table: &Table, extent: Extent) -> bool {
        let replica = &self.replica;
        match self.fault {
            Fault::ReadsAnotherLog => {
                let read_back = replica.position.lock().read_back.take();
                let goes_on = replica.place(table, extent);
                if goes_on {
                    replica.position.lock().read_back = read_back;
                }
                goes_on
            }
            Fault::KeepsLostEvents => {
                // As if all of its events were from the present term.
                let mut position = replica.position.lock();
                if position.table.is_some() && position.applied <= extent.last {
                    position.table = Some(table.clone());
                }
                drop(position);
                replica.place(table, extent)
            }
            _ => replica.place(table, extent),
        }
    }

    /// Takes the next entry; `false`: there is none, or the session is over.
    pub(super) fn step(&mut self, log: &Log) -> bool {
        let Some(reader) = &self.reader else { return false };
        let taken = if reader.is_at_end() {
            self.at_end(log.extent()).map(|()| true)
        } else {
            match log.after(reader.last()) {
                None => Ok(false),
                Some((sequence, entry)) => self.take(log, sequence, entry).map(|()| true),
            }
        };
        taken.unwrap_or_else(|end| {
            self.disconnect(&end);
            false
        })
    }

    fn at_end(&mut self, mut extent: Extent) -> Result<(), End> {
        let reader = self.reader.as_mut().expect("connected");
        if self.fault == Fault::ForgetsNothing {
            extent.first = 1;
        }
        let mut is_current = reader.at_end(&self.replica, extent);
        if self.fault == Fault::ReadsOnce {
            is_current = reader.at_end(&self.replica, extent);
        }
        if self.fault == Fault::IsTooSlow && is_current.is_err() {
            self.replica.position.lock().read_back = Some(ReadBack::of(0, extent));
            return Ok(());
        }
        if is_current? {
            self.replica.go_up();
        }
        Ok(())
    }

    fn take(&mut self, log: &Log, sequence: u64, entry: &Entry) -> Result<(), End> {
        let reader = self.reader.as_mut().expect("connected");
        let mut taken = reader.take(&self.replica, sequence);
        if self.fault == Fault::SeesNoGap && taken.is_err() {
            self.replica.position.lock().applied = sequence - 1;
            *reader = Reader::new(&self.replica, log.extent().last);
            taken = reader.take(&self.replica, sequence);
        }
        let place = Place {
            sequence,
            stored_ms: entry.stored_ms,
            is_replayed: taken?,
        };
        let known = self.followed.len();
        let passed = log.up_to(sequence).iter().skip(known);
        self.followed.extend(passed.map(|entry| entry.event));
        let Some((index, _)) = entry.event else {
            return self
                .replica
                .take_notice(place, sequence == log.extent().last, &entry.payload);
        };
        let (replica, mut wakes) = (&self.replica, Wakes::default());
        let name = replica.decoder.name("", &channel(index));
        let applied = replica.apply_kept(place, (&name, &entry.payload), &mut wakes, |_| {});
        applied.now_or_never().expect("there are credits");
        Ok(())
    }
}
