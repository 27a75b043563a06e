//! How a command fails: a message, and an exit code from which a scheduler can decide what to do.

use std::{path::PathBuf, process::ExitCode};

use lake::LakeError;
use model_store::StoreError;
use polars::prelude::PolarsError;
use scoring::{ModelKind, UnknownModel};

use crate::learn::LearnError;

/// Why a command failed, wholly or in part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Reading, curating or querying failed.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The model store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A model could not be trained or evaluated.
    #[error("{model} could not be trained or measured")]
    Learn {
        /// The model.
        model: ModelKind,
        /// Why.
        source: LearnError,
    },
    /// Models did not pass their gates and were not published; the published versions stay.
    #[error("not published: {}", .0.join("; "))]
    Gates(Vec<String>),
    /// Several models failed for different reasons.
    #[error("{} models failed: {}", .0.len(), chains(.0))]
    Several(Vec<Failure>),
    /// The lake has no candidate of a model.
    #[error("the lake has no trained {0} model\nrun `trainer train {0}` first")]
    NoCandidate(ModelKind),
    /// A candidate has not been evaluated.
    #[error("the trained {0} model has not been evaluated\nrun `trainer evaluate {0}` first")]
    NotEvaluated(ModelKind),
    /// A model is to be trained as of a later time than the curated tables.
    #[error(
        "a model as of {as_of} needs tables as of that time or later; those in the lake are as of \
         {curated}\nrun `trainer curate` first, or train as of an earlier time"
    )]
    Later {
        /// The as-of time of the model.
        as_of: chrono::NaiveDateTime,
        /// The as-of time of the tables.
        curated: chrono::NaiveDateTime,
    },
    /// A name on the command line is not a model's.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    /// There is no CUDA device.
    #[error(
        "no CUDA device: {0}\nuse --device auto or --device cpu, or install the CUDA build with \
         `TORCH=cuda deploy/libtorch.sh`"
    )]
    NoCuda(&'static str),
    /// No version of a model is published.
    #[error("no {0} model is published in the store\nrun `trainer run` first")]
    NotPublished(ModelKind),
    /// A published model cannot be used.
    #[error("the published {model} model cannot be used")]
    Unusable {
        /// The model.
        model: ModelKind,
        /// Why.
        source: scoring::ModelError,
    },
    /// A model has no scores.
    #[error("{0} has no scores\nits service exports lines, and `trainer sql` queries tables")]
    NoScores(ModelKind),
    /// A file to be scored cannot be used.
    #[error("{path} cannot be scored: {problem}")]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A flag does not fit the others.
    #[error("{flag} {problem}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The name of an output file has an unknown ending.
    #[error("{0} does not end in .csv or .parquet")]
    Ending(PathBuf),
    /// A result could not be written.
    #[error("{path} cannot be written")]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A table could not be read or printed.
    #[error("the table cannot be read")]
    Table(#[from] PolarsError),
    /// The process could not be set up.
    #[error("the process cannot be set up")]
    Process(#[source] std::io::Error),
}

impl Failure {
    /// Success, one failure as it is, or several as one. Gates that failed are merged into one
    /// list.
    pub(crate) fn of(mut failures: Vec<Self>) -> Result<(), Self> {
        if failures.len() < 2 {
            return failures.pop().map_or(Ok(()), Err);
        }
        let gates = failures.iter().map(|failure| {
            if let Self::Gates(gates) = failure {
                Some(gates.as_slice())
            } else {
                None
            }
        });
        match gates.collect::<Option<Vec<_>>>() {
            Some(gates) => Err(Self::Gates(gates.concat())),
            None => Err(Self::Several(failures)),
        }
    }

    /// 3: bad input; 4: bad environment (disk, store, device); 5: a gate failed; 1: anything else.
    /// 2 is clap's, for a wrong command line.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Lake(error) if error.is_bad_input() => 3,
            Self::Learn {
                source: LearnError::TooLittle { .. },
                ..
            } => 3,
            Self::Learn {
                source: LearnError::UnknownRecipe { .. },
                ..
            }
            | Self::Unknown(_) => 2,
            Self::Ending(_) | Self::NoScores(_) | Self::Flag { .. } => 2,
            Self::Later { .. } => 3,
            Self::NoCandidate(_)
            | Self::NotEvaluated(_)
            | Self::NotPublished(_)
            | Self::Input { .. } => 3,
            Self::Store(error) if error.is_bad_input() => 3,
            Self::Unusable { .. } => 4,
            Self::Lake(_)
            | Self::Store(_)
            | Self::NoCuda(_)
            | Self::Output { .. }
            | Self::Process(_) => 4,
            Self::Gates(_) => 5,
            // The one that most needs a person: internal errors, then the environment, the input,
            // the command line and gates.
            Self::Several(failures) => {
                let codes: Vec<_> = failures.iter().map(Self::code).collect();
                [1, 4, 3, 2, 5]
                    .into_iter()
                    .find(|code| codes.contains(code))
                    .unwrap_or(1)
            }
            Self::Learn { .. } | Self::Table(_) => 1,
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // `#[error(transparent)]` and some libraries repeat their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn chains(failures: &[Failure]) -> String {
    let chains: Vec<_> = failures.iter().map(chain).collect();
    chains.join("; ")
}

#[cfg(test)]
mod tests {
    use model_store::Channel;

    use super::*;

    #[test]
    fn a_model_is_named_once() {
        let (model, as_of) = (ModelKind::Churn, chrono::NaiveDate::default().into());
        let source = LearnError::TooLittle {
            model,
            what: "customers",
            needed: 50,
            found: 3,
            as_of,
        };
        assert_eq!(
            chain(&Failure::Learn { model, source }),
            "churn could not be trained or measured: 50 customers before 1970-01-01 00:00:00 are \
             needed, 3 are there"
        );
    }

    #[test]
    fn an_exit_code_tells_input_from_environment_from_gate() {
        let gate = || Failure::Gates(vec!["churn: auc".to_owned()]);
        for (failure, code) in [
            (gate(), 5),
            (Failure::NoCandidate(ModelKind::Churn), 3),
            (
                StoreError::NothingBefore {
                    model: ModelKind::Churn,
                }
                .into(),
                3,
            ),
            (
                StoreError::NoTrial {
                    model: ModelKind::Churn,
                    channel: Channel::Canary,
                }
                .into(),
                3,
            ),
            (
                StoreError::Race {
                    place: "store".to_owned(),
                }
                .into(),
                4,
            ),
            (Failure::NoCuda("this libtorch has none"), 4),
            (
                Failure::Several(vec![gate(), Failure::NoCandidate(ModelKind::Churn)]),
                3,
            ),
        ] {
            assert_eq!(failure.code(), code, "{failure}");
        }
    }
}
