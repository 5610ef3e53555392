//! SIGUSR2: another program takes this one's place, usually a new version of the same file.
//!
//! Invariant: a gateway that cannot be replaced goes on. The new program must have accepted the configuration before the
//! first connection is closed.
//!
//! The new program runs in this process, after the drain. With a shared broker it runs in a process of its own before the
//! drain, if systemd can be told which process is the main one: other supervisors expect that the process stays.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tickgate::gateway::{ACCEPTS, Handle, Handover};

use super::{FAILED, Failure, logging, print_error};

/// How long the new program may take to check the configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The variable with the socket on which systemd takes notices (`sd_notify(3)`).
const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";

/// The program that takes this one's place.
pub(super) struct Successor {
    file: Option<PathBuf>,
    has_run_keys: bool,
    // The new process, until it accepts connections.
    starting: Arc<Mutex<Option<Child>>>,
}

impl Successor {
    /// `file` is the configuration. `has_run_keys`: the keys were made for this run.
    pub(super) fn new(file: Option<&Path>, has_run_keys: bool) -> Self {
        Self {
            file: file.map(Path::to_owned),
            has_run_keys,
            starting: Arc::default(),
        }
    }

    /// Lets the new program check the configuration.
    ///
    /// # Errors
    ///
    /// Why the gateway cannot be replaced.
    fn check(&self) -> Result<(), String> {
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

    /// Lets the new program take this one's place, if the gateway can be replaced. Returns whether the gateway has begun to
    /// end.
    pub(super) fn begin(&self, gateway: &Handle) -> bool {
        if gateway.is_restarting() {
            tracing::warn!("SIGUSR2 has no effect while the gateway drains");
            return false;
        }
        let is_beside = gateway.has_shared_broker() && std::env::var_os(NOTIFY_VARIABLE).is_some();
        let begun = self.check().and_then(|()| {
            if is_beside {
                return self.start_beside(gateway).map(|()| false);
            }
            gateway.restart();
            Ok(true)
        });
        begun.unwrap_or_else(|problem| {
            tracing::error!("the gateway does not restart, because the new program cannot take its place: {problem}");
            false
        })
    }

    /// Starts the new program in a process of its own, with the same listening sockets. When it accepts connections, the
    /// gateway drains. If it ends before, the gateway goes on.
    fn start_beside(&self, gateway: &Handle) -> Result<(), String> {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if starting.is_some() {
            return Err("another one is starting".to_owned());
        }
        let failed = |error: std::io::Error| format!("{}: {error}", program().display());
        let handover = gateway.share_listeners().map_err(failed)?;
        let handover = handover.ok_or("the gateway has ended")?;
        let (mut reader, writer) = std::io::pipe().map_err(failed)?;
        let mut command = Command::new(program());
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
        handover.pass_to_child(&mut command, &writer).map_err(failed)?;
        let child = command.spawn().map_err(failed)?;
        // The child has them.
        drop((handover, writer));
        let pid = child.id();
        tracing::info!(pid, "the new program starts beside this one");
        *starting = Some(child);
        drop(starting);
        let (gateway, starting) = (gateway.clone(), Arc::clone(&self.starting));
        let wait = move || {
            let mut said = Vec::new();
            let is_ready = reader.read_to_end(&mut said).is_ok() && said == ACCEPTS;
            let mut child = starting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if is_ready {
                match tell_main_process(pid) {
                    Ok(()) => return gateway.step_aside(),
                    // With this process, systemd would end the new one.
                    Err(error) => {
                        tracing::error!(%error, "systemd cannot be told of the new process, so that one is ended");
                        let _ = child.as_mut().map(Child::kill);
                    }
                }
            }
            let status = child.map(|mut child| child.wait());
            let status = status.and_then(Result::ok).map(tracing::field::display);
            tracing::error!(status, "the new program ended before it was ready; this one goes on");
        };
        let started = std::thread::Builder::new().name("successor".to_owned()).spawn(wait);
        started.map(drop).map_err(|error| {
            self.cancel();
            failed(error)
        })
    }

    /// Ends a new process that does not accept connections yet.
    pub(super) fn cancel(&self) {
        if let Some(child) = &mut *self.starting.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread that waits for it sees its end.
            let _ = child.kill();
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

/// Tells systemd which process is the main one of the service (`sd_notify(3)`).
fn tell_main_process(pid: u32) -> std::io::Result<()> {
    let Some(name) = std::env::var_os(NOTIFY_VARIABLE) else {
        return Ok(());
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let text = format!("MAINPID={pid}");
    UnixDatagram::unbound()?
        .send_to_addr(text.as_bytes(), &address)
        .map(drop)
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
