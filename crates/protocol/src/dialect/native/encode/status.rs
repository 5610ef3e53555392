//! The answer to `get_status`.

use super::{Style, Writer};
use crate::json::{push_string, push_u64};
use crate::message::Status;

impl<S: Style> Writer<'_, S> {
    pub(super) fn status(&mut self, status: &Status<'_>) {
        self.begin("status", status.request_ref);
        self.push(",\"connected_at\":");
        push_u64(self.out, status.connected_at_ms / 1000);
        self.push(".");
        let fraction = status.connected_at_ms % 1000;
        for digit in [fraction / 100, fraction / 10 % 10, fraction % 10] {
            push_u64(self.out, digit);
        }
        self.push(",\"subscriptions\":");
        self.style.push_subscriptions(status.subscriptions, self.out);
        for (index, (pattern, rate)) in status.max_rates.iter().enumerate() {
            self.push(if index == 0 { ",\"max_rates\":{" } else { "," });
            push_string(self.out, &self.style.subscription_text(pattern));
            self.push(":");
            self.push(rate.as_str());
        }
        if !status.max_rates.is_empty() {
            self.push("}");
        }
        if let Some(bytes) = status.bytes_per_second {
            self.push(",\"bytes_per_second\":");
            push_u64(self.out, bytes.into());
        }
        self.push(",\"message_count\":");
        push_u64(self.out, status.message_count);
        self.push(",\"client_id\":");
        push_string(self.out, status.client_id);
        self.push(",\"user\":");
        self.text_or_null(status.user);
        self.push(",\"dropped\":");
        push_u64(self.out, status.dropped);
    }
}
