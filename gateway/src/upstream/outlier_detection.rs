//! Outlier detection, as [Envoy] has it: a replica that fails much more often than its peers, or
//! has just lost calls, is ejected for a while, longer each time.
//!
//! [Envoy]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier

use std::time::Duration;

/// When a replica is ejected, and for how long. Names are Envoy's if Envoy has the setting.
#[derive(Debug, Clone)]
pub(crate) struct OutlierDetection {
    /// Answers without which a replica is not evaluated, but for `consecutive_failures` (Envoy's
    /// request volume). Default: 20.
    pub(crate) request_volume: u32,
    /// Failures in a row after which a replica is evaluated. Default: 5.
    pub(crate) consecutive_failures: u32,
    /// Weight of an answer in the average share of failures. Default: 0.05.
    pub(crate) failure_weight: f64,
    /// Share of failures that every replica may have. Default: 0.1.
    pub(crate) failure_threshold: f64,
    /// A replica may fail this many times as often as its peers' median, beyond the threshold.
    /// Default: 2.
    pub(crate) peer_factor: f64,
    /// Hedges lost in a row, with no answer between, after which a replica counts as having lost
    /// calls. Default: 3.
    pub(crate) consecutive_lost_hedges: u32,
    /// First ejection of a replica that fails; doubles each time up to `max_ejection`.
    /// Default: 1 s.
    pub(crate) base_ejection: Duration,
    /// First ejection of a replica that lost a call; doubles likewise. Default: 100 ms.
    pub(crate) base_ejection_after_loss: Duration,
    /// Longest ejection; also the time without ejection after which the next one is short again.
    /// Default: 30 s.
    pub(crate) max_ejection: Duration,
    /// Share of replicas that may be ejected for their failures at once. Default: 0.5.
    pub(crate) max_ejected: f64,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            request_volume: 20,
            consecutive_failures: 5,
            failure_weight: 0.05,
            failure_threshold: 0.1,
            peer_factor: 2.0,
            consecutive_lost_hedges: 3,
            base_ejection: Duration::from_secs(1),
            base_ejection_after_loss: Duration::from_millis(100),
            max_ejection: Duration::from_secs(30),
            max_ejected: 0.5,
        }
    }
}

/// What outlier detection knows of one replica. Times count from the start of the replica set.
#[derive(Debug, Clone, Default)]
pub(super) struct OutlierRecord {
    /// Average share of failures among its answers.
    failure_rate: f64,
    /// Answers since the last ejection.
    answers: u32,
    pub(super) consecutive_failures: u32,
    /// Hedges that another replica answered first, since its last answer.
    lost_hedges: u32,
    pub(super) ejected_until: Duration,
    /// Ejections that followed each other.
    ejections: u32,
}

impl OutlierRecord {
    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        now < self.ejected_until
    }

    /// The replica answered.
    pub(super) fn answered(&mut self, failed: bool, config: &OutlierDetection) {
        self.lost_hedges = 0;
        self.answers += 1;
        self.consecutive_failures = if failed {
            self.consecutive_failures + 1
        } else {
            0
        };
        self.failure_rate +=
            config.failure_weight * (f64::from(u8::from(failed)) - self.failure_rate);
    }

    /// Another replica answered a call first. Returns whether this one seems to answer none.
    pub(super) fn lost_hedge(&mut self, config: &OutlierDetection) -> bool {
        self.lost_hedges += 1;
        self.lost_hedges >= config.consecutive_lost_hedges
    }

    /// Ejects the replica from now on, for `base` or a multiple.
    pub(super) fn eject(&mut self, now: Duration, base: Duration, config: &OutlierDetection) {
        let again = self.ejections > 0 && now < self.ejected_until + config.max_ejection;
        self.ejections = if again { self.ejections + 1 } else { 1 };
        let ejection = base * 2_u32.saturating_pow(self.ejections - 1);
        self.ejected_until = now + ejection.min(config.max_ejection);
        // What it did before the ejection says nothing about it afterwards.
        (self.failure_rate, self.answers, self.consecutive_failures) = (0.0, 0, 0);
    }

    /// Ends an ejection.
    pub(super) fn readmit(&mut self) {
        self.ejected_until = Duration::ZERO;
    }
}

/// The other replicas of a service.
pub(super) struct Peers {
    ejected: usize,
    median_failure_rate: f64,
}

impl Peers {
    /// Of these records; none if there is no other replica.
    pub(super) fn of(records: impl Iterator<Item = OutlierRecord>, now: Duration) -> Option<Self> {
        let (mut ejected, mut rates) = (0, Vec::new());
        for record in records {
            ejected += usize::from(record.is_ejected(now));
            rates.push(record.failure_rate);
        }
        rates.sort_by(f64::total_cmp);
        // The lower median: if half of the peers fail, the better half is the measure.
        let median_failure_rate = *rates.get(rates.len().saturating_sub(1) / 2)?;
        Some(Self {
            ejected,
            median_failure_rate,
        })
    }
}

impl OutlierDetection {
    /// Whether a replica, one of `replicas`, is to be ejected for its failures.
    pub(super) fn evaluate(
        &self,
        record: &OutlierRecord,
        peers: &Peers,
        replicas: usize,
        now: Duration,
    ) -> bool {
        let is_known = record.answers >= self.request_volume
            || record.consecutive_failures >= self.consecutive_failures;
        let tolerated = self.failure_threshold + self.peer_factor * peers.median_failure_rate;
        let ejected = (peers.ejected + 1) as f64;
        is_known
            && record.failure_rate > tolerated
            && !record.is_ejected(now)
            && ejected <= self.max_ejected * replicas as f64
    }
}
