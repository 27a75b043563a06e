//! Peak EWMA: an average of latencies that follows a peak at once and falls slowly afterwards, as
//! in Finagle's and linkerd's load balancers. Average and time are two atomics, so that answers do
//! not wait for each other; a lost update between them costs one sample.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How fast the average falls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeakEwmaConfig {
    /// Weight of a latency below the average. Default: 0.1.
    pub(crate) weight: f64,
    /// Time in which an average without new latencies falls to 1/e, so that a replica that was slow
    /// once is tried again. Default: 2 s.
    pub(crate) decay: Duration,
}

impl Default for PeakEwmaConfig {
    fn default() -> Self {
        Self {
            weight: 0.1,
            decay: Duration::from_secs(2),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct PeakEwma {
    config: PeakEwmaConfig,
    /// Bits of an `f64`, seconds.
    average: AtomicU64,
    /// When the average was updated, milliseconds from the start of the replica set.
    updated_at: AtomicU64,
}

impl PeakEwma {
    /// Begins with an average of `seconds`.
    pub(super) fn new(config: PeakEwmaConfig, seconds: f64, now: Duration) -> Self {
        Self {
            config,
            average: AtomicU64::new(seconds.to_bits()),
            updated_at: AtomicU64::new(now.as_millis() as u64),
        }
    }

    /// The average in seconds, decayed since the last latency.
    pub(super) fn decayed(&self, now: Duration) -> f64 {
        let updated_at = self.updated_at.load(Ordering::Relaxed);
        let idle_ms = (now.as_millis() as u64).saturating_sub(updated_at);
        let decay = (-(idle_ms as f64) / self.config.decay.as_millis() as f64).exp();
        self.latest() * decay
    }

    /// The average in seconds at the last latency.
    pub(super) fn latest(&self) -> f64 {
        f64::from_bits(self.average.load(Ordering::Relaxed))
    }

    /// Adds a latency.
    pub(super) fn add(&self, latency: Duration, now: Duration) {
        let (latency, average) = (latency.as_secs_f64(), self.decayed(now));
        let average = if latency > average {
            latency
        } else {
            average + self.config.weight * (latency - average)
        };
        self.average.store(average.to_bits(), Ordering::Relaxed);
        self.updated_at
            .store(now.as_millis() as u64, Ordering::Relaxed);
    }
}
