//! Chooses among the replicas of a service: of two taken at random the one with less to do (power of two choices, Mitzenmacher
//! 2001), load being calls in flight times a latency that rises at once and falls slowly (peak EWMA). A replica that is not
//! ready, or has just lost calls, is asked only where there is no other. Promise: while one replica answers, calls do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::{sync::watch, time::Instant};
use tonic::body::Body;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    backend::{Backend, Unreachable},
    backends::watch_readiness,
    meter,
    stack::BoxError,
    tasks::Tasks,
};

/// How long a replica that lost a call is left alone; twice as long for each one more in a row.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Who is left waiting this long and gives up was lost as well.
const SILENCE: Duration = Duration::from_millis(100);
/// What a new latency counts for where it is below the old ones.
const FALL: f64 = 0.1;

/// One service of these replicas. Must be called within a tokio runtime.
pub(crate) fn among(service: &str, replicas: Vec<Backend>) -> Backend {
    let service: Arc<str> = service.into();
    let mut watches = Tasks::default();
    let replicas = replicas.into_iter().map(|backend| {
        let (ready, receiver) = watch::channel(false);
        watches.spawn(watch_readiness(service.clone(), backend.clone(), ready));
        Replica::new(backend, receiver)
    });
    let replicas = replicas.collect();
    let replicas = Replicas { service, replicas, start: Instant::now(), draws: AtomicU64::new(0), _watches: watches };
    BoxCloneSyncService::new(Balanced(Arc::new(replicas)))
}

struct Replicas {
    service: Arc<str>,
    replicas: Vec<Replica>,
    start: Instant,
    draws: AtomicU64,
    _watches: Tasks,
}

struct Replica {
    backend: Backend,
    ready: watch::Receiver<bool>,
    in_flight: AtomicUsize,
    /// Bits of a f64, seconds.
    latency: AtomicU64,
    /// Calls lost in a row.
    losses: AtomicU32,
    /// Milliseconds from the start until it is asked again.
    rests_until: AtomicU64,
}

impl Replica {
    fn new(backend: Backend, ready: watch::Receiver<bool>) -> Self {
        Self {
            backend,
            ready,
            in_flight: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
            losses: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
        }
    }

    fn load(&self) -> f64 {
        // Where nothing is known yet, calls in flight decide.
        let latency = f64::from_bits(self.latency.load(Ordering::Relaxed)).max(1e-6);
        latency * (self.in_flight.load(Ordering::Relaxed) + 1) as f64
    }

    fn answered(&self, after: Duration) {
        self.losses.store(0, Ordering::Relaxed);
        let (new, old) = (after.as_secs_f64(), f64::from_bits(self.latency.load(Ordering::Relaxed)));
        let latency = if new > old { new } else { old + FALL * (new - old) };
        self.latency.store(latency.to_bits(), Ordering::Relaxed);
    }

    fn lost(&self, now: Duration) {
        let before = self.losses.fetch_add(1, Ordering::Relaxed);
        let rest = (REST * 2_u32.saturating_pow(before)).min(LONGEST_REST);
        self.rests_until.store((now + rest).as_millis() as u64, Ordering::Relaxed);
    }
}

impl Replicas {
    /// Whom to ask.
    fn choose(&self, now: Duration) -> usize {
        let rests = |replica: &Replica| replica.rests_until.load(Ordering::Relaxed) > now.as_millis() as u64;
        let those = |good: &dyn Fn(&Replica) -> bool| -> Vec<usize> {
            (0..self.replicas.len()).filter(|at| good(&self.replicas[*at])).collect()
        };
        let mut left = those(&|replica| *replica.ready.borrow() && !rests(replica));
        if left.is_empty() {
            left = those(&|replica| !rests(replica));
        }
        if left.is_empty() {
            left = those(&|_| true);
        }
        let one = left.swap_remove(self.draw(left.len()));
        if left.is_empty() {
            return one;
        }
        let other = left.swap_remove(self.draw(left.len()));
        if self.replicas[one].load() <= self.replicas[other].load() { one } else { other }
    }

    /// A number below `end`, which is above 0: SplitMix64 (Steele et al. 2014) of a counter.
    fn draw(&self, end: usize) -> usize {
        let mut z = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// A call that is with a replica. Where it is given up after a silence, the replica has lost it.
struct Asked {
    replicas: Arc<Replicas>,
    at: usize,
    since: Instant,
    over: bool,
}

impl Asked {
    fn of(replicas: Arc<Replicas>, at: usize) -> Self {
        replicas.replicas[at].in_flight.fetch_add(1, Ordering::Relaxed);
        Self { replicas, at, since: Instant::now(), over: false }
    }

    fn end(mut self, lost: bool) {
        self.over = true;
        let replica = &self.replicas.replicas[self.at];
        if lost { self.lost() } else { replica.answered(self.since.elapsed()) }
    }

    fn lost(&self) {
        self.replicas.replicas[self.at].lost(self.replicas.start.elapsed());
        meter::replica_lost(&self.replicas.service);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.replicas.replicas[self.at].in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.over && self.since.elapsed() >= SILENCE {
            self.lost();
        }
    }
}

#[derive(Clone)]
struct Balanced(Arc<Replicas>);

impl Service<Request<Body>> for Balanced {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let at = self.0.choose(self.0.start.elapsed());
        let asked = Asked::of(self.0.clone(), at);
        let backend = self.0.replicas[at].backend.clone();
        Box::pin(async move {
            let answer = backend.oneshot(request).await;
            asked.end(answer.as_ref().is_err_and(|error| error.is::<Unreachable>()));
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::service_fn;

    /// Replicas of which these are ready, and the senders that say so.
    fn replicas(ready: &[bool]) -> (Replicas, Vec<watch::Sender<bool>>) {
        let nobody = service_fn(async |_: Request<Body>| Err::<Response<Body>, BoxError>("nobody".into()));
        let nobody = BoxCloneSyncService::new(nobody);
        let (senders, receivers): (Vec<_>, Vec<_>) = ready.iter().map(|ready| watch::channel(*ready)).unzip();
        let replicas = receivers.into_iter().map(|receiver| Replica::new(nobody.clone(), receiver)).collect();
        let service = "churn".into();
        let (start, draws) = (Instant::now(), AtomicU64::new(0));
        (Replicas { service, replicas, start, draws, _watches: Tasks::default() }, senders)
    }

    fn shares(replicas: &Replicas, now: Duration) -> Vec<usize> {
        let mut counts = vec![0; replicas.replicas.len()];
        (0..3000).for_each(|_| counts[replicas.choose(now)] += 1);
        counts
    }

    #[test]
    fn equals_share_and_the_busy_are_spared() {
        let (replicas, _senders) = replicas(&[true; 3]);
        assert!(shares(&replicas, Duration::ZERO).iter().all(|count| (800..1200).contains(count)));
        replicas.replicas[1].in_flight.store(5, Ordering::Relaxed);
        let spared = shares(&replicas, Duration::ZERO);
        assert_eq!(spared[1], 0, "one of two others is always taken before it: {spared:?}");
        replicas.replicas[1].in_flight.store(0, Ordering::Relaxed);
        replicas.replicas[0].answered(Duration::from_millis(50));
        assert_eq!(shares(&replicas, Duration::ZERO)[0], 0);
    }

    #[test]
    fn who_is_not_ready_or_lost_a_call_is_asked_last() {
        let (replicas, senders) = replicas(&[true, false, true]);
        assert_eq!(shares(&replicas, Duration::ZERO)[1], 0);
        replicas.replicas[0].lost(Duration::ZERO);
        assert_eq!(shares(&replicas, Duration::ZERO), [0, 0, 3000]);
        assert!(shares(&replicas, REST)[0] > 0, "a rest ends");
        replicas.replicas[0].lost(REST);
        assert_eq!(shares(&replicas, REST * 2), [0, 0, 3000], "the second is longer");

        senders[2].send_replace(false);
        assert_eq!(shares(&replicas, REST * 2)[0], 0, "nobody is ready: whoever has not lost a call");
        replicas.replicas[1].lost(REST);
        replicas.replicas[2].lost(REST);
        assert!(shares(&replicas, REST).iter().all(|count| *count > 0), "never nobody");
    }
}
