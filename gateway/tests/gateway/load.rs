//! Overload over real sockets: a service of known capacity, and callers that do not wait for each
//! other.

use std::{sync::Arc, time::Duration};

use fake_shop::Manner;
use proto::churn::v1::{ListAtRiskCustomersRequest, churn_service_client::ChurnServiceClient};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::shop::{Front, Model, Running, customer};

/// The service answers two calls at a time, each in 50 ms: 40 calls per second.
pub(crate) const HANDS: usize = 2;
pub(crate) const TAKES: Duration = Duration::from_millis(50);
pub(crate) const CAPACITY: u32 = 40;

/// The service and a gateway in front of it.
pub(crate) async fn start() -> (Model, Running, Front) {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url())]).await;
    front.knows("v1").await;
    model.works(Manner::Busily(Arc::new(Semaphore::new(HANDS)), TAKES));
    (model, service, front)
}

/// Outcomes of calls.
#[derive(Debug, Default)]
pub(crate) struct Became {
    pub(crate) offered: usize,
    /// Durations of the answered calls.
    pub(crate) answered: Vec<Duration>,
    /// Calls refused with RESOURCE_EXHAUSTED and a retry delay.
    pub(crate) refused: usize,
    pub(crate) failed: Vec<Status>,
}

/// A call of high priority.
pub(crate) async fn checkout(
    mut client: ChurnServiceClient<Channel>,
    n: u32,
) -> Result<(), Status> {
    client
        .get_churn_risk(fresh(customer(&n.to_string())))
        .await
        .map(drop)
}

/// A call of low priority.
pub(crate) async fn list(mut client: ChurnServiceClient<Channel>, _: u32) -> Result<(), Status> {
    client
        .list_at_risk_customers(fresh(Request::new(ListAtRiskCustomersRequest::default())))
        .await
        .map(drop)
}

/// The request with the cache bypassed.
pub(crate) fn fresh<T>(mut request: Request<T>) -> Request<T> {
    request
        .metadata_mut()
        .insert("cache-control", "no-store".parse().unwrap());
    request
}

/// Starts calls at a constant rate, regardless of their outcomes.
pub(crate) async fn offer<F>(
    front: &Front,
    per_second: u32,
    lasts: Duration,
    call: impl Fn(ChurnServiceClient<Channel>, u32) -> F,
) -> Became
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let client = front.churn().await;
    let (start, every) = (Instant::now(), Duration::from_secs(1) / per_second.max(1));
    let mut calls = JoinSet::new();
    for n in 0..(lasts.as_secs_f64() * f64::from(per_second)) as u32 {
        tokio::time::sleep_until(start + every * n).await;
        let call = call(client.clone(), n);
        calls.spawn(async move {
            let begun = Instant::now();
            (call.await, begun.elapsed())
        });
    }
    let mut became = Became {
        offered: calls.len(),
        ..Became::default()
    };
    for (ended, took) in calls.join_all().await {
        match ended {
            Ok(()) => became.answered.push(took),
            Err(status)
                if status.code() == Code::ResourceExhausted
                    && status.get_details_retry_info().is_some() =>
            {
                became.refused += 1;
            }
            Err(status) => became.failed.push(status),
        }
    }
    became
}
