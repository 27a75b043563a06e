//! Reading versions: one of them, checked against its manifest; all of them; the one before.

use std::{collections::BTreeMap, iter};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use scoring::{Artifact, Manifest, ModelError, ModelKind, artifact::MANIFEST};

use crate::{
    error::StoreError,
    mapped,
    pointer::{Channel, is_version},
    store::ModelStore,
};

/// Files of an artifact that are fetched at once.
const CONCURRENT_FILES: usize = 4;
/// Manifests that are fetched at once; they are small.
const CONCURRENT_MANIFESTS: usize = 16;

impl ModelStore {
    /// A version, checked against its manifest.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`], or [`StoreError::Refused`] if a file is missing or damaged.
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
            .buffer_unordered(CONCURRENT_FILES)
            // A missing file is left out here; the check below names it.
            .try_filter_map(|found| async { Ok(found) })
            .try_collect()
            .await?;
        let refused = |source| StoreError::Refused {
            model,
            version: version.to_owned(),
            source,
        };
        // Checksums over hundreds of megabytes would hold up other tasks of this thread.
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

    /// All versions with a readable manifest, and their channels; by as-of time and name, newest
    /// first. If the pointer cannot be read, none has a channel.
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
                // Uploaded in part, or written by a newer trainer: no rollback could use it.
                Err(StoreError::NoVersion { .. } | StoreError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        versions.sort_by(|(a, _), (b, _)| (b.as_of, &b.version).cmp(&(a.as_of, &a.version)));
        Ok(versions)
    }

    pub(crate) async fn manifest(
        &self,
        model: ModelKind,
        version: &str,
    ) -> Result<Manifest, StoreError> {
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

    /// The last version of the same recipe that was current before a version. A version that has
    /// never been current, such as one on trial, comes after the current one.
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
                // Of another recipe, or unusable: there is nothing to compare with.
                Ok(_) | Err(StoreError::NoVersion { .. } | StoreError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
