//! From a connection to the right place in the log.

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::Shared;
use super::entry::{array, bytes, number, sequence};
use super::inspect::ask;
use super::scripts::{Scripts, run};
use crate::broker::link::{ANSWER, ATTEMPTS, End, OTHERS_GONE};
use crate::broker::replica::{Extent, Newest, Place};
use crate::broker::terms::{Notice, Table};

/// What the keys say of the log.
pub(super) struct LogState {
    newest: Option<Newest>,
    pub(super) extent: Extent,
}

/// The outcome of writing a notice.
pub(super) enum Written {
    /// It is stored.
    At(Place),
    /// Another gateway has written one before.
    Overtaken,
}

impl Shared {
    /// Reads where the log begins and ends, and its newest notice.
    pub(super) async fn read_state(&self, connection: &mut MultiplexedConnection) -> Result<LogState, End> {
        let keys = &self.keys;
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("HMGET")
            .arg(&keys.state)
            .arg(&["notice_at", "notice_ms", "notice", "floor", "bytes"]);
        for stream in [&keys.events, &keys.kept] {
            pipe.cmd("XREVRANGE").arg(stream).arg(&["+", "-", "COUNT", "1"]);
        }
        let answer: Value = match timeout(ANSWER, pipe.query_async(connection)).await {
            Ok(answer) => answer.map_err(|error| End::Failed(format!("the log cannot be read: {error}")))?,
            Err(_) => return Err(End::Failed("the log cannot be read in time".to_owned())),
        };
        self.parse_state(answer).unwrap_or_else(|| {
            Err(End::Failed(
                "the server's answer about the log cannot be read".to_owned(),
            ))
        })
    }

    fn parse_state(&self, answer: Value) -> Option<Result<LogState, End>> {
        let mut parts = array(answer)?.into_iter();
        let fields = array(parts.next()?)?;
        let [notice_at, notice_ms, notice, floor, kept_bytes] = &fields[..] else {
            return None;
        };
        let mut last = || -> Option<u64> {
            match array(parts.next()?)?.into_iter().next() {
                None => Some(0),
                Some(entry) => sequence(array(entry)?.first()?),
            }
        };
        let (last, kept) = (last()?, last()?);
        let notice_at = number(notice_at);
        let extent = Extent {
            first: 1 + number(floor).unwrap_or(0),
            last,
        };
        let is_kept_lost = kept == 0 && number(kept_bytes).unwrap_or(0) > 0;
        if notice_at.unwrap_or(0) > last || kept > last || (notice_at.is_none() && last > 0) || is_kept_lost {
            return Some(Err(End::Unfit(format!(
                "the keys {0}:… do not belong together: some were deleted; stop all gateways and delete every key that \
                 begins with {0}:",
                self.keys.tag
            ))));
        }
        let Some(notice_at) = notice_at else {
            return Some(Ok(LogState { newest: None, extent }));
        };
        let newest = Newest::of(notice_at, number(notice_ms)?, bytes(notice)?);
        Some(match newest {
            Some(newest) => Ok(LogState {
                newest: Some(newest),
                extent,
            }),
            None => Err(End::Unfit(format!(
                "the newest notice in {} is not one of this version of tickgate",
                self.keys.state
            ))),
        })
    }

    /// Reads the newest notice, and writes one of its own that names this server.
    pub(super) async fn take_terms(
        &self,
        connection: &mut MultiplexedConnection,
        scripts: &Scripts,
        incarnation: &str,
    ) -> Result<Table, End> {
        let mut waited = false;
        for _ in 0..ATTEMPTS {
            let state = self.read_state(connection).await?;
            let sequence = state.newest.as_ref().map_or(0, |newest| newest.sequence);
            if let Some(Newest { notice, .. }) = &state.newest
                && self.differs(notice)
                && !waited
            {
                tokio::time::sleep(OTHERS_GONE).await;
                let later = self.read_state(connection).await?.newest;
                if let Some(later) = later.filter(|later| later.sequence > sequence) {
                    if later.notice.incarnation == incarnation {
                        let term = later.table.current().id;
                        self.messages.stay_outside(connection.clone(), scripts.clone(), term);
                    }
                    let theirs = self.stored_classes(connection).await?;
                    return Err(self.other_classes(notice, theirs.as_deref()));
                }
                waited = true;
                continue;
            }
            let notice = self.notice_at_attach(state.newest, state.extent, incarnation);
            if let Written::At(place) = self.write_notice(connection, scripts, &notice, sequence).await? {
                return self.attached_by(&notice, place);
            }
        }
        Err(End::Failed("other gateways write into the log all the time".to_owned()))
    }

    /// What was stored last of the classes of channels.
    async fn stored_classes(&self, connection: &mut MultiplexedConnection) -> Result<Option<Vec<u8>>, End> {
        let mut command = redis::cmd("HGET");
        command.arg(&self.keys.state).arg("classes");
        ask(connection, &command, "the stored classes of channels cannot be read").await
    }

    /// Stores the classes of channels, so that a gateway with others can say which one differs.
    pub(super) async fn store_classes(&self, connection: &mut MultiplexedConnection) -> Result<(), End> {
        let table = serde_json::to_vec(&self.membership.classes).unwrap_or_default();
        if self
            .stored_classes(connection)
            .await?
            .is_none_or(|stored| stored != table)
        {
            let mut command = redis::cmd("HSET");
            command.arg(&self.keys.state).arg("classes").arg(table);
            // Without it, that gateway only says that one differs.
            if let Err(end) = ask::<u64>(connection, &command, "the classes of channels are not stored").await {
                tracing::debug!(reason = end.reason(), "the classes of channels are not stored");
            }
        }
        Ok(())
    }

    /// Writes a notice, on condition that the newest one has the number `after`.
    pub(super) async fn write_notice(
        &self,
        connection: &mut MultiplexedConnection,
        scripts: &Scripts,
        notice: &Notice,
        after: u64,
    ) -> Result<Written, End> {
        let payload = serde_json::to_vec(notice).unwrap_or_default();
        let current = notice.terms.last().map_or(0, |term| term.id);
        let mut command = self.keys.call(&scripts.notice, &[&self.keys.events, &self.keys.state]);
        command
            .arg(after)
            .arg(self.settings.plain_bytes)
            .arg(notice.opens.unwrap_or(current))
            .arg(payload);
        let answer = run(connection, &command).await;
        let (number, stored_ms, is_this): (u64, u64, u8) =
            answer.map_err(|error| End::Failed(format!("the server does not take a notice: {error}")))?;
        self.note_newest(number);
        Ok(if is_this == 1 {
            Written::At(Place {
                sequence: number,
                stored_ms,
                is_replayed: false,
            })
        } else {
            Written::Overtaken
        })
    }
}
