//! The signals of the process: SIGTERM, SIGINT and SIGQUIT drain the gateway, SIGHUP reloads its configuration, SIGUSR2
//! restarts it in place.

use std::io;
use std::time::Duration;

use tickgate::gateway::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::logging;
use super::reload::Reloader;
use super::restart::Successor;

/// The signals of this process, from the moment on that this value exists.
pub(super) struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    // A terminal sends it. By default it would end the process without a drain.
    quit: Signal,
    // So would these.
    hangup: Signal,
    user2: Signal,
}

/// What signals can do besides ending the gateway.
pub(super) struct Operator {
    pub(super) reloader: Reloader,
    pub(super) successor: Successor,
}

/// A signal that arrived.
enum Arrived {
    Hangup,
    User2,
    /// The number of a signal that ends the gateway.
    Ending(i32),
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (quit, hangup) = (signal(SignalKind::quit())?, signal(SignalKind::hangup())?);
        let user2 = signal(SignalKind::user_defined2())?;
        drop(inside);
        Ok(Self {
            runtime,
            terminate,
            interrupt,
            quit,
            hangup,
            user2,
        })
    }

    /// Starts the thread that waits for signals. The first signal that ends the gateway drains it; a second one ends the
    /// process at once.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub(super) fn serve(mut self, gateway: Handle, operator: Option<Operator>) -> io::Result<()> {
        let wait = move || {
            let first = self.first_ending(&gateway, operator);
            tracing::info!(signal = first, "draining; a second signal ends the process at once");
            gateway.drain();
            let second = self.next_ending();
            tracing::warn!(signal = second, "a second signal ends the process");
            logging::flush(Duration::ZERO);
            std::process::exit(128 + second);
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)
            .map(drop)
    }

    /// Serves the other signals until one arrives that ends the gateway, and returns its number.
    fn first_ending(&mut self, gateway: &Handle, mut operator: Option<Operator>) -> i32 {
        loop {
            match (self.next(), &mut operator) {
                (Arrived::Ending(number), operator) => {
                    if let Some(operator) = operator {
                        operator.successor.cancel();
                    }
                    return number;
                }
                (Arrived::Hangup, Some(operator)) => operator.reloader.run(gateway),
                (Arrived::User2, Some(operator)) => {
                    if operator.successor.begin(gateway) {
                        return self.next_ending();
                    }
                }
                (Arrived::Hangup | Arrived::User2, None) => {
                    tracing::warn!("SIGHUP and SIGUSR2 have no effect on the demo");
                }
            }
        }
    }

    /// Waits for a signal that ends the gateway, while it drains, and returns its number.
    fn next_ending(&mut self) -> i32 {
        loop {
            match self.next() {
                Arrived::Hangup | Arrived::User2 => {
                    tracing::warn!("SIGHUP and SIGUSR2 have no effect while the gateway drains");
                }
                Arrived::Ending(number) => return number,
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
            user2,
        } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => Arrived::Hangup,
                _ = user2.recv() => Arrived::User2,
                _ = terminate.recv() => Arrived::Ending(SignalKind::terminate().as_raw_value()),
                _ = interrupt.recv() => Arrived::Ending(SignalKind::interrupt().as_raw_value()),
                _ = quit.recv() => Arrived::Ending(SignalKind::quit().as_raw_value()),
            }
        })
    }
}
