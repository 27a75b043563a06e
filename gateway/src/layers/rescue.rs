//! An error from below becomes a status here, and nowhere else.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use runtime::{MalformedTimeout, Refusal};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, QuotaViolation, StatusExt};
use tower::{Layer, layer::layer_fn, service_fn, util::BoxCloneSyncService};

use crate::{
    error::{BoxError, DeadlineError, Overloaded, TurnedDown, Unreachable},
    grpc::frame::BufferError,
    layers::{
        auth::{AuthError, TokenError},
        policy::NoMethod,
        route::RouteError,
    },
    middleware::Handler,
};

/// Makes the layers below a tower service that answers every call.
pub(crate) fn layer<H: Handler<Request<Body>>>()
-> impl Layer<H, Service = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>> {
    layer_fn(|below: H| {
        let below = Arc::new(below);
        BoxCloneSyncService::new(service_fn(move |request| {
            let below = below.clone();
            async move {
                let answer = below.call(request).await;
                Ok(answer.unwrap_or_else(|error| status(error).into_http()))
            }
        }))
    })
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
        return not_admitted(*error);
    }
    if let Some(error) = error.downcast_ref::<DeadlineError>() {
        return match error {
            DeadlineError::Malformed => Refusal::from(MalformedTimeout).into(),
            DeadlineError::Passed => Refusal::TooLate.into(),
        };
    }
    if let Some(error) = error.downcast_ref::<BufferError>() {
        return not_read(error);
    }
    if let Some(error) = error.downcast_ref::<RouteError>() {
        return not_routed(error);
    }
    tracing::error!(%error, "a call failed in a way that should not be");
    Refusal::Internal.into()
}

/// The status of a request that cannot be read whole.
fn not_read(error: &BufferError) -> Status {
    match error {
        BufferError::TooLarge { limit } => Refusal::TooLarge { limit: *limit }.into(),
        // JSON that cannot be read has a status of its own; any other caller has hung up.
        BufferError::Broken(status) if !status.details().is_empty() => status.clone(),
        BufferError::Broken(status) => Status::cancelled(status.message()),
    }
}

/// The status of a call that no service answers.
fn not_routed(error: &RouteError) -> Status {
    match error {
        RouteError::Field { field, problem } => Refusal::field(&**field, problem).into(),
        RouteError::Unknown { name, known } => Refusal::NotServed {
            kind: "model",
            name: name.clone(),
            known: known.clone(),
        }
        .into(),
        RouteError::NotConfigured { area } => {
            let service = Some(("service", area.to_string()));
            status_of(
                Code::Unimplemented,
                error.to_string(),
                "SERVICE_NOT_CONFIGURED",
                service,
            )
        }
    }
}

/// The status of a call that is not admitted.
pub(crate) fn not_admitted(error: AuthError) -> Status {
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

/// A status with a reason of our own.
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
    use crate::middleware::tests::Bottom;
    use tower::ServiceExt;

    #[tokio::test]
    #[expect(clippy::too_many_lines, reason = "a table with a case per error")]
    async fn every_error_has_its_status_and_details() {
        struct Case {
            error: fn() -> BoxError,
            code: Code,
            reason: &'static str,
            message: &'static str,
        }
        let cases = [
            Case {
                error: || {
                    NoMethod {
                        path: "/a/B".into(),
                    }
                    .into()
                },
                code: Code::Unimplemented,
                reason: "NO_SUCH_METHOD",
                message: "there is no method /a/B",
            },
            Case {
                error: || AuthError::UnknownKey.into(),
                code: Code::Unauthenticated,
                reason: "API_KEY_UNKNOWN",
                message: "the API key is not known",
            },
            Case {
                error: || {
                    AuthError::TooMany {
                        retry_in: std::time::Duration::from_secs(1),
                    }
                    .into()
                },
                code: Code::ResourceExhausted,
                reason: "QUOTA_EXCEEDED",
                message: "more calls than this caller may make",
            },
            Case {
                error: || AuthError::NotAllowed.into(),
                code: Code::PermissionDenied,
                reason: "METHOD_NOT_ALLOWED",
                message: "the key or token is not for this method",
            },
            Case {
                error: || AuthError::Token(TokenError::Expired).into(),
                code: Code::Unauthenticated,
                reason: "TOKEN_EXPIRED",
                message: "the token has expired",
            },
            Case {
                error: || {
                    AuthError::NoTokenKeys {
                        retry_in: std::time::Duration::from_secs(1),
                    }
                    .into()
                },
                code: Code::Unavailable,
                reason: "TOKEN_KEYS_UNREACHABLE",
                message: "the keys that tokens are checked with cannot be reached",
            },
            Case {
                error: || Overloaded.into(),
                code: Code::ResourceExhausted,
                reason: "OVERLOADED",
                message: "too many calls are in flight",
            },
            Case {
                error: || Unreachable::new("churn", "refused").into(),
                code: Code::Unavailable,
                reason: "SERVICE_UNREACHABLE",
                message: "churn cannot be reached: refused",
            },
            Case {
                error: || TurnedDown::new("churn", "it answers 431").into(),
                code: Code::Internal,
                reason: "CALL_TURNED_DOWN",
                message: "churn turned the call down: it answers 431",
            },
            Case {
                error: || DeadlineError::Malformed.into(),
                code: Code::InvalidArgument,
                reason: "INVALID_FIELD",
                message: "grpc-timeout is not a timeout of gRPC, such as 250m",
            },
            Case {
                error: || DeadlineError::Passed.into(),
                code: Code::DeadlineExceeded,
                reason: "DEADLINE_EXCEEDED",
                message: "the deadline has passed",
            },
            Case {
                error: || BufferError::TooLarge { limit: 4 }.into(),
                code: Code::ResourceExhausted,
                reason: "MESSAGE_TOO_LARGE",
                message: "the message is larger than 4 bytes",
            },
            Case {
                error: || {
                    RouteError::Field {
                        field: "model".into(),
                        problem: "is empty".into(),
                    }
                    .into()
                },
                code: Code::InvalidArgument,
                reason: "INVALID_FIELD",
                message: "model is empty",
            },
            Case {
                error: || {
                    RouteError::NotConfigured {
                        area: "insights".into(),
                    }
                    .into()
                },
                code: Code::Unimplemented,
                reason: "SERVICE_NOT_CONFIGURED",
                message: "this gateway has no insights service",
            },
            Case {
                error: || "what is this".into(),
                code: Code::Internal,
                reason: "INTERNAL",
                message: "internal error",
            },
        ];
        for Case {
            error,
            code,
            reason,
            message,
        } in cases
        {
            let failing =
                service_fn(
                    move |_: Request<Body>| async move { Err::<Response<Body>, _>(error()) },
                );
            let response = layer()
                .layer(Bottom(failing))
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
