//! What one gateway asks all others to do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::members::FORMAT;
use super::{Admin, ORDERS, Revoked};
use crate::auth::Revocation;
use crate::broker::{NoReply, Reply};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::time::unix_ms;
use tickgate_protocol::channel::Pattern;

/// How long the other gateways may take. It is shorter than that of operators' tools.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is to be done. Tenants are named as operators name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum Order {
    /// End one connection, of this tenant if there is one.
    Disconnect {
        client_id: Box<str>,
        tenant: Option<Box<str>>,
    },
    /// End all connections of a user.
    DisconnectUser { user: Box<str>, tenant: Box<str> },
    /// Say that channels are alive.
    KeepAlive { channels: Vec<Box<str>>, tenant: Box<str> },
    /// Revoke tokens.
    Revoke(Revoked),
}

#[derive(Serialize, Deserialize)]
struct Message {
    v: u8,
    from: u64,
    order: Order,
}

/// What a gateway did.
#[derive(Serialize, Deserialize)]
struct Done {
    v: u8,
    id: u64,
    /// Connections that were ended; `None`: the gateway could not do all of it.
    ended: Option<usize>,
}

/// What the other gateways did.
#[derive(Debug, Default)]
pub(in crate::admin) struct Elsewhere {
    /// Connections that were ended.
    pub(in crate::admin) ended: usize,
    /// The gateways that did not say that they have done it.
    missing: Vec<Box<str>>,
}

impl Elsewhere {
    /// The response if a gateway did not say what it did.
    pub(in crate::admin) fn unless_all(&self, ended_here: usize) -> Option<HttpResponse> {
        if self.missing.is_empty() {
            return None;
        }
        let missing = self.missing.join(", ");
        let message = match ended_here + self.ended {
            0 => format!("not all gateways have answered (missing: {missing}): repeat the request"),
            ended => format!(
                "{ended} connections ended, but not all gateways have answered (missing: {missing}): repeat the request"
            ),
        };
        Some(response::error(HttpErrorCode::OutcomeUnknown, &message))
    }
}

impl Admin {
    /// Lets all other gateways do something.
    pub(in crate::admin) async fn order_others(&self, order: Order) -> Elsewhere {
        let Some(peers) = self.gateways.peers.get() else {
            return Elsewhere::default();
        };
        let now_ms = self.parts.clock.now().mono_ms;
        let mut missing: BTreeMap<u64, Box<str>> = {
            let others = self.gateways.others.lock();
            let live = others.live(now_ms).map(|(member, _)| (member.id, member.node.clone()));
            live.collect()
        };
        let message = Message {
            v: FORMAT,
            from: peers.id(),
            order,
        };
        let payload = serde_json::to_vec(&message).unwrap_or_default();
        let (mut ended, mut failed) = (0, Vec::new());
        let take = |reply: Reply| {
            if let Ok(done) = serde_json::from_slice::<Done>(&reply.payload) {
                let known = missing.remove(&done.id);
                match done.ended {
                    Some(count) => ended += count,
                    None => failed.push(known.unwrap_or_else(|| "a gateway".into())),
                }
            }
            // The own reply is among them, so that there is one if this gateway is alone.
            missing.is_empty()
        };
        let asked = tokio::time::timeout(PATIENCE, peers.request_all(ORDERS, payload.into(), Box::new(take))).await;
        let mut missing: Vec<_> = missing.into_values().chain(failed).collect();
        if let Ok(Err(error @ (NoReply::NotSent(_) | NoReply::Lost))) = asked
            && missing.is_empty()
        {
            tracing::warn!(%error, "other gateways cannot be reached");
            missing.push("those that this gateway cannot reach".into());
        }
        Elsewhere { ended, missing }
    }

    /// Revokes at all other gateways what is revoked here, and lets the broker remember it for those that are away. Returns how
    /// many connections were ended there.
    ///
    /// # Errors
    ///
    /// The response if not all of that is sure.
    pub(in crate::admin) async fn revoke_elsewhere(
        &self,
        revocation: &Revocation,
        ended_here: usize,
    ) -> Result<usize, Box<HttpResponse>> {
        let Some(peers) = self.gateways.peers.get() else {
            return Ok(0);
        };
        // Two revocations about the same are one, as long as the longer of them.
        let own = Revoked::of(revocation, &self.tenants);
        let in_force = self
            .parts
            .verifier
            .revocations()
            .list(Some(revocation.tenant), unix_ms());
        let in_force = in_force.iter().map(|one| Revoked::of(one, &self.tenants));
        let revoked = { in_force }.find(|one| one.name() == own.name()).unwrap_or(own);
        let fact = serde_json::to_vec(&revoked).unwrap_or_default();
        if let Err(refusal) = peers.remember(&revoked.name(), fact.into()).await {
            let message = format!(
                "the tokens are revoked at this gateway, but maybe not at others ({refusal}): repeat the request"
            );
            return Err(response::error(refusal.into(), &message).into());
        }
        let elsewhere = self.order_others(Order::Revoke(revoked)).await;
        elsewhere
            .unless_all(ended_here)
            .map_or(Ok(elsewhere.ended), |unknown| Err(unknown.into()))
    }

    /// Does what another gateway asks for.
    pub(super) async fn take_order(&self, payload: &Bytes) -> Reply {
        let id = self.gateways.peers.get().map_or(0, |peers| peers.id());
        let ended = match serde_json::from_slice::<Message>(payload) {
            Ok(Message { v: FORMAT, from, .. }) if from == id => Some(0),
            Ok(Message { v: FORMAT, order, .. }) => {
                // Publishers confirm channels all the time.
                if !matches!(order, Order::KeepAlive { .. }) {
                    tracing::info!(?order, "another gateway asks for this");
                }
                self.carry_out(order).await
            }
            // Of a newer version.
            Ok(_) | Err(_) => None,
        };
        let done = Done { v: FORMAT, id, ended };
        Reply {
            payload: serde_json::to_vec(&done).unwrap_or_default().into(),
            error: None,
        }
    }

    async fn carry_out(&self, order: Order) -> Option<usize> {
        match order {
            Order::Disconnect { client_id, tenant } => {
                let tenant = match tenant {
                    None => None,
                    Some(name) => Some(self.tenants.find(&name)?),
                };
                self.end_client(&client_id, tenant).await.ok().map(usize::from)
            }
            Order::DisconnectUser { user, tenant } => {
                let tenant = self.tenants.find(&tenant)?;
                self.end_user(&user, tenant).await.ok()
            }
            Order::KeepAlive { channels, tenant } => {
                let tenant = self.tenants.find(&tenant)?;
                let parse = |text: &str| Some(Pattern::parse(text).ok()?.in_tenant(tenant));
                let patterns: Vec<Pattern> = channels.iter().map(|text| parse(text)).collect::<Option<_>>()?;
                self.keep_alive_here(&patterns);
                Some(0)
            }
            Order::Revoke(revoked) => {
                let revocation = revoked.revocation(&self.tenants)?;
                self.revoke_here(revocation).await.ok()
            }
        }
    }
}
