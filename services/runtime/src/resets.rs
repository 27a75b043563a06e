//! Rapid-reset defence (CVE-2023-44487): a caller may open calls and reset them, but only so many
//! in a time. Promise: what counts as a reset, and how many end a connection, does not depend on
//! how frames fall into reads, and a call that is cancelled at its caller's deadline costs nothing.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::HeaderMap;
use tokio::{sync::Notify, time::Instant};

use crate::{call::grpc_timeout, heartbeat::Heartbeat};

/// How many calls over one connection may be reset before they are answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ResetLimit {
    /// Resets that are free at once.
    burst: u32,
    /// Resets that are free per second in the long run.
    per_second: u32,
    /// Share of its own `grpc-timeout` after which a cancelled call counts as one that reached its
    /// deadline. Below 1, since the caller's clock starts before the call arrives here.
    deadline_share: f64,
    /// Shortest `grpc-timeout` that excuses a cancelled call. Without it a caller could declare a
    /// deadline of a nanosecond and reset for free.
    shortest_deadline: Duration,
}

impl ResetLimit {
    /// The limit of a connection that carries at most `streams` calls at once: each of them may
    /// be reset four times at once, and once a second after that.
    pub(crate) const fn of_width(streams: u32) -> Self {
        Self {
            burst: 4 * streams,
            per_second: streams,
            deadline_share: 0.5,
            shortest_deadline: Duration::from_millis(10),
        }
    }

    /// The same for a connection that carries the calls of `n` connections.
    pub(crate) const fn times(self, n: u32) -> Self {
        Self {
            burst: n * self.burst,
            per_second: n * self.per_second,
            ..self
        }
    }

    /// Whether a call that was cancelled after this time may have reached its deadline.
    ///
    /// A call that lasts until then has used one of the connection's streams for as long as a slow
    /// call does, so that the limit on streams bounds it as well.
    fn excuses(&self, timeout: Option<Duration>, lasted: Duration) -> bool {
        timeout.is_some_and(|timeout| {
            timeout >= self.shortest_deadline && lasted >= timeout.mul_f64(self.deadline_share)
        })
    }
}

/// A token bucket: what is left of a [`ResetLimit`].
#[derive(Debug)]
struct ResetBudget {
    limit: ResetLimit,
    tokens: f64,
    refilled: Instant,
}

impl ResetBudget {
    fn new(limit: ResetLimit, now: Instant) -> Self {
        Self {
            limit,
            tokens: f64::from(limit.burst),
            refilled: now,
        }
    }

    /// Takes a token. False if none is left.
    fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        let refill = passed * f64::from(self.limit.per_second);
        self.tokens = (self.tokens + refill).min(f64::from(self.limit.burst));
        self.refilled = self.refilled.max(now);
        let is_left = self.tokens >= 1.0;
        if is_left {
            self.tokens -= 1.0;
        }
        is_left
    }
}

/// The resets of one connection. Its stream counts the frames that it reads, its calls report that
/// they were cancelled, and the connection's task learns that the limit is reached.
#[derive(Debug)]
pub(crate) struct Resets {
    budget: Mutex<ResetBudget>,
    heartbeat: Arc<Heartbeat>,
    exhausted: AtomicBool,
    told: Notify,
    /// RST_STREAM frames that were read.
    read: AtomicU64,
    /// As many had been read before the connection's task began its present poll.
    read_before: AtomicU64,
}

impl Resets {
    pub(crate) fn new(limit: ResetLimit, heartbeat: Arc<Heartbeat>) -> Arc<Self> {
        Arc::new(Self {
            budget: Mutex::new(ResetBudget::new(limit, Instant::now())),
            heartbeat,
            exhausted: AtomicBool::new(false),
            told: Notify::new(),
            read: AtomicU64::new(0),
            read_before: AtomicU64::new(0),
        })
    }

    /// A poll of the connection's task begins.
    pub(crate) fn begin_poll(&self) {
        self.read_before
            .store(self.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A RST_STREAM frame was read.
    pub(crate) fn count_read(&self) {
        self.read.fetch_add(1, Ordering::Relaxed);
    }

    /// How many RST_STREAM frames were read in this poll.
    pub(crate) fn read_in_poll(&self) -> u64 {
        self.read.load(Ordering::Relaxed) - self.read_before.load(Ordering::Relaxed)
    }

    /// Whether the connection has to end.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// Resolves when the connection has to end.
    pub(crate) async fn exhausted(&self) {
        while !self.is_exhausted() {
            self.told.notified().await;
        }
    }

    /// A call with these headers begins. Must be called in a poll of the connection's task.
    pub(crate) fn begin_call(self: &Arc<Self>, headers: &HeaderMap) -> WatchedCall {
        WatchedCall {
            timeout: grpc_timeout(headers).ok().flatten(),
            began: Instant::now(),
            // h2 hands a call over in the poll in which it reads its head, so that a reset of this
            // call was not read before the poll.
            seen: self.read_before.load(Ordering::Relaxed),
            is_answered: false,
            resets: self.clone(),
        }
    }

    fn cancelled(&self, timeout: Option<Duration>, began: Instant, now: Instant) {
        // A call that came while the process was paused began, for its caller, before it did here.
        let lasted = now - began + self.heartbeat.recent_pause(now);
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if !budget.limit.excuses(timeout, lasted) {
            self.spend(&mut budget, now);
        }
    }

    /// A stream was reset from this side, for a mistake of the caller. h2 has a limit on these for
    /// the whole life of a connection, which an old connection reaches without any attack.
    pub(crate) fn turned_down(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        self.spend(&mut budget, Instant::now());
    }

    fn spend(&self, budget: &mut ResetBudget, now: Instant) {
        if !budget.spend(now) {
            self.exhausted.store(true, Ordering::Relaxed);
            self.told.notify_one();
        }
    }
}

/// A call that counts as cancelled if it is dropped before it is answered.
#[derive(Debug)]
pub(crate) struct WatchedCall {
    timeout: Option<Duration>,
    began: Instant,
    /// RST_STREAM frames that had been read when this call last looked for its own.
    seen: u64,
    is_answered: bool,
    resets: Arc<Resets>,
}

impl WatchedCall {
    /// The answer, if the call is not reset before it is there.
    ///
    /// hyper polls a call first and looks for its reset only if it is pending. A call that was
    /// reset would then answer with an error of its own, because its request cannot be read any
    /// more, and would pass for answered. Each time a reset has been read, this call is therefore
    /// pending once, so that hyper drops it if the reset is its own. On a connection without resets
    /// this never happens.
    pub(crate) async fn watch<F: Future>(mut self, answer: F) -> F::Output {
        let mut answer = pin!(answer);
        let answered = poll_fn(|context| {
            let read = self.resets.read.load(Ordering::Relaxed);
            if std::mem::replace(&mut self.seen, read) != read {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            answer.as_mut().poll(context)
        })
        .await;
        self.is_answered = true;
        answered
    }
}

impl Drop for WatchedCall {
    fn drop(&mut self) {
        if !self.is_answered {
            self.resets
                .cancelled(self.timeout, self.began, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    const LIMIT: ResetLimit = ResetLimit::of_width(10);

    fn resets(limit: ResetLimit) -> Arc<Resets> {
        Resets::new(limit, Arc::new(Heartbeat::new(Instant::now())))
    }

    fn spends(budget: &mut ResetBudget, n: u32, now: Instant) -> u32 {
        (0..n).map(|_| u32::from(budget.spend(now))).sum()
    }

    #[test]
    fn a_full_budget_covers_its_burst_and_refills_by_the_second() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut budget = ResetBudget::new(LIMIT, start);
        assert_eq!(spends(&mut budget, 100, start), 40);
        assert_eq!(spends(&mut budget, 100, after(99)), 0);
        assert_eq!(spends(&mut budget, 100, after(500)), 5);
        assert_eq!(spends(&mut budget, 100, after(400)), 0, "time runs back");
        assert_eq!(spends(&mut budget, 100, after(60_000)), 40, "and no more");
    }

    #[test]
    fn resets_below_the_rate_never_exhaust_a_budget() {
        let start = Instant::now();
        let mut budget = ResetBudget::new(LIMIT, start);
        for second in 0..1_000 {
            assert_eq!(
                spends(&mut budget, 10, start + Duration::from_secs(second)),
                10
            );
        }
    }

    #[test]
    fn a_connection_of_many_has_the_limit_of_many() {
        let many = LIMIT.times(3);
        assert_eq!(
            (many.burst, many.per_second),
            (3 * LIMIT.burst, 3 * LIMIT.per_second)
        );
    }

    /// Whether a call with this `grpc-timeout` costs something if it is cancelled after this time.
    fn is_charged(timeout: Option<&str>, lasted: Duration) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(timeout) = timeout {
            headers.insert("grpc-timeout", timeout.parse().unwrap());
        }
        let resets = resets(LIMIT);
        let call = resets.begin_call(&headers);
        resets.cancelled(call.timeout, call.began, call.began + lasted);
        let now = Instant::now();
        let left = spends(&mut resets.budget.lock().unwrap(), LIMIT.burst, now);
        left < LIMIT.burst
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_cancelled_at_its_deadline_is_free() {
        struct Case {
            name: &'static str,
            timeout: Option<&'static str>,
            lasted_ms: u64,
            is_charged: bool,
        }
        for case in [
            Case {
                name: "no deadline",
                timeout: None,
                lasted_ms: 60_000,
                is_charged: true,
            },
            Case {
                name: "at its deadline",
                timeout: Some("100m"),
                lasted_ms: 100,
                is_charged: false,
            },
            Case {
                name: "on its way for a part of it",
                timeout: Some("100m"),
                lasted_ms: 50,
                is_charged: false,
            },
            Case {
                name: "at once",
                timeout: Some("100m"),
                lasted_ms: 1,
                is_charged: true,
            },
            Case {
                name: "a deadline that is no excuse",
                timeout: Some("1n"),
                lasted_ms: 100,
                is_charged: true,
            },
            Case {
                name: "a deadline that cannot be read",
                timeout: Some("soon"),
                lasted_ms: 100,
                is_charged: true,
            },
        ] {
            assert_eq!(
                is_charged(case.timeout, Duration::from_millis(case.lasted_ms)),
                case.is_charged,
                "{}",
                case.name
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passed_while_the_process_was_paused_is_free() {
        let resets = resets(LIMIT);
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", "100m".parse().unwrap());
        tokio::time::advance(Duration::from_millis(300)).await;
        for _ in 0..1_000 {
            drop(resets.begin_call(&headers));
        }
        assert!(!resets.is_exhausted());
        for _ in 0..=LIMIT.burst {
            drop(resets.begin_call(&HeaderMap::new()));
        }
        assert!(resets.is_exhausted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_counts_if_it_is_dropped_before_its_answer() {
        let resets = resets(ResetLimit::of_width(1));
        let begin = || resets.begin_call(&HeaderMap::new());
        for _ in 0..10 {
            begin().watch(ready(())).await;
        }
        for _ in 0..3 {
            drop(begin().watch(pending::<()>()));
            assert!(!resets.is_exhausted());
        }
        assert_eq!(begin().watch(pending::<()>()).now_or_never(), None);
        assert!(!resets.is_exhausted());
        drop(begin());
        resets.exhausted().await;
    }

    #[tokio::test]
    async fn a_call_lets_a_reset_be_looked_for_before_it_goes_on() {
        let resets = resets(LIMIT);
        resets.begin_poll();
        resets.count_read();
        let mut call = Box::pin(resets.begin_call(&HeaderMap::new()).watch(ready(())));
        let early = (&mut call).now_or_never();
        assert_eq!(early, None, "its reset may have been read in the same poll");
        assert_eq!((&mut call).now_or_never(), Some(()));
        resets.begin_poll();
        let mut call = Box::pin(resets.begin_call(&HeaderMap::new()).watch(ready(())));
        let at_once = (&mut call).now_or_never();
        assert_eq!(at_once, Some(()), "all resets were read before the call");
    }
}
