//! The services behind this gateway: which there are, which are ready, and which versions of their models answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use http::{Method as Verb, Request, Response, Uri, Version};
use proto::model::v1::{WatchModelRequest, model_service_client::ModelServiceClient};
use tokio::sync::{Notify, watch};
use tonic::{Status, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    backend::{Backend, Unreachable},
    call::{Call, Payload},
    deadline,
    frame::Known,
    meter,
    stack::BoxError,
    tasks::Tasks,
    trace,
};

/// Pauses between attempts to be told how a service is doing.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// Longest wait for the first word.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// The services, by area. They are watched for as long as this lives.
#[derive(Debug, Default)]
pub struct Backends {
    by_area: BTreeMap<Arc<str>, Backend>,
}

impl Backends {
    /// One more service.
    #[must_use]
    pub fn with(mut self, area: &str, backend: Backend) -> Self {
        self.by_area.insert(area.into(), backend);
        self
    }

    /// Their areas.
    pub fn areas(&self) -> BTreeSet<Arc<str>> {
        self.by_area.keys().cloned().collect()
    }

    /// Begins to watch them.
    pub(crate) fn watch(&self, tasks: &mut Tasks) -> (Versions, BTreeMap<Arc<str>, watch::Receiver<bool>>) {
        let versions = Versions::of(self.by_area.keys().map(|area| &**area));
        let mut ready = BTreeMap::new();
        for (area, backend) in &self.by_area {
            let (sender, receiver) = watch::channel(false);
            ready.insert(area.clone(), receiver);
            let tell = move |now| {
                sender.send_replace(now);
            };
            tasks.spawn(watch_readiness(area.clone(), backend.clone(), true, tell));
            tasks.spawn(tell_readiness(area.clone(), ready[area].clone()));
            tasks.spawn(watch_version(area.clone(), backend.clone(), versions.clone()));
        }
        (versions, ready)
    }

    /// Hands calls to them.
    pub(crate) fn dispatch(self) -> Dispatch {
        Dispatch { by_area: Arc::new(self.by_area) }
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
            let backend = backend.ok_or_else(|| Unreachable::new(call.area.clone(), "there is none"))?;
            deadline::carry(&mut call.headers, call.deadline)?;
            trace::carry(&mut call.headers);
            let body = match call.payload {
                Payload::Whole { body, .. } => Known::body(body, None),
                Payload::Stream(body) => body,
            };
            let mut request = Request::new(body);
            *request.method_mut() = Verb::POST;
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = Uri::from(call.method.path.clone());
            *request.headers_mut() = call.headers;
            request.extensions_mut().insert(call.tried);
            backend.oneshot(request).await.inspect_err(|_| meter::backend_error(&call.area))
        })
    }
}

/// Which version of its model each service answers with.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    by_area: Arc<BTreeMap<Arc<str>, Current>>,
}

#[derive(Debug, Default)]
struct Current {
    version: ArcSwapOption<String>,
    doubted: Notify,
}

impl Versions {
    /// Those of these services; none is known yet.
    pub(crate) fn of<'a>(areas: impl IntoIterator<Item = &'a str>) -> Self {
        let by_area = areas.into_iter().map(|area| (area.into(), Current::default())).collect();
        Self { by_area: Arc::new(by_area) }
    }

    /// The version that answers; none where that is not known.
    pub(crate) fn current(&self, area: &str) -> Option<Arc<String>> {
        self.by_area.get(area)?.version.load_full()
    }

    /// The service says so.
    pub(crate) fn set(&self, area: &str, version: Option<&str>) {
        if let Some(current) = self.by_area.get(area) {
            current.version.store(version.filter(|version| !version.is_empty()).map(|v| Arc::new(v.to_owned())));
        }
    }

    /// An answer says so. Where it is not what the service said, nobody knows until it says it again.
    pub(crate) fn seen(&self, area: &str, version: &str) {
        let Some(current) = self.by_area.get(area) else { return };
        if current.version.load().as_ref().is_some_and(|known| known.as_str() != version) {
            current.version.store(None);
            current.doubted.notify_one();
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

/// A service as tonic's clients ask it.
fn asked(backend: Backend) -> BoxCloneSyncService<Request<Body>, Response<Body>, Status> {
    BoxCloneSyncService::new(backend.map_err(|error| Status::unavailable(error.to_string())))
}

/// Tells whether a service is ready, as soon as that is known and whenever it changes. Where it says that it is no longer, or
/// is lost, one that may be several is asked once more: another replica may be.
pub(crate) async fn watch_readiness(name: Arc<str>, backend: Backend, several: bool, tell: impl Fn(bool)) {
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
            let whole_process = HealthCheckRequest { service: String::new() };
            let mut changes = in_time(client.watch(whole_process)).await?.into_inner();
            while let Some(change) = changes.message().await? {
                let serves = change.status() == ServingStatus::Serving;
                if served && !serves {
                    return Ok(());
                }
                (served, pause) = (serves, PAUSES[0]);
                set(serves);
            }
            Ok(())
        }
        .await;
        if served && several {
            continue;
        }
        tracing::debug!(service = &*name, error = watched.err().map(tracing::field::display), "health is not known");
        set(false);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Keeps the gauge as readiness is.
async fn tell_readiness(area: Arc<str>, mut ready: watch::Receiver<bool>) {
    loop {
        let now = *ready.borrow_and_update();
        meter::backend_ready(&area, now);
        if ready.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_version(area: Arc<str>, backend: Backend, versions: Versions) {
    let [mut pause, longest] = PAUSES;
    loop {
        let watched: Result<(), Status> = async {
            let mut client = ModelServiceClient::new(asked(backend.clone()));
            let its_own = WatchModelRequest { model: String::new() };
            let mut changes = in_time(client.watch_model(its_own)).await?.into_inner();
            loop {
                let change = tokio::select! {
                    change = changes.message() => change?,
                    () = versions.doubted(&area) => return Ok(()),
                };
                let Some(status) = change.map(|change| change.status.unwrap_or_default()) else { return Ok(()) };
                pause = PAUSES[0];
                tracing::debug!(service = &*area, model.version = status.version, "model");
                versions.set(&area, Some(&status.version));
            }
        }
        .await;
        versions.set(&area, None);
        tracing::debug!(service = &*area, error = watched.err().map(tracing::field::display), "version is not known");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    tokio::time::timeout(FIRST_WORD, answer).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_version_that_an_answer_denies_is_not_known() {
        let versions = Versions::of(["churn"]);
        assert_eq!(versions.current("churn"), None);
        versions.seen("churn", "v1");
        versions.set("churn", Some("v1"));
        versions.seen("churn", "v1");
        assert_eq!(versions.current("churn").as_deref().map(String::as_str), Some("v1"));
        versions.seen("churn", "v2");
        assert_eq!(versions.current("churn"), None);
        versions.doubted("churn").await;
        versions.set("churn", Some(""));
        assert_eq!(versions.current("churn"), None);
        assert_eq!(versions.current("nobody"), None);
    }
}
