//! What all models have in common.

use crate::{Artifact, ModelError, ModelKind};

/// A model that can be loaded from an artifact and answer questions.
pub trait Model: Sized + Send + Sync + 'static {
    /// Which of the models it is.
    const KIND: ModelKind;

    /// Reads and checks everything that answering relies on.
    ///
    /// # Errors
    /// Names the file, tensor, column or value that is missing or wrong.
    fn load(artifact: &Artifact) -> Result<Self, ModelError>;

    /// Answers a typical question once, so that the first caller does not pay for cold memory.
    fn warm(&self) {}
}
