//! Logs, traces and metrics: tracing to stderr, OTLP where an endpoint is given, Prometheus for whoever asks.

use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Target of the spans that calls leave; exported, and logged only when asked for.
pub(crate) const CALLS: &str = "shopkeeper::call";

/// How a process says what it does.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// What is logged: error, warn, info, debug, or a filter as of tracing-subscriber
    #[arg(long, env = "SHOPKEEPER_LOG", value_name = "FILTER", default_value = "info,opentelemetry=warn")]
    log: String,
    /// How it is logged
    #[arg(long, env = "SHOPKEEPER_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// Where traces go, OTLP over gRPC, for example http://localhost:4317; without it they go nowhere
    #[arg(long, env = "SHOPKEEPER_OTLP", value_name = "URL", hide_env_values = true)]
    otlp: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON object a line
    Json,
}

/// Sends what is left when it is dropped.
#[derive(Debug)]
#[must_use = "what is left is sent when it is dropped"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Sets everything up. Once a process, from within its tokio runtime.
///
/// # Errors
/// Where the filter or the endpoint cannot be used.
pub fn init(service: &'static str, args: &TelemetryArgs) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("--log {}", args.log))?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let log = match args.log_format {
        LogFormat::Text => log.with_filter(filter).boxed(),
        LogFormat::Json => log.json().with_filter(filter).boxed(),
    };
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.namespace", "shopkeeper"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();

    let traces = match &args.otlp {
        None => None,
        Some(url) => {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).build();
            let exporter = exporter.context("--otlp")?;
            global::set_text_map_propagator(TraceContextPropagator::new());
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.clone()).build())
        }
    };
    let exported = traces.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shopkeeper"));
        layer.with_filter(Targets::new().with_target("shopkeeper", LevelFilter::DEBUG))
    });
    tracing_subscriber::registry().with(log).with(exported).try_init().context("telemetry is set up already")?;

    let reader = opentelemetry_prometheus::exporter()
        .with_registry(prometheus::default_registry().clone())
        .build()
        .context("metrics")?;
    global::set_meter_provider(SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build());
    Ok(Telemetry { traces })
}

/// All metrics in Prometheus' text form.
pub fn metrics() -> String {
    prometheus::TextEncoder::new().encode_to_string(&prometheus::gather()).unwrap_or_default()
}
