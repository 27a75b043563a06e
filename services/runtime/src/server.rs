//! One listener: the services, health, reflection, and a drain of bounded time.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use proto::model::v1::ModelStatus;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    connections::{Allowed, ConnectionArgs, Connections},
    metrics,
    tls::{Tls, TlsArgs},
};

/// The addresses of a process, and its drain.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Address for calls. Port 0 picks a free port, which the log names
    #[arg(long, env = "SHOPKEEPER_LISTEN", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Address for /metrics (Prometheus), /healthz and /readyz over HTTP. Default: none
    #[arg(long, env = "SHOPKEEPER_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Time between health's NOT_SERVING and the closing of connections, in which load balancers
    /// turn to other replicas
    #[arg(
        long,
        env = "SHOPKEEPER_DRAIN_DELAY",
        value_name = "TIME",
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    pub drain_delay: Duration,
    /// Time for calls in flight after the drain delay; calls that take longer are dropped
    #[arg(
        long,
        env = "SHOPKEEPER_DRAIN_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    pub drain_timeout: Duration,
    /// Limits of connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Encryption.
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl ServerArgs {
    /// A server on a free port of this machine, for tests.
    pub fn local() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
            connections: ConnectionArgs::default(),
            tls: TlsArgs::default(),
        }
    }
}

/// gRPC services that belong together, and whether they are ready to answer.
#[derive(Debug, Clone)]
pub struct Service {
    /// The process's name, for example `churn`.
    pub name: &'static str,
    /// Full names of its gRPC services.
    pub services: Vec<&'static str>,
    /// The services; also a tower service, for calls without a socket.
    pub routes: Routes,
    /// Whether they are ready.
    pub ready: watch::Receiver<bool>,
    /// The status of their model, if they have one.
    pub status: Option<watch::Receiver<ModelStatus>>,
    /// Becomes true when the process drains. Endless streams, such as watches, end then.
    pub draining: watch::Sender<bool>,
}

impl Service {
    /// Adds a gRPC service.
    #[must_use]
    pub fn and<S>(mut self, server: S) -> Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send,
    {
        self.services.push(S::NAME);
        self.routes = self.routes.add_service(server);
        self
    }
}

/// A listener that is bound and does not accept connections yet.
#[derive(Debug)]
pub struct Server {
    args: ServerArgs,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    tls: Option<Tls>,
    allowed: Allowed,
    service: Option<Service>,
}

impl Server {
    /// Binds the addresses and reads the certificates.
    ///
    /// # Errors
    /// If an address cannot be bound or a certificate cannot be used.
    pub async fn bind(args: &ServerArgs) -> anyhow::Result<Self> {
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))
        };
        let metrics = match args.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let tls = args.tls.build()?;
        Ok(Self {
            args: args.clone(),
            listener: bind(args.listen).await?,
            metrics,
            tls,
            allowed: Allowed::BEHIND,
            service: None,
        })
    }

    /// Applies the limits of a gateway: callers are not trusted, and heads must fit the services
    /// behind.
    #[must_use]
    pub fn in_front(mut self) -> Self {
        self.allowed = Allowed::IN_FRONT;
        self
    }

    /// Sets the services.
    #[must_use]
    pub fn serving(mut self, service: Service) -> Self {
        self.service = Some(service);
        self
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// If the system does not return it.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `shutdown` resolves, and then drains: health says NOT_SERVING, new connections
    /// are refused, and calls in flight have the drain timeout; the rest is dropped.
    ///
    /// # Errors
    /// If no service is set, or the listener fails.
    #[expect(
        clippy::too_many_lines,
        reason = "the steps of the start and of the drain, whose order matters"
    )]
    pub async fn serve_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let Self {
            args,
            listener,
            metrics,
            tls,
            allowed,
            service,
        } = self;
        let service = service.context("no service is added")?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        // Probes and scrapes are answered until the process ends, during the drain as well.
        let (mut probing, leaving) = (JoinSet::new(), watch::Sender::new(false));
        if let Some(listener) = metrics {
            let router = probes(
                service.ready.clone(),
                service.status.clone(),
                leaving.subscribe(),
            );
            probing.spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "the listener for metrics failed");
                }
            });
        }
        let (routes, mut reporter) = health_and_reflection(&service, &mut tasks)?;

        let (stop, stopped) = watch::channel(false);
        let encrypted = tls.is_some();
        // These tasks outlive `tasks`, which are aborted when the drain begins.
        let (mut serving, mut watching) = (JoinSet::new(), JoinSet::new());
        if let Some(tls) = tls.clone() {
            watching.spawn(tls.watch());
        }
        let connections =
            Connections::new(args.connections, allowed, routes, tls, args.drain_timeout);
        serving.spawn(connections.serve(listener, stopped));
        tracing::info!(service = service.name, %address, encrypted, "listening");
        shutdown.await;

        tracing::info!(service = service.name, "draining");
        // The tasks would write readiness into health again; from here on both say no.
        leaving.send_replace(true);
        tasks.abort_all();
        for name in service.services.iter().copied().chain([""]) {
            reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        tokio::time::sleep(args.drain_delay).await;
        stop.send_replace(true);
        // Watches would keep their connections open until the drain timeout.
        service.draining.send_replace(true);
        for name in service.services.iter().copied().chain([""]) {
            reporter.clear_service_status(name).await;
        }
        // hyper would wait for idle connections for ever.
        if tokio::time::timeout(args.drain_timeout, serving.join_next())
            .await
            .is_err()
        {
            tracing::warn!(
                service = service.name,
                "calls were still in flight when the drain timeout ended"
            );
        }
        Ok(())
    }
}

/// The services' routes with health and reflection beside them. A task in `tasks` copies readiness
/// into health.
///
/// # Errors
/// If the descriptors cannot be read.
pub fn health_and_reflection(
    service: &Service,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<(Routes, HealthReporter)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        let descriptors = [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let builder = descriptors
            .into_iter()
            .fold(tonic_reflection::server::Builder::configure(), |b, d| {
                b.register_encoded_file_descriptor_set(d)
            });
        service
            .services
            .iter()
            .chain([&"grpc.health.v1.Health"])
            .fold(builder, |b, name| b.with_service_name(*name))
    };
    let routes = service.routes.clone().add_service(health);
    let routes = routes
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let router = routes.into_axum_router().fallback(unknown);

    let (names, mut ready, health) = (
        service.services.clone(),
        service.ready.clone(),
        reporter.clone(),
    );
    tasks.spawn(async move {
        loop {
            let status = if *ready.borrow_and_update() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for name in names.iter().copied().chain([""]) {
                health.set_service_status(name, status).await;
            }
            if ready.changed().await.is_err() {
                return;
            }
        }
    });
    Ok((Routes::from(router), reporter))
}

async fn unknown(request: axum::extract::Request) -> axum::response::Response {
    let path = request.uri().path().to_owned();
    if !crate::is_grpc(request.headers()) {
        return (
            StatusCode::NOT_FOUND,
            format!("there is nothing at {path}\n"),
        )
            .into_response();
    }
    let answer =
        tonic::Status::from(crate::Refusal::NoMethod { path }).into_http::<tonic::body::Body>();
    answer.map(axum::body::Body::new)
}

fn probes(
    ready: watch::Receiver<bool>,
    status: Option<watch::Receiver<ModelStatus>>,
    leaving: watch::Receiver<bool>,
) -> Router {
    let readyz = move || {
        let answer = match &status {
            _ if *leaving.borrow() => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
            _ if *ready.borrow() => (StatusCode::OK, String::new()),
            None => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
            Some(status) => {
                let status = status.borrow();
                let why = if status.refusal.is_empty() {
                    "its model is not loaded yet"
                } else {
                    &status.refusal
                };
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{}: {why}\n", status.model),
                )
            }
        };
        async move { answer }
    };
    Router::new()
        .route(
            "/metrics",
            get(async |headers: http::HeaderMap| metrics::scrape(&headers)),
        )
        .route("/healthz", get(async || StatusCode::OK))
        .route("/readyz", get(readyz))
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_service_that_is_not_ready_says_why() {
        let leaving = watch::Sender::new(false);
        let refusal = "no version has been published in ./modles".to_owned();
        let status = ModelStatus {
            model: "churn".to_owned(),
            refusal,
            ..ModelStatus::default()
        };
        let (ready, status) = (watch::Sender::new(false), watch::Sender::new(status));
        let probes = probes(
            ready.subscribe(),
            Some(status.subscribe()),
            leaving.subscribe(),
        );
        let ask = async || {
            let request = axum::extract::Request::get("/readyz")
                .body(axum::body::Body::empty())
                .unwrap();
            let (head, body) = probes.clone().oneshot(request).await.unwrap().into_parts();
            let body = axum::body::to_bytes(body, 1024).await.unwrap();
            (head.status, String::from_utf8(body.to_vec()).unwrap())
        };
        let why = "churn: no version has been published in ./modles\n".to_owned();
        assert_eq!(ask().await, (StatusCode::SERVICE_UNAVAILABLE, why));
        ready.send_replace(true);
        assert_eq!(ask().await, (StatusCode::OK, String::new()));
        leaving.send_replace(true);
        assert_eq!(
            ask().await,
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        );
    }
}
