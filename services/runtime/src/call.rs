//! What surrounds every call: a span, a duration metric, a deadline, and a status for every failure
//! below, panics included.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use opentelemetry::{global, propagation::Extractor};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{Refusal, call_metrics, telemetry::CALLS};

/// A `grpc-timeout` header that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedTimeout;

impl From<MalformedTimeout> for Refusal {
    fn from(MalformedTimeout: MalformedTimeout) -> Self {
        Self::field("grpc-timeout", "is not a timeout of gRPC, such as 250m")
    }
}

/// The caller's timeout, from the header `grpc-timeout`.
///
/// # Errors
/// [`MalformedTimeout`].
pub fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| MalformedTimeout)?;
    let (digits, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or(MalformedTimeout)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(MalformedTimeout);
    }
    let count: u64 = digits.parse().map_err(|_| MalformedTimeout)?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(MalformedTimeout),
    }))
}

/// The caller's deadline as an instant.
///
/// # Errors
/// [`Refusal::InvalidField`] if `grpc-timeout` cannot be read.
pub fn deadline(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>, Refusal> {
    Ok(grpc_timeout(headers)?.and_then(|timeout| now.checked_add(timeout)))
}

/// The caller's deadline, which must not have passed.
fn deadline_ahead(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>, Refusal> {
    match deadline(headers, now)? {
        Some(deadline) if deadline <= now => Err(Refusal::TooLate),
        deadline => Ok(deadline),
    }
}

/// Puts [`Call`] around a service.
#[derive(Debug, Clone, Copy)]
pub struct CallLayer;

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, inner: S) -> Call<S> {
        Call { inner }
    }
}

/// A service around another that gives gRPC calls a span, a duration metric and a deadline, and
/// answers them with a status even if the inner service panics. Other requests pass unchanged: JSON
/// and gRPC-Web become gRPC calls further in, and are counted there.
#[derive(Debug, Clone)]
pub struct Call<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Call<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_grpc(request.headers()) {
            return Box::pin(self.inner.call(request));
        }
        let start = Instant::now();
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::debug_span!(
            target: CALLS, "rpc", otel.name = %method, otel.kind = "server",
            rpc.system.name = "grpc", rpc.method = %method, rpc.response.status_code = field::Empty,
        );
        if !span.is_disabled() {
            let parent = global::get_text_map_propagator(|propagator| {
                propagator.extract(&Headers(request.headers()))
            });
            // Without an exporter the span has nowhere to keep its parent.
            let _ = span.set_parent(parent);
        }
        let deadline = deadline_ahead(request.headers(), start);
        let spare = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, spare);
        let is_asked = deadline.is_ok();
        let answer = async move {
            let deadline = match deadline {
                Ok(deadline) => deadline,
                Err(refusal) => return Status::from(refusal).into_http(),
            };
            let call = AssertUnwindSafe(ready.call(request)).catch_unwind();
            let answered = match deadline {
                None => call.await,
                Some(deadline) => match tokio::time::timeout_at(deadline.into(), call).await {
                    Ok(answered) => answered,
                    Err(_) => return Status::from(Refusal::TooLate).into_http(),
                },
            };
            match answered {
                Ok(Ok(response)) => corrected(response),
                Ok(Err(never)) => match never {},
                Err(_) => {
                    tracing::error!("a call panicked");
                    Status::from(Refusal::Internal).into_http()
                }
            }
        };
        let recorded = span.clone();
        Box::pin(
            async move {
                let response = answer.await;
                let code = code_of(response.headers());
                recorded.record("rpc.response.status_code", i32::from(code));
                // A path that is no method, or that was refused before it was looked up, is the
                // caller's invention. Such paths share one name, as OpenTelemetry asks, or callers
                // could make up metrics without end.
                let is_method = is_asked && code != Code::Unimplemented;
                let method = if is_method {
                    method
                } else {
                    "_OTHER".to_owned()
                };
                call_metrics::record(method, code_name(code), start.elapsed());
                Ok(response)
            }
            .instrument(span),
        )
    }
}

/// The code of an answer. An answer that is not gRPC, such as 404 for a path that is no method,
/// counts as UNIMPLEMENTED, as gRPC's clients read it.
fn code_of(headers: &HeaderMap) -> Code {
    if !is_grpc(headers) {
        return Code::Unimplemented;
    }
    Status::from_header_map(headers).map_or(Code::Ok, |status| status.code())
}

/// Whether the headers are those of gRPC itself, in a request or an answer, and not of gRPC-Web or
/// another protocol.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How tonic's messages begin that say INTERNAL of a request that cannot be decoded.
const UNREADABLE: [&str; 5] = [
    "failed to decode Protobuf message",
    "protocol error: received message",
    "Error decompressing",
    "Unexpected EOF decoding stream",
    "Missing request message",
];

/// Corrects two of tonic's codes. A message above the size limit is OUT_OF_RANGE there, and gRPC's
/// clients expect RESOURCE_EXHAUSTED. A request that cannot be decoded is INTERNAL there, though it
/// is the caller's mistake.
fn corrected(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers())
        .as_ref()
        .and_then(correction)
    {
        Some(refusal) => Status::from(refusal).into_http(),
        None => response,
    }
}

fn correction(status: &Status) -> Option<Refusal> {
    let says = |beginning: &&str| status.message().starts_with(*beginning);
    if status.code() == Code::OutOfRange && status.message().contains("message length too large") {
        Some(Refusal::TooLarge {
            limit: proto::MAX_MESSAGE,
        })
    } else if status.code() == Code::Internal && UNREADABLE.iter().any(says) {
        Some(Refusal::field(
            "request",
            format!("cannot be read: {}", status.message()),
        ))
    } else {
        None
    }
}

/// The status of a stream's message that tonic could not decode, corrected as that of a unary call.
pub fn unreadable(status: Status) -> Status {
    correction(&status).map_or(status, Status::from)
}

/// A code's name.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_protocol_says() {
        for (text, timeout) in [
            ("250m", Ok(Duration::from_millis(250))),
            ("1S", Ok(Duration::from_secs(1))),
            ("2M", Ok(Duration::from_secs(120))),
            ("99999999H", Ok(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Ok(Duration::from_micros(7))),
            ("7n", Ok(Duration::from_nanos(7))),
            ("", Err(MalformedTimeout)),
            ("m", Err(MalformedTimeout)),
            ("1", Err(MalformedTimeout)),
            ("-1S", Err(MalformedTimeout)),
            ("1.5S", Err(MalformedTimeout)),
            ("123456789S", Err(MalformedTimeout)),
        ] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().unwrap(),
            )]);
            assert_eq!(grpc_timeout(&headers), timeout.map(Some), "{text}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn grpc_is_told_from_what_looks_like_it() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web-text+proto", false),
            ("application/json", false),
        ] {
            let headers =
                HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_late_malformed_or_panics_is_answered_all_the_same() {
        for (timeout, path, code) in [
            ("1S", "/never", Code::DeadlineExceeded),
            ("0n", "/now", Code::DeadlineExceeded),
            ("soon", "/now", Code::InvalidArgument),
            ("1S", "/panic", Code::Internal),
            ("1S", "/now", Code::Ok),
        ] {
            let service = tower::service_fn(async |request: Request<Body>| {
                match request.uri().path() {
                    "/never" => std::future::pending().await,
                    "/panic" => panic!("on purpose"),
                    _ => {}
                }
                Ok::<_, Infallible>(Response::new(Body::empty()))
            });
            let request = Request::builder()
                .uri(path)
                .header("content-type", "application/grpc");
            let request = request
                .header("grpc-timeout", timeout)
                .body(Body::empty())
                .unwrap();
            let response = CallLayer.layer(service).call(request).await.unwrap();
            let answered = Status::from_header_map(response.headers())
                .map_or(Code::Ok, |status| status.code());
            assert_eq!(answered, code, "{timeout} {path}");
        }
    }

    #[test]
    fn what_is_no_answer_of_grpc_names_no_method() {
        assert_eq!(code_of(Response::new(()).headers()), Code::Unimplemented);
        assert_eq!(
            code_of(Status::not_found("who?").into_http::<()>().headers()),
            Code::NotFound
        );
        let answered = Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        assert_eq!(code_of(answered.headers()), Code::Ok);
    }
}
