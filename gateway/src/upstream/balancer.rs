//! Chooses among the replicas of a service: of two taken at random the one with less to do (power
//! of two choices, Mitzenmacher 2001), load being calls in flight times a latency that rises at
//! once and falls slowly (peak EWMA). Replicas come and go; a new one is asked once it is connected
//! and says that it is ready, and is taken to be as slow as the slowest until it has answered. One
//! that has just lost calls, or fails much more often than the others, rests, longer each time.
//! Where all of them lose call after call, calls are refused at once but for one now and then. A
//! call that waits for longer than usual is made at another replica as well (`hedge`). Promise:
//! while one replica answers, calls do.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use http::{Request, Response, Uri};
use http_body::Frame;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    grpc::frame,
    latency_quantile::Usual,
    layers::retry::is_answer,
    metrics,
    random::Draws,
    stack::BoxError,
    tasks::Tasks,
    upstream::{
        backends::watch_readiness,
        connection::{Backend, CONNECT, RETRY_IN, Target, TurnedDown, Unreachable},
        discovery::Endpoints,
        hedge::Hedge,
    },
};

/// How long a replica that lost calls, or that fails, is left alone; twice as long each time that
/// it happens again soon.
const LOST_REST: Duration = Duration::from_millis(100);
const FAILING_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Who has asked all there is to ask, is left waiting this long, and so many times as long as the
/// replica's calls take otherwise, and gives up was lost as well.
const SILENCE: Duration = Duration::from_millis(100);
const UNUSUAL: f64 = 4.0;
/// What a new latency counts for where it is below the old ones, and the time in which one that is
/// not renewed loses most of its weight: who was slow once is asked again.
const FALL: f64 = 0.1;
const FADE: Duration = Duration::from_secs(2);
/// What an answer counts for in the share of answers that are failures.
const RECENT: f64 = 0.05;
/// A replica is judged by so many answers, or so many failures in a row: it fails where more than
/// this share of them and twice the others' are failures.
const ANSWERS: u32 = 20;
const IN_A_ROW: u32 = 5;
const TOO_MANY: f64 = 0.1;
/// Calls that others have answered first, one after the other and with no answer between, are lost
/// from this one on.
const OVERTAKEN: u32 = 3;
/// Where every replica has lost so many calls one after the other, there is nobody. Silence alone
/// does not show that: it is the caller who says how long it is waited for.
const BROKEN: u32 = 5;
/// Pauses between looks at where the replicas are: usually, and where one of them cannot be
/// reached.
const LOOK: Duration = Duration::from_secs(3);
const LOOK_SOON: Duration = Duration::from_millis(500);

/// One service of the replicas that are found there. A call that has no answer after `hedge_after`
/// may be made at another as well. `connect` makes a replica of an address. Must be called within a
/// tokio runtime.
pub(crate) fn among(
    service: &str,
    endpoints: Endpoints,
    hedge_after: Option<Duration>,
    connect: impl Fn(Target, SocketAddr) -> Backend + Send + 'static,
) -> Backend {
    let replicas = Arc::new(Replicas::new(service));
    let mut tasks = Tasks::default();
    tasks.spawn(follow(replicas.clone(), endpoints, connect));
    BoxCloneSyncService::new(Balanced {
        replicas,
        hedge_after,
        tasks: Arc::new(tasks),
    })
}

/// Keeps the replicas as they are found, for ever. Those that are gone are asked no more; calls in
/// flight to them go on.
async fn follow(
    replicas: Arc<Replicas>,
    mut endpoints: Endpoints,
    connect: impl Fn(Target, SocketAddr) -> Backend,
) {
    let mut known: BTreeMap<SocketAddr, (Target, Arc<Replica>, Tasks)> = BTreeMap::new();
    loop {
        let found = endpoints.look().await;
        known.retain(|address, (target, ..)| {
            // By another name, or with TLS, it is another.
            let stays = found.get(address) == Some(target);
            if !stays {
                tracing::info!(service = &*replicas.service, %address, "replica is gone");
            }
            stays
        });
        for (address, target) in found {
            known.entry(address).or_insert_with(|| {
                tracing::info!(service = &*replicas.service, %address, "replica");
                let (replica, watch) = replicas.meet(address, connect(target.clone(), address));
                (target, replica, watch)
            });
        }
        replicas.problem.store(Some(Arc::new(endpoints.problem())));
        replicas.set(
            known
                .values()
                .map(|(_, replica, _)| replica.clone())
                .collect(),
        );
        if endpoints.are_fixed() {
            return std::future::pending().await;
        }
        let doubted = async {
            sleep(LOOK_SOON).await;
            replicas.doubted.notified().await;
        };
        let _ = timeout(LOOK, doubted).await;
    }
}

struct Replicas {
    service: Arc<str>,
    all: ArcSwap<Vec<Arc<Replica>>>,
    /// Why there are none; nothing before anybody has looked.
    problem: ArcSwapOption<String>,
    /// Told when a replica comes, goes, or is ready or not.
    changes: watch::Sender<()>,
    /// Told when one cannot be reached.
    doubted: Notify,
    /// What a call was lost to last, where it was more than silence.
    lost_to: ArcSwapOption<Unreachable>,
    /// How long calls take.
    usual: Usual,
    start: Instant,
    draws: Draws,
    /// Milliseconds from the start until somebody is asked again, where nobody answers.
    probe_at: AtomicU64,
}

struct Replica {
    backend: Backend,
    /// Whether it has said how it is, and whether it was ready then.
    told: AtomicBool,
    ready: AtomicBool,
    in_flight: AtomicUsize,
    /// Bits of a f64, seconds, and when it was so, milliseconds from the start.
    latency: AtomicU64,
    latency_at: AtomicU64,
    record: Mutex<Record>,
}

/// How a replica has done lately.
#[derive(Debug, Clone, Default)]
struct Record {
    /// Calls lost in a row; those that were under way together are one.
    losses: u32,
    lost_at: Duration,
    /// Calls that another answered first since its last answer.
    overtaken: u32,
    /// Share of its answers that were failures, of how many, and how many in a row.
    failing: f64,
    answers: u32,
    failures: u32,
    /// Until when it rests, and how often it has soon after a rest.
    rests_until: Duration,
    rests: u32,
}

impl Record {
    /// Rests, from now on.
    fn rest(&mut self, now: Duration, first: Duration) {
        let again = self.rests > 0 && now < self.rests_until + LONGEST_REST;
        self.rests = if again { self.rests + 1 } else { 1 };
        self.rests_until = now + (first * 2_u32.saturating_pow(self.rests - 1)).min(LONGEST_REST);
        (self.failing, self.answers, self.failures) = (0.0, 0, 0);
    }
}

impl Replica {
    fn new(backend: Backend, latency: f64, now: Duration) -> Self {
        Self {
            backend,
            told: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            latency: AtomicU64::new(latency.to_bits()),
            latency_at: AtomicU64::new(now.as_millis() as u64),
            record: Mutex::default(),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn rests(&self, now: Duration) -> bool {
        now < self.record().rests_until
    }

    fn is_good(&self, now: Duration) -> bool {
        self.is_ready() && !self.rests(now)
    }

    /// It says how it is. What it has lost before it became ready is forgotten.
    fn says(&self, ready: bool) {
        if ready {
            let mut record = self.record();
            (record.losses, record.rests_until) = (0, Duration::ZERO);
        }
        self.ready.store(ready, Ordering::Relaxed);
        self.told.store(true, Ordering::Relaxed);
    }

    fn latency(&self, now: Duration) -> f64 {
        let since =
            (now.as_millis() as u64).saturating_sub(self.latency_at.load(Ordering::Relaxed));
        let faded = (-(since as f64) / FADE.as_millis() as f64).exp();
        f64::from_bits(self.latency.load(Ordering::Relaxed)) * faded
    }

    fn load(&self, now: Duration) -> f64 {
        // Where nothing is known yet, calls in flight decide.
        self.latency(now).max(1e-6) * (self.in_flight.load(Ordering::Relaxed) + 1) as f64
    }

    fn took(&self, time: Duration, now: Duration) {
        let (new, old) = (time.as_secs_f64(), self.latency(now));
        let latency = if new > old {
            new
        } else {
            old + FALL * (new - old)
        };
        self.latency.store(latency.to_bits(), Ordering::Relaxed);
        self.latency_at
            .store(now.as_millis() as u64, Ordering::Relaxed);
    }

    fn answered(&self, after: Duration, failed: bool, now: Duration) {
        self.took(after, now);
        let mut record = self.record();
        (record.losses, record.overtaken) = (0, 0);
        record.answers += 1;
        record.failures = if failed { record.failures + 1 } else { 0 };
        record.failing += RECENT * (f64::from(u8::from(failed)) - record.failing);
    }

    /// Another answered a call that it had for so long; says whether it seems to answer none.
    fn overtaken(&self, after: Duration, now: Duration) -> bool {
        self.took(after, now);
        let mut record = self.record();
        record.overtaken += 1;
        record.overtaken >= OVERTAKEN
    }

    /// Longest that a call of it is silent and yet not lost, whose method usually takes so long.
    fn patience(&self, usual: Option<Duration>) -> Duration {
        let latency = f64::from_bits(self.latency.load(Ordering::Relaxed));
        let usual = usual.map_or(latency, |usual| usual.as_secs_f64().max(latency));
        Duration::try_from_secs_f64(usual * UNUSUAL)
            .unwrap_or(Duration::MAX)
            .max(SILENCE)
    }

    /// It has turned a call down, and so is there.
    fn is_there(&self) {
        self.record().losses = 0;
    }

    /// It lost a call that was made then, to silence or to more than that; says whether that is
    /// news.
    fn lost(&self, made: Duration, silent: bool, now: Duration) -> bool {
        let mut record = self.record();
        let is_news = record.losses == 0 || made >= record.lost_at;
        if is_news {
            let most = if silent {
                (BROKEN - 1).max(record.losses)
            } else {
                u32::MAX
            };
            (record.losses, record.lost_at) = (record.losses.saturating_add(1).min(most), now);
            record.rest(now, LOST_REST);
        }
        is_news
    }
}

/// The replicas that have been asked on behalf of one call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tried(Arc<Mutex<Attempts>>);

#[derive(Debug, Default)]
struct Attempts {
    replicas: Vec<usize>,
    /// Whether one was asked while another had the call.
    hedged: bool,
}

impl Attempts {
    fn lack(&self, replica: &Arc<Replica>) -> bool {
        !self.replicas.contains(&identity(replica))
    }
}

impl Tried {
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asks(&self, replica: &Arc<Replica>) {
        self.attempts().replicas.push(identity(replica));
    }

    /// Whether both are of one call.
    #[cfg(test)]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Who may be asked.
type Wanted<'a> = &'a dyn Fn(&Arc<Replica>) -> bool;

/// How a call ends.
type Answer = Result<Response<Body>, BoxError>;

/// Whom to ask.
enum Choice {
    One(Arc<Replica>),
    /// Whoever is ready first: nobody has said yet how they are.
    Wait,
    Nobody(Unreachable),
}

impl Replicas {
    fn new(service: &str) -> Self {
        Self {
            service: service.into(),
            all: ArcSwap::default(),
            problem: ArcSwapOption::default(),
            changes: watch::Sender::new(()),
            doubted: Notify::new(),
            lost_to: ArcSwapOption::default(),
            usual: Usual::default(),
            start: Instant::now(),
            draws: Draws::default(),
            probe_at: AtomicU64::new(0),
        }
    }

    /// A new replica, and the task that knows how it is.
    fn meet(self: &Arc<Self>, address: SocketAddr, backend: Backend) -> (Arc<Replica>, Tasks) {
        let now = self.start.elapsed();
        let slowest = self
            .all
            .load()
            .iter()
            .map(|replica| replica.latency(now))
            .fold(0.0, f64::max);
        let replica = Arc::new(Replica::new(backend.clone(), slowest, now));
        let (replicas, told) = (self.clone(), replica.clone());
        let tell = move |ready| {
            told.says(ready);
            replicas.changes.send_replace(());
        };
        let mut watch = Tasks::default();
        watch.spawn(watch_readiness(
            format!("{} at {address}", self.service).into(),
            backend,
            false,
            tell,
        ));
        (replica, watch)
    }

    fn set(&self, all: Vec<Arc<Replica>>) {
        metrics::replicas(&self.service, all.len());
        self.all.store(Arc::new(all));
        self.changes.send_replace(());
    }

    /// Whom to ask, rather somebody who has not been asked.
    async fn ask(self: &Arc<Self>, tried: &Tried) -> Result<Asked, Unreachable> {
        let chosen = match self.choose(self.start.elapsed(), tried, true) {
            Choice::Wait => self.wait(tried).await,
            chosen @ (Choice::One(_) | Choice::Nobody(_)) => chosen,
        };
        match chosen {
            Choice::One(replica) => {
                tried.asks(&replica);
                Ok(Asked::of(self.clone(), replica))
            }
            Choice::Nobody(problem) => Err(problem),
            Choice::Wait => Err(self.nobody("it has not been found yet")),
        }
    }

    /// Waits a moment for somebody to say how they are.
    async fn wait(&self, tried: &Tried) -> Choice {
        let mut changes = self.changes.subscribe();
        let until = Instant::now() + CONNECT;
        loop {
            match self.choose(self.start.elapsed(), tried, true) {
                Choice::Wait => {}
                chosen @ (Choice::One(_) | Choice::Nobody(_)) => return chosen,
            }
            if timeout_at(until, changes.changed()).await.is_err() {
                return self.choose(self.start.elapsed(), tried, false);
            }
        }
    }

    fn choose(&self, now: Duration, tried: &Tried, may_wait: bool) -> Choice {
        let all = self.all.load();
        if all.is_empty() {
            let problem = self.problem.load_full();
            return problem.map_or(Choice::Wait, |problem| {
                Choice::Nobody(self.nobody(&problem))
            });
        }
        let nobody_yet = || {
            !all.iter().any(|replica| replica.is_ready())
                && !all.iter().all(|replica| replica.told())
        };
        if may_wait && nobody_yet() {
            return Choice::Wait;
        }
        if all.iter().all(|replica| replica.record().losses >= BROKEN) && !self.may_probe(now) {
            let lost_to = self.lost_to.load();
            let nobody = || self.nobody("nobody answers");
            return Choice::Nobody(lost_to.as_deref().cloned().unwrap_or_else(nobody));
        }
        let tried = tried.attempts();
        let best: [Wanted<'_>; 5] = [
            &|replica| replica.is_good(now) && tried.lack(replica),
            &|replica| replica.is_good(now),
            &|replica| !replica.rests(now) && tried.lack(replica),
            &|replica| !replica.rests(now),
            &|_| true,
        ];
        let chosen = best
            .into_iter()
            .find_map(|wanted| self.lighter(&all, wanted, now));
        chosen.map_or(Choice::Wait, Choice::One)
    }

    /// Of two of these taken at random the one with less to do.
    fn lighter(
        &self,
        all: &[Arc<Replica>],
        wanted: Wanted<'_>,
        now: Duration,
    ) -> Option<Arc<Replica>> {
        let mut left: Vec<_> = all.iter().filter(|replica| wanted(replica)).collect();
        let mut draw =
            || (!left.is_empty()).then(|| left.swap_remove(self.draws.below(left.len())));
        let (one, other) = (draw()?, draw());
        Some(
            other
                .filter(|other| other.load(now) < one.load(now))
                .unwrap_or(one)
                .clone(),
        )
    }

    /// Somebody who is well, for a call that another has; nobody where it has been with two at once
    /// before.
    fn another(&self, tried: &Tried) -> Option<Arc<Replica>> {
        let (tried, now) = (tried.attempts(), self.start.elapsed());
        let wanted: Wanted<'_> =
            &|replica| !tried.hedged && replica.is_good(now) && tried.lack(replica);
        self.lighter(&self.all.load(), wanted, now)
    }

    fn nobody(&self, problem: &str) -> Unreachable {
        Unreachable::new(self.service.clone(), problem)
    }

    /// Whether it is time to ask somebody although nobody answers.
    fn may_probe(&self, now: Duration) -> bool {
        let now = now.as_millis() as u64;
        let next = |at| (now >= at).then_some(now + RETRY_IN.as_millis() as u64);
        self.probe_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    /// What becomes of a call that one has, and another as well where that takes longer than usual.
    async fn hedged(
        self: &Arc<Self>,
        mut first: Asked,
        request: Request<Body>,
        tried: &Tried,
        hedge: &Hedge,
        least: Duration,
    ) -> Answer {
        let again = hedge.again(&request);
        let mut firsts = pin!(first.put(request));
        let half = || hedge.deadline.duration_since(first.since) / 2; // nothing is known yet
        let wait = self
            .usual
            .of(first.uri.path())
            .unwrap_or_else(half)
            .max(least);
        let took = |first: &Asked| self.usual.took(first.uri.path(), first.since.elapsed());
        let in_time = timeout(wait, &mut firsts).await.ok();
        let another = if in_time.is_none() {
            self.another(tried)
        } else {
            None
        };
        let Some((another, again)) = another.and_then(|another| Some((another, hedge.pay(again)?)))
        else {
            let answer = match in_time {
                Some(answer) => answer,
                None => firsts.await,
            };
            took(&first);
            first.end(&answer);
            return answer;
        };
        tried.asks(&another);
        tried.attempts().hedged = true;
        let mut second = Asked::of(self.clone(), another);
        let seconds = pin!(second.put(again));
        let ended = select(firsts, seconds).await;
        took(&first);
        let (answer, by) = match ended {
            Either::Left((answer, _)) if is_answer(&answer) => {
                first.end(&answer);
                second.not_needed();
                (answer, "first")
            }
            Either::Left((failed, seconds)) => {
                first.end(&failed);
                let answer = seconds.await;
                second.end(&answer);
                if is_answer(&answer) {
                    (answer, "second")
                } else {
                    (failed, "neither")
                }
            }
            Either::Right((answer, _)) if is_answer(&answer) => {
                second.end(&answer);
                first.overtaken();
                (answer, "second")
            }
            Either::Right((failed, firsts)) => {
                second.end(&failed);
                let answer = firsts.await;
                first.end(&answer);
                let by = if is_answer(&answer) {
                    "first"
                } else {
                    "neither"
                };
                (answer, by)
            }
        };
        metrics::hedged(&self.service, by);
        answer
    }

    /// Lets a replica rest that fails much more often than the others; never the only one, and
    /// never more than half.
    fn judge(&self, replica: &Arc<Replica>, now: Duration) {
        let all = self.all.load();
        let others = all
            .iter()
            .filter(|other| !Arc::ptr_eq(other, replica))
            .map(|other| other.record().clone());
        let (resting, mut failing) =
            others.fold((0, Vec::new()), |(resting, mut failing), other| {
                failing.push(other.failing);
                (resting + usize::from(now < other.rests_until), failing)
            });
        failing.sort_by(f64::total_cmp);
        // The median: that of the better half where half of them fail.
        let Some(usual) = failing.get(failing.len().saturating_sub(1) / 2) else {
            return;
        };
        let mut record = replica.record();
        let is_known = record.answers >= ANSWERS || record.failures >= IN_A_ROW;
        let fails = is_known && record.failing > TOO_MANY + 2.0 * usual;
        if fails && now >= record.rests_until && (resting + 1) * 2 <= all.len() {
            record.rest(now, FAILING_REST);
            drop(record);
            metrics::replica_rests(&self.service, "failing");
        }
    }
}

/// Who is who, for as long as they live.
fn identity(replica: &Arc<Replica>) -> usize {
    Arc::as_ptr(replica).addr()
}

/// A call that is with a replica. Where it is given up after a silence, the replica has lost it.
struct Asked {
    replicas: Arc<Replicas>,
    replica: Arc<Replica>,
    since: Instant,
    /// What is asked.
    uri: Uri,
    /// Whether the whole of the request has been handed over.
    sent: Arc<AtomicBool>,
    over: bool,
}

impl Asked {
    fn of(replicas: Arc<Replicas>, replica: Arc<Replica>) -> Self {
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            replicas,
            replica,
            since: Instant::now(),
            uri: Uri::default(),
            sent: Arc::default(),
            over: false,
        }
    }

    /// Whether the replica has been silent for too long about a request that it has whole.
    fn is_lost_to_silence(&self) -> bool {
        let patience = || {
            self.replica
                .patience(self.replicas.usual.of(self.uri.path()))
        };
        self.sent.load(Ordering::Relaxed) && self.since.elapsed() >= patience()
    }

    /// Puts it to the replica.
    fn put(&mut self, request: Request<Body>) -> impl Future<Output = Answer> + use<> {
        self.uri = request.uri().clone();
        self.replica
            .backend
            .clone()
            .oneshot(request.map(|body| Sent::body(body, self.sent.clone())))
    }

    /// It is taken back: another answered it first.
    fn overtaken(mut self) {
        self.over = true;
        if self
            .replica
            .overtaken(self.since.elapsed(), self.replicas.start.elapsed())
        {
            self.lost(None);
        }
    }

    /// It is taken back, and that says nothing.
    fn not_needed(mut self) {
        self.over = true;
    }

    fn end(mut self, answer: &Answer) {
        self.over = true;
        match answer {
            Ok(response) => {
                let (code, took) = (frame::code(response.headers()), self.since.elapsed());
                if code == Some(Code::DeadlineExceeded) {
                    // Its own clock was the first to say so.
                    return if self.is_lost_to_silence() {
                        self.lost(None)
                    } else {
                        self.replica.is_there()
                    };
                }
                let (failed, now) = (code.is_some_and(is_failure), self.replicas.start.elapsed());
                self.replica.answered(took, failed, now);
                if failed {
                    self.replicas.judge(&self.replica, now);
                }
            }
            Err(error) => {
                if let Some(problem) = error.downcast_ref() {
                    self.lost(Some(problem));
                } else if let Some(turned_down) = error.downcast_ref::<TurnedDown>() {
                    self.turned_down(turned_down);
                }
            }
        }
    }

    fn turned_down(&self, how: &TurnedDown) {
        if how.its_own_fault {
            return self.replica.is_there();
        }
        let now = self.replicas.start.elapsed();
        self.replica.answered(self.since.elapsed(), true, now);
        self.replicas.judge(&self.replica, now);
    }

    fn lost(&self, to: Option<&Unreachable>) {
        self.replicas.lost_to.store(to.cloned().map(Arc::new));
        let (made, now) = (
            self.since - self.replicas.start,
            self.replicas.start.elapsed(),
        );
        if self.replica.lost(made, to.is_none(), now) {
            metrics::replica_rests(&self.replicas.service, "lost");
        }
        self.replicas.doubted.notify_one();
        metrics::replica_lost(&self.replicas.service);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.over && self.is_lost_to_silence() {
            self.lost(None);
        }
    }
}

/// A request's body that tells when all of it has been taken.
struct Sent {
    body: Body,
    whole: Arc<AtomicBool>,
}

impl Sent {
    fn body(body: Body, whole: Arc<AtomicBool>) -> Body {
        if http_body::Body::is_end_stream(&body) {
            whole.store(true, Ordering::Relaxed);
            return body;
        }
        Body::new(Self { body, whole })
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || polled.is_ready() && self.body.is_end_stream() {
            self.whole.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Whether it is the replica that has failed, rather than its caller.
fn is_failure(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Internal | Code::Unknown)
}

#[derive(Clone)]
struct Balanced {
    replicas: Arc<Replicas>,
    hedge_after: Option<Duration>,
    tasks: Arc<Tasks>,
}

impl Service<Request<Body>> for Balanced {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (replicas, hedge_after, tasks) =
            (self.replicas.clone(), self.hedge_after, self.tasks.clone());
        Box::pin(async move {
            let _who_finds_replicas = tasks;
            let tried = request
                .extensions_mut()
                .remove::<Tried>()
                .unwrap_or_default();
            let hedge = request.extensions_mut().remove::<Hedge>();
            let mut asked = replicas.ask(&tried).await?;
            if let (Some(hedge), Some(least)) = (hedge, hedge_after)
                && replicas.all.load().len() > 1
            {
                return replicas.hedged(asked, request, &tried, &hedge, least).await;
            }
            let answer = asked.put(request).await;
            asked.end(&answer);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{grpc::frame::Known, layers::retry::Budget, upstream::discovery::Lookup};
    use futures_util::{StreamExt, stream};
    use http::{HeaderValue, header::CONTENT_TYPE};
    use http_body_util::{BodyExt, StreamBody};
    use std::collections::HashMap;
    use tower::service_fn;

    /// Replicas of which these are ready.
    fn replicas(ready: &[bool]) -> Arc<Replicas> {
        let nobody =
            service_fn(async |_: Request<Body>| Err::<Response<Body>, BoxError>("nobody".into()));
        let nobody = BoxCloneSyncService::new(nobody);
        let replicas = Arc::new(Replicas::new("churn"));
        let all = ready.iter().map(|ready| {
            let replica = Replica::new(nobody.clone(), 0.0, Duration::ZERO);
            replica.says(*ready);
            Arc::new(replica)
        });
        replicas.set(all.collect());
        replicas
    }

    fn one(replicas: &Replicas, at: usize) -> Arc<Replica> {
        replicas.all.load()[at].clone()
    }

    fn shares(replicas: &Replicas, now: Duration) -> Vec<usize> {
        let all = replicas.all.load();
        let mut counts = vec![0; all.len()];
        for _ in 0..3000 {
            let Choice::One(chosen) = replicas.choose(now, &Tried::default(), false) else {
                panic!("nobody")
            };
            counts[all
                .iter()
                .position(|replica| Arc::ptr_eq(replica, &chosen))
                .unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equals_share_and_the_busy_are_spared() {
        let replicas = replicas(&[true; 3]);
        assert!(
            shares(&replicas, Duration::ZERO)
                .iter()
                .all(|count| (800..1200).contains(count))
        );
        one(&replicas, 1).in_flight.store(5, Ordering::Relaxed);
        let spared = shares(&replicas, Duration::ZERO);
        assert_eq!(
            spared[1], 0,
            "one of two others is always taken before it: {spared:?}"
        );
        one(&replicas, 1).in_flight.store(0, Ordering::Relaxed);
        one(&replicas, 0).answered(Duration::from_millis(50), false, Duration::ZERO);
        one(&replicas, 1).answered(Duration::from_millis(1), false, FADE * 5);
        one(&replicas, 2).answered(Duration::from_millis(1), false, FADE * 5);
        assert_eq!(shares(&replicas, Duration::ZERO)[0], 0);
        assert!(shares(&replicas, FADE * 5)[0] > 0, "it was long ago");
    }

    #[test]
    fn who_is_not_ready_or_lost_a_call_is_asked_last() {
        let replicas = replicas(&[true, false, true]);
        assert_eq!(shares(&replicas, Duration::ZERO)[1], 0);
        one(&replicas, 0).lost(Duration::ZERO, false, Duration::ZERO);
        assert_eq!(shares(&replicas, Duration::ZERO), [0, 0, 3000]);
        assert!(shares(&replicas, LOST_REST)[0] > 0, "a rest ends");
        one(&replicas, 0).lost(LOST_REST, false, LOST_REST);
        assert_eq!(
            shares(&replicas, LOST_REST * 2),
            [0, 0, 3000],
            "the second is longer"
        );

        one(&replicas, 2).says(false);
        assert_eq!(
            shares(&replicas, LOST_REST * 2)[0],
            0,
            "nobody is ready: whoever has not lost a call"
        );
        one(&replicas, 1).lost(LOST_REST, false, LOST_REST);
        one(&replicas, 2).lost(LOST_REST, false, LOST_REST);
        assert!(
            shares(&replicas, LOST_REST).iter().all(|count| *count > 0),
            "never nobody"
        );
        one(&replicas, 0).says(true);
        assert_eq!(
            shares(&replicas, LOST_REST),
            [3000, 0, 0],
            "who says it is ready rests no more"
        );
    }

    const PATH: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const LEAST: Duration = Duration::from_millis(10);

    /// A replica that says so after this time; without one it says nothing.
    type Manner = (Option<u64>, fn() -> Answer);

    /// Two such replicas of which the first is asked first, and how often each has been.
    fn two(manners: [Manner; 2]) -> (Balanced, [Arc<AtomicUsize>; 2]) {
        let asked = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let replicas = Arc::new(Replicas::new("churn"));
        let all = manners.into_iter().zip(&asked).zip([0.0, 60.0]).map(
            |(((after, says), asked), latency)| {
                let asked = asked.clone();
                let backend = service_fn(move |_: Request<Body>| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    async move {
                        sleep(after.map_or(Duration::MAX, Duration::from_millis)).await;
                        says()
                    }
                });
                let replica =
                    Replica::new(BoxCloneSyncService::new(backend), latency, Duration::ZERO);
                replica.says(true);
                Arc::new(replica)
            },
        );
        replicas.set(all.collect());
        replicas.usual.took(PATH, Duration::from_millis(1));
        (
            Balanced {
                replicas,
                hedge_after: Some(LEAST),
                tasks: Arc::default(),
            },
            asked,
        )
    }

    fn request(budget: &Budget) -> Request<Body> {
        let mut request = Request::post(PATH).body(Body::empty()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(250);
        request.extensions_mut().insert(Hedge {
            budget: budget.clone(),
            deadline,
            body: Bytes::new(),
        });
        request
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

    fn counts(asked: &[Arc<AtomicUsize>; 2]) -> [usize; 2] {
        asked.each_ref().map(|asked| asked.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_costs_a_moment_and_soon_rests() {
        let (service, asked) = two([(None, found), (Some(0), found)]);
        let (silent, budget) = (one(&service.replicas, 0), Budget::new());
        for n in 1..=OVERTAKEN as usize {
            assert!(!silent.rests(service.replicas.start.elapsed()));
            let begun = Instant::now();
            service.clone().oneshot(request(&budget)).await.unwrap();
            assert!(
                (10..=12).contains(&begun.elapsed().as_millis()),
                "{:?}",
                begun.elapsed()
            );
            assert_eq!(
                (counts(&asked), silent.in_flight.load(Ordering::Relaxed)),
                ([n, n], 0)
            );
        }
        assert!(silent.rests(service.replicas.start.elapsed()));
        service.clone().oneshot(request(&budget)).await.unwrap();
        assert_eq!(counts(&asked)[0], OVERTAKEN as usize, "it is left alone");

        silent.answered(LEAST, false, service.replicas.start.elapsed());
        assert!(
            !silent.overtaken(LEAST, service.replicas.start.elapsed()),
            "an answer between"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_is_the_callers() {
        let answers: [(_, _, Result<_, ()>, _); 8] = [
            (
                (Some(9), found as fn() -> Answer),
                (None, lost as fn() -> Answer),
                Ok(None),
                9,
            ),
            ((Some(20), found), (Some(15), found), Ok(None), 20),
            ((Some(20), found), (Some(5), found), Ok(None), 15),
            ((Some(30), found), (Some(5), refused), Ok(None), 30),
            ((Some(15), lost), (Some(50), found), Ok(None), 60),
            (
                (Some(15), refused),
                (Some(50), lost),
                Ok(Some(Code::Unavailable)),
                60,
            ),
            ((Some(50), lost), (Some(5), refused), Err(()), 50),
            (
                (Some(5), refused),
                (None, found),
                Ok(Some(Code::Unavailable)),
                5,
            ), // it is asked for again elsewhere
        ];
        for (n, (first, second, ends, milliseconds)) in answers.into_iter().enumerate() {
            let (service, asked) = two([first, second]);
            let begun = Instant::now();
            let answer = service.clone().oneshot(request(&Budget::new())).await;
            assert_eq!(
                answer
                    .map(|answer| frame::code(answer.headers()))
                    .map_err(drop),
                ends,
                "{n}"
            );
            let took = begun.elapsed().as_millis();
            assert!(
                (milliseconds..=milliseconds + 2).contains(&took),
                "{n}: {took} ms"
            );
            assert_eq!(counts(&asked), [1, usize::from(took > 10)], "{n}");
            let all = service.replicas.all.load();
            assert!(
                all.iter()
                    .all(|replica| replica.in_flight.load(Ordering::Relaxed) == 0),
                "{n}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_at_another_only_where_that_helps_and_once() {
        let spent = Budget::new();
        while spent.hedges() {}
        let resting = |service: &mut Balanced, _: &mut Request<Body>| {
            one(&service.replicas, 1).lost(Duration::ZERO, false, Duration::from_secs(60));
        };
        let unready =
            |service: &mut Balanced, _: &mut Request<Body>| one(&service.replicas, 1).says(false);
        let alone = |service: &mut Balanced, _: &mut Request<Body>| {
            service.replicas.set(vec![one(&service.replicas, 0)]);
        };
        let off = |service: &mut Balanced, _: &mut Request<Body>| service.hedge_after = None;
        let effects = |_: &mut Balanced, request: &mut Request<Body>| {
            request.extensions_mut().remove::<Hedge>();
        };
        let poor = move |_: &mut Balanced, request: &mut Request<Body>| {
            request.extensions_mut().get_mut::<Hedge>().unwrap().budget = spent.clone();
        };
        let before = |_: &mut Balanced, request: &mut Request<Body>| {
            let tried = Tried::default();
            tried.attempts().hedged = true;
            request.extensions_mut().insert(tried);
        };
        type Case<'a> = &'a dyn Fn(&mut Balanced, &mut Request<Body>);
        let cases: [Case<'_>; 7] = [&resting, &unready, &alone, &off, &effects, &poor, &before];
        for (n, case) in cases.into_iter().enumerate() {
            let (mut service, asked) = two([(Some(100), found), (Some(0), found)]);
            let mut request = request(&Budget::new());
            case(&mut service, &mut request);
            service.oneshot(request).await.unwrap();
            assert_eq!(counts(&asked), [1, 0], "{n}");
        }
    }

    #[test]
    fn calls_that_are_lost_together_are_one_loss() {
        let replica = one(&replicas(&[true]), 0);
        let lost = |made, now| replica.lost(LOST_REST * made, false, LOST_REST * now);
        assert!(lost(0, 3) && !lost(0, 3) && !lost(2, 4));
        assert_eq!(replica.record().rests_until, LOST_REST * 4);
        assert!(lost(5, 6));
        let record = replica.record();
        assert_eq!((record.losses, record.rests_until), (2, LOST_REST * 8));
    }

    #[test]
    fn a_call_that_is_made_again_goes_to_another() {
        let replicas = replicas(&[true, true, false]);
        let (tried, now) = (Tried::default(), Duration::ZERO);
        let mut asked = Vec::new();
        for _ in 0..3 {
            let Choice::One(chosen) = replicas.choose(now, &tried, false) else {
                panic!("nobody")
            };
            tried.asks(&chosen);
            asked.push(identity(&chosen));
        }
        assert_ne!(asked[0], asked[1]);
        assert!(
            asked[..2].contains(&asked[2]),
            "rather one that is ready than a new one that is not"
        );
    }

    /// Every replica gives a hundred answers, of which so many are failures.
    fn answer(replicas: &Replicas, now: Duration, failures: &[u32]) {
        for n in 0..100 {
            for (replica, failures) in replicas.all.load().iter().zip(failures) {
                let failed = (n + 1) * failures / 100 > n * failures / 100;
                replica.answered(Duration::from_millis(1), failed, now);
                if failed {
                    replicas.judge(replica, now);
                }
            }
        }
    }

    fn resting(replicas: &Replicas, now: Duration) -> Vec<bool> {
        replicas
            .all
            .load()
            .iter()
            .map(|replica| replica.rests(now))
            .collect()
    }

    #[test]
    fn who_fails_much_more_often_than_the_others_rests() {
        let now = Duration::from_secs(60);
        for (failures, rests) in [
            (&[0, 0, 0][..], &[false, false, false][..]),
            (&[5, 5, 0], &[false, false, false]),
            (&[0, 0, 100], &[false, false, true]),
            (&[0, 0, 50], &[false, false, true]),
            (&[40, 40, 50], &[false, false, false]),
            (&[0, 100, 100], &[false, true, false]), // never more than half
            (&[100], &[false]),                      // never the only one
        ] {
            let replicas = replicas(&vec![true; failures.len()]);
            answer(&replicas, now, failures);
            assert_eq!(resting(&replicas, now), rests, "{failures:?}");
        }
    }

    #[test]
    fn rests_grow_and_a_good_time_makes_them_short_again() {
        let replicas = replicas(&[true, true]);
        let mut now = Duration::from_secs(60);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            answer(&replicas, now, &[0, 100]);
            let until = one(&replicas, 1).record().rests_until;
            assert_eq!(until - now, Duration::from_secs(seconds));
            now = until;
        }
        now += LONGEST_REST;
        answer(&replicas, now, &[0, 100]);
        assert_eq!(
            one(&replicas, 1).record().rests_until - now,
            Duration::from_secs(1)
        );
    }

    #[test]
    fn where_nobody_answers_one_call_at_a_time_finds_out() {
        let replicas = replicas(&[true, true]);
        let mut now = Duration::ZERO;
        let ask = |now| replicas.choose(now, &Tried::default(), false);
        for _ in 0..BROKEN {
            for at in [0, 1] {
                assert!(matches!(ask(now), Choice::One(_)));
                one(&replicas, at).lost(now, false, now);
            }
            now += SILENCE;
        }
        for _ in 0..3 {
            assert!(matches!(ask(now), Choice::One(_)), "somebody finds out");
            assert!(
                matches!(ask(now), Choice::Nobody(_))
                    && matches!(ask(now + RETRY_IN / 2), Choice::Nobody(_))
            );
            now += RETRY_IN;
        }
        one(&replicas, 0).answered(SILENCE, false, now);
        assert!(
            (0..10).all(|_| matches!(ask(now), Choice::One(_))),
            "one answers: everybody asks"
        );
    }

    #[test]
    fn silence_alone_does_not_show_that_there_is_nobody() {
        let replica = one(&replicas(&[true]), 0);
        for n in 0..2 * BROKEN {
            assert!(replica.lost(SILENCE * n, true, SILENCE * n));
        }
        assert_eq!(replica.record().losses, BROKEN - 1);
        assert!(replica.lost(SILENCE * 20, false, SILENCE * 20));
        assert_eq!(replica.record().losses, BROKEN);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_said_all_or_waits_no_longer_than_usual_is_not_lost() {
        let silent = BoxCloneSyncService::new(service_fn(async |request: Request<Body>| {
            let _all_there_is = request.into_body().collect().await;
            std::future::pending::<Result<Response<Body>, BoxError>>().await
        }));
        let whole = || Known::body(Bytes::from_static(b"all"), None);
        let withheld = || {
            Body::new(StreamBody::new(stream::pending::<
                Result<Frame<Bytes>, Status>,
            >()))
        };
        let usual = Duration::from_millis(50);
        for (body, waited, lost) in [
            (withheld as fn() -> Body, 100 * SILENCE, 0),
            (whole, SILENCE / 2, 0),
            (whole, SILENCE, 0),
            (whole, usual.mul_f64(UNUSUAL), 1),
        ] {
            let replicas = Arc::new(Replicas::new("churn"));
            let replica = Arc::new(Replica::new(
                silent.clone(),
                usual.as_secs_f64(),
                Duration::ZERO,
            ));
            replica.says(true);
            replicas.set(vec![replica.clone()]);
            let balanced = Balanced {
                replicas,
                hedge_after: None,
                tasks: Arc::default(),
            };
            assert!(
                timeout(waited, balanced.oneshot(Request::new(body())))
                    .await
                    .is_err()
            );
            assert_eq!(replica.record().losses, lost, "after {waited:?}");
        }

        // A quick method says nothing of a slow one's time.
        let replica = Replica::new(silent, 0.001, Duration::ZERO);
        assert_eq!(replica.patience(None), SILENCE);
        assert_eq!(
            replica.patience(Some(2 * SILENCE)),
            (2 * SILENCE).mul_f64(UNUSUAL)
        );
    }

    #[tokio::test]
    async fn a_call_that_is_turned_down_shows_that_somebody_is_there() {
        let replicas = replicas(&[true]);
        let replica = one(&replicas, 0);
        replica.lost(Duration::ZERO, false, Duration::ZERO);
        for (its_own_fault, failures) in [(true, 0), (false, 1)] {
            let mut turned_down = TurnedDown::new("churn", "it answers 431");
            turned_down.its_own_fault = its_own_fault;
            Asked::of(replicas.clone(), replica.clone()).end(&Err(turned_down.into()));
            let record = replica.record();
            assert_eq!((record.losses, record.failures), (0, failures));
        }
    }

    /// A replica that says for ever whether it is ready, and nothing else.
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
        let endpoints = Endpoints::new(
            "churn".into(),
            vec!["http://churn:1".parse().unwrap()],
            lookup,
        );
        let replicas = Arc::new(Replicas::new("churn"));
        let made = Arc::new(Mutex::new(HashMap::new()));
        let (all, maker) = (replicas.clone(), made.clone());
        let mut tasks = Tasks::default();
        tasks.spawn(follow(all, endpoints, move |_, address| {
            *maker
                .lock()
                .unwrap()
                .entry(address.ip().to_string())
                .or_insert(0) += 1;
            serve(address.ip().to_string() != "10.0.0.3")
        }));

        // A call that comes before anybody is known waits for the first who is ready.
        assert!(matches!(
            replicas.choose(Duration::ZERO, &Tried::default(), true),
            Choice::Wait
        ));
        let first = replicas.ask(&Tried::default()).await.unwrap();
        sleep(LOOK).await;
        assert!(replicas.all.load().iter().all(|replica| replica.is_ready()));
        first
            .replica
            .answered(Duration::from_secs(1), false, replicas.start.elapsed());

        found.send_replace(vec!["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        sleep(LOOK * 2).await;
        let now = replicas.all.load_full();
        assert_eq!(
            now.iter()
                .map(|replica| replica.is_ready())
                .collect::<Vec<_>>(),
            [true, false, true]
        );
        let slowest = f64::from_bits(now[2].latency.load(Ordering::Relaxed));
        assert!(
            slowest > 0.1,
            "until it has answered it is as slow as the slowest: {slowest}"
        );
        let shares = shares(&replicas, Duration::ZERO);
        assert_eq!(
            shares[1], 0,
            "one that is not ready is not asked: {shares:?}"
        );
        // Nobody was made twice.
        assert!(made.lock().unwrap().values().all(|times| *times == 1));

        found.send_replace(vec![]);
        sleep(LOOK * 2).await;
        assert_eq!(replicas.all.load().len(), 3, "no answer is no news");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_cannot_be_found_is_said_at_once() {
        let lookup: Lookup = Arc::new(|_, _| {
            Box::pin(std::future::ready(Err(std::io::Error::other(
                "no such name",
            ))))
        });
        let endpoints = Endpoints::new(
            "churn".into(),
            vec!["http://churn:1".parse().unwrap()],
            lookup,
        );
        let service = among("churn", endpoints, None, |_, _| serve(true));
        let error = service.oneshot(Request::default()).await.unwrap_err();
        assert_eq!(
            error.downcast_ref::<Unreachable>().unwrap().to_string(),
            "churn cannot be reached: http://churn:1 cannot be looked up: no such name"
        );
    }
}
