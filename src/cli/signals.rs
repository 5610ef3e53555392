//! The signals of the process: SIGTERM, SIGINT and SIGQUIT drain the gateway, SIGHUP reloads its configuration.

use std::io;
use std::time::Duration;

use tickgate::gateway::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::logging;
use super::reload::Reloader;

/// The signals of this process, from the moment on that this value exists.
pub(super) struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    // A terminal sends it. By default it would end the process without a drain.
    quit: Signal,
    // So would this one.
    hangup: Signal,
}

/// A signal that arrived.
enum Arrived {
    Hangup,
    /// The number of a signal that ends the gateway.
    Ending(i32),
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (quit, hangup) = (signal(SignalKind::quit())?, signal(SignalKind::hangup())?);
        drop(inside);
        Ok(Self {
            runtime,
            terminate,
            interrupt,
            quit,
            hangup,
        })
    }

    /// Starts the thread that waits for signals. The first signal that ends the gateway drains it; a second one ends the
    /// process at once.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub(super) fn serve(mut self, gateway: Handle, reloader: Option<Reloader>) -> io::Result<()> {
        let wait = move || {
            let first = self.first_ending(&gateway, reloader);
            tracing::info!(signal = first, "draining; a second signal ends the process at once");
            gateway.drain();
            let second = loop {
                match self.next() {
                    Arrived::Hangup => tracing::warn!("SIGHUP has no effect while the gateway drains"),
                    Arrived::Ending(number) => break number,
                }
            };
            tracing::warn!(signal = second, "a second signal ends the process");
            logging::flush(Duration::ZERO);
            std::process::exit(128 + second);
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)
            .map(drop)
    }

    /// Serves SIGHUP until another signal arrives, and returns its number.
    fn first_ending(&mut self, gateway: &Handle, mut reloader: Option<Reloader>) -> i32 {
        loop {
            match (self.next(), &mut reloader) {
                (Arrived::Ending(number), _) => return number,
                (Arrived::Hangup, Some(reloader)) => reloader.run(gateway),
                (Arrived::Hangup, None) => tracing::warn!("SIGHUP has no effect on the demo"),
            }
        }
    }

    /// Waits for the next signal. The streams of signals do not end.
    fn next(&mut self) -> Arrived {
        let Self {
            runtime,
            terminate,
            interrupt,
            quit,
            hangup,
        } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => Arrived::Hangup,
                _ = terminate.recv() => Arrived::Ending(SignalKind::terminate().as_raw_value()),
                _ = interrupt.recv() => Arrived::Ending(SignalKind::interrupt().as_raw_value()),
                _ = quit.recv() => Arrived::Ending(SignalKind::quit().as_raw_value()),
            }
        })
    }
}
