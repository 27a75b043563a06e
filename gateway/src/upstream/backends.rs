//! The services behind this gateway: which there are, and the call to each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::{Method as Verb, Request, Uri, Version};
use runtime::ClientTls;
use tokio::{
    sync::watch::{Receiver, Sender},
    task::JoinSet,
};
use tower::ServiceExt;

use crate::{
    call::{Call, Payload},
    error::Unreachable,
    grpc::{frame::Known, timeout, trace},
    metrics,
    middleware::Handler,
    model_versions::ModelVersions,
    outcome::Answer,
    upstream::{backend::Backend, hedge::Hedge, watch},
};

/// The services, by area.
#[derive(Debug, Default)]
pub struct Backends {
    by_area: BTreeMap<Arc<str>, Backend>,
    tls: Option<ClientTls>,
}

impl Backends {
    /// Adds a service.
    #[must_use]
    pub fn with(mut self, area: &str, backend: Backend) -> Self {
        self.by_area.insert(area.into(), backend);
        self
    }

    /// Sets the TLS client of services at `https://`, which is kept up to date.
    #[must_use]
    pub fn over(mut self, tls: Option<ClientTls>) -> Self {
        self.tls = tls;
        self
    }

    /// The areas of all services.
    pub fn areas(&self) -> BTreeSet<Arc<str>> {
        self.by_area.keys().cloned().collect()
    }

    /// Begins to watch all services. Returns their versions, and by area whether each is ready.
    pub(crate) fn watch(
        &self,
        tasks: &mut JoinSet<()>,
    ) -> (ModelVersions, BTreeMap<Arc<str>, Receiver<bool>>) {
        let versions = ModelVersions::of(self.by_area.keys().map(|area| &**area));
        let mut ready = BTreeMap::new();
        if let Some(tls) = self.tls.clone() {
            tasks.spawn(tls.watch());
        }
        for (area, backend) in &self.by_area {
            let sender = Sender::new(false);
            ready.insert(area.clone(), sender.subscribe());
            let tell = move |now| {
                sender.send_replace(now);
            };
            tasks.spawn(watch::watch_readiness(
                area.clone(),
                backend.clone(),
                true,
                tell,
            ));
            tasks.spawn(watch::report_readiness(area.clone(), ready[area].clone()));
            tasks.spawn(watch::watch_version(
                area.clone(),
                backend.clone(),
                versions.clone(),
            ));
        }
        (versions, ready)
    }

    /// The bottom of the stack, which calls the services.
    pub(crate) fn dispatch(self) -> Dispatch {
        Dispatch {
            by_area: Arc::new(self.by_area),
        }
    }
}

/// Calls the service of a call's area.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    by_area: Arc<BTreeMap<Arc<str>, Backend>>,
}

impl Handler<Call> for Dispatch {
    async fn call(&self, mut call: Call) -> Answer {
        let backend = self.by_area.get(&call.area).cloned();
        let backend =
            backend.ok_or_else(|| Unreachable::new(call.area.clone(), "there is none"))?;
        // As late as possible: what is left of the caller's time is told to the service.
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
        request.extensions_mut().insert(call.attempted);
        hedge.and_then(|hedge| request.extensions_mut().insert(hedge));
        backend
            .oneshot(request)
            .await
            .inspect_err(|_| metrics::backend_error(&call.area))
    }
}
