//! Publishing: uploads, and every change of a pointer.

use std::fs::File;

use chrono::{DateTime, Utc};
use object_store::{ObjectStoreExt, PutMode, UpdateVersion};
use scoring::{Artifact, Manifest, ModelKind, artifact::MANIFEST};

use crate::{
    error::StoreError,
    pointer::{Canary, Channel, Pointer, is_version, moved},
    store::ModelStore,
};

impl ModelStore {
    /// Uploads a model and makes it the current one.
    ///
    /// # Errors
    /// [`StoreError`]; the version that was current before stays so.
    pub async fn publish(
        &self,
        artifact: &Artifact,
        now: DateTime<Utc>,
    ) -> Result<Pointer, StoreError> {
        self.upload(artifact).await?;
        self.point(artifact.manifest().model, &artifact.manifest().version, now)
            .await
    }

    /// Uploads a model: its files first, its manifest last. Damaged files of a version that is in
    /// the store already are replaced: the same training has the same name again, and would be
    /// refused for ever.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn upload(&self, artifact: &Artifact) -> Result<(), StoreError> {
        let Manifest { model, version, .. } = artifact.manifest();
        let manifest = artifact.manifest_bytes();
        let known = self
            .get(&self.path(*model, version, MANIFEST))
            .await?
            .as_ref()
            == Some(&manifest);
        for (name, bytes) in artifact.files() {
            let path = self.path(*model, version, name);
            if !known || self.get(&path).await?.as_ref() != Some(bytes) {
                self.put(&path, bytes.clone(), PutMode::Overwrite).await?;
            }
        }
        if known {
            return Ok(());
        }
        self.put(
            &self.path(*model, version, MANIFEST),
            manifest,
            PutMode::Overwrite,
        )
        .await
    }

    /// Makes a version the current one, which ends a trial of it. A pointer that cannot be read is
    /// replaced.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] if the version is not in the store, [`StoreError::Race`] if
    /// another process moved the pointer meanwhile.
    pub async fn point(
        &self,
        model: ModelKind,
        version: &str,
        now: DateTime<Utc>,
    ) -> Result<Pointer, StoreError> {
        self.update_pointer(model, |before| {
            Ok(moved(before.unwrap_or_default(), version, now))
        })
        .await
    }

    /// As [`Self::point`], if the current version is the expected one. An empty name expects none.
    ///
    /// # Errors
    /// As [`Self::point`], and [`StoreError::Moved`] if another version is current.
    pub async fn point_from(
        &self,
        model: ModelKind,
        expected: &str,
        version: &str,
        now: DateTime<Utc>,
    ) -> Result<Pointer, StoreError> {
        let to = |before: Result<Option<Pointer>, StoreError>| {
            let before = before?;
            let found = before.as_ref().map_or("", |pointer| &pointer.version);
            if found != expected {
                return Err(StoreError::Moved {
                    model,
                    expected: expected.to_owned(),
                    found: found.to_owned(),
                });
            }
            Ok(moved(before, version, now))
        };
        self.update_pointer(model, to).await
    }

    /// Puts a version on trial as the canary; `None` ends the trial.
    ///
    /// # Errors
    /// As [`Self::point`], [`StoreError::NothingCurrent`], and [`StoreError::NoTrial`] if there is
    /// no trial to end.
    pub async fn set_canary(
        &self,
        model: ModelKind,
        canary: Option<Canary>,
    ) -> Result<Pointer, StoreError> {
        if let Some(Canary { version, .. }) = &canary {
            self.manifest(model, version).await?;
        }
        self.update_trials(model, |before| match (&canary, &before.canary) {
            (None, None) => Err(StoreError::NoTrial {
                model,
                channel: Channel::Canary,
            }),
            _ => Ok(Pointer { canary, ..before }),
        })
        .await
    }

    /// Puts a version on trial as the shadow; `None` ends the trial.
    ///
    /// # Errors
    /// As [`Self::set_canary`].
    pub async fn set_shadow(
        &self,
        model: ModelKind,
        shadow: Option<String>,
    ) -> Result<Pointer, StoreError> {
        if let Some(version) = &shadow {
            self.manifest(model, version).await?;
        }
        self.update_trials(model, |before| match (&shadow, &before.shadow) {
            (None, None) => Err(StoreError::NoTrial {
                model,
                channel: Channel::Shadow,
            }),
            _ => Ok(Pointer { shadow, ..before }),
        })
        .await
    }

    /// Changes the canary's share of callers; without a share the canary becomes the current
    /// version.
    ///
    /// # Errors
    /// [`StoreError::NoTrial`], [`StoreError::Race`].
    pub async fn promote(
        &self,
        model: ModelKind,
        percent: Option<u8>,
        now: DateTime<Utc>,
    ) -> Result<Pointer, StoreError> {
        let to = |before: Pointer| {
            let none = StoreError::NoTrial {
                model,
                channel: Channel::Canary,
            };
            let Canary { version, .. } = before.canary.clone().ok_or(none)?;
            Ok(match percent {
                Some(percent) => Pointer {
                    canary: Some(Canary { version, percent }),
                    ..before
                },
                None => moved(Some(before), &version, now),
            })
        };
        self.update_trials(model, to).await
    }

    async fn update_trials(
        &self,
        model: ModelKind,
        to: impl FnOnce(Pointer) -> Result<Pointer, StoreError>,
    ) -> Result<Pointer, StoreError> {
        self.update_pointer(model, |before| {
            to(before?.ok_or(StoreError::NothingCurrent { model })?)
        })
        .await
    }

    /// Replaces the pointer by what `to` makes of the present one, or of the reason why that cannot
    /// be read. The version it names must be in the store.
    async fn update_pointer(
        &self,
        model: ModelKind,
        to: impl FnOnce(Result<Option<Pointer>, StoreError>) -> Result<Pointer, StoreError>,
    ) -> Result<Pointer, StoreError> {
        let _lock = self.lock_folder(model).await;
        let (before, held) = self.read_pointer(model).await?.unzip();
        let before = before.transpose();
        let known = before.as_ref().ok().cloned().flatten();
        let pointer = to(before)?;
        if known.as_ref() == Some(&pointer) {
            return Ok(pointer);
        }
        if known.is_none_or(|known| known.version != pointer.version) {
            self.manifest(model, &pointer.version).await?;
        }
        let bytes =
            serde_json::to_vec_pretty(&pointer).map_err(|e| self.unreadable_pointer(model, e))?;
        let mode = match (&self.folder, held) {
            // A rename is atomic, but not conditional: the lock keeps other writers off meanwhile.
            (Some(_), _) => PutMode::Overwrite,
            (None, Some(held)) => PutMode::Update(held),
            (None, None) => PutMode::Create,
        };
        self.put(&self.pointer(model), bytes.into(), mode).await?;
        Ok(pointer)
    }

    /// Locks a local model's folder for as long as the returned file lives; an object store needs
    /// no lock, since it writes conditionally. Without locks in the file system the last writer
    /// wins.
    async fn lock_folder(&self, model: ModelKind) -> Option<File> {
        let folder = self.folder.as_ref()?.join(model.as_str());
        let held = tokio::task::spawn_blocking(move || {
            let folder = File::open(folder).ok()?;
            folder.lock().ok().map(|()| folder)
        });
        held.await.ok().flatten()
    }

    /// Makes an earlier version the current one: the given one, or the one before the current one.
    /// Versions that were current after it are forgotten, so that the next rollback goes further
    /// back. A pointer that cannot be read is replaced if a version is given.
    ///
    /// # Errors
    /// [`StoreError::NothingBefore`], [`StoreError::NoVersion`].
    pub async fn rollback(
        &self,
        model: ModelKind,
        version: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Pointer, StoreError> {
        let to = |before: Result<Option<Pointer>, StoreError>| {
            let before = match (before, version) {
                (Err(_), Some(_)) => None,
                (before, _) => before?,
            };
            let past: Vec<String> = before
                .iter()
                .flat_map(Pointer::past)
                .map(str::to_owned)
                .collect();
            let Some(version) = version.or(past.first().map(String::as_str)) else {
                return Err(StoreError::NothingBefore { model });
            };
            let moved = moved(before, version, now);
            let Some(place) = past.iter().position(|past| past == version) else {
                return Ok(moved);
            };
            let mut further = past[place + 1..].iter().cloned();
            let previous = further.next();
            Ok(Pointer {
                previous,
                earlier: further.rev().collect(),
                ..moved
            })
        };
        self.update_pointer(model, to).await
    }

    /// The pointer, if a version has been published.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn current(&self, model: ModelKind) -> Result<Option<Pointer>, StoreError> {
        self.read_pointer(model)
            .await?
            .map(|(pointer, _)| pointer)
            .transpose()
    }

    /// The pointer, or the reason why it cannot be read, and the object's own version, which makes
    /// the next write conditional.
    async fn read_pointer(
        &self,
        model: ModelKind,
    ) -> Result<Option<(Result<Pointer, StoreError>, UpdateVersion)>, StoreError> {
        let path = self.pointer(model);
        let found = match self.objects.get(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.failed("read", &path, source)),
        };
        let held = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let bytes = found
            .bytes()
            .await
            .map_err(|source| self.failed("read", &path, source))?;
        let pointer = match serde_json::from_slice::<Pointer>(&bytes) {
            Ok(pointer) if pointer.versions().all(is_version) => Ok(pointer),
            Ok(_) => Err(self.unreadable_pointer(model, "it names no version")),
            Err(error) => Err(self.unreadable_pointer(model, error)),
        };
        Ok(Some((pointer, held)))
    }
}
