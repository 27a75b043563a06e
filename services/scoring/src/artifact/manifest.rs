//! What an artifact says of itself.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use super::Distribution;

/// Newest manifest format that this program reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// The kinds of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Groups customers by value and behaviour.
    Segmentation,
    /// Predicts what will sell.
    Forecast,
    /// Recommends products.
    Recommendation,
    /// Predicts which customers stop buying.
    Churn,
    /// Finds transaction lines that look wrong.
    Anomaly,
    /// Answers questions about the shop's figures.
    Insights,
}

impl ModelKind {
    /// All of them, in the order in which they are trained and listed.
    pub const ALL: [Self; 6] = [
        Self::Segmentation,
        Self::Forecast,
        Self::Recommendation,
        Self::Churn,
        Self::Anomaly,
        Self::Insights,
    ];

    /// The name in commands, folders and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segmentation => "segmentation",
            Self::Forecast => "forecast",
            Self::Recommendation => "recommendation",
            Self::Churn => "churn",
            Self::Anomaly => "anomaly",
            Self::Insights => "insights",
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that no kind of model has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a model: segmentation, forecast, recommendation, churn, anomaly or insights")]
pub struct UnknownModel(pub String);

impl FromStr for ModelKind {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownModel(name.to_owned()))
    }
}

/// `manifest.json`: everything about an artifact but its contents. The same training gives the same
/// bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the artifact; a program refuses one above its own [`FORMAT`].
    pub format: u32,
    /// Which model it is.
    pub model: ModelKind,
    /// Name in the store: the as-of time and a checksum of all the rest.
    pub version: String,
    /// How it was made, for example `rfm3`.
    pub recipe: String,
    /// It knows transactions from before this instant, in the shop's own time.
    pub as_of: NaiveDateTime,
    /// Seed of everything random in its training.
    pub seed: u64,
    /// Version of the trainer.
    pub trainer: String,
    /// What it was trained on: `transactions`, `customers`, ...
    pub trained_on: BTreeMap<String, u64>,
    /// What evaluation on later transactions measured.
    pub metrics: Vec<Metric>,
    /// The checks it had to pass before it was published.
    pub gates: Vec<Gate>,
    /// What evaluation compared, in the model's own form; null if it keeps nothing.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub backtest: serde_json::Value,
    /// Distributions of features and scores in training, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub distributions: BTreeMap<String, Distribution>,
    /// What scoring needs beside tensors and tables.
    pub parameters: serde_json::Value,
    /// Its files, in order of name.
    pub files: Vec<File>,
}

/// A measured figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, for example `auc`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The same figure for the naive answer to the same question, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
}

impl Metric {
    /// A figure alone.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
            baseline: None,
        }
    }

    /// A figure beside the naive answer's.
    pub fn against(name: impl Into<String>, value: f64, baseline: f64) -> Self {
        Self {
            name: name.into(),
            value,
            baseline: Some(baseline),
        }
    }
}

/// A check before publishing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// What is checked, for example `auc is above the recency rule's`.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// The figures compared.
    pub detail: String,
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name; a plain one, without folders.
    pub name: String,
    /// Its length, bytes.
    pub size: u64,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
}
