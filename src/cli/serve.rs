//! `tickgate serve`: raises the limit of open files, starts the gateway, and drains it on a signal.

use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tickgate::config::{Config, RunKeys};
use tickgate::gateway::{self, Gateway, Handover};
use tickgate::metrics::ReloadMetrics;

use super::reload::Reloader;
use super::restart::Successor;
use super::signals::{Operator, Signals};
use super::{FAILED, Failure, NOT_SAVED, first_steps, load, logging, print_out};

/// Runs the gateway until it has drained. After a restart in place another program runs in this process.
pub(super) fn serve(file: Option<&Path>) -> Result<(), Failure> {
    let ready = Ready::new(file)?;
    let gateway = start(ready.settings())?;
    announce(&ready.config, &gateway, ready.run_keys.as_ref());
    let operator = Operator {
        reloader: Reloader::new(file, &ready),
        successor: Successor::new(file, ready.run_keys.is_some()),
    };
    let handle = gateway.handle();
    match ready.wait(gateway, Some(operator))? {
        None => Ok(()),
        Some(handover) => Successor::replace(&handle, &handover),
    }
}

/// What a gateway needs before it starts: the configuration, keys for this run, the log, open files and signals.
pub(super) struct Ready {
    pub(super) config: Config,
    /// The keys that were made for this run, if none is configured.
    pub(super) run_keys: Option<RunKeys>,
    pub(super) log: logging::Started,
    pub(super) descriptors_max: u64,
    pub(super) reloads: Arc<ReloadMetrics>,
    signals: Signals,
}

impl Ready {
    pub(super) fn new(file: Option<&Path>) -> Result<Self, Failure> {
        let (mut config, environment) = load(file)?;
        let run_keys = match config.needs_run_keys(&environment) {
            Ok(false) => None,
            Ok(true) => Some(config.add_run_keys().map_err(|error| Failure::running(&error))?),
            Err(error) => return Err(Failure::misconfigured(&error)),
        };
        let (format, levels, audit) = config.log();
        let log = logging::start(format, levels, audit).map_err(|error| Failure::running(&error))?;
        for warning in config.warnings(&environment) {
            tracing::warn!("{warning}");
        }
        for open in config.open_to_anybody() {
            tracing::info!("{open}");
        }
        Ok(Self {
            descriptors_max: raise_descriptors(&config),
            // The handlers come before the listeners, so that no signal is lost.
            signals: Signals::new().map_err(|error| Failure::running(&error))?,
            reloads: Arc::default(),
            log,
            config,
            run_keys,
        })
    }

    pub(super) fn settings(&self) -> gateway::Settings {
        let mut settings = self.config.gateway(self.descriptors_max);
        settings.admin.log_lines_dropped = Arc::clone(&self.log.lines_dropped);
        settings.admin.reloads = Arc::clone(&self.reloads);
        settings.admin.log_control = Some(Arc::new(self.log.level.clone()));
        settings.commands.audit_room.clone_from(&self.log.audit_room);
        settings
    }

    /// Waits until the gateway has ended. SIGHUP and SIGUSR2 reload the configuration and restart in place if there is an
    /// operator; the first of the other signals drains the gateway. Returns the listening sockets after a restart in place.
    pub(super) fn wait(self, gateway: Gateway, operator: Option<Operator>) -> Result<Option<Handover>, Failure> {
        self.signals
            .serve(gateway.handle(), operator)
            .map_err(|error| Failure::running(&error))?;
        let handover = gateway.wait().map_err(|error| Failure {
            message: error.to_string(),
            code: match error {
                gateway::Error::SnapshotIncomplete { .. } => NOT_SAVED,
                _ => FAILED,
            },
        })?;
        tracing::info!("drained");
        Ok(handover)
    }
}

/// Raises the limit of open files. A limit that is lower than the configuration needs is logged: as a warning if somebody
/// chose the number of connections. Returns the limit.
fn raise_descriptors(config: &Config) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = config.descriptors_wanted();
    // Only root may raise the hard limit. Other users may raise the soft limit up to it.
    let hard = limit.maximum.map_or(u64::MAX, |hard| hard.max(wanted));
    let attempts = [
        Rlimit {
            current: Some(hard),
            maximum: limit.maximum.map(|_| hard),
        },
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    ];
    for attempt in attempts {
        if setrlimit(Resource::Nofile, attempt).is_ok() {
            break;
        }
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now < wanted {
        let connections_max = config.connections_max(now);
        if config.chooses_connections_max() {
            tracing::warn!(
                open_files_max = now,
                connections_max,
                "RLIMIT_NOFILE is lower than server.max_connections needs"
            );
        } else {
            tracing::info!(connections_max, "RLIMIT_NOFILE bounds the connections");
        }
    }
    now
}

/// Starts the gateway and logs its addresses.
pub(super) fn start(settings: gateway::Settings) -> Result<Gateway, Failure> {
    let gateway = Gateway::start(settings).map_err(|error| Failure::running(&error))?;
    for address in gateway.addresses() {
        tracing::info!(%address, "listening");
    }
    tracing::info!(address = %gateway.admin_address(), "listening for the admin API");
    Ok(gateway)
}

/// Prints commands to try the gateway, when it made keys of its own.
fn announce(config: &Config, gateway: &Gateway, run_keys: Option<&RunKeys>) {
    if let Some(run_keys) = run_keys {
        match first_steps::commands(config, gateway, run_keys) {
            Ok(commands) => print_out(&commands),
            Err(error) => tracing::warn!(%error, "cannot sign a token for this run"),
        }
    }
}
