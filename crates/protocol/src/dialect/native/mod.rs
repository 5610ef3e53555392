//! The native dialect (`zigquant-v2`): one JSON object per text message.

mod encode;
mod parse;

pub(super) use encode::{Style, Writer, encode_event, encode_reply};
pub(super) use parse::{Envelope, Select, Selection, parse, parse_with, request_head};
