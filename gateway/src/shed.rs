//! Refuses calls above a number in flight, before anything has cost us work: those that are in keep their latency. A call
//! is in flight until the last byte of its answer.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use crate::{frame::Keeping, meter, stack::BoxError};

/// When callers are told to try again.
pub(crate) const RETRY_IN: Duration = Duration::from_millis(100);

/// Too many calls are in flight.
#[derive(Debug, thiserror::Error)]
#[error("too many calls are in flight")]
pub(crate) struct Overloaded;

/// Lets so many calls be in flight.
pub(crate) fn layer<S>(most: usize) -> impl Layer<S, Service = Shed<S>> + Clone {
    let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    layer_fn(move |inner| Shed { inner, room: room.clone() })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Shed<S> {
    inner: S,
    room: Arc<Semaphore>,
}

impl<S> Service<Request<Body>> for Shed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            meter::shed();
            return Box::pin(std::future::ready(Err(Overloaded.into())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await.map_err(Into::into)?.map(|body| Keeping::body(body, place))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Known;
    use bytes::Bytes;
    use tower::{ServiceExt, service_fn};

    #[tokio::test]
    async fn a_call_is_in_flight_until_its_answer_has_ended() {
        let echo = service_fn(async |_: Request<Body>| {
            Ok::<_, BoxError>(Response::new(Known::body(Bytes::from_static(b"x"), None)))
        });
        let mut service = layer(1).layer(echo);
        let answer = service.ready().await.unwrap().call(Request::default()).await.unwrap();
        let refused = service.ready().await.unwrap().call(Request::default()).await.unwrap_err();
        assert!(refused.is::<Overloaded>());
        drop(answer);
        assert!(service.ready().await.unwrap().call(Request::default()).await.is_ok());
    }
}
