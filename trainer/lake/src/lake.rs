//! The lake's folder: opening it, locking it, reading and querying its tables.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::NaiveDateTime;
use polars::{prelude::*, sql::SQLContext};

use crate::{
    error::LakeError,
    staged::scan,
    tables::{TABLES, TRANSACTIONS},
};

/// The table of rows that could not be used.
const QUARANTINE: &str = "quarantine";

/// First words of the statements that only read.
const QUERIES: [&str; 6] = ["SELECT", "WITH", "FROM", "VALUES", "SHOW", "EXPLAIN"];

/// A lake.
#[derive(Debug, Clone)]
pub struct Lake {
    root: PathBuf,
    /// The lock, released when the last clone is dropped.
    lock: Option<Arc<File>>,
}

impl Lake {
    /// Opens a lake that exists.
    ///
    /// # Errors
    /// [`LakeError::NotYet`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LakeError> {
        let lake = Self {
            root: root.into(),
            lock: None,
        };
        match lake.processed().is_dir() {
            true => Ok(lake),
            false => Err(LakeError::NotYet {
                lake: lake.root,
                what: "transactions".to_owned(),
                stage: "ingest",
            }),
        }
    }

    /// Opens a lake, and creates its folder if there is none.
    ///
    /// # Errors
    /// [`LakeError::Disk`].
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, LakeError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(LakeError::disk("create", &root))?;
        Ok(Self { root, lock: None })
    }

    /// The same lake, locked against other writers until the result and its clones are dropped.
    /// Readers are not affected. On a file system without locks nothing is locked, and the last
    /// writer wins.
    ///
    /// # Errors
    /// [`LakeError::Busy`] if another process is writing to it.
    pub fn lock(&self) -> Result<Self, LakeError> {
        if self.lock.is_some() {
            return Ok(self.clone());
        }
        let root = File::open(&self.root).map_err(LakeError::disk("read", &self.root))?;
        match root.try_lock() {
            Err(TryLockError::WouldBlock) => Err(LakeError::Busy(self.root.clone())),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self {
                lock: Some(Arc::new(root)),
                ..self.clone()
            }),
        }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the curated tables.
    pub fn curated_dir(&self) -> PathBuf {
        self.root.join("curated")
    }

    pub(crate) fn processed(&self) -> PathBuf {
        self.root.join("processed")
    }

    /// The curated table `transactions`.
    ///
    /// # Errors
    /// [`LakeError::NotYet`].
    pub fn transactions(&self) -> Result<LazyFrame, LakeError> {
        self.table(TRANSACTIONS.name)
    }

    /// A curated table by name, or `quarantine`.
    ///
    /// # Errors
    /// [`LakeError::NotYet`] if the stage that makes it has not run.
    pub fn table(&self, name: &str) -> Result<LazyFrame, LakeError> {
        let curated = self.curated_dir();
        let (path, stage) = if name == TRANSACTIONS.name {
            (curated.join(name), "curate")
        } else if name == QUARANTINE {
            (self.root.join(name).join("rows.parquet"), "ingest")
        } else {
            (curated.join(name).with_extension("parquet"), "curate")
        };
        if !path.exists() {
            return Err(LakeError::NotYet {
                lake: self.root.clone(),
                what: format!("table `{name}`"),
                stage,
            });
        }
        let table = scan(&path)?;
        // The folders of `transactions` are named after months; their column repeats the time.
        Ok(if name == TRANSACTIONS.name {
            table.drop(by_name(["month"], false, false))
        } else {
            table
        })
    }

    /// The as-of time of the curated tables.
    ///
    /// # Errors
    /// [`LakeError::NotYet`].
    pub fn as_of(&self) -> Result<NaiveDateTime, LakeError> {
        let path = self.curated_dir().join("as_of");
        let text = fs_err::read_to_string(&path).ok();
        text.and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| LakeError::NotYet {
                lake: self.root.clone(),
                what: "curated tables".to_owned(),
                stage: "curate",
            })
    }

    /// Answers a query over the curated tables and `quarantine`.
    ///
    /// # Errors
    /// [`LakeError::Query`], [`LakeError::NotYet`].
    pub fn sql(&self, query: &str) -> Result<DataFrame, LakeError> {
        // Any other statement would change nothing but the context of this one call, silently.
        if !QUERIES.contains(&first_word(query).as_str()) {
            let problem = format!("it must begin with one of {}", QUERIES.join(", "));
            return Err(LakeError::Query(problem));
        }
        let mut context = SQLContext::new();
        let mut missing = None;
        for name in TABLES
            .map(|table| table.name)
            .into_iter()
            .chain([QUARANTINE])
        {
            match self.table(name) {
                Ok(table) => context.register(name, table),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        let answer = context.execute(query).and_then(LazyFrame::collect);
        answer.map_err(|error| match missing {
            // polars says "not found" of a table that is not made yet; the stage that makes it is
            // the better hint.
            Some(missing) if error.to_string().contains("not found") => missing,
            Some(_) | None => LakeError::Query(error.to_string()),
        })
    }
}

/// The first word of a query in capitals, behind any opening parentheses.
fn first_word(query: &str) -> String {
    let query = query.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
    let end = query.find(|c: char| !c.is_ascii_alphabetic());
    query[..end.unwrap_or(query.len())].to_ascii_uppercase()
}
