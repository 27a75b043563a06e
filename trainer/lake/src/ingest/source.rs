//! Files of any format as rows of text. A file's format follows from its first bytes, not from its
//! name.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    panic::{self, AssertUnwindSafe, UnwindSafe},
    path::{Path, PathBuf},
    sync::Once,
};

use calamine::{Data, Reader, Xlsx, open_workbook};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use encoding_rs_io::DecodeReaderBytesBuilder;
use polars::prelude::*;

use super::{
    columns::{Columns, FIELDS},
    line::{AcceptedLine, Rejection, Rules},
    quotes::Quotes,
};
use crate::{error::LakeError, staged::scan};

/// A row as read: a text for each field, empty if the file has no such column.
pub(super) struct RawRow<'a> {
    /// The row's sheet, if the file has several.
    pub(super) sheet: Option<&'a str>,
    /// Row in the file or its sheet, from 1 behind the header.
    pub(super) row: u64,
    pub(super) fields: [String; FIELDS],
    /// Why the row cannot be split into fields.
    pub(super) broken: Option<String>,
    /// The row in full, as a CSV file has it.
    pub(super) text: &'a dyn Fn() -> String,
}

impl RawRow<'_> {
    /// The row as a line, or why it is none.
    pub(super) fn parse(&self, rules: &Rules) -> Result<AcceptedLine, Rejection> {
        match &self.broken {
            Some(reason) => Err(Rejection {
                field: "row",
                reason: reason.clone(),
            }),
            None => AcceptedLine::parse(&self.fields, rules),
        }
    }

    /// The row's file and sheet.
    pub(super) fn place<'a>(&self, file: &'a str) -> Cow<'a, str> {
        match self.sheet {
            Some(sheet) => format!("{file}, sheet {sheet}").into(),
            None => file.into(),
        }
    }
}

/// Files to read in order, each once and with the name to report it by. Folders are searched;
/// hidden files in them are skipped.
pub(super) fn files(inputs: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, LakeError> {
    let mut files = Vec::new();
    for input in inputs {
        if input.is_dir() {
            let before = files.len();
            walk(input, &mut files)?;
            if files.len() == before {
                return Err(LakeError::EmptyFolder(input.clone()));
            }
        } else if input.exists() {
            files.push(input.clone());
        } else {
            return Err(LakeError::NoInput(input.clone()));
        }
    }
    let mut known = HashSet::new();
    files.retain(|path| known.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    // An unknown format is refused before the first file is read.
    files.iter().try_for_each(|path| format(path).map(drop))?;
    let names = names_of(&files);
    Ok(files.into_iter().zip(names).collect())
}

/// Names of files, without the folder unless two files have the same name.
fn names_of(files: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut count: HashMap<String, usize> = HashMap::new();
    for path in files {
        *count.entry(short(path)).or_default() += 1;
    }
    let name = |path: &PathBuf| match short(path) {
        name if count.get(&name).is_some_and(|count| *count > 1) => path.display().to_string(),
        name => name,
    };
    files.iter().map(name).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), LakeError> {
    let read = |source| LakeError::Disk {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(folder).map_err(read)?;
    let mut paths = entries
        .map(|entry| Ok(entry.map_err(read)?.path()))
        .collect::<Result<Vec<_>, LakeError>>()?;
    paths.sort();
    for path in paths {
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
        {
            continue;
        }
        if path.is_dir() {
            walk(&path, files)?
        } else {
            files.push(path)
        }
    }
    Ok(())
}

enum Format {
    Text,
    Gzip,
    Zstd,
    Xlsx,
    Parquet,
}

fn format(path: &Path) -> Result<Format, LakeError> {
    let read = |source| LakeError::Disk {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut head = Vec::new();
    File::open(path)
        .map_err(read)?
        .take(4096)
        .read_to_end(&mut head)
        .map_err(read)?;
    match head.as_slice() {
        [] => Err(LakeError::EmptyInput(path.to_owned())),
        [0x1f, 0x8b, ..] => Ok(Format::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Format::Zstd),
        [b'P', b'A', b'R', b'1', ..] => Ok(Format::Parquet),
        [b'P', b'K', 3, 4, ..]
            if head
                .windows(14)
                .any(|name| name.starts_with(b"xl/") || name == b"[Content_Types") =>
        {
            // Other Office files are ZIP archives as well; only a workbook opens as one.
            let opens = quietly(|| open_workbook::<Xlsx<_>, _>(path).is_ok());
            match opens {
                Ok(true) => Ok(Format::Xlsx),
                Ok(false) | Err(_) => Err(LakeError::UnknownFormat(path.to_owned())),
            }
        }
        head if head.contains(&0) || head.starts_with(b"PK") => {
            Err(LakeError::UnknownFormat(path.to_owned()))
        }
        _ => Ok(Format::Text),
    }
}

/// Runs code that may panic, and keeps the panic's message off stderr: the caller reports the
/// error.
fn quietly<T>(may_panic: impl FnOnce() -> T + UnwindSafe) -> std::thread::Result<T> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let done = panic::catch_unwind(may_panic);
    QUIET.set(false);
    done
}

/// Passes every row of a file to `each`; returns the encoding of its text if it is a file of text.
pub(super) fn read(
    path: &Path,
    names: &Columns,
    each: &mut dyn FnMut(RawRow<'_>) -> Result<(), LakeError>,
) -> Result<Option<&'static Encoding>, LakeError> {
    let format = format(path)?;
    // The readers of Parquet and XLSX panic on some damaged files. Rows that they passed on before
    // are dropped with the stage.
    let read = AssertUnwindSafe(|| match format {
        Format::Text | Format::Gzip | Format::Zstd => csv(path, names, each).map(Some),
        Format::Xlsx => xlsx(path, names, each).map(|()| None),
        Format::Parquet => parquet(path, names, each).map(|()| None),
    });
    quietly(read).unwrap_or_else(|_| {
        Err(LakeError::Damaged {
            path: path.to_owned(),
            row: 0,
            reason: "its reader panicked".to_owned(),
        })
    })
}

fn open(path: &Path) -> Result<Box<dyn Read>, LakeError> {
    let read = |source| LakeError::Disk {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = BufReader::with_capacity(1 << 20, File::open(path).map_err(read)?);
    Ok(match format(path)? {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Format::Zstd => Box::new(zstd::Decoder::with_buffer(file).map_err(read)?),
        Format::Text | Format::Xlsx | Format::Parquet => Box::new(file),
    })
}

/// UTF-8 if the whole file is valid UTF-8, else Windows-1252, which is Latin-1 with quotation
/// marks.
fn encoding(path: &Path) -> Result<&'static Encoding, LakeError> {
    let damaged = |error: io::Error| LakeError::Damaged {
        path: path.to_owned(),
        row: 0,
        reason: error.to_string(),
    };
    let mut reader = BufReader::with_capacity(1 << 20, open(path)?);
    let mut tail = Vec::new();
    loop {
        let chunk = reader.fill_buf().map_err(damaged)?;
        if chunk.is_empty() {
            return Ok(if tail.is_empty() { UTF_8 } else { WINDOWS_1252 });
        }
        let length = chunk.len();
        tail.extend_from_slice(chunk);
        match std::str::from_utf8(&tail) {
            Ok(_) => tail.clear(),
            // The end of the chunk may split a character; its rest is in the next chunk.
            Err(error) if error.error_len().is_none() => drop(tail.drain(..error.valid_up_to())),
            Err(_) => return Ok(WINDOWS_1252),
        }
        reader.consume(length);
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "the steps that set up one reader, and the loop that reads it"
)]
fn csv(
    path: &Path,
    names: &Columns,
    each: &mut dyn FnMut(RawRow<'_>) -> Result<(), LakeError>,
) -> Result<&'static Encoding, LakeError> {
    let encoding = encoding(path)?;
    let decoded = || -> Result<_, LakeError> {
        Ok(DecodeReaderBytesBuilder::new()
            .encoding(Some(encoding))
            .bom_override(true)
            .build(open(path)?))
    };
    let damaged = |row, reason: String| LakeError::Damaged {
        path: path.to_owned(),
        row,
        reason,
    };
    let mut first = String::new();
    BufReader::new(decoded()?)
        .read_line(&mut first)
        .map_err(|e| damaged(0, e.to_string()))?;
    let (delimiter, delimiters) = delimiter(&first);
    let text_reader = BufReader::with_capacity(1 << 20, decoded()?);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .buffer_capacity(1 << 20)
        .from_reader(Quotes::new(text_reader, delimiter, delimiters));
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(str::to_owned).collect(),
        Err(error) => return Err(damaged(0, error.to_string())),
    };
    let places = names.find(path, &header)?;
    let mut record = csv::StringRecord::new();
    for row in 1.. {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => return Err(damaged(row, error.to_string())),
        }
        let broken = (record.len() != header.len()).then(|| {
            format!(
                "has {} fields; the header has {}",
                record.len(),
                header.len()
            )
        });
        // A broken row is kept as a whole in the first field, so that `raw` has all of the input.
        let fields = match &broken {
            None => places.map(|place| {
                place
                    .and_then(|place| record.get(place))
                    .unwrap_or_default()
                    .to_owned()
            }),
            Some(_) => {
                let mut fields: [String; FIELDS] = Default::default();
                fields[0] = text(&record, delimiter);
                fields
            }
        };
        each(RawRow {
            sheet: None,
            row,
            fields,
            broken,
            text: &|| text(&record, delimiter),
        })?;
    }
    Ok(encoding)
}

/// The delimiter of a header, and how often it occurs there: the most frequent of comma, semicolon
/// and tab.
fn delimiter(header: &str) -> (u8, usize) {
    let count = |delimiter: u8| header.bytes().filter(|byte| *byte == delimiter).count();
    let counted = [b',', b';', b'\t'].map(|delimiter| (delimiter, count(delimiter)));
    // Of equal counts the first wins, since `max_by_key` returns the last.
    let most = counted.into_iter().rev().max_by_key(|(_, count)| *count);
    most.unwrap_or((b',', 0))
}

/// Fields as a line of CSV.
fn text(fields: impl IntoIterator<Item = impl AsRef<[u8]>>, delimiter: u8) -> String {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .from_writer(Vec::new());
    // Writing to memory cannot fail.
    let _ = writer.write_record(fields);
    let line = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&line)
        .trim_end_matches('\n')
        .to_owned()
}

fn xlsx(
    path: &Path,
    names: &Columns,
    each: &mut dyn FnMut(RawRow<'_>) -> Result<(), LakeError>,
) -> Result<(), LakeError> {
    let damaged = |row, reason: String| LakeError::Damaged {
        path: path.to_owned(),
        row,
        reason,
    };
    let mut workbook: Xlsx<_> =
        open_workbook(path).map_err(|e: calamine::XlsxError| damaged(0, e.to_string()))?;
    let sheets = workbook.sheet_names();
    let named = sheets.len() > 1;
    for sheet in &sheets {
        let range = workbook
            .worksheet_range(sheet)
            .map_err(|e| damaged(0, format!("sheet {sheet}: {e}")))?;
        let mut rows = range.rows();
        let Some(header) = rows.next() else { continue };
        let header: Vec<String> = header.iter().map(cell).collect();
        let places = names.find(path, &header)?;
        for (row, cells) in (1..).zip(rows) {
            let fields = places.map(|place| {
                place
                    .and_then(|place| cells.get(place))
                    .map(cell)
                    .unwrap_or_default()
            });
            let sheet = named.then_some(sheet.as_str());
            each(RawRow {
                sheet,
                row,
                fields,
                broken: None,
                text: &|| text(cells.iter().map(cell), b','),
            })?;
        }
    }
    Ok(())
}

/// A cell as a CSV file would have its value.
fn cell(data: &Data) -> String {
    match data {
        Data::Empty => String::new(),
        Data::String(text) | Data::DateTimeIso(text) | Data::DurationIso(text) => text.clone(),
        Data::Int(number) => number.to_string(),
        // The shortest text that reads back as the same number: 2.55 rather than all its digits.
        Data::Float(number) => number.to_string(),
        Data::Bool(truth) => truth.to_string(),
        // Rounded to seconds, since a spreadsheet's fraction of a day is slightly off.
        Data::DateTime(time) => time
            .as_datetime()
            .map(|time| {
                (time + chrono::Duration::milliseconds(500))
                    .format("%Y-%m-%d %H:%M:%S")
                    .to_string()
            })
            .unwrap_or_default(),
        Data::Error(error) => format!("#{error:?}"),
        #[expect(
            unreachable_patterns,
            reason = "calamine may learn further kinds of cells"
        )]
        _ => String::new(),
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "the check of one file's schema, and the loop over its batches"
)]
fn parquet(
    path: &Path,
    names: &Columns,
    each: &mut dyn FnMut(RawRow<'_>) -> Result<(), LakeError>,
) -> Result<(), LakeError> {
    const BATCH: u32 = 1 << 17;
    let damaged = |row, error: PolarsError| LakeError::Damaged {
        path: path.to_owned(),
        row,
        reason: error.to_string(),
    };
    let mut lazy = scan(path)?;
    let schema = lazy.collect_schema().map_err(|e| damaged(0, e))?;
    let header: Vec<String> = schema.iter_names().map(ToString::to_string).collect();
    let places = names.find(path, &header)?;
    let used = places.into_iter().flatten();
    for (name, kind) in used.filter_map(|place| schema.get_at_index(place)) {
        // Parquet stores such times in UTC, so the shop's own time is not in the file.
        if let DataType::Datetime(_, Some(zone)) = kind
            && zone.as_str() != "UTC"
        {
            return Err(LakeError::Zoned {
                path: path.to_owned(),
                column: name.to_string(),
                zone: zone.to_string(),
            });
        }
    }
    let mut row: u64 = 0;
    loop {
        let offset = i64::try_from(row).unwrap_or(i64::MAX);
        let batch = lazy
            .clone()
            .slice(offset, BATCH)
            .collect()
            .map_err(|e| damaged(row, e))?;
        if batch.height() == 0 {
            return Ok(());
        }
        let mut columns = Vec::with_capacity(FIELDS);
        for place in places {
            let column = place.map(|place| text_column(&batch.columns()[place]));
            columns.push(column.transpose().map_err(|e| damaged(row, e))?);
        }
        let columns: Vec<Option<&StringChunked>> = columns
            .iter()
            .map(|column| column.as_ref().and_then(|column| column.str().ok()))
            .collect();
        for at in 0..batch.height() {
            row += 1;
            let mut fields: [String; FIELDS] = Default::default();
            for (field, column) in fields.iter_mut().zip(&columns) {
                if let Some(text) = column.and_then(|column| column.get(at)) {
                    text.clone_into(field);
                }
            }
            let all = || {
                let values = batch.columns().iter().map(|column| match column.get(at) {
                    Ok(AnyValue::String(text)) => text.to_owned(),
                    Ok(AnyValue::Null) | Err(_) => String::new(),
                    Ok(value) => value.to_string(),
                });
                text(values, b',')
            };
            each(RawRow {
                sheet: None,
                row,
                fields,
                broken: None,
                text: &all,
            })?;
        }
    }
}

/// A column as CSV files have its values.
fn text_column(column: &Column) -> PolarsResult<Column> {
    if matches!(column.dtype(), DataType::Datetime(..)) {
        let micros = DataType::Datetime(TimeUnit::Microseconds, None);
        return column.cast(&micros)?.cast(&DataType::String);
    }
    if !column.dtype().is_float() {
        return column.cast(&DataType::String);
    }
    // `17850` rather than `17850.0`, and nothing for NaN. An `f32` is printed as such: as an `f64`,
    // 2.55 would be 2.549999952316284.
    let texts: StringChunked = match column.f32() {
        Ok(numbers) => {
            let text = |number: f32| (!number.is_nan()).then(|| number.to_string());
            numbers.iter().map(|number| number.and_then(text)).collect()
        }
        Err(_) => {
            let text = |number: f64| (!number.is_nan()).then(|| number.to_string());
            let numbers = column.cast(&DataType::Float64)?;
            let numbers = numbers.f64()?;
            numbers.iter().map(|number| number.and_then(text)).collect()
        }
    };
    Ok(texts.into_column())
}
