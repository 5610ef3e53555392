//! The log, on standard error. No log line of the gateway contains a token: modules log users and client ids.
//!
//! Invariant: writing a log line never blocks the thread that logs. One thread writes the lines; a line that finds the
//! queue full is dropped, counted and reported by a later line.
//!
//! Audit lines go to a queue and a thread of their own if the audit trail must be complete. That queue is never full, because
//! commands wait for room in it before they are carried out.

mod complete;
mod escaping;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use parking_lot::Mutex;
use tickgate::backend::commands::audit::{AuditRoom, TARGET as AUDIT};
use tickgate::config::{AuditMode, Format};
use tickgate::log_level::{Level, LevelControl, Levels};
use tickgate::metrics::Counter;
use tracing::Metadata;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use self::complete::Complete;
use self::escaping::Escaping;

/// Lines that wait for standard error. Most are shorter than 300 bytes.
const LINES_MAX: usize = 8192;

/// Audit lines that are not written yet, if the audit trail must be complete.
const AUDIT_LINES_MAX: u32 = 1024;

/// How often dropped lines are looked for.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of the process waits for standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end of the process waits for a complete audit trail.
pub(super) const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// The threads that write the lines of this process, as long as they run.
static WRITERS: Mutex<Option<Writers>> = Mutex::new(None);

struct Writers {
    _log: WorkerGuard,
    audit: Option<(WorkerGuard, AuditRoom)>,
}

/// Writes the lines that are queued: audit lines of a complete trail for at most `audit_limit`, then others for about a
/// second. Later lines are lost. Returns the number of lines that are missing in a complete audit trail.
pub(super) fn flush(audit_limit: Duration) -> usize {
    let writers = WRITERS.lock().take();
    let room = writers.as_ref().and_then(|writers| writers.audit.as_ref());
    // Dropping the guards waits with time limits of their own, of 1.1 s.
    room.map_or(0, |(_, room)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.map_or(0, |runtime| runtime.block_on(room.flush(audit_limit)))
    })
}

/// What else needs to know of the log.
pub(super) struct Started {
    /// The number of lines that were dropped.
    pub(super) lines_dropped: Arc<Counter>,
    /// The room for audit lines, if the audit trail must be complete.
    pub(super) audit_room: Option<AuditRoom>,
    /// Changes the level.
    pub(super) level: LevelHandle,
}

/// Chooses the queue of a line.
struct Queues {
    log: NonBlocking,
    audit: Option<NonBlocking>,
}

impl<'a> MakeWriter<'a> for Queues {
    type Writer = NonBlocking;

    fn make_writer(&'a self) -> Self::Writer {
        self.log.clone()
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Self::Writer {
        let audit = self.audit.as_ref().filter(|_| line.target() == AUDIT);
        audit.unwrap_or(&self.log).clone()
    }
}

/// A queue of lines, and the thread that writes them. A line that finds the queue full is dropped.
fn queue(thread: &str, lines_max: usize, destination: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .thread_name(thread)
        .buffered_lines_limit(lines_max)
        .lossy(true)
        .finish(destination)
}

/// Changes the levels of the log while the process runs.
#[derive(Clone, Debug)]
pub(super) struct LevelHandle {
    filter: reload::Handle<Targets, Registry>,
    audit: AuditMode,
    levels: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    present: Levels,
    configured: Levels,
}

impl LevelHandle {
    /// Takes over the levels of a configuration.
    pub(super) fn configure(&self, levels: Levels) {
        self.levels.lock().configured = levels.clone();
        self.set_levels(&levels);
    }
}

impl LevelControl for LevelHandle {
    fn levels(&self) -> Levels {
        self.levels.lock().present.clone()
    }

    fn configured(&self) -> Levels {
        self.levels.lock().configured.clone()
    }

    fn set_levels(&self, levels: &Levels) {
        let mut state = self.levels.lock();
        state.present = levels.clone();
        // It fails only when the log has ended.
        let _ = self.filter.reload(filter(levels, self.audit));
    }
}

const fn level_filter(level: Level) -> LevelFilter {
    match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// Which lines are logged. Libraries log warnings and errors only, because their finer levels may quote headers.
fn filter(levels: &Levels, audit: AuditMode) -> Targets {
    let own = level_filter(levels.all);
    // The audit log stays on at every level except `off`. A complete trail stays on as long as the process runs.
    let audit = if own == LevelFilter::OFF && audit == AuditMode::Bounded {
        own
    } else {
        own.max(LevelFilter::INFO)
    };
    let modules = levels.modules.iter();
    let modules = modules.map(|(module, level)| (format!("tickgate::{module}"), level_filter(*level)));
    Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target("tickgate", own)
        // It says itself in its own words why the link is down; the client of NATS would say it again, and worse.
        .with_target("async_nats", LevelFilter::OFF)
        .with_targets(modules)
        .with_target(AUDIT, audit)
}

/// Starts logging.
///
/// # Errors
///
/// When a thread cannot be started.
pub(super) fn start(format: Format, levels: Levels, audit: AuditMode) -> io::Result<Started> {
    let (filter, handle) = reload::Layer::new(filter(&levels, audit));
    let level = LevelHandle {
        filter: handle,
        audit,
        levels: Arc::new(Mutex::new(State {
            present: levels.clone(),
            configured: levels,
        })),
    };
    let is_terminal = io::stderr().is_terminal();
    let (log, log_guard) = queue("log", LINES_MAX, escaping(format, is_terminal, io::stderr()));
    let audit_room = match audit {
        AuditMode::Bounded => None,
        AuditMode::Lossless => Some(AuditRoom::new(AUDIT_LINES_MAX)),
    };
    let (audit, audit_writer) = audit_room
        .clone()
        .map(|room| {
            let destination = Complete::new(io::stderr(), room.clone());
            let destination = escaping(format, is_terminal, destination);
            let (audit, guard) = queue("audit-log", AUDIT_LINES_MAX as usize, destination);
            (audit, (guard, room))
        })
        .unzip();
    *WRITERS.lock() = Some(Writers {
        _log: log_guard,
        audit: audit_writer,
    });
    let lines_dropped: Arc<Counter> = Arc::default();
    let mut report = Report::new(log.error_counter(), Arc::clone(&lines_dropped));
    std::thread::Builder::new()
        .name("log-report".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(REPORT_INTERVAL);
                report.run(|lines| tracing::warn!(lines, "log lines were dropped: standard error was not read"));
            }
        })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(Queues { log, audit });
    match format {
        Format::Human => registry.with(lines.with_ansi(is_terminal)).init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    log_panics();
    Ok(Started {
        lines_dropped,
        audit_room,
        level,
    })
}

fn escaping<W: io::Write>(format: Format, is_terminal: bool, destination: W) -> Escaping<W> {
    match format {
        Format::Human => Escaping::human(destination, is_terminal),
        Format::Json => Escaping::none(destination),
    }
}

/// Lets panics write through the log. The standard hook writes to standard error itself, and would block its thread.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = std::thread::current().name(), %panic, %backtrace, "a thread panicked");
    }));
}

/// Copies the number of dropped lines to a metric, and reports each loss once.
struct Report {
    counter: ErrorCounter,
    dropped: Arc<Counter>,
    copied: usize,
    reported: usize,
}

impl Report {
    const fn new(counter: ErrorCounter, dropped: Arc<Counter>) -> Self {
        Self {
            counter,
            dropped,
            copied: 0,
            reported: 0,
        }
    }

    /// Calls `write` with the number of lines that were dropped and not reported yet, if there are any. A report that is
    /// dropped itself is repeated the next time.
    fn run(&mut self, write: impl FnOnce(usize)) {
        let before = self.counter.dropped_lines();
        if before > self.reported {
            write(before - self.reported);
            if self.counter.dropped_lines() == before {
                self.reported = before;
            }
        }
        let now = self.counter.dropped_lines();
        self.dropped.add((now - self.copied) as u64);
        self.copied = now;
    }
}

/// Writes text to a standard stream, for at most a second: a pipe without a reader must not keep the process.
///
/// An error is ignored, because the reader may have closed the pipe.
pub(super) fn write_bounded(mut stream: impl io::Write + Send + 'static, text: String) {
    let (done, wait) = channel();
    let write = move || {
        let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
        let _ = done.send(());
    };
    if std::thread::Builder::new()
        .name("print".to_owned())
        .spawn(write)
        .is_ok()
    {
        let _ = wait.recv_timeout(FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A writer that takes nothing until the other end is dropped.
    struct Stalled(std::sync::mpsc::Receiver<()>);

    impl io::Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_which_are_counted_and_reported_once() {
        let (release, stalled) = channel();
        let (mut writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(4)
            .lossy(true)
            .finish(Stalled(stalled));
        for _ in 0..100 {
            writer.write_all(b"a line\n").expect("lossy writers do not fail");
        }
        let counter = writer.error_counter();
        // One line may be with the thread that writes, and four are in the queue.
        let lost = counter.dropped_lines();
        assert!((95..=96).contains(&lost), "{lost}");
        let mut report = Report::new(counter, Arc::default());
        let mut told = Vec::new();
        report.run(|lines| {
            told.push(lines);
            // The queue is still full, so the report is lost, too.
            writer.write_all(b"lines were dropped\n").expect("written");
        });
        report.run(|lines| told.push(lines));
        report.run(|lines| told.push(lines));
        let all = report.counter.dropped_lines();
        assert_eq!(told, [lost, all], "the second report was not lost");
        assert_eq!(report.dropped.get(), all as u64);
        drop(release);
        drop(guard);
    }

    #[test]
    fn a_complete_audit_trail_stays_on_whatever_the_level_becomes() {
        for (level, audit, is_on) in [
            (Level::Off, AuditMode::Bounded, false),
            (Level::Error, AuditMode::Bounded, true),
            (Level::Off, AuditMode::Lossless, true),
        ] {
            let filter = filter(&Levels::of(level), audit);
            assert_eq!(
                filter.would_enable(AUDIT, &tracing::Level::INFO),
                is_on,
                "{level:?} {audit:?}"
            );
        }
    }

    #[test]
    fn a_module_has_a_level_of_its_own() {
        let levels = "warn,hub=debug,hub::snapshot=off".parse().expect("levels");
        let filter = filter(&levels, AuditMode::Bounded);
        for (target, level, is_on) in [
            ("tickgate::shard", tracing::Level::INFO, false),
            ("tickgate::shard", tracing::Level::WARN, true),
            ("tickgate::hub::state", tracing::Level::DEBUG, true),
            ("tickgate::hub::snapshot", tracing::Level::ERROR, false),
            ("hyper", tracing::Level::INFO, false),
            (AUDIT, tracing::Level::INFO, true),
        ] {
            assert_eq!(filter.would_enable(target, &level), is_on, "{target} {level}");
        }
    }

    #[test]
    fn a_stalled_stream_does_not_keep_the_process() {
        let (release, stalled) = channel();
        write_bounded(Stalled(stalled), "text".to_owned());
        drop(release);
    }
}
