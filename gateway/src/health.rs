//! `grpc.health.v1` of the gateway: itself under the empty name, each service under its full name
//! by the health of the process behind it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Reports the health of each service; once the gateway is no longer `open`, none is serving. When
/// `until` resolves, all watches end. `services` are full names with the areas that can answer, one
/// of which must be ready; for a service without areas any area will do.
pub(crate) async fn report(
    mut reporter: HealthReporter,
    services: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    mut ready: BTreeMap<Arc<str>, watch::Receiver<bool>>,
    mut open: watch::Receiver<bool>,
    until: impl Future<Output = ()>,
) {
    tokio::select! {
        () = mirror(&reporter, &services, &mut ready, &mut open) => {}
        () = until => {
            for name in services.keys().map(|name| &**name).chain([""]) {
                reporter.set_service_status(name, ServingStatus::NotServing).await;
                reporter.clear_service_status(name).await;
            }
        }
    }
}

async fn mirror(
    reporter: &HealthReporter,
    services: &BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    ready: &mut BTreeMap<Arc<str>, watch::Receiver<bool>>,
    open: &mut watch::Receiver<bool>,
) {
    let mut reported = HashMap::new();
    loop {
        let is_open = *open.borrow_and_update();
        let now: BTreeMap<_, _> = ready
            .iter_mut()
            .map(|(area, ready)| (area.clone(), *ready.borrow_and_update()))
            .collect();
        let states = services.iter().map(|(service, areas)| {
            let answers = |area: &Arc<str>| areas.is_empty() || areas.contains(area);
            (
                &**service,
                is_open && now.iter().any(|(area, ready)| *ready && answers(area)),
            )
        });
        for (service, is_ready) in states.chain([("", is_open)]) {
            if reported.insert(service, is_ready) != Some(is_ready) {
                let status = if is_ready {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                };
                reporter.set_service_status(service, status).await;
            }
        }
        // The watchers end with the gateway, and so does this task.
        let mut changes: FuturesUnordered<_> = ready
            .values_mut()
            .chain([&mut *open])
            .map(|ready| ready.changed())
            .collect();
        if !matches!(changes.next().await, Some(Ok(()))) {
            return;
        }
    }
}
