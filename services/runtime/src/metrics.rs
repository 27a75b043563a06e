//! Metrics: one registry for the whole process, in which every crate registers its families, and
//! its text for Prometheus.
//!
//! Names are OpenTelemetry's as Prometheus writes them: underscores, the unit at the end, and for a
//! counter `_total`, which the text adds. A family without a sample is not in the text.

use std::{
    fmt,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use http::{
    HeaderMap, HeaderName,
    header::{ACCEPT, CONTENT_TYPE},
};
use opentelemetry_sdk::Resource;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    metrics::MetricType,
    registry::{Metric, Registry},
};

pub use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

/// A gauge of whole numbers.
pub type Gauge = prometheus_client::metrics::gauge::Gauge<u64, AtomicU64>;
/// A gauge of fractions.
pub type FractionGauge = prometheus_client::metrics::gauge::Gauge<f64, AtomicU64>;

const TEXT: &str = "text/plain; version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

static REGISTRIES: LazyLock<Mutex<Registries>> = LazyLock::new(|| {
    // The label by which OpenTelemetry's exporters say which library measured.
    let scope = ("otel_scope_name".into(), "shopkeeper".into());
    Mutex::new(Registries {
        target: Registry::default(),
        families: Registry::with_labels([scope].into_iter()),
    })
});

#[derive(Debug)]
struct Registries {
    /// What the process is. It was not measured, so it has no scope.
    target: Registry,
    families: Registry,
}

fn registries() -> MutexGuard<'static, Registries> {
    REGISTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a metric, and returns it. Call once for each name: in the `LazyLock` that holds it.
#[must_use]
pub fn register<M: Metric + Clone>(name: &'static str, help: &'static str, metric: M) -> M {
    let registered = metric.clone();
    collect(Described {
        name,
        help,
        metric: registered,
    });
    metric
}

/// Registers a family of metrics that start at zero; as [`register`].
#[must_use]
pub fn family<S, M>(name: &'static str, help: &'static str) -> Family<S, M>
where
    S: Clone + std::hash::Hash + Eq,
    M: Default,
    Family<S, M>: Metric,
{
    register(name, help, Family::default())
}

/// Asks a collector for its metrics at each scrape.
pub(crate) fn collect(collector: impl Collector) {
    registries()
        .families
        .register_collector(Box::new(collector));
}

/// Describes the process in `target_info`, as OpenTelemetry has it.
pub(crate) fn describe(resource: &Resource) {
    let is_kept = |letter: char| letter.is_ascii_alphanumeric() || letter == ':';
    let label = |name: &str| name.replace(|letter| !is_kept(letter), "_");
    let mut labels: Vec<_> = resource
        .iter()
        .map(|(name, value)| (label(name.as_str()), value.to_string()))
        .collect();
    labels.sort();
    registries()
        .target
        .register_collector(Box::new(Target(labels)));
}

/// A metric under a name. `Registry::register` would end the help with a full stop.
#[derive(Debug)]
struct Described<M> {
    name: &'static str,
    help: &'static str,
    metric: M,
}

impl<M: Metric> Collector for Described<M> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.metric.is_empty() {
            return Ok(());
        }
        let kind = self.metric.metric_type();
        self.metric
            .encode(encoder.encode_descriptor(self.name, self.help, None, kind)?)
    }
}

#[derive(Debug)]
struct Target(Vec<(String, String)>);

impl Collector for Target {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A gauge named `target_info` in both formats, as OpenTelemetry's exporter writes it.
        encoder
            .encode_descriptor("target_info", "Target metadata", None, MetricType::Gauge)?
            .encode_family(&self.0)?
            .encode_gauge(&1_u64)
    }
}

/// The metrics of the process and their content type: OpenMetrics if the request's headers accept
/// it, else Prometheus' text format.
pub fn scrape(headers: &HeaderMap) -> ([(HeaderName, &'static str); 1], String) {
    let accepts_open_metrics = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|accepted| accepted.to_str().ok())
        .any(|accepted| accepted.contains("application/openmetrics-text"));
    let (content_type, text) = encode(&registries(), accepts_open_metrics);
    ([(CONTENT_TYPE, content_type)], text)
}

fn encode(registries: &Registries, as_open_metrics: bool) -> (&'static str, String) {
    let Registries { target, families } = registries;
    let mut text = String::new();
    let (content_type, written) = if as_open_metrics {
        let written = text::encode_registry(&mut text, target)
            .and_then(|()| text::encode(&mut text, families));
        (OPEN_METRICS, written)
    } else {
        let written = prometheus_text::encode(&mut text, target)
            .and_then(|()| prometheus_text::encode(&mut text, families));
        (TEXT, written)
    };
    if written.is_err() {
        tracing::error!("the metrics could not be written");
    }
    (content_type, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Labels {
        method: &'static str,
    }

    #[test]
    fn a_family_is_written_under_its_name_with_its_help_and_scope_in_both_formats() {
        let calls = Family::<Labels, Counter>::default();
        calls.get_or_create(&Labels { method: "a \"b\"" }).inc();
        let took = Histogram::new([0.001, 1.0]);
        took.observe(0.5);
        let mut registries = Registries {
            target: Registry::default(),
            families: Registry::with_labels([("scope".into(), "shop".into())].into_iter()),
        };
        let target = vec![("service_name".to_owned(), "churn".to_owned())];
        registries
            .target
            .register_collector(Box::new(Target(target)));
        let families = &mut registries.families;
        families.register_collector(Box::new(Described {
            name: "calls",
            help: "calls, by method",
            metric: calls,
        }));
        families.register_collector(Box::new(Described {
            name: "took_seconds",
            help: "how long",
            metric: took,
        }));
        families.register_collector(Box::new(Described {
            name: "never",
            help: "a family without a sample",
            metric: Family::<Labels, Counter>::default(),
        }));
        let plain = r#"# HELP target_info Target metadata
# TYPE target_info gauge
target_info{service_name="churn"} 1
# HELP calls_total calls, by method
# TYPE calls_total counter
calls_total{scope="shop",method="a \"b\""} 1
# HELP took_seconds how long
# TYPE took_seconds histogram
took_seconds_bucket{scope="shop",le="0.001"} 0
took_seconds_bucket{scope="shop",le="1"} 1
took_seconds_bucket{scope="shop",le="+Inf"} 1
took_seconds_sum{scope="shop"} 0.5
took_seconds_count{scope="shop"} 1
"#;
        assert_eq!(encode(&registries, false), (TEXT, plain.to_owned()));
        let open = r#"# HELP target_info Target metadata
# TYPE target_info gauge
target_info{service_name="churn"} 1
# HELP calls calls, by method
# TYPE calls counter
calls_total{scope="shop",method="a \"b\""} 1
# HELP took_seconds how long
# TYPE took_seconds histogram
took_seconds_sum{scope="shop"} 0.5
took_seconds_count{scope="shop"} 1
took_seconds_bucket{scope="shop",le="0.001"} 0
took_seconds_bucket{scope="shop",le="1.0"} 1
took_seconds_bucket{scope="shop",le="+Inf"} 1
# EOF
"#;
        assert_eq!(encode(&registries, true), (OPEN_METRICS, open.to_owned()));
    }
}
