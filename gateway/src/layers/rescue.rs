//! An error from below becomes a status here, and nowhere else.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use runtime::{MalformedTimeout, Refusal};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, QuotaViolation, StatusExt};
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    error::{BoxError, DeadlineError, Overloaded, TurnedDown, Unreachable},
    grpc::frame::BufferError,
    layers::{
        auth::{AuthError, TokenError},
        policy::NoMethod,
        route::RouteError,
    },
};

/// Answers every call.
pub(crate) fn layer<S>() -> impl Layer<S, Service = Rescue<S>> + Clone {
    layer_fn(|inner| Rescue { inner })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Rescue<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Rescue<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An error is kept for the call, which is what can be answered.
        match self.inner.poll_ready(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        Box::pin(async move {
            Ok(inner
                .call(request)
                .await
                .unwrap_or_else(|error| status(error).into_http()))
        })
    }
}

fn status(error: BoxError) -> Status {
    if let Some(NoMethod { path }) = error.downcast_ref() {
        return Refusal::NoMethod { path: path.clone() }.into();
    }
    if let Some(Overloaded) = error.downcast_ref() {
        return Refusal::Overloaded {
            retry_in: Overloaded::RETRY_IN,
        }
        .into();
    }
    if let Some(unreachable) = error.downcast_ref::<Unreachable>() {
        return unreachable.refusal().into();
    }
    if let Some(turned_down) = error.downcast_ref::<TurnedDown>() {
        let service = Some(("service", turned_down.service.to_string()));
        return status_of(
            Code::Internal,
            turned_down.to_string(),
            "CALL_TURNED_DOWN",
            service,
        );
    }
    if let Some(error) = error.downcast_ref::<AuthError>() {
        return not_let_in(*error);
    }
    match error.downcast_ref() {
        Some(DeadlineError::Malformed) => return Refusal::from(MalformedTimeout).into(),
        Some(DeadlineError::Passed) => return Refusal::TooLate.into(),
        None => {}
    }
    match error.downcast_ref() {
        Some(BufferError::TooLarge { limit }) => return Refusal::TooLarge { limit: *limit }.into(),
        // One that came as JSON says why; any other has gone.
        Some(BufferError::Broken(status)) if !status.details().is_empty() => return status.clone(),
        Some(BufferError::Broken(status)) => return Status::cancelled(status.message()),
        None => {}
    }
    match error.downcast_ref() {
        Some(RouteError::Field { field, problem }) => {
            return Refusal::field(&**field, problem).into();
        }
        Some(RouteError::Unknown { name, known }) => {
            return Refusal::NotServed {
                kind: "model",
                name: name.clone(),
                known: known.clone(),
            }
            .into();
        }
        Some(not @ RouteError::NotConfigured { area }) => {
            let service = Some(("service", area.to_string()));
            return status_of(
                Code::Unimplemented,
                not.to_string(),
                "SERVICE_NOT_CONFIGURED",
                service,
            );
        }
        None => {}
    }
    tracing::error!(%error, "a call failed in a way that should not be");
    Refusal::Internal.into()
}

/// What somebody is told who is not let in.
pub(crate) fn not_let_in(error: AuthError) -> Status {
    let (code, reason) = match error {
        AuthError::NoKey => (Code::Unauthenticated, "API_KEY_MISSING"),
        AuthError::UnknownKey => (Code::Unauthenticated, "API_KEY_UNKNOWN"),
        AuthError::Token(TokenError::Expired) => (Code::Unauthenticated, "TOKEN_EXPIRED"),
        AuthError::Token(_) => (Code::Unauthenticated, "TOKEN_INVALID"),
        AuthError::NoTokenKeys { retry_in } => {
            let mut details = ErrorDetails::new();
            runtime::error_info(&mut details, "TOKEN_KEYS_UNREACHABLE", None);
            details.set_retry_info(Some(retry_in));
            return Status::with_error_details(Code::Unavailable, error.to_string(), details);
        }
        AuthError::NotAllowed => (Code::PermissionDenied, "METHOD_NOT_ALLOWED"),
        AuthError::TooMany { retry_in } => {
            let mut details = ErrorDetails::new();
            runtime::error_info(&mut details, "QUOTA_EXCEEDED", None);
            details.set_retry_info(Some(retry_in));
            details.set_quota_failure(vec![QuotaViolation::new("caller", error.to_string())]);
            return Status::with_error_details(Code::ResourceExhausted, error.to_string(), details);
        }
    };
    status_of(code, error.to_string(), reason, None)
}

/// A status that says why.
pub(crate) fn status_of(
    code: Code,
    message: String,
    reason: &str,
    metadata: Option<(&'static str, String)>,
) -> Status {
    let mut details = ErrorDetails::new();
    runtime::error_info(&mut details, reason, metadata);
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::{ServiceExt, service_fn};

    #[tokio::test]
    async fn every_error_has_its_status_and_details() {
        type Case = (fn() -> BoxError, Code, &'static str, &'static str);
        let errors: [Case; 15] = [
            (
                || {
                    NoMethod {
                        path: "/a/B".into(),
                    }
                    .into()
                },
                Code::Unimplemented,
                "NO_SUCH_METHOD",
                "there is no method /a/B",
            ),
            (
                || AuthError::UnknownKey.into(),
                Code::Unauthenticated,
                "API_KEY_UNKNOWN",
                "the API key is not known",
            ),
            (
                || {
                    AuthError::TooMany {
                        retry_in: std::time::Duration::from_secs(1),
                    }
                    .into()
                },
                Code::ResourceExhausted,
                "QUOTA_EXCEEDED",
                "more calls than this caller may make",
            ),
            (
                || AuthError::NotAllowed.into(),
                Code::PermissionDenied,
                "METHOD_NOT_ALLOWED",
                "the key or token is not for this method",
            ),
            (
                || AuthError::Token(TokenError::Expired).into(),
                Code::Unauthenticated,
                "TOKEN_EXPIRED",
                "the token has expired",
            ),
            (
                || {
                    AuthError::NoTokenKeys {
                        retry_in: std::time::Duration::from_secs(1),
                    }
                    .into()
                },
                Code::Unavailable,
                "TOKEN_KEYS_UNREACHABLE",
                "the keys that tokens are checked with cannot be reached",
            ),
            (
                || Overloaded.into(),
                Code::ResourceExhausted,
                "OVERLOADED",
                "too many calls are in flight",
            ),
            (
                || Unreachable::new("churn", "refused").into(),
                Code::Unavailable,
                "SERVICE_UNREACHABLE",
                "churn cannot be reached: refused",
            ),
            (
                || TurnedDown::new("churn", "it answers 431").into(),
                Code::Internal,
                "CALL_TURNED_DOWN",
                "churn turned the call down: it answers 431",
            ),
            (
                || DeadlineError::Malformed.into(),
                Code::InvalidArgument,
                "INVALID_FIELD",
                "grpc-timeout is not a timeout of gRPC, such as 250m",
            ),
            (
                || DeadlineError::Passed.into(),
                Code::DeadlineExceeded,
                "DEADLINE_EXCEEDED",
                "the deadline has passed",
            ),
            (
                || BufferError::TooLarge { limit: 4 }.into(),
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
                "the message is larger than 4 bytes",
            ),
            (
                || {
                    RouteError::Field {
                        field: "model".into(),
                        problem: "is empty".into(),
                    }
                    .into()
                },
                Code::InvalidArgument,
                "INVALID_FIELD",
                "model is empty",
            ),
            (
                || {
                    RouteError::NotConfigured {
                        area: "insights".into(),
                    }
                    .into()
                },
                Code::Unimplemented,
                "SERVICE_NOT_CONFIGURED",
                "this gateway has no insights service",
            ),
            (
                || "what is this".into(),
                Code::Internal,
                "INTERNAL",
                "internal error",
            ),
        ];
        for (error, code, reason, message) in errors {
            let failing =
                service_fn(
                    move |_: Request<Body>| async move { Err::<Response<Body>, _>(error()) },
                );
            let response = layer()
                .layer(failing)
                .oneshot(Request::default())
                .await
                .unwrap();
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!((status.code(), status.message()), (code, message));
            assert_eq!(
                status.get_error_details().error_info().unwrap().reason,
                reason
            );
        }
    }
}
