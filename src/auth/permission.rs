//! The rules of permissions.
//!
//! Invariant: subscribing is monotone. An identity that may subscribe to a pattern may subscribe to every channel that
//! the pattern matches. So a wide pattern never gives access that a narrow one would refuse.
//!
//! * Nothing of another tenant is allowed, not even to the role admin.
//! * Role admin may do everything else.
//! * A pattern is allowed when *one* allowed pattern covers it. Several allowed patterns that cover it only together do
//!   not count.
//! * `user.<sub>.*` and everything below it is allowed to that user without any entry.
//! * A pattern that can match the channels `user.<id>…` of another user needs more: an allowed pattern whose first
//!   segment is literally `user` must cover that part. So with `*` alone, `*` and `user.7.orders` are refused. With `*`
//!   and `user.*` both are allowed. `*.7.orders` is allowed to user 7 with `*`, since the only user it reaches is user
//!   7. The channel `user` itself has no owner, and `*` does not allow it.
//! * Publishing has no own channels. Every channel below `user` needs an entry that begins with literally `user`.
//!   Otherwise a client with `publish = ["*"]` could invent the balances of other users.
//! * Actions have no owner, because ids are in `params`. So for commands `*` allows every action, also `user.…`.
//! * `system.gateway` and the channels below it, the gateway's own statistics, are for role admin and for the viewers of
//!   the console only; see [`is_admin_only`].

use tickgate_protocol::channel::{Channel, Pattern, Tenant, segments};
use tickgate_protocol::rate::Rate;

use super::Identity;

/// The least number of bytes that a client is sent in a second, if that is limited. With less, replies and pings would come too
/// late.
pub const BYTES_PER_SECOND_MIN: u32 = 1024;

/// What an identity may do: three lists of patterns, and two rates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Role admin: everything is allowed.
    pub admin: bool,
    /// Everything below `system.gateway`, the gateway's own statistics, may be read as well. Part of `admin`.
    pub gateway: bool,
    /// Patterns that it may subscribe to.
    pub channels: Vec<Pattern>,
    /// Actions that it may send. They have the grammar of channels.
    pub commands: Vec<Pattern>,
    /// Channels that it may publish to.
    pub publish: Vec<Pattern>,
    /// The most updates of a conflating channel that it gets; `None`: no limit.
    pub max_rate: Option<Rate>,
    /// The bytes that a connection is sent in a second, 0 for no limit; `None`: as `limits.bytes_per_second` says.
    pub bytes_per_second: Option<u32>,
}

impl Permissions {
    /// The same lists as patterns of a tenant.
    #[must_use]
    pub fn in_tenant(self, tenant: Tenant) -> Self {
        let moved = |patterns: Vec<Pattern>| patterns.into_iter().map(|one| one.in_tenant(tenant)).collect();
        Self {
            admin: self.admin,
            gateway: self.gateway,
            channels: moved(self.channels),
            commands: moved(self.commands),
            publish: moved(self.publish),
            max_rate: self.max_rate,
            bytes_per_second: self.bytes_per_second,
        }
    }
}

impl Identity {
    /// Whether the identity may subscribe to `pattern`, by the rules above.
    ///
    /// A pattern that also matches admin-only channels, such as `system.*`, may be allowed. Delivery withholds the events
    /// of those channels ([`is_admin_only`]).
    #[must_use]
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        let allowed = &self.permissions.channels;
        if pattern.tenant() != self.tenant {
            return false;
        }
        if self.permissions.admin {
            return true;
        }
        if is_admin_only(pattern.as_str()) {
            return self.permissions.gateway;
        }
        if self.owns(pattern.as_str()) == Some(Own::Below) {
            return true;
        }
        if !allowed.iter().any(|entry| entry.covers(pattern)) {
            return false;
        }
        part_below_user(pattern).is_none_or(|part| {
            let has_no_owner = part.as_str() == USER;
            self.owns(part.as_str()).is_some()
                || (allowed.iter()).any(|entry| is_below_user(entry.as_str()) && (has_no_owner || entry.covers(&part)))
        })
    }

    /// Whether the identity gets the events of the gateway's own statistics ([`is_admin_only`]).
    #[must_use]
    pub fn sees_gateway(&self) -> bool {
        self.permissions.admin || self.permissions.gateway
    }

    /// Whether the identity may send `action`: an allowed pattern matches it.
    #[must_use]
    pub fn may_command(&self, action: &Channel) -> bool {
        let Permissions { admin, commands, .. } = &*self.permissions;
        action.tenant() == self.tenant && (*admin || commands.iter().any(|entry| entry.matches(action)))
    }

    /// Whether the identity may publish to `channel`: an allowed pattern matches it. When the channel begins with `user`,
    /// the pattern must begin with literally `user`, too.
    #[must_use]
    pub fn may_publish(&self, channel: &Channel) -> bool {
        let Permissions { admin, publish, .. } = &*self.permissions;
        let name = channel.as_str();
        let fits = |entry: &Pattern| !is_below_user(name) || is_below_user(entry.as_str());
        let is_granted = || publish.iter().any(|entry| fits(entry) && entry.matches(channel));
        channel.tenant() == self.tenant && (*admin || (!is_admin_only(name) && is_granted()))
    }

    /// Whether the identity may publish to every channel that `pattern` matches.
    #[must_use]
    pub fn may_publish_all(&self, pattern: &Pattern) -> bool {
        let Permissions { admin, publish, .. } = &*self.permissions;
        let text = pattern.as_str();
        let fits = |entry: &Pattern| !is_below_user(text) || is_below_user(entry.as_str());
        let is_granted = || publish.iter().any(|entry| fits(entry) && entry.covers(pattern));
        pattern.tenant() == self.tenant && (*admin || (!is_admin_only(text) && is_granted()))
    }

    /// Whether all channels of a pattern are the user's own, and which of them.
    pub(super) fn owns(&self, pattern: &str) -> Option<Own> {
        let mut segments = segments(pattern);
        let own = segments.next() == Some(USER) && segments.next() == Some(self.user.as_deref()?);
        own.then(|| segments.next().map_or(Own::Itself, |_| Own::Below))
    }
}

/// Whether a channel or pattern lies wholly within `system.gateway`: the gateway's own statistics, which only role admin
/// may read and publish.
///
/// A wider pattern, such as `system.*`, matches such channels too. Delivery must withhold their events from all other
/// connections.
#[must_use]
pub fn is_admin_only(channel: &str) -> bool {
    channel
        .strip_prefix("system.gateway")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

pub(super) const USER: &str = "user";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// `user.<sub>`
    Itself,
    /// `user.<sub>.…`
    Below,
}

pub(super) fn is_below_user(pattern: &str) -> bool {
    segments(pattern).next() == Some(USER)
}

/// The part of `pattern` that begins with `user.`, as a pattern; `user` for `user`; `None` when there is none.
pub(super) fn part_below_user(pattern: &Pattern) -> Option<Pattern> {
    let in_tenant = |text: &str| Some(Pattern::parse(text).ok()?.in_tenant(pattern.tenant()));
    match pattern.as_str().split_once('.') {
        _ if is_below_user(pattern.as_str()) => Some(pattern.clone()),
        None if pattern.as_str() == "*" => in_tenant("user.*"),
        // The result is three bytes longer. When it is too long for a pattern, it matches no channel.
        Some(("*", rest)) => in_tenant(&format!("{USER}.{rest}")),
        _ => None,
    }
}
