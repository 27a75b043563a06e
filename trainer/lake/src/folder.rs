//! The lake's folders, and how a new state takes the place of an old one.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::NaiveDateTime;
use polars::{prelude::*, sql::SQLContext};

use crate::{LakeError, curate::TABLES};

/// The table of rows that could not be used.
const QUARANTINE: &str = "quarantine";

/// What a query begins with.
const QUERIES: [&str; 6] = ["SELECT", "WITH", "FROM", "VALUES", "SHOW", "EXPLAIN"];

/// A lake.
#[derive(Debug, Clone)]
pub struct Lake {
    root: PathBuf,
    held: Option<Arc<File>>,
}

impl Lake {
    /// A lake that is there.
    ///
    /// # Errors
    /// [`LakeError::NotYet`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LakeError> {
        let lake = Self {
            root: root.into(),
            held: None,
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

    /// A lake that is there, or a new one.
    ///
    /// # Errors
    /// [`LakeError::Disk`].
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, LakeError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(LakeError::disk("make", &root))?;
        Ok(Self { root, held: None })
    }

    /// The same lake, which nobody else writes to while it or a clone of it lives. Reading it goes
    /// on; where a file system knows no locks, whoever writes last wins.
    ///
    /// # Errors
    /// [`LakeError::Busy`] where somebody else writes to it.
    pub fn hold(&self) -> Result<Self, LakeError> {
        if self.held.is_some() {
            return Ok(self.clone());
        }
        let root = File::open(&self.root).map_err(LakeError::disk("read", &self.root))?;
        match root.try_lock() {
            Err(TryLockError::WouldBlock) => Err(LakeError::Busy(self.root.clone())),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self {
                held: Some(Arc::new(root)),
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

    /// Curated `transactions`.
    ///
    /// # Errors
    /// [`LakeError::NotYet`].
    pub fn transactions(&self) -> Result<LazyFrame, LakeError> {
        self.table("transactions")
    }

    /// A curated table by name, or `quarantine`.
    ///
    /// # Errors
    /// [`LakeError::NotYet`] where it is not there.
    pub fn table(&self, name: &str) -> Result<LazyFrame, LakeError> {
        let curated = self.curated_dir();
        let (path, hive, stage) = match name {
            "transactions" => (curated.join(name), true, "curate"),
            QUARANTINE => (self.root.join(name).join("rows.parquet"), false, "ingest"),
            _ => (
                curated.join(name).with_extension("parquet"),
                false,
                "curate",
            ),
        };
        if !path.exists() {
            return Err(LakeError::NotYet {
                lake: self.root.clone(),
                what: format!("table `{name}`"),
                stage,
            });
        }
        let frame = scan(&path)?;
        // The month is in the folder's name and in the time.
        Ok(if hive {
            frame.drop(by_name(["month"], false, false))
        } else {
            frame
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
        let word: String = query
            .trim_start_matches(|c: char| c == '(' || c.is_whitespace())
            .to_ascii_uppercase();
        let word = word
            .split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or_default();
        // Others would change nothing but the context of this one call, and say nothing of it.
        if !QUERIES.contains(&word) {
            let problem = format!("it begins with none of {}", QUERIES.join(", "));
            return Err(LakeError::Query(problem));
        }
        let mut context = SQLContext::new();
        let mut missing = None;
        for name in TABLES.map(|(name, _)| name).into_iter().chain([QUARANTINE]) {
            match self.table(name) {
                Ok(table) => context.register(name, table),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        let answer = context.execute(query).and_then(LazyFrame::collect);
        answer.map_err(|error| match missing {
            // Of a table that is not there yet polars says that there is none.
            Some(missing) if error.to_string().contains("not found") => missing,
            Some(_) | None => LakeError::Query(error.to_string()),
        })
    }
}

/// The rows of a table, for machines. Money is written as it is, to the ten-thousandth.
///
/// # Errors
/// [`LakeError::Table`].
pub fn rows(
    table: &DataFrame,
) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, LakeError> {
    let columns: Vec<_> = table
        .columns()
        .iter()
        .map(|column| (column.name().to_string(), column))
        .collect();
    (0..table.height())
        .map(|row| {
            columns
                .iter()
                .map(|(name, column)| Ok((name.clone(), json(column.get(row)?))))
                .collect()
        })
        .collect()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all that is neither number nor text is written as polars prints it"
)]
fn json(value: AnyValue<'_>) -> serde_json::Value {
    match value {
        AnyValue::Null => serde_json::Value::Null,
        AnyValue::Boolean(value) => value.into(),
        AnyValue::String(value) => value.into(),
        AnyValue::StringOwned(value) => value.as_str().into(),
        AnyValue::Float32(value) => value.into(),
        AnyValue::Float64(value) => value.into(),
        AnyValue::UInt8(_) | AnyValue::UInt16(_) | AnyValue::UInt32(_) | AnyValue::UInt64(_) => {
            value.extract::<u64>().into()
        }
        AnyValue::Int8(_) | AnyValue::Int16(_) | AnyValue::Int32(_) | AnyValue::Int64(_) => {
            value.extract::<i64>().into()
        }
        AnyValue::Decimal(..) => value.extract::<f64>().into(),
        AnyValue::List(values) => values.iter().map(json).collect(),
        other => other.to_string().into(),
    }
}

/// A value as text: nothing cut off, null empty, money to its ten-thousandth, a list as JSON.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all others are written as polars prints them"
)]
pub fn text(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => (*text).to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        // The shortest text that reads back as the same number.
        AnyValue::Float64(number) => number.to_string(),
        AnyValue::List(_) => json(value.clone()).to_string(),
        other => other.to_string(),
    }
}

/// Every Parquet file at or below a path.
pub(crate) fn scan(path: &Path) -> Result<LazyFrame, LakeError> {
    let args = ScanArgsParquet {
        hive_options: HiveOptions::new_enabled(),
        glob: false,
        ..ScanArgsParquet::default()
    };
    Ok(LazyFrame::scan_parquet(
        PlRefPath::try_from_path(path)?,
        args,
    )?)
}

/// Writes a table, and makes sure that it is on the disk.
pub(crate) fn write(table: &mut DataFrame, path: &Path) -> Result<(), LakeError> {
    let file = File::create(path).map_err(LakeError::disk("write", path))?;
    let writer = ParquetWriter::new(&file).with_compression(ParquetCompression::Zstd(None));
    writer
        .with_row_group_size(Some(1 << 17))
        .finish(table)
        .map_err(|error| disk_or_table(error, path))?;
    file.sync_all().map_err(LakeError::disk("write", path))
}

/// polars wraps what the disk said.
pub(crate) fn disk_or_table(error: PolarsError, path: &Path) -> LakeError {
    if let PolarsError::IO { error, .. } = &error {
        let source = std::io::Error::new(error.kind(), error.to_string());
        return LakeError::Disk {
            action: "write",
            path: path.to_owned(),
            source,
        };
    }
    LakeError::Table(error)
}

/// A folder that is being written and takes the place of another at the end.
#[derive(Debug)]
pub(crate) struct Staged {
    place: PathBuf,
    work: PathBuf,
}

impl Staged {
    /// An empty folder beside `place`.
    pub(crate) fn new(place: PathBuf) -> Result<Self, LakeError> {
        let work = place.with_extension("new");
        remove(&work)?;
        std::fs::create_dir_all(&work).map_err(LakeError::disk("make", &work))?;
        Ok(Self { place, work })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), LakeError> {
        let path = self.path(name);
        std::fs::write(&path, text).map_err(LakeError::disk("write", &path))
    }

    /// Takes the place, at once or not at all.
    pub(crate) fn swap(self) -> Result<(), LakeError> {
        let failed =
            |source: rustix::io::Errno| LakeError::disk("replace", &self.place)(source.into());
        if self.place.exists() {
            let (work, place) = (&self.work, &self.place);
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, work, rustix::fs::CWD, place, exchange)
                .map_err(failed)?;
            remove(&self.work)
        } else {
            std::fs::rename(&self.work, &self.place).map_err(LakeError::disk("write", &self.place))
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What is left of a stage that failed; the next one would remove it as well.
        let _ = std::fs::remove_dir_all(&self.work);
    }
}

fn remove(folder: &Path) -> Result<(), LakeError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LakeError::disk("remove", folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Replaces a file at once or not at all.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), LakeError> {
    let work = path.with_extension("new");
    std::fs::write(&work, text).map_err(LakeError::disk("write", &work))?;
    std::fs::rename(&work, path).map_err(LakeError::disk("write", path))
}
