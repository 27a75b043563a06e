//! Metrics as OpenMetrics writes them (version 1.0), which has exemplars: beside each bucket of the
//! durations the trace of the last call that fell into it, so that whoever sees slow calls can look
//! at one. The SDK for OpenTelemetry keeps none.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::SpanContext;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// What it is served as.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A call that stands for others that took as long.
#[derive(Debug, Clone)]
struct Exemplar {
    trace: String,
    span: String,
    seconds: f64,
    /// Since 1970.
    at: Duration,
}

/// The last traced calls of a histogram, by the values of its labels and the upper bound of their
/// bucket.
#[derive(Debug)]
pub(crate) struct Exemplars {
    /// As Prometheus calls the histogram.
    histogram: &'static str,
    bounds: &'static [f64],
    last: Mutex<BTreeMap<Vec<String>, Vec<Option<Exemplar>>>>,
}

impl Exemplars {
    pub(crate) const fn of(histogram: &'static str, bounds: &'static [f64]) -> Self {
        Self {
            histogram,
            bounds,
            last: Mutex::new(BTreeMap::new()),
        }
    }

    fn last(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Vec<Option<Exemplar>>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call took so long. `labels` are the values of the histogram's labels, in the order of
    /// their names.
    pub(crate) fn note(&self, labels: &[&str], seconds: f64, call: &SpanContext, now: SystemTime) {
        if !call.is_sampled() {
            return;
        }
        let at = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let exemplar = Exemplar {
            trace: call.trace_id().to_string(),
            span: call.span_id().to_string(),
            seconds,
            at,
        };
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let mut last = self.last();
        let buckets = last
            .entry(labels)
            .or_insert_with(|| vec![None; self.bounds.len() + 1]);
        buckets[bucket] = Some(exemplar);
    }

    /// That of a bucket, where there is one.
    fn find(&self, histogram: &str, labels: &[LabelPair], bucket: usize) -> Option<Exemplar> {
        if histogram != self.histogram {
            return None;
        }
        // What the exporter adds to them says where they were measured.
        let own = labels
            .iter()
            .filter(|label| !label.name().starts_with("otel_scope"));
        let values: Vec<String> = own.map(|label| label.value().to_owned()).collect();
        self.last().get(&values)?.get(bucket)?.clone()
    }
}

/// All families, with what stands for their buckets.
pub(crate) fn text(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = families
        .iter()
        .try_for_each(|family| write_family(&mut text, family, exemplars));
    text.push_str("# EOF\n");
    text
}

fn write_family(to: &mut String, family: &MetricFamily, exemplars: &Exemplars) -> fmt::Result {
    let (sample, kind) = (family.name(), family.get_field_type());
    let (name, kind) = match kind {
        MetricType::COUNTER => (sample.strip_suffix("_total").unwrap_or(sample), "counter"),
        MetricType::GAUGE => (sample, "gauge"),
        MetricType::HISTOGRAM => (sample, "histogram"),
        MetricType::SUMMARY | MetricType::UNTYPED => return Ok(()), // we have none
    };
    writeln!(to, "# TYPE {name} {kind}")?;
    writeln!(to, "# HELP {name} {}", escaped(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => line(
                to,
                &format!("{name}_total"),
                labels,
                None,
                metric.get_counter().get_value(),
            )?,
            MetricType::GAUGE => line(to, name, labels, None, metric.get_gauge().get_value())?,
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let count = histogram.get_sample_count();
                let buckets = histogram
                    .get_bucket()
                    .iter()
                    .map(|b| (b.upper_bound(), b.cumulative_count()));
                let buckets = buckets
                    .filter(|(bound, _)| bound.is_finite())
                    .chain([(f64::INFINITY, count)]);
                let bucket_name = format!("{name}_bucket");
                for (at, (bound, count)) in buckets.enumerate() {
                    write_sample(to, &bucket_name, labels, Some(bound), count as f64)?;
                    if let Some(Exemplar {
                        trace,
                        span,
                        seconds,
                        at,
                    }) = exemplars.find(name, labels, at)
                    {
                        let at = at.as_secs_f64();
                        write!(
                            to,
                            " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {seconds} {at:.3}"
                        )?;
                    }
                    to.push('\n');
                }
                line(to, &format!("{name}_count"), labels, None, count as f64)?;
                line(
                    to,
                    &format!("{name}_sum"),
                    labels,
                    None,
                    histogram.get_sample_sum(),
                )?;
            }
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
    Ok(())
}

fn line(
    to: &mut String,
    name: &str,
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> fmt::Result {
    write_sample(to, name, labels, bound, value)?;
    to.write_char('\n')
}

fn write_sample(
    to: &mut String,
    name: &str,
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> fmt::Result {
    to.write_str(name)?;
    let mut before = '{';
    for label in labels {
        write!(
            to,
            "{before}{}=\"{}\"",
            label.name(),
            escaped(label.value())
        )?;
        before = ',';
    }
    if let Some(bound) = bound {
        write!(to, "{before}le=\"{}\"", Number(bound))?;
        before = ',';
    }
    if before == ',' {
        to.write_char('}')?;
    }
    write!(to, " {}", Number(value))
}

/// A number as OpenMetrics writes it: `1.0`, `+Inf`.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value == f64::INFINITY => f.write_str("+Inf"),
            value if value == f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value:?}"),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

    use super::*;

    fn call(trace: u128, flags: TraceFlags) -> SpanContext {
        SpanContext::new(
            TraceId::from(trace),
            SpanId::from(7),
            flags,
            false,
            TraceState::NONE,
        )
    }

    #[test]
    fn every_bucket_has_the_last_traced_call_that_fell_into_it() {
        let registry = Registry::new();
        let bounds = &[0.001, 1.0];
        let took = HistogramVec::new(
            HistogramOpts::new("took_seconds", "how \"long\"").buckets(bounds.to_vec()),
            &["method", "code"],
        )
        .unwrap();
        let calls = IntCounterVec::new(Opts::new("calls_total", "calls"), &["method"]).unwrap();
        registry.register(Box::new(took.clone())).unwrap();
        registry.register(Box::new(calls.clone())).unwrap();
        let exemplars = Exemplars::of("took_seconds", bounds);
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        for (trace, seconds) in [(1, 0.001), (2, 0.0005), (3, 2.0)] {
            took.with_label_values(&["a", "OK"]).observe(seconds);
            exemplars.note(
                &["OK", "a"],
                seconds,
                &call(trace, TraceFlags::SAMPLED),
                now,
            );
        }
        took.with_label_values(&["a", "OK"]).observe(0.5);
        exemplars.note(&["OK", "a"], 0.5, &call(4, TraceFlags::NOT_SAMPLED), now);
        calls.with_label_values(&["a \"b\""]).inc();
        let expected = r#"# TYPE calls counter
# HELP calls calls
calls_total{method="a \"b\""} 1.0
# TYPE took_seconds histogram
# HELP took_seconds how \"long\"
took_seconds_bucket{code="OK",method="a",le="0.001"} 2.0 # {trace_id="00000000000000000000000000000002",span_id="0000000000000007"} 0.0005 1.500
took_seconds_bucket{code="OK",method="a",le="1.0"} 3.0
took_seconds_bucket{code="OK",method="a",le="+Inf"} 4.0 # {trace_id="00000000000000000000000000000003",span_id="0000000000000007"} 2 1.500
took_seconds_count{code="OK",method="a"} 4.0
took_seconds_sum{code="OK",method="a"} 2.5015
# EOF
"#;
        assert_eq!(text(&registry.gather(), &exemplars), expected);
    }
}
