//! Telling subscribers that channels became silent, or go on.
//!
//! Channels with the same subscribers are told together, and a connection gets one message for all. Its frame is made once
//! for all connections that get the same.

use std::collections::BTreeMap;
use std::rc::Rc;

use hashbrown::HashMap;

use super::{Connections, Fanout};
use crate::auth;
use crate::shard::connection::Cold;
use crate::shard::core::connections::Connection;
use crate::shard::frame::Frame;
use crate::shard::table::NodeId;
use crate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::message::{NamedChannels, Reply};

/// Channels with the same subscribers.
#[derive(Hash, PartialEq, Eq)]
struct Group {
    nodes: Vec<NodeId>,
    admins_only: bool,
}

impl Fanout {
    /// Tells the subscribers of each of these channels that nothing was published to it for too long, or that it goes on.
    pub(in crate::shard::core) fn tell_freshness(
        &mut self,
        connections: &mut Connections,
        channels: &[Channel],
        is_stale: bool,
        now: Now,
    ) {
        let mut groups = HashMap::<Group, NamedChannels>::new();
        for channel in channels {
            let mut nodes = Vec::new();
            self.table.resolve(channel, &mut nodes);
            if !nodes.is_empty() {
                let admins_only = auth::is_admin_only(channel.as_str());
                groups.entry(Group { nodes, admins_only }).or_default().add(channel);
            }
        }
        let groups: Vec<(Group, NamedChannels)> = groups.into_iter().collect();
        // By slot: the groups that the connection has channels of.
        let mut told = BTreeMap::<u32, Vec<usize>>::new();
        for (index, (group, _)) in groups.iter().enumerate() {
            let stamp = connections.next_stamp();
            for subscriber in group.nodes.iter().flat_map(|node| self.table.subscribers(*node)) {
                let slot = subscriber.slot;
                let is_first = connections.stamp(slot, stamp).is_some();
                let may_see = !group.admins_only || connections.cold(slot).is_some_and(Cold::is_admin);
                if is_first && may_see {
                    told.entry(slot).or_default().push(index);
                }
            }
        }
        let mut frames = HashMap::<(u16, Vec<usize>), Option<Rc<Frame>>>::new();
        for (slot, of) in told {
            let Some(Connection { id, hot, endpoint, .. }) = connections.get(slot) else {
                continue;
            };
            let frame = frames.entry((hot.endpoint, of)).or_insert_with_key(|(_, of)| {
                let mut named = NamedChannels::default();
                of.iter().for_each(|index| named.add_all(&groups[*index].1));
                let reply = Reply::Freshness {
                    is_stale,
                    count: named.count,
                    channels: &named.names,
                };
                let mut bytes = Vec::new();
                let range = (endpoint.settings.dialect).encode_reply(&reply, now.unix_ms, &mut bytes)?;
                Some(Frame::reply(endpoint.reply(&bytes[range], &self.inbox, &self.metrics)))
            });
            if let Some(frame) = frame
                && !self.outgoing.queue_reply(slot, hot, Rc::clone(frame), endpoint, false)
            {
                self.outgoing.note_too_slow(id);
            }
        }
    }
}
