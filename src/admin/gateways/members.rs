//! The other gateways that share a broker, as they tell of themselves.
//!
//! Invariant: the table is bounded, whatever is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How often a gateway tells of itself, in milliseconds.
pub(super) const TELL_MS: u64 = 2000;

/// A gateway that was not heard of for this long is silent: three times it told nothing.
const SILENT_MS: u64 = 3 * TELL_MS;

/// A gateway that has been silent for this long is forgotten.
const FORGOTTEN_MS: u64 = 600_000;

/// Most gateways that are remembered.
const MEMBERS_MAX: usize = 1000;

/// The version of what gateways tell each other.
pub(super) const FORMAT: u8 = 1;

/// What a gateway tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// See [`FORMAT`].
    pub(super) v: u8,
    /// Another one after each start.
    pub(super) id: u64,
    /// The name of the gateway.
    pub(super) node: Box<str>,
    /// The version of the program.
    pub(super) version: Box<str>,
    /// `ok`, or why the gateway is not ready, as `/readyz` says it.
    pub(super) status: Box<str>,
    /// More about it, if it has no link to the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Box<str>>,
    /// Connections of clients.
    pub(super) connections: u64,
    /// Whether the gateway ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) leaves: bool,
}

/// The other gateways.
#[derive(Debug, Default)]
pub(super) struct Members {
    // By the id, with the monotonic milliseconds at which it told of itself last.
    by_id: BTreeMap<u64, (Member, u64)>,
}

impl Members {
    /// Notes what another gateway tells.
    pub(super) fn note(&mut self, member: Member, now_ms: u64) {
        self.by_id.retain(|_, (known, heard_ms)| {
            // A gateway that came back under its name is not missed as it was before.
            let is_replaced = known.node == member.node && now_ms.saturating_sub(*heard_ms) > SILENT_MS;
            !is_replaced && now_ms.saturating_sub(*heard_ms) < FORGOTTEN_MS
        });
        if member.leaves {
            self.by_id.remove(&member.id);
        } else if self.by_id.len() < MEMBERS_MAX || self.by_id.contains_key(&member.id) {
            self.by_id.insert(member.id, (member, now_ms));
        }
    }

    /// The gateways that were heard of lately, each with how long ago, in milliseconds.
    pub(super) fn live(&self, now_ms: u64) -> impl Iterator<Item = (&Member, u64)> {
        self.all(now_ms).filter(|(_, age_ms)| *age_ms <= SILENT_MS)
    }

    /// The gateways that fell silent without leaving, each with how long ago, in milliseconds.
    pub(super) fn silent(&self, now_ms: u64) -> impl Iterator<Item = (&Member, u64)> {
        self.all(now_ms)
            .filter(|(_, age_ms)| (SILENT_MS + 1..FORGOTTEN_MS).contains(age_ms))
    }

    fn all(&self, now_ms: u64) -> impl Iterator<Item = (&Member, u64)> {
        let age = move |heard_ms: u64| now_ms.saturating_sub(heard_ms);
        self.by_id
            .values()
            .map(move |(member, heard_ms)| (member, age(*heard_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, node: &str) -> Member {
        Member {
            v: FORMAT,
            id,
            node: node.into(),
            version: "1".into(),
            status: "ok".into(),
            reason: None,
            connections: 10 * id,
            leaves: false,
        }
    }

    fn names<'a>(members: impl Iterator<Item = (&'a Member, u64)>) -> Vec<&'a str> {
        members.map(|(member, _)| &*member.node).collect()
    }

    #[test]
    fn a_gateway_is_silent_after_three_times_and_then_forgotten() {
        let mut members = Members::default();
        members.note(member(1, "a"), 0);
        members.note(member(2, "b"), 0);
        members.note(member(2, "b"), 5000);
        assert_eq!(names(members.live(6000)), ["a", "b"]);
        assert_eq!(names(members.live(6001)), ["b"]);
        assert_eq!(names(members.silent(6001)), ["a"]);
        assert_eq!(names(members.silent(700_000)).len(), 0);
        // It comes back after a restart.
        members.note(member(3, "a"), 7000);
        assert_eq!(names(members.silent(7000)).len(), 0);
        assert_eq!(names(members.live(7000)), ["b", "a"]);
        let leaves = Member {
            leaves: true,
            ..member(2, "b")
        };
        members.note(leaves, 7001);
        assert_eq!(names(members.live(7001)), ["a"]);
        assert_eq!(names(members.silent(20_000)), ["a"], "it has left: nobody misses it");
    }

    #[test]
    fn two_gateways_of_one_name_are_two_as_long_as_both_tell() {
        let mut members = Members::default();
        for now_ms in [0, 2000, 4000, 6000] {
            members.note(member(1, "a"), now_ms);
            members.note(member(2, "a"), now_ms);
        }
        assert_eq!(names(members.live(6000)), ["a", "a"]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut members = Members::default();
        for id in 0..2 * MEMBERS_MAX as u64 {
            members.note(member(id, &id.to_string()), 0);
        }
        assert_eq!(members.live(0).count(), MEMBERS_MAX);
        members.note(member(0, "0"), 1000);
        assert_eq!(members.live(1000).next().map(|(_, age_ms)| age_ms), Some(0));
    }
}
