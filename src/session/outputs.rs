//! How a session appends its replies to the outputs.

use std::ops::Range;

use super::{Context, Output, Outputs};
use tickgate_protocol::message::{ErrorCode, Reply, RequestId, RequestRef};

impl Outputs {
    /// Empties the list and the bytes and keeps their memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        self.refused_messages = 0;
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

    /// Queues the `response` to a command that the gateway itself refuses.
    pub(super) fn refuse_command(&mut self, id: &RequestId, code: ErrorCode, message: &str, context: &Context<'_>) {
        self.reply(&Reply::CommandRefused { id, code, message }, context);
    }

    /// Queues the `response` to a command that exceeded a rate limit.
    pub(super) fn rate_limited_command(&mut self, id: &RequestId, wait_ms: u32, context: &Context<'_>) {
        let message = format!("too fast; retry after {wait_ms} ms");
        self.refuse_command(id, ErrorCode::RateLimited, &message, context);
    }
}
