//! The learners, one for each model: lines before an instant in, an artifact and its evaluation
//! out.
//!
//! A learner trains with tch on a given device and writes what the scoring crate reads. It
//! evaluates itself by a backtest: it trains again as of an earlier instant and scores, with the
//! scoring crate, what happened between that instant and the as-of time. No published model has
//! seen a line at or after its as-of time. Insights learns nothing: it publishes the lines, and its
//! evaluation compares them with queries over the curated table.

pub mod anomaly;
pub mod churn;
pub(crate) mod customers;
pub mod forecast;
pub mod forest;
pub mod insights;
mod learner;
pub(crate) mod linear;
pub(crate) mod lines;
pub mod recommendation;
pub mod segmentation;
mod statistics;

pub use learner::{Evaluation, LearnError, Learner, Training, parquet, recipe};
pub(crate) use learner::{gate, kept};
