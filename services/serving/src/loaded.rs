//! A model that is loaded: how it answers, and what becomes of the numbers in its calls.

use std::sync::{Arc, Mutex, PoisonError};

use model_store::Channel;
use prost_types::Timestamp;
use proto::model::v1 as pb;
use runtime::Refusal;
use scoring::{Artifact, Manifest, Model, ModelError};
use tonic::{Response, Status, metadata::MetadataValue};

use crate::drift::Drift;

/// Response header: the version of the model that answered.
pub const MODEL_VERSION: &str = "x-model-version";

/// A version of a model in memory.
#[derive(Debug)]
pub struct Loaded<M> {
    /// The model itself.
    pub model: Arc<M>,
    /// Its name, version and as-of time, as answers contain them.
    pub info: pb::ModelInfo,
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    numbers: Numbers,
}

/// What becomes of the numbers of calls: features and scores.
#[derive(Debug)]
enum Numbers {
    /// They are ignored.
    Ignored,
    /// They are counted for drift.
    Counted(Drift),
    /// They are recorded, to be compared with another version's.
    Recorded(Mutex<Vec<(&'static str, f64)>>),
}

impl<M> Loaded<M> {
    pub(crate) fn new(artifact: &Artifact, model: M) -> Self {
        let manifest = Arc::new(artifact.manifest().clone());
        let as_of = manifest.as_of.and_utc();
        let info = pb::ModelInfo {
            name: manifest.model.to_string(),
            version: manifest.version.clone(),
            as_of: Some(Timestamp {
                seconds: as_of.timestamp(),
                nanos: 0,
            }),
        };
        Self {
            model: Arc::new(model),
            info,
            manifest,
            numbers: Numbers::Ignored,
        }
    }

    /// Answers a call, with its version in a header of the answer or of the refusal.
    ///
    /// # Errors
    /// The refusal, as a status.
    pub fn answer<T>(
        &self,
        with: impl FnOnce(&Self) -> Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        // A version is ASCII: the store accepts no other.
        let version = MetadataValue::try_from(self.info.version.as_str()).ok();
        match with(self) {
            Ok(answer) => {
                let mut response = Response::new(answer);
                version.and_then(|version| response.metadata_mut().insert(MODEL_VERSION, version));
                Ok(response)
            }
            Err(refusal) => {
                let mut status = Status::from(refusal);
                version.and_then(|version| status.metadata_mut().insert(MODEL_VERSION, version));
                Err(status)
            }
        }
    }

    /// Records features or scores of a call, under their names in the manifest.
    pub fn note(&self, numbers: impl IntoIterator<Item = (&'static str, f64)>) {
        match &self.numbers {
            Numbers::Ignored => {}
            Numbers::Counted(drift) => drift.note(numbers),
            Numbers::Recorded(recorded) => recorded
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(numbers),
        }
    }

    /// The same model, with its numbers counted for drift.
    pub(crate) fn counted(&self) -> Self {
        let (model, manifest) = (Arc::clone(&self.model), Arc::clone(&self.manifest));
        let numbers = Numbers::Counted(Drift::of(&manifest));
        Self {
            model,
            info: self.info.clone(),
            manifest,
            numbers,
        }
    }

    /// The same model, which answers under this name, with its numbers recorded.
    pub(crate) fn recording(&self, info: &pb::ModelInfo) -> Self {
        let (model, manifest) = (Arc::clone(&self.model), Arc::clone(&self.manifest));
        Self {
            model,
            info: info.clone(),
            manifest,
            numbers: Numbers::Recorded(Mutex::default()),
        }
    }

    /// The numbers recorded so far.
    pub(crate) fn recorded(&self) -> Vec<(&'static str, f64)> {
        match &self.numbers {
            Numbers::Ignored | Numbers::Counted(_) => Vec::new(),
            Numbers::Recorded(recorded) => recorded
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// Loads a model and warms it, or returns the reason why it cannot be used.
pub(crate) async fn read<M: Model>(artifact: Artifact) -> Result<Loaded<M>, String> {
    // Loading a large model takes seconds, which would block other tasks of this thread.
    let loaded = tokio::task::spawn_blocking(move || {
        let model = M::load(&artifact)?;
        model.warm();
        let loaded = Loaded::new(&artifact, model);
        // The artifact's bytes are more than the model that was made of them: free them now, and
        // return them to the system.
        drop(artifact);
        runtime::give_memory_back();
        Ok::<_, ModelError>(loaded)
    });
    // A panic is a bug of the loader; the version that is served goes on.
    loaded
        .await
        .map_err(|_| "loading it failed".to_owned())?
        .map_err(|error| error.to_string())
}

/// A manifest as ModelService returns it.
pub(crate) fn describe(manifest: &Manifest, channel: Option<Channel>) -> pb::ModelVersion {
    let as_of = manifest.as_of.and_utc();
    let named_for = match channel {
        None => pb::Channel::Unspecified,
        Some(Channel::Stable) => pb::Channel::Stable,
        Some(Channel::Canary) => pb::Channel::Canary,
        Some(Channel::Shadow) => pb::Channel::Shadow,
    };
    pb::ModelVersion {
        model: manifest.model.to_string(),
        version: manifest.version.clone(),
        recipe: manifest.recipe.clone(),
        as_of: Some(Timestamp {
            seconds: as_of.timestamp(),
            nanos: 0,
        }),
        current: channel == Some(Channel::Stable),
        channel: named_for.into(),
        size_bytes: manifest
            .files
            .iter()
            .map(|file| i64::try_from(file.size).unwrap_or(i64::MAX))
            .sum(),
        metrics: manifest
            .metrics
            .iter()
            .map(|m| pb::Metric {
                name: m.name.clone(),
                value: m.value,
                baseline: m.baseline,
            })
            .collect(),
        gates: manifest
            .gates
            .iter()
            .map(|g| pb::Gate {
                name: g.name.clone(),
                passed: g.passed,
                detail: g.detail.clone(),
            })
            .collect(),
    }
}
