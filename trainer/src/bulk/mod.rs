//! Bulk scoring with the scoring crate, as the services score: a model is a file.

pub(crate) mod anomaly;
pub(crate) mod churn;
pub(crate) mod forecast;
mod ids;
pub(crate) mod recommendation;
mod request;
pub(crate) mod segmentation;
mod table;

pub(crate) use request::Request;
pub(crate) use table::BulkTable;
