//! Versions in a model store as commands print them.

use indicatif::HumanCount;
use model_store::{Canary, Channel, Pointer};
use scoring::{Manifest, ModelKind};
use serde::Serialize;

use crate::console::table;

/// A version of a model.
#[derive(Serialize)]
pub(crate) struct Version {
    /// Whether it is the current version.
    current: bool,
    /// The channel that it serves, if any.
    channel: Option<Channel>,
    #[serde(flatten)]
    manifest: Manifest,
}

impl Version {
    pub(crate) fn of(manifest: Manifest, channel: Option<Channel>) -> Self {
        Self {
            current: channel == Some(Channel::Stable),
            channel,
            manifest,
        }
    }

    fn row(&self) -> [String; 7] {
        let Self {
            channel, manifest, ..
        } = self;
        let size: u64 = manifest.files.iter().map(|file| file.size).sum();
        let metric = manifest.metrics.first();
        [
            manifest.model.to_string(),
            manifest.version.clone(),
            channel
                .map(|channel| channel.as_str().to_owned())
                .unwrap_or_default(),
            manifest.recipe.clone(),
            manifest.as_of.to_string(),
            format!("{} KiB", HumanCount(size.div_ceil(1024))),
            metric
                .map(|metric| format!("{} {:.3}", metric.name, metric.value))
                .unwrap_or_default(),
        ]
    }
}

/// A table of versions for people.
pub(crate) fn version_table(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "no model has been published here".to_owned();
    }
    table(
        [
            "model",
            "version",
            "channel",
            "recipe",
            "as of",
            "size",
            "evaluation",
        ],
        versions.iter().map(Version::row),
    )
}

/// The versions that a pointer names, for people.
pub(crate) fn pointer_text(model: ModelKind, pointer: &Pointer) -> String {
    let Pointer {
        version,
        previous,
        canary,
        shadow,
        ..
    } = pointer;
    let mut text = format!("{model}: {version} is current");
    if let Some(previous) = previous {
        text += &format!("; {previous} is the one before it");
    }
    if let Some(Canary { version, percent }) = canary {
        text += &format!("; {version} is the canary of {percent} % of callers");
    }
    if let Some(version) = shadow {
        text += &format!("; {version} is the shadow");
    }
    text
}
