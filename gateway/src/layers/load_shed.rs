//! Refuses calls above a number in flight, before they have cost any work: the calls in flight keep
//! their latency. Calls of lower priority may take only a part of the capacity, so that a long list
//! yields to a checkout. A call is in flight until the last byte of its answer, but until its
//! deadline at most: a caller that does not read its answer keeps no other out. Streams, which may
//! last for ever, have a pool of the same size to themselves, for the same reason.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use proto::policy::v1::Priority;
use tokio::time::Instant;

use crate::{
    call::Call,
    error::Overloaded,
    grpc::frame::Keeping,
    metrics,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
};

/// Numbers of this layer.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Calls in flight, and as many streams. Calls of high priority may take all of it.
    pub(crate) capacity: usize,
    /// Part of the capacity that is kept from calls of normal priority: one in this many.
    pub(crate) reserved_from_normal: usize,
    /// Part of the capacity that calls of low priority may take: one in this many.
    pub(crate) open_to_low: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 2048,
            reserved_from_normal: 10,
            open_to_low: 2,
        }
    }
}

/// Lets `capacity` calls be in flight, and as many streams.
pub(crate) fn layer(capacity: usize) -> MiddlewareLayer<LoadShed> {
    let config = Config {
        capacity,
        ..Config::default()
    };
    MiddlewareLayer::new(LoadShed {
        calls: Arc::new(Pool::new(config.clone())),
        streams: Arc::new(Pool::new(config)),
    })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct LoadShed {
    calls: Arc<Pool>,
    streams: Arc<Pool>,
}

impl Middleware<Call> for LoadShed {
    type Next = Call;

    async fn handle(&self, call: Call, next: &impl Handler<Call>) -> Answer {
        let (pool, expires) = match call.method.server_streaming {
            true => (&self.streams, None),
            false => (&self.calls, Some(call.deadline)),
        };
        let Some(permit) = pool.acquire(call.method.priority, expires) else {
            metrics::shed("gateway", call.method.priority);
            return Err(Overloaded.into());
        };
        let response = next.call(call).await?;
        Ok(response.map(|body| Keeping::body(body, permit)))
    }
}

/// Bits of a tag that tell permits of the same millisecond apart.
const SEQUENCE_BITS: u32 = 24;

/// Permits to be in flight: a semaphore with permits that expire.
#[derive(Debug)]
struct Pool {
    config: Config,
    in_use: AtomicUsize,
    /// A tag for each permit that is out, 0 for each that is free: when the permit expires, in
    /// milliseconds from `start`, above a sequence number.
    slots: Box<[AtomicU64]>,
    issued: AtomicU64,
    /// When expired permits were last taken back, in milliseconds from `start`.
    swept_ms: AtomicU64,
    start: Instant,
}

impl Pool {
    fn new(config: Config) -> Self {
        let slots = (0..config.capacity).map(|_| AtomicU64::new(0)).collect();
        Self {
            config,
            in_use: AtomicUsize::new(0),
            slots,
            issued: AtomicU64::new(0),
            swept_ms: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Permits that may be out, the new one included, if it is for this priority.
    fn limit(&self, priority: Priority) -> usize {
        let capacity = self.config.capacity;
        match priority {
            Priority::High => capacity,
            Priority::Normal | Priority::Unspecified => {
                capacity - capacity / self.config.reserved_from_normal
            }
            Priority::Low => capacity.div_ceil(self.config.open_to_low),
        }
    }

    /// A permit, which another call may take over once it has expired; none if too many are out.
    fn acquire(self: &Arc<Self>, priority: Priority, expires: Option<Instant>) -> Option<Permit> {
        let limit = self.limit(priority);
        let count = || {
            let one_more = |in_use| (in_use < limit).then_some(in_use + 1);
            self.in_use
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        };
        count()
            .or_else(|_| {
                self.sweep(Instant::now());
                count()
            })
            .ok()?;
        let sequence = self.issued.fetch_add(1, Ordering::Relaxed);
        let tag =
            self.milliseconds(expires) << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1);
        // There is a free slot for each call that was counted: `release` empties the slot before it
        // lowers the count.
        let claim = |slot: &usize| {
            self.slots[*slot]
                .compare_exchange(0, tag, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        let capacity = self.config.capacity;
        let slot = (sequence as usize % capacity..)
            .map(|slot| slot % capacity)
            .find(claim)?;
        Some(Permit {
            pool: self.clone(),
            slot,
            tag,
        })
    }

    /// Milliseconds from the start, more than 0; the largest number for no time at all.
    fn milliseconds(&self, at: Option<Instant>) -> u64 {
        let since = at.map(|at| at.duration_since(self.start).as_millis() as u64 + 1);
        since.unwrap_or(u64::MAX).min(u64::MAX >> SEQUENCE_BITS)
    }

    /// Takes expired permits back: their callers do not read what they were answered.
    fn sweep(&self, now: Instant) {
        let now = self.milliseconds(Some(now));
        // Once a millisecond is enough, however many calls are refused meanwhile.
        if self.swept_ms.fetch_max(now, Ordering::Relaxed) >= now {
            return;
        }
        for slot in 0..self.config.capacity {
            let tag = self.slots[slot].load(Ordering::Relaxed);
            if tag != 0 && tag >> SEQUENCE_BITS < now {
                self.release(slot, tag);
            }
        }
    }

    /// Frees a slot, unless that was done before: a permit may be swept and then dropped.
    fn release(&self, slot: usize, tag: u64) {
        if self.slots[slot]
            .compare_exchange(tag, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            self.in_use.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Leave to be in flight, given back when this is dropped.
struct Permit {
    pool: Arc<Pool>,
    slot: usize,
    tag: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.release(self.slot, self.tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::tests::call, error::BoxError, grpc::frame::Known, middleware::tests::Bottom,
    };
    use bytes::Bytes;
    use http::Response;
    use std::time::Duration;
    use tower::{Layer, service_fn};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const SUMMARY: &str = "/shopkeeper.insights.v1.InsightsService/GetSummary";
    const LIST: &str = "/shopkeeper.churn.v1.ChurnService/ListAtRiskCustomers";
    const EXPORT: &str = "/shopkeeper.insights.v1.InsightsService/ExportTransactions";

    fn limited(capacity: usize) -> impl Handler<Call> {
        let echo = async |_: Call| {
            Ok::<_, BoxError>(Response::new(Known::body(Bytes::from_static(b"x"), None)))
        };
        layer(capacity).layer(Bottom(service_fn(echo)))
    }

    #[tokio::test]
    async fn a_call_is_in_flight_until_its_answer_has_ended() {
        let service = limited(1);
        let answer = service.call(call(RISK, b"")).await.unwrap();
        assert!(
            service
                .call(call(RISK, b""))
                .await
                .unwrap_err()
                .is::<Overloaded>()
        );
        drop(answer);
        assert!(service.call(call(RISK, b"")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_reads_nothing_holds_its_permit_until_the_deadline() {
        let service = limited(1);
        let unread = service.call(call(RISK, b"")).await.unwrap();
        let moment = Duration::from_millis(5);
        tokio::time::sleep(call(RISK, b"").method.timeout - moment).await;
        assert!(
            service
                .call(call(RISK, b""))
                .await
                .unwrap_err()
                .is::<Overloaded>()
        );
        tokio::time::sleep(moment * 2).await;
        let answer = service.call(call(RISK, b"")).await.unwrap();
        drop(unread);
        assert!(
            service.call(call(RISK, b"")).await.is_err(),
            "a permit is given back once"
        );
        drop(answer);
        assert!(service.call(call(RISK, b"")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_holds_its_permit_and_keeps_no_call_out() {
        let service = limited(1);
        let stream = service.call(call(EXPORT, b"")).await.unwrap();
        tokio::time::sleep(call(EXPORT, b"").method.timeout * 2).await;
        assert!(
            service
                .call(call(EXPORT, b""))
                .await
                .unwrap_err()
                .is::<Overloaded>()
        );
        let answer = service.call(call(RISK, b"")).await.unwrap();
        drop(stream);
        assert!(service.call(call(EXPORT, b"")).await.is_ok());
        drop(answer);
    }

    #[tokio::test]
    async fn a_long_list_yields_to_a_checkout() {
        let service = limited(10);
        let mut answers = vec![];
        for (path, admitted) in [(LIST, 5), (SUMMARY, 4), (RISK, 1)] {
            for n in 0..10 {
                match service.call(call(path, b"")).await {
                    Ok(answer) => answers.push(answer),
                    Err(error) => {
                        assert!(error.is::<Overloaded>());
                        assert_eq!(n, admitted, "{path}");
                        break;
                    }
                }
            }
        }
        assert_eq!(answers.len(), 10);
    }
}
