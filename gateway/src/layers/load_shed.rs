//! Refuses calls above a number in flight, before anything has cost us work: those that are in keep
//! their latency. Calls that can wait may take only a part of the room, so that a long list yields
//! to a checkout. A call is in flight until the last byte of its answer, but until its deadline at
//! most: whoever reads nothing keeps nobody out. Streams, which may last for ever, have a room of
//! the same size to themselves: those who watch keep nobody out either.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::Response;
use proto::policy::v1::Priority;
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    call::Call,
    error::{BoxError, Overloaded},
    grpc::frame::Keeping,
    metrics,
};

/// Bits of a mark that tell it from others of the same time.
const NUMBER: u32 = 24;

/// Lets so many calls be in flight, and so many streams.
pub(crate) fn layer<S>(most: usize) -> impl Layer<S, Service = Shed<S>> + Clone {
    let (calls, streams) = (Arc::new(Room::new(most)), Arc::new(Room::new(most)));
    layer_fn(move |inner| Shed {
        inner,
        calls: calls.clone(),
        streams: streams.clone(),
    })
}

#[derive(Debug)]
struct Room {
    most: usize,
    taken: AtomicUsize,
    /// A mark for each call that is in, 0 for each that may come.
    marks: Box<[AtomicU64]>,
    entered: AtomicU64,
    /// When places were last taken back.
    cleared: AtomicU64,
    start: Instant,
}

impl Room {
    fn new(most: usize) -> Self {
        let marks = (0..most).map(|_| AtomicU64::new(0)).collect();
        Self {
            most,
            taken: AtomicUsize::new(0),
            marks,
            entered: AtomicU64::new(0),
            cleared: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// How many calls there may be for one of this priority to be let in.
    fn most(&self, priority: Priority) -> usize {
        match priority {
            Priority::High => self.most,
            Priority::Normal | Priority::Unspecified => self.most - self.most / 10,
            Priority::Low => self.most.div_ceil(2),
        }
    }

    /// A place, which is nobody's any more after this time; none where all are taken.
    fn enter(self: &Arc<Self>, priority: Priority, until: Option<Instant>) -> Option<Place> {
        let most = self.most(priority);
        let enter = || {
            let one_more = |taken| (taken < most).then_some(taken + 1);
            self.taken
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        };
        enter()
            .or_else(|_| {
                self.clear(Instant::now());
                enter()
            })
            .ok()?;
        let entered = self.entered.fetch_add(1, Ordering::Relaxed);
        let mark = self.time(until) << NUMBER | entered & ((1 << NUMBER) - 1);
        // Who is counted finds a mark that is 0: it is made so before one less is counted.
        let set = |at: &usize| {
            self.marks[*at]
                .compare_exchange(0, mark, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        let at = (entered as usize % self.most..)
            .map(|at| at % self.most)
            .find(set)?;
        Some(Place {
            room: self.clone(),
            at,
            mark,
        })
    }

    /// Milliseconds from the start, more than 0.
    fn time(&self, at: Option<Instant>) -> u64 {
        let since = at.map(|at| at.duration_since(self.start).as_millis() as u64 + 1);
        since.unwrap_or(u64::MAX).min(u64::MAX >> NUMBER)
    }

    /// Takes places back whose time has passed: their callers do not read what they have been
    /// answered.
    fn clear(&self, now: Instant) {
        let now = self.time(Some(now));
        // Not for each that is turned away: there may be many, and no more than the clock's step
        // has changed.
        if self.cleared.fetch_max(now, Ordering::Relaxed) >= now {
            return;
        }
        for at in 0..self.most {
            let mark = self.marks[at].load(Ordering::Relaxed);
            if mark != 0 && mark >> NUMBER < now {
                self.leave(at, mark);
            }
        }
    }

    fn leave(&self, at: usize, mark: u64) {
        if self.marks[at]
            .compare_exchange(mark, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            self.taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Given back when it is dropped.
struct Place {
    room: Arc<Room>,
    at: usize,
    mark: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.leave(self.at, self.mark);
    }
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Shed<S> {
    inner: S,
    calls: Arc<Room>,
    streams: Arc<Room>,
}

impl<S> Service<Call> for Shed<S>
where
    S: Service<Call, Response = Response<Body>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (room, until) = match call.method.server_streaming {
            true => (&self.streams, None),
            false => (&self.calls, Some(call.deadline)),
        };
        let Some(place) = room.enter(call.method.priority, until) else {
            metrics::shed("gateway", call.method.priority);
            return Box::pin(std::future::ready(Err(Overloaded.into())));
        };
        let answer = self.inner.call(call);
        Box::pin(async move {
            Ok(answer
                .await
                .map_err(Into::into)?
                .map(|body| Keeping::body(body, place)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::call, grpc::frame::Known};
    use bytes::Bytes;
    use std::time::Duration;
    use tower::{ServiceExt, service_fn};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const SUMMARY: &str = "/shopkeeper.insights.v1.InsightsService/GetSummary";
    const LIST: &str = "/shopkeeper.churn.v1.ChurnService/ListAtRiskCustomers";
    const EXPORT: &str = "/shopkeeper.insights.v1.InsightsService/ExportTransactions";

    fn limited(
        most: usize,
    ) -> Shed<impl Service<Call, Response = Response<Body>, Error = BoxError, Future: Send> + Clone>
    {
        let echo = async |_: Call| {
            Ok::<_, BoxError>(Response::new(Known::body(Bytes::from_static(b"x"), None)))
        };
        layer(most).layer(service_fn(echo))
    }

    #[tokio::test]
    async fn a_call_is_in_flight_until_its_answer_has_ended() {
        let service = limited(1);
        let answer = service.clone().oneshot(call(RISK, b"")).await.unwrap();
        assert!(
            service
                .clone()
                .oneshot(call(RISK, b""))
                .await
                .unwrap_err()
                .is::<Overloaded>()
        );
        drop(answer);
        assert!(service.oneshot(call(RISK, b"")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_has_a_place_until_the_deadline() {
        let service = limited(1);
        let unread = service.clone().oneshot(call(RISK, b"")).await.unwrap();
        let moment = Duration::from_millis(5);
        tokio::time::sleep(call(RISK, b"").method.timeout - moment).await;
        assert!(
            service
                .clone()
                .oneshot(call(RISK, b""))
                .await
                .unwrap_err()
                .is::<Overloaded>()
        );
        tokio::time::sleep(moment * 2).await;
        let answer = service.clone().oneshot(call(RISK, b"")).await.unwrap();
        drop(unread);
        assert!(
            service.clone().oneshot(call(RISK, b"")).await.is_err(),
            "a place is given back once"
        );
        drop(answer);
        assert!(service.oneshot(call(RISK, b"")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_streams_keeps_a_place_and_keeps_no_call_out() {
        let service = limited(1);
        let stream = service.clone().oneshot(call(EXPORT, b"")).await.unwrap();
        tokio::time::sleep(call(EXPORT, b"").method.timeout * 2).await;
        assert!(
            service
                .clone()
                .oneshot(call(EXPORT, b""))
                .await
                .unwrap_err()
                .is::<Overloaded>()
        );
        let answer = service.clone().oneshot(call(RISK, b"")).await.unwrap();
        drop(stream);
        assert!(service.oneshot(call(EXPORT, b"")).await.is_ok());
        drop(answer);
    }

    #[tokio::test]
    async fn a_long_list_yields_to_a_checkout() {
        let service = limited(10);
        let mut answers = vec![];
        for (path, let_in) in [(LIST, 5), (SUMMARY, 4), (RISK, 1)] {
            for n in 0..10 {
                match service.clone().oneshot(call(path, b"")).await {
                    Ok(answer) => answers.push(answer),
                    Err(error) => {
                        assert!(error.is::<Overloaded>());
                        assert_eq!(n, let_in, "{path}");
                        break;
                    }
                }
            }
        }
        assert_eq!(answers.len(), 10);
    }
}
