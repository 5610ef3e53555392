//! Spans of publications and commands for OpenTelemetry: what they were, how long they took, and how they ended.
//!
//! Invariant: a span never holds up what it is about. A span that finds the queue full is dropped and counted. A span names
//! no token and none of the data of events and commands.
//!
//! A request that brings a `traceparent` continues that trace, recorded if its sender records it. Any other request begins
//! a trace of its own, one in [`Settings::one_in`]. What the gateway does not record it passes on as it came.

mod encode;
mod export;
mod url;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

pub use url::CollectorUrl;

use crate::metrics::{Counter, metrics};
use tickgate_protocol::trace_context::TraceParent;

/// Spans that wait for the exporter. A full queue takes about 4 MB.
const QUEUE_MAX: usize = 8192;

/// `[otlp]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector that takes the spans.
    pub endpoint: CollectorUrl,
    /// The name of the service.
    pub service: Box<str>,
    /// Of the requests that bring no trace, one in so many begins one; 0: none.
    pub one_in: u32,
}

metrics! {
    /// What is counted of spans. Any thread writes.
    pub(super) struct SpanMetrics, read as
    /// One reading of it.
    pub struct SpanCounts {
        exported: Counter, "tickgate_spans_exported_total", "Spans that the collector has taken.";
        dropped: Counter, "tickgate_spans_dropped_total",
            "Spans that were lost, because too many waited or the collector did not take them.";
    }
}

/// Records spans. The default records none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    queue: mpsc::Sender<Message>,
    one_in: u32,
    metrics: Arc<SpanMetrics>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.0.is_some();
        f.debug_struct("Tracer")
            .field("records", &records)
            .finish_non_exhaustive()
    }
}

/// What the exporter gets.
enum Message {
    Span(Box<Finished>),
    /// Export what is there, and drop the sender.
    Flush(oneshot::Sender<()>),
}

/// The part that a span has in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The gateway answers somebody.
    Server = 2,
    /// The gateway asks somebody.
    Client = 3,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(u64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// A span that has ended.
#[derive(Debug)]
struct Finished {
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    kind: Kind,
    name: Box<str>,
    begin_unix_ns: u128,
    duration: Duration,
    attributes: Vec<(&'static str, Value)>,
    error: Option<Box<str>>,
}

/// A span that ends when it is dropped. Most are not recorded and cost nothing.
#[derive(Default)]
#[must_use = "it ends when it is dropped"]
pub struct Span {
    recorded: Option<Box<Recorded>>,
    // Of a span that is not recorded: what it came with.
    passed_on: Option<TraceParent>,
}

struct Recorded {
    recorder: Arc<Recorder>,
    began: Instant,
    span: Finished,
}

impl Tracer {
    /// Starts the exporter on `runtime`, as the gateway `node`.
    #[must_use]
    pub fn start(settings: &Settings, node: &str, runtime: &Handle) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let metrics = Arc::<SpanMetrics>::default();
        let exporter = export::Exporter::new(settings, node, runtime, Arc::clone(&metrics));
        runtime.spawn(exporter.run(messages));
        Self(Some(Arc::new(Recorder {
            queue,
            one_in: settings.one_in,
            metrics,
        })))
    }

    /// Begins a span of a request that came with `parent`. `name` is called if it is recorded.
    pub fn begin(&self, kind: Kind, parent: Option<TraceParent>, name: impl FnOnce() -> String) -> Span {
        let recorder = self.0.as_ref().filter(|recorder| match parent {
            Some(parent) => parent.is_sampled,
            None => recorder.one_in > 0 && rand::random_range(0..recorder.one_in) == 0,
        });
        match recorder {
            Some(recorder) => Span::recorded(Arc::clone(recorder), kind, parent, name().into()),
            None => Span {
                recorded: None,
                passed_on: parent,
            },
        }
    }

    /// Exports what has ended, for at most `patience`.
    pub async fn flush(&self, patience: Duration) {
        let Some(recorder) = &self.0 else { return };
        let (done, wait) = oneshot::channel();
        let flush = async {
            if recorder.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = wait.await;
            }
        };
        let _ = tokio::time::timeout(patience, flush).await;
    }

    /// What is counted; zeros if no spans are recorded.
    #[must_use]
    pub fn read(&self) -> SpanCounts {
        let recorder = self.0.as_ref();
        recorder.map(|recorder| recorder.metrics.read()).unwrap_or_default()
    }
}

impl Span {
    fn recorded(recorder: Arc<Recorder>, kind: Kind, parent: Option<TraceParent>, name: Box<str>) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let span = Finished {
            trace_id: parent.map_or_else(|| rand::random::<u128>().max(1), |parent| parent.trace_id),
            span_id: rand::random::<u64>().max(1),
            parent_id: parent.map(|parent| parent.span_id),
            kind,
            name,
            begin_unix_ns: since_epoch.as_nanos(),
            duration: Duration::ZERO,
            attributes: Vec::new(),
            error: None,
        };
        let recorded = Recorded {
            recorder,
            began: Instant::now(),
            span,
        };
        Self {
            recorded: Some(Box::new(recorded)),
            passed_on: None,
        }
    }

    /// What requests within the span carry.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        match &self.recorded {
            Some(recorded) => Some(TraceParent {
                trace_id: recorded.span.trace_id,
                span_id: recorded.span.span_id,
                is_sampled: true,
            }),
            None => self.passed_on,
        }
    }

    /// The trace, if it is sampled.
    #[must_use]
    pub fn sampled_trace(&self) -> Option<u128> {
        self.trace_parent().and_then(TraceParent::sampled_trace)
    }

    /// Begins a span within this one. `name` is called if it is recorded.
    pub fn child(&self, kind: Kind, name: impl FnOnce() -> String) -> Self {
        match &self.recorded {
            Some(recorded) => {
                let recorder = Arc::clone(&recorded.recorder);
                Self::recorded(recorder, kind, self.trace_parent(), name().into())
            }
            None => Self {
                recorded: None,
                passed_on: self.passed_on,
            },
        }
    }

    /// Whether the span is recorded, so that it is worth collecting its attributes.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.attributes.push((name, value.into()));
        }
    }

    /// What it is about has failed.
    pub fn fail(&mut self, why: impl Into<Box<str>>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.error = Some(why.into());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(recorded) = self.recorded.take() else { return };
        let Recorded {
            recorder,
            began,
            mut span,
        } = *recorded;
        span.duration = began.elapsed();
        if recorder.queue.try_send(Message::Span(Box::new(span))).is_err() {
            recorder.metrics.dropped.add(1);
        }
    }
}
