//! SIGHUP: a running gateway takes over a changed configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tickgate::config::{Config, restart_reason};
use tickgate::gateway::{ChannelsKept, Handle};
use tickgate::log_level::LevelControl as _;
use tickgate::metrics::ReloadMetrics;

use super::serve::Ready;
use super::{load, logging};

/// The module of these lines, as `log.level` names it.
const MODULE: &str = "cli";

/// Reads the configuration again and gives it to the gateway.
pub(super) struct Reloader {
    file: Option<PathBuf>,
    // What the gateway was started with, and what it took over last.
    started: Config,
    current: Config,
    // The one whose classes and feeds are in use.
    channels: Config,
    descriptors_max: u64,
    level: logging::LevelHandle,
    metrics: Arc<ReloadMetrics>,
}

/// A configuration that the gateway has taken over.
struct TakenOver {
    config: Config,
    warnings: Vec<String>,
    // Why its classes of channels and feeds wait for a restart, if they do.
    kept: Option<ChannelsKept>,
}

impl Reloader {
    pub(super) fn new(file: Option<&Path>, ready: &Ready) -> Self {
        let config = &ready.config;
        Self {
            file: file.map(Path::to_owned),
            started: config.clone(),
            current: config.clone(),
            channels: config.clone(),
            descriptors_max: ready.descriptors_max,
            level: ready.log.level.clone(),
            metrics: Arc::clone(&ready.reloads),
        }
    }

    /// Takes over the configuration, or logs why the running one stays.
    pub(super) fn run(&mut self, gateway: &Handle) {
        let taken_over = self.take_over(gateway);
        self.metrics.count(taken_over.is_ok());
        match taken_over {
            Ok(taken_over) => self.tell(taken_over),
            Err(problem) => tracing::error!("the configuration is not reloaded, the running one stays: {problem}"),
        }
    }

    fn take_over(&self, gateway: &Handle) -> Result<TakenOver, String> {
        let (config, environment) = load(self.file.as_deref()).map_err(|failure| failure.message)?;
        if config.needs_run_keys(&environment).map_err(|error| error.to_string())? {
            return Err("it has no key for tokens, and keys that are made for a run cannot be replaced".to_owned());
        }
        let settings = config.gateway(self.descriptors_max);
        let kept = gateway.reload(settings).map_err(|error| error.to_string())?;
        let warnings = config.warnings(&environment);
        Ok(TakenOver { config, warnings, kept })
    }

    /// Logs what changed. A line is written if the levels of before or the new ones let it through.
    fn tell(&mut self, taken_over: TakenOver) {
        let levels = taken_over.config.log().1;
        let is_quieter = levels.level_of(MODULE) < self.level.levels().level_of(MODULE);
        if !is_quieter {
            self.level.configure(levels.clone());
        }
        self.log_changes(taken_over);
        if is_quieter {
            self.level.configure(levels);
        }
    }

    fn log_changes(&mut self, TakenOver { config, warnings, kept }: TakenOver) {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let mut reloaded = self.current.changes(&config).reloaded;
        let mut of_channels = self.channels.changes(&config).channels;
        match kept {
            None => {
                reloaded.append(&mut of_channels);
                self.channels = config.clone();
            }
            Some(reason) => {
                let keys = of_channels.join(" ");
                tracing::warn!(
                    keys,
                    "classes of channels and feeds stay as they are, and change only after a restart: {reason}"
                );
            }
        }
        tracing::info!(changed = reloaded.join(" "), "the configuration is reloaded");
        let mut by_reason = BTreeMap::<&str, Vec<String>>::new();
        for key in self.started.changes(&config).need_restart {
            by_reason.entry(restart_reason(&key)).or_default().push(key);
        }
        for (reason, keys) in by_reason {
            let keys = keys.join(" ");
            tracing::warn!(keys, reason, "changed keys that take effect only after a restart");
        }
        self.current = config;
    }
}
