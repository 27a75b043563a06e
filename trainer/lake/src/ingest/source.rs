//! Files as rows of text, whatever their format. A file is known by its first bytes, not by its
//! name.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::HashSet,
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

use super::{FIELDS, columns::Columns, quotes::Quotes};
use crate::{LakeError, folder::scan};

/// A row as it came: a text for each field, empty where there is none.
pub(crate) struct RawRow<'a> {
    /// The sheet that it stands in, where the file has several.
    pub(crate) sheet: Option<&'a str>,
    /// Row in the file or its sheet, 1 the first after the header.
    pub(crate) row: u64,
    pub(crate) fields: [String; FIELDS],
    /// Why the row has no such fields.
    pub(crate) broken: Option<String>,
    /// All of it, as it would stand in a file of text.
    pub(crate) text: &'a dyn Fn() -> String,
}

impl RawRow<'_> {
    /// Where it stands, but for its row.
    pub(crate) fn place<'a>(&self, file: &'a str) -> Cow<'a, str> {
        match self.sheet {
            Some(sheet) => format!("{file}, sheet {sheet}").into(),
            None => file.into(),
        }
    }
}

/// Files to read, in order, each once: folders are searched, hidden files passed over.
pub(crate) fn files(inputs: &[PathBuf]) -> Result<Vec<PathBuf>, LakeError> {
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
    // Every file is known to be readable in kind before the first is read.
    files.iter().try_for_each(|path| format(path).map(drop))?;
    Ok(files)
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
            // Other Office files are such archives too; only a workbook opens as one.
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

/// Does what may panic, and says nothing of it to people: what they are told is what is made of it.
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

/// Hands every row of a file to `each`; says how its text is encoded, where it is a file of text.
pub(crate) fn read(
    path: &Path,
    names: &Columns,
    each: &mut dyn FnMut(RawRow<'_>) -> Result<(), LakeError>,
) -> Result<Option<&'static Encoding>, LakeError> {
    let format = format(path)?;
    // The readers of Parquet and XLSX panic on some damaged files. What they had handed over is
    // dropped with the stage.
    let read = AssertUnwindSafe(|| match format {
        Format::Text | Format::Gzip | Format::Zstd => csv(path, names, each).map(Some),
        Format::Xlsx => xlsx(path, names, each).map(|()| None),
        Format::Parquet => parquet(path, names, each).map(|()| None),
    });
    quietly(read).unwrap_or_else(|_| {
        Err(LakeError::Damaged {
            path: path.to_owned(),
            row: 0,
            reason: "its reader gave up".to_owned(),
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

/// UTF-8 where all of the file is, else Windows-1252, which is Latin-1 with quotation marks.
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
            // A character may be cut by the end of the chunk.
            Err(error) if error.error_len().is_none() => drop(tail.drain(..error.valid_up_to())),
            Err(_) => return Ok(WINDOWS_1252),
        }
        reader.consume(length);
    }
}

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
    let mut first = String::new();
    let damaged = |row, reason: String| LakeError::Damaged {
        path: path.to_owned(),
        row,
        reason,
    };
    BufReader::new(decoded()?)
        .read_line(&mut first)
        .map_err(|e| damaged(0, e.to_string()))?;
    let count = |delimiter: u8| first.bytes().filter(|byte| *byte == delimiter).count();
    let delimiter = [b',', b';', b'\t']
        .into_iter()
        .rev()
        .max_by_key(|delimiter| count(*delimiter))
        .unwrap_or(b',');

    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .buffer_capacity(1 << 20)
        .from_reader(Quotes::new(
            BufReader::with_capacity(1 << 20, decoded()?),
            delimiter,
            count(delimiter),
        ));
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
        // What is there of a broken row is kept for whoever mends it.
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

/// Fields as a line of text, quoted where they must be.
fn text(fields: impl IntoIterator<Item = impl AsRef<[u8]>>, delimiter: u8) -> String {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .from_writer(Vec::new());
    // Nothing fails that is written to memory.
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

/// A cell as the same value would stand in a CSV file.
fn cell(data: &Data) -> String {
    match data {
        Data::Empty => String::new(),
        Data::String(text) | Data::DateTimeIso(text) | Data::DurationIso(text) => text.clone(),
        Data::Int(number) => number.to_string(),
        // The shortest text that reads back as the same number: 2.55 rather than what its bits
        // stand for.
        Data::Float(number) => number.to_string(),
        Data::Bool(truth) => truth.to_string(),
        // Seconds are what times are kept to; a spreadsheet's day fraction is a little off.
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
    for (name, kind) in places
        .into_iter()
        .flatten()
        .filter_map(|place| schema.get_at_index(place))
    {
        // Stored as UTC, whatever the zone: the shop's own time is not in the file.
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
        let cast = |place: Option<usize>| -> PolarsResult<Option<Column>> {
            place
                .map(|place| {
                    let column = &batch.columns()[place];
                    if matches!(column.dtype(), DataType::Datetime(..)) {
                        let micros = DataType::Datetime(TimeUnit::Microseconds, None);
                        return column.cast(&micros)?.cast(&DataType::String);
                    }
                    if column.dtype().is_float() {
                        // As other files write numbers: 17850, and nothing for NaN.
                        let text = |number: f64| (!number.is_nan()).then(|| number.to_string());
                        let narrow = |number: f32| (!number.is_nan()).then(|| number.to_string());
                        let texts: StringChunked = match column.f32() {
                            Ok(numbers) => numbers
                                .iter()
                                .map(|number| number.and_then(narrow))
                                .collect(),
                            Err(_) => column
                                .cast(&DataType::Float64)?
                                .f64()?
                                .iter()
                                .map(|n| n.and_then(text))
                                .collect(),
                        };
                        return Ok(texts.into_column());
                    }
                    column.cast(&DataType::String)
                })
                .transpose()
        };
        let mut columns = Vec::with_capacity(FIELDS);
        for place in places {
            columns.push(cast(place).map_err(|e| damaged(row, e))?);
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
