//! Training, evaluating and publishing, one model at a time.
//!
//! Trained models wait in `lake/candidates`, a model store like the published one, until their
//! evaluation is attached and their gates let them out.

use chrono::{DateTime, NaiveDateTime, Utc};
use lake::Lake;
use model_store::{Canary, ModelStore, Pointer, StoreError};
use scoring::{Artifact, Manifest, ModelKind};
use tch::Device;

use crate::{
    Console, Failure,
    learn::{
        Evaluation, LearnError, Learner, Training, anomaly::Anomaly, churn::Churn,
        forecast::Forecast, insights::Insights, recommendation::Recommendation,
        segmentation::Segmentation,
    },
};

/// The stores and the settings that all models share.
pub(crate) struct Models<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) candidates: ModelStore,
    pub(crate) published: Option<ModelStore>,
    pub(crate) runtime: &'a tokio::runtime::Runtime,
    pub(crate) console: &'a Console,
    pub(crate) now: DateTime<Utc>,
}

impl Models<'_> {
    /// Trains a model and keeps it as the candidate.
    pub(crate) fn train(
        &self,
        kind: ModelKind,
        settings: Settings<'_>,
    ) -> Result<Manifest, Failure> {
        let artifact = self.learn(kind, settings, train)?;
        self.keep(&artifact)?;
        Ok(artifact.manifest().clone())
    }

    /// Evaluates the candidate's training and attaches the result to it.
    pub(crate) fn evaluate(&self, kind: ModelKind, device: Device) -> Result<Manifest, Failure> {
        let candidate = self.candidate(kind)?;
        let Manifest {
            as_of,
            seed,
            recipe,
            ..
        } = candidate.manifest();
        let settings = Settings {
            as_of: *as_of,
            seed: *seed,
            device,
            recipe: Some(recipe),
        };
        let Evaluation {
            metrics,
            gates,
            backtest,
        } = self.learn(kind, settings, evaluate)?;
        let evaluated = candidate.evaluated(metrics, gates, backtest);
        self.keep(&evaluated)?;
        Ok(evaluated.manifest().clone())
    }

    /// Publishes the candidate where its gates pass.
    pub(crate) fn publish(&self, kind: ModelKind, to: &ModelStore) -> Result<Manifest, Failure> {
        let candidate = self.passed(kind)?;
        self.runtime.block_on(to.publish(&candidate, self.now))?;
        Ok(candidate.manifest().clone())
    }

    /// Publishes the candidate for a share of callers, where its gates pass.
    pub(crate) fn publish_canary(
        &self,
        kind: ModelKind,
        percent: u8,
        to: &ModelStore,
    ) -> Result<Manifest, Failure> {
        let candidate = self.passed(kind)?;
        let manifest = candidate.manifest();
        let canary = Canary {
            version: manifest.version.clone(),
            percent,
        };
        self.runtime.block_on(async {
            to.upload(&candidate).await?;
            to.set_canary(kind, Some(canary)).await
        })?;
        Ok(manifest.clone())
    }

    /// Publishes the candidate to be compared with the current version, where its gates pass.
    pub(crate) fn publish_shadow(
        &self,
        kind: ModelKind,
        to: &ModelStore,
    ) -> Result<Manifest, Failure> {
        let candidate = self.passed(kind)?;
        let manifest = candidate.manifest();
        self.runtime.block_on(async {
            to.upload(&candidate).await?;
            to.set_shadow(kind, Some(manifest.version.clone())).await
        })?;
        Ok(manifest.clone())
    }

    /// The candidate, which has passed its gates.
    fn passed(&self, kind: ModelKind) -> Result<Artifact, Failure> {
        let candidate = self.candidate(kind)?;
        let manifest = candidate.manifest();
        if manifest.gates.is_empty() {
            return Err(Failure::NotEvaluated(kind));
        }
        let failed = manifest.gates.iter().filter(|gate| !gate.passed);
        let failed: Vec<_> = failed
            .map(|gate| format!("{kind}: {} does not hold ({})", gate.name, gate.detail))
            .collect();
        if !failed.is_empty() {
            return Err(Failure::Gates(failed));
        }
        Ok(candidate)
    }

    fn learn<T>(
        &self,
        kind: ModelKind,
        Settings {
            as_of,
            seed,
            device,
            recipe,
        }: Settings<'_>,
        what: fn(ModelKind, &Training<'_>) -> Result<T, LearnError>,
    ) -> Result<T, Failure> {
        let curated = self.lake.as_of()?;
        if as_of > curated {
            return Err(Failure::Later { as_of, curated });
        }
        let previous = self.published_version(kind)?;
        let transactions = self.lake.transactions()?;
        let previous = previous.as_ref();
        let training = Training {
            transactions,
            as_of,
            seed,
            device,
            recipe,
            previous,
            progress: self.console,
        };
        what(kind, &training).map_err(|source| Failure::Learn {
            model: kind,
            source,
        })
    }

    /// The published version, where there is one that can be read: a damaged one must not keep a
    /// new one from replacing it.
    fn published_version(&self, kind: ModelKind) -> Result<Option<Artifact>, Failure> {
        let Some(store) = &self.published else {
            return Ok(None);
        };
        let published = async {
            let Some(Pointer { version, .. }) = store.current(kind).await? else {
                return Ok(None);
            };
            store.fetch(kind, &version).await.map(Some)
        };
        match self.runtime.block_on(published) {
            Err(error @ StoreError::Storage { .. }) => Err(error.into()),
            Err(error) => {
                self.console.note(&format!(
                    "{kind}: the published version is passed over: {error}"
                ));
                Ok(None)
            }
            Ok(published) => Ok(published),
        }
    }

    fn keep(&self, artifact: &Artifact) -> Result<(), Failure> {
        let kind = artifact.manifest().model;
        // One candidate a model: what waited before will never be published.
        match fs_err::remove_dir_all(candidates(self.lake).join(kind.as_str())) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::Output {
                    path: candidates(self.lake),
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
        self.runtime
            .block_on(self.candidates.publish(artifact, self.now))?;
        Ok(())
    }

    fn candidate(&self, kind: ModelKind) -> Result<Artifact, Failure> {
        let pointer = self
            .runtime
            .block_on(self.candidates.current(kind))?
            .ok_or(Failure::NoCandidate(kind))?;
        Ok(self
            .runtime
            .block_on(self.candidates.fetch(kind, &pointer.version))?)
    }
}

/// How a model is trained.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) as_of: NaiveDateTime,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    pub(crate) recipe: Option<&'a str>,
}

/// Folder of the models that wait.
pub(crate) fn candidates(lake: &Lake) -> std::path::PathBuf {
    lake.root().join("candidates")
}

/// Runs `body` with `L` as the learner of a kind.
macro_rules! with_learner {
    ($kind:expr, $L:ident => $body:expr) => {
        match $kind {
            ModelKind::Segmentation => {
                type $L = Segmentation;
                $body
            }
            ModelKind::Forecast => {
                type $L = Forecast;
                $body
            }
            ModelKind::Recommendation => {
                type $L = Recommendation;
                $body
            }
            ModelKind::Churn => {
                type $L = Churn;
                $body
            }
            ModelKind::Anomaly => {
                type $L = Anomaly;
                $body
            }
            ModelKind::Insights => {
                type $L = Insights;
                $body
            }
        }
    };
}

fn train(kind: ModelKind, training: &Training<'_>) -> Result<Artifact, LearnError> {
    with_learner!(kind, L => L::train(training))
}

fn evaluate(kind: ModelKind, training: &Training<'_>) -> Result<Evaluation, LearnError> {
    with_learner!(kind, L => L::evaluate(training))
}

/// The recipes of a model, the usual one first.
#[cfg(test)]
pub(crate) fn recipes(kind: ModelKind) -> &'static [&'static str] {
    with_learner!(kind, L => L::RECIPES)
}

/// Refuses a recipe that its learner does not know, before anything is done.
pub(crate) fn check_recipe(kind: ModelKind, recipe: Option<&str>) -> Result<(), Failure> {
    with_learner!(kind, L => crate::learn::known_recipe::<L>(recipe))
        .map(drop)
        .map_err(|source| Failure::Learn {
            model: kind,
            source,
        })
}
