//! Files and folders that take the place of others at once or not at all.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use polars::prelude::*;

use crate::error::LakeError;

/// Rows of a row group of a Parquet file.
const ROW_GROUP: usize = 1 << 17;

/// A lazy table of every Parquet file at or below a path.
pub(crate) fn scan(path: &Path) -> Result<LazyFrame, LakeError> {
    let args = ScanArgsParquet {
        hive_options: HiveOptions::new_enabled(),
        // A path is a path, even one with `*` or `[` in it.
        glob: false,
        ..ScanArgsParquet::default()
    };
    let path = PlRefPath::try_from_path(path)?;
    Ok(LazyFrame::scan_parquet(path, args)?)
}

/// Writes a table as Parquet and flushes it to the disk.
pub(crate) fn write(table: &mut DataFrame, path: &Path) -> Result<(), LakeError> {
    let file = File::create(path).map_err(LakeError::disk("write", path))?;
    ParquetWriter::new(&file)
        .with_compression(ParquetCompression::Zstd(None))
        .with_row_group_size(Some(ROW_GROUP))
        .finish(table)
        .map_err(|error| disk_or_table(error, path))?;
    file.sync_all().map_err(LakeError::disk("write", path))
}

/// polars wraps errors of the file system in its own; this takes them out again.
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

/// A folder that is written beside another and takes its place at the end.
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
        std::fs::create_dir_all(&work).map_err(LakeError::disk("create", &work))?;
        Ok(Self { place, work })
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Writes a file of text into the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), LakeError> {
        let path = self.path(name);
        std::fs::write(&path, text).map_err(LakeError::disk("write", &path))
    }

    /// Takes the place at once or not at all.
    pub(crate) fn swap(self) -> Result<(), LakeError> {
        if !self.place.exists() {
            return std::fs::rename(&self.work, &self.place)
                .map_err(LakeError::disk("write", &self.place));
        }
        let (work, place) = (&self.work, &self.place);
        // A plain rename cannot replace a folder that has files. An exchange can, and leaves no
        // moment without a folder at the place.
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, work, rustix::fs::CWD, place, exchange)
            .map_err(|errno| LakeError::disk("replace", place)(errno.into()))?;
        remove(work)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What a failed stage left; the next stage would remove it as well.
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
