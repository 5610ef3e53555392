//! How a session appends its replies to the outputs.

use std::ops::Range;

use super::{Context, Output, Outputs};
use tickgate_protocol::message::{ErrorCode, MessageType, Reply, RequestHead, RequestId, RequestRef};

impl Outputs {
    /// Empties the list and the bytes and keeps their memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        self.refused_messages = 0;
        self.refusals = None;
        self.sessions_recovered = 0;
        self.sessions_unrecovered = 0;
    }

    /// Queues a reply, if the dialect has this reply, and its acknowledgement, if the client asked for one.
    pub(super) fn reply(&mut self, reply: &Reply<'_>, context: &Context<'_>) {
        let dialect = &context.settings.dialect;
        let now_unix_ms = context.now.unix_ms;
        let answer = dialect.encode_reply(reply, now_unix_ms, &mut self.bytes);
        let acknowledgement = dialect.encode_acknowledgement(reply, now_unix_ms, &mut self.bytes);
        self.list
            .extend(answer.into_iter().chain(acknowledgement).map(|range| Output::Reply {
                start: range.start,
                end: range.end,
            }));
    }

    /// Queues the frame that `append` appends, all of it.
    pub(super) fn frame(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        append(&mut self.bytes);
        let end = self.bytes.len();
        self.list.push(Output::Reply { start, end });
    }

    /// Queues the frame that lies in the range which `append` returns.
    pub(super) fn range(&mut self, append: impl FnOnce(&mut Vec<u8>) -> Range<usize>) {
        let Range { start, end } = append(&mut self.bytes);
        self.list.push(Output::Reply { start, end });
    }

    /// Queues an `error`.
    pub(super) fn error(&mut self, request_ref: &RequestRef, code: ErrorCode, message: &str, context: &Context<'_>) {
        let reply = Reply::Error {
            request_ref,
            code,
            message,
        };
        self.reply(&reply, context);
    }

    /// Tells a trace by which rule or limit a request is refused.
    pub(super) fn explain(&mut self, why: impl FnOnce() -> Option<String>) {
        if let Some(refusals) = &mut self.refusals {
            refusals.extend(why());
        }
    }

    /// Queues the `response` to a command that the gateway itself refuses.
    pub(super) fn refuse_command(&mut self, id: &RequestId, code: ErrorCode, message: &str, context: &Context<'_>) {
        self.reply(&Reply::CommandRefused { id, code, message }, context);
    }

    /// Queues the answer to a request that was refused unread because messages came too fast.
    pub(super) fn rate_limited(&mut self, head: RequestHead, wait_ms: u32, context: &Context<'_>) {
        let RequestHead { id, message_type } = head;
        let request_ref = &RequestRef {
            id: Some(id.clone()),
            ..RequestRef::default()
        };
        let reply = match message_type {
            Some(message_type) if message_type.has_response() => {
                return self.rate_limited_command(&id, wait_ms, context);
            }
            // Every answer to `auth` is an `auth_result`.
            Some(MessageType::Auth) => {
                return self.reply(
                    &Reply::AuthRefused {
                        request_ref,
                        code: ErrorCode::RateLimited,
                        message: &too_fast(wait_ms),
                    },
                    context,
                );
            }
            _ => Reply::RateLimited {
                request_ref,
                retry_after_ms: wait_ms,
                refused: 1,
            },
        };
        self.reply(&reply, context);
    }

    /// Queues the `response` to a command that exceeded a rate limit.
    pub(super) fn rate_limited_command(&mut self, id: &RequestId, wait_ms: u32, context: &Context<'_>) {
        self.refuse_command(id, ErrorCode::RateLimited, &too_fast(wait_ms), context);
    }
}

fn too_fast(wait_ms: u32) -> String {
    format!("too fast; retry after {wait_ms} ms")
}
