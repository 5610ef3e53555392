//! What a client has received of one channel.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Client;
use crate::keeping::store::{CHANNELS, Kind, Truth};

/// What the client has received of a channel since it is covered.
pub(in crate::keeping) struct Watch {
    pub(in crate::keeping) kind: Kind,
    // Events before this index are accounted for. For values, the number of events at the beginning.
    pub(in crate::keeping) next: usize,
    pub(in crate::keeping) began: usize,
    // The largest possible number of events at the beginning.
    pub(in crate::keeping) since: usize,
    // Set if the server gave no position: the watch begins with the first event that arrives, at this index at the
    // latest.
    pub(in crate::keeping) begins_by: Option<usize>,
    // Events that the client has may come again if their offsets are higher, each once and in order: it returned with a
    // cursor.
    pub(in crate::keeping) again_after: Option<u64>,
    // Nothing has arrived since the channel was covered without what was before. Its last value may be owed.
    pub(in crate::keeping) is_new: bool,
    // The numbers that the client holds, by record.
    pub(in crate::keeping) values: BTreeMap<String, u64>,
    pub(in crate::keeping) newest: u64,
    pub(in crate::keeping) missing: u64,
}

impl Watch {
    pub(in crate::keeping) fn new(kind: Kind, began: usize, since: usize) -> Self {
        Self {
            kind,
            next: began,
            began,
            since,
            begins_by: None,
            again_after: None,
            is_new: true,
            values: BTreeMap::new(),
            newest: 0,
            missing: 0,
        }
    }
}

impl Client {
    // Begins to watch a newly covered channel, from an index between `began` and `since`.
    pub(super) fn begin(
        &mut self,
        name: &'static str,
        (began, since): (usize, usize),
        recover: Option<&BTreeMap<&'static str, (u64, bool)>>,
        message: &Value,
        (truth, still_covers): (&Truth, &dyn Fn(u64) -> bool),
    ) -> Result<(), String> {
        let data = &message["data"];
        let kind = CHANNELS.iter().find(|(known, _)| *known == name).expect("known").1;
        let position = &data["positions"][name];
        let mut next = began;
        if let Some(offset) = position["offset"].as_u64() {
            next = truth.up_to(name, offset);
            // If the last value of a channel follows, its position is the one before that event.
            let least = began.saturating_sub(usize::from(kind == Kind::Life));
            let is_recovered = data["recovered"][name] == true;
            if !is_recovered && !(least..=since).contains(&next) || next > since {
                return Err(format!("the position of {name} is after event {next}, of {began}"));
            }
            let epoch = position["epoch"].as_str().ok_or("no epoch")?.to_owned();
            self.positions.insert(name.to_owned(), (epoch, offset));
        }
        if let Some((offset, is_possible)) = recover.and_then(|recover| recover.get(name)) {
            let told = &data["recovered"][name];
            // The history may have been trimmed between the request and its execution.
            let is_gone = told == false && !still_covers(*offset);
            if told.as_bool() != Some(*is_possible) && !is_gone && !(*offset == 0 && told.is_null()) {
                return Err(format!("{name} is recovered: {told}, not {is_possible}"));
            }
            if told == true && position["offset"] != *offset {
                return Err(format!(
                    "the position of {name} is not the one to recover from, {offset}"
                ));
            }
        }
        let watch = Watch {
            next,
            is_new: data["recovered"][name] != true,
            begins_by: (since > began && position.is_null()).then_some(since),
            ..Watch::new(kind, began, since)
        };
        self.watches.insert(name, watch);
        self.had.insert(name, since);
        Ok(())
    }
}
