//! The gateway's own metrics. `runtime` counts the duration of every call.

use std::sync::LazyLock;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Meter},
};

use proto::policy::v1::Priority;

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("shopkeeper"));

static CACHE: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.cache.lookups");
    counter
        .with_description(
            "cacheable calls by outcome: hit-memory, hit-redis, coalesced, miss, bypass",
        )
        .build()
});

static STORED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("shopkeeper.gateway.cache.stored")
        .with_description("answers kept, by where")
        .build()
});

static REFRESHED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.cache.refreshed");
    counter
        .with_description("answers made anew before they ended")
        .build()
});

static REDIS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.redis.problems");
    counter
        .with_description("reads and writes that Redis did not answer as it should, by reason")
        .build()
});

static REDIS_UP: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("shopkeeper.gateway.redis.up")
        .with_description("1 while Redis is used")
        .build()
});

static SHED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("shopkeeper.gateway.shed")
        .with_description("calls refused because of too many others")
        .build()
});

static REFUSED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("shopkeeper.gateway.auth.refused")
        .with_description("calls of callers who are not let in")
        .build()
});

static BACKEND_ERRORS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.backend.errors");
    counter
        .with_description("calls that a service could not be asked")
        .build()
});

static REPLICA_LOSSES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.replica.losses");
    counter
        .with_description("calls that one of several replicas lost")
        .build()
});

static REPLICA_EJECTIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.replica.rests");
    counter
        .with_description("ejections of a replica, by reason: lost calls, failing answers")
        .build()
});

static REPLICAS: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("shopkeeper.gateway.replicas")
        .with_description("replicas of a service that are known")
        .build()
});

static BACKEND_LIMIT: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    let gauge = METER.u64_gauge("shopkeeper.gateway.backend.limit");
    gauge
        .with_description("calls that a service may have in flight")
        .build()
});

static RETRIES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("shopkeeper.gateway.retries")
        .with_description("calls sent again")
        .build()
});

static HEDGES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.hedges");
    counter
        .with_description(
            "calls that a second replica had as well, by who answered: first, second, neither",
        )
        .build()
});

static BACKEND_READY: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("shopkeeper.gateway.backend.ready")
        .with_description("1 while a service is ready")
        .build()
});

static CANARY: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let counter = METER.u64_counter("shopkeeper.gateway.canary.calls");
    counter
        .with_description("calls for the version that a share of callers gets")
        .build()
});

/// A cacheable call had this outcome.
pub(crate) fn lookup(outcome: &'static str, method: &str) {
    CACHE.add(
        1,
        &[
            KeyValue::new("outcome", outcome),
            KeyValue::new("rpc.method", method.to_owned()),
        ],
    );
}

/// An answer was kept, in `memory` or in `redis`.
pub(crate) fn stored(tier: &'static str) {
    STORED.add(1, &[KeyValue::new("tier", tier)]);
}

/// An answer is refreshed before it has ended.
pub(crate) fn refreshed(method: &str) {
    REFRESHED.add(1, &[KeyValue::new("rpc.method", method.to_owned())]);
}

/// Redis did not answer as it should.
pub(crate) fn redis(operation: &'static str, reason: &'static str) {
    REDIS.add(
        1,
        &[
            KeyValue::new("operation", operation),
            KeyValue::new("reason", reason),
        ],
    );
}

/// Whether Redis is used.
pub(crate) fn redis_up(up: bool) {
    REDIS_UP.record(up.into(), &[]);
}

/// A call was refused because too many others were in flight, at the `gateway` or at its `backend`.
pub(crate) fn shed(at: &'static str, priority: Priority) {
    let priority = match priority {
        Priority::High => "high",
        Priority::Normal | Priority::Unspecified => "normal",
        Priority::Low => "low",
    };
    SHED.add(
        1,
        &[KeyValue::new("at", at), KeyValue::new("priority", priority)],
    );
}

/// One of several replicas lost a call.
pub(crate) fn replica_lost(service: &str) {
    REPLICA_LOSSES.add(1, &[KeyValue::new("backend", service.to_owned())]);
}

/// A replica was ejected.
pub(crate) fn replica_ejected(service: &str, reason: &'static str) {
    REPLICA_EJECTIONS.add(
        1,
        &[
            KeyValue::new("backend", service.to_owned()),
            KeyValue::new("reason", reason),
        ],
    );
}

/// The number of replicas of a service.
pub(crate) fn replicas(service: &str, count: usize) {
    REPLICAS.record(
        count as u64,
        &[KeyValue::new("backend", service.to_owned())],
    );
}

/// The limit of calls that a service may have in flight.
pub(crate) fn backend_limit(service: &str, limit: u64) {
    BACKEND_LIMIT.record(limit, &[KeyValue::new("backend", service.to_owned())]);
}

/// A call was not admitted.
pub(crate) fn refused(reason: &'static str) {
    REFUSED.add(1, &[KeyValue::new("reason", reason)]);
}

/// A service could not be called.
pub(crate) fn backend_error(area: &str) {
    BACKEND_ERRORS.add(1, &[KeyValue::new("backend", area.to_owned())]);
}

/// A call goes to the canary.
pub(crate) fn canary(area: &str) {
    CANARY.add(1, &[KeyValue::new("backend", area.to_owned())]);
}

/// A call was retried.
pub(crate) fn retried(area: &str) {
    RETRIES.add(1, &[KeyValue::new("backend", area.to_owned())]);
}

/// A call was hedged, and the `first` replica, the `second` or `neither` answered it.
pub(crate) fn hedged(service: &str, by: &'static str) {
    HEDGES.add(
        1,
        &[
            KeyValue::new("backend", service.to_owned()),
            KeyValue::new("answered", by),
        ],
    );
}

/// Whether a service is ready.
pub(crate) fn backend_ready(area: &str, ready: bool) {
    BACKEND_READY.record(ready.into(), &[KeyValue::new("backend", area.to_owned())]);
}
