//! The rules of permission.
//!
//! Invariant: what an identity may subscribe is monotone: when it may subscribe a pattern, it may subscribe every
//! channel that the pattern matches. So nobody gets by a wide pattern what a narrow one would refuse.
//!
//! * Role admin may everything.
//! * A pattern is allowed when *one* allowed pattern covers it. Covering it by several together is not looked for.
//! * `user.<sub>.*` and everything below it is its owner's without any entry.
//! * What can match another user's `user.<id>…` needs, besides, an allowed pattern whose first segment is literally
//!   `user` and which covers that part of it. So with `*` alone, `*` and `user.7.orders` are refused; with `*` and
//!   `user.*` both are allowed; and `*.7.orders` is allowed to user 7 with `*`, since the only user it reaches is
//!   user 7. The channel `user` itself is nobody's, but is not left to `*` either.
//! * Publishing has no such thing as an own channel: whatever lies below `user` needs an entry that begins with
//!   literally `user`, or else anybody with `publish = ["*"]` could invent balances.
//! * Actions have no owner (ids stand in `params`), so for commands `*` is every action, `user.…` too.
//! * `system.gateway` and what lies below it, the gateway's own figures, is for role admin only; see
//!   [`is_admin_only`].

use tickgate_protocol::channel::{Channel, Pattern, segments};

use super::Identity;

/// What an identity may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Role admin: everything.
    pub admin: bool,
    /// May subscribe.
    pub channels: Vec<Pattern>,
    /// May command (actions follow the channel grammar).
    pub commands: Vec<Pattern>,
    /// May publish.
    pub publish: Vec<Pattern>,
}

impl Identity {
    /// Whether every channel that `pattern` can match may be read: covered by one allowed pattern, or the user's
    /// own `user.<sub>.*`; what can match another's `user.…` needs role admin or an allowed pattern whose first
    /// segment is literally `user`.
    ///
    /// A pattern that also matches admin-only channels, such as `system.*`, may be allowed: those events are kept
    /// from the connection when they are delivered ([`is_admin_only`]).
    #[must_use]
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        let allowed = &self.permissions.channels;
        if self.permissions.admin {
            return true;
        }
        if is_admin_only(pattern.as_str()) {
            return false;
        }
        if self.owns(pattern.as_str()) == Some(Own::Below) {
            return true;
        }
        if !allowed.iter().any(|entry| entry.covers(pattern)) {
            return false;
        }
        part_below_user(pattern).is_none_or(|part| {
            let nobodys = part.as_str() == USER;
            self.owns(part.as_str()).is_some()
                || (allowed.iter()).any(|entry| is_below_user(entry.as_str()) && (nobodys || entry.covers(&part)))
        })
    }

    /// Whether `action` may be sent: an allowed pattern matches it.
    #[must_use]
    pub fn may_command(&self, action: &Channel) -> bool {
        let Permissions { admin, commands, .. } = &*self.permissions;
        *admin || commands.iter().any(|entry| entry.matches(action.as_str()))
    }

    /// Whether `channel` may be published to: an allowed pattern matches it, and one that begins with literally
    /// `user` when the channel does.
    #[must_use]
    pub fn may_publish(&self, channel: &Channel) -> bool {
        let Permissions { admin, publish, .. } = &*self.permissions;
        let channel = channel.as_str();
        let fits = |entry: &Pattern| !is_below_user(channel) || is_below_user(entry.as_str());
        *admin || (!is_admin_only(channel) && publish.iter().any(|entry| fits(entry) && entry.matches(channel)))
    }

    /// How a pattern lies in this user's own part of the channels, when it lies there wholly.
    fn owns(&self, pattern: &str) -> Option<Own> {
        let mut segments = segments(pattern);
        let own = segments.next() == Some(USER) && segments.next() == Some(self.user.as_deref()?);
        own.then(|| segments.next().map_or(Own::Itself, |_| Own::Below))
    }
}

/// Whether a channel or pattern lies wholly within `system.gateway`, the gateway's own figures, which only role
/// admin may read (and publish). A wider pattern, such as `system.*`, matches such channels too: whoever delivers
/// must pass them over for everybody else.
#[must_use]
pub fn is_admin_only(channel: &str) -> bool {
    channel
        .strip_prefix("system.gateway")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

const USER: &str = "user";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    /// `user.<sub>`
    Itself,
    /// `user.<sub>.…`
    Below,
}

fn is_below_user(pattern: &str) -> bool {
    segments(pattern).next() == Some(USER)
}

/// The channels of `pattern` that begin with `user.`, as a pattern; `user` itself for `user`.
fn part_below_user(pattern: &Pattern) -> Option<Pattern> {
    match pattern.as_str().split_once('.') {
        _ if is_below_user(pattern.as_str()) => Some(pattern.clone()),
        None if pattern.as_str() == "*" => Pattern::parse("user.*").ok(),
        // Three bytes longer: when that is too long it matches no channel of a user.
        Some(("*", rest)) => Pattern::parse(&format!("{USER}.{rest}")).ok(),
        _ => None,
    }
}
