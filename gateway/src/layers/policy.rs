//! Finds the method that is called, and with it all that its .proto says. What is no method ends
//! here.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    attempts::AttemptedReplicas,
    call::{Call, Payload},
    caller::Caller,
    error::BoxError,
    method::Methods,
};

/// There is no such method.
#[derive(Debug, thiserror::Error)]
#[error("there is no method {path}")]
pub(crate) struct NoMethod {
    pub(crate) path: String,
}

/// Knows these methods.
pub(crate) fn layer<S>(methods: Methods) -> impl Layer<S, Service = Policy<S>> + Clone {
    let methods = Arc::new(methods);
    layer_fn(move |inner| Policy {
        inner,
        methods: methods.clone(),
    })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Policy<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S> Service<Request<Body>> for Policy<S>
where
    S: Service<Call, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Response<Body>, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(method) = self.methods.get(request.uri().path()).cloned() else {
            let path = request.uri().path().to_owned();
            return Either::Right(ready(Err(NoMethod { path }.into())));
        };
        let (head, body) = request.into_parts();
        Either::Left(self.inner.call(Call {
            area: method.area.clone(),
            caller: Caller::anonymous(),
            deadline: Instant::now() + method.timeout,
            method,
            reply: None,
            attempted: AttemptedReplicas::default(),
            budget: None,
            headers: head.headers,
            payload: Payload::Stream(body),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_test::mock;

    #[tokio::test]
    async fn a_known_path_is_a_call_and_any_other_is_none() {
        let (service, mut handle) = mock::pair::<Call, Response<Body>>();
        let mut service = layer(Methods::read(proto::DESCRIPTORS).unwrap()).layer(service);
        handle.allow(2);
        let request = |path: &str| Request::post(path).body(Body::empty()).unwrap();
        let answer = tower::ServiceExt::ready(&mut service)
            .await
            .unwrap()
            .call(request(
                "/shopkeeper.forecast.v1.ForecastService/ListSeries",
            ));
        let (call, send) = handle.next_request().await.unwrap();
        assert_eq!(
            (&*call.area, call.method.is_cacheable()),
            ("forecast", true)
        );
        send.send_response(Response::default());
        answer.await.unwrap();

        for path in [
            "/shopkeeper.churn.v1.ChurnService/Nothing",
            "/",
            "/shopkeeper.forecast.v1.ForecastService/ListSeries/",
        ] {
            let refused = tower::ServiceExt::ready(&mut service)
                .await
                .unwrap()
                .call(request(path))
                .await
                .unwrap_err();
            assert_eq!(refused.downcast_ref::<NoMethod>().unwrap().path, path);
        }
    }
}
