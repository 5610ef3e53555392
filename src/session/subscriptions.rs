//! Subscriptions. A request takes effect as a whole or not at all; requests take effect in the order of their arrival,
//! and one subscribe request is under way at a time.

use super::activity::{PendingSubscribe, Subscribe, SubscriptionChange};
use super::parts::Checked;
use super::{Context, Output, Outputs, Session};
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::{Cursor, ErrorCode, Recover, Recovered, Reply, RequestRef, Resume, SubscribeOutcome};

impl Session {
    /// Carries a change out, or keeps it until the changes before it are done.
    pub(super) fn change_subscriptions(
        &mut self,
        change: SubscriptionChange,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        if let Some(activity) = &mut self.activity
            && activity.subscribe.is_some()
        {
            activity.deferred.push_back(change);
            return;
        }
        if change.subscribe {
            let SubscriptionChange {
                request_ref,
                patterns,
                resume,
                max_rate,
                more,
                ..
            } = change;
            let client_request = Subscribe {
                request_ref,
                patterns,
                max_rate,
                ignored: Vec::new(),
            };
            self.subscribe(client_request, (resume, more), context, out);
        } else {
            self.unsubscribe(&change.request_ref, &change.patterns, context, out);
        }
    }

    fn subscribe(
        &mut self,
        mut client_request: Subscribe,
        (resume, more): (Option<Resume>, bool),
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        // A message that is refused ends what earlier ones began.
        let parts = self.take_parts();
        let checked = self.check_subscribe(&mut client_request, resume, context);
        let checked = checked.and_then(|checked| self.join_parts((parts, more), checked, &mut client_request, context));
        let (resume, new) = match checked {
            Ok(Some(whole)) => whole,
            Ok(None) => {
                let outcome = SubscribeOutcome {
                    more: true,
                    ..SubscribeOutcome::default()
                };
                return self.reply_subscribed(&client_request, &outcome, context, out);
            }
            Err((code, message)) => {
                out.explain(|| self.why_not_subscribed(code, &client_request.patterns, context));
                return out.error(&client_request.request_ref, code, &message, context);
            }
        };
        if new.is_empty() {
            let Subscribe { patterns, max_rate, .. } = &client_request;
            self.change_wishes(patterns, *max_rate, out);
            let says_nothing = matches!(resume, Some(Resume::Cursor { cursor: None, .. }));
            let recovered = resume.map(|resume| match resume {
                Resume::Keys(_) => Recovered::Each(Vec::new()),
                Resume::Cursor { .. } => Recovered::Except(Vec::new()),
            });
            let outcome = SubscribeOutcome {
                recovered,
                cut: says_nothing,
                ..SubscribeOutcome::default()
            };
            return self.reply_subscribed(&client_request, &outcome, context, out);
        }
        let request = self.next_request();
        let max_rate = self.granted(client_request.max_rate);
        let limit = self.granted(None);
        self.activity().subscribe = Some(PendingSubscribe {
            request,
            limit,
            client_request: Some(client_request),
        });
        out.list.push(Output::Subscribe {
            request,
            patterns: new,
            resume,
            max_rate,
            is_automatic: false,
        });
    }

    // What a message asks for. Leaves out what is of no use.
    fn check_subscribe(
        &self,
        client_request: &mut Subscribe,
        resume: Option<Resume>,
        context: &Context<'_>,
    ) -> Result<Checked, (ErrorCode, String)> {
        let Subscribe { patterns, max_rate, .. } = &*client_request;
        let new = self.new_patterns(patterns, context)?;
        Self::check_wish(*max_rate, patterns, context.settings)?;
        let (resume, ignored) = self.take_usable(resume, &new, context);
        let resume = self.without_automatic(resume, patterns, context);
        client_request.ignored = ignored;
        Ok((resume, new))
    }

    // What the client says of channels that no new pattern covers, or that it receives already, is of no use: it is left
    // out, and the channels of `recover` are returned. A cursor of another user says nothing. The comparison is with the
    // distinct patterns only, whose number is bounded by the limit, so patterns repeated in the message cost nothing.
    fn take_usable(
        &self,
        resume: Option<Resume>,
        new: &[Pattern],
        context: &Context<'_>,
    ) -> (Option<Resume>, Vec<Channel>) {
        let is_usable = |channel: &Channel| {
            let matches = |pattern: &Pattern| pattern.matches(channel);
            new.iter().any(matches) && !self.patterns.iter().any(matches)
        };
        match resume {
            None => (None, Vec::new()),
            Some(Resume::Keys(Recover(mut keys))) => {
                let ignored = keys.extract_if(.., |(channel, _)| !is_usable(channel));
                let ignored = ignored.map(|(channel, _)| channel).collect();
                (Some(Resume::Keys(Recover(keys))), ignored)
            }
            Some(Resume::Cursor {
                cursor,
                newest,
                mut seen,
            }) => {
                seen.retain(|(channel, _)| is_usable(channel));
                let cursor = cursor.filter(|cursor| cursor.holder == self.holder(context));
                (Some(Resume::Cursor { cursor, newest, seen }), Vec::new())
            }
        }
    }

    // The automatic subscriptions began before the client could send its cursor, so nothing was recovered of their channels.
    fn without_automatic(&self, resume: Option<Resume>, patterns: &[Pattern], context: &Context<'_>) -> Option<Resume> {
        let automatic = &context.settings.auto_subscribe;
        let mut held = self.patterns.iter().filter(|held| automatic.contains(held));
        let is_late = held.any(|held| patterns.iter().any(|pattern| pattern.intersects(held)));
        match resume {
            Some(Resume::Cursor { newest, seen, .. }) if is_late => Some(Resume::Cursor {
                cursor: None,
                newest,
                seen,
            }),
            other => other,
        }
    }

    pub(super) fn holder(&self, context: &Context<'_>) -> u32 {
        let tenant = context.settings.tenant_name.as_deref();
        self.identity.as_ref().map_or(0, |identity| identity.holder(tenant))
    }

    /// Up to when the client has everything on its subscriptions; `None` if that is unknown now, or if it might lose
    /// something by giving it back: while a subscribe request is under way or waits, the client may be returning with an
    /// older cursor.
    #[must_use]
    pub fn cursor(&self, context: &Context<'_>) -> Option<Cursor> {
        let is_subscribing = self.activity.as_ref().is_some_and(|activity| activity.is_subscribing());
        let holder = self.holder(context);
        let cursor = context.cursor.map(|cursor| Cursor { holder, ..cursor });
        let is_used = (self.engine_io.as_ref()).is_none_or(|engine_io| engine_io.pid.is_some());
        cursor.filter(|_| !self.patterns.is_empty() && !is_subscribing && is_used)
    }

    /// Subscribes to those of the endpoint's automatic patterns that the client may have. To be called once, as soon as
    /// the client has an identity and before any other subscription.
    pub(super) fn subscribe_automatically(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let Some(identity) = &self.identity else { return };
        let wanted = context.settings.auto_subscribe.iter().cloned();
        let (patterns, skipped): (Vec<_>, Vec<_>) = wanted.partition(|pattern| identity.may_subscribe(pattern));
        if !skipped.is_empty() {
            out.list.push(Output::Skipped { patterns: skipped });
        }
        if !patterns.is_empty() {
            let request = self.next_request();
            let limit = self.granted(None);
            self.activity().subscribe = Some(PendingSubscribe {
                request,
                limit,
                client_request: None,
            });
            out.list.push(Output::Subscribe {
                request,
                patterns,
                resume: None,
                max_rate: limit,
                is_automatic: true,
            });
        }
    }

    // The distinct patterns among these that are not held yet; an error if one of them is not allowed.
    pub(super) fn new_patterns(
        &self,
        patterns: &[Pattern],
        context: &Context<'_>,
    ) -> Result<Vec<Pattern>, (ErrorCode, String)> {
        let limit = context.settings.limits.subscriptions as usize;
        let automatic = &context.settings.auto_subscribe;
        let mut counted = self.patterns.iter().filter(|held| !automatic.contains(held)).count();
        let mut new: Vec<Pattern> = Vec::new();
        for pattern in patterns {
            let Some(identity) = &self.identity else {
                return Err((ErrorCode::Unauthenticated, "not authenticated".to_owned()));
            };
            if !identity.may_subscribe(pattern) {
                let mut message = format!("channel \"{pattern}\" is not allowed for this user");
                if !pattern.is_exact() {
                    message += ": no permission covers all that it matches";
                }
                return Err((ErrorCode::Forbidden, message));
            }
            if self.patterns.contains(pattern) || new.contains(pattern) {
                continue;
            }
            let mut refused = context.settings.refused_values.iter();
            if let Some(problem) = refused.find_map(|refused| refused.problem(pattern)) {
                return Err((ErrorCode::InvalidChannel, problem));
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

    // The rule or the limit by which a `subscribe` is refused.
    fn why_not_subscribed(&self, code: ErrorCode, patterns: &[Pattern], context: &Context<'_>) -> Option<String> {
        let identity = self.identity.as_ref()?;
        match code {
            ErrorCode::Forbidden => patterns
                .iter()
                .find_map(|pattern| Some(format!("{pattern}: {}", identity.explain_subscribe(pattern).err()?))),
            ErrorCode::SubscriptionLimit => Some(format!(
                "limits.subscriptions is {}",
                context.settings.limits.subscriptions
            )),
            _ => None,
        }
    }

    pub(super) fn on_subscribed(
        &mut self,
        request: u32,
        interned: Vec<Pattern>,
        outcome: &SubscribeOutcome,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        let Some(PendingSubscribe {
            client_request, limit, ..
        }) = activity.subscribe.take_if(|pending| pending.request == request)
        else {
            return;
        };
        if self.on_returned(&interned, outcome, context, out) {
            return self.resume_changes(context, out);
        }
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.subscribed_at = outcome.began_at;
        }
        let (held, new) = (self.patterns.len(), interned.len());
        self.patterns.reserve_exact(new);
        self.patterns.extend(interned);
        if let Some(client_request) = &client_request {
            let Subscribe { patterns, max_rate, .. } = client_request;
            self.note_wish(new, *max_rate);
            self.change_wishes(patterns, *max_rate, out);
            self.reply_subscribed(client_request, outcome, context, out);
        }
        if outcome.stale.count > 0 {
            let reply = Reply::Freshness {
                is_stale: true,
                count: outcome.stale.count,
                channels: &outcome.stale.names,
            };
            out.reply(&reply, context);
        }
        // A token that was accepted meanwhile may have another limit.
        self.apply_limit(held, limit, out);
        // A token that was accepted meanwhile may cover less.
        self.unsubscribe_forbidden(context, out);
        self.resume_changes(context, out);
    }

    /// The shard has no memory for the subscribe request under way.
    pub(super) fn on_overloaded(
        &mut self,
        request: u32,
        retry_after_ms: u32,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        let Some(pending) = activity.subscribe.take_if(|pending| pending.request == request) else {
            return;
        };
        if let Some(Subscribe { request_ref, .. }) = pending.client_request {
            let reply = Reply::Overloaded {
                request_ref: &request_ref,
                retry_after_ms,
            };
            out.reply(&reply, context);
        }
        self.resume_changes(context, out);
    }

    /// The gateway has no connection to the other gateways, so nobody knows what the channels contain.
    pub(super) fn on_subscribe_refused(&mut self, request: u32, context: &Context<'_>, out: &mut Outputs) {
        let Some(activity) = &mut self.activity else { return };
        let Some(pending) = activity.subscribe.take_if(|pending| pending.request == request) else {
            return;
        };
        match pending.client_request {
            Some(Subscribe { request_ref, .. }) => {
                let message = "the gateway has no connection to the other gateways; subscribe again later";
                out.error(&request_ref, ErrorCode::BrokerUnavailable, message, context);
            }
            // Nobody would repeat the automatic subscriptions.
            None => self.end(Disconnect::Overload, out),
        }
        self.resume_changes(context, out);
    }

    // Carries out the deferred changes, up to and including the next subscribe request.
    fn resume_changes(&mut self, context: &Context<'_>, out: &mut Outputs) {
        while let Some(activity) = &mut self.activity
            && activity.subscribe.is_none()
            && let Some(change) = activity.deferred.pop_front()
        {
            self.change_subscriptions(change, context, out);
        }
    }

    fn reply_subscribed(
        &self,
        Subscribe {
            request_ref,
            patterns,
            max_rate,
            ignored,
        }: &Subscribe,
        outcome: &SubscribeOutcome,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let reply = Reply::Subscribed {
            request_ref,
            patterns,
            active: self.patterns.len(),
            outcome,
            max_rate: self.told_rate(patterns, *max_rate, context.settings),
            ignored,
            cursor: self.cursor(context),
            beyond: context.beyond,
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
            out.list.push(Output::Unsubscribe { patterns: left });
        }
        let reply = Reply::Unsubscribed {
            request_ref,
            patterns,
            active: self.patterns.len(),
            lost_permission: false,
        };
        out.reply(&reply, context);
    }

    /// Ends the subscriptions that the current token does not cover, and tells the client.
    pub(super) fn unsubscribe_forbidden(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let Some(identity) = self.identity.clone() else { return };
        let lost = self.take_patterns(|held| !identity.may_subscribe(held));
        if lost.is_empty() {
            return;
        }
        out.list.push(Output::Unsubscribe { patterns: lost.clone() });
        let reply = Reply::Unsubscribed {
            request_ref: &RequestRef::default(),
            patterns: &lost,
            active: self.patterns.len(),
            lost_permission: true,
        };
        out.reply(&reply, context);
    }

    fn take_patterns(&mut self, mut leaves: impl FnMut(&Pattern) -> bool) -> Vec<Pattern> {
        let mut leaving = Vec::new();
        let taken = self.patterns.extract_if(.., |held| {
            leaving.push(leaves(held));
            leaving.last() == Some(&true)
        });
        let taken = taken.collect();
        self.wishes.remove(|index| leaving[index]);
        taken
    }
}
