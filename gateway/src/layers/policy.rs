//! Finds the method that is called, and with it all that its .proto says. A path that is no method
//! of the API ends here.

use http::Request;
use tokio::time::Instant;
use tonic::body::Body;

use crate::{
    attempts::AttemptedReplicas,
    call::{Call, Payload},
    caller::Caller,
    method::Methods,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
};

/// There is no such method.
#[derive(Debug, thiserror::Error)]
#[error("there is no method {path}")]
pub(crate) struct NoMethod {
    pub(crate) path: String,
}

/// Lets calls of these methods through.
pub(crate) fn layer(methods: Methods) -> MiddlewareLayer<Policy> {
    MiddlewareLayer::new(Policy { methods })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Policy {
    methods: Methods,
}

impl Middleware<Request<Body>> for Policy {
    type Next = Call;

    async fn handle(&self, request: Request<Body>, next: &impl Handler<Call>) -> Answer {
        let Some(method) = self.methods.get(request.uri().path()).cloned() else {
            let path = request.uri().path().to_owned();
            return Err(NoMethod { path }.into());
        };
        let (head, body) = request.into_parts();
        let call = Call {
            area: method.area.clone(),
            caller: Caller::anonymous(),
            deadline: Instant::now() + method.timeout,
            method,
            reply: None,
            attempted: AttemptedReplicas::default(),
            budget: None,
            headers: head.headers,
            payload: Payload::Stream(body),
        };
        next.call(call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::Bottom;
    use http::Response;
    use tower::Layer;
    use tower_test::mock;

    #[tokio::test]
    async fn a_known_path_is_a_call_and_any_other_is_none() {
        let (mock, mut handle) = mock::pair::<Call, Response<Body>>();
        let service = layer(Methods::read(proto::DESCRIPTORS).unwrap()).layer(Bottom(mock));
        let request = |path: &str| Request::post(path).body(Body::empty()).unwrap();
        let path = "/shopkeeper.forecast.v1.ForecastService/ListSeries";
        let (answer, ()) = tokio::join!(service.call(request(path)), async {
            let (call, send) = handle.next_request().await.unwrap();
            assert_eq!(
                (&*call.area, call.method.is_cacheable()),
                ("forecast", true)
            );
            send.send_response(Response::default());
        });
        answer.unwrap();

        for path in [
            "/shopkeeper.churn.v1.ChurnService/Nothing",
            "/",
            "/shopkeeper.forecast.v1.ForecastService/ListSeries/",
        ] {
            let refused = service.call(request(path)).await.unwrap_err();
            assert_eq!(refused.downcast_ref::<NoMethod>().unwrap().path, path);
        }
    }
}
