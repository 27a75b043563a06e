//! Batches of rows as tables, and the Parquet files that they are appended to.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use polars::{io::parquet::write::BatchedWriter, prelude::*};
use transactions::Money;

use super::{
    columns::{FIELDS, LINE_FIELDS},
    line::{AcceptedLine, Rejection},
};
use crate::{error::LakeError, staged::disk_or_table};

/// A row as read.
pub(super) struct Raw {
    pub(super) file: String,
    pub(super) row: u64,
    pub(super) fields: [String; FIELDS],
}

/// A row that was rejected.
pub(super) struct Rejected {
    pub(super) file: String,
    pub(super) row: u64,
    pub(super) rejection: Rejection,
    /// The row in full.
    pub(super) text: String,
}

/// Rows of table `raw`: all fields as text.
pub(super) fn raw_table(rows: &[Raw]) -> Result<DataFrame, LakeError> {
    const NAMES: [&str; LINE_FIELDS] = [
        "invoice",
        "stock_code",
        "description",
        "quantity",
        "invoice_date",
        "unit_price",
        "customer_id",
        "country",
    ];
    let numbers: Vec<u64> = rows.iter().map(|raw| raw.row).collect();
    let mut columns = vec![
        text("file", rows.iter().map(|raw| raw.file.as_str())),
        Column::new("row".into(), numbers),
    ];
    columns.extend(
        NAMES
            .into_iter()
            .enumerate()
            .map(|(field, name)| text(name, rows.iter().map(|raw| raw.fields[field].as_str()))),
    );
    Ok(DataFrame::new_infer_height(columns)?)
}

/// Rows of table `quarantine`.
pub(super) fn quarantine_table(rows: &[Rejected]) -> Result<DataFrame, LakeError> {
    let numbers: Vec<u64> = rows.iter().map(|rejected| rejected.row).collect();
    let rejections = || rows.iter().map(|rejected| &rejected.rejection);
    Ok(DataFrame::new_infer_height(vec![
        text("file", rows.iter().map(|rejected| rejected.file.as_str())),
        Column::new("row".into(), numbers),
        text("field", rejections().map(|rejection| rejection.field)),
        text(
            "reason",
            rejections().map(|rejection| rejection.reason.as_str()),
        ),
        text("text", rows.iter().map(|rejected| rejected.text.as_str())),
    ])?)
}

/// Rows of the lines, numbered from `first_id`.
pub(super) fn line_table(first_id: i64, lines: &[AcceptedLine]) -> Result<DataFrame, LakeError> {
    let ids: Vec<i64> = (first_id..).take(lines.len()).collect();
    let micros = |line: &AcceptedLine| line.time.and_utc().timestamp_micros();
    let times: Vec<i64> = lines.iter().map(micros).collect();
    let times = Column::new("invoice_time".into(), times)
        .cast(&DataType::Datetime(TimeUnit::Microseconds, None))?;
    let optional = |name: &str, of: fn(&AcceptedLine) -> Option<&str>| {
        Column::new(name.into(), lines.iter().map(of).collect::<Vec<_>>())
    };
    let quantities: Vec<i64> = lines.iter().map(|line| line.quantity).collect();
    let duplicates: Vec<bool> = lines.iter().map(|line| line.is_duplicate).collect();
    Ok(DataFrame::new_infer_height(vec![
        Column::new("line_id".into(), ids),
        text("invoice", lines.iter().map(|line| line.invoice.as_str())),
        text(
            "stock_code",
            lines.iter().map(|line| line.stock_code.as_str()),
        ),
        optional("description", |line| line.description.as_deref()),
        Column::new("quantity".into(), quantities),
        times,
        money("unit_price", lines.iter().map(|line| line.price)),
        optional("customer_id", |line| line.customer.as_deref()),
        text("country", lines.iter().map(|line| line.country.as_str())),
        text("kind", lines.iter().map(|line| line.kind.as_str())),
        Column::new("is_duplicate".into(), duplicates),
        money("line_total", lines.iter().map(AcceptedLine::total)),
    ])?)
}

fn text<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
    Column::new(name.into(), values.collect::<Vec<_>>())
}

/// Money as a decimal number with four places.
fn money(name: &str, values: impl Iterator<Item = Money>) -> Column {
    let values = values.map(|value| i128::from(value.ten_thousandths()));
    let values: Int128Chunked = ChunkedArray::from_vec(name.into(), values.collect());
    values
        .into_decimal_unchecked(18, Money::DECIMALS)
        .into_series()
        .into_column()
}

/// A Parquet file that batches are appended to.
pub(super) struct Writer {
    path: PathBuf,
    /// The writer and a handle of its file to flush it with; created with the first batch, which
    /// has the schema.
    open: Option<(BatchedWriter<File>, File)>,
}

impl Writer {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    pub(super) fn write(&mut self, batch: &DataFrame) -> Result<(), LakeError> {
        let (writer, _) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.path, batch.schema())?),
        };
        writer
            .write_batch(batch)
            .map_err(|error| disk_or_table(error, &self.path))
    }

    /// Completes the file and flushes it to the disk.
    pub(super) fn finish(self) -> Result<(), LakeError> {
        let Some((writer, file)) = self.open else {
            return Ok(());
        };
        writer
            .finish()
            .map_err(|error| disk_or_table(error, &self.path))?;
        file.sync_all()
            .map_err(LakeError::disk("write", &self.path))
    }
}

fn open(path: &Path, schema: &SchemaRef) -> Result<(BatchedWriter<File>, File), LakeError> {
    let file = File::create(path).map_err(LakeError::disk("write", path))?;
    let handle = file.try_clone().map_err(LakeError::disk("write", path))?;
    let writer = ParquetWriter::new(file)
        .with_compression(ParquetCompression::Zstd(None))
        .batched(schema)
        .map_err(|error| disk_or_table(error, path))?;
    Ok((writer, handle))
}
