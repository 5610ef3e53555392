//! Patterns held: all or nothing, in the order asked, one join at a time.

use super::extra::{PendingJoin, Subscribe, SubscriptionChange};
use super::machine::Session;
use super::{Context, Output, Outputs};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::message::{ErrorCode, Recover, Reply, RequestRef, SubscribeOutcome};

impl Session {
    /// Carries a change out, or keeps it until the changes before it are through.
    pub(super) fn change_subscriptions(
        &mut self,
        change: SubscriptionChange,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        if let Some(extra) = &mut self.extra
            && extra.join.is_some()
        {
            extra.deferred.push_back(change);
            return;
        }
        if change.subscribe {
            self.subscribe(change.request_ref, change.patterns, change.recover, context, out);
        } else {
            self.unsubscribe(&change.request_ref, &change.patterns, context, out);
        }
    }

    fn subscribe(
        &mut self,
        request_ref: RequestRef,
        patterns: Vec<Pattern>,
        recover: Option<Recover>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let new = self.new_patterns(&patterns, context).and_then(|new| {
            self.check_recover(recover.as_ref(), &new)?;
            Ok(new)
        });
        match new {
            Err((code, message)) => out.error(&request_ref, code, &message, context),
            Ok(new) if new.is_empty() => {
                let standing = SubscribeOutcome {
                    recovered: recover.map(|_| Vec::new()),
                    ..SubscribeOutcome::default()
                };
                self.subscribed(&request_ref, &patterns, &standing, context, out);
            }
            Ok(new) => {
                let request = self.next_request();
                self.extra().join = Some(PendingJoin {
                    request,
                    asked: Some(Subscribe { request_ref, patterns }),
                });
                out.list.push(Output::Join {
                    request,
                    patterns: new,
                    recover,
                });
            }
        }
    }

    // A client that says where it was must ask for the channel and not be getting it already. Only what is held and what
    // is new is asked, both bounded by the limit: what a message repeats costs nothing.
    fn check_recover(&self, recover: Option<&Recover>, new: &[Pattern]) -> Result<(), (ErrorCode, String)> {
        for (channel, _) in recover.iter().flat_map(|recover| &recover.0) {
            let matches = |pattern: &Pattern| pattern.matches(channel.as_str());
            let wrong = if self.patterns.iter().any(matches) {
                "it is being received already"
            } else if !new.iter().any(matches) {
                "no pattern in `channels` covers it"
            } else {
                continue;
            };
            let message = format!("`recover` of \"{channel}\" cannot be served: {wrong}");
            return Err((ErrorCode::InvalidMessage, message));
        }
        Ok(())
    }

    /// Joins the endpoint's automatic subscriptions, as far as they are allowed. To be called once, when it is known
    /// who the client is and nothing else was joined.
    pub(super) fn subscribe_automatically(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let Some(identity) = &self.identity else { return };
        let wanted = context.settings.auto_subscribe.iter().cloned();
        let (patterns, skipped): (Vec<_>, Vec<_>) = wanted.partition(|pattern| identity.may_subscribe(pattern));
        if !skipped.is_empty() {
            out.list.push(Output::Skipped { patterns: skipped });
        }
        if !patterns.is_empty() {
            let request = self.next_request();
            self.extra().join = Some(PendingJoin { request, asked: None });
            out.list.push(Output::Join {
                request,
                patterns,
                recover: None,
            });
        }
    }

    // The distinct patterns among these that are not held yet, if all of them may be.
    fn new_patterns(&self, patterns: &[Pattern], context: &Context<'_>) -> Result<Vec<Pattern>, (ErrorCode, String)> {
        let limit = context.settings.limits.subscriptions as usize;
        let automatic = &context.settings.auto_subscribe;
        let mut counted = self.patterns.iter().filter(|held| !automatic.contains(held)).count();
        let mut new: Vec<Pattern> = Vec::new();
        for pattern in patterns {
            let Some(identity) = &self.identity else {
                return Err((ErrorCode::Unauthenticated, "not authenticated".to_owned()));
            };
            if !identity.may_subscribe(pattern) {
                let message = format!("channel \"{pattern}\" is not allowed for this user");
                return Err((ErrorCode::Forbidden, message));
            }
            if self.patterns.contains(pattern) || new.contains(pattern) {
                continue;
            }
            let counts = !automatic.contains(pattern);
            if counts && counted >= limit {
                let message = format!("channel \"{pattern}\" would exceed the limit of {limit} subscriptions");
                return Err((ErrorCode::SubscriptionLimit, message));
            }
            counted += usize::from(counts);
            new.push(pattern.clone());
        }
        Ok(new)
    }

    pub(super) fn joined(
        &mut self,
        request: u32,
        interned: Vec<Pattern>,
        standing: &SubscribeOutcome,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(extra) = &mut self.extra else { return };
        let Some(PendingJoin { asked, .. }) = extra.join.take_if(|join| join.request == request) else {
            return;
        };
        self.patterns.reserve_exact(interned.len());
        self.patterns.extend(interned);
        if let Some(Subscribe { request_ref, patterns }) = asked {
            self.subscribed(&request_ref, &patterns, standing, context, out);
        }
        // A token that came while the join was on its way may cover less.
        self.leave_forbidden(context, out);
        self.resume_changes(context, out);
    }

    // Carries out what waited behind a join, up to the next join.
    fn resume_changes(&mut self, context: &Context<'_>, out: &mut Outputs) {
        while let Some(extra) = &mut self.extra
            && extra.join.is_none()
            && let Some(change) = extra.deferred.pop_front()
        {
            self.change_subscriptions(change, context, out);
        }
    }

    fn subscribed(
        &self,
        request_ref: &RequestRef,
        patterns: &[Pattern],
        standing: &SubscribeOutcome,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let reply = Reply::Subscribed {
            request_ref,
            patterns,
            active: self.patterns.len(),
            standing,
        };
        out.reply(&reply, context);
    }

    fn unsubscribe(
        &mut self,
        request_ref: &RequestRef,
        patterns: &[Pattern],
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let left = self.take_patterns(|held| patterns.contains(held));
        if !left.is_empty() {
            out.list.push(Output::Leave { patterns: left });
        }
        let reply = Reply::Unsubscribed {
            request_ref,
            patterns,
            active: self.patterns.len(),
            lost_permission: false,
        };
        out.reply(&reply, context);
    }

    /// Ends the subscriptions that the present token does not cover, and says so.
    pub(super) fn leave_forbidden(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let Some(identity) = self.identity.clone() else { return };
        let lost = self.take_patterns(|held| !identity.may_subscribe(held));
        if lost.is_empty() {
            return;
        }
        out.list.push(Output::Leave { patterns: lost.clone() });
        let reply = Reply::Unsubscribed {
            request_ref: &RequestRef::default(),
            patterns: &lost,
            active: self.patterns.len(),
            lost_permission: true,
        };
        out.reply(&reply, context);
    }

    fn take_patterns(&mut self, mut leaves: impl FnMut(&Pattern) -> bool) -> Vec<Pattern> {
        self.patterns.extract_if(.., |held| leaves(held)).collect()
    }
}
