//! One address for all services. Routes by gRPC path without decoding bodies, answers from a cache
//! what was asked before, passes deadlines on, and knows whether each service is ready.
//!
//! `stack` is the page to read first: what a call meets, from top to bottom. Then:
//!
//! - `layers`: what a call meets, a file each. `middleware` is how a layer is written.
//! - `upstream`: the services: their addresses, replicas, connections and health.
//! - `redis`: the Redis that replicas of the gateway share.
//! - `grpc`: frames, compression, timeouts and trace headers on the wire.
//! - `web`: JSON over HTTP, gRPC-Web and the dashboard, in front of the stack.
//! - the other files: what several of these share. They import none of them.

mod args;
mod attempts;
mod backoff;
mod call;
mod caller;
mod drain;
mod error;
mod grpc;
mod health;
mod inference;
mod latency_quantile;
mod layers;
pub mod method;
mod metrics;
mod middleware;
mod model_versions;
mod outcome;
mod random;
pub mod redis;
mod stack;
mod upstream;
mod web;

use std::sync::Arc;

use futures_util::future::Either;
use http::Request;
use tokio::{sync::watch, task::JoinSet};
use tonic::{body::Body, service::Routes};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower::{ServiceExt, service_fn};

use crate::web::Web;
pub use crate::{
    args::{FrontArgs, GatewayArgs},
    error::BoxError,
    layers::{
        auth::{Auth, AuthArgs},
        cache,
    },
    stack::{Parts, Stack},
    upstream::{
        backend::{Backend, in_process},
        backends::Backends,
    },
    web::{WebArgs, WebError},
};

/// A gateway. It watches its services until it is dropped.
#[derive(Debug)]
pub struct Gateway {
    stack: Stack,
    web: Web,
    /// Full names of all services of the API.
    paths: Vec<Arc<str>>,
    /// Full names of the services with an address.
    served: Vec<&'static str>,
    health: HealthReporter,
    ready: watch::Sender<bool>,
    draining: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Gateway {
    /// A gateway of these parts. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the paths beside the methods in the .proto files cannot be used.
    pub fn new(parts: Parts, web: &WebArgs) -> Result<Self, WebError> {
        let mut tasks = JoinSet::new();
        let (versions, ready) = parts.backends.watch(&mut tasks);
        parts.auth.watch(&parts.methods, &mut tasks);
        let mut services = parts.methods.services();
        let paths = services.keys().cloned().collect();
        services.retain(|_, areas| {
            areas.is_empty() || areas.iter().any(|area| ready.contains_key(area))
        });
        // Leaked: they are few, and live as long as the process.
        let served = services
            .keys()
            .map(|name| &*String::from(&**name).leak())
            .collect();
        let own = inference::answers(&services, &ready, versions.clone());
        let (health, open, draining) = (
            HealthReporter::new(),
            watch::Sender::new(true),
            watch::Sender::new(false),
        );
        let until = drain::begun(draining.subscribe());
        tasks.spawn(health::report(
            health.clone(),
            services,
            ready,
            open.subscribe(),
            until,
        ));
        let auth = parts.auth.clone();
        let stack = stack::stack(parts, versions, own, draining.subscribe());
        let web = Web::new(web, proto::DESCRIPTORS, auth, stack.clone())?;
        Ok(Self {
            stack,
            web,
            paths,
            served,
            health,
            ready: open,
            draining,
            _tasks: tasks,
        })
    }

    /// The gateway as a tower service, for callers without a socket.
    pub fn stack(&self) -> Stack {
        self.stack.clone()
    }

    /// The gateway as a process serves it: every service of the API over gRPC, gRPC-Web and JSON,
    /// and health by service.
    pub fn service(&self) -> runtime::Service {
        let axum_body = |request: Request<axum::body::Body>| request.map(Body::new);
        let (calls, web) = (self.stack.clone(), self.web.clone());
        let calls = service_fn(move |request: Request<axum::body::Body>| {
            let request = request.map(Body::new);
            if runtime::is_grpc(request.headers()) {
                Either::Left(calls.clone().oneshot(request))
            } else {
                Either::Right(web.clone().answer(request))
            }
        });
        let router = self
            .paths
            .iter()
            .fold(axum::Router::new(), |router, service| {
                router.route_service(&format!("/{service}/{{*method}}"), calls.clone())
            });
        // The process has a health service of its own, which knows of one service. A path that is
        // given in full, as here, comes before it.
        let health = HealthServer::new(HealthService::from_health_reporter(self.health.clone()))
            .map_request(axum_body);
        let router = ["Check", "Watch"]
            .into_iter()
            .fold(router, |router, method| {
                router.route_service(&format!("/grpc.health.v1.Health/{method}"), health.clone())
            });
        runtime::Service {
            name: "gateway",
            services: self.served.clone(),
            routes: Routes::from(self.web.routes(router)),
            ready: self.ready.subscribe(),
            status: None,
            draining: self.draining.clone(),
        }
    }

    /// True once calls have to end.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Resolves when `shutdown` does, and is unhealthy from then on.
    pub async fn until(&self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        self.ready.send_replace(false);
    }
}
