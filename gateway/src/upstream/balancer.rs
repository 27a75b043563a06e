//! Balances calls among the replicas of a service. Promise: while one replica answers, calls do.
//!
//! - `discovery` finds the replicas, `replica_set` keeps them; one that is new gets calls once it
//!   is connected and reports that it is ready.
//! - `picker` picks the less loaded of two: calls in flight times latency (`peak_ewma`).
//! - `outlier_detection` ejects replicas that lose calls or fail more often than the others.
//! - `circuit_breaker` refuses calls at once while every replica loses them.
//! - `hedge` sends a call to a second replica if the first is slow.
//! - `in_flight` tells all of them how each call ended.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::body::Body;
use tower::{Service, util::BoxCloneSyncService};

use crate::{
    attempts::AttemptedReplicas,
    error::BoxError,
    outcome::Answer,
    upstream::{
        backend::Backend,
        discovery::Endpoints,
        hedge::{self, Hedge},
        in_flight::InFlight,
        picker,
        replica::{Replica, ReplicaConfig},
        replica_set::ReplicaSet,
        target::Target,
    },
};

/// How the balancer waits.
#[derive(Debug, Clone)]
pub(crate) struct BalancerConfig {
    /// Pause between two lookups of the replicas. Default: 3 s.
    pub(crate) refresh: Duration,
    /// The same after a replica could not be reached. Default: 500 ms.
    pub(crate) min_refresh: Duration,
    /// How long a call waits for the first replica to become ready. Default: 1 s.
    pub(crate) max_wait: Duration,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(3),
            min_refresh: Duration::from_millis(500),
            max_wait: Duration::from_secs(1),
        }
    }
}

/// One service of the replicas at these endpoints. A call without an answer after `hedge_after` may
/// be hedged. `connect` makes a replica of an address. Must be called within a tokio runtime.
pub(crate) fn balance(
    service: &str,
    endpoints: Endpoints,
    hedge_after: Option<Duration>,
    connect: impl Fn(Target, SocketAddr) -> Backend + Send + 'static,
) -> Backend {
    let set = Arc::new(ReplicaSet::new(service, ReplicaConfig::default()));
    let config = BalancerConfig::default();
    let mut discovery = JoinSet::new();
    discovery.spawn(discover(set.clone(), endpoints, config.clone(), connect));
    BoxCloneSyncService::new(Balancer {
        set,
        hedge_after,
        max_wait: config.max_wait,
        discovery: Arc::new(discovery),
    })
}

/// Keeps the set as its replicas are found, for ever.
async fn discover(
    set: Arc<ReplicaSet>,
    mut endpoints: Endpoints,
    config: BalancerConfig,
    connect: impl Fn(Target, SocketAddr) -> Backend,
) {
    let mut known: BTreeMap<SocketAddr, (Target, Arc<Replica>, JoinSet<()>)> = BTreeMap::new();
    loop {
        let found = endpoints.look().await;
        known.retain(|address, (target, ..)| {
            // The same address under another name, or with TLS, is another replica.
            let stays = found.get(address) == Some(target);
            if !stays {
                tracing::info!(service = &*set.service, %address, "replica is gone");
            }
            stays
        });
        for (address, target) in found {
            known.entry(address).or_insert_with(|| {
                tracing::info!(service = &*set.service, %address, "replica");
                let (replica, watch) = set.meet(address, connect(target.clone(), address));
                (target, replica, watch)
            });
        }
        set.problem.store(Some(Arc::new(endpoints.problem())));
        let replicas = known.values().map(|(_, replica, _)| replica.clone());
        set.set(replicas.collect());
        if endpoints.are_fixed() {
            return std::future::pending().await;
        }
        let suspected = async {
            sleep(config.min_refresh).await;
            set.suspected.notified().await;
        };
        let _ = timeout(config.refresh, suspected).await;
    }
}

#[derive(Clone)]
struct Balancer {
    set: Arc<ReplicaSet>,
    hedge_after: Option<Duration>,
    max_wait: Duration,
    /// Ends with the last clone.
    discovery: Arc<JoinSet<()>>,
}

impl Service<Request<Body>> for Balancer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Self {
            set,
            hedge_after,
            max_wait,
            discovery,
        } = self.clone();
        Box::pin(async move {
            let _lasts_as_long_as_the_call = discovery;
            let attempted = request
                .extensions_mut()
                .remove::<AttemptedReplicas>()
                .unwrap_or_default();
            let hedge = request.extensions_mut().remove::<Hedge>();
            let replica = picker::pick(&set, &attempted, max_wait).await?;
            attempted.add(replica.id());
            let mut call = InFlight::new(set.clone(), replica);
            if let (Some(hedge), Some(min_wait)) = (hedge, hedge_after)
                && set.replicas.load().len() > 1
            {
                return hedge::send(&set, call, request, &attempted, &hedge, min_wait).await;
            }
            let answer = call.send(request).await;
            call.settle(&answer);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attempts::{ReplicaId, RetryBudget},
        error::Unreachable,
        grpc::frame::{self, Known},
        upstream::{
            discovery::Lookup,
            outlier_detection::OutlierDetection,
            picker::{Pick, choose},
            replica_set::tests::{one, set_of},
        },
    };
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use http::{HeaderValue, header::CONTENT_TYPE};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use std::{
        collections::HashMap,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use tokio::{sync::watch, time::Instant};
    use tonic::{Code, Status};
    use tower::{ServiceExt, service_fn};

    const PATH: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const MIN_WAIT: Duration = Duration::from_millis(10);

    fn balancer(set: Arc<ReplicaSet>, hedge_after: Option<Duration>) -> Balancer {
        Balancer {
            set,
            hedge_after,
            max_wait: BalancerConfig::default().max_wait,
            discovery: Arc::default(),
        }
    }

    /// How a replica answers.
    #[derive(Clone, Copy)]
    struct Manner {
        /// Milliseconds; none if it never answers.
        after: Option<u64>,
        answer: fn() -> Answer,
    }

    fn found() -> Answer {
        Ok(Response::default())
    }

    fn refused() -> Answer {
        Ok(Status::unavailable("not now").into_http())
    }

    fn lost() -> Answer {
        Err(Unreachable::new("churn", "it is gone").into())
    }

    fn answers(after: u64, answer: fn() -> Answer) -> Manner {
        let after = Some(after);
        Manner { after, answer }
    }

    const SILENT: Manner = Manner {
        after: None,
        answer: found,
    };

    /// Two such replicas of which the first gets the call first, and how many calls each has had.
    fn two(manners: [Manner; 2]) -> (Balancer, [Arc<AtomicUsize>; 2]) {
        let calls = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let replicas = manners.into_iter().zip(&calls).zip([0.0, 60.0]).map(
            |((Manner { after, answer }, calls), latency)| {
                let calls = calls.clone();
                let backend = service_fn(move |_: Request<Body>| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    async move {
                        sleep(after.map_or(Duration::MAX, Duration::from_millis)).await;
                        answer()
                    }
                });
                (BoxCloneSyncService::new(backend), latency, true)
            },
        );
        let set = set_of(replicas);
        set.quantiles.observe(PATH, Duration::from_millis(1));
        (balancer(set, Some(MIN_WAIT)), calls)
    }

    fn request(budget: &RetryBudget) -> Request<Body> {
        let mut request = Request::post(PATH).body(Body::empty()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(250);
        request.extensions_mut().insert(Hedge {
            budget: budget.clone(),
            deadline,
            body: Bytes::new(),
        });
        request
    }

    fn counts(calls: &[Arc<AtomicUsize>; 2]) -> [usize; 2] {
        calls.each_ref().map(|calls| calls.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_replica_costs_a_moment_and_is_soon_ejected() {
        let (service, calls) = two([SILENT, answers(0, found)]);
        let (silent, budget) = (one(&service.set, 0), RetryBudget::default());
        let lost_hedges = OutlierDetection::default().consecutive_lost_hedges as usize;
        for n in 1..=lost_hedges {
            assert!(!silent.is_ejected(service.set.now()));
            let begun = Instant::now();
            service.clone().oneshot(request(&budget)).await.unwrap();
            let took = begun.elapsed();
            assert!((10..=12).contains(&took.as_millis()), "{took:?}");
            let in_flight = silent.in_flight.load(Ordering::Relaxed);
            assert_eq!((counts(&calls), in_flight), ([n, n], 0));
        }
        assert!(silent.is_ejected(service.set.now()));
        service.clone().oneshot(request(&budget)).await.unwrap();
        assert_eq!(counts(&calls)[0], lost_hedges, "it is ejected");

        silent.answered(MIN_WAIT, false, service.set.now());
        assert!(
            !silent.lost_hedge(MIN_WAIT, service.set.now()),
            "an answer between"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_is_the_callers() {
        struct Case {
            replicas: [Manner; 2],
            ends: Result<Option<Code>, ()>,
            after_ms: u128,
        }
        let case = |first, second, ends, after_ms| Case {
            replicas: [first, second],
            ends,
            after_ms,
        };
        let unavailable = Some(Code::Unavailable);
        let cases = [
            case(answers(9, found), SILENT, Ok(None), 9),
            case(answers(20, found), answers(15, found), Ok(None), 20),
            case(answers(20, found), answers(5, found), Ok(None), 15),
            case(answers(30, found), answers(5, refused), Ok(None), 30),
            case(answers(15, lost), answers(50, found), Ok(None), 60),
            case(answers(15, refused), answers(50, lost), Ok(unavailable), 60),
            case(answers(50, lost), answers(5, refused), Err(()), 50),
            // A retry is left to the layer above.
            case(answers(5, refused), SILENT, Ok(unavailable), 5),
        ];
        for (n, case) in cases.into_iter().enumerate() {
            let (service, calls) = two(case.replicas);
            let begun = Instant::now();
            let answer = service.clone().oneshot(request(&RetryBudget::default()));
            let answer = answer.await;
            let code = answer.map(|answer| frame::code(answer.headers()));
            assert_eq!(code.map_err(drop), case.ends, "{n}");
            let took = begun.elapsed().as_millis();
            let expected = case.after_ms..=case.after_ms + 2;
            assert!(expected.contains(&took), "{n}: {took} ms");
            assert_eq!(counts(&calls), [1, usize::from(took > 10)], "{n}");
            for replica in service.set.replicas.load().iter() {
                assert_eq!(replica.in_flight.load(Ordering::Relaxed), 0, "{n}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_hedged_only_if_that_helps_and_once() {
        type Change<'a> = &'a dyn Fn(&mut Balancer, &mut Request<Body>);
        let spent = RetryBudget::default();
        while spent.pay_hedge() {}
        let ejected = |service: &mut Balancer, _: &mut Request<Body>| {
            one(&service.set, 1).lost(Duration::ZERO, false, Duration::from_secs(60));
        };
        let unready =
            |service: &mut Balancer, _: &mut Request<Body>| one(&service.set, 1).report(false);
        let alone = |service: &mut Balancer, _: &mut Request<Body>| {
            service.set.set(vec![one(&service.set, 0)]);
        };
        let off = |service: &mut Balancer, _: &mut Request<Body>| service.hedge_after = None;
        let effects = |_: &mut Balancer, request: &mut Request<Body>| {
            request.extensions_mut().remove::<Hedge>();
        };
        let poor = move |_: &mut Balancer, request: &mut Request<Body>| {
            request.extensions_mut().get_mut::<Hedge>().unwrap().budget = spent.clone();
        };
        let before = |_: &mut Balancer, request: &mut Request<Body>| {
            let attempted = AttemptedReplicas::default();
            attempted.add_hedge(ReplicaId(0));
            request.extensions_mut().insert(attempted);
        };
        let changes: [(&str, Change<'_>); 7] = [
            ("the other is ejected", &ejected),
            ("the other is not ready", &unready),
            ("there is no other", &alone),
            ("hedges are off", &off),
            ("the method has side effects", &effects),
            ("the budget is spent", &poor),
            ("the call has been hedged before", &before),
        ];
        for (why, change) in changes {
            let (mut service, calls) = two([answers(100, found), answers(0, found)]);
            let mut request = request(&RetryBudget::default());
            change(&mut service, &mut request);
            service.oneshot(request).await.unwrap();
            assert_eq!(counts(&calls), [1, 0], "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_lost_to_silence_only_if_it_was_sent_and_waited_long_enough() {
        let silent = BoxCloneSyncService::new(service_fn(async |request: Request<Body>| {
            let _all_of_it = request.into_body().collect().await;
            std::future::pending::<Result<Response<Body>, BoxError>>().await
        }));
        let whole = || Known::body(Bytes::from_static(b"all"), None);
        let withheld = || {
            Body::new(StreamBody::new(stream::pending::<
                Result<Frame<Bytes>, Status>,
            >()))
        };
        let config = ReplicaConfig::default();
        let (silence, latency) = (config.min_silence, Duration::from_millis(50));
        for (body, waited, losses) in [
            (withheld as fn() -> Body, 100 * silence, 0),
            (whole, silence / 2, 0),
            (whole, silence, 0),
            (whole, latency.mul_f64(config.silence_factor), 1),
        ] {
            let set = set_of([(silent.clone(), latency.as_secs_f64(), true)]);
            let replica = one(&set, 0);
            let call = balancer(set, None).oneshot(Request::new(body()));
            assert!(timeout(waited, call).await.is_err());
            assert_eq!(replica.record().streak.losses, losses, "after {waited:?}");
        }
    }

    /// A replica that reports for ever whether it is ready, and does nothing else.
    fn serve(ready: bool) -> Backend {
        BoxCloneSyncService::new(service_fn(move |_: Request<Body>| {
            let status = [0, 0, 0, 0, 2, 8, if ready { 1 } else { 2 }];
            let first = Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(&status)));
            let frames = stream::iter([first]).chain(stream::pending());
            let mut response = Response::new(Body::new(StreamBody::new(frames)));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            std::future::ready(Ok::<_, BoxError>(response))
        }))
    }

    fn endpoints(lookup: Lookup) -> Endpoints {
        let host = "http://churn:1".parse().unwrap();
        Endpoints::new("churn".into(), vec![host], lookup)
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_come_and_go_as_they_are_found() {
        let (found, addresses) = watch::channel(vec!["10.0.0.1", "10.0.0.2"]);
        let lookup: Lookup = Arc::new(move |_, port| {
            let now = addresses
                .borrow()
                .iter()
                .map(|address| SocketAddr::new(address.parse().unwrap(), port))
                .collect();
            Box::pin(std::future::ready(Ok(now)))
        });
        let endpoints = endpoints(lookup);
        let (set, config) = (set_of([]), BalancerConfig::default());
        let made = Arc::new(Mutex::new(HashMap::new()));
        let maker = made.clone();
        let connect = move |_, address: SocketAddr| {
            let address = address.ip().to_string();
            let backend = serve(address != "10.0.0.3");
            *maker.lock().unwrap().entry(address).or_insert(0) += 1;
            backend
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(discover(set.clone(), endpoints, config.clone(), connect));

        // A call that comes before any replica is known waits for the first that is ready.
        let attempted = AttemptedReplicas::default();
        assert!(matches!(
            choose(&set, Duration::ZERO, &attempted, true),
            Pick::Wait
        ));
        let first = picker::pick(&set, &attempted, config.max_wait)
            .await
            .unwrap();
        sleep(config.refresh).await;
        assert!(set.replicas.load().iter().all(|replica| replica.is_ready()));
        first.answered(Duration::from_secs(1), false, set.now());

        found.send_replace(vec!["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        sleep(config.refresh * 2).await;
        let replicas = set.replicas.load_full();
        let ready: Vec<_> = replicas.iter().map(|replica| replica.is_ready()).collect();
        assert_eq!(ready, [true, false, true]);
        let latency = replicas[2].latency(Duration::ZERO);
        assert!(
            latency > 0.1,
            "until it has answered it is as slow as the slowest: {latency}"
        );
        let picked = (0..3000).map(|_| {
            match choose(&set, Duration::ZERO, &AttemptedReplicas::default(), false) {
                Pick::Replica(replica) => replica.id(),
                Pick::Wait | Pick::Unreachable(_) => panic!("no replica"),
            }
        });
        assert!(
            picked.into_iter().all(|picked| picked != replicas[1].id()),
            "one that is not ready gets no call"
        );
        assert!(made.lock().unwrap().values().all(|times| *times == 1));

        found.send_replace(vec![]);
        sleep(config.refresh * 2).await;
        assert_eq!(set.replicas.load().len(), 3, "no address changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_cannot_be_found_is_reported_at_once() {
        let lookup: Lookup = Arc::new(|_, _| {
            Box::pin(std::future::ready(Err(std::io::Error::other(
                "no such name",
            ))))
        });
        let endpoints = endpoints(lookup);
        let service = balance("churn", endpoints, None, |_, _| serve(true));
        let error = service.oneshot(Request::default()).await.unwrap_err();
        assert_eq!(
            error.downcast_ref::<Unreachable>().unwrap().to_string(),
            "churn cannot be reached: http://churn:1 cannot be looked up: no such name"
        );
    }
}
