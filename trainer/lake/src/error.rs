//! What can go wrong with a lake, and where.

use std::{io, path::PathBuf};

use polars::prelude::PolarsError;

/// Why a stage did not end well. The last good state stays in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// An input that is not there.
    #[error("{} is not there\ncheck the path given to --input", .0.display())]
    NoInput(PathBuf),
    /// An input without a byte.
    #[error("{} is empty", .0.display())]
    EmptyInput(PathBuf),
    /// A folder without a file that could be read.
    #[error("{} has no files with transactions", .0.display())]
    EmptyFolder(PathBuf),
    /// An input of a kind that is not read.
    #[error("{} is neither CSV, XLSX nor Parquet\nmove it elsewhere, or give the files one by one", .0.display())]
    UnknownFormat(PathBuf),
    /// An input that ends or breaks in the middle.
    #[error("{} cannot be read to its end, row {row}: {reason}\nit is damaged or was cut off; fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Rows that were read before.
        row: u64,
        /// What the decoder said.
        reason: String,
    },
    /// Columns that every line needs.
    #[error("{} has no column for {}; its columns are {}\nname them in a file given to --mapping", path.display(), missing.join(", "), found.join(", "))]
    MissingColumns {
        /// The file.
        path: PathBuf,
        /// What is missing.
        missing: Vec<&'static str>,
        /// What is there.
        found: Vec<String>,
    },
    /// A mapping that cannot be used.
    #[error("{} is no column mapping: {reason}", path.display())]
    Mapping {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Times of another zone than the shop's.
    #[error("{}: times of column {column} have the zone {zone}; write them in the shop's own time, without a zone", path.display())]
    Zoned {
        /// The file.
        path: PathBuf,
        /// Its column.
        column: String,
        /// Their zone.
        zone: String,
    },
    /// Dates are written in another order than the one that they were read in.
    #[error(
        "{unreadable} of {rows} rows have a date that is none with the {read} first and one with \
         the {other} first\nsay --date-order {other}-first, or {read}-first where it is the dates \
         that are wrong"
    )]
    DateOrder {
        /// Rows with such a date.
        unreadable: u64,
        /// Rows in the input.
        rows: u64,
        /// What comes first as they were read.
        read: &'static str,
        /// What else could.
        other: &'static str,
    },
    /// Not one row of the input could be used.
    #[error("none of {rows} rows can be used; the first: {example}")]
    NothingUsable {
        /// Rows in the input.
        rows: u64,
        /// Why the first was rejected.
        example: String,
    },
    /// No transaction is old enough.
    #[error("no transaction is from before {0}")]
    NothingBefore(chrono::NaiveDateTime),
    /// A stage that needs another one first.
    #[error("{} has no {what}\nrun `trainer {stage}` first", lake.display())]
    NotYet {
        /// The lake.
        lake: PathBuf,
        /// What is missing.
        what: String,
        /// The stage that makes it.
        stage: &'static str,
    },
    /// Two that write to one lake.
    #[error("another trainer is writing to {}\nrun this again when that one is done; nothing was changed", .0.display())]
    Busy(PathBuf),
    /// A query that cannot be answered.
    #[error("the query cannot be answered: {0}")]
    Query(String),
    /// The disk refused.
    #[error("cannot {action} {}: {source}\nmake room there and let this user write; what was there before is untouched", path.display())]
    Disk {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Rows in and rows out differ.
    #[error("{rows_in} rows came in, but {rows_out} are accounted for; nothing was changed")]
    Unaccounted {
        /// Rows in the input.
        rows_in: u64,
        /// Accepted and rejected.
        rows_out: u64,
    },
    /// A table operation failed.
    #[error("a table operation failed: {0}")]
    Table(#[from] PolarsError),
}

impl LakeError {
    /// Whether the input or the question is at fault, rather than the machine.
    pub fn is_bad_input(&self) -> bool {
        !matches!(
            self,
            Self::Busy(_) | Self::Disk { .. } | Self::Unaccounted { .. } | Self::Table(_)
        )
    }

    pub(crate) fn disk(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk {
            action,
            path,
            source,
        }
    }
}
