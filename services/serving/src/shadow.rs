//! A shadow: a version on trial that is compared with the current version. A sample of calls is
//! repeated at both after the caller has its answer, and the differences are counted.
//! Promise: no caller waits for it, and its queue is short; calls beyond it are dropped.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use proto::model::v1 as pb;
use runtime::{
    Refusal,
    metrics::{self, Counter, EncodeLabelSet, Family, FractionGauge},
};
use scoring::{Model, ModelKind};
use tokio::sync::mpsc;

use crate::loaded::Loaded;

/// One call of this many is compared.
const SAMPLE_EVERY: u64 = 4;
/// Comparisons that may wait.
const MAX_QUEUED: usize = 64;

static COMPARED: LazyLock<Family<ComparisonLabels, Counter>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_shadow_comparisons",
        "questions put to a shadow version, by outcome: same, different, dropped",
    )
});

static DIFFERENCE: LazyLock<Family<DifferenceLabels, FractionGauge>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_shadow_difference",
        "largest difference between two scores since the shadow was loaded; 0 without one",
    )
});

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ComparisonLabels {
    model: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DifferenceLabels {
    model: &'static str,
}

type Comparison = Box<dyn FnOnce() + Send>;

/// A version that is compared with the current one.
#[derive(Debug)]
pub(crate) struct Shadow<M> {
    pub(crate) loaded: Arc<Loaded<M>>,
    calls: AtomicU64,
    results: Arc<Mutex<Results>>,
    queue: mpsc::Sender<Comparison>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Results {
    compared: i64,
    different: i64,
    dropped: i64,
    largest: f64,
}

impl<M: Model> Shadow<M> {
    /// Makes one comparison after the other until it is dropped.
    pub(crate) fn new(loaded: Loaded<M>) -> Self {
        let (queue, mut queued) = mpsc::channel::<Comparison>(MAX_QUEUED);
        tokio::spawn(async move {
            while let Some(comparison) = queued.recv().await {
                // An error would be a panic, which the comparison catches itself.
                let _ = tokio::task::spawn_blocking(comparison).await;
            }
        });
        Self {
            loaded: Arc::new(loaded),
            calls: AtomicU64::new(0),
            results: Arc::default(),
            queue,
        }
    }

    /// Whether it is this version.
    pub(crate) fn is(&self, loaded: &Loaded<M>) -> bool {
        self.loaded.info.version == loaded.info.version
    }

    /// Queues the comparison of a call that `stable` has answered, if the call is in the sample.
    pub(crate) fn compare<R: Send + 'static, T: PartialEq>(
        &self,
        stable: &Loaded<M>,
        request: R,
        with: impl Fn(&Loaded<M>, &R) -> Result<T, Refusal> + Send + 'static,
    ) {
        if !self
            .calls
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(SAMPLE_EVERY)
        {
            return;
        }
        // Answers contain the version, so both answer under one; else no two would be equal.
        let (one, other) = (
            stable.recording(&stable.info),
            self.loaded.recording(&stable.info),
        );
        let results = Arc::clone(&self.results);
        let comparison = Box::new(move || {
            let both = AssertUnwindSafe(|| with(&one, &request) == with(&other, &request));
            // A panic counts as a different answer.
            let same = catch_unwind(both).unwrap_or(false);
            let apart = largest_difference(&one.recorded(), &other.recorded());
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.compared += 1;
            results.different += i64::from(!same);
            results.largest = results.largest.max(apart);
            set_difference(M::KIND, results.largest);
            count(M::KIND, if same { "same" } else { "different" });
        });
        if self.queue.try_send(comparison).is_err() {
            self.results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .dropped += 1;
            count(M::KIND, "dropped");
        }
    }

    /// The results so far, as ModelService returns them.
    pub(crate) fn report(&self) -> pb::Shadow {
        let Results {
            compared,
            different,
            dropped,
            largest,
        } = *self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.loaded.info.version.clone();
        pb::Shadow {
            version,
            refusal: String::new(),
            compared,
            different,
            dropped,
            largest_difference: largest,
        }
    }
}

impl<M> Drop for Shadow<M> {
    fn drop(&mut self) {
        set_difference(self.loaded.manifest.model, 0.0);
    }
}

/// Largest difference between two numbers of the same name; 0 without any.
fn largest_difference(one: &[(&'static str, f64)], other: &[(&'static str, f64)]) -> f64 {
    let both = one
        .iter()
        .zip(other)
        .filter(|((one, _), (other, _))| one == other);
    both.map(|((_, one), (_, other))| (one - other).abs())
        .fold(0.0, f64::max)
}

fn count(model: ModelKind, outcome: &'static str) {
    let labels = ComparisonLabels {
        model: model.as_str(),
        outcome,
    };
    COMPARED.get_or_create(&labels).inc();
}

fn set_difference(model: ModelKind, largest: f64) {
    let labels = DifferenceLabels {
        model: model.as_str(),
    };
    DIFFERENCE.get_or_create(&labels).set(largest);
}
