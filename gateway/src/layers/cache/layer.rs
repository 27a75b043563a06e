//! Looks up what is asked, and keeps what is answered. Promise: an answer is kept under the version
//! that gave it, as its own header says, and looked up under the version that answers now; while
//! that is not known nothing is looked up. A question of several callers at once is asked once, and
//! an answer that is wanted all the time is refreshed before it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderValue, Response};
use proto::policy::v1::Scope;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tracing::Instrument;

use super::{
    Entry, Key, Question, Tier, Tiers,
    response::{self, CacheControl, Collected, X_MODEL_VERSION, marked},
    single_flight::{Role, SingleFlight},
};
use crate::{
    call::{Call, Payload},
    caller::Caller,
    error::BoxError,
    grpc::{compression, frame::Known},
    method::Method,
    metrics,
    middleware::{Handler, Middleware, MiddlewareLayer},
    model_versions::ModelVersions,
    outcome,
    random::Rng,
};

const HIT_MEMORY: &str = "hit-memory";
const HIT_REDIS: &str = "hit-redis";
const COALESCED: &str = "coalesced";
const MISS: &str = "miss";
const BYPASS: &str = "bypass";

/// Numbers of this layer.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Largest answer that is kept, bytes. Bounds what a miss holds in memory, and a read of Redis.
    pub(crate) max_answer_bytes: usize,
    /// Questions with larger answers that are remembered.
    pub(crate) oversized_slots: usize,
    /// Callers that wait for one other's answer.
    pub(crate) max_followers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_answer_bytes: 64 << 10,
            oversized_slots: 1 << 12,
            max_followers: 1 << 10,
        }
    }
}

/// Puts these caches in front of the services that have these model versions.
pub(crate) fn layer(tiers: Tiers, versions: ModelVersions) -> MiddlewareLayer<Caching> {
    let config = Config::default();
    let store = Arc::new(Store {
        tiers,
        versions,
        in_flight: SingleFlight::new(config.max_followers),
        oversized: Oversized::new(config.oversized_slots),
        rng: Rng::default(),
        config,
    });
    MiddlewareLayer::new(Caching { store })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Caching {
    store: Arc<Store>,
}

impl Middleware<Call> for Caching {
    type Next = Call;

    async fn handle(&self, mut call: Call, next: &impl Handler<Call>) -> outcome::Answer {
        let store = &self.store;
        let version = store.versions.choose(&mut call);
        let message = match &call.payload {
            Payload::Whole {
                message: Some(message),
                ..
            } if call.method.is_cacheable() => message.clone(),
            Payload::Whole { .. } | Payload::Stream(_) => {
                if call.method.is_cacheable() {
                    metrics::lookup(BYPASS, call.method.name());
                }
                let area = call.area.clone();
                // The way below is boxed in this layer, so that a hit carries no room for it.
                let response = Box::pin(next.call(call)).await?;
                store.observe(&area, response.headers().get(X_MODEL_VERSION));
                return Ok(marked(response, BYPASS));
            }
        };

        let control = CacheControl::of(&call.headers);
        let asked = Asked {
            method: call.method.clone(),
            caller: caller(&call),
            message,
        };
        match version.filter(|_| control == CacheControl::Any && !store.tiers.is_empty()) {
            Some(version) => store.answer(next, call, asked, version).await,
            None => {
                metrics::lookup(BYPASS, call.method.name());
                let fetched = Box::pin(store.fetch(next, call, &asked, control)).await?;
                Ok(marked(fetched.0, BYPASS))
            }
        }
    }
}

/// What is known of answers, and which questions are being asked.
#[derive(Debug)]
struct Store {
    tiers: Tiers,
    versions: ModelVersions,
    in_flight: SingleFlight<Arc<Entry>>,
    oversized: Oversized,
    rng: Rng,
    config: Config,
}

impl Store {
    /// The answer of this version from wherever it is quickest.
    async fn answer(
        self: &Arc<Self>,
        next: &impl Handler<Call>,
        call: Call,
        asked: Asked,
        version: Arc<String>,
    ) -> outcome::Answer {
        let (reply, key) = (call.reply, asked.key(&version));
        if let Some((tier, entry)) = self.tiers.get(&key).await {
            let answer = asked.hit(&entry, outcome_of(tier), reply);
            if entry.is_due(SystemTime::now(), || self.rng.fraction()) {
                self.refresh(next, call, asked, version);
            }
            return Ok(answer);
        }
        if self.oversized.contains(&key) {
            // There will be no answer to share: a follower would wait in vain.
            return self.miss(next, call, &asked).await;
        }
        let leader = match self.in_flight.join(key, call.deadline) {
            Role::Leader(leader) => leader,
            Role::Follower(follower) => {
                return match follower.result().await {
                    Some(entry) => Ok(asked.hit(&entry, COALESCED, reply)),
                    // The leader's failure is the leader's alone.
                    None => self.miss(next, call, &asked).await,
                };
            }
        };
        let (store, next) = (self.clone(), next.clone());
        let leading = leader.run(async move {
            // Another leader may have kept it since it was looked up.
            if let Some((tier, entry)) = store.tiers.near(&key).await {
                let answer = asked.hit(&entry, outcome_of(tier), reply);
                return (Ok(answer), Some(entry));
            }
            metrics::lookup(MISS, asked.method.name());
            match store.fetch(&next, call, &asked, CacheControl::Any).await {
                Ok((response, entry)) => {
                    // Followers asked this version, not the one that has come since.
                    let entry = entry.filter(|entry| entry.version == *version);
                    (Ok(marked(response, MISS)), entry)
                }
                Err(error) => (Err(error), None),
            }
        });
        leading.await
    }

    /// The service's answer to a caller that shares it with no other.
    async fn miss(&self, next: &impl Handler<Call>, call: Call, asked: &Asked) -> outcome::Answer {
        metrics::lookup(MISS, asked.method.name());
        let fetched = Box::pin(self.fetch(next, call, asked, CacheControl::Any)).await?;
        Ok(marked(fetched.0, MISS))
    }

    /// Asks again in the background, unless the question is being asked.
    fn refresh(
        self: &Arc<Self>,
        next: &impl Handler<Call>,
        mut call: Call,
        asked: Asked,
        version: Arc<String>,
    ) {
        call.deadline = Instant::now() + call.method.timeout;
        let Some(leader) = self.in_flight.try_lead(asked.key(&version), call.deadline) else {
            return;
        };
        metrics::refreshed(call.method.name());
        let (deadline, store, next) = (call.deadline, self.clone(), next.clone());
        let leading = leader.run(async move {
            let fetched = store.fetch(&next, call, &asked, CacheControl::Any).await;
            let entry = fetched.ok().and_then(|(_, entry)| entry);
            ((), entry.filter(|entry| entry.version == *version))
        });
        tokio::spawn(timeout_at(deadline, leading).in_current_span());
    }

    /// The service's answer, and what is kept of it.
    async fn fetch(
        &self,
        next: &impl Handler<Call>,
        mut call: Call,
        asked: &Asked,
        control: CacheControl,
    ) -> Result<(Response<Body>, Option<Arc<Entry>>), BoxError> {
        let (area, reply, begun) = (call.area.clone(), call.reply, Instant::now());
        let limit = self.config.max_answer_bytes;
        // The service does not compress: one answer serves callers with and without compression.
        call.headers.remove(compression::ACCEPT);
        let (head, body) = next.call(call).await?.into_parts();
        let (data, trailers) = match response::collect(body, limit).await {
            Collected::Whole(data, trailers) => (data, trailers),
            Collected::TooLarge(body) => {
                if let Some(version) = self.observe(&area, head.headers.get(X_MODEL_VERSION)) {
                    self.oversized.insert(&asked.key(version));
                }
                return Ok((Response::from_parts(head, body), None));
            }
        };
        let version = response::field(X_MODEL_VERSION, &head.headers, trailers.as_ref());
        let mut kept = None;
        if let Some(version) = self.observe(&area, version.as_ref())
            && control != CacheControl::NoStore
            && !self.tiers.is_empty()
            && let Some((ttl, answer)) = response::to_keep(
                &asked.method,
                &head.headers,
                &data,
                trailers.as_ref(),
                limit,
            )
        {
            let entry = Entry {
                version: version.to_owned(),
                made: SystemTime::now(),
                took: begun.elapsed(),
                ttl,
                answer,
            };
            kept = Some(self.tiers.put(asked.key(version), entry).await);
        }
        let mut response = Response::from_parts(head, Body::empty());
        let data = response::compress(data, reply, response.headers_mut());
        *response.body_mut() = Known::body(data, trailers);
        Ok((response, kept))
    }

    /// Notes the version of an answer: from now on an answer of an earlier one is not served.
    fn observe<'a>(&self, area: &str, version: Option<&'a HeaderValue>) -> Option<&'a str> {
        let version = version?.to_str().ok()?;
        self.versions.observed(area, version);
        Some(version)
    }
}

/// Questions with answers that are too large to keep, by a hash of each. A question is forgotten
/// when another one comes to its slot.
#[derive(Debug)]
struct Oversized(Box<[AtomicU64]>);

impl Oversized {
    fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| AtomicU64::new(0)).collect())
    }

    fn contains(&self, key: &Key) -> bool {
        let (slot, tag) = self.slot(key);
        slot.load(Ordering::Relaxed) == tag
    }

    fn insert(&self, key: &Key) {
        let (slot, tag) = self.slot(key);
        slot.store(tag, Ordering::Relaxed);
    }

    /// A key's slot, and the tag that stands in it for the key: never 0.
    fn slot(&self, key: &Key) -> (&AtomicU64, u64) {
        let [slot, tag] = key.halves();
        (&self.0[slot as usize % self.0.len()], tag | 1)
    }
}

fn outcome_of(tier: Tier) -> &'static str {
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

    /// Counts a lookup that found its answer. Returns the answer.
    fn hit(
        &self,
        entry: &Entry,
        outcome: &'static str,
        reply: Option<compression::Encoding>,
    ) -> Response<Body> {
        metrics::lookup(outcome, self.method.name());
        response::from_entry(entry, outcome, reply)
    }
}

/// The caller that owns the answer; none if it is every caller's.
fn caller(call: &Call) -> Option<Caller> {
    match call.method.scope {
        Scope::Caller => Some(call.caller),
        Scope::Unspecified | Scope::Public => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::response::X_CACHE, super::response::code, *};
    use crate::{
        call::tests::call,
        grpc::{
            compression::Encoding,
            frame::{self, framed, trailers},
        },
        layers::cache::{Answer, Cache, Memory},
        middleware::{Layered, tests::Bottom},
    };
    use http::{HeaderMap, header::CACHE_CONTROL};
    use http_body_util::BodyExt;
    use std::time::Duration;
    use tonic::{Code, Status};
    use tower::Layer;
    use tower_test::mock::{Handle, Mock, pair};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const BATCH: &str = "/shopkeeper.churn.v1.ChurnService/BatchGetChurnRisks";

    type Mocked = (
        Layered<Caching, Bottom<Mock<Call, Response<Body>>>>,
        Handle<Call, Response<Body>>,
        ModelVersions,
    );

    fn mocked() -> Mocked {
        let (mock, mut handle) = pair();
        handle.allow(100);
        let versions = ModelVersions::of(["churn"]);
        versions.set("churn", Some("v1"));
        let tiers = Tiers::new(vec![Arc::new(Memory::new(1 << 20))]);
        let service = layer(tiers, versions.clone()).layer(Bottom(mock));
        (service, handle, versions)
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

    fn not_found() -> Response<Body> {
        let mut response =
            Status::with_details(Code::NotFound, "who? é", Bytes::from_static(b"\x08\x05d"))
                .into_http();
        response
            .headers_mut()
            .insert(X_MODEL_VERSION, HeaderValue::from_static("v1"));
        response
    }

    /// Makes a call, which the service answers if it gets there. Returns the response, and whether
    /// the call got there.
    async fn ask(
        mocked: &mut Mocked,
        call: Call,
        answer: impl FnOnce() -> Response<Body>,
    ) -> (Response<Body>, bool) {
        let (service, handle, _) = mocked;
        let asked = service.call(call);
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
        // Asked of v1, answered by v2: nothing of v1 was learnt, and from now on the version that
        // answers is not known.
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
        let large = vec![0; Config::default().max_answer_bytes + 1];
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
    async fn a_method_without_a_policy_and_an_unknown_version_bypass_the_cache() {
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
        let of = |name: Option<&'static str>| {
            let mut call = call(RISK, b"1");
            call.method = Arc::new(Method {
                scope: Scope::Caller,
                ..(*call.method).clone()
            });
            let headers =
                name.map(|name| (http::header::AUTHORIZATION, HeaderValue::from_static(name)));
            call.caller = Caller::of(&headers.into_iter().collect());
            call
        };
        for name in [None, Some("a"), Some("b")] {
            assert_eq!(
                ask_and_read(&mut m, of(name), || found("v1", b"mine"))
                    .await
                    .0,
                "miss"
            );
            assert_eq!(
                ask_and_read(&mut m, of(name), || unreachable!()).await.0,
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

    /// Starts a call, which is in flight when this returns.
    async fn begin(m: &mut Mocked, call: Call) -> tokio::task::JoinHandle<outcome::Answer> {
        let service = m.0.clone();
        let asked = tokio::spawn(async move { service.call(call).await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        asked
    }

    /// Whether no call gets to the service.
    async fn is_quiet(m: &mut Mocked) -> bool {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        futures_util::FutureExt::now_or_never(m.1.next_request()).is_none()
    }

    #[tokio::test]
    async fn calls_at_once_are_one_and_each_answer_is_as_if_alone() {
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
    async fn a_failure_is_the_leaders_alone_and_the_followers_ask_for_themselves() {
        let newer = || found("v2", b"new");
        let unavailable = || Status::unavailable("later").into_http();
        let lost = || Err(BoxError::from("lost"));
        let failures: [&dyn Fn() -> outcome::Answer; 3] =
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
    async fn only_the_same_question_to_the_same_model_is_shared() {
        let mut m = mocked();
        let of = |caller: Caller| {
            let mut call = call(RISK, b"1");
            call.method = Arc::new(Method {
                scope: Scope::Caller,
                ..(*call.method).clone()
            });
            call.caller = caller;
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
    #[expect(
        clippy::too_many_lines,
        reason = "a scenario told in order: time is left, the end is near, a refresh fails"
    )]
    async fn an_answer_near_its_end_is_refreshed_while_it_serves() {
        let (mock, mut handle) = pair();
        handle.allow(100);
        let versions = ModelVersions::of(["churn"]);
        versions.set("churn", Some("v1"));
        let memory = Arc::new(Memory::new(1 << 20));
        let tiers = Tiers::new(vec![memory.clone()]);
        let service = layer(tiers, versions.clone()).layer(Bottom(mock));
        let mut m = (service, handle, versions);
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
            memory.put(key, Arc::new(entry), ttl).await;
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
