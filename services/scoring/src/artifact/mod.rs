//! A model as it is stored: a manifest and the files that it lists.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::NaiveDateTime;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

pub(crate) mod columns;
mod distribution;
mod manifest;
mod table;
mod tensors;

pub use columns::Names;
pub use distribution::Distribution;
pub use manifest::{FORMAT, File, Gate, Manifest, Metric, ModelKind, UnknownModel};
pub use table::Table;
pub use tensors::{Element, Kept, TensorFile, Tensors};

use crate::ModelError;

/// Name of the manifest's file.
pub const MANIFEST: &str = "manifest.json";

/// A manifest and its files, every one of which has the size and checksum that the manifest gives.
#[derive(Debug, Clone)]
pub struct Artifact {
    manifest: Manifest,
    /// The manifest as it is stored. The checksum is of this text, because numbers may change when
    /// JSON is read and written again.
    text: Bytes,
    files: BTreeMap<String, Bytes>,
}

impl Artifact {
    /// Reads a manifest, and refuses one that a newer program wrote.
    ///
    /// # Errors
    /// [`ModelError::Manifest`], [`ModelError::NewerFormat`], or [`ModelError::Damaged`] if a
    /// file's name leaves the artifact's folder.
    pub fn read_manifest(bytes: &[u8]) -> Result<Manifest, ModelError> {
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |e: serde_json::Error| ModelError::Manifest {
            reason: e.to_string(),
        };
        // Reads the format first: a newer one may lack fields that this one requires.
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(ModelError::NewerFormat { found: format });
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        match manifest.files.iter().find(|file| !is_plain(&file.name)) {
            Some(file) => Err(ModelError::damaged(
                MANIFEST,
                format!("`{}` is not a plain file name", file.name),
            )),
            None => Ok(manifest),
        }
    }

    /// Joins a stored manifest and its files, and checks every checksum.
    ///
    /// # Errors
    /// As [`Self::read_manifest`]; [`ModelError::MissingFile`] or [`ModelError::Damaged`], naming
    /// the file.
    pub fn verify(text: Bytes, files: BTreeMap<String, Bytes>) -> Result<Self, ModelError> {
        let manifest = Self::read_manifest(&text)?;
        for File { name, size, sha256 } in &manifest.files {
            let bytes = files
                .get(name)
                .ok_or_else(|| ModelError::MissingFile { file: name.clone() })?;
            if bytes.len() as u64 != *size {
                return Err(ModelError::damaged(
                    name,
                    format!("it has {} bytes instead of {size}", bytes.len()),
                ));
            }
            if hex(&Sha256::digest(bytes)) != *sha256 {
                return Err(ModelError::damaged(name, "its checksum is another"));
            }
        }
        if version(&manifest, &text) != manifest.version {
            return Err(ModelError::damaged(MANIFEST, "its checksum is another"));
        }
        Ok(Self {
            manifest,
            text,
            files,
        })
    }

    /// Starts a new artifact.
    pub fn builder(
        model: ModelKind,
        recipe: impl Into<String>,
        as_of: NaiveDateTime,
        seed: u64,
    ) -> ArtifactBuilder {
        ArtifactBuilder {
            manifest: Manifest {
                format: FORMAT,
                model,
                version: String::new(),
                recipe: recipe.into(),
                as_of,
                seed,
                trainer: env!("CARGO_PKG_VERSION").to_owned(),
                trained_on: BTreeMap::new(),
                metrics: Vec::new(),
                gates: Vec::new(),
                backtest: serde_json::Value::Null,
                distributions: BTreeMap::new(),
                parameters: serde_json::Value::Null,
                files: Vec::new(),
            },
            files: BTreeMap::new(),
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest as it is stored.
    pub fn manifest_bytes(&self) -> Bytes {
        self.text.clone()
    }

    /// Its files by name, without the manifest.
    pub fn files(&self) -> &BTreeMap<String, Bytes> {
        &self.files
    }

    /// The same files with the result of an evaluation; the version changes with it.
    #[must_use]
    pub fn evaluated(
        mut self,
        metrics: Vec<Metric>,
        gates: Vec<Gate>,
        backtest: serde_json::Value,
    ) -> Self {
        self.manifest.metrics = metrics;
        self.manifest.gates = gates;
        self.manifest.backtest = backtest;
        Self::named(self.manifest, self.files)
    }

    /// The same with one more file; the version changes with it.
    #[must_use]
    pub fn with_file(self, name: &str, bytes: impl Into<Bytes>) -> Self {
        let Self {
            manifest,
            text: _,
            files,
        } = self;
        ArtifactBuilder { manifest, files }
            .file(name, bytes)
            .finish()
    }

    /// Gives a manifest the version that follows from its text.
    fn named(mut manifest: Manifest, files: BTreeMap<String, Bytes>) -> Self {
        manifest.version.clear();
        manifest.version = version(&manifest, &pretty(&manifest));
        let text = pretty(&manifest);
        Self {
            manifest,
            text,
            files,
        }
    }

    /// Refuses a model of another kind.
    ///
    /// # Errors
    /// [`ModelError::OtherKind`].
    pub fn expect(&self, wanted: ModelKind) -> Result<(), ModelError> {
        match self.manifest.model {
            found if found == wanted => Ok(()),
            found => Err(ModelError::OtherKind { wanted, found }),
        }
    }

    /// What scoring needs beside tensors and tables.
    ///
    /// # Errors
    /// [`ModelError::Part`] if the parameters are not of the expected form.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        T::deserialize(&self.manifest.parameters)
            .map_err(|e| ModelError::part(MANIFEST, "parameters", e.to_string()))
    }

    /// What evaluation compared; the default if the model was not evaluated, or keeps nothing.
    ///
    /// # Errors
    /// [`ModelError::Part`] if it is not of the expected form.
    pub fn backtest<T: DeserializeOwned + Default>(&self) -> Result<T, ModelError> {
        let backtest = &self.manifest.backtest;
        if backtest.is_null() {
            return Ok(T::default());
        }
        T::deserialize(backtest).map_err(|e| ModelError::part(MANIFEST, "backtest", e.to_string()))
    }

    /// Tensors of a safetensors file.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`] or [`ModelError::Damaged`].
    pub fn tensors<'a>(&'a self, file: &'a str) -> Result<Tensors<'a>, ModelError> {
        Tensors::parse(file, self.file(file)?)
    }

    /// A Parquet file.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`] or [`ModelError::Damaged`].
    pub fn table(&self, file: &str) -> Result<Table, ModelError> {
        Table::parse(file, self.file(file)?.clone())
    }

    pub(crate) fn file(&self, file: &str) -> Result<&Bytes, ModelError> {
        self.files.get(file).ok_or_else(|| ModelError::MissingFile {
            file: file.to_owned(),
        })
    }
}

/// An artifact in the making.
#[derive(Debug, Clone)]
pub struct ArtifactBuilder {
    manifest: Manifest,
    files: BTreeMap<String, Bytes>,
}

impl ArtifactBuilder {
    /// Adds a file: `*.safetensors` from [`TensorFile`], `*.parquet`.
    #[must_use]
    pub fn file(mut self, name: &str, bytes: impl Into<Bytes>) -> Self {
        debug_assert!(is_plain(name), "{name}");
        self.files.insert(name.to_owned(), bytes.into());
        self
    }

    /// Sets what scoring needs beside tensors and tables.
    ///
    /// # Errors
    /// [`ModelError::Manifest`] if they cannot be written as JSON.
    pub fn parameters(mut self, parameters: &impl Serialize) -> Result<Self, ModelError> {
        self.manifest.parameters =
            serde_json::to_value(parameters).map_err(|e| ModelError::Manifest {
                reason: e.to_string(),
            })?;
        Ok(self)
    }

    /// Notes what it was trained on, for example `("customers", 4338)`.
    #[must_use]
    pub fn trained_on(mut self, what: &str, count: u64) -> Self {
        self.manifest.trained_on.insert(what.to_owned(), count);
        self
    }

    /// Keeps the distribution in training of a feature or a score.
    #[must_use]
    pub fn distribution(mut self, name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        self.manifest
            .distributions
            .extend(Distribution::of(values).map(|of| (name.to_owned(), of)));
        self
    }

    /// Adds checksums and the version.
    #[must_use]
    pub fn finish(mut self) -> Artifact {
        self.manifest.files = self
            .files
            .iter()
            .map(|(name, bytes)| File {
                name: name.clone(),
                size: bytes.len() as u64,
                sha256: hex(&Sha256::digest(bytes)),
            })
            .collect();
        Artifact::named(self.manifest, self.files)
    }
}

/// The as-of time, for people, and 48 bits of a checksum over the manifest's text without its
/// version: the same content has the same version, other content another one.
fn version(manifest: &Manifest, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let anonymous = text.replacen(
        &format!("\"version\": \"{}\"", manifest.version),
        "\"version\": \"\"",
        1,
    );
    let sum = hex(&Sha256::digest(anonymous.as_bytes()));
    format!("{}-{}", manifest.as_of.format("%Y%m%dT%H%M%S"), &sum[..12])
}

fn pretty(manifest: &Manifest) -> Bytes {
    // A manifest holds strings, numbers and lists alone, which always have a JSON form.
    serde_json::to_vec_pretty(manifest)
        .unwrap_or_default()
        .into()
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact() -> Artifact {
        let as_of = chrono::NaiveDate::from_ymd_opt(2011, 9, 1)
            .unwrap()
            .and_hms_opt(0, 0, 0)
            .unwrap();
        let tensors = TensorFile::new()
            .with("x", &[2], &[1f32, 2.0])
            .into_bytes()
            .unwrap();
        Artifact::builder(ModelKind::Churn, "test", as_of, 42)
            .file("model.safetensors", tensors)
            // Numbers that a JSON reader may round.
            .parameters(&serde_json::json!({
                "trees": 3,
                "scale": [0.1 + 0.2, 1.0 / 3.0, 6.02214076e23 / 7.0],
            }))
            .unwrap()
            .finish()
    }

    #[test]
    fn the_same_content_has_the_same_version_and_other_content_another() {
        let one = artifact();
        assert_eq!(one.manifest().version, artifact().manifest().version);
        assert!(one.manifest().version.starts_with("20110901T000000-"));
        let evaluated = artifact().evaluated(
            vec![Metric::new("auc", 0.75)],
            vec![],
            serde_json::Value::Null,
        );
        assert_ne!(one.manifest().version, evaluated.manifest().version);
    }

    #[test]
    fn an_artifact_is_read_back_or_refused_by_name() {
        let good = artifact();
        let text = good.manifest_bytes();
        assert!(Artifact::verify(text.clone(), good.files().clone()).is_ok());

        let with = |bytes: &[u8]| {
            BTreeMap::from([(
                "model.safetensors".to_owned(),
                Bytes::copy_from_slice(bytes),
            )])
        };
        let whole = good.files()["model.safetensors"].to_vec();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (files, message) in [
            (BTreeMap::new(), "model.safetensors is missing"),
            (
                with(&whole[1..]),
                "model.safetensors is damaged: it has 71 bytes instead of 72",
            ),
            (
                with(&flipped),
                "model.safetensors is damaged: its checksum is another",
            ),
        ] {
            assert_eq!(
                Artifact::verify(text.clone(), files)
                    .unwrap_err()
                    .to_string(),
                message
            );
        }
        let edited = String::from_utf8_lossy(&text).replace("\"seed\": 42", "\"seed\": 43");
        let refused =
            Artifact::verify(edited.into_bytes().into(), good.files().clone()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "manifest.json is damaged: its checksum is another"
        );
    }

    #[test]
    fn a_manifest_is_refused_by_name() {
        let text = String::from_utf8(artifact().manifest_bytes().to_vec()).unwrap();
        for (bytes, message) in [
            ("".to_owned(), "manifest.json is unreadable: "),
            (
                text.replace("\"format\": 1", "\"format\": 2"),
                "manifest.json has format 2; this program reads up to 1",
            ),
            (
                text.replace("model.safetensors", "../secret"),
                "manifest.json is damaged: `../secret` is not a plain file name",
            ),
        ] {
            let refused = Artifact::read_manifest(bytes.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(refused.starts_with(message), "{refused}");
        }
    }
}
