//! Latency quantiles: how long calls of a method take, as far as the gateway has seen.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Which quantile is followed, and how fast. An estimate moves by a factor with every call, and is
/// in balance if `P(longer) * ln(rise) = -P(shorter) * ln(fall)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantileConfig {
    /// Factor after a call that took longer than the estimate. Default: 1.5.
    pub(crate) rise: f64,
    /// Factor after any other call. Default: `rise^(-1/19)`, which makes the estimate the 95th
    /// percentile.
    pub(crate) fall: f64,
}

impl Default for QuantileConfig {
    fn default() -> Self {
        Self {
            rise: 1.5,
            fall: 0.978_886,
        }
    }
}

/// The latency within which 95 % of a method's calls are answered, by path. The estimate rises
/// within a few calls and falls within some dozens.
#[derive(Debug, Default)]
pub(crate) struct LatencyQuantiles {
    config: QuantileConfig,
    /// Seconds.
    estimates: Mutex<HashMap<Box<str>, f64>>,
}

impl LatencyQuantiles {
    /// The estimate for a method, if one of its calls has been seen.
    pub(crate) fn get(&self, path: &str) -> Option<Duration> {
        let estimates = self
            .estimates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        estimates
            .get(path)
            .map(|seconds| Duration::from_secs_f64(*seconds))
    }

    /// A call took this long, or longer.
    pub(crate) fn observe(&self, path: &str, latency: Duration) {
        let (latency, QuantileConfig { rise, fall }) = (latency.as_secs_f64(), self.config);
        let mut estimates = self
            .estimates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match estimates.get_mut(path) {
            Some(estimate) => *estimate *= if latency > *estimate { rise } else { fall },
            None => drop(estimates.insert(path.into(), rise * latency)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    #[test]
    fn one_call_in_twenty_takes_longer_than_the_estimate() {
        let (quantiles, rng) = (LatencyQuantiles::default(), Rng::default());
        assert_eq!(quantiles.get("/a"), None);
        for slower in [1.0, 20.0, 0.1] {
            // Exponentially distributed: most calls are short, few are long.
            let latency = || Duration::from_secs_f64(slower * 0.001 * -rng.fraction().ln());
            (0..500).for_each(|_| quantiles.observe("/a", latency()));
            let longer = (0..10_000).filter(|_| {
                let (estimate, latency) = (quantiles.get("/a").unwrap(), latency());
                quantiles.observe("/a", latency);
                latency > estimate
            });
            let longer = longer.count();
            assert!((400..600).contains(&longer), "{longer} of 10000");
        }
        assert_eq!(quantiles.get("/b"), None);
    }

    #[test]
    fn the_estimate_rises_within_a_few_calls() {
        let quantiles = LatencyQuantiles::default();
        (0..100).for_each(|_| quantiles.observe("/a", Duration::from_millis(1)));
        (0..10).for_each(|_| quantiles.observe("/a", Duration::from_millis(30)));
        assert!(quantiles.get("/a").unwrap() > Duration::from_millis(30));
    }
}
