//! Flat Parquet tables, read into columns.

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime};
use parquet::{
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
};

use crate::ModelError;

/// The values of a column. `None` is null.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// UTF-8 text.
    Text(Vec<Option<Box<str>>>),
    /// Whole numbers, times and dates.
    Int(Vec<Option<i64>>),
    /// Fractions.
    Float(Vec<Option<f64>>),
    /// Yes or no.
    Bool(Vec<Option<bool>>),
}

/// A Parquet file of text, numbers and times, without nesting.
#[derive(Debug, Clone)]
pub struct Table {
    file: String,
    rows: usize,
    columns: BTreeMap<String, Column>,
}

impl Table {
    /// Reads all columns.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] where the bytes are not such a table.
    pub fn parse(file: &str, bytes: Bytes) -> Result<Self, ModelError> {
        // The decoder panics at pages that no writer makes.
        let read = panic::catch_unwind(AssertUnwindSafe(|| read(bytes)));
        let read = read.map_err(|_| ModelError::damaged(file, "a page cannot be decoded"))?;
        let (rows, columns) = read.map_err(|e| ModelError::damaged(file, e))?;
        Ok(Self { file: file.to_owned(), rows, columns })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Text without nulls.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a null, its row.
    pub fn text(&self, name: &str) -> Result<Vec<Box<str>>, ModelError> {
        self.full(name, self.optional_text(name)?)
    }

    /// Text.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column.
    pub fn optional_text(&self, name: &str) -> Result<Vec<Option<Box<str>>>, ModelError> {
        match self.column(name)? {
            Column::Text(values) => Ok(values.clone()),
            Column::Int(_) | Column::Float(_) | Column::Bool(_) => Err(self.part(name, "is not text")),
        }
    }

    /// Whole numbers without nulls.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a null, its row.
    pub fn int(&self, name: &str) -> Result<Vec<i64>, ModelError> {
        match self.column(name)? {
            Column::Int(values) => self.full(name, values.clone()),
            Column::Text(_) | Column::Float(_) | Column::Bool(_) => Err(self.part(name, "is not a whole number")),
        }
    }

    /// Numbers without nulls, all finite.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a null or a NaN, its row.
    pub fn float(&self, name: &str) -> Result<Vec<f64>, ModelError> {
        let values = self.full(name, self.optional_float(name)?)?;
        Ok(values)
    }

    /// Numbers, all finite.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a NaN, its row.
    pub fn optional_float(&self, name: &str) -> Result<Vec<Option<f64>>, ModelError> {
        match self.column(name)? {
            Column::Float(values) => match values.iter().position(|v| v.is_some_and(|v| !v.is_finite())) {
                None => Ok(values.clone()),
                Some(row) => Err(self.part(name, format!("is not finite in row {row}"))),
            },
            #[expect(clippy::cast_precision_loss, reason = "counts and sums stay far below 2^53")]
            Column::Int(values) => Ok(values.iter().map(|v| v.map(|v| v as f64)).collect()),
            Column::Text(_) | Column::Bool(_) => Err(self.part(name, "is not a number")),
        }
    }

    /// Times in microseconds since 1970, without nulls.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and the row.
    pub fn time(&self, name: &str) -> Result<Vec<NaiveDateTime>, ModelError> {
        let parse = |(row, micros)| {
            DateTime::from_timestamp_micros(micros)
                .map(|time| time.naive_utc())
                .ok_or_else(|| self.part(name, format!("is not a time in row {row}")))
        };
        self.int(name)?.into_iter().enumerate().map(parse).collect()
    }

    fn column(&self, name: &str) -> Result<&Column, ModelError> {
        self.columns.get(name).ok_or_else(|| self.part(name, "is missing"))
    }

    fn full<T>(&self, name: &str, values: Vec<Option<T>>) -> Result<Vec<T>, ModelError> {
        let value =
            |(row, value): (usize, Option<T>)| value.ok_or_else(|| self.part(name, format!("is null in row {row}")));
        values.into_iter().enumerate().map(value).collect()
    }

    fn part(&self, name: &str, problem: impl Into<String>) -> ModelError {
        ModelError::part(&self.file, name, problem)
    }
}

fn read(bytes: Bytes) -> Result<(usize, BTreeMap<String, Column>), ParquetError> {
    let file = SerializedFileReader::new(bytes)?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let mut columns = BTreeMap::new();
    for index in 0..schema.num_columns() {
        let descriptor = schema.column(index);
        let name = descriptor.path().string();
        if descriptor.max_rep_level() > 0 || descriptor.max_def_level() > 1 {
            return Err(ParquetError::General(format!("column {name} is nested")));
        }
        let nullable = descriptor.max_def_level() == 1;
        let mut column: Option<Column> = None;
        for group in 0..file.num_row_groups() {
            let group = file.get_row_group(group)?;
            let rows = usize::try_from(group.metadata().num_rows())?;
            let part = match group.get_column_reader(index)? {
                ColumnReader::ByteArrayColumnReader(reader) => Column::Text(values(reader, rows, nullable, text)?),
                ColumnReader::Int32ColumnReader(reader) => {
                    Column::Int(values(reader, rows, nullable, |v| Ok(v.into()))?)
                }
                ColumnReader::Int64ColumnReader(reader) => Column::Int(values(reader, rows, nullable, Ok)?),
                ColumnReader::FloatColumnReader(reader) => {
                    Column::Float(values(reader, rows, nullable, |v| Ok(v.into()))?)
                }
                ColumnReader::DoubleColumnReader(reader) => Column::Float(values(reader, rows, nullable, Ok)?),
                ColumnReader::BoolColumnReader(reader) => Column::Bool(values(reader, rows, nullable, Ok)?),
                ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                    return Err(ParquetError::General(format!("column {name} has a type that is not read")));
                }
            };
            column = Some(match (column, part) {
                (None, part) => part,
                (Some(Column::Text(mut all)), Column::Text(part)) => {
                    all.extend(part);
                    Column::Text(all)
                }
                (Some(Column::Int(mut all)), Column::Int(part)) => {
                    all.extend(part);
                    Column::Int(all)
                }
                (Some(Column::Float(mut all)), Column::Float(part)) => {
                    all.extend(part);
                    Column::Float(all)
                }
                (Some(Column::Bool(mut all)), Column::Bool(part)) => {
                    all.extend(part);
                    Column::Bool(all)
                }
                (Some(_), _) => return Err(ParquetError::General(format!("column {name} changes its type"))),
            });
        }
        // Without a row group there are no values, of whatever type.
        columns.insert(name, column.unwrap_or_else(|| empty(descriptor.physical_type())));
    }
    Ok((usize::try_from(file.metadata().file_metadata().num_rows())?, columns))
}

fn empty(of: parquet::basic::Type) -> Column {
    use parquet::basic::Type;
    match of {
        Type::BOOLEAN => Column::Bool(Vec::new()),
        Type::INT32 | Type::INT64 | Type::INT96 => Column::Int(Vec::new()),
        Type::FLOAT | Type::DOUBLE => Column::Float(Vec::new()),
        Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => Column::Text(Vec::new()),
    }
}

fn text(value: ByteArray) -> Result<Box<str>, ParquetError> {
    Ok(value.as_utf8()?.into())
}

fn values<D: DataType, T>(
    mut reader: ColumnReaderImpl<D>,
    rows: usize,
    nullable: bool,
    convert: impl Fn(D::T) -> Result<T, ParquetError>,
) -> Result<Vec<Option<T>>, ParquetError> {
    let (mut present, mut levels) = (Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader.read_records(rows - read, nullable.then_some(&mut levels), None, &mut present)?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("{read} of {rows} values")));
        }
        read += records;
    }
    let mut present = present.into_iter();
    let mut next = || present.next().ok_or_else(|| ParquetError::EOF("fewer values than rows".to_owned()));
    (0..rows)
        .map(|row| match nullable && levels.get(row).copied() != Some(1) {
            true => Ok(None),
            false => next().and_then(&convert).map(Some),
        })
        .collect()
}
