//! What people do through the admin API, in the same audit trail as audited commands; and the commands that were answered
//! last, for the console.
//!
//! Invariant: an operation is carried out only after there is room for its audit line, if the trail has to be complete.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::audit::{NoRoom, Reservation, code};
use super::{Request, Router};
use crate::session::CommandOutcome;
use crate::time::unix_ms;
use tickgate_protocol::channel::{Channel, Tenant};
use tickgate_protocol::message::{ErrorCode, RequestId};

/// How long an operation may wait for room in the audit trail.
const AUDIT_WAIT: Duration = Duration::from_secs(5);

/// Answered commands that are remembered.
const ANSWERED_MAX: usize = 500;

/// An operation that is about to be carried out.
pub struct Operation {
    request: Request,
    address: Option<IpAddr>,
    reservation: Option<Reservation>,
    began: Instant,
}

/// The audit trail cannot be written, so the operation must not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit trail cannot be written, so nothing was done; try again later")]
pub struct TrailFull;

impl Router {
    /// Begins an operation. `action` is a valid channel such as `admin.disconnect`, `params` one JSON value with the reason.
    ///
    /// # Errors
    ///
    /// [`TrailFull`] when the audit trail has no room within five seconds.
    ///
    /// # Panics
    ///
    /// When `action` is not a valid channel.
    pub async fn begin_operation(
        &self,
        action: &'static str,
        operator: &str,
        tenant: Tenant,
        params: Bytes,
        address: Option<IpAddr>,
    ) -> Result<Operation, TrailFull> {
        let began = Instant::now();
        let reservation = match self.audit().reserve(began + AUDIT_WAIT).await {
            Ok(reservation) => reservation,
            Err(NoRoom) => return Err(TrailFull),
        };
        let request = Request {
            tenant: None,
            id: RequestId::Number(0),
            action: (Channel::parse(action).expect("a valid name")).in_tenant(tenant),
            params,
            key: None,
            user: Some(operator.into()),
            role: Some("operator".into()),
            client_id: "admin API".into(),
            timestamp_ms: unix_ms(),
            trace: None,
        };
        Ok(Operation {
            request,
            address,
            reservation,
            began,
        })
    }

    /// Records how an operation ended: `Err` when nothing was there to be changed, or it was refused.
    pub fn end_operation(&self, operation: Operation, outcome: Result<(), ErrorCode>) {
        let outcome = match outcome {
            Ok(()) => CommandOutcome::Success {
                data: Bytes::from_static(b"null"),
            },
            Err(code) => CommandOutcome::Refused {
                code,
                message: Box::default(),
            },
        };
        let Operation {
            request,
            address,
            reservation,
            began,
        } = operation;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.audit()
            .record(&request, address, &outcome, duration_ms, reservation);
    }
}

/// A command that was answered.
#[derive(Clone, Debug)]
pub struct AnsweredCommand {
    /// The user.
    pub user: Option<Arc<str>>,
    /// The connection's public name.
    pub client_id: Box<str>,
    /// The action.
    pub action: Channel,
    /// `success`, `failure` or `refused`.
    pub outcome: &'static str,
    /// The code of a failure or refusal.
    pub code: Option<Box<str>>,
    /// When the gateway received it, in Unix milliseconds.
    pub received_at_ms: u64,
    /// How long the answer took, in milliseconds.
    pub duration_ms: u64,
}

/// The commands that were answered last, newest last.
#[derive(Default)]
pub(super) struct Answered(Mutex<VecDeque<AnsweredCommand>>);

impl Answered {
    pub(super) fn push(&self, request: &Request, outcome: &CommandOutcome, duration_ms: u64) {
        let command = AnsweredCommand {
            user: request.user.clone(),
            client_id: request.client_id.clone(),
            action: request.action.clone(),
            outcome: match outcome {
                CommandOutcome::Success { .. } => "success",
                CommandOutcome::Failure { .. } => "failure",
                CommandOutcome::Refused { .. } => "refused",
            },
            code: code(outcome).map(String::into_boxed_str),
            received_at_ms: request.timestamp_ms,
            duration_ms,
        };
        let mut commands = self.0.lock();
        if commands.len() == ANSWERED_MAX {
            commands.pop_front();
        }
        commands.push_back(command);
    }

    /// Those of a tenant's user, newest first.
    pub(super) fn of_user(&self, tenant: Tenant, user: &str, limit: usize) -> Vec<AnsweredCommand> {
        let commands = self.0.lock();
        let of_user = commands
            .iter()
            .rev()
            .filter(|command| command.action.tenant() == tenant && command.user.as_deref() == Some(user));
        of_user.take(limit).cloned().collect()
    }
}
