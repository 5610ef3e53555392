//! What a request of an Engine.IO endpoint says in its query.

use super::Flaw;
use crate::ingress::http::request::query_value;
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES, Sid};

/// Which way a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Polling,
    WebSocket,
}

/// The query, read. Parameters that are not known (`t`, `b64`, an application's own) are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) transport: Transport,
    pub(super) revision: Revision,
    /// `None`: it asks for a new session.
    pub(super) session: Option<Named>,
}

/// A session by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) to: ConnectionId,
    pub(super) secret: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Named").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Reads the query, complaining in the order of the reference implementation.
pub(super) fn read(query: &str) -> Result<Query, Flaw> {
    let value = |name| query_value(query, name).map_err(|_| Flaw::BadRequest);
    let transport = match value("transport")?.as_deref() {
        Some("polling") => Transport::Polling,
        Some("websocket") => Transport::WebSocket,
        _ => return Err(Flaw::Transport),
    };
    let revision = value("EIO")?
        .and_then(|text| Revision::parse(&text))
        .ok_or(Flaw::Version)?;
    // JSONP is a script that another origin may read.
    if value("j")?.is_some() {
        return Err(Flaw::BadRequest);
    }
    let session = match value("sid")? {
        None => None,
        Some(text) => Some(named(&text).ok_or(Flaw::Session)?),
    };
    Ok(Query {
        transport,
        revision,
        session,
    })
}

fn named(text: &str) -> Option<Named> {
    let sid = Sid::parse(text)?;
    Some(Named {
        to: ConnectionId::from_public_bits(sid.place)?,
        secret: sid.secret,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_refused_as_the_reference_does() {
        let opens = |query| read(query).map(|query| (query.transport, query.revision, query.session.is_some()));
        assert_eq!(
            opens("EIO=4&transport=polling&t=abc"),
            Ok((Transport::Polling, Revision::Four, false))
        );
        assert_eq!(
            opens("token=x&transport=websocket&EIO=3"),
            Ok((Transport::WebSocket, Revision::Three, false))
        );
        for (query, flaw) in [
            ("EIO=4", Flaw::Transport),
            ("EIO=4&transport=abc", Flaw::Transport),
            ("EIO=4&transport=webtransport", Flaw::Transport),
            ("", Flaw::Transport),
            ("transport=polling", Flaw::Version),
            ("EIO=abc&transport=polling", Flaw::Version),
            ("EIO=5&transport=websocket", Flaw::Version),
            ("EIO=4&transport=polling&sid=abc", Flaw::Session),
            ("EIO=4&transport=polling&sid=", Flaw::Session),
            ("EIO=3&transport=polling&j=0", Flaw::BadRequest),
            ("EIO=4&EIO=3&transport=polling", Flaw::BadRequest),
        ] {
            assert_eq!(read(query).expect_err(query), flaw, "{query}");
        }
    }

    #[test]
    fn a_session_is_found_by_its_name_alone() {
        let to = ConnectionId {
            shard: 3,
            slot: 77,
            generation: 0xdead_beef,
        };
        let sid = Sid {
            place: to.public_bits(),
            secret: [7; SECRET_BYTES],
        };
        let query = format!("EIO=4&transport=polling&sid={}", sid.to_text());
        let session = read(&query).expect("a query").session.expect("a session");
        assert_eq!((session.to, session.secret), (to, [7; SECRET_BYTES]));
        assert!(!format!("{session:?}").contains('7') || !format!("{session:?}").contains("secret"));
    }
}
