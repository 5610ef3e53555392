//! `[otlp]`.

use crate::backend::spans::{self, CollectorUrl};
use crate::config::check::{Because, at_most, not_blank};
use crate::config::declare::section;

section! {
    /// `[otlp]`.
    struct Otlp {
        /// The collector of spans: a URL of OTLP over HTTP, such as `http://127.0.0.1:4318`. Without a path, `/v1/traces` is
        /// added. If this is not set, no spans are recorded.
        value endpoint: Option<CollectorUrl> = None;
        /// `service.name` of the spans.
        value service: Option<String> = None, check not_blank;
        /// Of the requests that bring no `traceparent`, one in so many is recorded; 0: none. A request that brings one is
        /// recorded if its sender records it.
        value one_in: u32 = 1,
            check |requests| at_most(*requests, 1_000_000_000).because("rarer traces are none: use 0");
    }
}

impl Otlp {
    /// `None`: no spans are recorded.
    pub(in crate::config) fn settings(&self) -> Option<spans::Settings> {
        Some(spans::Settings {
            endpoint: self.endpoint.clone()?,
            service: self.service.as_deref().unwrap_or("tickgate").into(),
            one_in: self.one_in,
        })
    }
}
