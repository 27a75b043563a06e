//! The result of bulk scoring.

use polars::prelude::Column;
use scoring::{Artifact, Model};

use crate::Failure;

/// The result of bulk scoring.
#[derive(Debug, Default)]
pub(crate) struct BulkTable {
    pub(crate) columns: Vec<Column>,
    /// Parts of the input that could not be scored, each with the reason.
    pub(crate) left_out: Vec<String>,
}

/// The model of a published artifact.
pub(super) fn load<M: Model>(artifact: &Artifact) -> Result<M, Failure> {
    M::load(artifact).map_err(|source| Failure::Unusable {
        model: M::KIND,
        source,
    })
}
