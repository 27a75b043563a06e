//! Questions that are being asked: who asks the same meanwhile waits for that answer. Promise: one
//! question is asked once at a time; whoever waits can leave without an effect on others, and when
//! everybody has left nobody asks any longer.

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

/// Those who wait for one answer; whoever comes then asks once more, for the next ones to wait for.
const WAITERS: usize = 1 << 10;

/// Questions that are being asked, and who waits for their answers.
#[derive(Debug)]
pub(super) struct Flights<T>(Arc<Mutex<HashMap<Key, Flight<T>>>>);

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[derive(Debug)]
struct Flight<T> {
    landing: Arc<watch::Sender<Option<T>>>,
    deadline: Instant,
}

/// What somebody with a question is to do.
#[derive(Debug)]
pub(super) enum Seat<T> {
    /// Ask it.
    First(Pilot<T>),
    /// Wait.
    Other(Waiter<T>),
}

/// Somebody who asks. When this is dropped the question is no longer being asked.
#[derive(Debug)]
pub(super) struct Pilot<T> {
    flights: Flights<T>,
    key: Key,
    landing: Arc<watch::Sender<Option<T>>>,
    deadline: Instant,
}

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter<T>(watch::Receiver<Option<T>>);

impl<T> Flights<T> {
    /// A seat for a question that needs an answer by then. A flight that may have to end long
    /// before that is not waited for: were it lost, there would be too little time for another.
    pub(super) fn join(&self, key: Key, deadline: Instant) -> Seat<T> {
        let mut flights = self.lock();
        let now = Instant::now();
        let long_enough = |flight: &Flight<T>| {
            2 * flight.deadline.duration_since(now) >= deadline.duration_since(now)
        };
        match flights.get(&key) {
            Some(flight) if flight.landing.receiver_count() < WAITERS && long_enough(flight) => {
                Seat::Other(Waiter(flight.landing.subscribe()))
            }
            Some(_) | None => Seat::First(self.begin(&mut flights, key, deadline)),
        }
    }

    /// The same where nobody is asking it.
    pub(super) fn lead(&self, key: Key, deadline: Instant) -> Option<Pilot<T>> {
        let mut flights = self.lock();
        (!flights.contains_key(&key)).then(|| self.begin(&mut flights, key, deadline))
    }

    fn begin(
        &self,
        flights: &mut HashMap<Key, Flight<T>>,
        key: Key,
        deadline: Instant,
    ) -> Pilot<T> {
        let landing = Arc::new(watch::Sender::new(None));
        flights.insert(
            key,
            Flight {
                landing: landing.clone(),
                deadline,
            },
        );
        Pilot {
            flights: self.clone(),
            key,
            landing,
            deadline,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question on its way. Whoever holds this has the answer `A`, those who wait have `T`, or where
/// there is none are told to ask for themselves. Where it is dropped before that it goes on for
/// those who wait, for as long as there is time.
#[must_use = "nobody asks until it is awaited"]
pub(super) struct Flying<A: Send + 'static, T: Send + Sync + 'static>(
    Option<(Pilot<T>, Asked<A, T>)>,
);

type Asked<A, T> = BoxFuture<'static, (A, Option<T>)>;

impl<T: Send + Sync + 'static> Pilot<T> {
    /// Asks.
    pub(super) fn fly<A: Send + 'static>(
        self,
        asked: impl Future<Output = (A, Option<T>)> + Send + 'static,
    ) -> Flying<A, T> {
        Flying(Some((self, Box::pin(asked))))
    }

    async fn go_on<A>(self, asked: Asked<A, T>) {
        let landed = tokio::select! {
            biased;
            landed = timeout_at(self.deadline, asked) => landed.ok().and_then(|(_, landed)| landed),
            () = self.landing.closed() => None,
        };
        self.land(landed);
    }

    fn land(self, landed: Option<T>) {
        let landing = self.landing.clone();
        drop(self); // from here on it is asked anew
        if landed.is_some() {
            landing.send_replace(landed);
        }
    }
}

impl<A: Send + 'static, T: Send + Sync + 'static> Future for Flying<A, T> {
    type Output = A;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A> {
        let Some((pilot, mut asked)) = self.0.take() else {
            return Poll::Pending;
        };
        match asked.as_mut().poll(context) {
            Poll::Ready((answer, landed)) => {
                pilot.land(landed);
                Poll::Ready(answer)
            }
            Poll::Pending => {
                self.0 = Some((pilot, asked));
                Poll::Pending
            }
        }
    }
}

impl<A: Send + 'static, T: Send + Sync + 'static> Drop for Flying<A, T> {
    fn drop(&mut self) {
        let Some((pilot, asked)) = self.0.take() else {
            return;
        };
        if pilot.landing.receiver_count() > 0
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(pilot.go_on(asked).in_current_span());
        }
    }
}

impl<T> Drop for Pilot<T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if flights
            .get(&self.key)
            .is_some_and(|flight| Arc::ptr_eq(&flight.landing, &self.landing))
        {
            flights.remove(&self.key);
        }
    }
}

impl<T: Clone> Waiter<T> {
    /// What was answered; none where it is nothing that others may have.
    pub(super) async fn landed(mut self) -> Option<T> {
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

    fn first(flights: &Flights<u32>, deadline: Instant) -> Pilot<u32> {
        match flights.join(key(b"a"), deadline) {
            Seat::First(pilot) => pilot,
            Seat::Other(_) => panic!("somebody asks already"),
        }
    }

    fn other(flights: &Flights<u32>, deadline: Instant) -> Waiter<u32> {
        match flights.join(key(b"a"), deadline) {
            Seat::Other(waiter) => waiter,
            Seat::First(_) => panic!("nobody asks"),
        }
    }

    fn is_empty(flights: &Flights<u32>) -> bool {
        flights.lock().is_empty()
    }

    #[tokio::test]
    async fn those_who_come_while_it_is_asked_get_its_answer() {
        let flights = Flights::default();
        let (answer, asked) = oneshot::channel();
        let pilot = first(&flights, after(1_000));
        let early = other(&flights, after(1_000));
        let leader = pilot.fly(async { ((), asked.await.ok()) });
        let late = other(&flights, after(1_000));
        assert!(
            matches!(flights.join(key(b"b"), after(1_000)), Seat::First(_)),
            "another question"
        );
        assert!(flights.lead(key(b"a"), after(1_000)).is_none());
        drop(leader);
        answer.send(7).unwrap();
        assert_eq!(
            (early.landed().await, late.landed().await),
            (Some(7), Some(7)),
            "whoever began it has left"
        );
        assert!(is_empty(&flights));
        drop(first(&flights, after(1_000)));
        assert!(is_empty(&flights));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_in_vain_are_told() {
        let flights = Flights::default();
        let pilot = first(&flights, after(1_000));
        let waiter = other(&flights, after(1_000));
        assert_eq!(pilot.fly(async { (7, None) }).await, 7);
        assert_eq!(waiter.landed().await, None, "nothing for others");

        let pilot = first(&flights, after(100));
        let (waiter, begun) = (other(&flights, after(200)), Instant::now());
        drop(pilot.fly(std::future::pending::<((), _)>()));
        assert_eq!(waiter.landed().await, None, "the time of who asked is over");
        assert_eq!(begun.elapsed().as_millis(), 100);

        let pilot = first(&flights, after(100));
        let waiter = other(&flights, after(100));
        drop(pilot);
        assert_eq!(waiter.landed().await, None, "nobody asked after all");
        assert!(is_empty(&flights));
    }

    #[tokio::test]
    async fn when_everybody_has_left_nobody_asks() {
        struct Tells(Option<oneshot::Sender<()>>);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let flights = Flights::default();
        let (ended, told) = oneshot::channel();
        let tells = Tells(Some(ended));
        let leader = first(&flights, after(60_000)).fly(async move {
            let _tells = tells;
            std::future::pending::<((), _)>().await
        });
        let waiter = other(&flights, after(60_000));
        drop(leader);
        tokio::task::yield_now().await;
        assert!(!is_empty(&flights), "somebody still waits");
        drop(waiter);
        told.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_is_full_or_ends_too_soon_is_not_waited_for() {
        let flights = Flights::default();
        let one = first(&flights, after(100)).fly(std::future::pending::<((), _)>());
        let waiters: Vec<_> = (0..WAITERS).map(|_| other(&flights, after(200))).collect();
        let next = first(&flights, after(100));
        drop(one);
        let _waits = other(&flights, after(200));
        let longer = first(&flights, after(201));
        drop(next);
        let _waits = other(&flights, after(402));
        drop(longer);
        assert!(is_empty(&flights));
        drop(waiters);
    }
}
