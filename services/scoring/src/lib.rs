//! The models as data and pure functions: what training writes, serving loads, and both score with.
//!
//! No sockets, no files, no clock: bytes come in, answers go out. A model is an [`Artifact`]: a
//! manifest, tensors (safetensors) and tables (Parquet), checked against the manifest's checksums
//! before anything is read from them.

pub mod anomaly;
pub mod artifact;
pub mod churn;
mod csr;
pub mod customer;
mod error;
pub mod forecast;
mod forest;
pub mod insights;
mod linear_algebra;
mod model;
pub mod quantile;
pub mod recommendation;
pub mod segmentation;

pub use artifact::{
    Artifact, ArtifactBuilder, Distribution, Element, FORMAT, File, Gate, Kept, Manifest, Metric,
    ModelKind, Names, Table, TensorFile, Tensors, UnknownModel,
};
pub use error::ModelError;
pub use forest::Forest;
pub use model::Model;
pub use transactions::{CustomerId, StockCode};
