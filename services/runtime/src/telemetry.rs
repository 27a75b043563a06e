//! Logs, traces and metrics: tracing to stderr, OTLP to an endpoint if one is given, Prometheus at
//! `/metrics`. A line of JSON contains the trace and span of the call that it belongs to.

use std::{fmt, io::IsTerminal};

use anyhow::Context;
use opentelemetry::{
    Context as Current, KeyValue, global,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{metrics, process};

/// Target of the spans of calls. They are exported; they are logged only if the filter names them.
pub(crate) const CALLS: &str = "shopkeeper::call";

/// Logs and traces of a process.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// Log filter: error, warn, info, debug, or directives of tracing-subscriber's EnvFilter
    #[arg(
        long,
        env = "SHOPKEEPER_LOG",
        value_name = "FILTER",
        default_value = "info,opentelemetry=warn"
    )]
    log: String,
    /// Log format
    #[arg(long, env = "SHOPKEEPER_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// Endpoint for traces, OTLP over gRPC, for example http://localhost:4317. Default: none are
    /// exported
    #[arg(
        long,
        env = "SHOPKEEPER_OTLP",
        value_name = "URL",
        hide_env_values = true
    )]
    otlp: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Lines of text
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Flushes the remaining traces when it is dropped.
#[derive(Debug)]
#[must_use = "the remaining traces are flushed when it is dropped"]
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

/// Sets up logs, traces and metrics. Call once in a process, within its tokio runtime.
///
/// # Errors
/// If the filter or the endpoint cannot be used.
pub fn init(service: &'static str, args: &TelemetryArgs) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("--log {}", args.log))?;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.namespace", "shopkeeper"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let exporter = args.otlp.as_ref().map(|url| {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(url)
            .build();
        exporter.context("--otlp")
    });
    let traces = match exporter.transpose()? {
        Some(exporter) => Some(SdkTracerProvider::builder().with_batch_exporter(exporter)),
        // Lines of JSON contain the ids of traces even if these are not exported.
        None => (args.log_format == LogFormat::Json).then(SdkTracerProvider::builder),
    };
    let traces = traces.map(|traces| traces.with_resource(resource.clone()).build());
    if traces.is_some() {
        global::set_text_map_propagator(TraceContextPropagator::new());
    }
    let log = match args.log_format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(ansi)
                .boxed()
        }
        LogFormat::Json => json(std::io::stderr).boxed(),
    };
    let registry = tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(traces.as_ref().map(calls));
    registry.try_init().context("telemetry is set up already")?;

    metrics::describe(&resource);
    process::observe();
    Ok(Telemetry { traces })
}

/// A layer for the spans of calls alone.
fn calls<S: Subscriber + for<'a> LookupSpan<'a>>(
    traces: &SdkTracerProvider,
) -> impl Layer<S> + use<S> {
    let layer = tracing_opentelemetry::layer().with_tracer(traces.tracer("shopkeeper"));
    layer.with_filter(Targets::new().with_target("shopkeeper", LevelFilter::DEBUG))
}

/// A layer that logs lines of JSON.
fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .json()
        .map_event_format(Traced)
}

/// A format of JSON objects. An object that belongs to a call begins with its trace and span.
struct Traced<F>(F);

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let current = Current::current();
        let (span, fields) = (current.span(), line.strip_prefix('{'));
        match (span.span_context(), fields) {
            (call, Some(fields)) if call.is_valid() => {
                let (trace, span) = (call.trace_id(), call.span_id());
                write!(to, r#"{{"trace_id":"{trace}","span_id":"{span}",{fields}"#)
            }
            _ => to.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::CallLayer;
    use http::{Request, Response};
    use tonic::body::Body;
    use tower::{Service, layer::Layer as _};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    #[expect(
        clippy::too_many_lines,
        reason = "a scenario told in order: a log is set up, calls are made, their lines are read"
    )]
    async fn a_line_of_a_call_names_the_callers_trace_and_others_none() {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let lines = Lines::default();
        let writer = {
            let lines = lines.clone();
            move || lines.clone()
        };
        let traces = SdkTracerProvider::builder().build();
        let log = json(writer).with_filter(EnvFilter::new("info"));
        let _here = tracing::subscriber::set_default(
            tracing_subscriber::registry()
                .with(log)
                .with(calls(&traces)),
        );

        tracing::info!("before");
        let service = tower::service_fn(async |_| {
            tokio::task::yield_now().await;
            tracing::info!(customer = "1", "within");
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let of = |headers: &[(&str, &str)]| {
            let request = Request::builder()
                .uri("/a/b")
                .header("content-type", "application/grpc");
            headers
                .iter()
                .fold(request, |request, (name, value)| {
                    request.header(*name, *value)
                })
                .body(Body::empty())
                .unwrap()
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
        CallLayer
            .layer(service)
            .call(of(&[("traceparent", &traceparent)]))
            .await
            .unwrap();
        CallLayer.layer(service).call(of(&[])).await.unwrap();

        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [before, told, own] = &lines[..] else {
            panic!("{text}")
        };
        assert_eq!(
            (&before["trace_id"], &before["fields"]["message"]),
            (&serde_json::Value::Null, &"before".into())
        );
        assert_eq!(
            (&told["trace_id"], &told["fields"]["customer"]),
            (&trace.into(), &"1".into())
        );
        let span = told["span_id"].as_str().unwrap();
        assert!(
            span.len() == 16 && span != "00f067aa0ba902b7",
            "the call's own span: {span}"
        );
        assert!(
            own["trace_id"]
                .as_str()
                .is_some_and(|own| own.len() == 32 && own != trace),
            "{own}"
        );
    }
}
