//! Training, evaluating and publishing, one model at a time.
//!
//! A trained model is a candidate. Candidates are in `lake/candidates`, a model store like the
//! published one, until an evaluation is attached to them and they pass its gates.

use std::{io, path::PathBuf};

use chrono::NaiveDateTime;
use lake::Lake;
use model_store::{Canary, Channel, ModelStore, Pointer, StoreError};
use scoring::{Artifact, Manifest, ModelKind};
use tch::Device;

use crate::{
    Context, Failure,
    catalog::entry,
    learn::{Evaluation, LearnError, Learner, Training},
    versions::{Version, version_table},
};

/// The lake and the stores that models pass through.
pub(crate) struct Pipeline<'a> {
    context: &'a Context<'a>,
    lake: &'a Lake,
    candidates: ModelStore,
    /// The published models, if training is to compare with them.
    published: Option<ModelStore>,
}

/// How a model is trained.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) as_of: NaiveDateTime,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    pub(crate) recipe: Option<&'a str>,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn open(
        context: &'a Context<'a>,
        lake: &'a Lake,
        published: Option<ModelStore>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            context,
            lake,
            candidates: ModelStore::open(&candidates(lake).to_string_lossy())?,
            published,
        })
    }

    /// Runs a step for each model, prints the versions that it returns, and fails at the end if any
    /// step failed.
    pub(crate) fn each(
        &self,
        kinds: &[ModelKind],
        step: impl Fn(ModelKind) -> Result<(Manifest, Option<Channel>), Failure>,
    ) -> Result<(), Failure> {
        let (mut versions, mut failures) = (Vec::new(), Vec::new());
        for &kind in kinds {
            match step(kind) {
                Ok((manifest, channel)) => versions.push(Version::of(manifest, channel)),
                Err(failure) => failures.push(failure),
            }
        }
        if !versions.is_empty() {
            self.context
                .console
                .result(&versions, || version_table(&versions))?;
        }
        Failure::of(failures)
    }

    /// Trains a model and keeps it as the candidate.
    pub(crate) fn train(
        &self,
        kind: ModelKind,
        settings: Settings<'_>,
    ) -> Result<Manifest, Failure> {
        let artifact = self.learn(kind, settings, |learner, training| learner.train(training))?;
        self.keep(&artifact)?;
        Ok(artifact.manifest().clone())
    }

    /// Evaluates how the candidate was trained and attaches the result to it.
    pub(crate) fn evaluate(&self, kind: ModelKind, device: Device) -> Result<Manifest, Failure> {
        let candidate = self.candidate(kind)?;
        let manifest = candidate.manifest();
        let settings = Settings {
            as_of: manifest.as_of,
            seed: manifest.seed,
            device,
            recipe: Some(&manifest.recipe),
        };
        let Evaluation {
            metrics,
            gates,
            backtest,
        } = self.learn(kind, settings, |learner, training| {
            learner.evaluate(training)
        })?;
        let evaluated = candidate.evaluated(metrics, gates, backtest);
        self.keep(&evaluated)?;
        Ok(evaluated.manifest().clone())
    }

    /// Publishes the candidate as the current version if it passes its gates.
    pub(crate) fn publish(&self, kind: ModelKind, to: &ModelStore) -> Result<Manifest, Failure> {
        let candidate = self.passed(kind)?;
        let published = to.publish(&candidate, self.context.now);
        self.context.runtime.block_on(published)?;
        Ok(candidate.manifest().clone())
    }

    /// Publishes the candidate to a percentage of callers if it passes its gates.
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
        self.context.runtime.block_on(async {
            to.upload(&candidate).await?;
            to.set_canary(kind, Some(canary)).await
        })?;
        Ok(manifest.clone())
    }

    /// Publishes the candidate for comparison with the current version if it passes its gates.
    pub(crate) fn publish_shadow(
        &self,
        kind: ModelKind,
        to: &ModelStore,
    ) -> Result<Manifest, Failure> {
        let candidate = self.passed(kind)?;
        let manifest = candidate.manifest();
        self.context.runtime.block_on(async {
            to.upload(&candidate).await?;
            to.set_shadow(kind, Some(manifest.version.clone())).await
        })?;
        Ok(manifest.clone())
    }

    /// The candidate if it passes its gates.
    fn passed(&self, kind: ModelKind) -> Result<Artifact, Failure> {
        let candidate = self.candidate(kind)?;
        let gates = &candidate.manifest().gates;
        if gates.is_empty() {
            return Err(Failure::NotEvaluated(kind));
        }
        let failed = gates.iter().filter(|gate| !gate.passed);
        let failed: Vec<_> = failed
            .map(|gate| format!("{kind}: {} does not hold ({})", gate.name, gate.detail))
            .collect();
        if failed.is_empty() {
            Ok(candidate)
        } else {
            Err(Failure::Gates(failed))
        }
    }

    fn learn<T>(
        &self,
        model: ModelKind,
        settings: Settings<'_>,
        step: impl FnOnce(&dyn Learner, &Training<'_>) -> Result<T, LearnError>,
    ) -> Result<T, Failure> {
        let curated = self.lake.as_of()?;
        if settings.as_of > curated {
            return Err(Failure::Later {
                as_of: settings.as_of,
                curated,
            });
        }
        let previous = self.published_version(model)?;
        let training = Training {
            transactions: self.lake.transactions()?,
            as_of: settings.as_of,
            seed: settings.seed,
            device: settings.device,
            recipe: settings.recipe,
            previous: previous.as_ref(),
            progress: self.context.console,
        };
        step(entry(model).learner, &training).map_err(|source| Failure::Learn { model, source })
    }

    /// The current published version. A damaged one is ignored with a note, so that it can be
    /// replaced.
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
        match self.context.runtime.block_on(published) {
            Err(error @ StoreError::Storage { .. }) => Err(error.into()),
            Err(error) => {
                let note = format!("{kind}: the published version is ignored: {error}");
                self.context.console.note(&note);
                Ok(None)
            }
            Ok(published) => Ok(published),
        }
    }

    /// Makes an artifact the only candidate of its model.
    fn keep(&self, artifact: &Artifact) -> Result<(), Failure> {
        let root = candidates(self.lake);
        let kind = artifact.manifest().model;
        match fs_err::remove_dir_all(root.join(kind.as_str())) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::Output { path: root, source });
            }
            Ok(()) | Err(_) => {}
        }
        let kept = self.candidates.publish(artifact, self.context.now);
        self.context.runtime.block_on(kept)?;
        Ok(())
    }

    fn candidate(&self, kind: ModelKind) -> Result<Artifact, Failure> {
        let runtime = &self.context.runtime;
        let pointer = runtime
            .block_on(self.candidates.current(kind))?
            .ok_or(Failure::NoCandidate(kind))?;
        let candidate = self.candidates.fetch(kind, &pointer.version);
        Ok(runtime.block_on(candidate)?)
    }
}

/// Folder of the candidates.
fn candidates(lake: &Lake) -> PathBuf {
    lake.root().join("candidates")
}
