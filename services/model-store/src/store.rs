//! The store itself: its address, and reading and writing one object.

use std::{
    fmt,
    path::{Component, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, local::LocalFileSystem, path::Path,
};
use scoring::ModelKind;
use tokio_rustls::rustls::crypto::ring;
use url::Url;

use crate::{error::StoreError, mapped};

const POINTER: &str = "current.json";

/// A model store. Clones share the connection.
#[derive(Clone)]
pub struct ModelStore {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    /// The folder, absolute, of a store that is no object store.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) place: String,
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelStore").field(&self.place).finish()
    }
}

impl ModelStore {
    /// Opens a store by folder or by URL: `file://`, `s3://`, `gs://`, `az://`. Credentials come
    /// from the environment variables that the cloud's own tools use. Nothing is read or written
    /// yet.
    ///
    /// # Errors
    /// [`StoreError::Address`].
    pub fn open(place: &str) -> Result<Self, StoreError> {
        let address = |reason: String| StoreError::Address {
            place: place.to_owned(),
            reason,
        };
        let url = match Url::parse(place) {
            // A scheme of one letter is a drive of Windows.
            Ok(url) if url.scheme().len() > 1 => url,
            Ok(_) | Err(_) => return Self::folder(PathBuf::from(place)),
        };
        if url.scheme() == "file" {
            return Self::folder(
                url.to_file_path()
                    .map_err(|()| address("it names no local folder".to_owned()))?,
            );
        }
        // object_store's HTTP client uses the process's crypto provider. An error means that one is
        // installed already, which serves as well.
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
        // Without fsync a crash could leave the pointer on the disk and lose the files it names.
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

    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let read = async { self.objects.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", path, source)),
        }
    }

    /// As [`Self::get`] for a large file: it is copied to a temporary file and mapped, so that the
    /// system can take its pages back. Without room for the copy it is kept in memory.
    pub(crate) async fn get_mapped(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.failed("read", path, source)),
        };
        match mapped::copy(found.payload).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => {
                let file = self.show(path);
                tracing::warn!(file, %error, "kept in memory: it cannot be copied to TMPDIR");
                self.get(path).await
            }
        }
    }

    pub(crate) async fn put(
        &self,
        path: &Path,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<(), StoreError> {
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

    /// The path of a version's file.
    pub(crate) fn path(&self, model: ModelKind, version: &str, file: &str) -> Path {
        self.root
            .clone()
            .join(model.as_str())
            .join(version)
            .join(file)
    }

    /// The path of a model's pointer.
    pub(crate) fn pointer(&self, model: ModelKind) -> Path {
        self.root.clone().join(model.as_str()).join(POINTER)
    }

    /// A path as an operator would write it.
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

    pub(crate) fn failed(
        &self,
        action: &'static str,
        path: &Path,
        source: object_store::Error,
    ) -> StoreError {
        StoreError::Storage {
            action,
            place: self.show(path),
            source: Box::new(source),
        }
    }

    pub(crate) fn unreadable_pointer(&self, model: ModelKind, reason: impl ToString) -> StoreError {
        StoreError::Pointer {
            place: format!("{}/{model}/{POINTER}", self.place),
            reason: reason.to_string(),
        }
    }
}

/// The same folder without `..`, which object_store's paths cannot contain. A symbolic link before
/// `..` is followed, as the system does.
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
