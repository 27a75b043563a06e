//! What every model service needs: a model that follows the store's pointer, ModelService, the Open
//! Inference Protocol, readiness, and one way to answer.

mod drift;
pub mod inference;
mod live;
mod loaded;
mod model_service;
mod shadow;
mod slot;

use std::time::Duration;

use clap::{Args, builder::BoolishValueParser};
use model_store::ModelStore;
use runtime::{Server, ServerArgs, Service, telemetry::TelemetryArgs};
use scoring::Model;
use tokio::sync::watch;
use tonic::{server::NamedService, service::Routes};

pub use live::{Live, MODEL_CHANNEL, channel};
pub use loaded::{Loaded, MODEL_VERSION};

/// The model store of a service.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model store")]
pub struct StoreArgs {
    /// Model store: a folder, or a URL that begins with file://, s3://, gs:// or az://
    #[arg(long, env = "SHOPKEEPER_MODELS", value_name = "URL")]
    pub models: String,
    /// Pause between two looks at the store for another current version
    #[arg(
        long,
        env = "SHOPKEEPER_RELOAD_EVERY",
        value_name = "TIME",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub reload_every: Duration,
    /// Let callers make another version of the store the current one
    /// (ModelService/SetCurrentVersion). The gateway's API keys restrict which callers may
    #[arg(long, env = "SHOPKEEPER_ALLOW_PUBLISH", value_parser = BoolishValueParser::new())]
    pub allow_publish: bool,
}

/// All options of a model service's process.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Follows a model in the store. Returns once the current version is loaded or is known to be
/// missing or unusable, or after 1 s. A service without a model starts, reports that it is not
/// ready, and loads the first version that is published.
///
/// # Errors
/// If the store's address cannot be used.
pub async fn watch<M: Model>(args: &StoreArgs) -> anyhow::Result<Live<M>> {
    let store = ModelStore::open(&args.models)?;
    Ok(Live::follow(store, args.reload_every)
        .await
        .publishing(args.allow_publish))
}

/// Bundles a model's own gRPC service with ModelService.
pub fn service<M: Model, S>(live: &Live<M>, server: S) -> Service
where
    S: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Response: axum::response::IntoResponse,
    S::Future: Send,
{
    let draining = watch::Sender::new(false);
    let models = limited!(model_service::server(live, draining.subscribe()));
    let (routes, ready, status) = (Routes::new(server), live.ready(), Some(live.status()));
    Service {
        name: M::KIND.as_str(),
        services: vec![S::NAME],
        routes,
        ready,
        status,
        draining,
    }
    .and(models)
}

/// The life of a model service's process.
///
/// # Errors
/// If the store, the telemetry or the address cannot be used.
pub async fn serve<M: Model>(
    name: &'static str,
    args: ProcessArgs,
    service: impl FnOnce(Live<M>) -> Service,
) -> anyhow::Result<()> {
    serve_from(name, args, async |store| Ok(service(watch(store).await?))).await
}

/// As [`serve`], for a service that opens its models itself.
///
/// # Errors
/// As [`serve`], and if the service cannot be made.
pub async fn serve_from(
    name: &'static str,
    args: ProcessArgs,
    service: impl AsyncFnOnce(&StoreArgs) -> anyhow::Result<Service>,
) -> anyhow::Result<()> {
    let _flushes_on_drop = runtime::telemetry::init(name, &args.telemetry)?;
    let shutdown = runtime::shutdown();
    let server = Server::bind(&args.server).await?;
    let service = service(&args.store).await?;
    server.serving(service).serve_until(shutdown).await
}

/// A generated gRPC server with the size limits and encodings of every service.
#[macro_export]
macro_rules! limited {
    ($server:expr) => {
        $server
            .max_decoding_message_size(::proto::MAX_MESSAGE)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(::tonic::codec::CompressionEncoding::Gzip)
            .accept_compressed(::tonic::codec::CompressionEncoding::Zstd)
            .send_compressed(::tonic::codec::CompressionEncoding::Zstd)
            .send_compressed(::tonic::codec::CompressionEncoding::Gzip)
    };
}
