//! A model that follows the store's pointer.
//!
//! A new version is fetched, verified, loaded and warmed beside the one that answers, and then
//! swapped in. Calls in flight end on the version they began with. A version that cannot be used is
//! refused by name and tried again after growing pauses; the version before it goes on answering.
//! Versions on trial are loaded in the same way. If a canary is refused, the current version
//! answers its callers.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use model_store::{Canary, Channel, ModelStore, Pointer, StoreError};
use prost_types::Timestamp;
use proto::model::v1 as pb;
use runtime::Refusal;
use scoring::{Artifact, Manifest, Model, ModelError};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};
use tonic::{Request, Response, Status};

use crate::{
    loaded::{Loaded, describe, read},
    shadow::Shadow,
    slot::Slot,
};

/// Request header: `canary` asks for the version on trial, `stable` for the current one.
pub const MODEL_CHANNEL: &str = "x-model-channel";

/// What callers are told to wait while no model is loaded.
const RETRY_IN: Duration = Duration::from_secs(2);

/// Longest wait for the store's first answer when a process starts.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Shortest pause between two looks at the store.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// In the order in which they are reconciled: trials need a stable version to run beside.
const CHANNELS: [Channel; 3] = [Channel::Stable, Channel::Canary, Channel::Shadow];

/// The model of a service. Clones share it; the store is followed until the last one is dropped.
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
    /// A version for a channel, if it is loaded: the stable one or the canary, or, for the shadow's
    /// channel, the shadow itself.
    fn find(&self, version: &str, channel: Channel) -> Option<&Arc<Loaded<M>>> {
        let shadow = match channel {
            Channel::Shadow => self.shadow.as_ref().map(|shadow| &shadow.loaded),
            // A shadow's numbers are recorded apart, so it cannot answer callers as it is.
            Channel::Stable | Channel::Canary => None,
        };
        [Some(&self.stable), self.canary.as_ref(), shadow]
            .into_iter()
            .flatten()
            .find(|loaded| loaded.info.version == version)
    }
}

impl<M: Model> Live<M> {
    /// Follows a store. Waits for its first answer, up to 1 s: if the store answers, the process is
    /// ready as soon as it listens; if it is slow or silent, the process listens as not ready.
    pub async fn follow(store: ModelStore, every: Duration) -> Self {
        let shared = Shared::new(Some(store.clone()));
        let following = Arc::clone(&shared);
        let (looked, first) = oneshot::channel();
        let mut follower = JoinSet::new();
        follower.spawn(async move {
            let mut slots = CHANNELS.map(Slot::new);
            following.reconcile(&store, &mut slots).await;
            let _ = looked.send(());
            loop {
                tokio::time::sleep(every.max(MIN_PAUSE)).await;
                following.reconcile(&store, &mut slots).await;
            }
        });
        let _ = tokio::time::timeout(FIRST_LOOK, first).await;
        Self {
            shared,
            follower: Some(Arc::new(follower)),
            allows_publish: false,
        }
    }

    /// Whether callers may move the store's pointer.
    pub fn publishing(self, allows_publish: bool) -> Self {
        Self {
            allows_publish,
            ..self
        }
    }

    /// One model that never changes, without a store.
    ///
    /// # Errors
    /// If the model refuses the artifact.
    pub fn fixed(artifact: &Artifact) -> Result<Self, ModelError> {
        let shared = Shared::new(None);
        shared.serve(&Loaded::new(artifact, M::load(artifact)?));
        Ok(Self {
            shared,
            follower: None,
            allows_publish: false,
        })
    }

    /// The current model.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] while none is loaded.
    pub fn current(&self) -> Result<Arc<Loaded<M>>, Refusal> {
        self.on(Channel::Stable)
    }

    /// The model for a call: the canary if the call asks for it and one is loaded, else the current
    /// one.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn asked<R>(&self, request: &Request<R>) -> Result<Arc<Loaded<M>>, Refusal> {
        self.on(channel(request))
    }

    /// The model of a channel. For [`Channel::Shadow`] it is the current one: callers never get a
    /// shadow's answers.
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

    /// Answers a call, with the version in a header of the answer or of the refusal. If a version
    /// is on trial as a shadow, a sample of calls is compared with its answers afterwards.
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
            shadow.compare(stable, request.into_inner(), with);
        }
        answer
    }

    /// Whether a model is loaded, now and at each change.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    /// The model's status, now and at each change.
    pub fn status(&self) -> watch::Receiver<pb::ModelStatus> {
        self.shared.status.subscribe()
    }

    /// The model's status now, with the results of the shadow.
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

    /// The name of the last version of the same recipe that was current before this one, if any.
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

    /// Another version of the store, to compare with the current one.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if the store has no such version or it cannot be used,
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

/// The refusal of a call for which the store would have to be asked and does not answer.
pub(crate) fn unreachable(error: &StoreError) -> Refusal {
    Refusal::Unreachable {
        service: "the model store".to_owned(),
        problem: error.to_string(),
        retry_in: RETRY_IN,
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

    /// Reads the pointer once, and brings every channel to the version that it names.
    async fn reconcile(&self, store: &ModelStore, slots: &mut [Slot; 3]) {
        let Some(pointer) = self.pointer(store).await else {
            return;
        };
        for slot in slots {
            if slot.channel != Channel::Stable && self.versions.load().is_none() {
                return;
            }
            let loaded = match pointer.version_of(slot.channel) {
                Some(version) => self.fill(slot, store, version).await,
                None => None,
            };
            match slot.channel {
                Channel::Stable => match loaded {
                    Some(loaded) => self.serve(&loaded),
                    None => self.note(&pointer.version, &slot.refusal),
                },
                Channel::Canary => self.set_canary(loaded, pointer.canary.as_ref(), slot),
                Channel::Shadow => self.set_shadow(loaded, pointer.shadow.as_deref(), slot),
            }
        }
    }

    /// The store's pointer. Without one the versions that are loaded stay, and the status says why.
    async fn pointer(&self, store: &ModelStore) -> Option<Pointer> {
        let place = store.place();
        match store.current(M::KIND).await {
            Ok(Some(pointer)) => return Some(pointer),
            Ok(None) => {
                let refusal = format!("no version has been published in {place}");
                if self.status.send_if_modified(|now| note(now, "", &refusal)) {
                    tracing::warn!(model = %M::KIND, models = place, "no version is published");
                }
            }
            Err(error) => {
                let refusal = error.to_string();
                let is_news = self
                    .status
                    .send_if_modified(|now| note(now, &now.wanted_version.clone(), &refusal));
                if is_news {
                    tracing::warn!(
                        model = %M::KIND, error = %refusal, "the model store cannot be read"
                    );
                }
            }
        }
        None
    }

    /// The version that a slot should have: one that is loaded already, or else from the store.
    async fn fill(
        &self,
        slot: &mut Slot,
        store: &ModelStore,
        version: &str,
    ) -> Option<Arc<Loaded<M>>> {
        let versions = self.versions.load_full();
        let loaded = versions
            .as_ref()
            .and_then(|v| v.find(version, slot.channel));
        if let Some(loaded) = loaded {
            slot.filled();
            return Some(Arc::clone(loaded));
        }
        // Watchers learn what is being loaded before it is, which can take seconds.
        if slot.channel == Channel::Stable && !slot.is_pending(version) {
            self.note(version, "");
        }
        slot.load(store, version).await
    }

    /// Makes a version the current one.
    fn serve(&self, loaded: &Loaded<M>) {
        let before = self.versions.load_full();
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.stable.info.version != loaded.info.version);
        if is_new {
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
            status.details = Some(describe(&loaded.manifest, Some(Channel::Stable)));
            status.loaded_at = Some(Timestamp::from(std::time::SystemTime::now()));
            true
        });
    }

    fn set_canary(&self, canary: Option<Arc<Loaded<M>>>, named: Option<&Canary>, slot: &Slot) {
        self.change(|versions| Versions { canary, ..versions });
        let status = named.map(|Canary { version, percent }| pb::Canary {
            version: version.clone(),
            percent: (*percent).into(),
            refusal: slot.refusal.clone(),
        });
        self.status
            .send_if_modified(|now| std::mem::replace(&mut now.canary, status.clone()) != status);
    }

    fn set_shadow(&self, loaded: Option<Arc<Loaded<M>>>, named: Option<&str>, slot: &Slot) {
        self.change(|versions| {
            let shadow = loaded.map(|loaded| match versions.shadow {
                // Its results go on.
                Some(shadow) if shadow.is(&loaded) => shadow,
                Some(_) | None => Arc::new(Shadow::new(loaded.recording(&loaded.info))),
            });
            Versions { shadow, ..versions }
        });
        let status = named.map(|version| pb::Shadow {
            version: version.to_owned(),
            refusal: slot.refusal.clone(),
            ..pb::Shadow::default()
        });
        self.status
            .send_if_modified(|now| std::mem::replace(&mut now.shadow, status.clone()) != status);
    }

    /// Swaps the versions beside the stable one. Only the task that follows the store calls it, so
    /// no other change is lost between the load and the store.
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

    fn note(&self, wanted: &str, refusal: &str) {
        self.status
            .send_if_modified(|status| note(status, wanted, refusal));
    }
}

/// The channel that a call asks for.
pub fn channel<R>(request: &Request<R>) -> Channel {
    match request.metadata().get(MODEL_CHANNEL) {
        Some(channel) if channel == Channel::Canary.as_str() => Channel::Canary,
        Some(_) | None => Channel::Stable,
    }
}

/// Writes into a status which version is wanted and why it is refused. Returns whether either is
/// new.
fn note(status: &mut pb::ModelStatus, wanted: &str, refusal: &str) -> bool {
    let news = status.wanted_version != wanted || status.refusal != refusal;
    wanted.clone_into(&mut status.wanted_version);
    refusal.clone_into(&mut status.refusal);
    if !refusal.is_empty() && !status.version.is_empty() {
        status.state = pb::ModelState::Degraded.into();
    }
    news
}
