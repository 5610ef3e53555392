//! Risk control: exposure, position limits, and the kill switch.
//!
//! Invariant: while the kill switch is active, nothing is started and no order is placed.

use rust_decimal::Decimal;
use serde::Serialize;

/// A refusal by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule.
    pub rule: &'static str,
    /// The reason.
    pub reason: String,
}

/// What an activation of the kill switch stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// The number of grids.
    pub grids_stopped: usize,
    /// The number of strategies.
    pub strategies_stopped: usize,
    /// The number of resting orders.
    pub orders_cancelled: usize,
}

/// The data of an event on `system.kill_switch`.
#[derive(Debug, Serialize)]
pub struct KillSwitchEvent<'a> {
    /// The reason.
    pub reason: &'a str,
    /// What the activation stopped.
    pub affected: Affected,
}

/// The kill switch and the rules.
#[derive(Debug, Default)]
pub struct Risk {
    kill_switch: Option<String>,
}

impl Risk {
    /// The reason for the active kill switch. `None`: it is inactive.
    #[must_use]
    pub fn kill_switch(&self) -> Option<&str> {
        self.kill_switch.as_deref()
    }

    /// Activates the kill switch with a reason, or deactivates it. `false`: it was in that state already.
    pub fn set_kill_switch(&mut self, reason: Option<String>) -> bool {
        let changes = self.kill_switch.is_some() != reason.is_some();
        if changes {
            self.kill_switch = reason;
        }
        changes
    }

    /// Checks whether a grid or strategy may start that needs `margin`.
    ///
    /// # Errors
    ///
    /// The kill switch is active, or `margin` exceeds `available`.
    pub fn check_start(&self, margin: Decimal, available: Decimal) -> Result<(), Rejection> {
        if let Some(reason) = &self.kill_switch {
            return Err(Rejection {
                rule: "kill_switch",
                reason: format!("the kill switch is active: {reason}"),
            });
        }
        if margin > available {
            let (margin, available) = (margin.normalize(), available.round_dp(2));
            let reason = format!("needs a margin of {margin}, available is {available}");
            return Err(Rejection {
                rule: "exposure",
                reason,
            });
        }
        Ok(())
    }
}

/// Checks a position that could become `worst` against the limit `largest`.
///
/// # Errors
///
/// The limit is exceeded.
pub fn check_position(worst: Decimal, largest: Decimal) -> Result<(), Rejection> {
    if worst.abs() > largest {
        let (worst, largest) = (worst.normalize(), largest.normalize());
        let reason = format!("the position could become {worst}, at most {largest} is allowed");
        return Err(Rejection {
            rule: "max_position",
            reason,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kill_switch_and_the_margin_refuse_a_start() {
        let mut risk = Risk::default();
        assert_eq!(risk.check_start(Decimal::TEN, Decimal::TEN), Ok(()));
        assert_eq!(
            risk.check_start(Decimal::TEN, Decimal::ONE).map_err(|no| no.rule),
            Err("exposure")
        );
        assert!(risk.set_kill_switch(Some("drill".to_owned())));
        assert!(!risk.set_kill_switch(Some("again".to_owned())), "once is enough");
        assert_eq!(risk.kill_switch(), Some("drill"));
        assert_eq!(
            risk.check_start(Decimal::ONE, Decimal::TEN).map_err(|no| no.rule),
            Err("kill_switch")
        );
        assert!(risk.set_kill_switch(None));
        assert!(!risk.set_kill_switch(None));
        assert_eq!(risk.check_start(Decimal::ONE, Decimal::TEN), Ok(()));
    }

    #[test]
    fn long_and_short_positions_are_limited() {
        assert!(check_position(Decimal::TEN, Decimal::TEN).is_ok());
        assert!(check_position(-Decimal::TEN, Decimal::TEN).is_ok());
        assert!(check_position(-Decimal::TEN, Decimal::ONE).is_err());
    }
}
