//! Finds out how many calls a service answers at once without keeping them waiting, and lets that
//! many be in flight. Further calls wait for a moment, the urgent ones first, or are refused.
//! Promise: offered far more than it can do, a service goes on doing what it can, and an admitted
//! call is answered soon.
//!
//! The limit follows the gradient of Netflix's concurrency-limits and Envoy's adaptive concurrency
//! filter, `limit * (floor + slack) / latency + sqrt(limit)`: `latency` is how long calls take now,
//! `floor` how long they take if few others are in flight. A floor is kept for each method, so that
//! a change in what is called is no change in speed. Floors are learnt from calls that begin while
//! at most a quarter of the limit is in use; a service that is never so quiet while its limit holds
//! calls back is given such a moment now and then (BBR's ProbeRTT, Cardwell et al. 2016). The wait
//! is CoDel's as in Maurer, "Fail at Scale" (ACM Queue 2015): long for a burst, short while the
//! queue never empties. A call does not wait in the queue of calls that are more urgent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::uri::PathAndQuery;
use proto::policy::v1::Priority;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::Code;

use crate::{
    call::Call,
    error::Overloaded,
    grpc::frame,
    method::Method,
    metrics,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
};

/// Numbers of this layer.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The limit of a service at the beginning, and the highest that it may become, calls.
    pub(crate) initial_limit: f64,
    pub(crate) max_limit: f64,
    /// How much longer than its floor a call may take: this share of the floor, and at least
    /// `min_slack`. A call that takes milliseconds is not slow for want of capacity.
    pub(crate) slack_share: f64,
    pub(crate) min_slack: Duration,
    /// The limit is recomputed after this time and this many calls.
    pub(crate) window: Duration,
    pub(crate) min_window_calls: u32,
    /// Bounds of the factor by which a window changes the limit.
    pub(crate) min_gradient: f64,
    pub(crate) max_gradient: f64,
    /// Share of the limit that has to be in use before the limit changes.
    pub(crate) min_utilization: f64,
    /// Share of the limit up to which a service counts as quiet.
    pub(crate) quiet_share: f64,
    /// Weight of a call in the moving average that is its method's floor.
    pub(crate) floor_weight: f64,
    /// A probe lowers the limit to the quiet share if no floor was learnt for `max_floor_age`. It
    /// ends after this many calls, or this time.
    pub(crate) max_floor_age: Duration,
    pub(crate) probe_calls: u32,
    pub(crate) max_probe: Duration,
    /// Calls that may wait.
    pub(crate) max_waiting: usize,
    /// A call waits for this part of its method's timeout (one in this many), but for
    /// `impatient_wait` once the queue has not been empty for that long.
    pub(crate) patience_divisor: u32,
    pub(crate) impatient_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_limit: 20.0,
            max_limit: 2048.0,
            slack_share: 0.25,
            min_slack: Duration::from_millis(5),
            window: Duration::from_millis(50),
            min_window_calls: 10,
            min_gradient: 0.5,
            max_gradient: 2.0,
            min_utilization: 0.5,
            quiet_share: 0.25,
            floor_weight: 0.05,
            max_floor_age: Duration::from_secs(10),
            probe_calls: 8,
            max_probe: Duration::from_secs(1),
            max_waiting: 1024,
            patience_divisor: 4,
            impatient_wait: Duration::from_millis(5),
        }
    }
}

/// Limits the calls to each of these services; no limit is above `max_limit`.
pub(crate) fn layer(
    areas: BTreeSet<Arc<str>>,
    max_limit: usize,
) -> MiddlewareLayer<AdaptiveConcurrency> {
    let config = Config {
        max_limit: max_limit as f64,
        ..Config::default()
    };
    let limiters = areas
        .into_iter()
        .map(|area| (area.clone(), Limiter::new(area, config.clone())))
        .collect();
    MiddlewareLayer::new(AdaptiveConcurrency { limiters })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct AdaptiveConcurrency {
    limiters: HashMap<Arc<str>, Arc<Limiter>>,
}

impl Middleware<Call> for AdaptiveConcurrency {
    type Next = Call;

    async fn handle(&self, call: Call, next: &impl Handler<Call>) -> Answer {
        let Some(limiter) = self.limiters.get(&call.area) else {
            return next.call(call).await;
        };
        let permit = limiter
            .acquire(&call.method)
            .await
            .inspect_err(|_| metrics::shed("backend", call.method.priority))?;
        let answer = next.call(call).await;
        permit.release(&answer);
        answer
    }
}

/// Limits the calls that one service has in flight.
#[derive(Debug)]
struct Limiter {
    service: Arc<str>,
    state: Mutex<State>,
}

impl Limiter {
    fn new(service: Arc<str>, config: Config) -> Arc<Self> {
        let state = State::new(config, Instant::now());
        metrics::backend_limit(&service, state.limit as u64);
        let state = Mutex::new(state);
        Arc::new(Self { service, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for a call of this method, at once or after a wait.
    async fn acquire(self: &Arc<Self>, method: &Arc<Method>) -> Result<Permit, Overloaded> {
        let (waiting, permit, max_wait) = {
            let (mut state, now) = (self.state(), Instant::now());
            if state.may_enter(method, now) {
                return Ok(state.issue(self, method, now));
            }
            let (sender, permit) = oneshot::channel();
            let waiter = Waiter {
                method: method.clone(),
                sender,
            };
            let (place, max_wait) = state.enqueue(waiter, now).ok_or(Overloaded)?;
            let waiting = Waiting {
                limiter: self,
                place,
            };
            (waiting, permit, max_wait)
        };
        // The receiver goes before the place in the queue does: a permit that arrives just now is
        // dropped with it, and goes to the next waiter.
        let permit = timeout(max_wait, permit).await;
        drop(waiting);
        permit.ok().and_then(Result::ok).ok_or(Overloaded)
    }

    /// Gives permits to waiters for as long as the limit allows.
    fn admit(self: &Arc<Self>) {
        loop {
            let next = self.state().next(self, Instant::now());
            match next {
                // If the waiter has just left, the permit comes back and is dropped, which frees
                // it for the next one.
                Some((sender, permit)) => drop(sender.send(permit)),
                None => return,
            }
        }
    }
}

/// Place in the queue: by priority, then by arrival.
type Place = (Priority, u64);

/// Keeps a place in the queue until it is dropped.
struct Waiting<'a> {
    limiter: &'a Limiter,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.limiter.state().forget(self.place);
    }
}

/// A call that waits for a permit.
#[derive(Debug)]
struct Waiter {
    method: Arc<Method>,
    sender: oneshot::Sender<Permit>,
}

/// Leave to be in flight, given back when this is dropped.
#[derive(Debug)]
struct Permit {
    limiter: Arc<Limiter>,
    method: Arc<Method>,
    since: Instant,
    /// Whether few others were in flight when the call began.
    quiet: bool,
    sample: Sample,
}

/// What the duration of a call says about the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    /// A latency.
    Latency,
    /// A lower bound of a latency: the call was given up.
    LowerBound,
    /// Nothing: the call ended early, or is a stream.
    None,
}

impl Permit {
    fn release(mut self, answer: &Answer) {
        let code = answer
            .as_ref()
            .map(|response| frame::code(response.headers()));
        self.sample = match code {
            Ok(None) if self.method.is_unary() => Sample::Latency,
            Ok(Some(Code::DeadlineExceeded)) => Sample::LowerBound,
            Ok(_) | Err(_) => Sample::None,
        };
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let changed = self.limiter.state().leave(self, Instant::now());
        if let Some(limit) = changed {
            metrics::backend_limit(&self.limiter.service, limit);
        }
        self.limiter.admit();
    }
}

#[derive(Debug)]
struct State {
    config: Config,
    limit: f64,
    in_flight: u32,
    /// Waiters in the order in which they are admitted.
    queue: BTreeMap<Place, Waiter>,
    arrivals: u64,
    /// For each priority, since when the queue has held a waiter that is at least as urgent.
    waiting_since: [Option<Instant>; 4],
    /// Seconds that a call of each method takes if few others are in flight.
    floors: HashMap<PathAndQuery, f64>,
    floor_learnt: Instant,
    probe: Option<Probe>,
    window: Window,
}

/// A moment in which the limit is low, so that floors can be learnt.
#[derive(Debug, Clone, Copy)]
struct Probe {
    until: Instant,
    calls_left: u32,
}

/// What was observed since the limit was last computed.
#[derive(Debug)]
struct Window {
    since: Instant,
    calls: u32,
    /// Seconds that the calls took together, and that they may take.
    latency: f64,
    allowed: f64,
    max_in_flight: u32,
    /// Whether a call had to wait.
    full: bool,
}

impl Window {
    fn new(since: Instant) -> Self {
        Self {
            since,
            calls: 0,
            latency: 0.0,
            allowed: 0.0,
            max_in_flight: 0,
            full: false,
        }
    }
}

impl State {
    fn new(config: Config, now: Instant) -> Self {
        Self {
            limit: config.initial_limit.min(config.max_limit),
            config,
            in_flight: 0,
            queue: BTreeMap::new(),
            arrivals: 0,
            waiting_since: [None; 4],
            floors: HashMap::new(),
            floor_learnt: now,
            probe: None,
            window: Window::new(now),
        }
    }

    /// Calls in flight up to which the service counts as quiet.
    fn quiet_limit(&self) -> f64 {
        (self.limit * self.config.quiet_share).max(1.0)
    }

    fn has_room(&self, cost: u32, now: Instant) -> bool {
        let limit = if self.probe.is_some_and(|probe| now < probe.until) {
            self.quiet_limit()
        } else {
            self.limit
        };
        // A call that costs more than the limit has the service to itself.
        self.in_flight == 0 || f64::from(self.in_flight + cost) <= limit
    }

    fn may_enter(&self, method: &Method, now: Instant) -> bool {
        let first = self.queue.first_key_value();
        self.has_room(method.cost, now) && first.is_none_or(|(place, _)| method.priority < place.0)
    }

    fn issue(&mut self, limiter: &Arc<Limiter>, method: &Arc<Method>, now: Instant) -> Permit {
        self.in_flight += method.cost;
        self.window.max_in_flight = self.window.max_in_flight.max(self.in_flight);
        let quiet = f64::from(self.in_flight) <= self.quiet_limit().max(f64::from(method.cost));
        Permit {
            limiter: limiter.clone(),
            method: method.clone(),
            since: now,
            quiet,
            sample: Sample::LowerBound,
        }
    }

    /// A place in the queue, and the longest wait; none if the queue is full of waiters that are at
    /// least as urgent. The last waiter makes way for one that is more urgent.
    fn enqueue(&mut self, waiter: Waiter, now: Instant) -> Option<(Place, Duration)> {
        self.window.full = true;
        let priority = waiter.method.priority;
        if self.queue.len() >= self.config.max_waiting {
            let last = self
                .queue
                .last_entry()
                .filter(|last| priority < last.key().0)?;
            last.remove();
        }
        let since = self.waiting_since[priority as usize].unwrap_or(now);
        let patience = waiter.method.timeout / self.config.patience_divisor;
        let max_wait = if now - since < patience {
            patience
        } else {
            self.config.impatient_wait
        };
        self.waiting_since[priority as usize..]
            .iter_mut()
            .for_each(|since| *since = since.or(Some(now)));
        self.arrivals += 1;
        let place = (priority, self.arrivals);
        self.queue.insert(place, waiter);
        Some((place, max_wait))
    }

    fn forget(&mut self, place: Place) {
        self.queue.remove(&place);
        let first = self
            .queue
            .first_key_value()
            .map_or(self.waiting_since.len(), |(place, _)| place.0 as usize);
        self.waiting_since[..first].fill(None);
    }

    /// A permit for the first waiter, if the limit allows one.
    fn next(
        &mut self,
        limiter: &Arc<Limiter>,
        now: Instant,
    ) -> Option<(oneshot::Sender<Permit>, Permit)> {
        let (place, first) = self.queue.first_key_value()?;
        let place = *place;
        if !self.has_room(first.method.cost, now) {
            return None;
        }
        let Waiter { method, sender } = self.queue.remove(&place)?;
        self.forget(place);
        Some((sender, self.issue(limiter, &method, now)))
    }

    /// A call has ended. Returns the new limit if it was recomputed.
    fn leave(&mut self, permit: &Permit, now: Instant) -> Option<u64> {
        self.in_flight = self.in_flight.saturating_sub(permit.method.cost);
        self.probe = self.probe.filter(|probe| now < probe.until);
        let latency = (now - permit.since).as_secs_f64();
        if permit.quiet && permit.sample == Sample::Latency {
            self.learn_floor(&permit.method, latency, now);
        }
        let floor = self.floors.get(&permit.method.path).copied()?;
        let counts = match permit.sample {
            Sample::Latency => true,
            Sample::LowerBound => latency > floor,
            Sample::None => false,
        };
        // Latencies during a probe are those of a quiet service.
        if !counts || self.probe.is_some() {
            return None;
        }
        let (config, window) = (&self.config, &mut self.window);
        let slack = (config.slack_share * floor).max(config.min_slack.as_secs_f64());
        window.calls += 1;
        window.latency += latency;
        window.allowed += floor + slack;
        let is_over =
            window.calls >= config.min_window_calls && now - window.since >= config.window;
        is_over.then(|| self.update_limit(now))
    }

    fn learn_floor(&mut self, method: &Method, latency: f64, now: Instant) {
        match self.floors.get_mut(&method.path) {
            Some(floor) => *floor += self.config.floor_weight * (latency - *floor),
            None => drop(self.floors.insert(method.path.clone(), latency)),
        }
        self.floor_learnt = now;
        self.probe = self
            .probe
            .filter(|probe| probe.calls_left > 1)
            .map(|probe| Probe {
                calls_left: probe.calls_left - 1,
                ..probe
            });
    }

    fn update_limit(&mut self, now: Instant) -> u64 {
        let window = std::mem::replace(&mut self.window, Window::new(now));
        let config = &self.config;
        // A limit far above the calls in flight was not put to the test.
        if f64::from(window.max_in_flight) >= self.limit * config.min_utilization {
            let gradient =
                (window.allowed / window.latency).clamp(config.min_gradient, config.max_gradient);
            let limit = self.limit * gradient + self.limit.sqrt();
            self.limit = limit.clamp(1.0, config.max_limit);
        }
        if window.full && now - self.floor_learnt >= config.max_floor_age {
            self.probe = Some(Probe {
                until: now + config.max_probe,
                calls_left: config.probe_calls,
            });
        }
        self.limit as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::call, error::BoxError, middleware::tests::Bottom};
    use http::Response;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
    use tonic::body::Body;
    use tower::{Layer, service_fn};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const LIST: &str = "/shopkeeper.churn.v1.ChurnService/ListAtRiskCustomers";
    const SECOND: Duration = Duration::from_secs(1);

    /// A service that answers as many calls at once as it has workers, each in the same time.
    #[derive(Clone)]
    struct Shop {
        workers: Arc<Semaphore>,
        latency_us: Arc<AtomicU64>,
    }

    impl Shop {
        fn new(workers: usize, latency: Duration) -> Self {
            let shop = Self {
                workers: Arc::new(Semaphore::new(workers)),
                latency_us: Arc::default(),
            };
            shop.set_latency(latency);
            shop
        }

        fn set_latency(&self, latency: Duration) {
            self.latency_us
                .store(latency.as_micros() as u64, Ordering::Relaxed);
        }

        fn limited(&self) -> impl Handler<Call> + use<> {
            let shop = self.clone();
            let service = service_fn(move |_: Call| {
                let shop = shop.clone();
                async move {
                    let _worker = shop.workers.acquire().await?;
                    let latency = shop.latency_us.load(Ordering::Relaxed);
                    sleep(Duration::from_micros(latency)).await;
                    Ok::<_, BoxError>(Response::<Body>::default())
                }
            });
            layer(["churn".into()].into(), 2048).layer(Bottom(service))
        }
    }

    /// Calls a method at this rate for this long. Returns how many calls were answered before
    /// their deadline, and how many were refused.
    async fn offered(
        service: impl Handler<Call>,
        path: &'static str,
        per_second: u32,
        lasts: Duration,
    ) -> (u32, u32) {
        let mut calls = JoinSet::new();
        let start = Instant::now();
        let every = SECOND / per_second;
        for n in 0.. {
            if every * n >= lasts {
                break;
            }
            tokio::time::sleep_until(start + every * n).await;
            let service = service.clone();
            calls.spawn(async move {
                let call = call(path, b"");
                timeout(call.method.timeout, service.call(call)).await
            });
        }
        let mut counts = (0, 0);
        for ended in calls.join_all().await {
            match ended {
                Ok(Ok(_)) => counts.0 += 1,
                Ok(Err(error)) => {
                    assert!(error.is::<Overloaded>(), "{error}");
                    counts.1 += 1;
                }
                Err(_) => {}
            }
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn at_ten_times_what_a_service_can_do_it_goes_on_doing_what_it_can() {
        let shop = Shop::new(4, Duration::from_millis(50));
        let (answered, refused) = offered(shop.limited(), RISK, 800, 30 * SECOND).await;
        assert!(answered > 30 * 80 * 9 / 10, "{answered} of {}", 30 * 80);
        assert!(
            answered + refused > 30 * 800 * 99 / 100,
            "an admitted call is answered in time: {answered}, {refused}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_can_wait_are_refused_before_urgent_ones() {
        let service = Shop::new(4, Duration::from_millis(50)).limited();
        let ((urgent, _), (others, refused)) = tokio::join!(
            offered(service.clone(), RISK, 40, 20 * SECOND),
            offered(service, LIST, 760, 20 * SECOND),
        );
        assert!(urgent > 20 * 40 * 95 / 100, "{urgent} of {}", 20 * 40);
        assert!(
            others > 20 * 40 * 7 / 10,
            "what is left is theirs: {others}"
        );
        assert!(refused > 20 * 700, "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_becomes_slower_or_quicker_is_followed() {
        let shop = Shop::new(4, Duration::from_millis(10));
        let service = shop.limited();
        for (latency_ms, per_second) in [(10, 400), (80, 50), (10, 400)] {
            shop.set_latency(Duration::from_millis(latency_ms));
            offered(service.clone(), RISK, 10 * per_second, 25 * SECOND).await; // the limit settles
            let (answered, _) = offered(service.clone(), RISK, 10 * per_second, 10 * SECOND).await;
            assert!(
                answered > 10 * per_second * 8 / 10,
                "{answered} of {}",
                10 * per_second
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_quick_enough_refuses_no_call() {
        let service = Shop::new(64, Duration::from_millis(1)).limited();
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            let service = service.clone();
            callers.spawn(async move {
                for _ in 0..200 {
                    service.call(call(RISK, b"")).await.unwrap();
                }
            });
        }
        callers.join_all().await;
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_calls_go_first_and_take_the_places_of_others() {
        let config = Config {
            max_limit: 1.0,
            ..Config::default()
        };
        let queue = config.max_waiting;
        let limiter = Limiter::new("churn".into(), config);
        let (risk, list) = (call(RISK, b"").method, call(LIST, b"").method);
        let permit = limiter.acquire(&list).await.unwrap();
        let mut ends = JoinSet::new();
        let mut enter = |method: &Arc<Method>| {
            let (limiter, method) = (limiter.clone(), method.clone());
            ends.spawn(async move { (method.priority, limiter.acquire(&method).await.is_ok()) });
        };
        (0..queue).for_each(|_| enter(&list));
        tokio::task::yield_now().await;
        enter(&risk);
        tokio::task::yield_now().await;
        assert_eq!(
            ends.join_next().await.unwrap().unwrap(),
            (Priority::Low, false),
            "the last one's place is taken"
        );
        assert!(
            limiter.acquire(&list).await.is_err(),
            "and there is no other"
        );
        drop(permit);
        assert_eq!(
            ends.join_next().await.unwrap().unwrap(),
            (Priority::High, true)
        );
        // A permit that is given back goes to the next waiter.
        assert_eq!(
            ends.join_all()
                .await
                .iter()
                .filter(|(_, admitted)| *admitted)
                .count(),
            queue - 1
        );
    }
}
