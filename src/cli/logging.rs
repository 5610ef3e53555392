//! The log, on standard error. No log line of the gateway contains a token: modules log users and client ids.
//!
//! Invariant: writing a log line never blocks the thread that logs. One thread writes the lines; a line that finds the
//! queue full is dropped, counted and reported by a later line.

mod escaping;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use parking_lot::Mutex;
use tickgate::backend::commands::audit::TARGET as AUDIT;
use tickgate::config::{Format, Level};
use tickgate::metrics::Counter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::escaping::Escaping;

/// Lines that wait for standard error. Most are shorter than 300 bytes.
const LINES_MAX: usize = 8192;

/// How often dropped lines are looked for.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of the process waits for standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread that writes the lines of this process, as long as it runs.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Writes the lines that are queued, for at most about a second. Later lines are lost.
pub(super) fn flush() {
    // Dropping the guard waits with a time limit of its own, of 1.1 s.
    drop(WRITER.lock().take());
}

/// Starts logging, and returns the number of lines that are dropped. Libraries log warnings and errors only, because
/// their finer levels may quote headers.
///
/// # Errors
///
/// When a thread cannot be started.
pub(super) fn start(format: Format, level: Level) -> io::Result<Arc<Counter>> {
    let own = match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target("tickgate", own)
        // The audit log stays on at every level except `off`.
        .with_target(
            AUDIT,
            if own == LevelFilter::OFF {
                own
            } else {
                own.max(LevelFilter::INFO)
            },
        );
    let is_terminal = io::stderr().is_terminal();
    let stderr = match format {
        Format::Human => Escaping::human(io::stderr(), is_terminal),
        Format::Json => Escaping::none(io::stderr()),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .thread_name("log")
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .finish(stderr);
    *WRITER.lock() = Some(guard);
    let dropped: Arc<Counter> = Arc::default();
    let mut report = Report::new(writer.error_counter(), Arc::clone(&dropped));
    std::thread::Builder::new()
        .name("log-report".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(REPORT_INTERVAL);
                report.run(|lines| tracing::warn!(lines, "log lines were dropped: standard error was not read"));
            }
        })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        Format::Human => registry.with(lines.with_ansi(is_terminal)).init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    log_panics();
    Ok(dropped)
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
    fn a_stalled_stream_does_not_keep_the_process() {
        let (release, stalled) = channel();
        write_bounded(Stalled(stalled), "text".to_owned());
        drop(release);
    }
}
