//! Drift: whether a model's features and scores are still distributed as in training. A sample of
//! calls is counted into the bins of the manifest; each full window sets the gauge to its
//! population stability index.

use std::{
    collections::BTreeMap,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use runtime::metrics::{self, EncodeLabelSet, Family, FractionGauge};
use scoring::{Distribution, Manifest, ModelKind};

/// One call of this many is counted.
const SAMPLE_EVERY: u64 = 4;
/// Values of a window. By chance alone ten bins then give an index below 0.01, a tenth of what is
/// worth a look.
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

/// The windows of a model.
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
    /// Empty windows; every gauge starts at 0.
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let sound = manifest
            .distributions
            .iter()
            .filter(|(_, trained)| trained.is_sound());
        let numbers = sound.map(|(name, trained)| {
            set_gauge(manifest.model, name, 0.0);
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

    /// Counts the numbers of a call, if the call is in the sample.
    pub(crate) fn note(&self, numbers: impl IntoIterator<Item = (&'static str, f64)>) {
        if self.numbers.is_empty()
            || !self
                .calls
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(SAMPLE_EVERY)
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
                set_gauge(self.model, name, drift);
            }
        }
    }
}

impl Window {
    /// Counts a value. Returns the window's index if that filled it.
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

fn set_gauge(model: ModelKind, name: &str, drift: f64) {
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
