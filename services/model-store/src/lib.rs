//! Where models are published: versions, the pointer that names the current one, rollback; in a
//! folder or an object store.
//!
//! ```text
//! <model>/<version>/manifest.json   and the files it lists, written before it
//! <model>/current.json              the pointer, written last and at once; it also names versions on trial
//! ```
//!
//! A version never changes once it is there: its name is a checksum of its content. A publisher
//! that dies leaves files that nothing points to. The store knows no model by more than its name.

mod error;
mod mapped;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    iter,
    path::{Component, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion, local::LocalFileSystem,
    path::Path,
};
use scoring::{Artifact, Manifest, ModelError, ModelKind, artifact::MANIFEST};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::crypto::ring;
use url::Url;

pub use error::StoreError;

const POINTER: &str = "current.json";

/// Versions that a pointer remembers as current before the previous one.
const MOST_EARLIER: usize = 32;

/// Files of an artifact that are fetched at once, and manifests, which are small.
const CONCURRENCY: usize = 4;
const CONCURRENT_MANIFESTS: usize = 16;

/// Which version of a model is the current one, and which are on trial beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The current version.
    pub version: String,
    /// The version that was current before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Those that were current before that, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// When it became the current one.
    pub moved_at: DateTime<Utc>,
    /// The version that a share of callers gets instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The version that is asked as well, and whose answers nobody gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
}

/// A version for a share of callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The version.
    pub version: String,
    /// How many callers get it, of a hundred.
    pub percent: u8,
}

/// What a version is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// It answers: the current version.
    Stable,
    /// It answers a share of callers.
    Canary,
    /// Its answers are compared with the current version's.
    Shadow,
}

impl Channel {
    /// Its name in commands and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
        }
    }
}

impl Pointer {
    /// What it says that a version is for; nothing for most.
    pub fn channel(&self, version: &str) -> Option<Channel> {
        let canary = self.canary.as_ref().map(|canary| canary.version.as_str());
        if self.version == version {
            Some(Channel::Stable)
        } else if canary == Some(version) {
            Some(Channel::Canary)
        } else {
            (self.shadow.as_deref() == Some(version)).then_some(Channel::Shadow)
        }
    }

    /// The versions that were current before, the latest first.
    pub fn past(&self) -> impl Iterator<Item = &str> {
        self.previous
            .iter()
            .chain(self.earlier.iter().rev())
            .map(String::as_str)
    }

    fn versions(&self) -> impl Iterator<Item = &str> {
        let canary = self.canary.as_ref().map(|canary| &canary.version);
        let now = [Some(&self.version), canary, self.shadow.as_ref()];
        now.into_iter()
            .flatten()
            .map(String::as_str)
            .chain(self.past())
    }
}

/// A model store. Clones share the connection.
#[derive(Clone)]
pub struct ModelStore {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    folder: Option<PathBuf>,
    place: String,
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelStore").field(&self.place).finish()
    }
}

impl ModelStore {
    /// Opens a store by folder or by URL: `file://`, `s3://`, `gs://`, `az://`. Credentials come from the environment
    /// variables that the cloud's own tools use. Nothing is read or written yet.
    ///
    /// # Errors
    /// [`StoreError::Address`].
    pub fn open(place: &str) -> Result<Self, StoreError> {
        let address = |reason: String| StoreError::Address {
            place: place.to_owned(),
            reason,
        };
        let url = match Url::parse(place) {
            // A single letter is a drive rather than a scheme, and a path is no URL.
            Ok(url) if url.scheme().len() > 1 => url,
            Ok(_) | Err(_) => return Self::folder(PathBuf::from(place)),
        };
        if url.scheme() == "file" {
            return Self::folder(
                url.to_file_path()
                    .map_err(|()| address("it names no local folder".to_owned()))?,
            );
        }
        // What object_store asks with takes the process's provider; an earlier one is as good.
        let _ = ring::default_provider().install_default();
        // Lower-case names are object_store's configuration keys: AWS_ENDPOINT_URL is
        // aws_endpoint_url.
        let options = std::env::vars()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| {
                ["aws_", "google_", "azure_"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            });
        let (objects, root) =
            object_store::parse_url_opts(&url, options).map_err(|e| address(e.to_string()))?;
        Ok(Self {
            objects: objects.into(),
            root,
            folder: None,
            place: place.to_owned(),
        })
    }

    fn folder(folder: PathBuf) -> Result<Self, StoreError> {
        let place = folder.display().to_string();
        let absolute = std::path::absolute(&folder)
            .map(|folder| without_parents(&folder))
            .map_err(|e| StoreError::Address {
                place: place.clone(),
                reason: e.to_string(),
            })?;
        let root = Path::from_absolute_path(&absolute).map_err(|e| StoreError::Address {
            place: place.clone(),
            reason: e.to_string(),
        })?;
        // A pointer must not be on the disk before what it names is.
        let objects = Arc::new(LocalFileSystem::new().with_fsync(true));
        Ok(Self {
            objects,
            root,
            folder: Some(absolute),
            place,
        })
    }

    /// Folder or URL, as it was given.
    pub fn place(&self) -> &str {
        &self.place
    }

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

    /// Uploads a model: its files first, its manifest last. Of a version that is there already,
    /// what was damaged is mended: the same training has the same name again, and would be
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

    /// Makes a version the current one; a trial of it ends with that. A pointer that cannot be read
    /// is replaced.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] where it is not in the store, [`StoreError::Race`] where somebody
    /// else moved the pointer meanwhile.
    pub async fn point(
        &self,
        model: ModelKind,
        version: &str,
        now: DateTime<Utc>,
    ) -> Result<Pointer, StoreError> {
        self.change(model, |before| {
            Ok(moved(before.unwrap_or_default(), version, now))
        })
        .await
    }

    /// The same where the current version is still the expected one; an empty name expects none.
    ///
    /// # Errors
    /// As [`Self::point`], and [`StoreError::Moved`] where another version is current.
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
        self.change(model, to).await
    }

    /// Gives a share of callers another version than the current one, or gives it to nobody any
    /// more.
    ///
    /// # Errors
    /// As [`Self::point`], [`StoreError::NothingCurrent`], and [`StoreError::NoTrial`] where it is
    /// nobody's already.
    pub async fn set_canary(
        &self,
        model: ModelKind,
        canary: Option<Canary>,
    ) -> Result<Pointer, StoreError> {
        if let Some(Canary { version, .. }) = &canary {
            self.manifest(model, version).await?;
        }
        self.try_out(model, |before| match (&canary, &before.canary) {
            (None, None) => Err(StoreError::NoTrial {
                model,
                channel: Channel::Canary,
            }),
            _ => Ok(Pointer { canary, ..before }),
        })
        .await
    }

    /// Compares a version's answers with those of the current one, or none's any more.
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
        self.try_out(model, |before| match (&shadow, &before.shadow) {
            (None, None) => Err(StoreError::NoTrial {
                model,
                channel: Channel::Shadow,
            }),
            _ => Ok(Pointer { shadow, ..before }),
        })
        .await
    }

    /// Gives the canary to another share of callers, or, without one, to all: it becomes the
    /// current version.
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
        self.try_out(model, to).await
    }

    async fn try_out(
        &self,
        model: ModelKind,
        to: impl FnOnce(Pointer) -> Result<Pointer, StoreError>,
    ) -> Result<Pointer, StoreError> {
        self.change(model, |before| {
            to(before?.ok_or(StoreError::NothingCurrent { model })?)
        })
        .await
    }

    /// Moves the pointer to where it should be, if that is there. `to` is told what it says now, or
    /// why that cannot be read.
    async fn change(
        &self,
        model: ModelKind,
        to: impl FnOnce(Result<Option<Pointer>, StoreError>) -> Result<Pointer, StoreError>,
    ) -> Result<Pointer, StoreError> {
        let _held = self.hold(model).await;
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
            serde_json::to_vec_pretty(&pointer).map_err(|e| self.unreadable(model, POINTER, e))?;
        let mode = match (&self.folder, held) {
            // A rename is atomic, but not conditional: `hold` keeps others off meanwhile.
            (Some(_), _) => PutMode::Overwrite,
            (None, Some(held)) => PutMode::Update(held),
            (None, None) => PutMode::Create,
        };
        self.put(&self.pointer(model), bytes.into(), mode).await?;
        Ok(pointer)
    }

    /// Keeps others off a local pointer while the answer lives; an object store compares by itself.
    /// Where a file system knows no locks the last one to move the pointer wins.
    async fn hold(&self, model: ModelKind) -> Option<File> {
        let folder = self.folder.as_ref()?.join(model.as_str());
        let held = tokio::task::spawn_blocking(move || {
            let folder = File::open(folder).ok()?;
            folder.lock().ok().map(|()| folder)
        });
        held.await.ok().flatten()
    }

    /// Makes an earlier version the current one: the given one, or the one before the current one.
    /// What was current after it is forgotten, so that the next rollback goes further back. A
    /// pointer that cannot be read is replaced where the version is given.
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
        self.change(model, to).await
    }

    /// The pointer, where a version has been published.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn current(&self, model: ModelKind) -> Result<Option<Pointer>, StoreError> {
        self.read_pointer(model)
            .await?
            .map(|(pointer, _)| pointer)
            .transpose()
    }

    /// The last version that was current before a version and was made by a recipe; before a
    /// version that has never been current, as one on trial, the current one is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn before(
        &self,
        model: ModelKind,
        version: &str,
        recipe: &str,
    ) -> Result<Option<String>, StoreError> {
        let pointer = self.current(model).await?;
        let lately: Vec<&str> = pointer
            .iter()
            .flat_map(|pointer| iter::once(pointer.version.as_str()).chain(pointer.past()))
            .collect();
        let before = lately
            .iter()
            .position(|lately| *lately == version)
            .map_or(0, |place| place + 1);
        for version in lately.into_iter().skip(before) {
            match self.manifest(model, version).await {
                Ok(manifest) if manifest.recipe == recipe => return Ok(Some(version.to_owned())),
                // Another recipe's, or one that cannot be compared with.
                Ok(_) | Err(StoreError::NoVersion { .. } | StoreError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A version, checked against its manifest.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`], or [`StoreError::Refused`] where a file is missing or damaged.
    pub async fn fetch(&self, model: ModelKind, version: &str) -> Result<Artifact, StoreError> {
        let (manifest, text) = self.read_manifest(model, version).await?;
        let files: BTreeMap<String, Bytes> = stream::iter(manifest.files)
            .map(|scoring::File { name, size, .. }| async move {
                let path = self.path(model, version, &name);
                let bytes = if size < mapped::LARGE {
                    self.get(&path).await?
                } else {
                    self.get_mapped(&path).await?
                };
                Ok::<_, StoreError>(bytes.map(|bytes| (name, bytes)))
            })
            .buffer_unordered(CONCURRENCY)
            // A file that is not there is named by the check below.
            .try_filter_map(|found| async { Ok(found) })
            .try_collect()
            .await?;
        let refused = |source| StoreError::Refused {
            model,
            version: version.to_owned(),
            source,
        };
        // Sums over hundreds of megabytes would keep other tasks waiting.
        let verified = tokio::task::spawn_blocking(move || Artifact::verify(text, files));
        let verified = verified.await.unwrap_or_else(|panic| {
            Err(ModelError::Damaged {
                file: MANIFEST.to_owned(),
                reason: panic.to_string(),
            })
        });
        let artifact = verified.map_err(refused)?;
        artifact.expect(model).map_err(refused)?;
        Ok(artifact)
    }

    /// All versions whose manifest can be read, with what they are for; by as-of time and name,
    /// newest first. Where the pointer cannot be read they are for nothing: one of them is to
    /// replace it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn versions(
        &self,
        model: ModelKind,
    ) -> Result<Vec<(Manifest, Option<Channel>)>, StoreError> {
        let pointer = match self.current(model).await {
            Err(StoreError::Pointer { .. }) => None,
            pointer => pointer?,
        };
        let folder = self.root.clone().join(model.as_str());
        let listed = match self.objects.list_with_delimiter(Some(&folder)).await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(source) => return Err(self.failed("list", &folder, source)),
        };
        let mut manifests = stream::iter(listed.common_prefixes)
            .map(|folder| async move {
                self.manifest(model, folder.filename().unwrap_or_default())
                    .await
            })
            .buffer_unordered(CONCURRENT_MANIFESTS);
        let mut versions = Vec::new();
        while let Some(manifest) = manifests.next().await {
            match manifest {
                Ok(manifest) => {
                    let channel = pointer
                        .as_ref()
                        .and_then(|pointer| pointer.channel(&manifest.version));
                    versions.push((manifest, channel));
                }
                // Half uploaded, or written by a newer trainer: not one that could be rolled back
                // to.
                Err(StoreError::NoVersion { .. } | StoreError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        versions.sort_by(|(a, _), (b, _)| (b.as_of, &b.version).cmp(&(a.as_of, &a.version)));
        Ok(versions)
    }

    async fn manifest(&self, model: ModelKind, version: &str) -> Result<Manifest, StoreError> {
        Ok(self.read_manifest(model, version).await?.0)
    }

    async fn read_manifest(
        &self,
        model: ModelKind,
        version: &str,
    ) -> Result<(Manifest, Bytes), StoreError> {
        let none = || StoreError::NoVersion {
            model,
            version: version.to_owned(),
            place: self.place.clone(),
        };
        if !is_version(version) {
            return Err(none());
        }
        let bytes = self
            .get(&self.path(model, version, MANIFEST))
            .await?
            .ok_or_else(none)?;
        let refused = |source| StoreError::Refused {
            model,
            version: version.to_owned(),
            source,
        };
        let manifest = Artifact::read_manifest(&bytes).map_err(refused)?;
        if manifest.version != version {
            let reason = format!("it is of version `{}`", manifest.version);
            return Err(refused(ModelError::Damaged {
                file: MANIFEST.to_owned(),
                reason,
            }));
        }
        Ok((manifest, bytes))
    }

    /// The pointer, or why what is there is none, and how an object store knows it again.
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
            Ok(_) => Err(self.unreadable(model, POINTER, "it names no version")),
            Err(error) => Err(self.unreadable(model, POINTER, error)),
        };
        Ok(Some((pointer, held)))
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let read = async { self.objects.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", path, source)),
        }
    }

    /// As [`Self::get`], of a large file, in memory that is a file's where there is room for one.
    async fn get_mapped(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.failed("read", path, source)),
        };
        match mapped::copy(found.payload).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => {
                tracing::warn!(file = self.show(path), %error, "it is kept in memory: it cannot be copied to TMPDIR");
                self.get(path).await
            }
        }
    }

    async fn put(&self, path: &Path, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        match self.objects.put_opts(path, bytes.into(), options).await {
            Ok(_) => Ok(()),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Err(StoreError::Race {
                place: self.show(path),
            }),
            Err(source) => Err(self.failed("write", path, source)),
        }
    }

    fn path(&self, model: ModelKind, version: &str, file: &str) -> Path {
        self.root
            .clone()
            .join(model.as_str())
            .join(version)
            .join(file)
    }

    fn pointer(&self, model: ModelKind) -> Path {
        self.root.clone().join(model.as_str()).join(POINTER)
    }

    /// A path as its owner would write it.
    fn show(&self, path: &Path) -> String {
        let below = path
            .as_ref()
            .strip_prefix(self.root.as_ref())
            .unwrap_or(path.as_ref())
            .trim_start_matches('/');
        match &self.folder {
            Some(folder) => folder.join(below).display().to_string(),
            None => format!("{}/{below}", self.place.trim_end_matches('/')),
        }
    }

    fn failed(&self, action: &'static str, path: &Path, source: object_store::Error) -> StoreError {
        StoreError::Storage {
            action,
            place: self.show(path),
            source: Box::new(source),
        }
    }

    fn unreadable(&self, model: ModelKind, file: &str, reason: impl ToString) -> StoreError {
        StoreError::Pointer {
            place: format!("{}/{model}/{file}", self.place),
            reason: reason.to_string(),
        }
    }
}

/// The pointer to a version that becomes the current one, or is so already. Where it was on trial
/// it is so no more.
fn moved(before: Option<Pointer>, version: &str, now: DateTime<Utc>) -> Pointer {
    let version = version.to_owned();
    let before = before.map(|before| Pointer {
        canary: before.canary.filter(|canary| canary.version != version),
        shadow: before.shadow.filter(|shadow| *shadow != version),
        ..before
    });
    match before {
        Some(before) if before.version == version => before,
        None => Pointer {
            version,
            previous: None,
            earlier: Vec::new(),
            moved_at: now,
            canary: None,
            shadow: None,
        },
        Some(before) => {
            let past = before
                .past()
                .filter(|past| *past != version)
                .take(MOST_EARLIER);
            let mut earlier: Vec<String> = past.map(str::to_owned).collect();
            earlier.reverse();
            Pointer {
                version,
                previous: Some(before.version),
                earlier,
                moved_at: now,
                ..before
            }
        }
    }
}

/// The same folder without `..`, which object_store's paths do not know. A link before it is
/// followed, as the system does.
fn without_parents(folder: &std::path::Path) -> PathBuf {
    folder.components().fold(PathBuf::new(), |so_far, part| {
        if part != Component::ParentDir {
            return so_far.join(part);
        }
        let mut real = so_far.canonicalize().unwrap_or(so_far);
        real.pop();
        real
    })
}

/// Whether a name could be a version's, and leads out of no folder.
fn is_version(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
