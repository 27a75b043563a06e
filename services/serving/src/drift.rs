//! Drift: whether the numbers that a model is given and gives are still spread as in training.
//! Every few calls are counted into the bins of the manifest; whenever enough have been, the gauge
//! says how far they are off.

use std::{
    collections::BTreeMap,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use runtime::metrics::{self, EncodeLabelSet, Family, FractionGauge};
use scoring::{Distribution, Manifest, ModelKind};

/// One call of so many is counted.
const SAMPLED: u64 = 4;
/// Values that are compared at once: by chance alone ten bins then give less than a tenth of what
/// is worth a look.
const WINDOW: u64 = 1000;

static DRIFT: LazyLock<Family<DriftLabels, FractionGauge>> = LazyLock::new(|| {
    metrics::family(
        "shopkeeper_model_drift",
        "population stability index of a feature or score against training",
    )
});

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriftLabels {
    model: &'static str,
    number: String,
}

/// What is counted of a model.
#[derive(Debug)]
pub(crate) struct Drift {
    model: ModelKind,
    calls: AtomicU64,
    numbers: BTreeMap<String, Mutex<Window>>,
}

#[derive(Debug)]
struct Window {
    trained: Distribution,
    counts: Vec<u64>,
    seen: u64,
}

impl Drift {
    /// Nothing is counted yet, and nothing has drifted.
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let sound = manifest
            .distributions
            .iter()
            .filter(|(_, trained)| trained.is_sound());
        let numbers = sound.map(|(name, trained)| {
            tell(manifest.model, name, 0.0);
            let window = Window {
                trained: trained.clone(),
                counts: vec![0; trained.bins()],
                seen: 0,
            };
            (name.clone(), Mutex::new(window))
        });
        Self {
            model: manifest.model,
            calls: AtomicU64::new(0),
            numbers: numbers.collect(),
        }
    }

    /// Counts the numbers of a call, where it is its turn.
    pub(crate) fn note(&self, numbers: impl IntoIterator<Item = (&'static str, f64)>) {
        if self.numbers.is_empty()
            || !self
                .calls
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(SAMPLED)
        {
            return;
        }
        for (name, value) in numbers {
            let Some(window) = self.numbers.get(name) else {
                continue;
            };
            if let Some(drift) = window
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .count(value)
            {
                tell(self.model, name, drift);
            }
        }
    }
}

impl Window {
    /// Counts a value; where that fills the window, how far it is off.
    fn count(&mut self, value: f64) -> Option<f64> {
        self.counts[self.trained.bin(value)] += 1;
        self.seen += 1;
        (self.seen == WINDOW).then(|| {
            let drift = self.trained.drift(&self.counts);
            self.counts.fill(0);
            self.seen = 0;
            drift
        })
    }
}

fn tell(model: ModelKind, name: &str, drift: f64) {
    let labels = DriftLabels {
        model: model.as_str(),
        number: name.to_owned(),
    };
    DRIFT.get_or_create(&labels).set(drift);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_compared_when_it_is_full_and_begins_anew() {
        let trained = Distribution::of((0..100).map(f64::from)).unwrap();
        let mut window = Window {
            counts: vec![0; trained.bins()],
            trained,
            seen: 0,
        };
        let mut seen = |value: &dyn Fn(u64) -> f64| {
            let told: Vec<_> = (0..WINDOW).filter_map(|n| window.count(value(n))).collect();
            let [drift] = told[..] else {
                panic!("{told:?}")
            };
            drift
        };
        assert!(seen(&|n| (n % 100) as f64) < 0.01);
        assert!(seen(&|_| 50.0) > 0.25);
        assert!(
            seen(&|n| (n % 100) as f64) < 0.01,
            "what was before is forgotten"
        );
    }
}
