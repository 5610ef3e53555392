//! `[[tenant]]`.

use std::path::PathBuf;

use super::server::{CONNECTIONS_MAX, WHY_CONNECTIONS};
use super::state::{BYTES_MAX, BYTES_MIN, NAMES_MAX};
use super::{Auth, ChannelClass, Command, DialectName, Endpoint, Feed, Limits, Source};
use crate::auth::Mode;
use crate::config::check::{Because, Check, at_most, ensure, not_blank};
use crate::config::declare::section;
use crate::config::visit;
use crate::hub::Quota;
use tickgate_protocol::channel::{DEFAULT_TENANT, Tenant as TenantNumber};

/// The longest name of a tenant, in bytes.
const NAME_BYTES_MAX: usize = 32;

section! {
    /// `[[tenant]]`.
    struct Tenant {
        /// The tenant's name, different from all others: 1 to 32 lower-case letters, digits, `-` and `_`. It names the tenant in
        /// the API, the log, the metrics, the bodies of commands and the snapshot.
        value name: Option<String> = None, required "is missing: the tenant's name", check is_name;
        /// Limits of the tenant's connections, and of the tenant as a whole.
        table limits: TenantLimits = TenantLimits::default();
        /// Paths that accept the tenant's connections.
        tables endpoints as "endpoint": Vec<Endpoint> = Vec::new();
        /// How the tenant's clients authenticate. Nothing of `[auth]` holds for a tenant.
        table auth: Auth = Auth::default();
        /// The keys that administer this tenant only.
        table admin: TenantAdmin = TenantAdmin::default();
        /// What is kept of the tenant's channels. The built-in classes stand behind them; no `[[channel]]` holds for a tenant.
        tables channels as "channel": Vec<ChannelClass> = Vec::new();
        /// Backends that answer the tenant's commands.
        tables commands as "command": Vec<Command> = Vec::new();
        /// Sources that are polled for the tenant.
        tables feeds as "feed": Vec<Feed> = Vec::new();
        /// Streams and subjects of NATS or Redis whose messages become events of the tenant.
        tables sources as "source": Vec<Source> = Vec::new();

        rule tokens_can_be_verified;
    }
}

fn is_name(name: &Option<String>) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let fine = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain);
    ensure(
        name.as_ref().is_none_or(fine),
        "must have 1 to 32 characters: lower-case letters, digits, - and _",
    )?;
    ensure(
        name.as_deref() != Some(DEFAULT_TENANT),
        "is the name of the tenant that everything outside [[tenant]] belongs to",
    )
}

fn tokens_can_be_verified(tenant: &Tenant, check: &mut Check<'_>) {
    let needs_tokens = |endpoint: &Endpoint| {
        endpoint.dialect != Some(DialectName::Echo) && tenant.auth.endpoint_mode(endpoint.anonymous) == Mode::Required
    };
    if tenant.auth.keys.is_empty() && tenant.endpoints.iter().any(needs_tokens) {
        let message = "is missing: without a [[tenant.auth.key]] no client of the tenant could authenticate";
        check.refuse("auth.key", message);
    }
}

section! {
    /// `[tenant.limits]`.
    struct TenantLimits {
        /// As `limits.messages_per_second`. Not set: the same.
        value messages_per_second: Option<u32> = None;
        /// As `limits.commands_per_second`. Not set: the same.
        value commands_per_second: Option<u32> = None;
        /// As `limits.bytes_per_second`. 0: no limit. Not set: the same.
        value bytes_per_second: Option<u32> = None;
        /// As `limits.subscriptions`. Not set: the same.
        value subscriptions: Option<u32> = None;
        /// As `limits.message_bytes`. Not set: the same.
        value message_bytes: Option<u32> = None;
        /// As `limits.event_bytes`. Not set: the same.
        value event_bytes: Option<u32> = None;
        /// As `limits.publish_per_second`, for each publisher of the tenant. Not set: the same.
        value publish_per_second: Option<u32> = None;
        /// As `limits.outbox_frames`. Not set: the same.
        value outbox_frames: Option<u32> = None;
        /// As `limits.outbox_bytes`. Not set: the same.
        value outbox_bytes: Option<u32> = None;
        /// As `limits.reply_frames`. Not set: the same.
        value reply_frames: Option<u32> = None;
        /// As `limits.reply_bytes`. Not set: the same.
        value reply_bytes: Option<u32> = None;
        /// Connections of the tenant, at most 67,108,864. One more gets 503. 0: as many as `server.max_connections` leaves.
        value connections: u32 = 0,
            check |connections| at_most(*connections, CONNECTIONS_MAX).because(WHY_CONNECTIONS);
        /// As `server.max_connections_per_user`. Not set: the same.
        value connections_per_user: Option<u32> = None,
            check |connections| at_most(connections.unwrap_or(0), CONNECTIONS_MAX).because(WHY_CONNECTIONS);
        /// Channels of the tenant of which something is kept, at most 100,000,000. One more evicts the tenant's least used one. 0: as many as
        /// `state.channels` leaves.
        value state_channels: u64 = 0,
            check |channels| at_most(*channels, NAMES_MAX).because("each channel is kept in memory");
        /// Bytes of everything that is kept of the tenant's channels, 1 MiB to 1 TiB. More evicts the tenant's least used channels. 0: as many
        /// as `state.bytes` leaves.
        value state_bytes: u64 = 0,
            check |bytes| ensure(*bytes == 0 || *bytes >= BYTES_MIN, "must be at least 1048576")
                .because("1 MiB holds a few events of the longest kind (0: no limit)")
                .and(at_most(*bytes, BYTES_MAX).because("1 TiB is more memory than a machine has"));
    }
}

impl TenantLimits {
    /// These limits over those of `[limits]`.
    pub(in crate::config) fn over(&self, limits: &Limits) -> Limits {
        let mut limits = limits.clone();
        for (own, limit) in [
            (self.messages_per_second, &mut limits.messages_per_second),
            (self.commands_per_second, &mut limits.commands_per_second),
            (self.bytes_per_second, &mut limits.bytes_per_second),
            (self.subscriptions, &mut limits.subscriptions),
            (self.message_bytes, &mut limits.message_bytes),
            (self.event_bytes, &mut limits.event_bytes),
            (self.publish_per_second, &mut limits.publish_per_second),
            (self.outbox_frames, &mut limits.outbox_frames),
            (self.outbox_bytes, &mut limits.outbox_bytes),
            (self.reply_frames, &mut limits.reply_frames),
            (self.reply_bytes, &mut limits.reply_bytes),
        ] {
            *limit = own.unwrap_or(*limit);
        }
        limits
    }

    /// The most that the hub keeps for the tenant.
    pub(in crate::config) fn state(&self) -> Quota {
        let bound = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Quota {
            channels: bound(self.state_channels),
            bytes: bound(self.state_bytes),
        }
    }
}

section! {
    /// `[tenant.admin]`.
    struct TenantAdmin {
        /// The variable that holds the key.
        value key_env: Option<String> = None, check not_blank;
        /// The file that holds the key.
        value key_file: Option<PathBuf> = None;
        /// The variable that holds a second key, for people who may look at this tenant but not act.
        value viewer_key_env: Option<String> = None, check not_blank;
        /// The file that holds that second key.
        value viewer_key_file: Option<PathBuf> = None;
        /// Accepts a key that is shorter than 16 bytes. For tests.
        value allow_short_key: bool = false;

        refused "key" "a secret does not stand in the file: name it by key_env or key_file";
        rule one_key;
    }
}

fn one_key(admin: &TenantAdmin, check: &mut Check<'_>) {
    if admin.key_env.is_some() && admin.key_file.is_some() {
        check.refuse("key_file", "key_env and key_file exclude each other");
    }
    if admin.viewer_key_env.is_some() && admin.viewer_key_file.is_some() {
        check.refuse(
            "viewer_key_file",
            "viewer_key_env and viewer_key_file exclude each other",
        );
    }
}

/// Checks tenants against each other and against `[limits]`. `check` stands at the file as a whole.
pub(super) fn check_all(tenants: &[Tenant], limits: &Limits, check: &mut Check<'_>) {
    if tenants.len() > TenantNumber::MAX {
        let message = format!("must be at most {} tenants", TenantNumber::MAX);
        check.refuse("tenant", message);
    }
    for (index, tenant) in tenants.iter().enumerate() {
        let same = |other: &Tenant| other.name.is_some() && other.name == tenant.name;
        if tenants[..index].iter().any(same) {
            check.refuse(&format!("tenant[{index}].name"), "another tenant has the same name");
        }
        // The values that hold in the end have the ranges and rules of `[limits]`.
        let mut limits = tenant.limits.over(limits);
        check.inside(&format!("tenant[{index}].limits"), |check| {
            visit::validate(&mut limits, check);
        });
    }
}
