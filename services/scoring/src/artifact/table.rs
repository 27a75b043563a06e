//! Flat Parquet tables, read by column.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{self, AssertUnwindSafe},
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime};
use parquet::{
    column::reader::get_typed_column_reader,
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
};

use crate::ModelError;

/// A Parquet file of text, numbers and times, without nesting. A column is decoded when it is
/// requested and not kept, so that only the columns in use are in memory.
pub struct Table {
    file: String,
    rows: usize,
    reader: SerializedFileReader<Bytes>,
    places: BTreeMap<String, usize>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("file", &self.file)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// A column.
enum Column {
    Text(Values<ByteArray>),
    Int(Values<i64>),
    Float(Values<f64>),
    Bool,
}

/// The values that are present, and for every row whether it has one; `is_present` is empty if all
/// rows have.
struct Values<T> {
    present: Vec<T>,
    is_present: Vec<bool>,
}

impl<T> Values<T> {
    fn map<U>(self, to: impl Fn(T) -> U) -> Values<U> {
        Values {
            present: self.present.into_iter().map(to).collect(),
            is_present: self.is_present,
        }
    }

    /// All of them, or the first row that has none.
    fn full(self) -> Result<Vec<T>, usize> {
        match self.is_present.iter().position(|is_present| !is_present) {
            None => Ok(self.present),
            Some(row) => Err(row),
        }
    }

    fn optional(self) -> Vec<Option<T>> {
        if self.is_present.is_empty() {
            return self.present.into_iter().map(Some).collect();
        }
        let mut present = self.present.into_iter();
        self.is_present
            .into_iter()
            .map(|is_present| present.next().filter(|_| is_present))
            .collect()
    }
}

impl Table {
    /// Reads the schema.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] if the bytes are not such a table.
    pub fn parse(file: &str, bytes: Bytes) -> Result<Self, ModelError> {
        let (reader, rows) = open(file, bytes)?;
        let mut places = BTreeMap::new();
        for (place, column) in reader
            .metadata()
            .file_metadata()
            .schema_descr()
            .columns()
            .iter()
            .enumerate()
        {
            let name = column.path().string();
            if column.max_rep_level() > 0 || column.max_def_level() > 1 {
                return Err(ModelError::damaged(
                    file,
                    format!("column {name} is nested"),
                ));
            }
            places.insert(name, place);
        }
        Ok(Self {
            file: file.to_owned(),
            rows,
            reader,
            places,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Text without nulls.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a null, its row; [`ModelError::Damaged`].
    pub fn text(&self, name: &str) -> Result<Vec<Box<str>>, ModelError> {
        self.full(name, self.texts(name)?)
    }

    /// Text.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column; [`ModelError::Damaged`].
    pub fn optional_text(&self, name: &str) -> Result<Vec<Option<Box<str>>>, ModelError> {
        Ok(self.texts(name)?.optional())
    }

    /// Whole numbers without nulls.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a null, its row; [`ModelError::Damaged`].
    pub fn int(&self, name: &str) -> Result<Vec<i64>, ModelError> {
        match self.column(name)? {
            Column::Int(values) => self.full(name, values),
            Column::Text(_) | Column::Float(_) | Column::Bool => {
                Err(self.part(name, "is not a whole number"))
            }
        }
    }

    /// Numbers without nulls, all finite.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a null or a NaN, its row;
    /// [`ModelError::Damaged`].
    pub fn float(&self, name: &str) -> Result<Vec<f64>, ModelError> {
        let values = self.full(name, self.floats(name)?)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(row) => Err(self.part(name, format!("is not finite in row {row}"))),
        }
    }

    /// Numbers, all finite.
    ///
    /// # Errors
    /// [`ModelError::Part`], naming the column and, for a NaN, its row; [`ModelError::Damaged`].
    pub fn optional_float(&self, name: &str) -> Result<Vec<Option<f64>>, ModelError> {
        let values = self.floats(name)?.optional();
        match values
            .iter()
            .position(|value| value.is_some_and(|value| !value.is_finite()))
        {
            None => Ok(values),
            Some(row) => Err(self.part(name, format!("is not finite in row {row}"))),
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

    fn texts(&self, name: &str) -> Result<Values<Box<str>>, ModelError> {
        let Column::Text(values) = self.column(name)? else {
            return Err(self.part(name, "is not text"));
        };
        let text = |value: &ByteArray| {
            Ok(value
                .as_utf8()
                .map_err(|e| ModelError::damaged(&self.file, e))?
                .into())
        };
        let present = values
            .present
            .iter()
            .map(text)
            .collect::<Result<_, ModelError>>()?;
        Ok(Values {
            present,
            is_present: values.is_present,
        })
    }

    fn floats(&self, name: &str) -> Result<Values<f64>, ModelError> {
        match self.column(name)? {
            Column::Float(values) => Ok(values),
            #[expect(
                clippy::cast_precision_loss,
                reason = "counts and sums stay far below 2^53"
            )]
            Column::Int(values) => Ok(values.map(|value| value as f64)),
            Column::Text(_) | Column::Bool => Err(self.part(name, "is not a number")),
        }
    }

    fn column(&self, name: &str) -> Result<Column, ModelError> {
        let place = *self
            .places
            .get(name)
            .ok_or_else(|| self.part(name, "is missing"))?;
        decoded(&self.file, || {
            read(&self.reader, place).map_err(|e| ModelError::damaged(&self.file, e))
        })
    }

    fn full<T>(&self, name: &str, values: Values<T>) -> Result<Vec<T>, ModelError> {
        values
            .full()
            .map_err(|row| self.part(name, format!("is null in row {row}")))
    }

    fn part(&self, name: &str, problem: impl Into<String>) -> ModelError {
        ModelError::part(&self.file, name, problem)
    }
}

/// A file, and its rows: as many as its groups have, whatever it says of itself.
pub(crate) fn open(
    file: &str,
    bytes: Bytes,
) -> Result<(SerializedFileReader<Bytes>, usize), ModelError> {
    let damaged = |e: &dyn fmt::Display| ModelError::damaged(file, e);
    let reader = SerializedFileReader::new(bytes).map_err(|e| damaged(&e))?;
    let metadata = reader.metadata();
    let groups = metadata
        .row_groups()
        .iter()
        .try_fold(0_i64, |rows, group| rows.checked_add(group.num_rows()));
    let rows = metadata.file_metadata().num_rows();
    if groups != Some(rows) {
        return Err(damaged(&format!(
            "its groups have not the {rows} rows that it has"
        )));
    }
    let rows = usize::try_from(rows).map_err(|e| damaged(&e))?;
    Ok((reader, rows))
}

/// What decoding comes to; the decoder panics at pages that no writer makes.
pub(crate) fn decoded<T>(
    file: &str,
    decode: impl FnOnce() -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    panic::catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(ModelError::damaged(file, "a page cannot be decoded")))
}

fn read(file: &SerializedFileReader<Bytes>, place: usize) -> Result<Column, ParquetError> {
    use parquet::basic::Type;
    let column = file.metadata().file_metadata().schema_descr().column(place);
    match column.physical_type() {
        Type::BYTE_ARRAY => Ok(Column::Text(values::<ByteArrayType>(file, place)?)),
        Type::INT32 => Ok(Column::Int(
            values::<Int32Type>(file, place)?.map(i64::from),
        )),
        Type::INT64 => Ok(Column::Int(values::<Int64Type>(file, place)?)),
        Type::FLOAT => Ok(Column::Float(
            values::<FloatType>(file, place)?.map(f64::from),
        )),
        Type::DOUBLE => Ok(Column::Float(values::<DoubleType>(file, place)?)),
        Type::BOOLEAN => Ok(Column::Bool),
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => Err(ParquetError::General(format!(
            "column {} has a type that is not read",
            column.path().string()
        ))),
    }
}

fn values<D: DataType>(
    file: &SerializedFileReader<Bytes>,
    place: usize,
) -> Result<Values<D::T>, ParquetError> {
    let nullable = file
        .metadata()
        .file_metadata()
        .schema_descr()
        .column(place)
        .max_def_level()
        == 1;
    let (mut present, mut levels) = (Vec::new(), Vec::new());
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let rows = usize::try_from(group.metadata().num_rows())?;
        let mut reader = get_typed_column_reader::<D>(group.get_column_reader(place)?);
        let mut read = 0;
        while read < rows {
            let levels = nullable.then_some(&mut levels);
            let (records, _, _) = reader.read_records(rows - read, levels, None, &mut present)?;
            if records == 0 {
                return Err(ParquetError::EOF(format!("{read} of {rows} values")));
            }
            read += records;
        }
    }
    let mut is_present: Vec<bool> = levels.into_iter().map(|level| level == 1).collect();
    if is_present.iter().all(|is_present| *is_present) {
        is_present.clear();
    }
    Ok(Values {
        present,
        is_present,
    })
}
