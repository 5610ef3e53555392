//! The native dialect (`zigquant-v2`): one JSON object per text message.

mod encode;
mod parse;

pub(super) use encode::{encode_event, encode_reply};
pub(super) use parse::{command_id, parse};
