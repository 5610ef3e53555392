//! SIGUSR2: another program takes this one's place, usually a new version of the same file.
//!
//! Invariant: a gateway that cannot be replaced goes on. The new program must have accepted the configuration before the
//! first connection is closed.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tickgate::gateway::{Handle, Handover};

use super::{FAILED, Failure, logging, print_error};

/// How long the new program may take to check the configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The program that takes this one's place.
#[derive(Clone)]
pub(super) struct Successor {
    file: Option<PathBuf>,
    has_run_keys: bool,
}

impl Successor {
    /// `file` is the configuration. `has_run_keys`: the keys were made for this run.
    pub(super) fn new(file: Option<&Path>, has_run_keys: bool) -> Self {
        Self {
            file: file.map(Path::to_owned),
            has_run_keys,
        }
    }

    /// Lets the new program check the configuration.
    ///
    /// # Errors
    ///
    /// Why the gateway cannot be replaced.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.has_run_keys {
            return Err("keys that are made for a run do not survive a restart: configure a key".to_owned());
        }
        let mut command = Command::new(program());
        command.arg("check");
        if let Some(file) = &self.file {
            command.arg("--config").arg(file);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} cannot be run: {error}", program().display()))?;
        let (status, text) = finish(child).map_err(|error| format!("its check failed: {error}"))?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("its check ended with {status}: {}", text.trim_end())),
            None => Err(format!("its check took longer than {} s", CHECK_TIMEOUT.as_secs())),
        }
    }

    /// Executes the new program in this process. The log ends. Returns when a signal has ended the gateway for good.
    ///
    /// # Errors
    ///
    /// When the program cannot be executed.
    pub(super) fn replace(gateway: &Handle, handover: &Handover) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure {
            message: format!("cannot restart: {}: {error}", program().display()),
            code: FAILED,
        };
        match logging::flush(logging::AUDIT_FLUSH_TIMEOUT) {
            0 => {}
            lines => print_error(&format!(
                "{lines} audit lines could not be written: standard error was not read"
            )),
        }
        let mut command = Command::new(program());
        command.args(std::env::args_os().skip(1));
        handover.pass_to(&mut command).map_err(failed)?;
        ignore_signals();
        if !gateway.is_restarting() {
            return Ok(());
        }
        Err(failed(command.exec()))
    }
}

/// The program as the command line names it: a name without a slash is looked up again, and a link is followed again.
fn program() -> OsString {
    std::env::args_os().next().unwrap_or_else(|| "tickgate".into())
}

/// Waits for a child, for at most [`CHECK_TIMEOUT`]. Returns its status, and what it wrote to standard error. `None`: it
/// took too long, and was ended.
fn finish(mut child: Child) -> std::io::Result<(Option<ExitStatus>, String)> {
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > CHECK_TIMEOUT {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(64 * 1024).read_to_end(&mut text)?;
    }
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

/// Ignores signals that would end a program until it handles them. The new program inherits this.
fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGUSR2] {
        // SAFETY: the call changes what a signal does, and no handler of this process is needed any more.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
