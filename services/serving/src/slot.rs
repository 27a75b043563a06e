//! A slot: the version that one channel should have, and how loading it went.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use model_store::{Channel, ModelStore, StoreError};
use runtime::metrics::{self, Counter, EncodeLabelSet, Family};
use scoring::Model;
use tokio::time::Instant;

use crate::loaded::{Loaded, read};

/// Pauses between two tries of a version that was refused: from 1 to 2 s at first, from 30 to 60 s
/// in the end. Jitter keeps replicas from asking the store in step.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(30))
    .without_max_times()
    .with_jitter();

static LOADS: LazyLock<Family<LoadLabels, Counter>> =
    LazyLock::new(|| metrics::family("shopkeeper_model_loads", "model versions loaded or refused"));

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    model: &'static str,
    outcome: &'static str,
}

/// The version that a channel should have and does not have yet, with the last refusal of it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) channel: Channel,
    /// Why the version is refused; empty if it is not.
    pub(crate) refusal: String,
    pending: Option<String>,
    backoff: ExponentialBackoff,
    not_before: Option<Instant>,
}

impl Slot {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            refusal: String::new(),
            pending: None,
            backoff: BACKOFF.build(),
            not_before: None,
        }
    }

    /// Whether this version has been refused, and is still what the channel should have.
    pub(crate) fn is_pending(&self, version: &str) -> bool {
        self.pending.as_deref() == Some(version)
    }

    /// The channel has its version.
    pub(crate) fn filled(&mut self) {
        *self = Self::new(self.channel);
    }

    /// Loads a version from the store, if it is time to try it: at once if it is new, after growing
    /// pauses if it was refused.
    pub(crate) async fn load<M: Model>(
        &mut self,
        store: &ModelStore,
        version: &str,
    ) -> Option<Arc<Loaded<M>>> {
        if !self.is_pending(version) {
            *self = Self::new(self.channel);
            self.pending = Some(version.to_owned());
        }
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return None;
        }
        let (outcome, loaded) = match fetch::<M>(store, version).await {
            Ok(loaded) => {
                tracing::info!(model = %M::KIND, model.version = version, "loaded");
                self.filled();
                ("loaded", Some(Arc::new(loaded)))
            }
            Err(refusal) => {
                tracing::error!(model = %M::KIND, model.version = version, refusal, "refused");
                self.refusal = refusal;
                self.not_before = self.backoff.next().map(|pause| Instant::now() + pause);
                ("refused", None)
            }
        };
        let labels = LoadLabels {
            model: M::KIND.as_str(),
            outcome,
        };
        LOADS.get_or_create(&labels).inc();
        loaded
    }
}

async fn fetch<M: Model>(store: &ModelStore, version: &str) -> Result<Loaded<M>, String> {
    // The refusal names the part at fault; the version is in the status beside it.
    let artifact = match store.fetch(M::KIND, version).await {
        Err(StoreError::Refused { source, .. }) => return Err(source.to_string()),
        fetched => fetched.map_err(|error| error.to_string())?,
    };
    read(artifact).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_tries_grow_from_one_second_to_at_most_one_minute() {
        let pauses: Vec<_> = BACKOFF.build().take(20).collect();
        let seconds = |from, to| Duration::from_secs(from)..=Duration::from_secs(to);
        assert!(seconds(1, 2).contains(&pauses[0]), "{pauses:?}");
        assert!(seconds(30, 60).contains(&pauses[19]), "{pauses:?}");
    }
}
