//! What all learners share: their input, their results, their errors.

use chrono::NaiveDateTime;
use lake::{LakeError, Progress};
use polars::prelude::{
    DataFrame, LazyFrame, ParquetCompression, ParquetWriter, PolarsError, col, lit,
};
use scoring::{Artifact, Gate, Metric, ModelError, ModelKind};
use tch::{Device, TchError};
use transactions::{MoneyError, TooManyNames};

/// What a learner is given.
#[derive(Clone)]
pub struct Training<'a> {
    /// The curated table `transactions`. It may have lines at or after the as-of time; no learner
    /// reads them.
    pub transactions: LazyFrame,
    /// The model knows only lines before this instant, in the shop's own time.
    pub as_of: NaiveDateTime,
    /// Random seed.
    pub seed: u64,
    /// Device for tensor operations.
    pub device: Device,
    /// Name of the recipe; `None`: the learner's default.
    pub recipe: Option<&'a str>,
    /// The published version; customers without new lines keep its segments.
    pub previous: Option<&'a Artifact>,
    /// Receives the progress.
    pub progress: &'a dyn Progress,
}

impl Training<'_> {
    /// The lines before the as-of time.
    pub fn lines(&self) -> LazyFrame {
        self.transactions
            .clone()
            .filter(col("invoice_time").lt(lit(self.as_of)))
    }

    /// The same training as of an earlier instant, without a previous version.
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
    /// Measurements on the lines between the backtest's as-of time and the model's.
    pub metrics: Vec<Metric>,
    /// Conditions that a model must fulfil to be published.
    pub gates: Vec<Gate>,
    /// Predictions beside outcomes, for people; null if a model keeps none.
    pub backtest: serde_json::Value,
}

/// A gate of an evaluation.
pub(crate) fn gate(name: &str, passed: bool, detail: String) -> Gate {
    Gate {
        name: name.to_owned(),
        passed,
        detail,
    }
}

/// A backtest as the manifest keeps it.
///
/// # Errors
/// [`LearnError::Model`] if it cannot be written as JSON.
pub(crate) fn kept(backtest: &impl serde::Serialize) -> Result<serde_json::Value, LearnError> {
    serde_json::to_value(backtest).map_err(|error| {
        LearnError::Model(ModelError::Manifest {
            reason: error.to_string(),
        })
    })
}

/// Trains and evaluates a model.
pub trait Learner: Sync {
    /// The model.
    fn kind(&self) -> ModelKind;

    /// Names of its recipes, the default first.
    fn recipes(&self) -> &'static [&'static str];

    /// Trains as of `training.as_of`. The same training gives the same bytes.
    ///
    /// # Errors
    /// [`LearnError`].
    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError>;

    /// Trains as of an earlier instant and measures the result on the lines from there to the as-of
    /// time.
    ///
    /// # Errors
    /// [`LearnError`].
    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError>;
}

/// Why a model could not be trained or evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// There is too little data.
    #[error("{needed} {what} before {as_of} are needed, {found} are there")]
    TooLittle {
        /// The model.
        model: ModelKind,
        /// What there is too little of, for example `customers`.
        what: &'static str,
        /// The least number.
        needed: u64,
        /// The number found.
        found: u64,
        /// The as-of time.
        as_of: NaiveDateTime,
    },
    /// The learner has no such recipe.
    #[error("there is no recipe `{recipe}`, only {known}")]
    UnknownRecipe {
        /// The model.
        model: ModelKind,
        /// The requested recipe.
        recipe: String,
        /// The learner's recipes.
        known: String,
    },
    /// The curated transactions cannot be read as lines.
    #[error("curated transactions cannot be read")]
    Lines(#[from] LakeError),
    /// There are too many customers, products or invoices.
    #[error("curated transactions cannot be numbered")]
    Names(#[from] TooManyNames),
    /// A sum of the curated tables is too large.
    #[error("a sum of curated transactions {0}")]
    Money(#[from] MoneyError),
    /// The curated tables could not be queried, or the model's could not be written.
    #[error("curated transactions cannot be read")]
    Tables(#[from] PolarsError),
    /// A tensor operation failed: out of memory, no such device.
    #[error("a tensor operation failed")]
    Tensor(#[from] TchError),
    /// The result of training is not a valid model.
    #[error("the trained model is unusable")]
    Model(#[from] ModelError),
}

/// A learner's recipe of that name, or its default.
///
/// # Errors
/// [`LearnError::UnknownRecipe`].
pub fn recipe(learner: &dyn Learner, wanted: Option<&str>) -> Result<&'static str, LearnError> {
    let recipes = learner.recipes();
    let Some(wanted) = wanted else {
        return Ok(recipes[0]);
    };
    let found = recipes.iter().find(|known| **known == wanted);
    found.copied().ok_or_else(|| LearnError::UnknownRecipe {
        model: learner.kind(),
        recipe: wanted.to_owned(),
        known: recipes.join(", "),
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
