//! A model that follows the store's pointer.
//!
//! A new version is fetched, verified, loaded and tried beside the one that answers, and then swapped in. Calls in flight
//! end on the version they began with. A version that cannot be used is refused by name and tried again, less and less
//! often; the one before it goes on answering.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use model_store::{ModelStore, StoreError};
use opentelemetry::{KeyValue, global, metrics::Counter};
use prost_types::Timestamp;
use proto::model::v1 as pb;
use runtime::Refusal;
use scoring::{Artifact, Manifest, Model, ModelError};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::{Response, Status, metadata::MetadataValue};

use crate::MODEL_VERSION;

/// What callers are told to wait while there is no model.
const RETRY_IN: Duration = Duration::from_secs(2);

/// Longest pause between two tries of a version that was refused.
const MOST_BACKOFF: Duration = Duration::from_secs(60);

/// Shortest pause between two looks at the store.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

static LOADS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let meter = global::meter("shopkeeper");
    meter.u64_counter("shopkeeper.model.loads").with_description("model versions loaded or refused").build()
});

/// A model in use.
#[derive(Debug)]
pub struct Loaded<M> {
    /// What answers.
    pub model: M,
    /// What answers say of it.
    pub info: pb::ModelInfo,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl<M> Loaded<M> {
    fn of(artifact: &Artifact, model: M) -> Self {
        let manifest = artifact.manifest().clone();
        let as_of = manifest.as_of.and_utc();
        let info = pb::ModelInfo {
            name: manifest.model.to_string(),
            version: manifest.version.clone(),
            as_of: Some(Timestamp { seconds: as_of.timestamp(), nanos: 0 }),
        };
        Self { model, info, manifest }
    }
}

/// The model of a service. Clones share it; it is followed until the last one is gone.
#[derive(Debug)]
pub struct Live<M> {
    shared: Arc<Shared<M>>,
    follower: Option<Arc<Follower>>,
    allows_publish: bool,
}

impl<M> Clone for Live<M> {
    fn clone(&self) -> Self {
        let Self { shared, follower, allows_publish } = self;
        Self { shared: Arc::clone(shared), follower: follower.clone(), allows_publish: *allows_publish }
    }
}

#[derive(Debug)]
struct Shared<M> {
    current: ArcSwapOption<Loaded<M>>,
    ready: watch::Sender<bool>,
    status: watch::Sender<pb::ModelStatus>,
    store: Option<ModelStore>,
}

/// The task that follows the store ends with the last handle.
#[derive(Debug)]
struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<M: Model> Live<M> {
    /// Follows a store.
    pub async fn follow(store: ModelStore, every: Duration) -> Self {
        let shared = Shared::new(Some(store.clone()));
        let mut wanted = Wanted::default();
        shared.look(&store, &mut wanted).await;
        let following = Arc::clone(&shared);
        let follower = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every.max(LEAST_PAUSE)).await;
                following.look(&store, &mut wanted).await;
            }
        });
        Self { shared, follower: Some(Arc::new(Follower(follower))), allows_publish: false }
    }

    /// Lets callers move the store's pointer, or not.
    pub fn publishing(self, allows_publish: bool) -> Self {
        Self { allows_publish, ..self }
    }

    /// One model for ever, without a store.
    ///
    /// # Errors
    /// Where the model refuses the artifact.
    pub fn fixed(artifact: &Artifact) -> Result<Self, ModelError> {
        let shared = Shared::new(None);
        shared.swap(artifact, M::load(artifact)?);
        Ok(Self { shared, follower: None, allows_publish: false })
    }

    /// The model that answers now.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] while there is none.
    pub fn current(&self) -> Result<Arc<Loaded<M>>, Refusal> {
        self.shared.current.load_full().ok_or(Refusal::NotReady { retry_in: RETRY_IN })
    }

    /// Answers a call with the model of this moment, and names its version in the answer's or refusal's header.
    ///
    /// # Errors
    /// The refusal, as a status.
    pub fn answer<T>(&self, with: impl FnOnce(&Loaded<M>) -> Result<T, Refusal>) -> Result<Response<T>, Status> {
        let loaded = self.current()?;
        // A version is ASCII; the store takes no other.
        let version = MetadataValue::try_from(loaded.info.version.as_str()).ok();
        match with(&loaded) {
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

    /// Whether a model is loaded, and whenever that changes.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    /// The model's status, and whenever it changes.
    pub fn status(&self) -> watch::Receiver<pb::ModelStatus> {
        self.shared.status.subscribe()
    }

    /// The name of the version that was current before this one; none where there was none.
    ///
    /// # Errors
    /// [`Refusal::Unreachable`].
    pub async fn previous(&self) -> Result<Option<String>, Refusal> {
        let Some(store) = &self.shared.store else { return Ok(None) };
        let pointer = store.current(M::KIND).await.map_err(|error| unreachable(&error))?;
        Ok(pointer.and_then(|pointer| pointer.previous))
    }

    /// Another version of the store, to compare with the one that answers.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where the store has no such version that can be used, [`Refusal::Unreachable`].
    pub async fn version(&self, name: &str) -> Result<Loaded<M>, Refusal> {
        let none = || Refusal::not_found("version", name);
        let artifact = match self.shared.store.as_ref().ok_or_else(none)?.fetch(M::KIND, name).await {
            Ok(artifact) => artifact,
            Err(error @ StoreError::Storage { .. }) => return Err(unreachable(&error)),
            Err(_) => return Err(none()),
        };
        let (artifact, model) = read(artifact).await.map_err(|_| none())?;
        Ok(Loaded::of(&artifact, model))
    }

    /// The store it follows.
    pub(crate) fn store(&self) -> Option<ModelStore> {
        self.shared.store.clone()
    }

    /// Whether callers may move the store's pointer.
    pub(crate) fn allows_publish(&self) -> bool {
        self.allows_publish
    }
}

/// The store cannot be asked.
pub(crate) fn unreachable(error: &StoreError) -> Refusal {
    Refusal::Unreachable { service: "the model store".to_owned(), problem: error.to_string(), retry_in: RETRY_IN }
}

/// What the store asked for last, and how often it failed.
#[derive(Debug, Default)]
struct Wanted {
    version: Option<String>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Wanted {
    /// Whether it is time to try a version: at once when it is a new one, and less and less often after failures.
    fn due(&mut self, version: &str) -> bool {
        if self.version.as_deref() != Some(version) {
            *self = Self { version: Some(version.to_owned()), ..Self::default() };
        }
        self.not_before.is_none_or(|time| Instant::now() >= time)
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(MOST_BACKOFF);
        self.not_before = Some(Instant::now() + pause);
    }
}

impl<M: Model> Shared<M> {
    fn new(store: Option<ModelStore>) -> Arc<Self> {
        let status = pb::ModelStatus {
            model: M::KIND.to_string(),
            state: pb::ModelState::Loading.into(),
            ..pb::ModelStatus::default()
        };
        let (ready, status) = (watch::Sender::new(false), watch::Sender::new(status));
        Arc::new(Self { current: ArcSwapOption::empty(), ready, status, store })
    }

    /// Looks at the pointer once, and loads what it names where that is not what answers.
    async fn look(&self, store: &ModelStore, wanted: &mut Wanted) {
        let pointer = match store.current(M::KIND).await {
            Ok(Some(pointer)) => pointer,
            Ok(None) => {
                self.status.send_if_modified(|status| note(status, "", "no version has been published"));
                return;
            }
            Err(error) => {
                let refusal = error.to_string();
                if self.status.send_if_modified(|status| note(status, &status.wanted_version.clone(), &refusal)) {
                    tracing::warn!(model = %M::KIND, error = %refusal, "the model store cannot be read");
                }
                return;
            }
        };
        let version = pointer.version;
        if self.current.load().as_ref().is_some_and(|loaded| loaded.info.version == version) {
            wanted.version = None;
            self.status.send_if_modified(|status| {
                let changed = note(status, &version, "");
                status.state = pb::ModelState::Serving.into();
                changed
            });
            return;
        }
        if !wanted.due(&version) {
            return;
        }
        let outcome = match load::<M>(store, &version).await {
            Ok((artifact, model)) => {
                self.swap(&artifact, model);
                tracing::info!(model = %M::KIND, model.version = version, "loaded");
                "loaded"
            }
            Err(refusal) => {
                wanted.failed();
                self.status.send_if_modified(|status| note(status, &version, &refusal));
                tracing::error!(model = %M::KIND, model.version = version, refusal, "refused");
                "refused"
            }
        };
        LOADS.add(1, &[KeyValue::new("model", M::KIND.as_str()), KeyValue::new("outcome", outcome)]);
    }

    fn swap(&self, artifact: &Artifact, model: M) {
        let loaded = Loaded::of(artifact, model);
        let details = version(&loaded.manifest, true);
        self.current.store(Some(Arc::new(loaded)));
        self.ready.send_replace(true);
        let loaded_at = Timestamp::from(std::time::SystemTime::now());
        self.status.send_modify(|status| {
            status.state = pb::ModelState::Serving.into();
            status.version.clone_from(&details.version);
            status.wanted_version.clone_from(&details.version);
            status.refusal.clear();
            status.details = Some(details);
            status.loaded_at = Some(loaded_at);
        });
    }
}

/// Notes what is wanted and why it is not had; says whether that is news.
fn note(status: &mut pb::ModelStatus, wanted: &str, refusal: &str) -> bool {
    let news = status.wanted_version != wanted || status.refusal != refusal;
    wanted.clone_into(&mut status.wanted_version);
    refusal.clone_into(&mut status.refusal);
    if !refusal.is_empty() && !status.version.is_empty() {
        status.state = pb::ModelState::Degraded.into();
    }
    news
}

async fn load<M: Model>(store: &ModelStore, version: &str) -> Result<(Artifact, M), String> {
    // A refusal names the part at fault; whose it is, the status says.
    let artifact = match store.fetch(M::KIND, version).await {
        Err(StoreError::Refused { source, .. }) => return Err(source.to_string()),
        fetched => fetched.map_err(|error| error.to_string())?,
    };
    read(artifact).await
}

async fn read<M: Model>(artifact: Artifact) -> Result<(Artifact, M), String> {
    // Reading a large model takes a while, in which others want to be answered.
    let loaded = tokio::task::spawn_blocking(move || {
        let model = M::load(&artifact)?;
        model.warm();
        Ok::<_, ModelError>((artifact, model))
    });
    // A panic is a bug of the loader, and no reason to stop answering.
    loaded.await.map_err(|_| "loading it failed".to_owned())?.map_err(|error| error.to_string())
}

/// A manifest as ModelService tells it.
pub(crate) fn version(manifest: &Manifest, current: bool) -> pb::ModelVersion {
    let as_of = manifest.as_of.and_utc();
    pb::ModelVersion {
        model: manifest.model.to_string(),
        version: manifest.version.clone(),
        recipe: manifest.recipe.clone(),
        as_of: Some(Timestamp { seconds: as_of.timestamp(), nanos: 0 }),
        current,
        size_bytes: manifest.files.iter().map(|file| i64::try_from(file.size).unwrap_or(i64::MAX)).sum(),
        metrics: manifest
            .metrics
            .iter()
            .map(|m| pb::Metric { name: m.name.clone(), value: m.value, baseline: m.baseline })
            .collect(),
        gates: manifest
            .gates
            .iter()
            .map(|g| pb::Gate { name: g.name.clone(), passed: g.passed, detail: g.detail.clone() })
            .collect(),
    }
}
