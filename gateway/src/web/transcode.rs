//! JSON over HTTP in, gRPC down the stack, JSON out. Promise: an answer is the one that gRPC gives,
//! and so is an error, with its details, under the HTTP status that goes with its code. Streams are
//! lines of JSON (NDJSON), `{"result": …}` each and `{"error": …}` at the end of one that failed.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE,
        RETRY_AFTER, TE, USER_AGENT, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
    uri::PathAndQuery,
};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use proto::MAX_MESSAGE;
use runtime::Refusal;
use serde::Serialize;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;
use tower::{Service, ServiceExt};

use super::{
    json::{self, Written},
    rule::{Found, Rule, Rules},
};
use crate::{
    grpc::{
        compression::Encoding,
        frame::{self, BufferError, Known},
    },
    layers::rescue,
    model_versions::MODEL_CHANNEL,
};

/// Headers of HTTP that are metadata of the call. All others are between the caller and this
/// gateway.
const METADATA: [HeaderName; 10] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    USER_AGENT,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    MODEL_CHANNEL,
];
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Answers JSON.
#[derive(Debug, Clone)]
pub(super) struct Transcoder<S> {
    rules: Arc<Rules>,
    errors: Errors,
    calls: S,
}

impl<S> Transcoder<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    /// Makes the calls of these rules with `calls`.
    pub(super) fn new(rules: Arc<Rules>, pool: &DescriptorPool, calls: S) -> Self {
        Self {
            rules,
            errors: Errors(pool.clone()),
            calls,
        }
    }

    /// The answer to a request.
    pub(super) async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let rule = match self.rules.find(&head.method, path) {
            Found::Rule(rule) => rule,
            Found::OtherVerb(verbs) => return self.errors.other_verb(path, &verbs),
            Found::Nothing => return self.errors.answer(&no_such_path(path)),
        };
        let failed = Arc::new(OnceLock::new());
        let sent = if rule.method.is_client_streaming() {
            requests(body, rule.method.input(), failed.clone())
        } else {
            let target = head
                .uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/"));
            one_request(rule.clone(), target, body, failed.clone())
        };
        let takes_gzip = takes_gzip(&head.headers);
        let call = call(rule, &head.headers, sent);
        let Ok(response) = self.calls.oneshot(call).await;
        let (head, body) = response.into_parts();
        if let Some(status) =
            Status::from_header_map(&head.headers).filter(|status| status.code() != Code::Ok)
        {
            let status = failed
                .get()
                .map_or(status, |refusal| refusal.clone().into());
            return with_metadata(self.errors.answer(&status), &head.headers);
        }
        let answer = if rule.method.is_server_streaming() {
            lines(body, rule.method.output(), self.errors, failed)
        } else {
            match one_answer(body, rule.method.output()).await {
                Ok(answer) => response_of(StatusCode::OK, &answer, takes_gzip),
                Err(status) => self.errors.answer(&status),
            }
        };
        with_metadata(answer, &head.headers)
    }
}

/// The status of a path that does not exist.
pub(super) fn no_such_path(path: &str) -> Status {
    let message = format!("there is nothing at {path}; /openapi.json lists what there is");
    rescue::status_of(Code::NotFound, message, "NO_SUCH_PATH", None)
}

/// The one message of a request. It is read when a layer reads the body, which is after the caller
/// was admitted and before the deadline; `failed` holds the reason if it cannot be.
fn one_request(
    rule: Arc<Rule>,
    target: PathAndQuery,
    body: Body,
    failed: Arc<OnceLock<Refusal>>,
) -> Body {
    Body::new(StreamBody::new(stream::once(async move {
        message(&rule, &target, body)
            .await
            .map(Frame::data)
            .map_err(|refusal| {
                let _ = failed.set(refusal.clone());
                Status::from(refusal)
            })
    })))
}

async fn message(rule: &Rule, target: &PathAndQuery, mut body: Body) -> Result<Bytes, Refusal> {
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Refusal::field("body", "ended before its end"));
        };
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > MAX_MESSAGE {
            return Err(Refusal::TooLarge { limit: MAX_MESSAGE });
        }
    }
    let values = rule.template.values(target.path()).unwrap_or_default();
    framed(&json::request(rule, &values, target, &text)?)
}

fn framed(message: &[u8]) -> Result<Bytes, Refusal> {
    let small = message.len() <= MAX_MESSAGE;
    small
        .then(|| frame::framed(false, message))
        .flatten()
        .ok_or(Refusal::TooLarge { limit: MAX_MESSAGE })
}

/// Text that has arrived and has not been read, and how much of it is known to have no line end.
#[derive(Debug, Default)]
struct Pending {
    text: BytesMut,
    scanned: usize,
}

impl Pending {
    /// The next line, if all of it is there.
    fn line(&mut self) -> Option<BytesMut> {
        let rest = self.text.get(self.scanned..)?;
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line = self.text.split_to(self.scanned + end + 1);
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.text.len();
                None
            }
        }
    }
}

/// A message for each line of JSON. A line that cannot be read ends the stream, and `failed` holds
/// the reason.
fn requests(body: Body, input: MessageDescriptor, failed: Arc<OnceLock<Refusal>>) -> Body {
    let begin = (body, Pending::default(), 0_usize, false);
    let frames = stream::unfold(
        begin,
        move |(mut body, mut pending, mut number, mut ended)| {
            let (input, failed) = (input.clone(), failed.clone());
            async move {
                loop {
                    let line = match pending.line() {
                        Some(line) => line,
                        None if ended && pending.text.is_empty() => return None,
                        None if ended => pending.text.split(),
                        None if pending.text.len() > MAX_MESSAGE => {
                            let _ = failed.set(Refusal::TooLarge { limit: MAX_MESSAGE });
                            return None;
                        }
                        None => {
                            match body.frame().await {
                                Some(Ok(frame)) => {
                                    if let Ok(data) = frame.into_data() {
                                        pending.text.extend_from_slice(&data);
                                    }
                                }
                                Some(Err(error)) => {
                                    return Some((
                                        Err(error),
                                        (body, Pending::default(), number, true),
                                    ));
                                }
                                None => ended = true,
                            }
                            continue;
                        }
                    };
                    number += 1;
                    if line.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                    match json::line(&input, &line).and_then(|message| framed(&message)) {
                        Ok(frame) => {
                            return Some((Ok(Frame::data(frame)), (body, pending, number, ended)));
                        }
                        Err(Refusal::InvalidField { field, problem }) => {
                            let _ = failed
                                .set(Refusal::field(format!("line {number}: {field}"), problem));
                            return None;
                        }
                        Err(refusal) => {
                            let _ = failed.set(refusal);
                            return None;
                        }
                    }
                }
            }
        },
    );
    Body::new(StreamBody::new(frames))
}

fn call(rule: &Rule, headers: &HeaderMap, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Verb::POST;
    *request.uri_mut() = rule.path.clone().into();
    let metadata = request.headers_mut();
    for name in METADATA {
        for value in headers.get_all(&name) {
            metadata.append(name.clone(), value.clone());
        }
    }
    metadata.insert(CONTENT_TYPE, GRPC);
    metadata.insert(TE, HeaderValue::from_static("trailers"));
    request
}

async fn one_answer(body: Body, output: MessageDescriptor) -> Result<Written, Status> {
    let collected = body.collect().await?;
    let status = collected.trailers().and_then(Status::from_header_map);
    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let (_, message) = frame::only(&collected.to_bytes()).ok_or(Refusal::Internal)?;
    Ok(Written::answer(output, &message)?)
}

/// A line of JSON for each message of a stream.
fn lines(
    body: Body,
    output: MessageDescriptor,
    errors: Errors,
    failed: Arc<OnceLock<Refusal>>,
) -> Response<Body> {
    let begin = Some((body, BytesMut::new()));
    let frames = stream::unfold(begin, move |state| {
        let (output, errors, failed) = (output.clone(), errors.clone(), failed.clone());
        async move {
            let (mut body, mut pending) = state?;
            let status = loop {
                match frame::next(&mut pending, MAX_MESSAGE) {
                    Ok(Some(message)) => match Written::answer(output, &message) {
                        Ok(result) => {
                            return Some((data(&Line::Result(result)), Some((body, pending))));
                        }
                        Err(refusal) => break refusal.into(),
                    },
                    Ok(None) => {}
                    Err(BufferError::TooLarge { limit }) => {
                        break Refusal::TooLarge { limit }.into();
                    }
                    Err(BufferError::Broken(status)) => break status,
                }
                match body.frame().await {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => pending.extend_from_slice(&data),
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            break Status::from_header_map(&trailers)
                                .unwrap_or_else(|| Refusal::Internal.into());
                        }
                    },
                    Some(Err(status)) => break status,
                    None => break Refusal::Internal.into(),
                }
            };
            let status = match failed.get() {
                Some(refusal) if status.code() == Code::Ok => refusal.clone().into(),
                Some(_) | None => status,
            };
            (status.code() != Code::Ok).then(|| {
                (
                    data(&errors.line(http_status(status.code()), &status)),
                    None,
                )
            })
        }
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, NDJSON);
    response
}

fn data(line: &Line<'_>) -> Result<Frame<Bytes>, Status> {
    let mut text = serde_json::to_vec(line).map_err(|_| Refusal::Internal)?;
    text.push(b'\n');
    Ok(Frame::data(text.into()))
}

/// A line of a stream; an error is also the whole of an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Result(Written),
    Error(Failure<'a>),
}

/// An error (AIP-193).
#[derive(Debug, Serialize)]
struct Failure<'a> {
    code: u16,
    status: &'static str,
    message: &'a str,
    details: Vec<Written>,
}

/// The call's metadata as headers of HTTP.
fn with_metadata(mut response: Response<Body>, metadata: &HeaderMap) -> Response<Body> {
    for (name, value) in metadata {
        let grpcs = name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin");
        if !grpcs && !response.headers().contains_key(name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

/// Errors as JSON: `{"error": {"code", "status", "message", "details"}}` (AIP-193).
#[derive(Debug, Clone)]
pub(super) struct Errors(DescriptorPool);

impl Errors {
    /// Errors with details of these types.
    pub(super) fn new(pool: &DescriptorPool) -> Self {
        Self(pool.clone())
    }

    /// An answer that is an error.
    pub(super) fn answer(&self, status: &Status) -> Response<Body> {
        let http = http_status(status.code());
        let mut response = response_of(http, &self.line(http, status), false);
        let retry = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        if let Some(delay) = retry {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if http == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    fn other_verb(&self, path: &str, verbs: &[&Verb]) -> Response<Body> {
        let allowed = verbs
            .iter()
            .map(|verb| verb.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let message = format!("{path} takes {allowed}");
        let status = rescue::status_of(
            Code::Unimplemented,
            message,
            "NO_SUCH_VERB",
            Some(("verbs", allowed.clone())),
        );
        let http = StatusCode::METHOD_NOT_ALLOWED;
        let mut response = response_of(http, &self.line(http, &status), false);
        if let Ok(allowed) = allowed.parse() {
            response.headers_mut().insert(ALLOW, allowed);
        }
        response
    }

    fn line<'a>(&self, http: StatusCode, status: &'a Status) -> Line<'a> {
        Line::Error(Failure {
            code: http.as_u16(),
            status: runtime::code_name(status.code()),
            message: status.message(),
            details: self.details(status),
        })
    }

    /// Leaves out details of unknown types.
    fn details(&self, status: &Status) -> Vec<Written> {
        let details =
            tonic_types::pb::Status::decode(status.details()).map(|status| status.details);
        let any = self.0.get_message_by_name("google.protobuf.Any");
        let Some((details, any)) = details.ok().zip(any) else {
            return Vec::new();
        };
        details
            .iter()
            .filter_map(|detail| Written::any(any.clone(), detail))
            .collect()
    }
}

/// Whether the caller accepts gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers
        .get_all(ACCEPT_ENCODING)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight
            .trim()
            .strip_prefix("q=")
            .and_then(|q| q.parse::<f32>().ok())
            .is_some_and(|q| q <= 0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn response_of(status: StatusCode, answer: &impl Serialize, takes_gzip: bool) -> Response<Body> {
    // A message of a known type can always be written.
    let text = serde_json::to_vec(answer).unwrap_or_default();
    let packed = takes_gzip.then(|| Encoding::Gzip.pack(&text)).flatten();
    let encoding = packed.is_some().then(|| Encoding::Gzip.header());
    let mut response = Response::new(Known::body(packed.unwrap_or(text).into(), None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(encoding.map(|encoding| (CONTENT_ENCODING, encoding)));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// As google/rpc/code.proto maps them.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // Nginx's code for a caller that has hung up; none is registered.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_line_is_scanned_twice() {
        let mut pending = Pending::default();
        let mut lines = Vec::new();
        for part in ["{\"a\":", "1}\n{", "}\n\n", "last"] {
            pending.text.extend_from_slice(part.as_bytes());
            lines.extend(std::iter::from_fn(|| pending.line()));
            assert_eq!(pending.scanned, pending.text.len());
        }
        assert_eq!(lines, ["{\"a\":1}\n", "{}\n", "\n"]);
        // Scanned text is not scanned again.
        pending.text[0] = b'\n';
        assert_eq!(pending.line(), None);
    }
}
