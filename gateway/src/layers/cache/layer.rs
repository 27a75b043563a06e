//! Looks up what is asked, and keeps what is answered. Promise: an answer is kept under the version
//! that gave it, as its own header says, and looked up under the version that answers now; while
//! that is not known nothing is looked up. What several callers ask at once is asked once, and what
//! is asked all the time is asked anew before it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, layer::layer_fn};
use tracing::Instrument;

use super::{
    Answer, Entry, Key, LARGEST, Question, Tier, Tiers,
    single_flight::{Flights, Seat},
};
use crate::{
    call::{Call, Payload},
    caller::Caller,
    error::BoxError,
    grpc::{
        compression::{self, Encoding},
        frame::{self, Known, Resumed},
    },
    latency_quantile::LatencyQuantiles,
    method::Method,
    metrics,
    model_versions::ModelVersions,
    random::Rng,
};
use proto::policy::v1::Scope;

/// Where an answer came from: `hit-memory`, `hit-redis`, `coalesced` where it was being asked for
/// already, `miss`, or `bypass` where nobody looked.
pub(crate) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Which version of the model gave an answer.
pub(crate) const X_MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const HIT_MEMORY: &str = "hit-memory";
const HIT_REDIS: &str = "hit-redis";
const COALESCED: &str = "coalesced";
const MISS: &str = "miss";
const BYPASS: &str = "bypass";
/// Questions with large answers that are remembered.
const LARGE: usize = 1 << 12;

/// Puts these caches in front of the services whose model versions these are.
pub(crate) fn layer<S>(
    tiers: Tiers,
    versions: ModelVersions,
) -> impl Layer<S, Service = Caching<S>> + Clone {
    let (flights, large, rng) = (Flights::default(), Large::default(), Rng::default());
    let store = Arc::new(Store {
        tiers,
        versions,
        flights,
        large,
        latency: LatencyQuantiles::default(),
        rng,
    });
    layer_fn(move |inner| Caching {
        inner,
        store: store.clone(),
    })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Caching<S> {
    inner: S,
    store: Arc<Store>,
}

impl<S> Service<Call> for Caching<S>
where
    S: Service<Call, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let version = self.store.versions.choose(&mut call);
        let message = match &call.payload {
            Payload::Whole {
                message: Some(message),
                ..
            } if call.method.is_cacheable() => message.clone(),
            Payload::Whole { .. } | Payload::Stream(_) => {
                if call.method.is_cacheable() {
                    metrics::lookup(BYPASS, call.method.name());
                }
                let (versions, area) = (self.store.versions.clone(), call.area.clone());
                let answer = inner.call(call);
                return Box::pin(async move {
                    let response = answer.await.map_err(Into::into)?;
                    see(&versions, &area, response.headers().get(X_MODEL_VERSION));
                    Ok(marked(response, BYPASS))
                });
            }
        };

        let wish = Wish::of(&call.headers);
        let asked = Asked {
            method: call.method.clone(),
            caller: caller(&call),
            message,
        };
        let store = self.store.clone();
        match version.filter(|_| wish == Wish::Any && !store.tiers.is_empty()) {
            Some(version) => Box::pin(store.answer(inner, call, asked, version)),
            None => Box::pin(async move {
                metrics::lookup(BYPASS, call.method.name());
                Ok(marked(
                    store.fetch(inner, call, &asked, wish).await?.0,
                    BYPASS,
                ))
            }),
        }
    }
}

/// What is known of answers, and which are being asked for.
#[derive(Debug)]
struct Store {
    tiers: Tiers,
    versions: ModelVersions,
    flights: Flights<Arc<Entry>>,
    large: Large,
    /// How long services take.
    latency: LatencyQuantiles,
    rng: Rng,
}

impl Store {
    /// The answer of this version from wherever it is quickest.
    async fn answer<S>(
        self: Arc<Self>,
        inner: S,
        call: Call,
        asked: Asked,
        version: Arc<String>,
    ) -> Result<Response<Body>, BoxError>
    where
        S: Service<Call, Response = Response<Body>> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let (method, reply, key) = (call.method.clone(), call.reply, asked.key(&version));
        let hit = move |entry: &Entry, outcome| {
            metrics::lookup(outcome, method.name());
            again(entry, outcome, reply)
        };
        if let Some((tier, entry)) = self.tiers.get(&key).await {
            let answer = hit(&entry, outcome(tier));
            if entry.is_due(SystemTime::now(), || self.rng.fraction()) {
                self.refresh(inner, call, asked, version);
            }
            return Ok(answer);
        }
        if self.large.has(&key) {
            // Who waits for one that is not kept waits for nothing.
            metrics::lookup(MISS, asked.method.name());
            return Ok(marked(
                self.fetch(inner, call, &asked, Wish::Any).await?.0,
                MISS,
            ));
        }
        let pilot = match self.flights.join(key, call.deadline) {
            Seat::First(pilot) => pilot,
            Seat::Other(waiter) => {
                if let Some(entry) = waiter.landed().await {
                    return Ok(hit(&entry, COALESCED));
                }
                // What became of it is for whoever asked.
                metrics::lookup(MISS, asked.method.name());
                return Ok(marked(
                    self.fetch(inner, call, &asked, Wish::Any).await?.0,
                    MISS,
                ));
            }
        };
        let asking = pilot.fly(async move {
            // It may have landed since it was looked up, or be on its way to another replica.
            let landed = match self.tiers.near(&key).await {
                None => {
                    let usual = || self.latency.get(asked.method.path.path());
                    self.tiers
                        .awaited(
                            &key,
                            usual,
                            call.deadline.duration_since(Instant::now()) / 4,
                        )
                        .await
                }
                landed => landed,
            };
            if let Some((tier, entry)) = landed {
                return (Ok(hit(&entry, outcome(tier))), Some(entry));
            }
            metrics::lookup(MISS, asked.method.name());
            match self.fetch(inner, call, &asked, Wish::Any).await {
                Ok((response, entry)) => (
                    Ok(marked(response, MISS)),
                    entry.filter(|entry| entry.version == *version),
                ),
                Err(error) => (Err(error), None),
            }
        });
        asking.await
    }

    /// Asks anew in the background, where nobody does yet.
    fn refresh<S>(self: Arc<Self>, inner: S, mut call: Call, asked: Asked, version: Arc<String>)
    where
        S: Service<Call, Response = Response<Body>> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        call.deadline = Instant::now() + call.method.timeout;
        let Some(pilot) = self.flights.lead(asked.key(&version), call.deadline) else {
            return;
        };
        metrics::refreshed(call.method.name());
        let deadline = call.deadline;
        let asking = pilot.fly(async move {
            let made = self.fetch(inner, call, &asked, Wish::Any).await;
            let entry = made.ok().and_then(|(_, entry)| entry);
            ((), entry.filter(|entry| entry.version == *version))
        });
        tokio::spawn(timeout_at(deadline, asking).in_current_span());
    }

    /// The service's answer, and what is kept of it.
    async fn fetch<S>(
        &self,
        mut inner: S,
        mut call: Call,
        asked: &Asked,
        wish: Wish,
    ) -> Result<(Response<Body>, Option<Arc<Entry>>), BoxError>
    where
        S: Service<Call, Response = Response<Body>>,
        S::Error: Into<BoxError>,
    {
        let (area, reply, begun) = (call.area.clone(), call.reply, Instant::now());
        call.headers.remove(compression::ACCEPT); // one answer for all callers
        let (head, body) = inner.call(call).await.map_err(Into::into)?.into_parts();
        let (data, trailers) = match gather(body).await {
            Gathered::Whole(data, trailers) => (data, trailers),
            Gathered::Large(body) => {
                if let Some(version) = see(&self.versions, &area, head.headers.get(X_MODEL_VERSION))
                {
                    self.large.add(&asked.key(version));
                }
                return Ok((Response::from_parts(head, body), None));
            }
        };
        let version = field(X_MODEL_VERSION, &head.headers, trailers.as_ref());
        let mut kept = None;
        if let Some(version) = see(&self.versions, &area, version.as_ref())
            && wish != Wish::Nothing
            && !self.tiers.is_empty()
            && let Some((ttl, answer)) =
                keepable(&asked.method, &head.headers, &data, trailers.as_ref())
        {
            let (made, took) = (SystemTime::now(), begun.elapsed());
            self.latency.observe(asked.method.path.path(), took);
            let entry = Entry {
                version: version.to_owned(),
                made,
                took,
                ttl,
                answer,
            };
            kept = Some(self.tiers.put(asked.key(version), entry).await);
        }
        let mut response = Response::from_parts(head, Body::empty());
        let data = packed(data, reply, response.headers_mut());
        *response.body_mut() = Known::body(data, trailers);
        Ok((response, kept))
    }
}

/// Questions whose answers were too large to keep, by a hash of each; one is forgotten when another
/// comes to its place.
#[derive(Debug)]
struct Large(Box<[AtomicU64]>);

impl Default for Large {
    fn default() -> Self {
        Self((0..LARGE).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Large {
    fn has(&self, key: &Key) -> bool {
        let (place, mark) = self.of(key);
        place.load(Ordering::Relaxed) == mark
    }

    fn add(&self, key: &Key) {
        let (place, mark) = self.of(key);
        place.store(mark, Ordering::Relaxed);
    }

    /// A key's place, and what stands there for it: never 0.
    fn of(&self, key: &Key) -> (&AtomicU64, u64) {
        let [place, mark] = key.halves();
        (&self.0[place as usize % LARGE], mark | 1)
    }
}

fn outcome(tier: Tier) -> &'static str {
    match tier {
        Tier::Memory => HIT_MEMORY,
        Tier::Redis => HIT_REDIS,
    }
}

/// What an answer depends on, besides the model.
struct Asked {
    method: Arc<Method>,
    caller: Option<Caller>,
    message: Bytes,
}

impl Asked {
    fn key(&self, version: &str) -> Key {
        let caller = self.caller.as_ref().map(Caller::as_bytes);
        Key::of(&Question {
            method: self.method.path.path(),
            version,
            caller,
            message: &self.message,
        })
    }
}

fn caller(call: &Call) -> Option<Caller> {
    match call.method.scope {
        Scope::Caller => Some(call.caller),
        Scope::Unspecified | Scope::Public => None,
    }
}

/// What the caller wants of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Whatever is quickest.
    Any,
    /// A new answer, which others may get again.
    New,
    /// A new answer, which nobody gets again.
    Nothing,
}

impl Wish {
    fn of(headers: &HeaderMap) -> Self {
        let lists = headers
            .get_all(CACHE_CONTROL)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        lists
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .fold(Self::Any, |wish, word| {
                match word.to_ascii_lowercase().as_str() {
                    "no-store" => Self::Nothing,
                    "no-cache" if wish == Self::Any => Self::New,
                    _ => wish,
                }
            })
    }
}

/// An answer from the cache, as the service gave it.
fn again(entry: &Entry, outcome: &'static str, reply: Option<Encoding>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    if let Ok(version) = HeaderValue::from_str(&entry.version) {
        headers.insert(X_MODEL_VERSION, version);
    }
    match &entry.answer {
        Answer::Found(body) => {
            let data = packed(body.clone(), reply, headers);
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

fn marked(mut response: Response<Body>, outcome: &'static str) -> Response<Body> {
    response
        .headers_mut()
        .insert(X_CACHE, HeaderValue::from_static(outcome));
    response
}

fn code(code: Code) -> HeaderValue {
    HeaderValue::from_static(if code == Code::NotFound { "5" } else { "0" })
}

/// A message compressed as the caller's own was, where that makes it smaller.
fn packed(data: Bytes, reply: Option<Encoding>, headers: &mut HeaderMap) -> Bytes {
    let smaller = || {
        let encoding = reply?;
        let (false, message) = frame::only(&data)? else {
            return None;
        };
        Some((encoding, frame::framed(true, &encoding.pack(&message)?)?))
    };
    match smaller() {
        Some((encoding, packed)) => {
            headers.insert(compression::ENCODING, encoding.header());
            packed
        }
        None => data,
    }
}

enum Gathered {
    Whole(Bytes, Option<HeaderMap>),
    /// Too large to keep; nothing of it is lost.
    Large(Body),
}

async fn gather(mut body: Body) -> Gathered {
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
        if first.len() + more.len() > LARGEST + frame::PREFIX && trailers.is_none() {
            return Gathered::Large(Resumed::body(joined(first, more), body));
        }
    }
    Gathered::Whole(joined(first, more), trailers)
}

fn joined(first: Bytes, more: BytesMut) -> Bytes {
    if more.is_empty() {
        return first;
    }
    let mut all = BytesMut::with_capacity(first.len() + more.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&more);
    all.freeze()
}

/// Notes the version that an answer is of. Once one has been seen, what an earlier one said is not
/// said again.
fn see<'a>(
    versions: &ModelVersions,
    area: &str,
    version: Option<&'a HeaderValue>,
) -> Option<&'a str> {
    let version = version?.to_str().ok()?;
    versions.observed(area, version);
    Some(version)
}

/// A field of an answer's headers or, where it has them, trailers.
fn field(
    name: HeaderName,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
) -> Option<HeaderValue> {
    headers.get(&name).or_else(|| trailers?.get(&name)).cloned()
}

/// What of an answer may be kept, and for how long.
fn keepable(
    method: &Method,
    headers: &HeaderMap,
    data: &Bytes,
    trailers: Option<&HeaderMap>,
) -> Option<(Duration, Answer)> {
    let bytes = |name| {
        field(name, headers, trailers)
            .map_or_else(Bytes::new, |value| Bytes::copy_from_slice(value.as_bytes()))
    };
    if Wish::of(headers) == Wish::Nothing || data.len() > LARGEST + frame::PREFIX {
        return None;
    }
    match field(Status::GRPC_STATUS, headers, trailers)?.as_bytes() {
        b"0" if frame::only(data).is_some_and(|(compressed, _)| !compressed) => {
            // Its own bytes alone: a slice would keep all that came with it.
            Some((
                method.cache_ttl?,
                Answer::Found(Bytes::copy_from_slice(data)),
            ))
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
        layers::cache::Memory,
    };
    use tower_test::mock::{Handle, Mock, pair};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const BATCH: &str = "/shopkeeper.churn.v1.ChurnService/BatchGetChurnRisks";

    type Mocked = (
        Caching<Mock<Call, Response<Body>>>,
        Handle<Call, Response<Body>>,
        ModelVersions,
    );

    fn mocked() -> Mocked {
        let (mock, mut handle) = pair();
        handle.allow(100);
        let versions = ModelVersions::of(["churn"]);
        versions.set("churn", Some("v1"));
        let tiers = Tiers::new(vec![Arc::new(Memory::new(1 << 20))]);
        (layer(tiers, versions.clone()).layer(mock), handle, versions)
    }

    fn found(version: &'static str, message: &[u8]) -> Response<Body> {
        let body = Known::body(
            framed(false, message).unwrap(),
            Some(trailers(Status::ok(""))),
        );
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(X_MODEL_VERSION, HeaderValue::from_static(version));
        response
    }

    #[test]
    fn what_is_kept_keeps_nothing_else() {
        let method = call(RISK, b"").method;
        let read = Bytes::from([&[0; 8192][..], &framed(false, b"found").unwrap()].concat());
        let data = read.slice(8192..);
        let (_, kept) = keepable(
            &method,
            &HeaderMap::new(),
            &data,
            Some(&trailers(Status::ok(""))),
        )
        .unwrap();
        let Answer::Found(kept) = kept else {
            panic!("{kept:?}")
        };
        assert_eq!(kept, data);
        assert_ne!(kept.as_ptr(), data.as_ptr());
    }

    fn not_found() -> Response<Body> {
        let mut response =
            Status::with_details(Code::NotFound, "who? é", Bytes::from_static(b"\x08\x05d"))
                .into_http();
        response
            .headers_mut()
            .insert(X_MODEL_VERSION, HeaderValue::from_static("v1"));
        response
    }

    /// Asks, with an answer at hand for the case that it gets through; says what came, and whether
    /// it got through.
    async fn ask(
        mocked: &mut Mocked,
        call: Call,
        answer: impl FnOnce() -> Response<Body>,
    ) -> (Response<Body>, bool) {
        let (service, handle, _) = mocked;
        let asked = tower::ServiceExt::ready(service).await.unwrap().call(call);
        let mut reached = false;
        let serve = async {
            if let Some((_, send)) = handle.next_request().await {
                reached = true;
                send.send_response(answer());
            }
            std::future::pending::<()>().await;
        };
        let response = tokio::select! {
            response = asked => response.unwrap(),
            () = serve => unreachable!(),
        };
        (response, reached)
    }

    async fn read(response: Response<Body>) -> (String, Bytes, HeaderMap) {
        let cache = response.headers()[X_CACHE].to_str().unwrap().to_owned();
        let headers = response.headers().clone();
        let collected = response.into_body().collect().await.unwrap();
        let status = collected.trailers().cloned().unwrap_or(headers);
        (cache, collected.to_bytes(), status)
    }

    async fn ask_and_read(
        m: &mut Mocked,
        call: Call,
        answer: impl FnOnce() -> Response<Body>,
    ) -> (String, Bytes) {
        let (cache, body, _) = read(ask(m, call, answer).await.0).await;
        (cache, body)
    }

    #[tokio::test]
    async fn the_second_answer_is_the_first_one_again() {
        let mut m = mocked();
        let answer = framed(false, b"risk").unwrap();
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || found("v1", b"risk")).await,
            ("miss".into(), answer.clone())
        );
        let (response, reached) = ask(&mut m, call(RISK, b"1"), || unreachable!()).await;
        assert_eq!(
            (reached, &response.headers()[X_MODEL_VERSION]),
            (false, &HeaderValue::from_static("v1"))
        );
        let (cache, body, status) = read(response).await;
        assert_eq!(
            (cache.as_str(), body, &status[Status::GRPC_STATUS]),
            ("hit-memory", answer, &code(Code::Ok))
        );
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"2"), || found("v1", b"other"))
                .await
                .0,
            "miss"
        );
    }

    #[tokio::test]
    async fn a_not_found_is_the_same_not_found_again() {
        let mut m = mocked();
        let (first, _) = ask(&mut m, call(RISK, b"1"), not_found).await;
        let (again, reached) = ask(&mut m, call(RISK, b"1"), || unreachable!()).await;
        assert!(
            !reached && http_body::Body::is_end_stream(again.body()),
            "trailers only"
        );
        let (first, again) = (
            Status::from_header_map(first.headers()).unwrap(),
            Status::from_header_map(again.headers()).unwrap(),
        );
        assert_eq!(
            (again.code(), again.message(), again.details()),
            (Code::NotFound, "who? é", &b"\x08\x05d"[..])
        );
        assert_eq!(
            (first.message(), first.details()),
            (again.message(), again.details())
        );
    }

    #[tokio::test]
    async fn an_answer_is_kept_under_the_version_that_gave_it() {
        let mut m = mocked();
        // Asked of v1, answered by v2: nothing of v1 was learnt, and from here on nobody knows who
        // answers.
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || found("v2", b"new"))
                .await
                .0,
            "miss"
        );
        assert_eq!(m.2.stable("churn"), None);
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || found("v2", b"new"))
                .await
                .0,
            "bypass"
        );
        m.2.set("churn", Some("v1"));
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || found("v1", b"old"))
                .await
                .0,
            "miss"
        );
        m.2.set("churn", Some("v2"));
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || unreachable!()).await,
            ("hit-memory".into(), framed(false, b"new").unwrap())
        );
    }

    #[tokio::test]
    async fn what_may_not_be_kept_is_not() {
        let large = vec![0; LARGEST + 1];
        let plain = || {
            let mut response = found("v1", b"x");
            response.headers_mut().remove(X_MODEL_VERSION);
            response
        };
        let unavailable = || Status::unavailable("later").into_http();
        let cut = || {
            Response::new(Known::body(
                framed(false, b"x").unwrap().slice(..5),
                Some(trailers(Status::ok(""))),
            ))
        };
        let without_end = || Response::new(Known::body(framed(false, b"x").unwrap(), None));
        let packed = || {
            Response::new(Known::body(
                framed(true, b"x").unwrap(),
                Some(trailers(Status::ok(""))),
            ))
        };
        let too_large = || found("v1", &large);
        let answers: [&dyn Fn() -> Response<Body>; 6] = [
            &plain,
            &unavailable,
            &cut,
            &without_end,
            &packed,
            &too_large,
        ];
        for answer in answers {
            let mut m = mocked();
            let (_, whole, _) = read({
                let mut response = answer();
                response
                    .headers_mut()
                    .insert(X_CACHE, HeaderValue::from_static(""));
                response
            })
            .await;
            for _ in 0..2 {
                let (cache, body) = ask_and_read(&mut m, call(RISK, b"1"), answer).await;
                assert_eq!((cache.as_str(), body.len()), ("miss", whole.len()));
            }
        }
    }

    #[tokio::test]
    async fn a_method_without_a_policy_and_an_unknown_version_go_by_the_cache() {
        let mut m = mocked();
        for _ in 0..2 {
            assert_eq!(
                ask_and_read(&mut m, call(BATCH, b"1"), || found("v1", b"x"))
                    .await
                    .0,
                "bypass"
            );
        }
        m.2.set("churn", None);
        for _ in 0..2 {
            assert_eq!(
                ask_and_read(&mut m, call(RISK, b"1"), || found("v1", b"x"))
                    .await
                    .0,
                "bypass"
            );
        }
        // What was learnt meanwhile serves once the version is known.
        m.2.set("churn", Some("v1"));
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || unreachable!())
                .await
                .0,
            "hit-memory"
        );
    }

    #[tokio::test]
    async fn a_caller_may_want_a_new_answer() {
        let mut m = mocked();
        let with = |value: &'static str| {
            let mut call = call(RISK, b"1");
            call.headers
                .insert(CACHE_CONTROL, HeaderValue::from_static(value));
            call
        };
        assert_eq!(
            ask_and_read(&mut m, with("no-store"), || found("v1", b"a"))
                .await
                .0,
            "bypass"
        );
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || found("v1", b"a"))
                .await
                .0,
            "miss"
        );
        assert_eq!(
            ask_and_read(&mut m, with("max-age=0, No-Cache"), || found("v1", b"b"))
                .await
                .0,
            "bypass"
        );
        let newer = framed(false, b"b").unwrap();
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || unreachable!()).await,
            ("hit-memory".into(), newer)
        );
    }

    #[tokio::test]
    async fn callers_of_a_callers_own_answers_have_a_cache_each() {
        let mut m = mocked();
        let of = |who: Option<&'static str>| {
            let mut call = call(RISK, b"1");
            call.method = Arc::new(Method {
                scope: Scope::Caller,
                ..(*call.method).clone()
            });
            let headers =
                who.map(|who| (http::header::AUTHORIZATION, HeaderValue::from_static(who)));
            call.caller = Caller::of(&headers.into_iter().collect());
            call
        };
        for who in [None, Some("a"), Some("b")] {
            assert_eq!(
                ask_and_read(&mut m, of(who), || found("v1", b"mine"))
                    .await
                    .0,
                "miss"
            );
            assert_eq!(
                ask_and_read(&mut m, of(who), || unreachable!()).await.0,
                "hit-memory"
            );
        }
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || found("v1", b"all"))
                .await
                .0,
            "miss"
        );
    }

    #[tokio::test]
    async fn an_answer_is_compressed_as_its_request_was() {
        let mut m = mocked();
        let message = b"a shopkeeper knows ".repeat(200);
        let with = |reply| Call {
            reply,
            ..call(RISK, b"1")
        };
        for (reply, cache) in [
            (Some(Encoding::Gzip), "miss"),
            (Some(Encoding::Zstd), "hit-memory"),
            (None, "hit-memory"),
        ] {
            let (response, _) = ask(&mut m, with(reply), || found("v1", &message)).await;
            assert_eq!(
                response.headers().get(compression::ENCODING),
                reply.map(Encoding::header).as_ref()
            );
            let (said, body, status) = read(response).await;
            assert_eq!(
                (said.as_str(), &status[Status::GRPC_STATUS]),
                (cache, &code(Code::Ok))
            );
            let (compressed, body) = frame::only(&body).unwrap();
            assert_eq!(compressed, reply.is_some());
            assert_eq!(
                reply
                    .map_or(Ok(body.clone()), |e| e.open(&body, 1 << 20))
                    .unwrap(),
                message
            );
        }
    }

    /// Asks without waiting; the call is under way when this returns.
    async fn begin(
        m: &mut Mocked,
        call: Call,
    ) -> tokio::task::JoinHandle<Result<Response<Body>, BoxError>> {
        let asked = tokio::spawn(tower::ServiceExt::ready(&mut m.0).await.unwrap().call(call));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        asked
    }

    /// Whether nobody asks the service.
    async fn is_quiet(m: &mut Mocked) -> bool {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        futures_util::FutureExt::now_or_never(m.1.next_request()).is_none()
    }

    #[tokio::test]
    async fn what_is_asked_at_once_is_asked_once_and_each_answer_is_as_if_alone() {
        let message = b"a shopkeeper knows ".repeat(200);
        let encodings = [None, Some(Encoding::Gzip), Some(Encoding::Zstd), None];
        let with = |reply| Call {
            reply,
            ..call(RISK, b"1")
        };
        let mut m = mocked();
        let mut asked = Vec::new();
        for reply in encodings {
            asked.push(begin(&mut m, with(reply)).await);
        }
        let (_, send) = m.1.next_request().await.unwrap();
        assert!(is_quiet(&mut m).await);
        send.send_response(found("v1", &message));
        for (n, (asked, reply)) in asked.into_iter().zip(encodings).enumerate() {
            let together = asked.await.unwrap().unwrap();
            let (alone, _) = ask(&mut mocked(), with(reply), || found("v1", &message)).await;
            for name in [X_MODEL_VERSION, compression::ENCODING] {
                assert_eq!(
                    together.headers().get(&name),
                    alone.headers().get(&name),
                    "{name}"
                );
            }
            let (together, alone) = (read(together).await, read(alone).await);
            assert_eq!(together.0, if n == 0 { "miss" } else { "coalesced" });
            assert_eq!(
                (together.1, &together.2[Status::GRPC_STATUS]),
                (alone.1, &alone.2[Status::GRPC_STATUS])
            );
        }
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || unreachable!())
                .await
                .0,
            "hit-memory"
        );
    }

    #[tokio::test]
    async fn a_caller_who_leaves_takes_nothing_from_the_others() {
        let mut m = mocked();
        let first = begin(&mut m, call(RISK, b"1")).await;
        let second = begin(&mut m, call(RISK, b"1")).await;
        let (_, send) = m.1.next_request().await.unwrap();
        first.abort();
        send.send_response(not_found());
        let response = second.await.unwrap().unwrap();
        assert_eq!(
            (
                &response.headers()[X_CACHE],
                &response.headers()[Status::GRPC_STATUS]
            ),
            (&"coalesced".parse().unwrap(), &code(Code::NotFound))
        );
    }

    #[tokio::test]
    async fn a_failure_is_for_whoever_asked_and_the_others_ask_for_themselves() {
        let newer = || found("v2", b"new");
        let unavailable = || Status::unavailable("later").into_http();
        let lost = || Err(BoxError::from("lost"));
        let failures: [&dyn Fn() -> Result<Response<Body>, BoxError>; 3] =
            [&|| Ok(newer()), &|| Ok(unavailable()), &lost];
        for failure in failures {
            let mut m = mocked();
            let mut asked = Vec::new();
            for _ in 0..3 {
                asked.push(begin(&mut m, call(RISK, b"1")).await);
            }
            let (_, send) = m.1.next_request().await.unwrap();
            match failure() {
                Ok(response) => send.send_response(response),
                Err(error) => send.send_error(error),
            }
            for _ in 0..2 {
                let (_, send) = m.1.next_request().await.unwrap();
                send.send_response(found("v1", b"mine"));
            }
            assert!(is_quiet(&mut m).await);
            let mut answers = Vec::new();
            for asked in asked {
                answers.push(asked.await.unwrap().ok());
            }
            for mine in answers.split_off(1) {
                let (cache, body, _) = read(mine.unwrap()).await;
                assert_eq!(
                    (cache.as_str(), body),
                    ("miss", framed(false, b"mine").unwrap())
                );
            }
        }
    }

    #[tokio::test]
    async fn only_the_same_question_to_the_same_model_is_waited_for() {
        let mut m = mocked();
        let of = |who: Caller| {
            let mut call = call(RISK, b"1");
            call.method = Arc::new(Method {
                scope: Scope::Caller,
                ..(*call.method).clone()
            });
            call.caller = who;
            call
        };
        let mut fresh = call(RISK, b"1");
        fresh
            .headers
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let mut asked = Vec::new();
        for call in [
            call(RISK, b"1"),
            call(RISK, b"2"),
            fresh,
            of(Caller::named("a")),
            of(Caller::named("b")),
            call(BATCH, b"1"),
        ] {
            asked.push(begin(&mut m, call).await);
        }
        m.2.set("churn", Some("v2"));
        asked.push(begin(&mut m, call(RISK, b"1")).await);
        m.2.set("churn", None);
        asked.push(begin(&mut m, call(RISK, b"1")).await);
        for _ in &asked {
            let (_, send) = m.1.next_request().await.unwrap();
            send.send_response(found("v1", b"x"));
        }
        assert!(is_quiet(&mut m).await);
    }

    #[tokio::test]
    async fn an_answer_near_its_end_is_made_anew_while_it_serves() {
        let (mock, mut handle) = pair();
        handle.allow(100);
        let versions = ModelVersions::of(["churn"]);
        versions.set("churn", Some("v1"));
        let memory = Arc::new(Memory::new(1 << 20));
        let tiers = Tiers::new(vec![memory.clone()]);
        let mut m = (layer(tiers, versions.clone()).layer(mock), handle, versions);
        let keep = async |left: u64, took: u64, message: &'static [u8]| {
            let ttl = Duration::from_secs(60);
            let made = SystemTime::now() - (ttl - Duration::from_secs(left));
            let answer = Answer::Found(framed(false, b"old").unwrap());
            let key = Key::of(&Question {
                method: RISK,
                version: "v1",
                caller: None,
                message,
            });
            let entry = Entry {
                version: "v1".into(),
                made,
                took: Duration::from_secs(took),
                ttl,
                answer,
            };
            crate::layers::cache::Cache::put(&*memory, key, Arc::new(entry), ttl).await;
        };
        let old = ("hit-memory".to_owned(), framed(false, b"old").unwrap());

        keep(30, 0, b"1").await;
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || unreachable!()).await,
            old
        );
        assert!(is_quiet(&mut m).await, "there is time");

        keep(5, 1_000_000, b"1").await;
        for _ in 0..3 {
            let response = begin(&mut m, call(RISK, b"1"))
                .await
                .await
                .unwrap()
                .unwrap();
            let (cache, body, _) = read(response).await;
            assert_eq!((cache, body), old);
        }
        let (refresh, send) = m.1.next_request().await.unwrap();
        assert!(
            refresh.deadline > Instant::now() && is_quiet(&mut m).await,
            "one at a time"
        );
        send.send_response(found("v1", b"new"));
        assert!(is_quiet(&mut m).await);
        let new = ("hit-memory".to_owned(), framed(false, b"new").unwrap());
        assert_eq!(
            ask_and_read(&mut m, call(RISK, b"1"), || unreachable!()).await,
            new
        );

        // One that fails changes nothing.
        keep(5, 1_000_000, b"2").await;
        for _ in 0..2 {
            let response = begin(&mut m, call(RISK, b"2"))
                .await
                .await
                .unwrap()
                .unwrap();
            assert_eq!(read(response).await.1, old.1);
            m.1.next_request().await.unwrap().1.send_error("lost");
            assert!(is_quiet(&mut m).await);
        }
    }
}
