//! Refuses calls above a number in flight, before anything has cost us work: those that are in keep their latency. Calls that
//! can wait may take only a part of the room, so that an export yields to a checkout. A call is in flight until the last
//! byte of its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Response;
use proto::policy::v1::Priority;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use crate::{call::Call, frame::Keeping, meter, stack::BoxError};

/// When callers are told to try again.
pub(crate) const RETRY_IN: Duration = Duration::from_millis(100);

/// Too many calls are in flight.
#[derive(Debug, thiserror::Error)]
#[error("too many calls are in flight")]
pub(crate) struct Overloaded;

/// Lets so many calls be in flight.
pub(crate) fn layer<S>(most: usize) -> impl Layer<S, Service = Shed<S>> + Clone {
    let room = Arc::new(Room { most, taken: AtomicUsize::new(0) });
    layer_fn(move |inner| Shed { inner, room: room.clone() })
}

#[derive(Debug)]
struct Room {
    most: usize,
    taken: AtomicUsize,
}

impl Room {
    /// How many calls there may be for one of this priority to be let in.
    fn most(&self, priority: Priority) -> usize {
        match priority {
            Priority::High => self.most,
            Priority::Normal | Priority::Unspecified => self.most - self.most / 10,
            Priority::Low => self.most.div_ceil(2),
        }
    }

    fn enter(self: &Arc<Self>, priority: Priority) -> Option<Place> {
        let most = self.most(priority);
        let one_more = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place(self.clone()))
    }
}

/// Given back when it is dropped.
struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Shed<S> {
    inner: S,
    room: Arc<Room>,
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
        let Some(place) = self.room.enter(call.method.priority) else {
            meter::shed("gateway", call.method.priority);
            return Box::pin(std::future::ready(Err(Overloaded.into())));
        };
        let answer = self.inner.call(call);
        Box::pin(async move { Ok(answer.await.map_err(Into::into)?.map(|body| Keeping::body(body, place))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::call, frame::Known};
    use bytes::Bytes;
    use tower::{ServiceExt, service_fn};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const SUMMARY: &str = "/shopkeeper.insights.v1.InsightsService/GetSummary";
    const EXPORT: &str = "/shopkeeper.insights.v1.InsightsService/ExportTransactions";

    fn limited(
        most: usize,
    ) -> Shed<impl Service<Call, Response = Response<Body>, Error = BoxError, Future: Send> + Clone> {
        let echo = async |_: Call| Ok::<_, BoxError>(Response::new(Known::body(Bytes::from_static(b"x"), None)));
        layer(most).layer(service_fn(echo))
    }

    #[tokio::test]
    async fn a_call_is_in_flight_until_its_answer_has_ended() {
        let service = limited(1);
        let answer = service.clone().oneshot(call(RISK, b"")).await.unwrap();
        assert!(service.clone().oneshot(call(RISK, b"")).await.unwrap_err().is::<Overloaded>());
        drop(answer);
        assert!(service.oneshot(call(RISK, b"")).await.is_ok());
    }

    #[tokio::test]
    async fn an_export_yields_to_a_checkout() {
        let service = limited(10);
        let mut answers = vec![];
        for (path, let_in) in [(EXPORT, 5), (SUMMARY, 4), (RISK, 1)] {
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
