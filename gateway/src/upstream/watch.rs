//! Watches a service for as long as the gateway lives: whether it is ready, and which version of
//! its model it announces.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use proto::model::v1::{WatchModelRequest, model_service_client::ModelServiceClient};
use tokio::{sync::watch, time::Instant};
use tonic::{Status, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use crate::{backoff::Backoff, metrics, model_versions::ModelVersions, upstream::backend::Backend};

/// How services are watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchConfig {
    /// Pauses between attempts. Default: 50 to 500 ms.
    pub(crate) retry: Backoff,
    /// Longest wait for the response head of a watch. Default: 5 s.
    pub(crate) first_response: Duration,
    /// Shortest time between two answers that make the gateway ask for the version again at once.
    /// Default: 500 ms.
    pub(crate) min_recheck: Duration,
}

impl Default for WatchConfig {
    fn default() -> Self {
        let half_a_second = Duration::from_millis(500);
        Self {
            retry: Backoff {
                first: Duration::from_millis(50),
                longest: half_a_second,
            },
            first_response: Duration::from_secs(5),
            min_recheck: half_a_second,
        }
    }
}

/// A backend with the error type that tonic's clients need.
fn client(backend: Backend) -> BoxCloneSyncService<Request<Body>, Response<Body>, Status> {
    BoxCloneSyncService::new(backend.map_err(|error| Status::unavailable(error.to_string())))
}

/// Calls `tell` with whether a service is ready, once that is known and after each change. With
/// `several` replicas behind `backend`, a watch that ends or says "not ready" begins again: the
/// next replica may be ready.
pub(super) async fn watch_readiness(
    name: Arc<str>,
    backend: Backend,
    several: bool,
    tell: impl Fn(bool),
) {
    let mut last = None;
    let mut set = |ready: bool| {
        if last.replace(ready) != Some(ready) {
            tracing::info!(service = &*name, ready, "health");
            tell(ready);
        }
    };
    let config = WatchConfig::default();
    let mut pauses = config.retry.pauses();
    loop {
        let mut was_serving = false;
        let watched: Result<(), Status> = async {
            let mut client = HealthClient::new(client(backend.clone()));
            let whole_process = HealthCheckRequest {
                service: String::new(),
            };
            let mut changes = in_time(config.first_response, client.watch(whole_process))
                .await?
                .into_inner();
            while let Some(change) = changes.message().await? {
                let is_serving = change.status() == ServingStatus::Serving;
                if was_serving && !is_serving {
                    return Ok(());
                }
                set(is_serving);
                was_serving = is_serving;
                if is_serving {
                    pauses.reset();
                } else if several {
                    return Ok(());
                }
            }
            Ok(())
        }
        .await;
        if was_serving && several {
            continue; // at once: another replica may answer before the change is reported
        }
        tracing::debug!(
            service = &*name,
            error = watched.err().map(tracing::field::display),
            "health is not known"
        );
        set(false);
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Keeps the readiness gauge of a service up to date.
pub(super) async fn report_readiness(area: Arc<str>, mut ready: watch::Receiver<bool>) {
    loop {
        let now = *ready.borrow_and_update();
        metrics::backend_ready(&area, now);
        if ready.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps what a service announces as its versions.
pub(super) async fn watch_version(area: Arc<str>, backend: Backend, versions: ModelVersions) {
    let config = WatchConfig::default();
    let mut pauses = config.retry.pauses();
    let mut asked_again: Option<Instant> = None;
    loop {
        let mut contradicted = false;
        let watched: Result<(), Status> = async {
            let mut client = ModelServiceClient::new(client(backend.clone()));
            let its_own = WatchModelRequest {
                model: String::new(),
            };
            let mut changes = in_time(config.first_response, client.watch_model(its_own))
                .await?
                .into_inner();
            loop {
                // Announcements first: one that has come since the answer may explain it.
                let change = tokio::select! {
                    biased;
                    change = changes.message() => change?,
                    () = versions.contradicted(&area) => {
                        contradicted = true;
                        return Ok(());
                    }
                };
                let Some(status) = change.map(|change| change.status.unwrap_or_default()) else {
                    return Ok(());
                };
                pauses.reset();
                tracing::debug!(service = &*area, model.version = status.version, "model");
                versions.announced(&area, status);
            }
        }
        .await;
        versions.suspect(&area);
        if contradicted && asked_again.is_none_or(|at| at.elapsed() >= config.min_recheck) {
            asked_again = Some(Instant::now());
            continue; // at once, but not in a loop
        }
        tracing::debug!(
            service = &*area,
            error = watched.err().map(tracing::field::display),
            "version is not known"
        );
        tokio::time::sleep(pauses.next()).await;
    }
}

async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    tokio::time::timeout(limit, answer).await.map_err(late)?
}
