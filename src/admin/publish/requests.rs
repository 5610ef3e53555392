//! Publishing by a request over the broker, to `<prefix>.in.<tenant>.<channel>`.
//!
//! The body is that of `POST /api/publish`, and so is the reply. The items need no `channel`, since the subject names it.

use bytes::Bytes;
use serde::Serialize;

use super::batch::Batch;
use crate::admin::Admin;
use crate::admin::access::backend_of;
use crate::admin::body;
use crate::backend::spans::{Kind, Span};
use crate::broker::{NAME_OF_DEFAULT_TENANT, Reply, Taken};
use crate::ingress::http::HttpErrorCode;
use tickgate_protocol::channel::{Channel, Tenant};

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: HttpErrorCode,
    message: &'a str,
}

impl Admin {
    /// The subjects of requests that publish, behind the prefix.
    pub const PUBLISH_SUBJECT: &'static str = "in.*.>";

    /// Publishes for a backend that the broker lets write to the subject `in.<tenant>.<channel>`.
    pub async fn publish_request(&self, request: Taken) -> Reply {
        let mut span = (self.parts.tracer).begin(Kind::Server, request.trace, || "publish".to_owned());
        match self
            .try_publish_request(&request.subject, &request.payload, &span)
            .await
        {
            Ok(payload) => Reply { payload, error: None },
            Err((code, message)) => {
                span.set("error.type", code.as_str());
                span.fail(message.clone());
                let error = Error {
                    code,
                    message: &message,
                };
                Reply {
                    payload: serde_json::to_vec(&ErrorBody { error }).unwrap_or_default().into(),
                    error: Some((code.status().as_u16(), code.as_str().into())),
                }
            }
        }
    }

    async fn try_publish_request(
        &self,
        subject: &str,
        body: &Bytes,
        span: &Span,
    ) -> Result<Bytes, (HttpErrorCode, Box<str>)> {
        let named = subject.strip_prefix("in.").and_then(|rest| rest.split_once('.'));
        let (tenant, channel) = named.unwrap_or_default();
        let found = match tenant {
            NAME_OF_DEFAULT_TENANT => Some(Tenant::DEFAULT),
            name => self
                .tenants
                .iter()
                .find(|(_, known)| *known == name)
                .map(|(tenant, _)| tenant),
        };
        let tenant = found.ok_or_else(|| {
            let message = format!("there is no tenant {tenant:?}; the default one is {NAME_OF_DEFAULT_TENANT}");
            (HttpErrorCode::NotFound, message.into())
        })?;
        let channel = Channel::parse(channel).map_err(|error| {
            let message = format!("channel {channel:?} of the subject {error}");
            (HttpErrorCode::InvalidChannel, message.into())
        })?;
        let text = body::text(body).map_err(|what| {
            let message = format!("the body {what}");
            (HttpErrorCode::InvalidJson, message.into())
        })?;
        let caller = backend_of(tenant);
        let reply = self
            .publish_text(Batch::new(self, &caller).to(channel), text, span)
            .await?;
        Ok(serde_json::to_vec(&reply).unwrap_or_default().into())
    }
}
