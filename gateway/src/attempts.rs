//! What the attempts of one call share: which replicas were tried, and the budget that further
//! attempts (retries and hedges) are paid from.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use http::HeaderName;

/// How many attempts came before this one (gRFC A6).
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

/// Tells a replica from all others that live at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplicaId(pub(crate) usize);

/// The replicas that were tried for one call. Clones share one list.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttemptedReplicas(Arc<Mutex<Attempts>>);

/// See [`AttemptedReplicas`].
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    replicas: Vec<ReplicaId>,
    hedged: bool,
}

impl Attempts {
    pub(crate) fn contains(&self, replica: ReplicaId) -> bool {
        self.replicas.contains(&replica)
    }

    /// Whether two replicas have had the call at the same time.
    pub(crate) fn is_hedged(&self) -> bool {
        self.hedged
    }
}

impl AttemptedReplicas {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a replica that has the call alone.
    pub(crate) fn add(&self, replica: ReplicaId) {
        self.lock().replicas.push(replica);
    }

    /// Adds a replica that has the call while another one still has it.
    pub(crate) fn add_hedge(&self, replica: ReplicaId) {
        let mut attempts = self.lock();
        attempts.replicas.push(replica);
        attempts.hedged = true;
    }

    /// Whether both belong to one call.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Retry throttling of gRFC A6, in tenths of a token. A retry needs more than half of the tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryBudgetConfig {
    /// A full budget (`maxTokens`). Default: 1000, which is 100 tokens.
    pub(crate) max_tenths: u32,
    /// Cost of a failed attempt. Default: 10, which is a token.
    pub(crate) failure_tenths: u32,
    /// What an answer gives back (`tokenRatio`). Default: 1, a tenth of a token.
    pub(crate) answer_tenths: u32,
    /// What hedges leave for retries, which a call may need more. Default: 750.
    pub(crate) hedge_reserve_tenths: u32,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self {
            max_tenths: 1000,
            failure_tenths: 10,
            answer_tenths: 1,
            hedge_reserve_tenths: 750,
        }
    }
}

/// How many more attempts one service may get. Clones share one budget.
#[derive(Debug, Clone)]
pub(crate) struct RetryBudget(Arc<Tokens>);

#[derive(Debug)]
struct Tokens {
    config: RetryBudgetConfig,
    tenths: AtomicU32,
}

impl RetryBudget {
    /// A full budget.
    pub(crate) fn new(config: RetryBudgetConfig) -> Self {
        let tenths = AtomicU32::new(config.max_tenths);
        Self(Arc::new(Tokens { config, tenths }))
    }

    /// Takes the cost of a hedge and returns true, if the budget is above the reserve for retries.
    pub(crate) fn pay_hedge(&self) -> bool {
        let config = &self.0.config;
        let pay =
            |tenths| (tenths > config.hedge_reserve_tenths).then(|| tenths - config.failure_tenths);
        self.0
            .tenths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay)
            .is_ok()
    }

    /// An attempt was answered.
    pub(crate) fn answered(&self) {
        let config = &self.0.config;
        // Mostly the budget is full: then a read is all that the callers' threads share.
        if self.0.tenths.load(Ordering::Relaxed) < config.max_tenths {
            self.change(|tenths| (tenths + config.answer_tenths).min(config.max_tenths));
        }
    }

    /// An attempt failed. Returns whether the budget allows a retry.
    pub(crate) fn failed(&self) -> bool {
        let config = &self.0.config;
        self.change(|tenths| tenths.saturating_sub(config.failure_tenths)) > config.max_tenths / 2
    }

    /// Returns the tenths after the change.
    fn change(&self, change: impl Fn(u32) -> u32) -> u32 {
        let before = self
            .0
            .tenths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| {
                Some(change(tenths))
            });
        before.map_or(0, change)
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(RetryBudgetConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_leave_tokens_for_retries() {
        let budget = RetryBudget::default();
        assert_eq!((0..100).filter(|_| budget.pay_hedge()).count(), 25);
        assert!(budget.failed(), "a lost call may be retried");
        (0..200).for_each(|_| budget.answered());
        assert!(budget.pay_hedge());
    }
}
