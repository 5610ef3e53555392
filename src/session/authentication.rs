//! Authentication: the handshake's token, `auth`, and token refresh.

use std::sync::Arc;

use super::activity::PendingRequest;
use super::{Context, Output, Outputs, Session, Token};
use crate::auth::{Identity, Mode, TokenError};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::{ErrorCode, Reply, RequestRef};

impl Session {
    pub(super) fn on_opened(&mut self, context: &Context<'_>, out: &mut Outputs) {
        self.limit_bytes(0, context.settings, out);
        if self.engine_io.is_some() {
            return self.open_engine_io(context, out);
        }
        let refusal = self
            .activity
            .as_mut()
            .and_then(|activity| activity.handshake_refusal.take());
        if let Some(TokenError { code, message }) = refusal {
            let reply = Reply::AuthRefused {
                request_ref: &RequestRef::default(),
                code,
                message: &message,
            };
            out.reply(&reply, context);
            let ending = match code {
                ErrorCode::TokenExpired => Disconnect::TokenExpired,
                ErrorCode::Internal => Disconnect::Internal,
                _ => Disconnect::TokenInvalid,
            };
            return self.end(ending, out);
        }
        let client_id = self.client_id();
        let connected = Reply::Connected {
            client_id: &client_id,
            user: None,
        };
        out.reply(&connected, context);
        self.warn_of_expiry(context, out);
        self.subscribe_automatically(context, out);
    }

    /// Handles `auth`. Where authentication is off, every token is accepted and none is looked at. An empty token is none,
    /// and changes nothing.
    pub(super) fn auth(&mut self, request_ref: RequestRef, token: &str, context: &Context<'_>, out: &mut Outputs) {
        if context.settings.auth_mode == Mode::Off {
            return self.reply_auth_accepted(&request_ref, context, out);
        }
        if token.trim_ascii().is_empty() {
            let reply = Reply::AuthRefused {
                request_ref: &request_ref,
                code: ErrorCode::Unauthenticated,
                message: "the token is empty",
            };
            return out.reply(&reply, context);
        }
        self.verify(request_ref, token.into(), out);
    }

    /// Asks the shard to verify a token.
    pub(super) fn verify(&mut self, request_ref: RequestRef, token: Box<str>, out: &mut Outputs) {
        let request = self.next_request();
        self.activity().verify = Some(PendingRequest { request, request_ref });
        let token = Token(token);
        out.list.push(Output::Verify { request, token });
    }

    pub(super) fn on_verified(
        &mut self,
        request: u32,
        outcome: Result<Arc<Identity>, TokenError>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        let Some(PendingRequest { request_ref, .. }) = activity.verify.take_if(|pending| pending.request == request)
        else {
            return;
        };
        if self.is_connecting() {
            return self.on_connect_verified(outcome, context, out);
        }
        let refuse = |code, message: &str, out: &mut Outputs| {
            let reply = Reply::AuthRefused {
                request_ref: &request_ref,
                code,
                message,
            };
            out.reply(&reply, context);
        };
        match outcome {
            Err(TokenError { code, message }) => refuse(code, &message, out),
            Ok(new) if self.is_another_user(&new) => {
                let message = "the token belongs to another user; open another connection for it";
                refuse(ErrorCode::AuthSubjectMismatch, message, out);
            }
            Ok(new) => {
                let is_first = self.identity.is_none();
                let limit = self.granted(None);
                let bytes_before = self.bytes_per_second(context.settings);
                self.identity = Some(new);
                self.limit_bytes(bytes_before, context.settings, out);
                self.activity().auth_deadline_ms = None;
                self.expiry_warned = false;
                self.reply_auth_accepted(&request_ref, context, out);
                self.unsubscribe_forbidden(context, out);
                self.apply_limit(0, limit, out);
                self.warn_of_expiry(context, out);
                if is_first {
                    self.subscribe_automatically(context, out);
                }
            }
        }
    }

    fn reply_auth_accepted(&self, request_ref: &RequestRef, context: &Context<'_>, out: &mut Outputs) {
        let identity = self.identity.as_deref();
        let reply = Reply::AuthAccepted {
            request_ref,
            user: identity.and_then(|identity| identity.user.as_deref()),
            role: identity.and_then(|identity| identity.role.as_deref()),
            expires_at_ms: identity.and_then(|identity| identity.exp_ms),
        };
        out.reply(&reply, context);
    }

    fn is_another_user(&self, new: &Identity) -> bool {
        let current = self.identity.as_ref().and_then(|identity| identity.user.as_deref());
        current.is_some_and(|user| new.user.as_deref() != Some(user))
    }
}
