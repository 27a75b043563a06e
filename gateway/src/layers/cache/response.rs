//! A service's response as an answer to keep, and a kept answer as a response.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use tonic::{Code, Status, body::Body};

use super::{Answer, Entry};
use crate::{
    grpc::{
        compression::{self, Encoding},
        frame::{self, Known, Resumed},
    },
    method::Method,
};

/// Where an answer came from: `hit-memory`, `hit-redis`, `coalesced` if the caller followed another
/// one with the same question, `miss`, or `bypass` if the cache was not looked into.
pub(super) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// The version of the model that gave an answer.
pub(super) const X_MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// What `cache-control` asks of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheControl {
    /// Nothing: any valid answer will do.
    Any,
    /// `no-cache`: a new answer, which may be kept.
    NoCache,
    /// `no-store`: a new answer, which may not be kept.
    NoStore,
}

impl CacheControl {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lists = headers
            .get_all(CACHE_CONTROL)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        lists
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .fold(Self::Any, |control, word| {
                match word.to_ascii_lowercase().as_str() {
                    "no-store" => Self::NoStore,
                    "no-cache" if control == Self::Any => Self::NoCache,
                    _ => control,
                }
            })
    }
}

/// A kept answer as the service gave it, compressed as the caller compresses its own messages.
pub(super) fn from_entry(
    entry: &Entry,
    outcome: &'static str,
    reply: Option<Encoding>,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    if let Ok(version) = HeaderValue::from_str(&entry.version) {
        headers.insert(X_MODEL_VERSION, version);
    }
    match &entry.answer {
        Answer::Found(body) => {
            let data = compress(body.clone(), reply, headers);
            let trailers = HeaderMap::from_iter([(Status::GRPC_STATUS, code(Code::Ok))]);
            *response.body_mut() = Known::body(data, Some(trailers));
        }
        Answer::NotFound { message, details } => {
            headers.insert(Status::GRPC_STATUS, code(Code::NotFound));
            for (name, value) in [
                (Status::GRPC_MESSAGE, message),
                (Status::GRPC_STATUS_DETAILS, details),
            ] {
                if let Some(value) = HeaderValue::from_maybe_shared(value.clone())
                    .ok()
                    .filter(|value| !value.is_empty())
                {
                    headers.insert(name, value);
                }
            }
        }
    }
    marked(response, outcome)
}

/// The response with `x-cache`.
pub(super) fn marked(mut response: Response<Body>, outcome: &'static str) -> Response<Body> {
    response
        .headers_mut()
        .insert(X_CACHE, HeaderValue::from_static(outcome));
    response
}

pub(super) fn code(code: Code) -> HeaderValue {
    HeaderValue::from_static(if code == Code::NotFound { "5" } else { "0" })
}

/// A framed message, compressed if the caller's was and if that makes it smaller.
pub(super) fn compress(data: Bytes, reply: Option<Encoding>, headers: &mut HeaderMap) -> Bytes {
    let compressed = || {
        let encoding = reply?;
        let (false, message) = frame::only(&data)? else {
            return None;
        };
        Some((encoding, frame::framed(true, &encoding.pack(&message)?)?))
    };
    match compressed() {
        Some((encoding, compressed)) => {
            headers.insert(compression::ENCODING, encoding.header());
            compressed
        }
        None => data,
    }
}

/// The body of a response.
pub(super) enum Collected {
    /// All of it, with its trailers.
    Whole(Bytes, Option<HeaderMap>),
    /// A body that is too large to keep. Nothing of it is lost.
    TooLarge(Body),
}

/// Reads a body with a message of at most `limit` bytes.
pub(super) async fn collect(mut body: Body, limit: usize) -> Collected {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) if first.is_empty() => first = data,
            Ok(Ok(data)) => more.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(status) => trailers = Some(frame::trailers(status)),
        }
        if first.len() + more.len() > limit + frame::PREFIX && trailers.is_none() {
            return Collected::TooLarge(Resumed::body(joined(first, more), body));
        }
    }
    Collected::Whole(joined(first, more), trailers)
}

fn joined(first: Bytes, more: BytesMut) -> Bytes {
    if more.is_empty() {
        return first; // most answers are one frame: no copy
    }
    let mut all = BytesMut::with_capacity(first.len() + more.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&more);
    all.freeze()
}

/// A field of a response's headers or trailers.
pub(super) fn field(
    name: HeaderName,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
) -> Option<HeaderValue> {
    headers.get(&name).or_else(|| trailers?.get(&name)).cloned()
}

/// The answer that may be kept of a response, and for how long.
pub(super) fn to_keep(
    method: &Method,
    headers: &HeaderMap,
    data: &Bytes,
    trailers: Option<&HeaderMap>,
    limit: usize,
) -> Option<(Duration, Answer)> {
    let bytes = |name| {
        field(name, headers, trailers)
            .map_or_else(Bytes::new, |value| Bytes::copy_from_slice(value.as_bytes()))
    };
    if CacheControl::of(headers) == CacheControl::NoStore || data.len() > limit + frame::PREFIX {
        return None;
    }
    match field(Status::GRPC_STATUS, headers, trailers)?.as_bytes() {
        b"0" if frame::only(data).is_some_and(|(compressed, _)| !compressed) => {
            // A copy: a slice would keep the whole buffer that the connection read into.
            let answer = Answer::Found(Bytes::copy_from_slice(data));
            Some((method.cache_ttl?, answer))
        }
        b"5" if data.is_empty() => {
            let (message, details) = (
                bytes(Status::GRPC_MESSAGE),
                bytes(Status::GRPC_STATUS_DETAILS),
            );
            Some((method.negative_ttl?, Answer::NotFound { message, details }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::tests::call,
        grpc::frame::{framed, trailers},
    };

    #[test]
    fn what_is_kept_keeps_nothing_else() {
        let method = call("/shopkeeper.churn.v1.ChurnService/GetChurnRisk", b"").method;
        let read = Bytes::from([&[0; 8192][..], &framed(false, b"found").unwrap()].concat());
        let data = read.slice(8192..);
        let trailers = trailers(Status::ok(""));
        let kept = to_keep(&method, &HeaderMap::new(), &data, Some(&trailers), 1 << 10);
        let Some((_, Answer::Found(kept))) = kept else {
            panic!("{kept:?}")
        };
        assert_eq!(kept, data);
        assert_ne!(kept.as_ptr(), data.as_ptr());
    }
}
