//! The errors of a lake.

use std::{io, path::PathBuf};

use polars::prelude::PolarsError;
use transactions::LineError;

/// Why a stage failed. The last good state stays in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// An input does not exist.
    #[error("{} does not exist\ncheck the path given to --input", .0.display())]
    NoInput(PathBuf),
    /// An input has no bytes.
    #[error("{} is empty", .0.display())]
    EmptyInput(PathBuf),
    /// A folder has no file of a known format.
    #[error("{} has no files with transactions", .0.display())]
    EmptyFolder(PathBuf),
    /// An input has an unknown format.
    #[error(
        "{} is neither CSV, XLSX nor Parquet\nmove it elsewhere, or name each input file",
        .0.display()
    )]
    UnknownFormat(PathBuf),
    /// An input ends too early or is corrupt.
    #[error(
        "{} cannot be read to its end, row {row}: {reason}\nit is damaged or was cut off; fetch it \
         again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Rows read before the error.
        row: u64,
        /// The decoder's message.
        reason: String,
    },
    /// An input lacks columns that every line needs.
    #[error(
        "{} has no column for {}; its columns are {}\nname them in a file given to --mapping",
        path.display(),
        missing.join(", "),
        found.join(", ")
    )]
    MissingColumns {
        /// The file.
        path: PathBuf,
        /// The missing columns.
        missing: Vec<&'static str>,
        /// The file's columns.
        found: Vec<String>,
    },
    /// A column mapping is invalid.
    #[error("{} is not a valid column mapping: {reason}", path.display())]
    Mapping {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Times have a time zone, and the shop's own time cannot be derived from them.
    #[error(
        "{}: times of column {column} have the zone {zone}; write them in the shop's own time, \
         without a zone",
        path.display()
    )]
    Zoned {
        /// The file.
        path: PathBuf,
        /// Its column.
        column: String,
        /// The time zone.
        zone: String,
    },
    /// Many dates are valid only if day and month are exchanged.
    #[error(
        "{unreadable} of {rows} rows have a date that is invalid with the {read} first and valid \
         with the {other} first\nadd --date-order {other}-first, or {read}-first if those dates \
         are wrong"
    )]
    DateOrder {
        /// Rows with such a date.
        unreadable: u64,
        /// Rows in the input.
        rows: u64,
        /// What the dates were read with first: `month` or `day`.
        read: &'static str,
        /// The other of the two.
        other: &'static str,
    },
    /// No row of the input is usable.
    #[error("none of {rows} rows can be used; the first: {example}")]
    NothingUsable {
        /// Rows in the input.
        rows: u64,
        /// Why the first was rejected.
        example: String,
    },
    /// All transactions are later than the as-of time.
    #[error("no transaction is earlier than {0}")]
    NothingBefore(chrono::NaiveDateTime),
    /// An earlier stage has not run.
    #[error("{} has no {what}\nrun `trainer {stage}` first", lake.display())]
    NotYet {
        /// The lake.
        lake: PathBuf,
        /// What is missing.
        what: String,
        /// The stage that makes it.
        stage: &'static str,
    },
    /// Another process is writing to the lake.
    #[error(
        "another trainer is writing to {}\nrun this command again when it is done; nothing was \
         changed",
        .0.display()
    )]
    Busy(PathBuf),
    /// A query is invalid.
    #[error("the query cannot be answered: {0}")]
    Query(String),
    /// The file system failed.
    #[error(
        "cannot {action} {}: {source}\ncheck that the disk has room and that this user may write \
         there; the last good state is unchanged",
        path.display()
    )]
    Disk {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The number of rows in and out differs.
    #[error("{rows_in} rows were read, but {rows_out} were kept or rejected; nothing was changed")]
    Unaccounted {
        /// Rows in the input.
        rows_in: u64,
        /// Accepted and rejected rows.
        rows_out: u64,
    },
    /// A row of the curated table `transactions` is invalid.
    #[error("row {row} of table `transactions` is invalid: {source}\nrun `trainer curate` again")]
    Line {
        /// The row, from 0.
        row: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// A table operation failed.
    #[error("a table operation failed: {0}")]
    Table(#[from] PolarsError),
}

impl LakeError {
    /// Whether the input or the query caused the error, rather than the machine.
    pub fn is_bad_input(&self) -> bool {
        !matches!(
            self,
            Self::Busy(_)
                | Self::Disk { .. }
                | Self::Unaccounted { .. }
                | Self::Line { .. }
                | Self::Table(_)
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
