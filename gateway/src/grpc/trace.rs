//! Passes the trace on, in W3C's headers. If this process exports no traces, the caller's own
//! headers go on unchanged.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{global, propagation::Injector, trace::TraceContextExt};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Writes the current span into a request's headers.
pub(crate) fn carry(headers: &mut HeaderMap) {
    let span = tracing::Span::current();
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    if context.span().span_context().is_valid() {
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&context, &mut Headers(headers))
        });
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_exporter_the_callers_trace_goes_on() {
        let traceparent =
            HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let mut headers =
            HeaderMap::from_iter([(HeaderName::from_static("traceparent"), traceparent.clone())]);
        carry(&mut headers);
        assert_eq!(headers["traceparent"], traceparent);
    }
}
