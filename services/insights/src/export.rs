//! Lines as a file in chunks: CSV or Parquet. A chunk is written when the caller is ready for it,
//! so that memory holds one chunk or row group at a time.

use std::{collections::VecDeque, io::Write, sync::Arc};

use chrono::DateTime;
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    column::writer::{ColumnWriter, ColumnWriterImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::Type,
};
use scoring::insights::{Cursor, Kinds, Selection, Shop};
use transactions::Line;

/// Lines of a chunk of CSV: some hundred KiB.
const CSV_LINES: usize = 2048;
/// Lines of a row group of Parquet.
const GROUP_LINES: usize = 1 << 16;
/// Most bytes of a chunk.
const MAX_CHUNK_BYTES: usize = 256 << 10;

/// Why an export ends early: a bug, or no memory.
#[derive(Debug)]
pub(crate) struct Unwritable(String);

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ParquetError> for Unwritable {
    fn from(error: ParquetError) -> Self {
        Self(error.to_string())
    }
}

impl From<csv::Error> for Unwritable {
    fn from(error: csv::Error) -> Self {
        Self(error.to_string())
    }
}

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Parquet,
}

/// A file that is being written.
pub(crate) struct Export {
    shop: Arc<Shop>,
    selection: Selection,
    kinds: Kinds,
    cursor: Cursor,
    file: File,
    /// Chunks that the caller has not taken yet: at most those of a row group.
    ready: VecDeque<Vec<u8>>,
    /// Lines written.
    rows: i64,
    /// Lines whole in the chunks that were taken.
    taken_rows: i64,
    /// Lines of the whole file.
    total_rows: i64,
}

enum File {
    Csv { has_header: bool },
    Parquet(Box<SerializedFileWriter<Vec<u8>>>),
    Done,
}

/// A chunk of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) data: Vec<u8>,
    /// Lines that are whole up to its end.
    pub(crate) rows: i64,
    /// Lines of the whole file.
    pub(crate) total_rows: i64,
}

impl Export {
    pub(crate) fn new(
        shop: Arc<Shop>,
        selection: Selection,
        kinds: Kinds,
        format: Format,
    ) -> Result<Self, Unwritable> {
        let file = match format {
            Format::Csv => File::Csv { has_header: false },
            Format::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .build();
                let writer = SerializedFileWriter::new(
                    Vec::new(),
                    Arc::new(schema()?),
                    Arc::new(properties),
                )?;
                File::Parquet(Box::new(writer))
            }
        };
        let total_rows = i64::try_from(shop.count(&selection, kinds)).unwrap_or(i64::MAX);
        let (cursor, ready) = (Cursor::default(), VecDeque::new());
        Ok(Self {
            shop,
            selection,
            kinds,
            cursor,
            file,
            ready,
            rows: 0,
            taken_rows: 0,
            total_rows,
        })
    }

    /// The next chunk; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Chunk>, Unwritable> {
        while self.ready.is_empty() {
            let bytes = match &mut self.file {
                File::Done => return Ok(None),
                File::Csv { .. } => self.next_csv()?,
                File::Parquet(_) => self.next_row_group()?,
            };
            let chunks = bytes.chunks(MAX_CHUNK_BYTES);
            self.ready.extend(chunks.map(<[u8]>::to_vec));
        }
        let data = self.ready.pop_front().unwrap_or_default();
        if self.ready.is_empty() {
            self.taken_rows = self.rows;
        }
        Ok(Some(Chunk {
            data,
            rows: self.taken_rows,
            total_rows: self.total_rows,
        }))
    }

    /// The next lines as CSV; the file is done after the last.
    fn next_csv(&mut self) -> Result<Vec<u8>, Unwritable> {
        let mut writer = csv::WriterBuilder::new()
            .terminator(csv::Terminator::CRLF)
            .from_writer(Vec::new());
        if let File::Csv { has_header } = &mut self.file
            && !std::mem::replace(has_header, true)
        {
            writer.write_record(Line::COLUMNS)?;
        }
        let (mut written, mut clock) = (Ok(()), (i64::MIN, String::new()));
        let count = self.lines(CSV_LINES, |line| {
            if written.is_ok() {
                // Lines of a receipt have the same time, which is formatted once.
                if clock.0 != line.time {
                    clock = (line.time, time(line.time));
                }
                written = record(&mut writer, &line, &clock.1);
            }
        });
        written?;
        if count < CSV_LINES {
            self.file = File::Done;
        }
        let bytes = writer.into_inner();
        bytes.map_err(|error| Unwritable(error.to_string()))
    }

    /// The next row group of Parquet, or the end of the file.
    fn next_row_group(&mut self) -> Result<Vec<u8>, Unwritable> {
        let mut lines = Vec::new();
        let shop = Arc::clone(&self.shop);
        let count = shop.lines(
            &self.selection,
            self.kinds,
            &mut self.cursor,
            GROUP_LINES,
            |line| lines.push(line),
        );
        self.rows += count as i64;
        let File::Parquet(writer) = &mut self.file else {
            return Ok(Vec::new());
        };
        if count > 0 {
            group(writer, &lines)?;
        }
        if count == GROUP_LINES {
            return Ok(std::mem::take(writer.inner_mut()));
        }
        writer.finish()?;
        let bytes = std::mem::take(writer.inner_mut());
        self.file = File::Done;
        Ok(bytes)
    }

    /// Reads up to `most` lines, and returns how many there were.
    fn lines(&mut self, most: usize, take: impl FnMut(Line<'_>)) -> usize {
        let count = self
            .shop
            .lines(&self.selection, self.kinds, &mut self.cursor, most, take);
        self.rows += count as i64;
        count
    }
}

fn time(micros: i64) -> String {
    let Some(time) = DateTime::from_timestamp_micros(micros) else {
        return String::new();
    };
    time.format(if micros % 1_000_000 == 0 {
        "%Y-%m-%d %H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M:%S%.6f"
    })
    .to_string()
}

fn record<W: Write>(
    writer: &mut csv::Writer<W>,
    line: &Line<'_>,
    time: &str,
) -> Result<(), csv::Error> {
    writer.write_record([
        line.id.to_string().as_str(),
        line.invoice,
        line.stock_code,
        line.description.unwrap_or_default(),
        &line.quantity.to_string(),
        time,
        &line.unit_price.to_string(),
        line.customer.unwrap_or_default(),
        line.country,
        line.kind.as_str(),
        if line.is_duplicate { "true" } else { "false" },
        &line.total().to_string(),
    ])
}

fn schema() -> Result<Type, ParquetError> {
    let fields = Line::COLUMNS.into_iter().map(|name| {
        let money = Some(LogicalType::decimal(4, 18));
        let (physical, logical) = match name {
            "line_id" | "quantity" => (Physical::INT64, None),
            "unit_price" | "line_total" => (Physical::INT64, money),
            "invoice_time" => (
                Physical::INT64,
                Some(LogicalType::timestamp(false, TimeUnit::MICROS)),
            ),
            "is_duplicate" => (Physical::BOOLEAN, None),
            _ => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let is_optional = matches!(name, "description" | "customer_id");
        let field = Type::primitive_type_builder(name, physical).with_logical_type(logical);
        let field = if matches!(name, "unit_price" | "line_total") {
            field.with_precision(18).with_scale(4)
        } else {
            field
        };
        let repetition = if is_optional {
            Repetition::OPTIONAL
        } else {
            Repetition::REQUIRED
        };
        field.with_repetition(repetition).build().map(Arc::new)
    });
    Type::group_type_builder("schema")
        .with_fields(fields.collect::<Result<_, _>>()?)
        .build()
}

/// Writes a row group.
fn group(
    writer: &mut SerializedFileWriter<Vec<u8>>,
    lines: &[Line<'_>],
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for name in Line::COLUMNS {
        let Some(mut column) = group.next_column()? else {
            break;
        };
        match column.untyped() {
            ColumnWriter::Int64ColumnWriter(column) => {
                let of = |line: &Line<'_>| match name {
                    "line_id" => line.id,
                    "quantity" => line.quantity,
                    "invoice_time" => line.time,
                    "unit_price" => line.unit_price.ten_thousandths(),
                    _ => line.total().ten_thousandths(),
                };
                put(column, &lines.iter().map(of).collect::<Vec<_>>(), None)?;
            }
            ColumnWriter::BoolColumnWriter(column) => {
                put(
                    column,
                    &lines
                        .iter()
                        .map(|line| line.is_duplicate)
                        .collect::<Vec<_>>(),
                    None,
                )?;
            }
            ColumnWriter::ByteArrayColumnWriter(column) => {
                let of = |line: &Line<'_>| match name {
                    "invoice" => Some(ByteArray::from(line.invoice)),
                    "stock_code" => Some(ByteArray::from(line.stock_code)),
                    "description" => line.description.map(ByteArray::from),
                    "customer_id" => line.customer.map(ByteArray::from),
                    "country" => Some(ByteArray::from(line.country)),
                    _ => Some(ByteArray::from(line.kind.as_str())),
                };
                let values: Vec<Option<ByteArray>> = lines.iter().map(of).collect();
                let is_optional = matches!(name, "description" | "customer_id");
                let levels = is_optional.then(|| {
                    values
                        .iter()
                        .map(|value| i16::from(value.is_some()))
                        .collect()
                });
                let values: Vec<ByteArray> = values.into_iter().flatten().collect();
                put(column, &values, levels.as_ref())?;
            }
            ColumnWriter::Int32ColumnWriter(_)
            | ColumnWriter::Int96ColumnWriter(_)
            | ColumnWriter::FloatColumnWriter(_)
            | ColumnWriter::DoubleColumnWriter(_)
            | ColumnWriter::FixedLenByteArrayColumnWriter(_) => {
                return Err(ParquetError::General(format!(
                    "{name} is of a type that is not written"
                )));
            }
        }
        column.close()?;
    }
    group.close().map(drop)
}

fn put<D: DataType>(
    writer: &mut ColumnWriterImpl<'_, D>,
    values: &[D::T],
    levels: Option<&Vec<i16>>,
) -> Result<(), ParquetError> {
    writer
        .write_batch(values, levels.map(Vec::as_slice), None)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_exactly() {
        assert_eq!(time(1_291_191_960_000_000), "2010-12-01 08:26:00");
        assert_eq!(time(1_291_191_960_000_001), "2010-12-01 08:26:00.000001");
    }
}
