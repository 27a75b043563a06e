//! How the command fails: one message, and an exit code that tells a scheduler what to do about it.

use std::{path::PathBuf, process::ExitCode};

use lake::LakeError;
use model_store::StoreError;
use polars::prelude::PolarsError;
use scoring::{ModelKind, UnknownModel};

use crate::learn::LearnError;

/// Why a command did not do all it was asked.
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
    /// Models did not pass their gates and were not published; the published ones stay.
    #[error("not published: {}", .0.join("; "))]
    Gates(Vec<String>),
    /// Several models failed, each for a reason of its own.
    #[error("{} models failed: {}", .0.len(), .0.iter().map(chain).collect::<Vec<_>>().join("; "))]
    Several(Vec<Failure>),
    /// No trained model waits to be evaluated or published.
    #[error("no trained {0} model in the lake\nrun `trainer train {0}` first")]
    NoCandidate(ModelKind),
    /// A trained model waits, but it was not evaluated.
    #[error("the trained {0} model has not been evaluated\nrun `trainer evaluate {0}` first")]
    NotEvaluated(ModelKind),
    /// A model is to know lines that the curated tables lack.
    #[error(
        "a model as of {as_of} needs tables as of then; those in the lake are as of \
         {curated}\nrun `trainer curate` first, or train as of an earlier time"
    )]
    Later {
        /// What was asked for.
        as_of: chrono::NaiveDateTime,
        /// What is there.
        curated: chrono::NaiveDateTime,
    },
    /// A model name on the command line.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    /// CUDA was asked for.
    #[error(
        "no CUDA device: {0}\nuse --device auto or --device cpu, or install the CUDA build with \
         `TORCH=cuda deploy/libtorch.sh`"
    )]
    NoCuda(&'static str),
    /// No version of a model is published.
    #[error("no {0} model is published in the store\nrun `trainer run` first")]
    NotPublished(ModelKind),
    /// A published model that cannot be used.
    #[error("the published {model} model cannot be used")]
    Unusable {
        /// The model.
        model: ModelKind,
        /// Why.
        source: scoring::ModelError,
    },
    /// A model that scores nobody.
    #[error("{0} has no scores\nits service exports lines, and `trainer sql` answers queries")]
    NoScores(ModelKind),
    /// What is to be scored cannot be used.
    #[error("{path} cannot be scored: {problem}")]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A flag that does not go with the others.
    #[error("{flag} {problem}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The output's ending names no format.
    #[error("{0} ends in neither .csv nor .parquet")]
    Ending(PathBuf),
    /// A result could not be written.
    #[error("{path} cannot be written")]
    Output {
        /// Where to.
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
            // The one that most needs a person: the environment before the input before a gate.
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

/// An error and everything that caused it, on one line.
pub(crate) fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // `#[error(transparent)]` and chatty libraries repeat their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
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
