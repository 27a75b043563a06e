//! Single flight: of several callers with one question at a time, the first (the leader) asks the
//! service, and the others (the followers) wait for its answer. Promise: one question is asked once
//! at a time; a follower that leaves has no effect on the others, a leader that leaves takes
//! nothing from its followers, and once all have left the question is asked no longer.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

use super::Key;

/// Questions that are being asked, by key. Clones share them.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    flights: Arc<Mutex<HashMap<Key, Flight<T>>>>,
    /// Followers of one leader. The next caller leads again, with followers of its own.
    max_followers: usize,
}

impl<T> Clone for SingleFlight<T> {
    fn clone(&self) -> Self {
        Self {
            flights: self.flights.clone(),
            max_followers: self.max_followers,
        }
    }
}

#[derive(Debug)]
struct Flight<T> {
    result: Arc<watch::Sender<Option<T>>>,
    deadline: Instant,
}

/// What a caller with a question is to do.
#[derive(Debug)]
pub(super) enum Role<T> {
    /// Ask it.
    Leader(Leader<T>),
    /// Wait for the leader's answer.
    Follower(Follower<T>),
}

/// The duty to ask a question. Once this is dropped the question is no longer being asked.
#[derive(Debug)]
pub(super) struct Leader<T> {
    flights: SingleFlight<T>,
    key: Key,
    result: Arc<watch::Sender<Option<T>>>,
    deadline: Instant,
}

/// A wait for a leader's answer.
#[derive(Debug)]
pub(super) struct Follower<T>(watch::Receiver<Option<T>>);

impl<T> SingleFlight<T> {
    pub(super) fn new(max_followers: usize) -> Self {
        Self {
            flights: Arc::default(),
            max_followers,
        }
    }

    /// The role of a caller that needs an answer by the deadline. A leader with a much sooner
    /// deadline is not followed: if its call failed, too little time would be left for another.
    pub(super) fn join(&self, key: Key, deadline: Instant) -> Role<T> {
        let mut flights = self.lock();
        let now = Instant::now();
        let lasts = |flight: &Flight<T>| {
            2 * flight.deadline.duration_since(now) >= deadline.duration_since(now)
        };
        match flights.get(&key) {
            Some(flight)
                if flight.result.receiver_count() < self.max_followers && lasts(flight) =>
            {
                Role::Follower(Follower(flight.result.subscribe()))
            }
            Some(_) | None => Role::Leader(self.lead(&mut flights, key, deadline)),
        }
    }

    /// The leader's role, unless there is a leader.
    pub(super) fn try_lead(&self, key: Key, deadline: Instant) -> Option<Leader<T>> {
        let mut flights = self.lock();
        (!flights.contains_key(&key)).then(|| self.lead(&mut flights, key, deadline))
    }

    fn lead(
        &self,
        flights: &mut HashMap<Key, Flight<T>>,
        key: Key,
        deadline: Instant,
    ) -> Leader<T> {
        let result = Arc::new(watch::Sender::new(None));
        let flight = Flight {
            result: result.clone(),
            deadline,
        };
        flights.insert(key, flight);
        Leader {
            flights: self.clone(),
            key,
            result,
            deadline,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leader's call. The leader gets `A`, the followers get `T`; if there is none, they ask for
/// themselves. If this is dropped before it is ready, the call goes on for the followers until the
/// leader's deadline.
#[must_use = "futures do nothing unless polled"]
pub(super) struct Leading<A: Send + 'static, T: Send + Sync + 'static>(
    Option<(Leader<T>, LeaderCall<A, T>)>,
);

type LeaderCall<A, T> = BoxFuture<'static, (A, Option<T>)>;

impl<T: Send + Sync + 'static> Leader<T> {
    /// Asks the question.
    pub(super) fn run<A: Send + 'static>(
        self,
        call: impl Future<Output = (A, Option<T>)> + Send + 'static,
    ) -> Leading<A, T> {
        Leading(Some((self, Box::pin(call))))
    }

    /// Goes on without the leader, for as long as there are followers.
    async fn run_for_followers<A>(self, call: LeaderCall<A, T>) {
        let result = tokio::select! {
            biased;
            ended = timeout_at(self.deadline, call) => ended.ok().and_then(|(_, result)| result),
            () = self.result.closed() => None,
        };
        self.complete(result);
    }

    fn complete(self, result: Option<T>) {
        let sender = self.result.clone();
        // Before the followers are told, so that a caller that comes now leads a new flight.
        drop(self);
        if result.is_some() {
            sender.send_replace(result);
        }
    }
}

impl<A: Send + 'static, T: Send + Sync + 'static> Future for Leading<A, T> {
    type Output = A;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A> {
        let Some((leader, mut call)) = self.0.take() else {
            return Poll::Pending;
        };
        match call.as_mut().poll(context) {
            Poll::Ready((answer, result)) => {
                leader.complete(result);
                Poll::Ready(answer)
            }
            Poll::Pending => {
                self.0 = Some((leader, call));
                Poll::Pending
            }
        }
    }
}

impl<A: Send + 'static, T: Send + Sync + 'static> Drop for Leading<A, T> {
    fn drop(&mut self) {
        let Some((leader, call)) = self.0.take() else {
            return;
        };
        // A runtime that shuts down has no followers to serve.
        if leader.result.receiver_count() > 0
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(leader.run_for_followers(call).in_current_span());
        }
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // A later leader may have taken the key over.
        if flights
            .get(&self.key)
            .is_some_and(|flight| Arc::ptr_eq(&flight.result, &self.result))
        {
            flights.remove(&self.key);
        }
    }
}

impl<T: Clone> Follower<T> {
    /// The leader's answer; none if there is no answer that others may have.
    pub(super) async fn result(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::cache::Question;
    use std::time::Duration;
    use tokio::sync::oneshot;

    fn key(message: &[u8]) -> Key {
        Key::of(&Question {
            method: "",
            version: "",
            caller: None,
            message,
        })
    }

    fn after(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    const MAX_FOLLOWERS: usize = 8;

    fn single_flight() -> SingleFlight<u32> {
        SingleFlight::new(MAX_FOLLOWERS)
    }

    fn leader(flights: &SingleFlight<u32>, deadline: Instant) -> Leader<u32> {
        match flights.join(key(b"a"), deadline) {
            Role::Leader(leader) => leader,
            Role::Follower(_) => panic!("there is a leader already"),
        }
    }

    fn follower(flights: &SingleFlight<u32>, deadline: Instant) -> Follower<u32> {
        match flights.join(key(b"a"), deadline) {
            Role::Follower(follower) => follower,
            Role::Leader(_) => panic!("there is no leader"),
        }
    }

    fn is_empty(flights: &SingleFlight<u32>) -> bool {
        flights.lock().is_empty()
    }

    #[tokio::test]
    async fn callers_that_come_while_it_is_asked_get_its_answer() {
        let flights = single_flight();
        let (answer, asked) = oneshot::channel();
        let leads = leader(&flights, after(1_000));
        let early = follower(&flights, after(1_000));
        let leading = leads.run(async { ((), asked.await.ok()) });
        let late = follower(&flights, after(1_000));
        assert!(
            matches!(flights.join(key(b"b"), after(1_000)), Role::Leader(_)),
            "another question"
        );
        assert!(flights.try_lead(key(b"a"), after(1_000)).is_none());
        drop(leading);
        answer.send(7).unwrap();
        assert_eq!(
            (early.result().await, late.result().await),
            (Some(7), Some(7)),
            "although the leader has left"
        );
        assert!(is_empty(&flights));
        drop(leader(&flights, after(1_000)));
        assert!(is_empty(&flights));
    }

    #[tokio::test(start_paused = true)]
    async fn followers_learn_that_they_wait_in_vain() {
        let flights = single_flight();
        let leads = leader(&flights, after(1_000));
        let follows = follower(&flights, after(1_000));
        assert_eq!(leads.run(async { (7, None) }).await, 7);
        assert_eq!(follows.result().await, None, "nothing for others");

        let leads = leader(&flights, after(100));
        let (follows, begun) = (follower(&flights, after(200)), Instant::now());
        drop(leads.run(std::future::pending::<((), _)>()));
        assert_eq!(follows.result().await, None, "the leader's time is over");
        assert_eq!(begun.elapsed().as_millis(), 100);

        let leads = leader(&flights, after(100));
        let follows = follower(&flights, after(100));
        drop(leads);
        assert_eq!(
            follows.result().await,
            None,
            "the leader did not ask after all"
        );
        assert!(is_empty(&flights));
    }

    #[tokio::test]
    async fn when_all_callers_have_left_the_question_is_dropped() {
        struct Notifies(Option<oneshot::Sender<()>>);
        impl Drop for Notifies {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let flights = single_flight();
        let (sender, dropped) = oneshot::channel();
        let notifies = Notifies(Some(sender));
        let leading = leader(&flights, after(60_000)).run(async move {
            let _notifies = notifies;
            std::future::pending::<((), _)>().await
        });
        let follows = follower(&flights, after(60_000));
        drop(leading);
        tokio::task::yield_now().await;
        assert!(!is_empty(&flights), "a follower still waits");
        drop(follows);
        dropped.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_with_all_its_followers_or_too_little_time_is_not_followed() {
        let flights = single_flight();
        let one = leader(&flights, after(100)).run(std::future::pending::<((), _)>());
        let followers: Vec<_> = (0..MAX_FOLLOWERS)
            .map(|_| follower(&flights, after(200)))
            .collect();
        let next = leader(&flights, after(100));
        drop(one);
        let _follows = follower(&flights, after(200));
        let longer = leader(&flights, after(201));
        drop(next);
        let _follows = follower(&flights, after(402));
        drop(longer);
        assert!(is_empty(&flights));
        drop(followers);
    }
}
