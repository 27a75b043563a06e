//! The gateway's own metrics. `runtime` counts the duration of every call.

use std::sync::LazyLock;

use runtime::metrics::{self, Counter, EncodeLabelSet, Family, Gauge};

use proto::policy::v1::Priority;

static CACHE: LazyLock<Family<LookupLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_cache_lookups",
        "cacheable calls by outcome: hit-memory, hit-redis, coalesced, miss, bypass",
    )
});

static STORED: LazyLock<Family<TierLabels, Counter>> =
    LazyLock::new(|| metrics::family("shopkeeper_gateway_cache_stored", "answers kept, by where"));

static REFRESHED: LazyLock<Family<MethodLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_cache_refreshed",
        "answers made anew before they ended",
    )
});

static REDIS: LazyLock<Family<RedisLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_redis_problems",
        "reads and writes that Redis did not answer as it should, by reason",
    )
});

static REDIS_UP: LazyLock<Gauge> = LazyLock::new(|| {
    metrics::register(
        "shopkeeper_gateway_redis_up",
        "1 while Redis is used",
        Gauge::default(),
    )
});

static SHED: LazyLock<Family<ShedLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_shed",
        "calls refused because of too many others",
    )
});

static REFUSED: LazyLock<Family<ReasonLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_auth_refused",
        "calls of callers who are not let in",
    )
});

static BACKEND_ERRORS: LazyLock<Family<BackendLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_backend_errors",
        "calls that a service could not be asked",
    )
});

static REPLICA_LOSSES: LazyLock<Family<BackendLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_replica_losses",
        "calls that one of several replicas lost",
    )
});

static REPLICA_EJECTIONS: LazyLock<Family<EjectionLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_replica_rests",
        "ejections of a replica, by reason: lost calls, failing answers",
    )
});

static REPLICAS: LazyLock<Family<BackendLabels, Gauge>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_replicas",
        "replicas of a service that are known",
    )
});

static BACKEND_LIMIT: LazyLock<Family<BackendLabels, Gauge>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_backend_limit",
        "calls that a service may have in flight",
    )
});

static RETRIES: LazyLock<Family<BackendLabels, Counter>> =
    LazyLock::new(|| metrics::family("shopkeeper_gateway_retries", "calls sent again"));

static HEDGES: LazyLock<Family<HedgeLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_hedges",
        "calls that a second replica had as well, by who answered: first, second, neither",
    )
});

static BACKEND_READY: LazyLock<Family<BackendLabels, Gauge>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_backend_ready",
        "1 while a service is ready",
    )
});

static CANARY: LazyLock<Family<BackendLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_gateway_canary_calls",
        "calls for the version that a share of callers gets",
    )
});

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    outcome: &'static str,
    rpc_method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    rpc_method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RedisLabels {
    operation: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShedLabels {
    at: &'static str,
    priority: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EjectionLabels {
    backend: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HedgeLabels {
    answered: &'static str,
    backend: String,
}

impl BackendLabels {
    fn of(service: &str) -> Self {
        Self {
            backend: service.to_owned(),
        }
    }
}

/// A cacheable call had this outcome.
pub(crate) fn lookup(outcome: &'static str, method: &str) {
    let labels = LookupLabels {
        outcome,
        rpc_method: method.to_owned(),
    };
    CACHE.get_or_create(&labels).inc();
}

/// An answer was kept, in `memory` or in `redis`.
pub(crate) fn stored(tier: &'static str) {
    let labels = TierLabels { tier };
    STORED.get_or_create(&labels).inc();
}

/// An answer is refreshed before it has ended.
pub(crate) fn refreshed(method: &str) {
    let labels = MethodLabels {
        rpc_method: method.to_owned(),
    };
    REFRESHED.get_or_create(&labels).inc();
}

/// Redis did not answer as it should.
pub(crate) fn redis(operation: &'static str, reason: &'static str) {
    let labels = RedisLabels { operation, reason };
    REDIS.get_or_create(&labels).inc();
}

/// Whether Redis is used.
pub(crate) fn redis_up(up: bool) {
    REDIS_UP.set(up.into());
}

/// A call was refused because too many others were in flight, at the `gateway` or at its `backend`.
pub(crate) fn shed(at: &'static str, priority: Priority) {
    let priority = match priority {
        Priority::High => "high",
        Priority::Normal | Priority::Unspecified => "normal",
        Priority::Low => "low",
    };
    let labels = ShedLabels { at, priority };
    SHED.get_or_create(&labels).inc();
}

/// One of several replicas lost a call.
pub(crate) fn replica_lost(service: &str) {
    REPLICA_LOSSES
        .get_or_create(&BackendLabels::of(service))
        .inc();
}

/// A replica was ejected.
pub(crate) fn replica_ejected(service: &str, reason: &'static str) {
    let labels = EjectionLabels {
        backend: service.to_owned(),
        reason,
    };
    REPLICA_EJECTIONS.get_or_create(&labels).inc();
}

/// The number of replicas of a service.
pub(crate) fn replicas(service: &str, count: usize) {
    REPLICAS
        .get_or_create(&BackendLabels::of(service))
        .set(count as u64);
}

/// The limit of calls that a service may have in flight.
pub(crate) fn backend_limit(service: &str, limit: u64) {
    BACKEND_LIMIT
        .get_or_create(&BackendLabels::of(service))
        .set(limit);
}

/// A call was not admitted.
pub(crate) fn refused(reason: &'static str) {
    let labels = ReasonLabels { reason };
    REFUSED.get_or_create(&labels).inc();
}

/// A service could not be called.
pub(crate) fn backend_error(area: &str) {
    BACKEND_ERRORS.get_or_create(&BackendLabels::of(area)).inc();
}

/// A call goes to the canary.
pub(crate) fn canary(area: &str) {
    CANARY.get_or_create(&BackendLabels::of(area)).inc();
}

/// A call was retried.
pub(crate) fn retried(area: &str) {
    RETRIES.get_or_create(&BackendLabels::of(area)).inc();
}

/// A call was hedged, and the `first` replica, the `second` or `neither` answered it.
pub(crate) fn hedged(service: &str, by: &'static str) {
    let labels = HedgeLabels {
        backend: service.to_owned(),
        answered: by,
    };
    HEDGES.get_or_create(&labels).inc();
}

/// Whether a service is ready.
pub(crate) fn backend_ready(area: &str, ready: bool) {
    BACKEND_READY
        .get_or_create(&BackendLabels::of(area))
        .set(ready.into());
}
