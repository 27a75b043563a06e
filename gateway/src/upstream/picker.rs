//! Picks a replica for a call: of two healthy ones drawn at random the one with the lower load
//! (power of two choices, Mitzenmacher 2001), preferably one that has not been tried for this call.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    attempts::AttemptedReplicas,
    error::Unreachable,
    upstream::{replica::Replica, replica_set::ReplicaSet},
};

/// Which replicas may be picked.
type Filter<'a> = &'a dyn Fn(&Arc<Replica>) -> bool;

/// A replica to call, if there is one.
pub(super) enum Pick {
    Replica(Arc<Replica>),
    /// No replica is ready and some have not reported yet: the first that does is taken.
    Wait,
    Unreachable(Unreachable),
}

/// Picks a replica. If no replica is ready yet, waits up to `max_wait` for one.
pub(super) async fn pick(
    set: &ReplicaSet,
    attempted: &AttemptedReplicas,
    max_wait: Duration,
) -> Result<Arc<Replica>, Unreachable> {
    let picked = match choose(set, set.now(), attempted, true) {
        Pick::Wait => wait(set, attempted, max_wait).await,
        picked @ (Pick::Replica(_) | Pick::Unreachable(_)) => picked,
    };
    match picked {
        Pick::Replica(replica) => Ok(replica),
        Pick::Unreachable(problem) => Err(problem),
        Pick::Wait => Err(set.unreachable("it has not been found yet")),
    }
}

async fn wait(set: &ReplicaSet, attempted: &AttemptedReplicas, max_wait: Duration) -> Pick {
    let mut changes = set.changes.subscribe();
    let until = Instant::now() + max_wait;
    loop {
        // After the subscription, so that no change is missed between the two.
        match choose(set, set.now(), attempted, true) {
            Pick::Wait => {}
            picked @ (Pick::Replica(_) | Pick::Unreachable(_)) => return picked,
        }
        if timeout_at(until, changes.changed()).await.is_err() {
            return choose(set, set.now(), attempted, false);
        }
    }
}

pub(super) fn choose(
    set: &ReplicaSet,
    now: Duration,
    attempted: &AttemptedReplicas,
    may_wait: bool,
) -> Pick {
    let replicas = set.replicas.load();
    if replicas.is_empty() {
        let problem = set.problem.load_full();
        return problem.map_or(Pick::Wait, |problem| {
            Pick::Unreachable(set.unreachable(&problem))
        });
    }
    let none_ready_yet = || {
        !replicas.iter().any(|replica| replica.is_ready())
            && !replicas.iter().all(|replica| replica.has_reported())
    };
    if may_wait && none_ready_yet() {
        return Pick::Wait;
    }
    let streaks = replicas.iter().map(|replica| replica.record().streak);
    if set.circuit_breaker.is_open(streaks) && !set.circuit_breaker.half_open_probe(now) {
        let last_loss = set.last_loss.load();
        let none_answers = || set.unreachable("no replica answers");
        return Pick::Unreachable(last_loss.as_deref().cloned().unwrap_or_else(none_answers));
    }
    let attempted = attempted.lock();
    let is_new = |replica: &Arc<Replica>| !attempted.contains(replica.id());
    // From best to worst: a call is refused only if the circuit is open.
    let filters: [Filter<'_>; 5] = [
        &|replica| replica.is_healthy(now) && is_new(replica),
        &|replica| replica.is_healthy(now),
        &|replica| !replica.is_ejected(now) && is_new(replica),
        &|replica| !replica.is_ejected(now),
        &|_| true,
    ];
    let picked = filters
        .into_iter()
        .find_map(|filter| less_loaded(set, &replicas, filter, now));
    picked.map_or(Pick::Wait, Pick::Replica)
}

/// Of two replicas drawn at random the one with the lower load.
fn less_loaded(
    set: &ReplicaSet,
    replicas: &[Arc<Replica>],
    filter: Filter<'_>,
    now: Duration,
) -> Option<Arc<Replica>> {
    let mut left: Vec<_> = replicas.iter().filter(|replica| filter(replica)).collect();
    let mut draw = || (!left.is_empty()).then(|| left.swap_remove(set.rng.below(left.len())));
    let (one, other) = (draw()?, draw());
    Some(
        other
            .filter(|other| other.load(now) < one.load(now))
            .unwrap_or(one)
            .clone(),
    )
}

/// Picks a healthy replica for a hedge, if the call has not been hedged before.
pub(super) fn pick_for_hedge(
    set: &ReplicaSet,
    attempted: &AttemptedReplicas,
) -> Option<Arc<Replica>> {
    let (attempted, now) = (attempted.lock(), set.now());
    let filter: Filter<'_> = &|replica| {
        !attempted.is_hedged() && replica.is_healthy(now) && !attempted.contains(replica.id())
    };
    less_loaded(set, &set.replicas.load(), filter, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{
        circuit_breaker::CircuitBreakerConfig,
        outlier_detection::OutlierDetection,
        peak_ewma::PeakEwmaConfig,
        replica_set::tests::{one, replicas},
    };
    use std::sync::atomic::Ordering;

    /// How often each replica is picked, of 3000 times.
    fn shares(set: &ReplicaSet, now: Duration) -> Vec<usize> {
        let replicas = set.replicas.load();
        let mut counts = vec![0; replicas.len()];
        for _ in 0..3000 {
            let Pick::Replica(picked) = choose(set, now, &AttemptedReplicas::default(), false)
            else {
                panic!("no replica")
            };
            let is_picked = |replica| Arc::ptr_eq(replica, &picked);
            counts[replicas.iter().position(is_picked).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equal_replicas_get_equal_shares_and_busy_or_slow_ones_less() {
        let set = replicas(&[true; 3]);
        let later = PeakEwmaConfig::default().decay * 5;
        assert!(
            shares(&set, Duration::ZERO)
                .iter()
                .all(|count| (800..1200).contains(count))
        );
        one(&set, 1).in_flight.store(5, Ordering::Relaxed);
        let spared = shares(&set, Duration::ZERO);
        assert_eq!(
            spared[1], 0,
            "one of two others is always picked before it: {spared:?}"
        );
        one(&set, 1).in_flight.store(0, Ordering::Relaxed);
        one(&set, 0).answered(Duration::from_millis(50), false, Duration::ZERO);
        one(&set, 1).answered(Duration::from_millis(1), false, later);
        one(&set, 2).answered(Duration::from_millis(1), false, later);
        assert_eq!(shares(&set, Duration::ZERO)[0], 0);
        assert!(shares(&set, later)[0] > 0, "it was long ago");
    }

    #[test]
    fn replicas_that_are_not_ready_or_lost_a_call_are_picked_last() {
        let set = replicas(&[true, false, true]);
        let ejection = OutlierDetection::default().base_ejection_after_loss;
        assert_eq!(shares(&set, Duration::ZERO)[1], 0);
        one(&set, 0).lost(Duration::ZERO, false, Duration::ZERO);
        assert_eq!(shares(&set, Duration::ZERO), [0, 0, 3000]);
        assert!(shares(&set, ejection)[0] > 0, "the ejection has ended");
        one(&set, 0).lost(ejection, false, ejection);
        assert_eq!(
            shares(&set, ejection * 2),
            [0, 0, 3000],
            "the second ejection is longer"
        );

        one(&set, 2).report(false);
        assert_eq!(
            shares(&set, ejection * 2)[0],
            0,
            "none is ready: one that has not lost a call"
        );
        one(&set, 1).lost(ejection, false, ejection);
        one(&set, 2).lost(ejection, false, ejection);
        assert!(
            shares(&set, ejection).iter().all(|count| *count > 0),
            "all are ejected: any"
        );
        one(&set, 0).report(true);
        assert_eq!(
            shares(&set, ejection),
            [3000, 0, 0],
            "becoming ready ends the ejection"
        );
    }

    #[test]
    fn a_retry_goes_to_another_replica() {
        let set = replicas(&[true, true, false]);
        let (attempted, now) = (AttemptedReplicas::default(), Duration::ZERO);
        let mut picked = Vec::new();
        for _ in 0..3 {
            let Pick::Replica(replica) = choose(&set, now, &attempted, false) else {
                panic!("no replica")
            };
            attempted.add(replica.id());
            picked.push(replica.id());
        }
        assert_ne!(picked[0], picked[1]);
        assert!(
            picked[..2].contains(&picked[2]),
            "rather one that is ready than a new one that is not"
        );
    }

    #[test]
    fn an_open_circuit_lets_one_probe_through_at_a_time() {
        let set = replicas(&[true, true]);
        let config = CircuitBreakerConfig::default();
        let moment = Duration::from_millis(100);
        let mut now = Duration::ZERO;
        let choose = |now| choose(&set, now, &AttemptedReplicas::default(), false);
        for _ in 0..config.consecutive_losses {
            for at in [0, 1] {
                assert!(matches!(choose(now), Pick::Replica(_)));
                one(&set, at).lost(now, false, now);
            }
            now += moment;
        }
        for _ in 0..3 {
            assert!(matches!(choose(now), Pick::Replica(_)), "a probe");
            assert!(
                matches!(choose(now), Pick::Unreachable(_))
                    && matches!(
                        choose(now + config.probe_interval / 2),
                        Pick::Unreachable(_)
                    )
            );
            now += config.probe_interval;
        }
        one(&set, 0).answered(moment, false, now);
        assert!(
            (0..10).all(|_| matches!(choose(now), Pick::Replica(_))),
            "an answer closes the circuit"
        );
    }
}
