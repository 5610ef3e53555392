//! `/api/revocations`: tokens that are refused although they have not expired.
//!
//! Invariant: when the response comes, no new connection can have the token, and each one that had it has got its end, or
//! gets it from its shard next.

use std::cmp::Reverse;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Admin;
use super::access::{Operator, Viewer};
use super::act::Reason;
use super::clients::{SHARD_TIMEOUT, seconds};
use super::query::Query;
use super::routes::Call;
use crate::auth::{Revocation, RevokedTokens, TOKEN_ID_BYTES_MAX};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::time::unix_ms;
use tickgate_protocol::channel::{TenantNames, is_segment};

/// The longest time for which a revocation is kept, in milliseconds: 400 days.
const KEPT_MS_MAX: u64 = 400 * 86_400_000;

const HELP: &str = "the body must be {\"jti\":\"…\"} or {\"sub\":\"…\"}, and may have `issued_before` (with `sub`) and \
                    `expires_at`, both in Unix seconds, and `reason`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    jti: Option<Box<str>>,
    sub: Option<Box<str>>,
    issued_before: Option<f64>,
    expires_at: Option<f64>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct RevokeReply {
    #[serde(flatten)]
    revocation: Shown,
    /// Connections that were ended.
    ended: usize,
    /// Whether a snapshot or NATS keeps it over a restart.
    survives_restart: bool,
}

#[derive(Serialize)]
struct ListReply {
    revocations: Vec<Shown>,
    /// How many fit, on all pages.
    total: usize,
    next_cursor: Option<String>,
}

/// A revocation, as it is shown. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Shown {
    /// Absent in a gateway without tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<f64>,
    until: f64,
}

impl Shown {
    fn of(revocation: Revocation, tenants: &TenantNames) -> Self {
        let (jti, sub, issued_before) = match revocation.tokens {
            RevokedTokens::WithId(id) => (Some(id), None, None),
            RevokedTokens::OfUser { user, issued_before_ms } => (None, Some(user), Some(seconds(issued_before_ms))),
        };
        Self {
            tenant: (!tenants.is_empty()).then(|| tenants.label(revocation.tenant).into()),
            jti,
            sub,
            issued_before,
            until: seconds(revocation.until_unix_ms),
        }
    }
}

impl Admin {
    /// `POST /api/revocations`
    pub(super) async fn revoke(&self, operator: Operator, call: Call) -> HttpResponse {
        let (address, body) = match self.small_body::<Revoke>(call, HELP).await {
            Ok(body) => body,
            Err(refused) => return *refused,
        };
        let verifier = &self.parts.verifier;
        let (tenant, now_ms) = (operator.tenant(), unix_ms());
        let read = read(&body, now_ms).map(|(tokens, ends_ms)| Revocation {
            tenant,
            tokens,
            until_unix_ms: verifier.revocation_end_ms(tenant, ends_ms, now_ms),
        });
        let revocation = match read {
            Ok(revocation) => revocation,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let target = match &revocation.tokens {
            RevokedTokens::WithId(id) => format!("token {id}"),
            RevokedTokens::OfUser { user, .. } => format!("tokens of user {user}"),
        };
        let reason = Reason::given(body.reason.as_deref(), &target);
        self.operate("admin.revoke", &operator, address, &reason, async {
            let ended = match self.revoke_here(revocation.clone()).await {
                Ok(ended) => ended,
                Err(refused) => return *refused,
            };
            let elsewhere = match self.revoke_elsewhere(&revocation, ended).await {
                Ok(ended) => ended,
                Err(unsure) => return *unsure,
            };
            let reply = RevokeReply {
                revocation: Shown::of(revocation, &self.tenants),
                ended: ended + elsewhere,
                survives_restart: self.parts.health.snapshot_failing().is_some() || self.is_one_of_several(),
            };
            response::json(StatusCode::OK, &reply)
        })
        .await
    }

    /// Revokes tokens at this gateway. Returns how many connections were ended.
    ///
    /// # Errors
    ///
    /// The response when there are too many revocations, or a shard does not answer.
    pub(super) async fn revoke_here(&self, revocation: Revocation) -> Result<usize, Box<HttpResponse>> {
        let mut answers = Vec::new();
        let revoked = self.parts.verifier.revoke(revocation, unix_ms(), || {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            Box::new(move |count| {
                // The receiver is gone when the request was dropped meanwhile.
                let _ = reply.send(count);
            })
        });
        if let Err(full) = revoked {
            return Err(response::error(HttpErrorCode::Overloaded, &full.to_string()).into());
        }
        let mut ended = 0;
        for answer in answers {
            match timeout(SHARD_TIMEOUT, answer).await {
                // A shard that has ended has no connections.
                Ok(count) => ended += count.unwrap_or(0),
                Err(_) => {
                    let text = "the tokens are revoked, but a shard does not answer: its connections end later";
                    return Err(response::error(HttpErrorCode::Overloaded, text).into());
                }
            }
        }
        Ok(ended)
    }

    /// `GET /api/revocations?search&limit&cursor`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn revocations(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let (search, limit, from) = match page_query(&call.query()) {
            Ok(query) => query,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let list = self.parts.verifier.revocations().list(viewer.scope(), unix_ms());
        let mut found: Vec<_> = list.into_iter().filter(|one| name(one).contains(&*search)).collect();
        // Those that end last first: with one lifetime of tokens these are the newest.
        found.sort_by(|a, b| {
            (Reverse(a.until_unix_ms), name(a), a.tenant).cmp(&(Reverse(b.until_unix_ms), name(b), b.tenant))
        });
        let total = found.len();
        let page = found.into_iter().skip(from).take(limit);
        let revocations: Vec<_> = page.map(|one| Shown::of(one, &self.tenants)).collect();
        let next = from + revocations.len();
        let reply = ListReply {
            revocations,
            total,
            next_cursor: (next < total).then(|| next.to_string()),
        };
        response::json(StatusCode::OK, &reply)
    }
}

fn name(revocation: &Revocation) -> &str {
    match &revocation.tokens {
        RevokedTokens::WithId(id) => id,
        RevokedTokens::OfUser { user, .. } => user,
    }
}

/// The tokens that are meant, and when the last of them ends, in Unix milliseconds. The error is the message for the client.
fn read(body: &Revoke, now_ms: u64) -> Result<(RevokedTokens, Option<u64>), String> {
    let ends_ms = body.expires_at.map(milliseconds);
    if ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms || ends_ms > now_ms + KEPT_MS_MAX) {
        return Err("`expires_at` must be a time within the next 400 days, in Unix seconds".to_owned());
    }
    let tokens = match (&body.jti, &body.sub) {
        (Some(id), None) => {
            if body.issued_before.is_some() {
                return Err("`issued_before` goes with `sub` only".to_owned());
            }
            if id.is_empty() || id.len() > TOKEN_ID_BYTES_MAX {
                return Err(format!("`jti` must have 1 to {TOKEN_ID_BYTES_MAX} bytes"));
            }
            RevokedTokens::WithId(id.clone())
        }
        (None, Some(user)) => {
            if !is_segment(user) {
                return Err("`sub` must be a user, as in the token: one channel segment".to_owned());
            }
            let issued_before_ms = body.issued_before.map_or(now_ms, milliseconds);
            if issued_before_ms > now_ms + KEPT_MS_MAX {
                return Err("`issued_before` must be a time in Unix seconds, at most 400 days from now".to_owned());
            }
            RevokedTokens::OfUser {
                user: user.clone(),
                issued_before_ms,
            }
        }
        _ => return Err(HELP.to_owned()),
    };
    Ok((tokens, ends_ms))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

/// What the names contain, the length of the page, and the index of its first revocation. The error is the message for the
/// client.
fn page_query(query: &Query<'_>) -> Result<(String, usize, usize), String> {
    let limit = query.limit()?;
    let from = match query.get("cursor")? {
        None => 0,
        Some(cursor) => (cursor.parse()).map_err(|_| "`cursor` must be the `next_cursor` of another page")?,
    };
    Ok((query.get("search")?.unwrap_or_default().into_owned(), limit, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_703_846_400_000;

    fn of(body: &str) -> Result<(RevokedTokens, Option<u64>), String> {
        let body: Revoke = serde_json::from_str(body).map_err(|error| error.to_string())?;
        read(&body, NOW_MS)
    }

    #[test]
    fn a_body_names_one_token_or_the_tokens_of_a_user() {
        assert_eq!(of(r#"{"jti":"t-1"}"#), Ok((RevokedTokens::WithId("t-1".into()), None)));
        let user = |issued_before_ms| RevokedTokens::OfUser {
            user: "42".into(),
            issued_before_ms,
        };
        assert_eq!(of(r#"{"sub":"42","reason":"lost phone"}"#), Ok((user(NOW_MS), None)));
        assert_eq!(
            of(r#"{"sub":"42","issued_before":1703846399.5,"expires_at":1703850000}"#),
            Ok((user(1_703_846_399_500), Some(1_703_850_000_000)))
        );
        for (wrong, word) in [
            ("{}", "must be {"),
            (r#"{"jti":"a","sub":"b"}"#, "must be {"),
            (r#"{"jti":""}"#, "`jti`"),
            (r#"{"jti":"a","issued_before":1}"#, "`issued_before` goes"),
            (r#"{"sub":"a.b"}"#, "`sub`"),
            (r#"{"sub":"a","issued_before":1e300}"#, "`issued_before`"),
            (r#"{"sub":"a","expires_at":1703846400}"#, "`expires_at`"),
            (r#"{"sub":"a","expires_at":1e300}"#, "`expires_at`"),
            (r#"{"user":"a"}"#, "unknown field"),
        ] {
            let message = of(wrong).expect_err(wrong);
            assert!(message.contains(word), "{wrong}: {message}");
        }
        let long = format!(r#"{{"jti":"{}"}}"#, "x".repeat(TOKEN_ID_BYTES_MAX + 1));
        assert!(of(&long).is_err());
    }

    #[test]
    fn pages_are_checked() {
        let read = |query| page_query(&Query::of(query));
        assert_eq!(read(""), Ok((String::new(), 100, 0)));
        assert_eq!(read("search=a%20b&limit=7&cursor=14"), Ok(("a b".to_owned(), 7, 14)));
        for wrong in ["limit=0", "limit=1001", "cursor=-1", "cursor=x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
