//! SIGHUP: a running gateway takes over a changed configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tickgate::config::{Changes, Config, restart_reason};
use tickgate::gateway::Handle;

use super::{load, logging};

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
}

impl Reloader {
    pub(super) fn new(file: Option<&Path>, config: &Config, descriptors_max: u64, level: logging::LevelHandle) -> Self {
        Self {
            file: file.map(Path::to_owned),
            started: config.clone(),
            current: config.clone(),
            channels: config.clone(),
            descriptors_max,
            level,
        }
    }

    /// Takes over the configuration, or logs why the running one stays.
    pub(super) fn run(&mut self, gateway: &Handle) {
        match self.replace(gateway) {
            Ok(Changes {
                reloaded, need_restart, ..
            }) => {
                tracing::info!(changed = reloaded.join(" "), "the configuration is reloaded");
                let mut by_reason = BTreeMap::<&str, Vec<String>>::new();
                for key in need_restart {
                    by_reason.entry(restart_reason(&key)).or_default().push(key);
                }
                for (reason, keys) in by_reason {
                    let keys = keys.join(" ");
                    tracing::warn!(keys, reason, "changed keys that take effect only after a restart");
                }
            }
            Err(problem) => tracing::error!("the configuration is not reloaded, the running one stays: {problem}"),
        }
    }

    fn replace(&mut self, gateway: &Handle) -> Result<Changes, String> {
        let (config, environment) = load(self.file.as_deref()).map_err(|failure| failure.message)?;
        if config.needs_run_keys(&environment).map_err(|error| error.to_string())? {
            return Err("it has no key for tokens, and keys that are made for a run cannot be replaced".to_owned());
        }
        let settings = config.gateway(self.descriptors_max);
        let kept = gateway.reload(settings).map_err(|error| error.to_string())?;
        self.level.configure(config.log().1);
        for warning in config.warnings(&environment) {
            tracing::warn!("{warning}");
        }
        let mut changes = Changes {
            reloaded: self.current.changes(&config).reloaded,
            channels: self.channels.changes(&config).channels,
            need_restart: self.started.changes(&config).need_restart,
        };
        match kept {
            None => {
                changes.reloaded.append(&mut changes.channels);
                self.channels = config.clone();
            }
            Some(reason) => {
                let keys = changes.channels.join(" ");
                tracing::warn!(
                    keys,
                    "classes of channels and feeds stay as they are, and change only after a restart: {reason}"
                );
            }
        }
        self.current = config;
        Ok(changes)
    }
}
