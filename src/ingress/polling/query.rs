//! The query of an Engine.IO request.

use crate::ingress::http::request::query_value;
use crate::ingress::refusal::EngineIoError;
use crate::ingress::session_request::SessionName;
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::dialect::engine_io::{Revision, Sid};

/// The transport that a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Polling,
    WebSocket,
}

const BAD_QUERY: &str = "a parameter occurs twice, or is not percent-encoded UTF-8";

/// The parsed query. Unknown parameters (`t`, `b64`, those of the application) are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) transport: Transport,
    pub(super) revision: Revision,
    /// `None` asks for a new session.
    pub(super) session: Option<SessionName>,
}

/// Parses a query for an endpoint of a tenant, and checks it in the order of the reference implementation.
pub(super) fn parse(query: &str, tenant: Tenant) -> Result<Query, EngineIoError> {
    let value = |name| query_value(query, name).map_err(|_| EngineIoError::BadRequest(BAD_QUERY));
    let transport = match value("transport")?.as_deref() {
        Some("polling") => Transport::Polling,
        Some("websocket") => Transport::WebSocket,
        _ => return Err(EngineIoError::UnknownTransport),
    };
    // Clients of Engine.IO 3 that do not send `EIO` exist: Socket.IO-Client-Swift up to version 15.
    let revision = match value("EIO")?.as_deref() {
        None | Some("") => Revision::Three,
        Some(text) => Revision::parse(text).ok_or(EngineIoError::UnsupportedVersion)?,
    };
    // A JSONP response is a script, which pages of every origin can read.
    if value("j")?.is_some() {
        return Err(EngineIoError::BadRequest("JSONP is not offered"));
    }
    // An empty `sid` is none, as in the reference implementation.
    let session = match value("sid")?.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(session_name(&text, tenant).ok_or(EngineIoError::UnknownSession)?),
    };
    Ok(Query {
        transport,
        revision,
        session,
    })
}

fn session_name(text: &str, tenant: Tenant) -> Option<SessionName> {
    let sid = Sid::parse(text)?;
    Some(SessionName {
        to: ConnectionId::from_public_bits(sid.connection)?,
        secret: sid.secret,
        tenant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickgate_protocol::dialect::engine_io::SECRET_BYTES;

    #[test]
    fn queries_are_parsed_and_refused_like_the_reference_implementation() {
        let parse = |query: &str| parse(query, Tenant::DEFAULT);
        let parsed = |query| parse(query).map(|query| (query.transport, query.revision, query.session.is_some()));
        assert_eq!(
            parsed("EIO=4&transport=polling&t=abc"),
            Ok((Transport::Polling, Revision::Four, false))
        );
        assert_eq!(
            parsed("token=x&transport=websocket&EIO=3"),
            Ok((Transport::WebSocket, Revision::Three, false))
        );
        assert_eq!(
            parsed("EIO=4&transport=polling&sid="),
            Ok((Transport::Polling, Revision::Four, false)),
            "an empty `sid` names no session"
        );
        for (query, transport) in [
            ("transport=polling&b64=1", Transport::Polling),
            ("transport=websocket", Transport::WebSocket),
            ("EIO=&transport=polling", Transport::Polling),
        ] {
            assert_eq!(parsed(query), Ok((transport, Revision::Three, false)), "{query}");
        }
        for (query, error) in [
            ("EIO=4", EngineIoError::UnknownTransport),
            ("EIO=4&transport=abc", EngineIoError::UnknownTransport),
            ("EIO=4&transport=webtransport", EngineIoError::UnknownTransport),
            ("", EngineIoError::UnknownTransport),
            ("transport=polling&sid=abc", EngineIoError::UnknownSession),
            ("EIO=2&transport=polling", EngineIoError::UnsupportedVersion),
            ("EIO=abc&transport=polling", EngineIoError::UnsupportedVersion),
            ("EIO=5&transport=websocket", EngineIoError::UnsupportedVersion),
            ("EIO=4&transport=polling&sid=abc", EngineIoError::UnknownSession),
            (
                "EIO=3&transport=polling&j=0",
                EngineIoError::BadRequest("JSONP is not offered"),
            ),
            ("EIO=4&EIO=3&transport=polling", EngineIoError::BadRequest(BAD_QUERY)),
        ] {
            assert_eq!(parse(query).expect_err(query), error, "{query}");
        }
    }

    #[test]
    fn a_session_name_is_parsed_and_its_secret_is_not_shown() {
        let to = ConnectionId {
            shard: 3,
            slot: 77,
            generation: 0xdead_beef,
        };
        let sid = Sid {
            connection: to.public_bits(),
            secret: [211; SECRET_BYTES],
        };
        let query = format!("EIO=4&transport=polling&sid={}", sid.to_text());
        let session = parse(&query, Tenant::DEFAULT)
            .expect("a query")
            .session
            .expect("a session");
        assert_eq!((session.to, session.secret), (to, [211; SECRET_BYTES]));
        let shown = format!("{session:?}");
        assert!(shown.contains("SessionName") && !shown.contains("211"), "{shown}");
    }
}
