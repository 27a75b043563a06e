//! Errors of a model store, each with the file or URL.

use scoring::{ModelError, ModelKind};

use crate::pointer::Channel;

/// Why the store did not do something. The version that was current before stays so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address cannot be used.
    #[error(
        "{place} is not a model store: {reason}\ngive a folder, or file://, s3://, gs:// or az://"
    )]
    Address {
        /// Folder or URL.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk or the cloud refused.
    #[error("cannot {action} {place}: {}\n{}", root(source), advice(action))]
    Storage {
        /// `read`, `write` or `list`.
        action: &'static str,
        /// File or URL.
        place: String,
        /// What the storage said.
        source: Box<object_store::Error>,
    },
    /// The pointer's file holds something else.
    #[error(
        "{place} is not a pointer: {reason}\nroll back to a version of your choice, or publish \
         again"
    )]
    Pointer {
        /// File or URL.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such version.
    #[error(
        "{place} has no version `{version}` of the {model} model\n`trainer models` lists those it \
         has"
    )]
    NoVersion {
        /// The model.
        model: ModelKind,
        /// What was asked for.
        version: String,
        /// The store.
        place: String,
    },
    /// A version that is there cannot be used.
    #[error("version `{version}` of the {model} model is refused: {source}")]
    Refused {
        /// The model.
        model: ModelKind,
        /// The version.
        version: String,
        /// Which part is at fault.
        source: ModelError,
    },
    /// The current version is the first one.
    #[error(
        "the {model} model has no version before the current one\nname the version to roll back to"
    )]
    NothingBefore {
        /// The model.
        model: ModelKind,
    },
    /// There is no current version, beside which another could be on trial.
    #[error(
        "the {model} model has no current version beside which another could be tried\npublish \
         one first"
    )]
    NothingCurrent {
        /// The model.
        model: ModelKind,
    },
    /// No version is on that trial.
    #[error("the {model} model has no {0}\npublish one with --channel {0} first", channel.as_str())]
    NoTrial {
        /// The model.
        model: ModelKind,
        /// Canary or shadow.
        channel: Channel,
    },
    /// Another version is current than the caller believes.
    #[error(
        "the current version of the {model} model is `{found}`, not `{expected}`\nlook again, and \
         decide again"
    )]
    Moved {
        /// The model.
        model: ModelKind,
        /// What the caller believes; empty: none.
        expected: String,
        /// What is current; empty: none.
        found: String,
    },
    /// Two processes moved the pointer at once, and the other one was first.
    #[error("{place} was changed by another process meanwhile\ntry again")]
    Race {
        /// File or URL.
        place: String,
    },
}

impl StoreError {
    /// Whether the store does not have what was asked for, rather than being at fault itself.
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::NoVersion { .. }
                | Self::NothingBefore { .. }
                | Self::NothingCurrent { .. }
                | Self::NoTrial { .. }
        )
    }
}

/// What the storage's innermost cause says: `No space left on device`, `Permission denied`.
fn root(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn advice(action: &str) -> &'static str {
    match action {
        "write" => {
            "make room there and let this user write; what was published before is untouched"
        }
        _ => "check that it is there and that this user may read it",
    }
}
