//! The eight actions that clients may send, with all their checks.
//!
//! Invariant: a refused command changes nothing.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::accounts::OPENING;
use super::backtest::{Backtest, BacktestParams};
use super::event::Level;
use super::grid::{Grid, GridChange, GridParams};
use super::platform::Platform;
use super::risk::{Affected, KillSwitchEvent};
use super::strategy::{Strategy, StrategyParams};

/// The number of grids, of strategies and of back-tests that one user may have at a time.
pub const RUNNING_MAX: usize = 10;
/// The total number of accounts.
pub const ACCOUNTS_MAX: usize = 1_000;
// The length of a reason, in bytes. Other users receive it.
const REASON_BYTES_MAX: usize = 200;

/// The user who sent a command.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The token's subject.
    pub user: &'a str,
    /// Whether the user may also change what other users started.
    pub admin: bool,
}

/// `error` of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActionError {
    /// `VALIDATION_ERROR` or `UNKNOWN_ACTION`.
    pub code: &'static str,
    /// An explanation for the client.
    pub message: String,
}

/// `data` of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// The reply to a grid action.
    Grid {
        /// The grid's id.
        grid_id: String,
        /// `starting`, `running` or `stopped`.
        status: &'static str,
    },
    /// The reply to a back-test action.
    Backtest {
        /// The back-test's id.
        backtest_id: String,
        /// `running` or `cancelled`.
        status: &'static str,
    },
    /// The reply to a strategy action.
    Strategy {
        /// The strategy's id.
        strategy_id: String,
        /// `starting` or `stopped`.
        status: &'static str,
    },
    /// The reply to `system.kill_switch`.
    KillSwitch {
        /// Whether it is active now.
        active: bool,
        /// What the activation stopped.
        affected: Affected,
    },
}

#[derive(Deserialize)]
struct ById {
    id: String,
}

#[derive(Deserialize)]
struct GridStop {
    id: String,
    #[serde(default = "yes")]
    cancel_orders: bool,
}

#[derive(Deserialize)]
struct GridUpdate {
    id: String,
    params: GridChange,
}

#[derive(Deserialize)]
struct KillSwitch {
    action: String,
    reason: Option<String>,
}

const fn yes() -> bool {
    true
}

fn invalid(message: impl Into<String>) -> ActionError {
    ActionError {
        code: "VALIDATION_ERROR",
        message: message.into(),
    }
}

fn read<'a, T: Deserialize<'a>>(params: &'a RawValue) -> Result<T, ActionError> {
    if !params.get().starts_with('{') {
        return Err(invalid("params must be an object"));
    }
    serde_json::from_str(params.get()).map_err(|error| {
        // The client sent an object, not a text, so the position in the text is left out.
        let text = error.to_string();
        invalid(format!("params: {}", text.split(" at line ").next().unwrap_or(&text)))
    })
}

impl Platform {
    /// Carries out a command.
    ///
    /// # Errors
    ///
    /// `UNKNOWN_ACTION` for an action that does not exist, `VALIDATION_ERROR` for bad parameters and for commands that the
    /// platform refuses. The platform is unchanged.
    pub fn command(&mut self, caller: Caller<'_>, action: &str, params: &RawValue) -> Result<Reply, ActionError> {
        match action {
            "grid.start" => self.grid_start(caller, read(params)?),
            "grid.stop" => self.grid_stop(caller, &read(params)?),
            "grid.update_params" => self.grid_update(caller, &read(params)?),
            "backtest.run" => self.backtest_run(caller, &read(params)?),
            "backtest.cancel" => self.backtest_cancel(caller, &read(params)?),
            "strategy.start" => self.strategy_start(caller, &read(params)?),
            "strategy.stop" => self.strategy_stop(caller, &read(params)?),
            "system.kill_switch" => self.kill_switch(read(params)?),
            _ => Err(ActionError {
                code: "UNKNOWN_ACTION",
                message: format!("action {action} is unknown"),
            }),
        }
    }

    fn grid_start(&mut self, caller: Caller<'_>, params: GridParams) -> Result<Reply, ActionError> {
        let plan = params.plan().map_err(invalid)?;
        let of_user = self.grids.values().filter(|grid| grid.user == caller.user).count();
        self.check_count(caller, of_user, "grids")?;
        self.check_margin(caller, plan.margin, None)?;
        self.open_account(caller);
        let grid = Grid::new(self.new_id("grid"), caller.user.to_owned(), params, plan);
        let grid_id = grid.id.clone();
        self.grids.insert(grid_id.clone(), grid);
        Ok(Reply::Grid {
            grid_id,
            status: "starting",
        })
    }

    fn grid_stop(&mut self, caller: Caller<'_>, stop: &GridStop) -> Result<Reply, ActionError> {
        let Some(grid) = self.grids.get_mut(&stop.id).filter(|grid| caller.may_touch(&grid.user)) else {
            return Err(self.missing(caller, "grid", &stop.id));
        };
        if !grid.is_active() && !stop.cancel_orders {
            return Err(invalid(format!("grid {} is stopped already", stop.id)));
        }
        grid.stop(stop.cancel_orders, "stopped by command", &mut self.events);
        self.settle_finished();
        Ok(Reply::Grid {
            grid_id: stop.id.clone(),
            status: "stopped",
        })
    }

    fn grid_update(&mut self, caller: Caller<'_>, update: &GridUpdate) -> Result<Reply, ActionError> {
        let Some(grid) = self.grids.get(&update.id).filter(|grid| caller.may_touch(&grid.user)) else {
            return Err(self.missing(caller, "grid", &update.id));
        };
        if !grid.is_active() {
            return Err(invalid(format!("grid {} is stopped", update.id)));
        }
        let params = grid.params.changed(&update.params);
        let plan = params.plan().map_err(invalid)?;
        let owner = grid.user.clone();
        self.check_margin(
            Caller {
                user: &owner,
                admin: false,
            },
            plan.margin,
            Some(&update.id),
        )?;
        if let Some(grid) = self.grids.get_mut(&update.id) {
            grid.update(params, plan, &mut self.events);
        }
        Ok(Reply::Grid {
            grid_id: update.id.clone(),
            status: "running",
        })
    }

    fn backtest_run(&mut self, caller: Caller<'_>, params: &BacktestParams) -> Result<Reply, ActionError> {
        let of_user = self.backtests.values().filter(|test| test.user == caller.user).count();
        self.check_count(caller, of_user, "back-tests")?;
        let id = self.new_id("backtest");
        let test = Backtest::new(id.clone(), caller.user.to_owned(), params, self.seed).map_err(invalid)?;
        self.open_account(caller);
        self.backtests.insert(id.clone(), test);
        Ok(Reply::Backtest {
            backtest_id: id,
            status: "running",
        })
    }

    fn backtest_cancel(&mut self, caller: Caller<'_>, cancel: &ById) -> Result<Reply, ActionError> {
        if !self
            .backtests
            .get(&cancel.id)
            .is_some_and(|test| caller.may_touch(&test.user))
        {
            return Err(self.missing(caller, "back-test", &cancel.id));
        }
        if let Some(test) = self.backtests.remove(&cancel.id) {
            test.cancel(&mut self.events);
            self.end(test.id, test.user);
        }
        Ok(Reply::Backtest {
            backtest_id: cancel.id.clone(),
            status: "cancelled",
        })
    }

    fn strategy_start(&mut self, caller: Caller<'_>, params: &StrategyParams) -> Result<Reply, ActionError> {
        let (symbol, averages) = params.check().map_err(invalid)?;
        let of_user = self
            .strategies
            .values()
            .filter(|strategy| strategy.user == caller.user)
            .count();
        self.check_count(caller, of_user, "strategies")?;
        self.check_margin(caller, Decimal::ZERO, None)?;
        self.open_account(caller);
        let id = self.new_id("strategy");
        let strategy = Strategy::new(id.clone(), caller.user.to_owned(), symbol, averages);
        self.strategies.insert(id.clone(), strategy);
        Ok(Reply::Strategy {
            strategy_id: id,
            status: "starting",
        })
    }

    fn strategy_stop(&mut self, caller: Caller<'_>, stop: &ById) -> Result<Reply, ActionError> {
        if !self
            .strategies
            .get(&stop.id)
            .is_some_and(|strategy| caller.may_touch(&strategy.user))
        {
            return Err(self.missing(caller, "strategy", &stop.id));
        }
        if let Some(strategy) = self.strategies.remove(&stop.id) {
            strategy.lifecycle("stopped", Some("stopped by command"), &mut self.events);
            self.end(strategy.id, strategy.user);
        }
        Ok(Reply::Strategy {
            strategy_id: stop.id.clone(),
            status: "stopped",
        })
    }

    fn kill_switch(&mut self, switch: KillSwitch) -> Result<Reply, ActionError> {
        let reason = switch.reason.unwrap_or_default();
        if reason.len() > REASON_BYTES_MAX {
            return Err(invalid(format!("reason must have at most {REASON_BYTES_MAX} bytes")));
        }
        let activate = match switch.action.as_str() {
            "activate" => true,
            "deactivate" => false,
            _ => return Err(invalid("action must be activate or deactivate")),
        };
        if activate && reason.is_empty() {
            return Err(invalid("a reason is needed to activate the kill switch"));
        }
        if !self.risk.set_kill_switch(activate.then(|| reason.clone())) {
            let state = if activate { "active" } else { "inactive" };
            return Err(invalid(format!("the kill switch is {state} already")));
        }
        let affected = if activate {
            self.stop_everything(&reason)
        } else {
            Affected::default()
        };
        let event = if activate { "activated" } else { "deactivated" };
        self.events.send(
            "system.kill_switch",
            event,
            &KillSwitchEvent {
                reason: &reason,
                affected,
            },
        );
        self.events
            .log(Level::Warn, "risk", &format!("kill switch {event}: {reason}"));
        Ok(Reply::KillSwitch {
            active: activate,
            affected,
        })
    }

    fn stop_everything(&mut self, reason: &str) -> Affected {
        let mut affected = Affected::default();
        for grid in self.grids.values_mut() {
            grid.risk("kill_switch", "kill_switch", reason, &mut self.events);
            affected.grids_stopped += usize::from(grid.is_active());
            affected.orders_cancelled += grid.stop(true, "kill switch", &mut self.events);
        }
        self.settle_finished();
        for (id, strategy) in std::mem::take(&mut self.strategies) {
            strategy.lifecycle("stopped", Some("kill switch"), &mut self.events);
            affected.strategies_stopped += 1;
            self.end(id, strategy.user);
        }
        affected
    }

    fn check_count(&self, caller: Caller<'_>, running: usize, what: &str) -> Result<(), ActionError> {
        if running >= RUNNING_MAX {
            return Err(invalid(format!("at most {RUNNING_MAX} {what} at a time")));
        }
        if !self.accounts.contains_key(caller.user) && self.accounts.len() >= ACCOUNTS_MAX {
            return Err(invalid("there are no more accounts"));
        }
        Ok(())
    }

    fn open_account(&mut self, caller: Caller<'_>) {
        self.accounts.entry(caller.user.to_owned()).or_default();
    }

    // `instead_of` is a grid that the new margin replaces, so its own margin becomes free.
    fn check_margin(&self, caller: Caller<'_>, margin: Decimal, instead_of: Option<&str>) -> Result<(), ActionError> {
        let grids = || self.grids.values().filter(|grid| grid.user == caller.user);
        let freed = grids()
            .filter(|grid| instead_of == Some(&grid.id))
            .map(|grid| grid.margin(self.market.quotes[grid.symbol()].price));
        let available = self
            .accounts
            .get(caller.user)
            .map_or(OPENING, |account| account.totals(grids(), &self.market).available())
            + freed.sum::<Decimal>();
        self.risk
            .check_start(margin, available)
            .map_err(|no| invalid(format!("{}: {}", no.rule, no.reason)))
    }

    fn missing(&self, caller: Caller<'_>, what: &str, id: &str) -> ActionError {
        let ended = self
            .ended
            .iter()
            .any(|(known, user)| known == id && caller.may_touch(user));
        invalid(if ended {
            format!("{what} {id} has ended already")
        } else {
            format!("{what} {id} is unknown")
        })
    }
}

impl Caller<'_> {
    fn may_touch(&self, owner: &str) -> bool {
        self.admin || self.user == owner
    }
}
