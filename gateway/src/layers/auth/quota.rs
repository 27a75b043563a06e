//! Counts the calls of each caller against its rate. Promise: replicas that share a Redis count
//! together; a Redis that is slow or away costs a few milliseconds and no call, because each
//! replica then counts for itself.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    DefaultDirectRateLimiter, NotUntil, RateLimiter,
    clock::{Clock, DefaultClock},
};
use moka::future;

use crate::{caller::Caller, redis::Client};

/// Callers that one replica counts by itself. Beyond that, the callers that were silent longest
/// start with a full quota again.
const MAX_CALLERS: u64 = 100_000;

/// The generic cell rate algorithm (GCRA): the key holds when the caller would be back at no calls,
/// in microseconds of Redis' own clock. In: microseconds per call, calls at once. Out: 0, or
/// microseconds to wait.
const TAKE: &str = "
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local free = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now) + ARGV[1]
local wait = free - now - ARGV[1] * ARGV[2]
if wait > 0 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', free), 'PX', math.ceil((free - now) / 1000))
return 0
";

/// Calls that a caller may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Rate {
    /// Calls per second in the long run.
    pub(super) per_second: NonZeroU32,
    /// Calls at once.
    pub(super) burst: NonZeroU32,
}

impl Rate {
    /// `per_second` calls, and at once as many if there is no `burst`.
    pub(super) fn of(per_second: NonZeroU32, burst: Option<NonZeroU32>) -> Self {
        Self {
            per_second,
            burst: burst.unwrap_or(per_second),
        }
    }
}

/// The calls of all callers.
#[derive(Debug, Clone)]
pub(super) struct Quotas {
    shared: Option<Arc<Client>>,
    own: future::Cache<(Caller, Rate), Arc<DefaultDirectRateLimiter>>,
}

impl Quotas {
    /// Calls are counted in this Redis; in this process while it does not answer, or without one.
    pub(super) fn new(shared: Option<Arc<Client>>) -> Self {
        Self {
            shared,
            own: future::Cache::new(MAX_CALLERS),
        }
    }

    /// Counts one more call.
    ///
    /// # Errors
    /// Returns how long to wait if it is one too many.
    pub(super) async fn take(&self, caller: Caller, rate: Rate) -> Result<(), Duration> {
        if let Some(shared) = &self.shared {
            let mut take = redis::cmd("EVAL");
            let (each, burst) = (1e6 / f64::from(rate.per_second.get()), rate.burst.get());
            take.arg(TAKE)
                .arg(1)
                .arg(format!("sk:1:quota:{caller}"))
                .arg(each)
                .arg(burst);
            match shared.ask("quota", &take).await {
                Some(0_u64) => return Ok(()),
                Some(wait) => return Err(Duration::from_micros(wait)),
                None => {}
            }
        }
        let fresh = async {
            let quota = governor::Quota::per_second(rate.per_second).allow_burst(rate.burst);
            Arc::new(RateLimiter::direct(quota))
        };
        let wait = |over: NotUntil<_>| over.wait_time_from(DefaultClock::default().now());
        self.own
            .get_with((caller, rate), fresh)
            .await
            .check()
            .map_err(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_caller_may_make_as_many_calls_at_once_as_its_burst() {
        let (quotas, number) = (Quotas::new(None), |n| NonZeroU32::new(n).unwrap());
        for caller in [Caller::named("a"), Caller::named("b")] {
            let rate = Rate::of(number(1), Some(number(3)));
            for _ in 0..3 {
                assert_eq!(quotas.take(caller, rate).await, Ok(()));
            }
            let wait = quotas.take(caller, rate).await.unwrap_err();
            assert!(wait <= Duration::from_secs(1), "{wait:?}");
        }
        let rate = Rate::of(number(2), None);
        assert_eq!(rate, Rate::of(number(2), Some(number(2))));
    }
}
