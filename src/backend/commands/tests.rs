//! The router under test, with in-process handlers. The harness collects its answers and events.

mod complete_trail;
mod failing;
mod key_storm;
mod keys;
mod limits;
mod over_http;
mod routing;
mod sharing;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::auth::{Identity, Permissions};
use crate::broker::{Broker, Claims, Origin, Outcomes, Submitted};
use crate::event::NewEvent;
use crate::hub::Receipt;
use crate::session::Command;
use crate::time::Now;

/// Collects answers.
struct Answers {
    sender: mpsc::UnboundedSender<(ConnectionId, u32, CommandOutcome)>,
}

impl Responder for Answers {
    fn respond(&self, to: ConnectionId, request: u32, outcome: CommandOutcome) {
        self.sender.send((to, request, outcome)).expect("the test listens");
    }
}

/// Collects events.
#[derive(Default)]
struct Log(Mutex<Vec<NewEvent>>, Option<Arc<sharing::Fake>>);

impl Broker for Log {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let receipts = vec![Ok(Receipt::default()); events.len()];
        self.0.lock().extend(events);
        Box::pin(std::future::ready(receipts))
    }
    fn try_publish(&self, _: Origin, event: NewEvent, _: Now) -> Submitted {
        self.0.lock().push(event);
        Submitted::Done(Receipt::default())
    }
    fn claims(&self) -> Option<&dyn Claims> {
        self.1.as_deref().map(|fake| fake as &dyn Claims)
    }
}

/// A router, its answers and its audit events.
struct Harness {
    router: Router,
    answers: mpsc::UnboundedReceiver<(ConnectionId, u32, CommandOutcome)>,
    log: Arc<Log>,
    requests: u32,
}

fn connection(slot: u32) -> ConnectionId {
    ConnectionId {
        shard: 0,
        slot,
        generation: 0,
    }
}

impl Harness {
    fn new(settings: Settings) -> Self {
        Self::sharing(None, settings)
    }

    /// One of the gateways that share claims.
    fn sharing(claims: Option<Arc<sharing::Fake>>, settings: Settings) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let log = Arc::new(Log(Mutex::default(), claims));
        let broker = Arc::clone(&log) as Arc<dyn Broker>;
        let router = Router::new(
            settings,
            Box::new(Answers { sender }),
            broker,
            tokio::runtime::Handle::current(),
        );
        Self {
            router,
            answers,
            log,
            requests: 0,
        }
    }

    fn with_route(route: RouteSettings) -> Self {
        Self::new(Settings {
            routes: vec![route],
            ..Settings::default()
        })
    }

    fn send_from(&mut self, slot: u32, action: &str, params: &str) -> u32 {
        self.requests += 1;
        let source = CommandSource {
            connection: connection(slot),
            request: self.requests,
            client_id: "client_1",
            address: Some([10, 0, 0, 7].into()),
        };
        self.router.route(source, command(self.requests, action, params));
        self.requests
    }

    /// Sends one command and waits for its answer.
    async fn ask(&mut self, action: &str) -> CommandOutcome {
        let sent = self.send_from(1, action, "{}");
        let (to, request, outcome) = self.answers.recv().await.expect("an answer");
        assert_eq!((to, request), (connection(1), sent));
        outcome
    }
}

fn command(number: u32, action: &str, params: &str) -> Command {
    Command {
        id: RequestId::Text(format!("cmd_{number}").into()),
        action: Channel::parse(action).expect("a valid action"),
        params: Bytes::copy_from_slice(params.as_bytes()),
        key: None,
        trace: None,
        identity: Arc::new(Identity {
            tenant: tickgate_protocol::channel::Tenant::DEFAULT,
            user: Some("u42".into()),
            role: Some("trader".into()),
            permissions: Arc::new(Permissions::default()),
            expires_at_ms: None,
            exp_ms: None,
            token_id: None,
            issued_at_ms: None,
        }),
    }
}

fn code(outcome: &CommandOutcome) -> &'static str {
    match outcome {
        CommandOutcome::Success { .. } => "success",
        CommandOutcome::Failure { .. } => "failure",
        CommandOutcome::Refused { code, .. } => code.as_str(),
    }
}

type Work = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// A handler that calls a function.
struct Script<F>(F);

impl<F: Fn(Request) -> Work + Send + Sync> Handler for Script<F> {
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>> {
        (self.0)(request.clone())
    }
}

fn in_process(name: &str, work: impl Fn(Request) -> Work + Send + Sync + 'static) -> Target {
    Target::InProcess {
        name: name.into(),
        handler: Arc::new(Script(work)),
    }
}

fn route(pattern: &str, target: Target) -> RouteSettings {
    RouteSettings::new(Pattern::parse(pattern).expect("a valid pattern"), target)
}

fn says(text: &'static str) -> impl Fn(Request) -> Work + Send + Sync + 'static {
    move |_| {
        Box::pin(std::future::ready(Ok(BackendReply::Success(Bytes::from_static(
            text.as_bytes(),
        )))))
    }
}

fn success(text: &'static str) -> CommandOutcome {
    CommandOutcome::Success {
        data: Bytes::from_static(text.as_bytes()),
    }
}
