//! A model that follows the store's pointer.
//!
//! A new version is fetched, verified, loaded and tried beside the one that answers, and then
//! swapped in. Calls in flight end on the version they began with. A version that cannot be used is
//! refused by name and tried again, less and less often; the one before it goes on answering.
//! Versions on trial are loaded in the same way, and refused without harm: callers of a canary that
//! was refused are answered by the current version.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use model_store::{Canary, Channel, ModelStore, Pointer, StoreError};
use prost_types::Timestamp;
use proto::model::v1 as pb;
use runtime::{
    Refusal,
    metrics::{self, Counter, EncodeLabelSet, Family},
};
use scoring::{Artifact, Manifest, Model, ModelError};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tonic::{Request, Response, Status, metadata::MetadataValue};

use crate::{MODEL_CHANNEL, MODEL_VERSION, drift::Drift, shadow::Shadow};

/// What callers are told to wait while there is no model.
const RETRY_IN: Duration = Duration::from_secs(2);

/// Pauses between two tries of a version that was refused: from 1 to 2 s at first, from 30 to 60 s
/// in the end. Jitter keeps replicas from asking the store in step.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(30))
    .without_max_times()
    .with_jitter();

/// How long the start of a process waits for its model.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Shortest pause between two looks at the store.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

static LOADS: LazyLock<Family<LoadLabels, Counter>> =
    LazyLock::new(|| metrics::family("shopkeeper_model_loads", "model versions loaded or refused"));

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    model: &'static str,
    outcome: &'static str,
}

/// A model in use.
#[derive(Debug)]
pub struct Loaded<M> {
    /// What answers.
    pub model: Arc<M>,
    /// What answers say of it.
    pub info: pb::ModelInfo,
    /// What it says of itself.
    pub manifest: Arc<Manifest>,
    numbers: Numbers,
}

/// What becomes of the numbers that a model is given and gives.
#[derive(Debug)]
enum Numbers {
    /// Nothing.
    Ignored,
    /// They are counted.
    Counted(Drift),
    /// They are kept, to be compared.
    Kept(Mutex<Vec<(&'static str, f64)>>),
}

impl<M> Loaded<M> {
    fn new(artifact: &Artifact, model: M) -> Self {
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

    /// Answers a call, and names its version in the answer's or refusal's header.
    ///
    /// # Errors
    /// The refusal, as a status.
    pub fn answer<T>(
        &self,
        with: impl FnOnce(&Self) -> Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        // A version is ASCII; the store takes no other.
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

    /// Notes numbers that it was given or has given, by the names that the manifest knows them by.
    pub fn note(&self, numbers: impl IntoIterator<Item = (&'static str, f64)>) {
        match &self.numbers {
            Numbers::Ignored => {}
            Numbers::Counted(drift) => drift.note(numbers),
            Numbers::Kept(kept) => kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(numbers),
        }
    }

    /// The same model, whose numbers are counted from here on.
    fn counted(&self) -> Self {
        let (model, manifest) = (Arc::clone(&self.model), Arc::clone(&self.manifest));
        let numbers = Numbers::Counted(Drift::of(&manifest));
        Self {
            model,
            info: self.info.clone(),
            manifest,
            numbers,
        }
    }

    /// The same model, which answers under this name and keeps its numbers to itself.
    pub(crate) fn apart(&self, info: &pb::ModelInfo) -> Self {
        let (model, manifest) = (Arc::clone(&self.model), Arc::clone(&self.manifest));
        Self {
            model,
            info: info.clone(),
            manifest,
            numbers: Numbers::Kept(Mutex::default()),
        }
    }

    /// The numbers that it has kept.
    pub(crate) fn told(&self) -> Vec<(&'static str, f64)> {
        match &self.numbers {
            Numbers::Ignored | Numbers::Counted(_) => Vec::new(),
            Numbers::Kept(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// The model of a service. Clones share it; it is followed until the last one is gone.
#[derive(Debug)]
pub struct Live<M> {
    shared: Arc<Shared<M>>,
    /// The task that follows the store. Dropping the last handle aborts it.
    follower: Option<Arc<JoinSet<()>>>,
    allows_publish: bool,
}

impl<M> Clone for Live<M> {
    fn clone(&self) -> Self {
        let Self {
            shared,
            follower,
            allows_publish,
        } = self;
        Self {
            shared: Arc::clone(shared),
            follower: follower.clone(),
            allows_publish: *allows_publish,
        }
    }
}

#[derive(Debug)]
struct Shared<M> {
    versions: ArcSwapOption<Versions<M>>,
    ready: watch::Sender<bool>,
    status: watch::Sender<pb::ModelStatus>,
    store: Option<ModelStore>,
}

/// The versions that are loaded.
#[derive(Debug)]
struct Versions<M> {
    stable: Arc<Loaded<M>>,
    canary: Option<Arc<Loaded<M>>>,
    shadow: Option<Arc<Shadow<M>>>,
}

impl<M> Versions<M> {
    /// The version of a name, whatever it was loaded for.
    fn find(&self, version: &str) -> Option<&Arc<Loaded<M>>> {
        [Some(&self.stable), self.canary.as_ref()]
            .into_iter()
            .flatten()
            .find(|loaded| loaded.info.version == version)
    }
}

impl<M: Model> Live<M> {
    /// Follows a store. Waits a moment for its first answer: who starts is ready at once where it
    /// can be, and can say that it is not where the store is slow or silent.
    pub async fn follow(store: ModelStore, every: Duration) -> Self {
        let shared = Shared::new(Some(store.clone()));
        let following = Arc::clone(&shared);
        let (looked, first) = oneshot::channel();
        let mut follower = JoinSet::new();
        follower.spawn(async move {
            let mut wanted = Wanted::default();
            following.look(&store, &mut wanted).await;
            let _ = looked.send(());
            loop {
                tokio::time::sleep(every.max(LEAST_PAUSE)).await;
                following.look(&store, &mut wanted).await;
            }
        });
        let _ = tokio::time::timeout(FIRST_LOOK, first).await;
        Self {
            shared,
            follower: Some(Arc::new(follower)),
            allows_publish: false,
        }
    }

    /// Lets callers move the store's pointer, or not.
    pub fn publishing(self, allows_publish: bool) -> Self {
        Self {
            allows_publish,
            ..self
        }
    }

    /// One model for ever, without a store.
    ///
    /// # Errors
    /// Where the model refuses the artifact.
    pub fn fixed(artifact: &Artifact) -> Result<Self, ModelError> {
        let shared = Shared::new(None);
        shared.swap(&Loaded::new(artifact, M::load(artifact)?));
        Ok(Self {
            shared,
            follower: None,
            allows_publish: false,
        })
    }

    /// The model that answers now whoever asks for no other.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] while there is none.
    pub fn current(&self) -> Result<Arc<Loaded<M>>, Refusal> {
        self.on(Channel::Stable)
    }

    /// The model of this moment for a call: the canary where it asks for that and there is one.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn asked<R>(&self, request: &Request<R>) -> Result<Arc<Loaded<M>>, Refusal> {
        self.on(channel(request))
    }

    /// The model of this moment for a channel. What has a shadow's is nobody's to have.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn on(&self, channel: Channel) -> Result<Arc<Loaded<M>>, Refusal> {
        let versions = self.shared.versions.load();
        let versions = versions.as_ref().ok_or(Refusal::NotReady {
            model: M::KIND.as_str(),
            retry_in: RETRY_IN,
        })?;
        let canary = versions
            .canary
            .as_ref()
            .filter(|_| channel == Channel::Canary);
        Ok(Arc::clone(canary.unwrap_or(&versions.stable)))
    }

    /// Answers a call with the model of this moment, and names its version in the answer's or
    /// refusal's header. Where a version is on trial as a shadow, the question may be put to it
    /// afterwards.
    ///
    /// # Errors
    /// The refusal, as a status.
    pub fn answer<R: Send + 'static, T: PartialEq>(
        &self,
        request: Request<R>,
        with: impl Fn(&Loaded<M>, &R) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let loaded = self.asked(&request)?;
        let answer = loaded.answer(|loaded| with(loaded, request.get_ref()));
        let versions = self.shared.versions.load();
        if let Some(Versions {
            stable,
            shadow: Some(shadow),
            ..
        }) = versions.as_deref()
        {
            shadow.ask(stable, request.into_inner(), with);
        }
        answer
    }

    /// Whether a model is loaded, and whenever that changes.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    /// The model's status, and whenever it changes.
    pub fn status(&self) -> watch::Receiver<pb::ModelStatus> {
        self.shared.status.subscribe()
    }

    /// The model's status now, with what the shadow has shown.
    pub(crate) fn report(&self) -> pb::ModelStatus {
        let mut status = self.shared.status.borrow().clone();
        let versions = self.shared.versions.load();
        if let Some(shadow) = versions
            .as_ref()
            .and_then(|versions| versions.shadow.as_ref())
        {
            status.shadow = Some(shadow.report());
        }
        status
    }

    /// The name of the last version of the same recipe that was current before this one; none where
    /// there was none.
    ///
    /// # Errors
    /// [`Refusal::Unreachable`].
    pub async fn before(&self, loaded: &Loaded<M>) -> Result<Option<String>, Refusal> {
        let Some(store) = &self.shared.store else {
            return Ok(None);
        };
        let Manifest {
            version, recipe, ..
        } = &*loaded.manifest;
        store
            .before(M::KIND, version, recipe)
            .await
            .map_err(|error| unreachable(&error))
    }

    /// Another version of the store, to compare with the one that answers.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where the store has no such version that can be used,
    /// [`Refusal::Unreachable`].
    pub async fn version(&self, name: &str) -> Result<Loaded<M>, Refusal> {
        let none = || Refusal::not_found("version", name);
        let artifact = match self
            .shared
            .store
            .as_ref()
            .ok_or_else(none)?
            .fetch(M::KIND, name)
            .await
        {
            Ok(artifact) => artifact,
            Err(error @ StoreError::Storage { .. }) => return Err(unreachable(&error)),
            Err(_) => return Err(none()),
        };
        read(artifact).await.map_err(|_| none())
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
    Refusal::Unreachable {
        service: "the model store".to_owned(),
        problem: error.to_string(),
        retry_in: RETRY_IN,
    }
}

/// What the store asked for last.
#[derive(Debug, Default)]
struct Wanted {
    stable: Try,
    canary: Try,
    shadow: Try,
}

/// A version that is wanted, and when it is tried again after it failed.
#[derive(Debug)]
struct Try {
    version: Option<String>,
    refusal: String,
    backoff: ExponentialBackoff,
    not_before: Option<Instant>,
}

impl Default for Try {
    fn default() -> Self {
        Self {
            version: None,
            refusal: String::new(),
            backoff: BACKOFF.build(),
            not_before: None,
        }
    }
}

impl Try {
    /// Whether it is time to try a version: at once when it is a new one, and less and less often
    /// after failures.
    fn due(&mut self, version: &str) -> bool {
        if self.version.as_deref() != Some(version) {
            *self = Self {
                version: Some(version.to_owned()),
                ..Self::default()
            };
        }
        self.not_before.is_none_or(|time| Instant::now() >= time)
    }

    fn failed(&mut self, refusal: String) {
        self.refusal = refusal;
        self.not_before = self.backoff.next().map(|pause| Instant::now() + pause);
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
        Arc::new(Self {
            versions: ArcSwapOption::empty(),
            ready,
            status,
            store,
        })
    }

    /// Looks at the pointer once, and loads what it names where that is not loaded.
    async fn look(&self, store: &ModelStore, wanted: &mut Wanted) {
        let pointer = match store.current(M::KIND).await {
            Ok(Some(pointer)) => pointer,
            Ok(None) => {
                let refusal = format!("no version has been published in {}", store.place());
                if self
                    .status
                    .send_if_modified(|status| note(status, "", &refusal))
                {
                    tracing::warn!(model = %M::KIND, models = store.place(), "no version has been published there");
                }
                return;
            }
            Err(error) => {
                let refusal = error.to_string();
                if self.status.send_if_modified(|status| {
                    note(status, &status.wanted_version.clone(), &refusal)
                }) {
                    tracing::warn!(model = %M::KIND, error = %refusal, "the model store cannot be read");
                }
                return;
            }
        };
        let Pointer {
            version,
            canary,
            shadow,
            ..
        } = pointer;
        if wanted.stable.version.as_ref() != Some(&version) {
            self.status
                .send_if_modified(|status| note(status, &version, ""));
        }
        if let Some(loaded) = self.obtain(store, &version, &mut wanted.stable).await {
            self.swap(&loaded);
        } else {
            self.status
                .send_if_modified(|status| note(status, &version, &wanted.stable.refusal));
        }
        // Beside nothing there is nothing to try.
        if self.versions.load().is_some() {
            self.try_canary(store, canary, &mut wanted.canary).await;
            self.try_shadow(store, shadow, &mut wanted.shadow).await;
        }
    }

    /// A version: the one that is loaded, or else from the store, where it can be used and it is
    /// time to try.
    async fn obtain(
        &self,
        store: &ModelStore,
        version: &str,
        wanted: &mut Try,
    ) -> Option<Arc<Loaded<M>>> {
        if let Some(loaded) = self
            .versions
            .load()
            .as_ref()
            .and_then(|versions| versions.find(version))
        {
            *wanted = Try::default();
            return Some(Arc::clone(loaded));
        }
        if !wanted.due(version) {
            return None;
        }
        let (outcome, loaded) = match load::<M>(store, version).await {
            Ok(loaded) => {
                tracing::info!(model = %M::KIND, model.version = version, "loaded");
                *wanted = Try::default();
                ("loaded", Some(Arc::new(loaded)))
            }
            Err(refusal) => {
                tracing::error!(model = %M::KIND, model.version = version, refusal, "refused");
                wanted.failed(refusal);
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

    async fn try_canary(&self, store: &ModelStore, canary: Option<Canary>, wanted: &mut Try) {
        let (loaded, status) = match canary {
            None => (None, None),
            Some(Canary { version, percent }) => {
                let loaded = self.obtain(store, &version, wanted).await;
                (
                    loaded,
                    Some(pb::Canary {
                        version,
                        percent: percent.into(),
                        refusal: wanted.refusal.clone(),
                    }),
                )
            }
        };
        self.change(|versions| Versions {
            canary: loaded,
            ..versions
        });
        self.status
            .send_if_modified(|now| std::mem::replace(&mut now.canary, status.clone()) != status);
    }

    async fn try_shadow(&self, store: &ModelStore, shadow: Option<String>, wanted: &mut Try) {
        let now = self
            .versions
            .load()
            .as_ref()
            .and_then(|versions| versions.shadow.clone());
        let (loaded, status) = match shadow {
            None => (None, None),
            Some(version) => {
                let kept = now.filter(|shadow| shadow.loaded.info.version == version);
                let loaded = match kept {
                    Some(shadow) => Some(shadow),
                    None => {
                        let loaded = self.obtain(store, &version, wanted).await;
                        loaded.map(|loaded| Arc::new(Shadow::new(loaded.apart(&loaded.info))))
                    }
                };
                let refusal = wanted.refusal.clone();
                (
                    loaded,
                    Some(pb::Shadow {
                        version,
                        refusal,
                        ..pb::Shadow::default()
                    }),
                )
            }
        };
        self.change(|versions| Versions {
            shadow: loaded,
            ..versions
        });
        self.status
            .send_if_modified(|now| std::mem::replace(&mut now.shadow, status.clone()) != status);
    }

    /// Makes a version the one that answers.
    fn swap(&self, loaded: &Loaded<M>) {
        let before = self.versions.load_full();
        if before
            .as_ref()
            .is_none_or(|before| before.stable.info.version != loaded.info.version)
        {
            let (canary, shadow) =
                before.map_or((None, None), |v| (v.canary.clone(), v.shadow.clone()));
            self.versions.store(Some(Arc::new(Versions {
                stable: Arc::new(loaded.counted()),
                canary,
                shadow,
            })));
            self.ready.send_replace(true);
        }
        self.status.send_if_modified(|status| {
            let changed = note(status, &loaded.info.version, "");
            status.state = pb::ModelState::Serving.into();
            if status.version == loaded.info.version {
                return changed;
            }
            status.version.clone_from(&loaded.info.version);
            status.details = Some(version(&loaded.manifest, Some(Channel::Stable)));
            status.loaded_at = Some(Timestamp::from(std::time::SystemTime::now()));
            true
        });
    }

    /// Swaps the versions beside the stable one. Nobody else does.
    fn change(&self, to: impl FnOnce(Versions<M>) -> Versions<M>) {
        if let Some(versions) = self.versions.load_full() {
            let Versions {
                stable,
                canary,
                shadow,
            } = &*versions;
            let copy = Versions {
                stable: stable.clone(),
                canary: canary.clone(),
                shadow: shadow.clone(),
            };
            self.versions.store(Some(Arc::new(to(copy))));
        }
    }
}

/// The channel that a call asks for.
pub fn channel<R>(request: &Request<R>) -> Channel {
    match request.metadata().get(MODEL_CHANNEL) {
        Some(channel) if channel == Channel::Canary.as_str() => Channel::Canary,
        Some(_) | None => Channel::Stable,
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

async fn load<M: Model>(store: &ModelStore, version: &str) -> Result<Loaded<M>, String> {
    // A refusal names the part at fault; whose it is, the status says.
    let artifact = match store.fetch(M::KIND, version).await {
        Err(StoreError::Refused { source, .. }) => return Err(source.to_string()),
        fetched => fetched.map_err(|error| error.to_string())?,
    };
    read(artifact).await
}

/// Reads and tries a model; or says why it cannot be used.
pub(crate) async fn read<M: Model>(artifact: Artifact) -> Result<Loaded<M>, String> {
    // Reading a large model takes a while, in which others want to be answered.
    let loaded = tokio::task::spawn_blocking(move || {
        let model = M::load(&artifact)?;
        model.warm();
        let loaded = Loaded::new(&artifact, model);
        // What was read is needed no more, and is more than what was made of it.
        drop(artifact);
        runtime::give_memory_back();
        Ok::<_, ModelError>(loaded)
    });
    // A panic is a bug of the loader, and no reason to stop answering.
    loaded
        .await
        .map_err(|_| "loading it failed".to_owned())?
        .map_err(|error| error.to_string())
}

/// A manifest as ModelService tells it.
pub(crate) fn version(manifest: &Manifest, channel: Option<Channel>) -> pb::ModelVersion {
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
