//! The replicas of one service, and what they share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    error::Unreachable,
    latency_quantile::LatencyQuantiles,
    metrics,
    random::Rng,
    upstream::{
        backend::Backend,
        circuit_breaker::CircuitBreaker,
        outlier_detection::Peers,
        replica::{Replica, ReplicaConfig},
        watch::watch_readiness,
    },
};

/// See the module.
pub(super) struct ReplicaSet {
    pub(super) service: Arc<str>,
    pub(super) replicas: ArcSwap<Vec<Arc<Replica>>>,
    /// Why there are none; nothing before the first look.
    pub(super) problem: ArcSwapOption<String>,
    /// Changes when a replica comes, goes, or reports its health.
    pub(super) changes: watch::Sender<()>,
    /// Notified when a replica cannot be reached: addresses may have changed.
    pub(super) suspected: Notify,
    /// Why a call was lost last, unless it was silence.
    pub(super) last_loss: ArcSwapOption<Unreachable>,
    /// Latencies by method.
    pub(super) quantiles: LatencyQuantiles,
    pub(super) circuit_breaker: CircuitBreaker,
    pub(super) rng: Rng,
    started: Instant,
    config: Arc<ReplicaConfig>,
}

impl ReplicaSet {
    pub(super) fn new(service: &str, config: ReplicaConfig) -> Self {
        Self {
            service: service.into(),
            replicas: ArcSwap::default(),
            problem: ArcSwapOption::default(),
            changes: watch::Sender::new(()),
            suspected: Notify::new(),
            last_loss: ArcSwapOption::default(),
            quantiles: LatencyQuantiles::default(),
            circuit_breaker: CircuitBreaker::new(config.circuit_breaker),
            rng: Rng::default(),
            started: Instant::now(),
            config: Arc::new(config),
        }
    }

    /// The time since the start of the set.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A moment as the time since the start of the set.
    pub(super) fn since_start(&self, moment: Instant) -> Duration {
        moment - self.started
    }

    /// Makes a replica, and the task that watches its health. It is taken to be as slow as the
    /// slowest until it has answered, so that it does not get every call at once.
    pub(super) fn meet(
        self: &Arc<Self>,
        address: SocketAddr,
        backend: Backend,
    ) -> (Arc<Replica>, JoinSet<()>) {
        let now = self.now();
        let slowest = self
            .replicas
            .load()
            .iter()
            .map(|replica| replica.latency(now))
            .fold(0.0, f64::max);
        let replica = Replica::new(backend.clone(), self.config.clone(), slowest, now);
        let replica = Arc::new(replica);
        let (set, reported) = (self.clone(), replica.clone());
        let report = move |ready| {
            reported.report(ready);
            set.changes.send_replace(());
        };
        let name = format!("{} at {address}", self.service);
        let mut watch = JoinSet::new();
        watch.spawn(watch_readiness(name.into(), backend, false, report));
        (replica, watch)
    }

    /// Replaces the replicas. Calls in flight to those that are gone go on.
    pub(super) fn set(&self, replicas: Vec<Arc<Replica>>) {
        metrics::replicas(&self.service, replicas.len());
        self.replicas.store(Arc::new(replicas));
        self.changes.send_replace(());
    }

    pub(super) fn unreachable(&self, problem: &str) -> Unreachable {
        Unreachable::new(self.service.clone(), problem)
    }

    /// Ejects a replica that fails much more often than its peers; never the only one, and never
    /// more than a share of them.
    pub(super) fn evaluate(&self, replica: &Arc<Replica>, now: Duration) {
        let replicas = self.replicas.load();
        let peers = replicas
            .iter()
            .filter(|peer| !Arc::ptr_eq(peer, replica))
            .map(|peer| peer.record().outlier.clone());
        // One lock at a time: the peers' before the replica's own.
        let Some(peers) = Peers::of(peers, now) else {
            return;
        };
        let config = &self.config.outlier_detection;
        let mut record = replica.record();
        if config.evaluate(&record.outlier, &peers, replicas.len(), now) {
            record.outlier.eject(now, config.base_ejection, config);
            drop(record);
            metrics::replica_ejected(&self.service, "failing");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::BoxError;
    use http::{Request, Response};
    use tonic::body::Body;
    use tower::{service_fn, util::BoxCloneSyncService};

    /// A set of replicas of which these are ready. None of them answers.
    pub(in crate::upstream) fn replicas(ready: &[bool]) -> Arc<ReplicaSet> {
        let backend =
            service_fn(async |_: Request<Body>| Err::<Response<Body>, BoxError>("never".into()));
        let backend = BoxCloneSyncService::new(backend);
        set_of(ready.iter().map(|ready| (backend.clone(), 0.0, *ready)))
    }

    /// A set of replicas with these backends, latencies in seconds, and readiness.
    pub(in crate::upstream) fn set_of(
        replicas: impl IntoIterator<Item = (Backend, f64, bool)>,
    ) -> Arc<ReplicaSet> {
        let set = ReplicaSet::new("churn", ReplicaConfig::default());
        let replicas = replicas.into_iter().map(|(backend, latency, ready)| {
            let replica = Replica::new(backend, set.config.clone(), latency, Duration::ZERO);
            replica.report(ready);
            Arc::new(replica)
        });
        set.set(replicas.collect());
        Arc::new(set)
    }

    pub(in crate::upstream) fn one(set: &ReplicaSet, at: usize) -> Arc<Replica> {
        set.replicas.load()[at].clone()
    }

    /// Every replica gives a hundred answers, this many of which are failures.
    fn answer(set: &ReplicaSet, now: Duration, failures: &[u32]) {
        for n in 0..100 {
            for (replica, failures) in set.replicas.load().iter().zip(failures) {
                let failed = (n + 1) * failures / 100 > n * failures / 100;
                replica.answered(Duration::from_millis(1), failed, now);
                if failed {
                    set.evaluate(replica, now);
                }
            }
        }
    }

    fn ejected(set: &ReplicaSet, now: Duration) -> Vec<bool> {
        let replicas = set.replicas.load();
        replicas
            .iter()
            .map(|replica| replica.is_ejected(now))
            .collect()
    }

    #[test]
    fn a_replica_that_fails_much_more_often_than_its_peers_is_ejected() {
        let now = Duration::from_secs(60);
        for (failures, expected) in [
            (&[0, 0, 0][..], &[false, false, false][..]),
            (&[5, 5, 0], &[false, false, false]),
            (&[0, 0, 100], &[false, false, true]),
            (&[0, 0, 50], &[false, false, true]),
            (&[40, 40, 50], &[false, false, false]),
            (&[0, 100, 100], &[false, true, false]), // never more than half
            (&[100], &[false]),                      // never the only one
        ] {
            let set = replicas(&vec![true; failures.len()]);
            answer(&set, now, failures);
            assert_eq!(ejected(&set, now), expected, "{failures:?}");
        }
    }

    #[test]
    fn ejections_grow_and_are_short_again_after_a_good_time() {
        let set = replicas(&[true, true]);
        let mut now = Duration::from_secs(60);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            answer(&set, now, &[0, 100]);
            let until = one(&set, 1).record().outlier.ejected_until;
            assert_eq!(until - now, Duration::from_secs(seconds));
            now = until;
        }
        now += set.config.outlier_detection.max_ejection;
        answer(&set, now, &[0, 100]);
        assert_eq!(
            one(&set, 1).record().outlier.ejected_until - now,
            Duration::from_secs(1)
        );
    }
}
