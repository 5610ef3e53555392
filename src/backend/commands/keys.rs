//! Keys of commands: which commands with a key were begun, and how they ended. Pure: time is an argument.
//!
//! Invariants:
//! - While a key is live, its command is carried out at most once. It is carried out again only if its outcome is unknown and
//!   its route is idempotent.
//! - A live key is never evicted. A table that is full refuses new keys.
//! - The table is bounded in keys and in bytes. A command in flight reserves the bytes of its longest outcome, so that the
//!   outcome always finds room.
//!
//! A key is live while its command is in flight, and for [`Settings::window_ms`] after its outcome. A command that was surely
//! not sent frees its key at once.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::{CommandKey, ErrorCode};

use crate::auth::Identity;
use crate::hub::snapshot::{CommandRecord, RecordedOutcome};
use crate::session::CommandOutcome;

/// What an entry costs beside its texts, in bytes.
const ENTRY_BYTES: usize = 256;
/// Commands that may wait for the outcome of one key. One more is refused.
const WAITERS_MAX: usize = 64;
/// The share of the table that one user may have: a tenth.
const USER_SHARE: usize = 10;
/// The most keys that are forgotten at one time, so that no caller waits long.
const EXPIRED_MAX: usize = 256;

/// The bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `limits.command_keys`: the most live keys.
    pub keys_max: usize,
    /// `limits.command_key_bytes`: the most bytes of their outcomes.
    pub bytes_max: usize,
    /// How long a key lives after its outcome, in milliseconds.
    pub window_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys_max: 100_000,
            bytes_max: 128 * 1024 * 1024,
            window_ms: 600_000,
        }
    }
}

/// Whom a key belongs to. The keys of two scopes have nothing to do with each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    tenant: Tenant,
    user: Arc<str>,
}

impl Scope {
    /// The scope of an identity's keys; `None` for an anonymous one.
    pub(super) fn of(identity: &Identity) -> Option<Self> {
        let (tenant, user) = (identity.tenant, identity.user.clone()?);
        Some(Self { tenant, user })
    }

    pub(super) const fn tenant(&self) -> Tenant {
        self.tenant
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

/// One use of a key. It is handed back with the outcome.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    scope: Scope,
    key: CommandKey,
    // A key that was freed may be begun again. The number tells the uses apart.
    number: u64,
    /// The backend may have seen the command before, when it was sent with this key.
    pub(super) is_repeat: bool,
}

impl Ticket {
    pub(super) const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) const fn key(&self) -> &CommandKey {
        &self.key
    }
}

/// The outcome of a command that may have been carried out.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) outcome: CommandOutcome,
    /// Whether the command is carried out again if it is sent again.
    pub(super) may_repeat: bool,
}

/// What becomes of a command with a key.
#[derive(Debug)]
pub(super) enum Begun<W> {
    /// It is to be carried out.
    Run(W, Ticket),
    /// It waits for the outcome of the one in flight, and is handed out by [`Keys::end`].
    Waits,
    /// It has its outcome already: the recorded one.
    Repeat(W, CommandOutcome),
    /// It is refused and not carried out.
    Refused(W, CommandOutcome),
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Done(CommandOutcome),
}

/// The table. `W` is a command that waits for its answer.
pub(super) struct Keys<W> {
    settings: Settings,
    users: HashMap<Scope, User<W>>,
    // Keys with an outcome, in the order in which they end.
    ends: VecDeque<(u64, Ticket)>,
    numbers: u64,
    count: usize,
    // With the reservations of commands in flight, and without them.
    bytes: usize,
    kept_bytes: usize,
}

struct User<W> {
    entries: HashMap<CommandKey, Entry<W>>,
    bytes: usize,
}

struct Entry<W> {
    number: u64,
    // A hash of the action and the params.
    fingerprint: u128,
    bytes: usize,
    state: State<W>,
}

enum State<W> {
    Running(Vec<W>),
    Done { record: Record, until_ms: u64 },
}

impl<W> Keys<W> {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            users: HashMap::new(),
            ends: VecDeque::new(),
            numbers: 0,
            count: 0,
            bytes: 0,
            kept_bytes: 0,
        }
    }

    /// Begins a command, or finds what its key stands for already. `reserve`: the length of its longest outcome in bytes.
    pub(super) fn begin(
        &mut self,
        (scope, key): (Scope, CommandKey),
        fingerprint: u128,
        reserve: usize,
        command: W,
        now_ms: u64,
    ) -> Begun<W> {
        self.expire(now_ms);
        let found = self.users.get_mut(&scope).and_then(|user| user.entries.get_mut(&key));
        // The outcome, if it is unknown and the command may be carried out again, and the bytes of the entry.
        let mut again = None;
        match found.filter(|entry| entry.is_live(now_ms)) {
            // The time of an entry that is there all the same is over.
            None => self.remove(&scope, &key),
            Some(entry) if entry.fingerprint != fingerprint => {
                let text =
                    "the key belongs to a command with another action or other params; this one was not carried out";
                return Begun::Refused(command, refused(ErrorCode::KeyReused, text.to_owned()));
            }
            Some(Entry { bytes, state, .. }) => match state {
                State::Running(waiters) if waiters.len() == WAITERS_MAX => {
                    let text = format!("{WAITERS_MAX} commands wait for the outcome of this key already");
                    return Begun::Refused(command, refused(ErrorCode::RateLimited, text));
                }
                State::Running(waiters) => {
                    waiters.push(command);
                    return Begun::Waits;
                }
                State::Done { record, .. } if record.may_repeat => again = Some((record.outcome.clone(), *bytes)),
                State::Done { record, .. } => return Begun::Repeat(command, record.outcome.clone()),
            },
        }
        let bytes = ENTRY_BYTES + 2 * key.as_str().len() + reserve;
        let replaced = again.as_ref().map(|(_, bytes)| *bytes);
        if let Err(refusal) = self.check_room(&scope, bytes, replaced) {
            return match again {
                Some((outcome, _)) => Begun::Repeat(command, outcome),
                None => Begun::Refused(command, refusal),
            };
        }
        self.remove(&scope, &key);
        let ticket = Ticket {
            scope,
            key,
            number: self.next_number(),
            is_repeat: again.is_some(),
        };
        self.insert(&ticket, fingerprint, bytes, State::Running(Vec::new()));
        Begun::Run(command, ticket)
    }

    /// Records the outcome of a command, or frees its key if it was surely not sent. Returns the commands that waited for it.
    pub(super) fn end(&mut self, ticket: &Ticket, record: Option<Record>, now_ms: u64) -> Vec<W> {
        let Some(entry) = self.entry(ticket) else {
            return Vec::new();
        };
        let fingerprint = entry.fingerprint;
        let waiters = match &mut entry.state {
            State::Running(waiters) => std::mem::take(waiters),
            State::Done { .. } => return Vec::new(),
        };
        self.remove(&ticket.scope, &ticket.key);
        if let Some(record) = record {
            let until_ms = now_ms.saturating_add(self.settings.window_ms);
            self.keep(ticket.clone(), fingerprint, record, until_ms);
        }
        waiters
    }

    /// What is known of a key; `None`: it was never seen, or is forgotten.
    pub(super) fn status(&self, scope: &Scope, key: &CommandKey, now_ms: u64) -> Option<Status> {
        let entry = self.users.get(scope)?.entries.get(key)?;
        match &entry.state {
            State::Running(_) => Some(Status::Running),
            State::Done { record, until_ms } => (now_ms < *until_ms).then(|| Status::Done(record.outcome.clone())),
        }
    }

    /// Forgets keys whose time is over, a bounded number of them.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for _ in 0..EXPIRED_MAX {
            if self.ends.front().is_none_or(|(until_ms, _)| *until_ms > now_ms) {
                return;
            }
            let Some((_, ticket)) = self.ends.pop_front() else {
                return;
            };
            // A key whose command was carried out again has another number.
            if self.entry(&ticket).is_some() {
                self.remove(&ticket.scope, &ticket.key);
            }
        }
    }

    /// How long a key lives after its outcome, in milliseconds.
    pub(super) const fn window_ms(&self) -> u64 {
        self.settings.window_ms
    }

    /// The live keys.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// The bytes that they hold, without those that are only reserved.
    pub(super) const fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// All keys with an outcome, for the snapshot. `unix_ms` is the time of `now_ms`.
    pub(super) fn export(&self, now_ms: u64, unix_ms: u64) -> Vec<CommandRecord> {
        let entries = self.ends.iter().filter_map(|(until_ms, ticket)| {
            let entry = self.users.get(&ticket.scope)?.entries.get(&ticket.key)?;
            let State::Done { record, .. } = &entry.state else {
                return None;
            };
            (entry.number == ticket.number && now_ms < *until_ms).then(|| CommandRecord {
                tenant: ticket.scope.tenant,
                user: (&*ticket.scope.user).into(),
                key: ticket.key.clone(),
                fingerprint: entry.fingerprint,
                until_unix_ms: unix_ms.saturating_add(until_ms - now_ms),
                outcome: recorded(record),
            })
        });
        entries.collect()
    }

    /// Restores keys of a snapshot. Those that find no room, and those whose time is over, are left out. Returns how many
    /// found no room.
    pub(super) fn restore(&mut self, mut records: Vec<CommandRecord>, now_ms: u64, unix_ms: u64) -> usize {
        records.sort_by_key(|record| record.until_unix_ms);
        let mut left_out = 0;
        for stored in records {
            // A clock that was set back does not make a key live longer.
            let left_ms = stored
                .until_unix_ms
                .saturating_sub(unix_ms)
                .min(self.settings.window_ms);
            let scope = Scope {
                tenant: stored.tenant,
                user: stored.user.into(),
            };
            let record = restored(stored.outcome);
            let bytes = cost(&stored.key, &record);
            if left_ms == 0 {
                continue;
            }
            if self.check_room(&scope, bytes, None).is_err() {
                left_out += 1;
                continue;
            }
            let number = self.next_number();
            let ticket = Ticket {
                scope,
                key: stored.key,
                number,
                is_repeat: false,
            };
            self.keep(ticket, stored.fingerprint, record, now_ms + left_ms);
        }
        left_out
    }

    fn keep(&mut self, ticket: Ticket, fingerprint: u128, record: Record, until_ms: u64) {
        let bytes = cost(&ticket.key, &record);
        self.insert(&ticket, fingerprint, bytes, State::Done { record, until_ms });
        self.ends.push_back((until_ms, ticket));
    }

    fn insert(&mut self, ticket: &Ticket, fingerprint: u128, bytes: usize, state: State<W>) {
        self.count += 1;
        self.bytes += bytes;
        self.kept_bytes += if state.is_done() { bytes } else { ENTRY_BYTES };
        let user = self.users.entry(ticket.scope.clone()).or_insert_with(|| User {
            entries: HashMap::new(),
            bytes: 0,
        });
        user.bytes += bytes;
        let entry = Entry {
            number: ticket.number,
            fingerprint,
            bytes,
            state,
        };
        user.entries.insert(ticket.key.clone(), entry);
    }

    fn remove(&mut self, scope: &Scope, key: &CommandKey) {
        let Some(user) = self.users.get_mut(scope) else { return };
        let Some(entry) = user.entries.remove(key) else { return };
        self.count -= 1;
        self.bytes -= entry.bytes;
        self.kept_bytes -= if entry.state.is_done() {
            entry.bytes
        } else {
            ENTRY_BYTES
        };
        user.bytes -= entry.bytes;
        if user.entries.is_empty() {
            self.users.remove(scope);
        }
    }

    fn entry(&mut self, ticket: &Ticket) -> Option<&mut Entry<W>> {
        let entries = &mut self.users.get_mut(&ticket.scope)?.entries;
        entries
            .get_mut(&ticket.key)
            .filter(|entry| entry.number == ticket.number)
    }

    /// Whether a key with this many bytes fits, if it replaces one with `replaced` bytes. The error is the answer to its
    /// command.
    fn check_room(&self, scope: &Scope, bytes: usize, replaced: Option<usize>) -> Result<(), CommandOutcome> {
        let Settings {
            keys_max, bytes_max, ..
        } = self.settings;
        let (fewer, less) = (usize::from(replaced.is_some()), replaced.unwrap_or(0));
        if self.count - fewer >= keys_max || self.bytes - less + bytes > bytes_max {
            let text = "the gateway remembers as many keys as it may; the command was not carried out, try again later";
            return Err(refused(ErrorCode::Overloaded, text.to_owned()));
        }
        let is_over = self.users.get(scope).is_some_and(|user| {
            let others = user.entries.len() - fewer;
            let is_full = others >= keys_max / USER_SHARE || user.bytes - less + bytes > bytes_max / USER_SHARE;
            // A user may have one key in any case.
            others > 0 && is_full
        });
        if is_over {
            let text = "this user has as many keys as it may; the command was not carried out, try again later";
            return Err(refused(ErrorCode::RateLimited, text.to_owned()));
        }
        Ok(())
    }

    const fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

impl<W> Entry<W> {
    const fn is_live(&self, now_ms: u64) -> bool {
        match &self.state {
            State::Running(_) => true,
            State::Done { until_ms, .. } => now_ms < *until_ms,
        }
    }
}

impl<W> State<W> {
    const fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

fn cost(key: &CommandKey, record: &Record) -> usize {
    let text = match &record.outcome {
        CommandOutcome::Success { data: text } | CommandOutcome::Failure { error: text } => text.len(),
        CommandOutcome::Refused { message, .. } => message.len(),
    };
    ENTRY_BYTES + 2 * key.as_str().len() + text
}

fn recorded(record: &Record) -> RecordedOutcome {
    match &record.outcome {
        CommandOutcome::Success { data } => RecordedOutcome::Success(data.clone()),
        CommandOutcome::Failure { error } => RecordedOutcome::Failure(error.clone()),
        CommandOutcome::Refused { message, .. } => RecordedOutcome::Unknown {
            message: message.clone(),
            may_repeat: record.may_repeat,
        },
    }
}

fn restored(outcome: RecordedOutcome) -> Record {
    let (outcome, may_repeat) = match outcome {
        RecordedOutcome::Success(data) => (CommandOutcome::Success { data }, false),
        RecordedOutcome::Failure(error) => (CommandOutcome::Failure { error }, false),
        RecordedOutcome::Unknown { message, may_repeat } => {
            let code = ErrorCode::Unknown;
            (CommandOutcome::Refused { code, message }, may_repeat)
        }
    };
    Record { outcome, may_repeat }
}

fn refused(code: ErrorCode, message: String) -> CommandOutcome {
    CommandOutcome::Refused {
        code,
        message: message.into(),
    }
}
