//! Parquet columns of numbers and names, read and written without a box for every value: for tables
//! of millions of rows.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parquet::{
    basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel},
    column::{reader::ColumnReader, writer::ColumnWriter},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    schema::types::Type,
};

use super::table;
use crate::ModelError;

/// Values that are read at once.
const BATCH: usize = 8192;

/// Distinct names in ascending order, each known by its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    text: String,
    ends: Vec<u32>,
}

impl Names {
    /// Adds a name, which must come after all that are there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn push(&mut self, name: &str) -> Result<(), &'static str> {
        if self.ends.last().is_some() && self.get(self.len() as u32 - 1) >= name {
            return Err("is not in ascending order");
        }
        self.text.push_str(name);
        self.ends
            .push(u32::try_from(self.text.len()).map_err(|_| "has more than 4 GiB")?);
        Ok(())
    }

    /// The name of a number; empty for one that is too large.
    pub fn get(&self, number: u32) -> &str {
        let at = number as usize;
        let start = at
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .map_or(0, |end| *end as usize);
        self.ends
            .get(at)
            .and_then(|end| self.text.get(start..*end as usize))
            .unwrap_or_default()
    }

    /// The number of a name.
    pub fn find(&self, name: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle as u32).cmp(name) {
                std::cmp::Ordering::Equal => return Some(middle as u32),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|number| self.get(number as u32))
    }

    /// Memory in use, bytes.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + 4 * self.ends.capacity()
    }
}

/// A Parquet file that is read column by column. No column may hold nulls.
pub(crate) struct ColumnFile {
    file: String,
    reader: SerializedFileReader<Bytes>,
    places: BTreeMap<String, usize>,
    rows: usize,
}

impl ColumnFile {
    pub(crate) fn parse(file: &str, bytes: Bytes) -> Result<Self, ModelError> {
        let (reader, rows) = table::open(file, bytes)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let places = (0..schema.num_columns())
            .map(|at| (schema.column(at).path().string(), at))
            .collect();
        Ok(Self {
            file: file.to_owned(),
            reader,
            places,
            rows,
        })
    }

    /// Whole numbers, each of which must fit.
    pub(crate) fn numbers<T: TryFrom<i64>>(&self, name: &str) -> Result<Vec<T>, ModelError> {
        let mut all = Vec::new();
        let misfit = |number: i64| {
            ModelError::part(
                &self.file,
                name,
                format!("has {number}, which is out of range"),
            )
        };
        self.each(name, |values| {
            let mut push = |number: i64| -> Result<(), ModelError> {
                all.push(T::try_from(number).map_err(|_| misfit(number))?);
                Ok(())
            };
            match values {
                Values::Ints(values) => values.iter().try_for_each(|number| push((*number).into())),
                Values::Longs(values) => values.iter().try_for_each(|number| push(*number)),
                Values::Texts(_) => {
                    Err(ModelError::part(&self.file, name, "is not a whole number"))
                }
            }
        })?;
        self.full(name, all.len())?;
        Ok(all)
    }

    /// Names in ascending order.
    pub(crate) fn names(&self, name: &str) -> Result<Names, ModelError> {
        let mut all = Names::default();
        self.each(name, |values| match values {
            Values::Texts(values) => values.iter().try_for_each(|text| {
                let text = text
                    .as_utf8()
                    .map_err(|e| ModelError::damaged(&self.file, e))?;
                all.push(text)
                    .map_err(|problem| ModelError::part(&self.file, name, problem))
            }),
            Values::Ints(_) | Values::Longs(_) => {
                Err(ModelError::part(&self.file, name, "is not text"))
            }
        })?;
        self.full(name, all.len())?;
        Ok(all)
    }

    fn full(&self, name: &str, values: usize) -> Result<(), ModelError> {
        match values == self.rows {
            true => Ok(()),
            false => Err(ModelError::part(
                &self.file,
                name,
                format!("has {values} values in {} rows", self.rows),
            )),
        }
    }

    fn each(
        &self,
        name: &str,
        take: impl FnMut(Values<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        table::decoded(&self.file, || self.decode(name, take))
    }

    fn decode(
        &self,
        name: &str,
        mut take: impl FnMut(Values<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let damaged = |e: ParquetError| ModelError::damaged(&self.file, e);
        let part = |problem: &str| ModelError::part(&self.file, name, problem);
        let place = *self.places.get(name).ok_or_else(|| part("is missing"))?;
        let descriptor = self
            .reader
            .metadata()
            .file_metadata()
            .schema_descr()
            .column(place);
        if descriptor.max_def_level() > 0 || descriptor.max_rep_level() > 0 {
            return Err(part("may be null"));
        }
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group).map_err(damaged)?;
            match group.get_column_reader(place).map_err(damaged)? {
                ColumnReader::Int32ColumnReader(mut reader) => {
                    batches(
                        |values| reader.read_records(BATCH, None, None, values),
                        damaged,
                        |values| take(Values::Ints(values)),
                    )?;
                }
                ColumnReader::Int64ColumnReader(mut reader) => {
                    batches(
                        |values| reader.read_records(BATCH, None, None, values),
                        damaged,
                        |values| take(Values::Longs(values)),
                    )?;
                }
                ColumnReader::ByteArrayColumnReader(mut reader) => {
                    batches(
                        |values| reader.read_records(BATCH, None, None, values),
                        damaged,
                        |values| take(Values::Texts(values)),
                    )?;
                }
                ColumnReader::BoolColumnReader(_)
                | ColumnReader::Int96ColumnReader(_)
                | ColumnReader::FloatColumnReader(_)
                | ColumnReader::DoubleColumnReader(_)
                | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                    return Err(part("has a type that is not read"));
                }
            }
        }
        Ok(())
    }
}

enum Values<'a> {
    Ints(&'a [i32]),
    Longs(&'a [i64]),
    Texts(&'a [ByteArray]),
}

fn batches<T>(
    mut read: impl FnMut(&mut Vec<T>) -> Result<(usize, usize, usize), ParquetError>,
    damaged: impl Fn(ParquetError) -> ModelError,
    mut take: impl FnMut(&[T]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut values = Vec::with_capacity(BATCH);
    loop {
        values.clear();
        let (records, _, _) = read(&mut values).map_err(&damaged)?;
        if records == 0 {
            return Ok(());
        }
        take(&values)?;
    }
}

/// A column to write.
pub(crate) enum Written<'a> {
    /// Numbers and codes below 2^31.
    Ints(Vec<i32>),
    /// Other whole numbers.
    Longs(Vec<i64>),
    /// Text.
    Texts(&'a Names),
}

/// The bytes of a Parquet file. The same columns give the same bytes.
pub(crate) fn write(columns: Vec<(&str, Written<'_>)>) -> Result<Vec<u8>, ModelError> {
    let unwritable = |e: ParquetError| ModelError::damaged("parquet", e);
    let fields = columns.iter().map(|(name, column)| {
        let (physical, logical) = match column {
            Written::Ints(_) => (Physical::INT32, None),
            Written::Longs(_) => (Physical::INT64, None),
            Written::Texts(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field =
            Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        field.with_logical_type(logical).build().map(Arc::new)
    });
    let fields = fields.collect::<Result<Vec<_>, _>>().map_err(unwritable)?;
    let schema = Type::group_type_builder("schema")
        .with_fields(fields)
        .build()
        .map_err(unwritable)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut bytes = Vec::new();
    let put = || -> Result<(), ParquetError> {
        let mut file =
            SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties))?;
        let mut group = file.next_row_group()?;
        for (_, column) in &columns {
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            match (column, writer.untyped()) {
                (Written::Ints(values), ColumnWriter::Int32ColumnWriter(writer)) => {
                    put_all(writer, values)?
                }
                (Written::Longs(values), ColumnWriter::Int64ColumnWriter(writer)) => {
                    put_all(writer, values)?
                }
                (Written::Texts(names), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                    put_all(
                        writer,
                        &names.iter().map(ByteArray::from).collect::<Vec<_>>(),
                    )?;
                }
                (Written::Ints(_) | Written::Longs(_) | Written::Texts(_), _) => {
                    return Err(ParquetError::General(
                        "a column is not of its type".to_owned(),
                    ));
                }
            }
            writer.close()?;
        }
        group.close()?;
        file.close().map(drop)
    };
    put().map_err(unwritable)?;
    Ok(bytes)
}

fn put_all<D: DataType>(
    writer: &mut parquet::column::writer::ColumnWriterImpl<'_, D>,
    values: &[D::T],
) -> Result<(), ParquetError> {
    writer.write_batch(values, None, None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Names {
        let mut names = Names::default();
        all.iter().for_each(|name| names.push(name).unwrap());
        names
    }

    #[test]
    fn names_are_found_by_number_and_by_name() {
        let names = names(&["", "10002", "85123A", "POST"]);
        for (number, name) in ["", "10002", "85123A", "POST"].into_iter().enumerate() {
            assert_eq!(
                (names.get(number as u32), names.find(name)),
                (name, Some(number as u32))
            );
        }
        assert_eq!((names.get(4), names.find("9")), ("", None));
        assert_eq!(names.clone().push("POST"), Err("is not in ascending order"));
    }

    #[test]
    fn columns_come_back_as_they_went_or_are_refused_by_name() {
        let texts = names(&["a", "b", "ç"]);
        let write = |codes: Vec<i32>| {
            let columns = vec![
                ("code", Written::Ints(codes)),
                ("price", Written::Longs(vec![i64::MIN, 0, i64::MAX])),
                ("name", Written::Texts(&texts)),
            ];
            ColumnFile::parse("lines.parquet", super::write(columns).unwrap().into()).unwrap()
        };
        let file = write(vec![3, 1, 2]);
        assert_eq!(file.numbers::<u16>("code").unwrap(), [3, 1, 2]);
        assert_eq!(
            file.numbers::<i64>("price").unwrap(),
            [i64::MIN, 0, i64::MAX]
        );
        assert_eq!(file.names("name").unwrap(), texts);
        for (error, message) in [
            (
                file.numbers::<u16>("total").unwrap_err(),
                "lines.parquet: total is missing",
            ),
            (
                file.numbers::<u16>("name").unwrap_err(),
                "lines.parquet: name is not a whole number",
            ),
            (
                file.numbers::<u16>("price").unwrap_err(),
                "lines.parquet: price has -9223372036854775808, which is out of range",
            ),
            (
                file.names("code").unwrap_err(),
                "lines.parquet: code is not text",
            ),
        ] {
            assert_eq!(error.to_string(), message);
        }
        assert!(ColumnFile::parse("lines.parquet", Bytes::from_static(b"PAR1")).is_err());
    }
}
