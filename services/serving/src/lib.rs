//! What every model service needs: a model that follows the store's pointer, ModelService, the Open
//! Inference Protocol, readiness, and one way to answer.

mod drift;
pub mod inference;
mod live;
mod model_service;
mod shadow;

use std::time::Duration;

use clap::{Args, builder::BoolishValueParser};
use model_store::ModelStore;
use runtime::{Server, ServerArgs, Service, telemetry::TelemetryArgs};
use scoring::Model;
use tokio::sync::watch;
use tonic::{server::NamedService, service::Routes};

pub use live::{Live, Loaded, channel};

/// Header of every answer of a model: the version that gave it.
pub const MODEL_VERSION: &str = "x-model-version";

/// Header of a call that asks for the version on trial, `canary`, or for the current one, `stable`.
pub const MODEL_CHANNEL: &str = "x-model-channel";

/// Where a service finds its model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model store")]
pub struct StoreArgs {
    /// Where models are published: a folder, or file://, s3://, gs:// or az://
    #[arg(long, env = "SHOPKEEPER_MODELS", value_name = "URL")]
    pub models: String,
    /// How often the store is asked whether another version is current
    #[arg(long, env = "SHOPKEEPER_RELOAD_EVERY", value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub reload_every: Duration,
    /// Let callers make another version of the store the current one
    /// (ModelService/SetCurrentVersion). The gateway's API keys say which callers
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

/// Follows a model in the store. Returns once the current version is loaded, or known to be missing
/// or unusable; a service without a model starts, says that it is not ready, and loads the first
/// one that comes.
///
/// # Errors
/// Where the store's address cannot be used.
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
/// Where the store, the telemetry or the address cannot be used.
pub async fn serve<M: Model>(
    name: &'static str,
    args: ProcessArgs,
    service: impl FnOnce(Live<M>) -> Service,
) -> anyhow::Result<()> {
    serve_from(name, args, async |store| Ok(service(watch(store).await?))).await
}

/// The same for a service that looks for its models itself.
///
/// # Errors
/// As [`serve`], and where the service cannot be made.
pub async fn serve_from(
    name: &'static str,
    args: ProcessArgs,
    service: impl AsyncFnOnce(&StoreArgs) -> anyhow::Result<Service>,
) -> anyhow::Result<()> {
    let _sends_the_rest = runtime::telemetry::init(name, &args.telemetry)?;
    let shutdown = runtime::shutdown();
    let server = Server::bind(&args.server).await?;
    let service = service(&args.store).await?;
    server.serving(service).serve_until(shutdown).await
}

/// A generated gRPC server with the limits and encodings that all of them have.
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
