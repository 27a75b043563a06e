//! The models as data and pure functions: what training writes, serving loads, and both score with.
//!
//! No sockets, no files, no clock: bytes come in, answers go out. A model is an [`Artifact`]: a
//! manifest, tensors (safetensors) and tables (Parquet), checked against the manifest's checksums
//! before anything is read from them.

pub mod anomaly;
pub mod artifact;
pub mod churn;
mod columns;
pub mod customer;
mod distribution;
mod error;
pub mod forecast;
mod forest;
pub mod insights;
mod manifest;
pub mod recommendation;
pub mod segmentation;
mod table;
mod tensors;

pub use artifact::{Artifact, ArtifactBuilder};
pub use columns::Names;
pub use distribution::Distribution;
pub use error::ModelError;
pub use forest::Forest;
pub use manifest::{FORMAT, File, Gate, Manifest, Metric, ModelKind, UnknownModel};
pub use table::Table;
pub use tensors::{Element, Kept, TensorFile, Tensors};
pub use transactions::{CustomerId, StockCode};

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
