//! Finds out how many calls a service answers at once without keeping them waiting, and lets so
//! many be in flight. The others wait for a moment, the urgent first, or are refused. Promise:
//! offered far more than it can do, a service goes on doing what it can, and who is let in is
//! answered soon.
//!
//! The limit follows the gradient of Netflix's concurrency-limits and Envoy's adaptive concurrency
//! filter, `limit * (floor + B) / took + sqrt(limit)`: `took` is how long calls take now, `floor`
//! how long they take when few others are in flight, B what may come on top. A floor is kept for
//! each method, so that a change in what is asked is no change in speed. Floors are learnt from
//! calls that begin while a quarter of the limit is in use at most; a service that is never
//! so quiet while its limit holds calls back is given such a moment now and then (BBR's ProbeRTT,
//! Cardwell et al. 2016). The wait is CoDel's as in Maurer, "Fail at Scale" (ACM Queue 2015): long
//! for a burst, short while the queue never empties. Who is less urgent is not in the queue of who
//! is more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Response, uri::PathAndQuery};
use proto::policy::v1::Priority;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::{Code, body::Body};
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    call::Call,
    error::{BoxError, Overloaded},
    grpc::frame,
    method::Method,
    metrics,
};

/// Places at the beginning.
const FIRST: f64 = 20.0;
/// What may come on top of the floor: this share of it, and at least so much. What is answered
/// within milliseconds is not overloaded.
const SHARE: f64 = 0.25;
const SLACK: f64 = 0.005;
/// The limit is thought over after so long and so many calls.
const WINDOW: Duration = Duration::from_millis(50);
const CALLS: u32 = 10;
/// It becomes so many times itself at least and at most.
const STEP: (f64, f64) = (0.5, 2.0);
/// What a call among few others counts for in its method's floor.
const LEARN: f64 = 0.05;
/// A floor is learnt anew after so long, from so many calls, within so long.
const OLD: Duration = Duration::from_secs(10);
const PROBED: u32 = 8;
const PROBE: Duration = Duration::from_secs(1);
/// Calls that wait.
const QUEUE: usize = 1024;
/// They wait for this part of their method's time, and hardly at all once the queue has not been
/// empty for that long.
const PATIENCE: u32 = 4;
const IMPATIENCE: Duration = Duration::from_millis(5);

/// Limits the calls to each of these services; no limit is above `most`.
pub(crate) fn layer<S>(
    areas: BTreeSet<Arc<str>>,
    most: usize,
) -> impl Layer<S, Service = Limited<S>> + Clone {
    let limits: HashMap<_, _> = areas
        .into_iter()
        .map(|area| (area.clone(), Limit::new(area, most)))
        .collect();
    let limits = Arc::new(limits);
    layer_fn(move |inner| Limited {
        inner,
        limits: limits.clone(),
    })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    inner: S,
    limits: Arc<HashMap<Arc<str>, Arc<Limit>>>,
}

impl<S> Service<Call> for Limited<S>
where
    S: Service<Call, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let Some(limit) = self.limits.get(&call.area).cloned() else {
            return Box::pin(inner.call(call));
        };
        Box::pin(async move {
            let place = limit
                .enter(&call.method)
                .await
                .inspect_err(|_| metrics::shed("backend", call.method.priority))?;
            let answer = inner.call(call).await;
            place.leave(&answer);
            answer
        })
    }
}

/// How many calls one service may have in flight.
#[derive(Debug)]
struct Limit {
    service: Arc<str>,
    state: Mutex<State>,
}

impl Limit {
    fn new(service: Arc<str>, most: usize) -> Arc<Self> {
        metrics::backend_limit(&service, FIRST.min(most as f64) as u64);
        let state = Mutex::new(State::new(most as f64, Instant::now()));
        Arc::new(Self { service, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(self: &Arc<Self>, method: &Arc<Method>) -> Result<Place, Overloaded> {
        let (turn, place, patience) = {
            let (mut state, now) = (self.state(), Instant::now());
            if state.may_enter(method, now) {
                return Ok(state.take(self, method, now));
            }
            let (sender, place) = oneshot::channel();
            let (turn, patience) = state
                .wait(
                    Waiting {
                        method: method.clone(),
                        sender,
                    },
                    now,
                )
                .ok_or(Overloaded)?;
            (Turn { limit: self, turn }, place, patience)
        };
        // Dropped before a turn is given up, a place that has just come goes back to the others.
        let place = timeout(patience, place).await;
        drop(turn);
        place.ok().and_then(Result::ok).ok_or(Overloaded)
    }

    /// Lets in who waits and finds room.
    fn admit(self: &Arc<Self>) {
        loop {
            let next = self.state().next(self, Instant::now());
            match next {
                // Where nobody waits for it any more the place is dropped here, and is free again.
                Some((sender, place)) => drop(sender.send(place)),
                None => return,
            }
        }
    }
}

/// A turn in the queue, given up when it is dropped.
struct Turn<'a> {
    limit: &'a Limit,
    turn: (Priority, u64),
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.limit.state().forget(self.turn);
    }
}

/// Places that a call has among those in flight, given back when it is dropped.
#[derive(Debug)]
struct Place {
    limit: Arc<Limit>,
    method: Arc<Method>,
    since: Instant,
    /// Whether few others were in flight when it began.
    quiet: bool,
    /// What its end says about how long calls take.
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// So long.
    Exactly,
    /// Longer: it was given up.
    AtLeast,
    /// Nothing: it ended early, or is a stream.
    Nothing,
}

impl Place {
    fn leave(mut self, answer: &Result<Response<Body>, BoxError>) {
        self.says = match answer
            .as_ref()
            .map(|response| frame::code(response.headers()))
        {
            Ok(None) if self.method.is_unary() => Says::Exactly,
            Ok(Some(Code::DeadlineExceeded)) => Says::AtLeast,
            Ok(_) | Err(_) => Says::Nothing,
        };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let changed = self.limit.state().leave(self, Instant::now());
        if let Some(limit) = changed {
            metrics::backend_limit(&self.limit.service, limit);
        }
        self.limit.admit();
    }
}

#[derive(Debug)]
struct Waiting {
    method: Arc<Method>,
    sender: oneshot::Sender<Place>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    most: f64,
    in_flight: u32,
    /// Who waits, in the order of their turns.
    queue: BTreeMap<(Priority, u64), Waiting>,
    turns: u64,
    /// Since when somebody has been waiting who is at least as urgent, for each priority.
    waiting_since: [Option<Instant>; 4],
    /// How long a call of each method takes among few others, seconds.
    floors: HashMap<PathAndQuery, f64>,
    learnt: Instant,
    /// Until when, and from how many more calls, floors are learnt anew.
    probe: Option<(Instant, u32)>,
    window: Window,
}

/// What has been seen since the limit was thought over.
#[derive(Debug)]
struct Window {
    since: Instant,
    calls: u32,
    /// How long calls took together, and how long they may take, seconds.
    took: f64,
    allowed: f64,
    busiest: u32,
    /// Whether somebody had to wait.
    full: bool,
}

impl Window {
    fn new(since: Instant) -> Self {
        Self {
            since,
            calls: 0,
            took: 0.0,
            allowed: 0.0,
            busiest: 0,
            full: false,
        }
    }
}

impl State {
    fn new(most: f64, now: Instant) -> Self {
        Self {
            limit: FIRST.min(most),
            most,
            in_flight: 0,
            queue: BTreeMap::new(),
            turns: 0,
            waiting_since: [None; 4],
            floors: HashMap::new(),
            learnt: now,
            probe: None,
            window: Window::new(now),
        }
    }

    /// So many others are few.
    fn few(&self) -> f64 {
        (self.limit / 4.0).max(1.0)
    }

    fn has_room(&self, cost: u32, now: Instant) -> bool {
        let limit = if self.probe.is_some_and(|(until, _)| now < until) {
            self.few()
        } else {
            self.limit
        };
        // A call that is larger than all there is has it to itself.
        self.in_flight == 0 || f64::from(self.in_flight + cost) <= limit
    }

    fn may_enter(&self, method: &Method, now: Instant) -> bool {
        let first = self.queue.first_key_value();
        self.has_room(method.cost, now) && first.is_none_or(|(turn, _)| method.priority < turn.0)
    }

    fn take(&mut self, limit: &Arc<Limit>, method: &Arc<Method>, now: Instant) -> Place {
        self.in_flight += method.cost;
        self.window.busiest = self.window.busiest.max(self.in_flight);
        let quiet = f64::from(self.in_flight) <= self.few().max(f64::from(method.cost));
        Place {
            limit: limit.clone(),
            method: method.clone(),
            since: now,
            quiet,
            says: Says::AtLeast,
        }
    }

    /// A turn, and how long it is waited for; none where too many wait who are as urgent.
    fn wait(&mut self, waiting: Waiting, now: Instant) -> Option<((Priority, u64), Duration)> {
        self.window.full = true;
        let priority = waiting.method.priority;
        if self.queue.len() >= QUEUE {
            let last = self
                .queue
                .last_entry()
                .filter(|last| priority < last.key().0)?;
            last.remove();
        }
        let since = self.waiting_since[priority as usize].unwrap_or(now);
        let patience = waiting.method.timeout / PATIENCE;
        let patience = if now - since < patience {
            patience
        } else {
            IMPATIENCE
        };
        self.waiting_since[priority as usize..]
            .iter_mut()
            .for_each(|since| *since = since.or(Some(now)));
        self.turns += 1;
        let turn = (priority, self.turns);
        self.queue.insert(turn, waiting);
        Some((turn, patience))
    }

    fn forget(&mut self, turn: (Priority, u64)) {
        self.queue.remove(&turn);
        let first = self
            .queue
            .first_key_value()
            .map_or(self.waiting_since.len(), |(turn, _)| turn.0 as usize);
        self.waiting_since[..first].fill(None);
    }

    /// Whose turn it is, where there is room.
    fn next(
        &mut self,
        limit: &Arc<Limit>,
        now: Instant,
    ) -> Option<(oneshot::Sender<Place>, Place)> {
        let (turn, first) = self.queue.first_key_value()?;
        let turn = *turn;
        if !self.has_room(first.method.cost, now) {
            return None;
        }
        let Waiting { method, sender } = self.queue.remove(&turn)?;
        self.forget(turn);
        Some((sender, self.take(limit, &method, now)))
    }

    /// A call has ended; says so where the limit is another from here on.
    fn leave(&mut self, place: &Place, now: Instant) -> Option<u64> {
        self.in_flight = self.in_flight.saturating_sub(place.method.cost);
        self.probe = self.probe.filter(|(until, _)| now < *until);
        let took = (now - place.since).as_secs_f64();
        if place.quiet && place.says == Says::Exactly {
            self.learn(&place.method, took, now);
        }
        let floor = self.floors.get(&place.method.path).copied()?;
        let counts = match place.says {
            Says::Exactly => true,
            Says::AtLeast => took > floor,
            Says::Nothing => false,
        };
        if !counts || self.probe.is_some() {
            return None;
        }
        self.window.calls += 1;
        self.window.took += took;
        self.window.allowed += floor + (SHARE * floor).max(SLACK);
        (self.window.calls >= CALLS && now - self.window.since >= WINDOW).then(|| self.think(now))
    }

    fn learn(&mut self, method: &Method, took: f64, now: Instant) {
        match self.floors.get_mut(&method.path) {
            Some(floor) => *floor += LEARN * (took - *floor),
            None => drop(self.floors.insert(method.path.clone(), took)),
        }
        self.learnt = now;
        self.probe = self
            .probe
            .and_then(|(until, left)| (left > 1).then_some((until, left - 1)));
    }

    fn think(&mut self, now: Instant) -> u64 {
        let Window {
            took,
            allowed,
            busiest,
            full,
            ..
        } = std::mem::replace(&mut self.window, Window::new(now));
        // A limit that nobody came near to has not been tried.
        if f64::from(busiest) >= self.limit / 2.0 {
            let gradient = (allowed / took).clamp(STEP.0, STEP.1);
            self.limit = (self.limit * gradient + self.limit.sqrt()).clamp(1.0, self.most);
        }
        if full && now - self.learnt >= OLD {
            self.probe = Some((now + PROBE, PROBED));
        }
        self.limit as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
    use tower::{ServiceExt, service_fn};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const LIST: &str = "/shopkeeper.churn.v1.ChurnService/ListAtRiskCustomers";
    const SECOND: Duration = Duration::from_secs(1);

    /// A service that does so many calls at once, each in so much time.
    #[derive(Clone)]
    struct Shop {
        hands: Arc<Semaphore>,
        takes: Arc<AtomicU64>,
    }

    impl Shop {
        fn new(hands: usize, takes: Duration) -> Self {
            let shop = Self {
                hands: Arc::new(Semaphore::new(hands)),
                takes: Arc::default(),
            };
            shop.takes(takes);
            shop
        }

        fn takes(&self, takes: Duration) {
            self.takes
                .store(takes.as_micros() as u64, Ordering::Relaxed);
        }

        fn limited(
            &self,
        ) -> impl Service<Call, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + use<>
        {
            let shop = self.clone();
            let service = service_fn(move |_: Call| {
                let shop = shop.clone();
                async move {
                    let _hand = shop.hands.acquire().await?;
                    sleep(Duration::from_micros(shop.takes.load(Ordering::Relaxed))).await;
                    Ok::<_, BoxError>(Response::<Body>::default())
                }
            });
            layer(["churn".into()].into(), 2048).layer(service)
        }
    }

    /// Calls answered in their time, and calls refused, of a method that is called so often a
    /// second for so long.
    async fn offered(
        service: impl Service<Call, Response = Response<Body>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
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
                timeout(
                    call(path, b"").method.timeout,
                    service.oneshot(call(path, b"")),
                )
                .await
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
            "who is let in is answered in time: {answered}, {refused}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_wait_is_refused_before_who_cannot() {
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
        for (takes, per_second) in [(10, 400), (80, 50), (10, 400)] {
            shop.takes(Duration::from_millis(takes));
            offered(service.clone(), RISK, 10 * per_second, 25 * SECOND).await; // gets used to it
            let (answered, _) = offered(service.clone(), RISK, 10 * per_second, 10 * SECOND).await;
            assert!(
                answered > 10 * per_second * 8 / 10,
                "{answered} of {}",
                10 * per_second
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_quick_enough_refuses_nobody() {
        let service = Shop::new(64, Duration::from_millis(1)).limited();
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            let service = service.clone();
            callers.spawn(async move {
                for _ in 0..200 {
                    service.clone().oneshot(call(RISK, b"")).await.unwrap();
                }
            });
        }
        callers.join_all().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_urgent_go_first_and_take_the_turns_of_others() {
        let limit = Limit::new("churn".into(), 1);
        let (risk, list) = (call(RISK, b"").method, call(LIST, b"").method);
        let place = limit.enter(&list).await.unwrap();
        let mut ends = JoinSet::new();
        let mut enter = |method: &Arc<Method>| {
            let (limit, method) = (limit.clone(), method.clone());
            ends.spawn(async move { (method.priority, limit.enter(&method).await.is_ok()) });
        };
        (0..QUEUE).for_each(|_| enter(&list));
        tokio::task::yield_now().await;
        enter(&risk);
        tokio::task::yield_now().await;
        assert_eq!(
            ends.join_next().await.unwrap().unwrap(),
            (Priority::Low, false),
            "the last one's turn is taken"
        );
        assert!(limit.enter(&list).await.is_err(), "and there is no other");
        drop(place);
        assert_eq!(
            ends.join_next().await.unwrap().unwrap(),
            (Priority::High, true)
        );
        // The places of those who have them go on to the next.
        assert_eq!(
            ends.join_all()
                .await
                .iter()
                .filter(|(_, let_in)| *let_in)
                .count(),
            QUEUE - 1
        );
    }
}
