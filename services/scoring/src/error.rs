//! Why a model is refused.

use crate::ModelKind;

/// Why an artifact is not used. Every variant names the part at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The manifest cannot be read at all.
    #[error("manifest.json is unreadable: {reason}")]
    Manifest {
        /// What the parser said.
        reason: String,
    },
    /// The artifact was made by a newer version of the trainer.
    #[error(
        "manifest.json has format {found}; this program reads up to {}",
        crate::FORMAT
    )]
    NewerFormat {
        /// Format of the artifact.
        found: u32,
    },
    /// A model of another kind stands in this place.
    #[error("manifest.json is of a {found} model; a {wanted} model is wanted")]
    OtherKind {
        /// What was asked for.
        wanted: ModelKind,
        /// What is there.
        found: ModelKind,
    },
    /// A file that the manifest lists, or that the model needs, is not there.
    #[error("{file} is missing")]
    MissingFile {
        /// The file.
        file: String,
    },
    /// A file is not the one that was published.
    #[error("{file} is damaged: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// Which check failed.
        reason: String,
    },
    /// A tensor or column is missing, or has another type or shape.
    #[error("{file}: {name} {problem}")]
    Part {
        /// The file.
        file: String,
        /// The tensor, column or parameter.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The parts are well formed but do not fit together, or hold values that scoring cannot use.
    #[error("{name} {problem}")]
    Inconsistent {
        /// The tensor, column or parameter.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl ModelError {
    /// A value that scoring cannot use.
    pub fn inconsistent(name: &'static str, problem: impl Into<String>) -> Self {
        Self::Inconsistent {
            name,
            problem: problem.into(),
        }
    }

    pub(crate) fn part(file: &str, name: &str, problem: impl Into<String>) -> Self {
        Self::Part {
            file: file.to_owned(),
            name: name.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn damaged(file: &str, reason: impl ToString) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }
}
