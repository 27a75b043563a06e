//! Six learners, all of one form: transactions from before an instant in, an artifact and its
//! evaluation out.
//!
//! A learner trains with tch on the device it is given and hands over what the scoring crate reads.
//! It evaluates itself by training once more as of an earlier instant and scoring, with the scoring
//! crate, what happened between that instant and the as-of time; nothing it publishes has seen a
//! line from after its own as-of time. Insights alone learns nothing: it publishes the lines, and
//! is checked against the curated table.

use chrono::NaiveDateTime;
use lake::Progress;
use polars::prelude::{
    DataFrame, LazyFrame, ParquetCompression, ParquetWriter, PolarsError, col, lit,
};
use scoring::{Artifact, Gate, Metric, ModelError, ModelKind};
use tch::{Device, TchError};

pub mod anomaly;
pub mod churn;
pub(crate) mod customers;
pub mod forecast;
pub mod forest;
pub mod insights;
pub(crate) mod linear;
pub(crate) mod lines;
pub mod recommendation;
pub mod segmentation;

/// What a learner is given.
#[derive(Clone)]
pub struct Training<'a> {
    /// Curated `transactions`, possibly with lines from the as-of time on, which no learner looks
    /// at.
    pub transactions: LazyFrame,
    /// The model knows lines from before this instant, in the shop's own time.
    pub as_of: NaiveDateTime,
    /// Seed of everything random.
    pub seed: u64,
    /// Where tensors live.
    pub device: Device,
    /// Recipe by name; `None`: the learner's default.
    pub recipe: Option<&'a str>,
    /// The version that is published now, to keep names stable and to be compared with.
    pub previous: Option<&'a Artifact>,
    /// Told how far the work is.
    pub progress: &'a dyn Progress,
}

impl Training<'_> {
    /// The lines from before the as-of time.
    pub fn lines(&self) -> LazyFrame {
        self.transactions
            .clone()
            .filter(col("invoice_time").lt(lit(self.as_of)))
    }

    /// The same training as of an earlier instant, without a version to compare with.
    #[must_use]
    pub fn as_of(&self, as_of: NaiveDateTime) -> Self {
        Self {
            as_of,
            previous: None,
            ..self.clone()
        }
    }
}

/// How good a model is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// What was measured on lines from after the rehearsal's as-of time.
    pub metrics: Vec<Metric>,
    /// What a model must fulfil to be published.
    pub gates: Vec<Gate>,
    /// What was compared, for people to look at; null where nothing is kept.
    pub backtest: serde_json::Value,
}

/// Something to look at, as the manifest keeps it.
///
/// # Errors
/// [`LearnError::Model`] where it cannot be written as JSON.
pub(crate) fn kept(backtest: &impl serde::Serialize) -> Result<serde_json::Value, LearnError> {
    serde_json::to_value(backtest).map_err(|error| {
        LearnError::Model(ModelError::Manifest {
            reason: error.to_string(),
        })
    })
}

/// A model's training.
pub trait Learner {
    /// Which model it trains.
    const KIND: ModelKind;

    /// Its recipes by name, the default one first.
    const RECIPES: &'static [&'static str];

    /// Trains as of `training.as_of`. The same training gives the same bytes.
    ///
    /// # Errors
    /// [`LearnError`].
    fn train(training: &Training<'_>) -> Result<Artifact, LearnError>;

    /// Trains as of an earlier instant and measures the result on the lines from there to the as-of
    /// time.
    ///
    /// # Errors
    /// [`LearnError`].
    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError>;
}

/// Why a model could not be trained or evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// There is not enough to learn from.
    #[error("{needed} {what} before {as_of} are needed, {found} are there")]
    TooLittle {
        /// The model.
        model: ModelKind,
        /// What there is too little of, for example `customers`.
        what: &'static str,
        /// The least that will do.
        needed: u64,
        /// What is there.
        found: u64,
        /// The as-of time.
        as_of: NaiveDateTime,
    },
    /// A recipe that the learner does not know.
    #[error("there is no recipe `{recipe}`, only {known}")]
    UnknownRecipe {
        /// The model.
        model: ModelKind,
        /// What was asked for.
        recipe: String,
        /// What there is.
        known: String,
    },
    /// The curated tables could not be read or queried.
    #[error("curated transactions cannot be read")]
    Tables(#[from] PolarsError),
    /// A tensor operation failed: out of memory, no such device.
    #[error("a tensor operation failed")]
    Tensor(#[from] TchError),
    /// What was learnt is not a model.
    #[error("the trained model is unusable")]
    Model(#[from] ModelError),
}

/// The recipe to use.
///
/// # Errors
/// [`LearnError::UnknownRecipe`].
pub fn recipe<L: Learner>(training: &Training<'_>) -> Result<&'static str, LearnError> {
    known_recipe::<L>(training.recipe)
}

/// The recipe of that name, or the default one.
///
/// # Errors
/// [`LearnError::UnknownRecipe`].
pub fn known_recipe<L: Learner>(wanted: Option<&str>) -> Result<&'static str, LearnError> {
    let Some(wanted) = wanted else {
        return Ok(L::RECIPES[0]);
    };
    L::RECIPES
        .iter()
        .copied()
        .find(|known| *known == wanted)
        .ok_or_else(|| LearnError::UnknownRecipe {
            model: L::KIND,
            recipe: wanted.to_owned(),
            known: L::RECIPES.join(", "),
        })
}

/// A table as the bytes of a Parquet file. The same table gives the same bytes.
///
/// # Errors
/// [`LearnError::Tables`].
pub fn parquet(table: &mut DataFrame) -> Result<Vec<u8>, LearnError> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .finish(table)?;
    Ok(bytes)
}
