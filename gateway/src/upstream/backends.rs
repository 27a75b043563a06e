//! The services behind this gateway: which there are, which are ready, and which versions of their
//! models answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method as Verb, Request, Response, Uri, Version};
use proto::model::v1::{ModelStatus, WatchModelRequest, model_service_client::ModelServiceClient};
use runtime::ClientTls;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tonic::{Status, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    call::{Call, Payload},
    caller::Caller,
    grpc::{
        frame::{self, Known},
        timeout, trace,
    },
    metrics,
    stack::BoxError,
    tasks::Tasks,
    upstream::{
        connection::{Backend, Unreachable},
        hedge::Hedge,
    },
};

/// Which version a call asks for: `canary` or `stable`.
pub(crate) const MODEL_CHANNEL: HeaderName = HeaderName::from_static("x-model-channel");
/// Pauses between attempts to be told how a service is doing.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// How long the version before the current one may still answer: calls that were under way, and
/// replicas that follow the store each in their own time.
const FOLLOWS: Duration = Duration::from_secs(3);
/// Longest wait for the first word.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// The services, by area. They are watched for as long as this lives.
#[derive(Debug, Default)]
pub struct Backends {
    by_area: BTreeMap<Arc<str>, Backend>,
    tls: Option<ClientTls>,
}

impl Backends {
    /// One more service.
    #[must_use]
    pub fn with(mut self, area: &str, backend: Backend) -> Self {
        self.by_area.insert(area.into(), backend);
        self
    }

    /// What they are called with at `https://`; it is kept up to date.
    #[must_use]
    pub fn over(mut self, tls: Option<ClientTls>) -> Self {
        self.tls = tls;
        self
    }

    /// Their areas.
    pub fn areas(&self) -> BTreeSet<Arc<str>> {
        self.by_area.keys().cloned().collect()
    }

    /// Begins to watch them.
    pub(crate) fn watch(
        &self,
        tasks: &mut Tasks,
    ) -> (Versions, BTreeMap<Arc<str>, watch::Receiver<bool>>) {
        let versions = Versions::of(self.by_area.keys().map(|area| &**area));
        let mut ready = BTreeMap::new();
        if let Some(tls) = self.tls.clone() {
            tasks.spawn(tls.watch());
        }
        for (area, backend) in &self.by_area {
            let (sender, receiver) = watch::channel(false);
            ready.insert(area.clone(), receiver);
            let tell = move |now| {
                sender.send_replace(now);
            };
            tasks.spawn(watch_readiness(area.clone(), backend.clone(), true, tell));
            tasks.spawn(tell_readiness(area.clone(), ready[area].clone()));
            tasks.spawn(watch_version(
                area.clone(),
                backend.clone(),
                versions.clone(),
            ));
        }
        (versions, ready)
    }

    /// Hands calls to them.
    pub(crate) fn dispatch(self) -> Dispatch {
        Dispatch {
            by_area: Arc::new(self.by_area),
        }
    }
}

/// Hands a call to its service.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    by_area: Arc<BTreeMap<Arc<str>, Backend>>,
}

impl Service<Call> for Dispatch {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let backend = self.by_area.get(&call.area).cloned();
        Box::pin(async move {
            let backend =
                backend.ok_or_else(|| Unreachable::new(call.area.clone(), "there is none"))?;
            timeout::carry(&mut call.headers, call.deadline)?;
            trace::carry(&mut call.headers);
            let (hedge, body) = match call.payload {
                Payload::Whole { body, .. } => {
                    let with = |budget| Hedge {
                        budget,
                        deadline: call.deadline,
                        body: body.clone(),
                    };
                    (call.budget.map(with), Known::body(body, None))
                }
                Payload::Stream(body) => (None, body),
            };
            let mut request = Request::new(body);
            *request.method_mut() = Verb::POST;
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = Uri::from(call.method.path.clone());
            *request.headers_mut() = call.headers;
            request.extensions_mut().insert(call.tried);
            hedge.and_then(|hedge| request.extensions_mut().insert(hedge));
            backend
                .oneshot(request)
                .await
                .inspect_err(|_| metrics::backend_error(&call.area))
        })
    }
}

/// Which versions of its model each service answers with.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    by_area: Arc<BTreeMap<Arc<str>, Current>>,
}

#[derive(Debug, Default)]
struct Current {
    said: ArcSwapOption<Said>,
    doubted: Notify,
}

/// What a service said last.
#[derive(Debug, Clone)]
struct Said {
    stable: Arc<String>,
    /// The version before that, and until when its answers are taken to be late ones, or those of
    /// a replica that follows.
    before: Option<(Arc<String>, Instant)>,
    canary: Option<Canary>,
    /// Whether nothing has spoken against it since.
    holds: bool,
}

/// The version that a share of callers gets.
#[derive(Debug, Clone)]
struct Canary {
    version: Arc<String>,
    /// Callers, of a hundred.
    percent: u32,
}

impl Versions {
    /// Those of these services; none is known yet.
    pub(crate) fn of<'a>(areas: impl IntoIterator<Item = &'a str>) -> Self {
        let by_area = areas
            .into_iter()
            .map(|area| (area.into(), Current::default()))
            .collect();
        Self {
            by_area: Arc::new(by_area),
        }
    }

    /// The version that is to answer a call, where that is known. A caller of the canary's share
    /// gets the canary every time, and so does a call that asks for it; the service does as the
    /// header says.
    pub(crate) fn choose(&self, call: &mut Call) -> Option<Arc<String>> {
        let wish = call.headers.remove(MODEL_CHANNEL);
        let said = self.by_area.get(&call.area)?.said.load_full()?;
        let canary =
            said.canary
                .as_ref()
                .filter(|canary| match wish.as_ref().map(HeaderValue::as_bytes) {
                    Some(b"canary") => true,
                    Some(b"stable") => false,
                    Some(_) | None => place(call).is_some_and(|place| place < canary.percent),
                });
        if canary.is_some() {
            call.headers
                .insert(MODEL_CHANNEL, HeaderValue::from_static("canary"));
            metrics::canary(&call.area);
        }
        said.holds
            .then(|| Arc::clone(canary.map_or(&said.stable, |canary| &canary.version)))
    }

    /// The version that answers whoever is not on trial, where that is known.
    pub(crate) fn current(&self, area: &str) -> Option<Arc<String>> {
        let said = self.by_area.get(area)?.said.load_full()?;
        said.holds.then(|| Arc::clone(&said.stable))
    }

    #[cfg(test)]
    pub(crate) fn set(&self, area: &str, version: Option<&str>) {
        self.told(
            area,
            ModelStatus {
                version: version.unwrap_or_default().into(),
                ..ModelStatus::default()
            },
        );
    }

    /// The service says so.
    pub(crate) fn told(&self, area: &str, status: ModelStatus) {
        let Some(current) = self.by_area.get(area) else {
            return;
        };
        let loaded = status.canary.filter(|canary| canary.refusal.is_empty());
        let canary = loaded.map(|canary| Canary {
            version: Arc::new(canary.version),
            percent: canary.percent,
        });
        let (holds, stable) = (!status.version.is_empty(), Arc::new(status.version));
        let said = current.said.load_full();
        let before = said.and_then(|said| match said.stable == stable {
            true => said.before.clone(),
            false => Some((said.stable.clone(), Instant::now() + FOLLOWS)),
        });
        current.said.store(Some(Arc::new(Said {
            stable,
            before,
            canary,
            holds,
        })));
    }

    /// An answer says so. Where it is none of what the service said, nobody knows until it says it
    /// again.
    pub(crate) fn seen(&self, area: &str, version: &str) {
        let Some(current) = self.by_area.get(area) else {
            return;
        };
        let said = current.said.load();
        let Some(said) = said.as_ref().filter(|said| said.holds) else {
            return;
        };
        let is_canary = said
            .canary
            .as_ref()
            .is_some_and(|canary| *canary.version == version);
        let is_late = || {
            said.before
                .as_ref()
                .is_some_and(|(before, until)| **before == version && Instant::now() < *until)
        };
        if *said.stable != version && !is_canary && !is_late() {
            current.doubt();
            current.doubted.notify_one();
        }
    }

    /// The service cannot be asked.
    fn lost(&self, area: &str) {
        if let Some(current) = self.by_area.get(area) {
            current.doubt();
        }
    }

    /// Resolves when an answer was of another version than the service said.
    async fn doubted(&self, area: &str) {
        match self.by_area.get(area) {
            Some(current) => current.doubted.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Current {
    /// From here on no version is known. Who gets the canary stays as it was: that does not hang on
    /// a moment's doubt.
    fn doubt(&self) {
        self.said.rcu(|said| {
            said.as_ref().map(|said| {
                Arc::new(Said {
                    holds: false,
                    ..Said::clone(said)
                })
            })
        });
    }
}

/// A caller's place among a hundred, the same every time: by who they are, or where nobody knows
/// that, by the customer they ask for, or else by all they ask. Streams and lists in pages of
/// nobody in particular have none: what they ask changes on the way.
fn place(call: &Call) -> Option<u32> {
    let whole = match &call.payload {
        Payload::Whole { message, .. } => message.as_deref(),
        Payload::Stream(_) => None,
    };
    let customer =
        || frame::string_field(whole?, call.method.customer_field?).filter(|id| !id.is_empty());
    let who = match call.caller {
        caller if caller != Caller::anonymous() => caller.as_bytes().to_vec(),
        _ => customer()
            .map(str::as_bytes)
            .or(whole.filter(|_| !call.method.paged))?
            .to_vec(),
    };
    let mut hasher = blake3::Hasher::new_derive_key("shopkeeper gateway canary 1");
    hasher
        .update(&(call.area.len() as u64).to_le_bytes())
        .update(call.area.as_bytes())
        .update(&who);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    Some(u32::from_le_bytes([a, b, c, d]) % 100)
}

/// A service as tonic's clients ask it.
fn asked(backend: Backend) -> BoxCloneSyncService<Request<Body>, Response<Body>, Status> {
    BoxCloneSyncService::new(backend.map_err(|error| Status::unavailable(error.to_string())))
}

/// Tells whether a service is ready, as soon as that is known and whenever it changes. Where it
/// says that it is not, or is lost, one that may be several is asked again: another replica may be.
pub(crate) async fn watch_readiness(
    name: Arc<str>,
    backend: Backend,
    several: bool,
    tell: impl Fn(bool),
) {
    let mut told = None;
    let mut set = |now: bool| {
        if told.replace(now) != Some(now) {
            tracing::info!(service = &*name, ready = now, "health");
            tell(now);
        }
    };
    let [mut pause, longest] = PAUSES;
    loop {
        let mut served = false;
        let watched: Result<(), Status> = async {
            let mut client = HealthClient::new(asked(backend.clone()));
            let whole_process = HealthCheckRequest {
                service: String::new(),
            };
            let mut changes = in_time(client.watch(whole_process)).await?.into_inner();
            while let Some(change) = changes.message().await? {
                let serves = change.status() == ServingStatus::Serving;
                if served && !serves {
                    return Ok(());
                }
                set(serves);
                served = serves;
                if serves {
                    pause = PAUSES[0];
                } else if several {
                    return Ok(());
                }
            }
            Ok(())
        }
        .await;
        if served && several {
            continue; // at once, before anybody is told
        }
        tracing::debug!(
            service = &*name,
            error = watched.err().map(tracing::field::display),
            "health is not known"
        );
        set(false);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Keeps the gauge as readiness is.
async fn tell_readiness(area: Arc<str>, mut ready: watch::Receiver<bool>) {
    loop {
        let now = *ready.borrow_and_update();
        metrics::backend_ready(&area, now);
        if ready.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_version(area: Arc<str>, backend: Backend, versions: Versions) {
    let [mut pause, longest] = PAUSES;
    let mut asked_again: Option<Instant> = None;
    loop {
        let mut doubted = false;
        let watched: Result<(), Status> = async {
            let mut client = ModelServiceClient::new(asked(backend.clone()));
            let its_own = WatchModelRequest {
                model: String::new(),
            };
            let mut changes = in_time(client.watch_model(its_own)).await?.into_inner();
            loop {
                // What it has said since may settle the doubt.
                let change = tokio::select! {
                    biased;
                    change = changes.message() => change?,
                    () = versions.doubted(&area) => {
                        doubted = true;
                        return Ok(());
                    }
                };
                let Some(status) = change.map(|change| change.status.unwrap_or_default()) else {
                    return Ok(());
                };
                pause = PAUSES[0];
                tracing::debug!(service = &*area, model.version = status.version, "model");
                versions.told(&area, status);
            }
        }
        .await;
        versions.lost(&area);
        if doubted && asked_again.is_none_or(|at| at.elapsed() >= longest) {
            asked_again = Some(Instant::now());
            continue; // at once, but not again and again
        }
        tracing::debug!(
            service = &*area,
            error = watched.err().map(tracing::field::display),
            "version is not known"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    tokio::time::timeout(FIRST_WORD, answer)
        .await
        .map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use proto::model::v1 as pb;

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

    fn status(version: &str, canary: Option<(&str, u32)>) -> ModelStatus {
        let canary = canary.map(|(version, percent)| pb::Canary {
            version: version.into(),
            percent,
            ..Default::default()
        });
        ModelStatus {
            version: version.into(),
            canary,
            ..ModelStatus::default()
        }
    }

    fn chosen(versions: &Versions, call: &mut Call) -> Option<String> {
        versions.choose(call).map(|version| (*version).clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_denies_no_version() {
        let versions = Versions::of(["churn"]);
        for version in ["v1", "v2", "v2"] {
            versions.set("churn", Some(version));
        }
        versions.seen("churn", "v1");
        assert_eq!(
            chosen(&versions, &mut call(RISK, b"")).as_deref(),
            Some("v2")
        );
        tokio::time::advance(FOLLOWS).await;
        versions.seen("churn", "v1");
        assert_eq!(
            chosen(&versions, &mut call(RISK, b"")),
            None,
            "it has had its time"
        );
    }

    #[tokio::test]
    async fn a_version_that_an_answer_denies_is_not_known() {
        let versions = Versions::of(["churn"]);
        assert_eq!(versions.current("churn"), None);
        versions.seen("churn", "v1");
        versions.set("churn", Some("v1"));
        versions.seen("churn", "v1");
        assert_eq!(
            versions.current("churn").as_deref().map(String::as_str),
            Some("v1")
        );
        versions.seen("churn", "v2");
        assert_eq!(
            (
                versions.current("churn"),
                chosen(&versions, &mut call(RISK, b""))
            ),
            (None, None)
        );
        versions.doubted("churn").await;
        versions.set("churn", Some(""));
        assert_eq!(versions.current("churn"), None);
        assert_eq!(versions.current("nobody"), None);
    }

    #[test]
    fn the_same_callers_get_the_canary_whatever_they_ask() {
        let versions = Versions::of(["churn"]);
        versions.told("churn", status("v1", Some(("v2", 10))));
        let mut calls = [call(RISK, b""), call(RISK, b"\x0a\x01a")];
        let mut of = |name: &str, which: usize| {
            let call = &mut calls[which];
            call.caller = Caller::named(name);
            call.headers.clear();
            let version = chosen(&versions, call).unwrap();
            assert_eq!(
                call.headers.contains_key(MODEL_CHANNEL),
                version == "v2",
                "the service is told"
            );
            version
        };
        let names: Vec<String> = (0..1000).map(|n| format!("caller {n}")).collect();
        let lucky: Vec<_> = names.iter().filter(|name| of(name, 0) == "v2").collect();
        assert!((70..=130).contains(&lucky.len()), "{} of 1000", lucky.len());
        assert!(names.iter().all(|name| of(name, 1) == of(name, 0)));

        versions.told("churn", status("v1", Some(("v2", 20))));
        assert!(
            lucky.iter().all(|name| of(name, 0) == "v2"),
            "more callers are those and others"
        );
        versions.told("churn", status("v1", None));
        assert!(names.iter().all(|name| of(name, 0) == "v1"));
    }

    #[test]
    fn nobody_in_particular_is_the_customer_they_ask_for() {
        let versions = Versions::of(["churn"]);
        versions.told("churn", status("v1", Some(("v2", 50))));
        let customers: [&'static [u8]; 8] = [
            b"\x0a\x01a",
            b"\x0a\x01b",
            b"\x0a\x01c",
            b"\x0a\x01d",
            b"\x0a\x01e",
            b"\x0a\x01f",
            b"\x0a\x01g",
            b"\x0a\x01h",
        ];
        let all = customers.map(|message| {
            // The same customer behind a field that this gateway does not know.
            let other = [message, b"\x78\x01"].concat().leak();
            let version = chosen(&versions, &mut call(RISK, message));
            assert_eq!(version, chosen(&versions, &mut call(RISK, other)));
            version.unwrap()
        });
        assert!(
            all.contains(&"v1".to_owned()) && all.contains(&"v2".to_owned()),
            "{all:?}"
        );
        let stream = Call {
            payload: Payload::Stream(Body::empty()),
            ..call(RISK, b"")
        };
        let list = |message| {
            call(
                "/shopkeeper.churn.v1.ChurnService/ListAtRiskCustomers",
                message,
            )
        };
        assert_eq!(
            (
                place(&stream),
                place(&list(b"")),
                place(&list(b"\x12\x01a"))
            ),
            (None, None, None)
        );
    }

    #[test]
    fn a_caller_may_ask_for_either_version_and_a_doubt_does_not_change_who_gets_which() {
        let versions = Versions::of(["churn"]);
        versions.told("churn", status("v1", Some(("v2", 0))));
        let asking = |channel: &'static str| {
            let mut call = call(RISK, b"\x0a\x01a");
            call.headers
                .insert(MODEL_CHANNEL, HeaderValue::from_static(channel));
            let version = chosen(&versions, &mut call);
            (version, call.headers.contains_key(MODEL_CHANNEL))
        };
        assert_eq!(asking("canary"), (Some("v2".to_owned()), true));
        assert_eq!(asking("stable"), (Some("v1".to_owned()), false));
        assert_eq!(asking("another"), (Some("v1".to_owned()), false));
        versions.seen("churn", "v2");
        assert_eq!(
            asking("canary").0.as_deref(),
            Some("v2"),
            "the canary is no surprise"
        );
        versions.seen("churn", "v3");
        assert_eq!(asking("canary"), (None, true));
    }
}
