//! What stands between a wish and an order: exposure, position limits, and the kill switch.
//!
//! Invariant: while the kill switch is active nothing is started and no order is placed.

use rust_decimal::Decimal;
use serde::Serialize;

/// A rule that said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which rule.
    pub rule: &'static str,
    /// Why.
    pub reason: String,
}

/// What an activation stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// Grids.
    pub grids_stopped: usize,
    /// Strategies.
    pub strategies_stopped: usize,
    /// Resting orders.
    pub orders_cancelled: usize,
}

/// `system.kill_switch`.
#[derive(Debug, Serialize)]
pub struct KillSwitchEvent<'a> {
    /// Why.
    pub reason: &'a str,
    /// What it stopped.
    pub affected: Affected,
}

/// The kill switch and the rules.
#[derive(Debug, Default)]
pub struct Risk {
    kill_switch: Option<String>,
}

impl Risk {
    /// The reason of the active kill switch.
    #[must_use]
    pub fn kill_switch(&self) -> Option<&str> {
        self.kill_switch.as_deref()
    }

    /// Activates (`Some`) or deactivates it; `false` when it was so already.
    pub fn set_kill_switch(&mut self, reason: Option<String>) -> bool {
        let changes = self.kill_switch.is_some() != reason.is_some();
        if changes {
            self.kill_switch = reason;
        }
        changes
    }

    /// Whether something that trades may start with so much margin.
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

/// Whether a position that could become `worst` stays within `largest`.
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
    fn the_kill_switch_and_the_margin_say_no() {
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
    fn a_position_is_limited_both_ways() {
        assert!(check_position(Decimal::TEN, Decimal::TEN).is_ok());
        assert!(check_position(-Decimal::TEN, Decimal::TEN).is_ok());
        assert!(check_position(-Decimal::TEN, Decimal::ONE).is_err());
    }
}
