//! The duration of calls, under OpenTelemetry's name for it: `rpc.server.call.duration`.

use std::{sync::LazyLock, time::Duration};

use crate::metrics::{self, EncodeLabelSet, Family, Histogram};

/// Upper bounds of the buckets, seconds: our own work is microseconds.
const BOUNDS: [f64; 16] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3,
    250e-3, 1.0, 5.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc_method: String,
    rpc_response_status_code: &'static str,
    rpc_system_name: &'static str,
}

static DURATION: LazyLock<Family<CallLabels, Histogram>> = LazyLock::new(|| {
    metrics::register(
        "rpc_server_call_duration_seconds",
        "time to the head of the answer",
        Family::new_with_constructor(|| Histogram::new(BOUNDS)),
    )
});

/// Counts a call of a method, which was answered with this code after `took`.
pub(crate) fn record(method: String, code: &'static str, took: Duration) {
    let labels = CallLabels {
        rpc_method: method,
        rpc_response_status_code: code,
        rpc_system_name: "grpc",
    };
    DURATION.get_or_create(&labels).observe(took.as_secs_f64());
}
