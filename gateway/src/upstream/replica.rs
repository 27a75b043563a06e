//! One replica of a service: its backend, and what the balancer measures of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    attempts::ReplicaId,
    upstream::{
        backend::Backend,
        circuit_breaker::{CircuitBreakerConfig, LossStreak},
        outlier_detection::{OutlierDetection, OutlierRecord},
        peak_ewma::{PeakEwma, PeakEwmaConfig},
    },
};

/// What the replicas of a service are measured by.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaConfig {
    pub(crate) peak_ewma: PeakEwmaConfig,
    pub(crate) outlier_detection: OutlierDetection,
    pub(crate) circuit_breaker: CircuitBreakerConfig,
    /// A request that was sent in full and is cancelled after this time without a response counts
    /// as lost. Default: 100 ms.
    pub(crate) min_silence: Duration,
    /// But not before this many times the usual latency. Default: 4.
    pub(crate) silence_factor: f64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            peak_ewma: PeakEwmaConfig::default(),
            outlier_detection: OutlierDetection::default(),
            circuit_breaker: CircuitBreakerConfig::default(),
            min_silence: Duration::from_millis(100),
            silence_factor: 4.0,
        }
    }
}

/// See the module. All times count from the start of the replica set.
pub(super) struct Replica {
    pub(super) backend: Backend,
    config: Arc<ReplicaConfig>,
    /// Whether its health is known.
    has_reported: AtomicBool,
    ready: AtomicBool,
    pub(super) in_flight: AtomicUsize,
    latency: PeakEwma,
    record: Mutex<Record>,
}

/// How a replica has done lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    pub(super) streak: LossStreak,
    pub(super) outlier: OutlierRecord,
}

impl Replica {
    /// Taken to have this latency, in seconds, until it has answered.
    pub(super) fn new(
        backend: Backend,
        config: Arc<ReplicaConfig>,
        latency: f64,
        now: Duration,
    ) -> Self {
        Self {
            backend,
            has_reported: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            latency: PeakEwma::new(config.peak_ewma, latency, now),
            record: Mutex::default(),
            config,
        }
    }

    pub(super) fn id(self: &Arc<Self>) -> ReplicaId {
        ReplicaId(Arc::as_ptr(self).addr())
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_reported(&self) -> bool {
        self.has_reported.load(Ordering::Relaxed)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        self.record().outlier.is_ejected(now)
    }

    pub(super) fn is_healthy(&self, now: Duration) -> bool {
        self.is_ready() && !self.is_ejected(now)
    }

    /// Its health is reported. Losses from before it became ready are forgotten.
    pub(super) fn report(&self, ready: bool) {
        if ready {
            let mut record = self.record();
            record.streak.end();
            record.outlier.readmit();
        }
        self.ready.store(ready, Ordering::Relaxed);
        self.has_reported.store(true, Ordering::Relaxed);
    }

    /// Its average latency in seconds.
    pub(super) fn latency(&self, now: Duration) -> f64 {
        self.latency.decayed(now)
    }

    /// Calls in flight, with one more, times latency.
    pub(super) fn load(&self, now: Duration) -> f64 {
        // As long as no latency is known, calls in flight decide.
        self.latency(now).max(1e-6) * (self.in_flight.load(Ordering::Relaxed) + 1) as f64
    }

    /// It answered.
    pub(super) fn answered(&self, latency: Duration, failed: bool, now: Duration) {
        self.latency.add(latency, now);
        let mut record = self.record();
        record.streak.end();
        record
            .outlier
            .answered(failed, &self.config.outlier_detection);
    }

    /// Another replica answered a call first that this one had for `latency`. Returns whether this
    /// one seems to answer none.
    pub(super) fn lost_hedge(&self, latency: Duration, now: Duration) -> bool {
        self.latency.add(latency, now);
        self.record()
            .outlier
            .lost_hedge(&self.config.outlier_detection)
    }

    /// How long it may be silent about a call before the call counts as lost, given the method's
    /// usual latency. A quick method says nothing about a slow one.
    pub(super) fn max_silence(&self, method: Option<Duration>) -> Duration {
        let latency = self.latency.latest();
        let usual = method.map_or(latency, |method| method.as_secs_f64().max(latency));
        Duration::try_from_secs_f64(usual * self.config.silence_factor)
            .unwrap_or(Duration::MAX)
            .max(self.config.min_silence)
    }

    /// It can be reached: it turned a call down.
    pub(super) fn reached(&self) {
        self.record().streak.end();
    }

    /// It lost a call that began at `began`, to silence or for another reason. Returns whether it
    /// is ejected for that.
    pub(super) fn lost(&self, began: Duration, silent: bool, now: Duration) -> bool {
        let ReplicaConfig {
            outlier_detection,
            circuit_breaker,
            ..
        } = &*self.config;
        let mut record = self.record();
        let counts = record.streak.lost(began, silent, now, circuit_breaker);
        if counts {
            let base = outlier_detection.base_ejection_after_loss;
            record.outlier.eject(now, base, outlier_detection);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use http::{Request, Response};
    use tonic::body::Body;
    use tower::{service_fn, util::BoxCloneSyncService};

    fn replica(latency: f64) -> Replica {
        let backend =
            service_fn(async |_: Request<Body>| Err::<Response<Body>, BoxError>("never".into()));
        let backend = BoxCloneSyncService::new(backend);
        Replica::new(backend, Arc::default(), latency, Duration::ZERO)
    }

    #[test]
    fn calls_that_are_lost_together_are_one_loss() {
        let replica = replica(0.0);
        let ejection = OutlierDetection::default().base_ejection_after_loss;
        let lost = |began, now| replica.lost(ejection * began, false, ejection * now);
        assert!(lost(0, 3) && !lost(0, 3) && !lost(2, 4));
        assert_eq!(replica.record().outlier.ejected_until, ejection * 4);
        assert!(lost(5, 6));
        let record = replica.record();
        assert_eq!(
            (record.streak.losses, record.outlier.ejected_until),
            (2, ejection * 8)
        );
    }

    #[test]
    fn silence_is_measured_by_the_slower_of_replica_and_method() {
        let ReplicaConfig {
            min_silence,
            silence_factor,
            ..
        } = ReplicaConfig::default();
        let replica = replica(0.001);
        assert_eq!(replica.max_silence(None), min_silence);
        assert_eq!(
            replica.max_silence(Some(2 * min_silence)),
            (2 * min_silence).mul_f64(silence_factor)
        );
    }
}
