//! A version that is asked as well. Some questions are put once more, to the version that answers
//! and to this one, after the caller has been answered; what they differ in is counted. Promise: no
//! caller waits for it, and no more is kept waiting than a short queue.

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

use crate::Loaded;

/// One question of so many is put to the shadow.
const SAMPLED: u64 = 4;
/// Questions that wait.
const QUEUE: usize = 64;

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

type Question = Box<dyn FnOnce() + Send>;

/// A version that is asked as well.
#[derive(Debug)]
pub(crate) struct Shadow<M> {
    pub(crate) loaded: Loaded<M>,
    calls: AtomicU64,
    found: Arc<Mutex<Found>>,
    questions: mpsc::Sender<Question>,
}

/// What came of the questions.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    compared: i64,
    different: i64,
    dropped: i64,
    largest: f64,
}

impl<M: Model> Shadow<M> {
    /// Asks one question after the other, for as long as it lives.
    pub(crate) fn new(loaded: Loaded<M>) -> Self {
        let (questions, mut queue) = mpsc::channel::<Question>(QUEUE);
        tokio::spawn(async move {
            while let Some(question) = queue.recv().await {
                // It does not panic, and is not aborted.
                let _ = tokio::task::spawn_blocking(question).await;
            }
        });
        Self {
            loaded,
            calls: AtomicU64::new(0),
            found: Arc::default(),
            questions,
        }
    }

    /// Puts a question that `stable` has answered once more, where it is its turn.
    pub(crate) fn ask<R: Send + 'static, T: PartialEq>(
        &self,
        stable: &Loaded<M>,
        request: R,
        with: impl Fn(&Loaded<M>, &R) -> Result<T, Refusal> + Send + 'static,
    ) {
        if !self
            .calls
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(SAMPLED)
        {
            return;
        }
        // Under one name, or every answer would be another for that alone.
        let (one, other) = (stable.apart(&stable.info), self.loaded.apart(&stable.info));
        let found = Arc::clone(&self.found);
        let question = Box::new(move || {
            let both = AssertUnwindSafe(|| with(&one, &request) == with(&other, &request));
            // No answer is another answer.
            let same = catch_unwind(both).unwrap_or(false);
            let apart = furthest(&one.told(), &other.told());
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.compared += 1;
            found.different += i64::from(!same);
            found.largest = found.largest.max(apart);
            difference(M::KIND, found.largest);
            count(M::KIND, if same { "same" } else { "different" });
        });
        if self.questions.try_send(question).is_err() {
            self.found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .dropped += 1;
            count(M::KIND, "dropped");
        }
    }

    /// What has been found, as ModelService tells it.
    pub(crate) fn report(&self) -> pb::Shadow {
        let Found {
            compared,
            different,
            dropped,
            largest,
        } = *self.found.lock().unwrap_or_else(PoisonError::into_inner);
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
        difference(self.loaded.manifest.model, 0.0);
    }
}

/// How far apart two numbers of one name are at most.
fn furthest(one: &[(&'static str, f64)], other: &[(&'static str, f64)]) -> f64 {
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

fn difference(model: ModelKind, largest: f64) {
    let labels = DifferenceLabels {
        model: model.as_str(),
    };
    DIFFERENCE.get_or_create(&labels).set(largest);
}
