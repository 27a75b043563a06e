//! Circuit breaker: once every replica of a service has lost call after call the circuit is open,
//! and calls are refused at once, but for a half-open probe now and then that finds out whether a
//! replica answers again. The first answer closes it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::error::Unreachable;

/// When the circuit opens, and how often it is probed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CircuitBreakerConfig {
    /// Losses in a row, at every replica, that open the circuit. Default: 5.
    pub(crate) consecutive_losses: u32,
    /// Time between two half-open probes. Default: 500 ms, after which refused callers try again.
    pub(crate) probe_interval: Duration,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_losses: 5,
            probe_interval: Unreachable::RETRY_IN,
        }
    }
}

/// Calls that one replica has lost in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LossStreak {
    pub(super) losses: u32,
    lost_at: Duration,
}

impl LossStreak {
    /// Counts a call that began at `began` and was lost at `now`. Returns whether it counts: of
    /// calls that were in flight together only the first does.
    pub(super) fn lost(
        &mut self,
        began: Duration,
        silent: bool,
        now: Duration,
        config: &CircuitBreakerConfig,
    ) -> bool {
        let counts = self.losses == 0 || began >= self.lost_at;
        if counts {
            // Silence alone does not open the circuit: the caller decides how long it waits.
            let most = if silent {
                (config.consecutive_losses - 1).max(self.losses)
            } else {
                u32::MAX
            };
            self.losses = self.losses.saturating_add(1).min(most);
            self.lost_at = now;
        }
        counts
    }

    /// The replica can be reached.
    pub(super) fn end(&mut self) {
        self.losses = 0;
    }
}

/// The circuit of one service.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    config: CircuitBreakerConfig,
    /// When the next probe is due, milliseconds from the start of the replica set.
    probe_at: AtomicU64,
}

impl CircuitBreaker {
    pub(super) fn new(config: CircuitBreakerConfig) -> Self {
        Self {
            config,
            probe_at: AtomicU64::new(0),
        }
    }

    /// Whether the circuit is open, given the streak of every replica.
    pub(super) fn is_open(&self, mut streaks: impl Iterator<Item = LossStreak>) -> bool {
        streaks.all(|streak| streak.losses >= self.config.consecutive_losses)
    }

    /// Whether a call is let through although the circuit is open. One caller gets the probe.
    pub(super) fn half_open_probe(&self, now: Duration) -> bool {
        let now = now.as_millis() as u64;
        let next = |at| (now >= at).then(|| now + self.config.probe_interval.as_millis() as u64);
        self.probe_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_alone_does_not_open_the_circuit() {
        let config = CircuitBreakerConfig::default();
        let moment = Duration::from_millis(100);
        let mut streak = LossStreak::default();
        for n in 0..2 * config.consecutive_losses {
            assert!(streak.lost(moment * n, true, moment * n, &config));
        }
        assert_eq!(streak.losses, config.consecutive_losses - 1);
        assert!(streak.lost(moment * 20, false, moment * 20, &config));
        assert_eq!(streak.losses, config.consecutive_losses);
    }
}
