//! Tables as files.

use std::path::{Path, PathBuf};

use polars::prelude::*;

use crate::Failure;

/// The format of a file, by the ending of its name.
pub(crate) enum Format {
    Csv,
    Parquet,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().map(|ending| ending.to_ascii_lowercase()) {
            Some(ending) if ending == "csv" => Ok(Self::Csv),
            Some(ending) if ending == "parquet" => Ok(Self::Parquet),
            Some(_) | None => Err(Failure::Ending(path.to_owned())),
        }
    }

    /// Writes beside the file and moves the result into place, so that a file of that name is
    /// always complete.
    pub(crate) fn write(&self, table: &mut DataFrame, path: &Path) -> Result<(), Failure> {
        let output = |source| Failure::Output {
            path: path.to_owned(),
            source,
        };
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = std::io::BufWriter::new(fs_err::File::create(&part).map_err(output)?);
        match self {
            Self::Parquet => drop(ParquetWriter::new(file).finish(table)?),
            Self::Csv => csv(table, file).map_err(output)?,
        }
        fs_err::rename(&part, path).map_err(output)
    }
}

/// Writes a table as CSV with a heading.
pub(crate) fn csv(table: &DataFrame, file: impl std::io::Write) -> std::io::Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(table.get_column_names().iter().map(|name| name.as_str()))?;
    for row in 0..table.height() {
        for column in table.columns() {
            writer.write_field(lake::text(&column.get(row).unwrap_or(AnyValue::Null)))?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.flush()
}
