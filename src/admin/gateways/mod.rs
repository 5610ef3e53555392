//! The gateways that share a broker: who they are, and what one of them does for all.
//!
//! Invariant: what an operator does to all gateways is answered as done only if each gateway that was heard of lately has
//! said so.

mod members;
mod orders;
mod revoked;

use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;

use self::members::{FORMAT, Member, Members, TELL_MS};
use super::Admin;
use super::access::{Viewer, forbidden};
use super::overview::{Check, Status};
use crate::backend::feeds::Feeds;
use crate::broker::{Peers, Reply, Service, Taken};
use crate::ingress::http::response::{self, HttpResponse};

pub(super) use orders::Order;
pub(super) use revoked::Revoked;
pub use revoked::learn;

/// The subject on which gateways tell of themselves, behind the prefix, and the one of orders to all of them.
const STATE: &str = "gateways.state";
const ORDERS: &str = "gateways.orders";

/// How long telling the others that this gateway ends may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// The gateways that share the broker of this one.
#[derive(Default)]
pub(super) struct Gateways {
    peers: OnceLock<Arc<dyn Peers>>,
    others: Mutex<Members>,
}

/// One gateway in a reply.
#[derive(Serialize)]
struct Gateway {
    node: Box<str>,
    version: Box<str>,
    /// `ok`, `silent`, or why it is not ready.
    status: Box<str>,
    /// More about it, if the gateway has no link to the broker.
    reason: Option<Box<str>>,
    connections: u64,
    /// How long ago it told of itself; `null` for the gateway that answers.
    heard_seconds: Option<f64>,
}

#[derive(Serialize)]
struct GatewaysReply {
    gateways: Vec<Gateway>,
    /// Of those that are not silent.
    connections: u64,
}

impl Gateway {
    fn of(member: &Member, age_ms: Option<u64>) -> Self {
        Self {
            node: member.node.clone(),
            version: member.version.clone(),
            status: member.status.clone(),
            reason: member.reason.clone(),
            connections: member.connections,
            heard_seconds: age_ms.map(super::clients::seconds),
        }
    }
}

impl Admin {
    /// Joins the gateways that share this broker, once.
    pub fn join(self: &Arc<Self>, peers: Arc<dyn Peers>) {
        let admin = Arc::downgrade(self);
        peers.answer(services(&admin));
        let _ = self.gateways.peers.set(peers);
    }

    /// Tells the other gateways of this one, as long as it runs.
    pub async fn tell_others(self: Arc<Self>) {
        let Some(peers) = self.gateways.peers.get() else { return };
        let mut ticks = tokio::time::interval(Duration::from_millis(TELL_MS));
        loop {
            ticks.tick().await;
            self.tell_state(&**peers, false).await;
        }
    }

    /// Tells the other gateways that this one ends.
    pub async fn leave(&self) {
        if let Some(peers) = self.gateways.peers.get() {
            let farewell = async {
                self.tell_state(&**peers, true).await;
                peers.flush().await;
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
    }

    async fn tell_state(&self, peers: &dyn Peers, leaves: bool) {
        let member = Member {
            leaves,
            ..self.as_member(peers.id())
        };
        let text = serde_json::to_vec(&member).unwrap_or_default();
        peers.tell(STATE, text.into()).await;
    }

    fn as_member(&self, id: u64) -> Member {
        let parts = &self.parts;
        let connections = parts.statistics.read(parts.clock.now()).total.connections;
        Member {
            v: FORMAT,
            id,
            node: parts.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            status: parts.health.not_ready().unwrap_or("ok").into(),
            reason: parts.health.broker_trouble().map(|(_, reason)| (*reason).into()),
            connections: u64::try_from(connections).unwrap_or(0),
            leaves: false,
        }
    }

    fn note_gateway(&self, payload: &Bytes) {
        let Ok(member) = serde_json::from_slice::<Member>(payload) else {
            return tracing::debug!("what another gateway tells of itself cannot be read");
        };
        let is_other = self.gateways.peers.get().is_some_and(|peers| peers.id() != member.id);
        if member.v == FORMAT && is_other {
            let now_ms = self.parts.clock.now().mono_ms;
            self.gateways.others.lock().note(member, now_ms);
        }
    }

    /// `GET /api/gateways`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn gateways(&self, viewer: Viewer) -> HttpResponse {
        if viewer.bound().is_some() {
            return forbidden("this shows all tenants: it needs a key of [admin]");
        }
        let now_ms = self.parts.clock.now().mono_ms;
        let own = self.as_member(0);
        let others = self.gateways.others.lock();
        let live = others.live(now_ms).map(|(member, age_ms)| (member, Some(age_ms)));
        let mut gateways: Vec<Gateway> = std::iter::once((&own, None))
            .chain(live)
            .map(|(member, age_ms)| Gateway::of(member, age_ms))
            .collect();
        let connections = gateways.iter().map(|gateway| gateway.connections).sum();
        gateways.extend(others.silent(now_ms).map(|(member, age_ms)| Gateway {
            status: "silent".into(),
            reason: None,
            ..Gateway::of(member, Some(age_ms))
        }));
        response::json(StatusCode::OK, &GatewaysReply { gateways, connections })
    }

    /// Whether the gateway shares a broker with others.
    pub(super) fn is_one_of_several(&self) -> bool {
        self.gateways.peers.get().is_some()
    }

    /// What is to be said of the other gateways; `None`: this one stands alone.
    pub(super) fn check_gateways(&self, own_connections: i64) -> Option<Check> {
        self.gateways.peers.get()?;
        let now_ms = self.parts.clock.now().mono_ms;
        Some(check(
            &self.gateways.others.lock(),
            (&self.parts.node, own_connections),
            now_ms,
        ))
    }
}

fn check(others: &Members, (node, connections): (&str, i64), now_ms: u64) -> Check {
    let live: Vec<&Member> = others.live(now_ms).map(|(member, _)| member).collect();
    // A gateway that drains may have a successor under its name.
    let staying = live.iter().filter(|member| &*member.status != "draining");
    let mut names: Vec<&str> = staying.map(|member| &*member.node).chain([node]).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let detail = format!(
            "two gateways have the name {:?}: give each its own server.node",
            pair[0]
        );
        return Check::new("gateways", Status::Warn, detail);
    }
    if let Some((silent, age_ms)) = others.silent(now_ms).next() {
        let detail = format!(
            "{:?} fell silent {} s ago without leaving: does it run, and does it reach the broker?",
            silent.node,
            age_ms / 1000
        );
        return Check::new("gateways", Status::Warn, detail);
    }
    if let Some(unfit) = live.iter().find(|member| &*member.status == "broker_unfit") {
        let detail = format!(
            "{:?} is not ready: {}",
            unfit.node,
            unfit.reason.as_deref().unwrap_or_default()
        );
        return Check::new("gateways", Status::Warn, detail);
    }
    let of_others: u64 = live.iter().map(|member| member.connections).sum();
    let all = of_others + u64::try_from(connections).unwrap_or(0);
    let detail = match live.len() {
        0 => "this gateway is alone with its broker".to_owned(),
        others => format!("{} gateways share the broker, with {all} connections", 1 + others),
    };
    Check::new("gateways", Status::Ok, detail)
}

/// What the gateway answers over the broker.
fn services(admin: &Weak<Admin>) -> Vec<Service> {
    type Answered = Pin<Box<dyn Future<Output = Reply> + Send>>;
    fn service<F: Future<Output = Reply> + Send + 'static>(
        (subject, is_shared): (&'static str, bool),
        admin: &Weak<Admin>,
        answer: impl Fn(Arc<Admin>, Taken) -> F + Send + Sync + 'static,
    ) -> Service {
        let admin = admin.clone();
        Service {
            subject,
            is_shared,
            answer: Box::new(move |request| -> Answered {
                match admin.upgrade() {
                    Some(admin) => Box::pin(answer(admin, request)),
                    // The gateway ends.
                    None => Box::pin(std::future::ready(Reply::default())),
                }
            }),
        }
    }
    vec![
        service((Admin::PUBLISH_SUBJECT, true), admin, |admin, request| async move {
            admin.publish_request(request).await
        }),
        service((STATE, false), admin, |admin, request| async move {
            admin.note_gateway(&request.payload);
            Reply::default()
        }),
        service((Feeds::TOPIC, false), admin, |admin, request| async move {
            admin.parts.feeds.hear(request.payload);
            Reply::default()
        }),
        service((ORDERS, false), admin, |admin, request| async move {
            admin.take_order(&request.payload).await
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, node: &str) -> Member {
        Member {
            v: FORMAT,
            id,
            node: node.into(),
            version: "1".into(),
            status: "ok".into(),
            reason: None,
            connections: 100,
            leaves: false,
        }
    }

    #[test]
    fn the_check_of_the_gateways_names_what_is_wrong() {
        let mut others = Members::default();
        let said = |others: &Members, now_ms| {
            let check = check(others, ("a", 5), now_ms);
            (check.status, check.detail)
        };
        assert_eq!(said(&others, 0).0, Status::Ok);
        others.note(member(2, "b"), 0);
        let (status, detail) = said(&others, 0);
        assert_eq!(status, Status::Ok);
        assert_eq!(detail, "2 gateways share the broker, with 105 connections");
        let unfit = Member {
            status: "broker_unfit".into(),
            reason: Some("its classes differ".into()),
            ..member(4, "c")
        };
        others.note(unfit, 0);
        let (status, detail) = said(&others, 0);
        assert_eq!(
            (status, &*detail),
            (Status::Warn, "\"c\" is not ready: its classes differ")
        );
        others.note(
            Member {
                leaves: true,
                ..member(4, "c")
            },
            0,
        );
        let (status, detail) = said(&others, 8000);
        assert!(
            status == Status::Warn && detail.contains("\"b\" fell silent 8 s ago"),
            "{detail}"
        );
        let draining = Member {
            status: "draining".into(),
            ..member(3, "a")
        };
        others.note(draining, 8000);
        assert!(!said(&others, 8000).1.contains("two gateways"));
        others.note(member(3, "a"), 8000);
        let (status, detail) = said(&others, 8000);
        assert!(
            status == Status::Warn && detail.contains("two gateways have the name \"a\""),
            "{detail}"
        );
    }
}
