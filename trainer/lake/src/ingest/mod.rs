//! From files to typed, labelled lines. Nothing is lost: a row is either accepted or in quarantine
//! with its reason.

mod columns;
mod parse;
mod quotes;
mod source;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use chrono::NaiveDateTime;
use encoding_rs::{Encoding, UTF_8};
use polars::{io::parquet::write::BatchedWriter, prelude::*};
use serde::Serialize;

use columns::Columns;
pub use columns::{ColumnMapping, place_of};
pub use parse::DateOrder;
use source::RawRow;

use crate::{
    Lake, LakeError, Progress,
    folder::{Staged, disk_or_table},
};

/// Fields that are read of a row: those of a line, and its number where it has one.
pub(crate) const FIELDS: usize = 9;
/// Fields of a line.
const LINE_FIELDS: usize = 8;

/// Rows that are in memory at once.
const BATCH: usize = 1 << 16;

/// What all lines may amount to, in ten-thousandths: no sum of any of them leaves 64 bits.
const MOST_MONEY: i64 = 1 << 62;

/// Stock codes that are services rather than products: postage, manual entries, discounts, samples,
/// fees, gifts to charity, vouchers.
pub const SERVICE_CODES: [&str; 14] = [
    "POST",
    "DOT",
    "M",
    "D",
    "S",
    "B",
    "C2",
    "C3",
    "PADS",
    "CRUK",
    "BANK CHARGES",
    "AMAZONFEE",
    "ADJUST",
    "ADJUST2",
];

/// How files are read.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Names of columns whose spellings are unusual.
    pub mapping: Option<ColumnMapping>,
    /// Stock codes that are services rather than products, whatever their case.
    pub service_codes: Vec<String>,
    /// How dates are written; `None`: as the mapping says, else the month first.
    pub date_order: Option<DateOrder>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            mapping: None,
            service_codes: SERVICE_CODES.map(str::to_owned).to_vec(),
            date_order: None,
        }
    }
}

/// Share of rows whose dates must be in another order than was assumed for the assumption to be
/// wrong.
const MISREAD: f64 = 0.01;
/// What is said of such a date, before the other order's name.
const MEANT: &str = "is --date-order";

/// How the fields of a row are understood.
struct Rules {
    /// In capitals.
    service_codes: HashSet<String>,
    date_order: DateOrder,
    /// Whether somebody has said so.
    is_said: bool,
}

impl Rules {
    fn of(options: &IngestOptions) -> Self {
        let mapped = options
            .mapping
            .as_ref()
            .and_then(|mapping| mapping.date_order);
        Self {
            service_codes: options
                .service_codes
                .iter()
                .map(|code| code.to_ascii_uppercase())
                .collect(),
            date_order: options.date_order.or(mapped).unwrap_or_default(),
            is_said: options.date_order.or(mapped).is_some(),
        }
    }
}

/// Names of files, without the folder where that is enough to tell them apart.
fn names_of(files: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    files
        .iter()
        .for_each(|path| *count.entry(short(path)).or_default() += 1);
    let name = |path: &PathBuf| match short(path) {
        name if count.get(&name).is_some_and(|count| *count > 1) => path.display().to_string(),
        name => name,
    };
    files.iter().map(name).collect()
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A product was sold.
    Sale,
    /// An earlier sale was taken back: the invoice starts with C.
    Cancellation,
    /// The books or the stock were put right: the invoice starts with A, nothing was paid, or
    /// pieces left without a cancellation.
    Adjustment,
    /// Postage, fees, discounts, manual entries.
    Service,
}

impl Kind {
    /// The name in the tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Cancellation => "cancellation",
            Self::Adjustment => "adjustment",
            Self::Service => "service",
        }
    }

    /// The rule, in order: the invoice's letter, the stock code, the signs.
    fn of(
        invoice: &str,
        stock_code: &str,
        quantity: i64,
        price: i64,
        service_codes: &HashSet<String>,
    ) -> Self {
        let starts_with = |letter: char| {
            invoice.starts_with(letter) || invoice.starts_with(letter.to_ascii_lowercase())
        };
        if starts_with('A') {
            Self::Adjustment
        } else if starts_with('C') {
            Self::Cancellation
        } else if service_codes.contains(&stock_code.to_ascii_uppercase()) {
            Self::Service
        } else if quantity <= 0 || price <= 0 {
            Self::Adjustment
        } else {
            Self::Sale
        }
    }
}

/// Why a row is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A line of a file, outside of any lake.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// Its number, where the file has a column `line_id`; else the one that it gets in a lake of
    /// these files: its place among the lines, 0 the first.
    pub line_id: String,
    /// What it is.
    pub kind: Kind,
    /// The invoice.
    pub invoice: String,
    /// The product.
    pub stock_code: String,
    /// Pieces; below 0 for returns.
    pub quantity: i64,
    /// Price of a piece, shop currency.
    pub unit_price: f64,
    /// When, in the shop's own time.
    pub time: NaiveDateTime,
    /// Who bought, where that is known.
    pub customer_id: Option<String>,
}

/// Lines of files, and the rows that are none.
#[derive(Debug, Clone, Default)]
pub struct Transactions {
    /// In the order of the input.
    pub lines: Vec<Transaction>,
    /// File, with its sheet where it has several, row in it, 1 the first, and why it cannot be
    /// used.
    pub rejected: Vec<(String, u64, Rejection)>,
}

/// Reads the lines of files, to be scored. Rows that cannot be used are handed back with their
/// reason and file.
///
/// # Errors
/// [`LakeError`] where a file cannot be read.
pub fn read_transactions(
    inputs: &[PathBuf],
    options: &IngestOptions,
) -> Result<Transactions, LakeError> {
    let names = Columns::new(options.mapping.as_ref());
    let rules = Rules::of(options);
    let mut read = Transactions::default();
    let files = source::files(inputs)?;
    for (path, file) in files.iter().zip(names_of(&files)) {
        source::read(path, &names, &mut |raw| {
            let place = raw.place(&file);
            let RawRow {
                row,
                fields,
                broken,
                ..
            } = raw;
            let parsed = match broken {
                Some(reason) => Err(Rejection {
                    field: "row",
                    reason,
                }),
                None => parse_line(&fields, &rules),
            };
            match parsed {
                Err(rejection) => read.rejected.push((place.into_owned(), row, rejection)),
                Ok((line, _)) => read.lines.push(Transaction {
                    line_id: match fields[LINE_FIELDS].trim() {
                        "" => read.lines.len().to_string(),
                        id => id.to_owned(),
                    },
                    kind: line.kind,
                    invoice: line.invoice,
                    stock_code: line.stock_code,
                    quantity: line.quantity,
                    unit_price: line.price as f64 / parse::SCALE as f64,
                    time: line.time,
                    customer_id: line.customer,
                }),
            }
            Ok(())
        })?;
    }
    Ok(read)
}

/// What came of the input.
#[derive(Debug, Clone, Serialize)]
pub struct IngestReport {
    /// Files, in the order in which they were read.
    pub sources: Vec<SourceReport>,
    /// Rows in all files.
    pub rows: u64,
    /// Rows that became lines.
    pub accepted: u64,
    /// Rows in quarantine.
    pub rejected: u64,
    /// Rows in quarantine by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Lines by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Lines that repeat an earlier one in every field.
    pub duplicates: u64,
    /// Lines without a customer.
    pub without_customer: u64,
    /// Prices with more than four decimals, rounded half to even.
    pub rounded_prices: u64,
    /// Time of the first line.
    pub first: Option<NaiveDateTime>,
    /// Time of the last line.
    pub last: Option<NaiveDateTime>,
}

/// A file that was read.
#[derive(Debug, Clone, Serialize)]
pub struct SourceReport {
    /// Its name, without the folder where that is enough to tell it from the others.
    pub file: String,
    /// Rows in it.
    pub rows: u64,
    /// Rows of it in quarantine.
    pub rejected: u64,
    /// Lines of it that repeat an earlier one in every field.
    pub duplicates: u64,
    /// How its text is encoded; none where it is no file of text.
    pub encoding: Option<&'static str>,
}

impl SourceReport {
    /// What somebody should know who expects something else.
    fn notes(&self) -> impl Iterator<Item = String> {
        let Self {
            file,
            rows,
            rejected,
            duplicates,
            encoding,
        } = self;
        let other = encoding.filter(|encoding| *encoding != UTF_8.name());
        let other = other
            .map(|encoding| format!("{file} is not UTF-8 throughout: it is read as {encoding}"));
        let twice = *duplicates > 0 && duplicates + rejected == *rows;
        let twice = twice
            .then(|| format!("every line of {file} repeats an earlier one: is it given twice?"));
        other.into_iter().chain(twice)
    }
}

impl fmt::Display for IngestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sources,
            rows,
            accepted,
            rejected,
            duplicates,
            without_customer,
            ..
        } = self;
        writeln!(
            f,
            "{rows} rows in {} files: {accepted} lines, {rejected} in quarantine",
            sources.len()
        )?;
        for (reason, count) in &self.reasons {
            writeln!(f, "  quarantined: {count} {reason}")?;
        }
        let kinds: Vec<_> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        writeln!(f, "lines: {}", kinds.join(", "))?;
        write!(
            f,
            "{duplicates} repeat an earlier line, {without_customer} have no customer"
        )?;
        if let (Some(first), Some(last)) = (self.first, self.last) {
            write!(f, "; from {first} to {last}")?;
        }
        for note in sources.iter().flat_map(SourceReport::notes) {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

/// Reads files into the lake: `raw`, `quarantine`, `processed`. The same input gives the same
/// bytes.
///
/// # Errors
/// [`LakeError`]; the lake is as it was.
pub fn ingest(
    inputs: &[PathBuf],
    lake: &Lake,
    options: &IngestOptions,
    progress: &dyn Progress,
) -> Result<IngestReport, LakeError> {
    let lake = &lake.hold()?;
    let files = source::files(inputs)?;
    let names = Columns::new(options.mapping.as_ref());
    let staged = ["raw", "quarantine", "processed"].map(|name| Staged::new(lake.root().join(name)));
    let [raw, quarantine, processed] = staged;
    let (raw, quarantine, processed) = (raw?, quarantine?, processed?);
    let mut writers = Writers {
        raw: Writer::new(raw.path("rows.parquet")),
        quarantine: Writer::new(quarantine.path("rows.parquet")),
        processed: Writer::new(processed.path("lines.parquet")),
    };

    progress.begin("ingest: rows", None);
    let mut ingestion = Ingestion::new(Rules::of(options));
    let mut rows: u64 = 0;
    for (path, file) in files.iter().zip(names_of(&files)) {
        let IngestReport {
            rejected,
            duplicates,
            ..
        } = ingestion.report;
        let before = rows;
        let encoding = source::read(path, &names, &mut |row| {
            rows += 1;
            ingestion.row(&file, row);
            if ingestion.lines.len() + ingestion.rejects.len() >= BATCH {
                progress.advance((ingestion.lines.len() + ingestion.rejects.len()) as u64);
                ingestion.flush(&mut writers)?;
            }
            Ok(())
        })?;
        ingestion.report.sources.push(SourceReport {
            file,
            rows: rows - before,
            rejected: ingestion.report.rejected - rejected,
            duplicates: ingestion.report.duplicates - duplicates,
            encoding: encoding.map(Encoding::name),
        });
    }
    ingestion.flush(&mut writers)?;
    progress.end();

    let mut report = ingestion.report;
    report.rows = rows;
    if report.accepted + report.rejected != rows {
        return Err(LakeError::Unaccounted {
            rows_in: rows,
            rows_out: report.accepted + report.rejected,
        });
    }
    let misread = report
        .reasons
        .iter()
        .filter(|(reason, _)| reason.contains(MEANT))
        .map(|(_, count)| count)
        .sum::<u64>();
    if !ingestion.rules.is_said && misread > 0 && misread as f64 >= MISREAD * rows as f64 {
        let [read, other] = [
            ingestion.rules.date_order,
            ingestion.rules.date_order.other(),
        ]
        .map(DateOrder::first);
        return Err(LakeError::DateOrder {
            unreadable: misread,
            rows,
            read,
            other,
        });
    }
    if report.accepted == 0 {
        let example = ingestion
            .first_rejection
            .unwrap_or_else(|| "there are no rows".to_owned());
        return Err(LakeError::NothingUsable { rows, example });
    }
    writers.raw.finish()?;
    writers.quarantine.finish()?;
    writers.processed.finish()?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    processed.write("report.json", &text)?;
    // Lines last: they are what the next stage reads.
    raw.swap()?;
    quarantine.swap()?;
    processed.swap()?;
    Ok(report)
}

struct Line {
    invoice: String,
    stock_code: String,
    description: Option<String>,
    quantity: i64,
    time: NaiveDateTime,
    price: i64,
    customer: Option<String>,
    country: String,
    kind: Kind,
    duplicate: bool,
}

impl Line {
    /// Quantity times price; that it fits was checked when the line was read.
    fn total(&self) -> i64 {
        self.quantity.saturating_mul(self.price)
    }
}

struct Reject {
    file: String,
    row: u64,
    rejection: Rejection,
    text: String,
}

struct Ingestion {
    rules: Rules,
    seen: HashSet<u128>,
    /// Ten-thousandths of all lines, whatever their signs.
    money: i64,
    report: IngestReport,
    first_rejection: Option<String>,
    raw: Vec<(String, u64, [String; FIELDS])>,
    lines: Vec<Line>,
    rejects: Vec<Reject>,
    flushed: i64,
}

impl Ingestion {
    fn new(rules: Rules) -> Self {
        let report = IngestReport {
            sources: Vec::new(),
            rows: 0,
            accepted: 0,
            rejected: 0,
            reasons: BTreeMap::new(),
            kinds: BTreeMap::new(),
            duplicates: 0,
            without_customer: 0,
            rounded_prices: 0,
            first: None,
            last: None,
        };
        Self {
            rules,
            seen: HashSet::new(),
            money: 0,
            report,
            first_rejection: None,
            raw: Vec::new(),
            lines: Vec::new(),
            rejects: Vec::new(),
            flushed: 0,
        }
    }

    fn row(&mut self, file: &str, raw: RawRow<'_>) {
        let file = raw.place(file).into_owned();
        let RawRow {
            row,
            fields,
            broken,
            text,
            ..
        } = raw;
        let parsed = match broken {
            Some(reason) => Err(Rejection {
                field: "row",
                reason,
            }),
            None => self.line(&fields),
        };
        match parsed {
            Ok(line) => {
                self.report.accepted += 1;
                *self.report.kinds.entry(line.kind.as_str()).or_default() += 1;
                self.report.duplicates += u64::from(line.duplicate);
                self.report.without_customer += u64::from(line.customer.is_none());
                self.report.first = Some(
                    self.report
                        .first
                        .map_or(line.time, |first| first.min(line.time)),
                );
                self.report.last = Some(
                    self.report
                        .last
                        .map_or(line.time, |last| last.max(line.time)),
                );
                self.lines.push(line);
            }
            Err(rejection) => {
                self.report.rejected += 1;
                let kind = match rejection.reason.split_once('`') {
                    Some((before, _)) => format!("{} {}", rejection.field, before.trim()),
                    None => format!("{} {}", rejection.field, rejection.reason),
                };
                *self.report.reasons.entry(kind).or_default() += 1;
                if self.first_rejection.is_none() {
                    self.first_rejection = Some(format!(
                        "{file}, row {row}: {} {}",
                        rejection.field, rejection.reason
                    ));
                }
                self.rejects.push(Reject {
                    file: file.clone(),
                    row,
                    rejection,
                    text: text(),
                });
            }
        }
        self.raw.push((file, row, fields));
    }

    fn line(&mut self, fields: &[String; FIELDS]) -> Result<Line, Rejection> {
        let (line, rounded) = parse_line(fields, &self.rules)?;
        let money = self.money.saturating_add(line.total().saturating_abs());
        if money > MOST_MONEY {
            let [_, _, _, quantity, _, price, ..] = fields;
            let reason = format!(
                "is too large beside those before it: `{} times {}`",
                quantity.trim(),
                price.trim()
            );
            return Err(Rejection {
                field: "line total",
                reason,
            });
        }
        self.money = money;
        self.report.rounded_prices += u64::from(rounded);
        let hash = |salt: u8| {
            let Line {
                invoice,
                stock_code,
                description,
                quantity,
                time,
                price,
                customer,
                country,
                ..
            } = &line;
            let mut hasher = DefaultHasher::new();
            (
                salt,
                invoice,
                stock_code,
                description,
                quantity,
                time,
                price,
                customer,
                country,
            )
                .hash(&mut hasher);
            u128::from(hasher.finish())
        };
        let duplicate = !self.seen.insert(hash(0) << 64 | hash(1));
        Ok(Line { duplicate, ..line })
    }

    fn flush(&mut self, to: &mut Writers) -> Result<(), LakeError> {
        let lines = std::mem::take(&mut self.lines);
        let ids: Vec<i64> = (self.flushed..).take(lines.len()).collect();
        self.flushed += i64::try_from(lines.len()).unwrap_or(i64::MAX);
        to.processed.write(&table(&ids, &lines)?)?;

        let rejects = std::mem::take(&mut self.rejects);
        to.quarantine.write(&DataFrame::new_infer_height(vec![
            column("file", rejects.iter().map(|r| r.file.as_str())),
            Column::new(
                "row".into(),
                rejects.iter().map(|r| r.row).collect::<Vec<_>>(),
            ),
            column("field", rejects.iter().map(|r| r.rejection.field)),
            column(
                "reason",
                rejects.iter().map(|r| r.rejection.reason.as_str()),
            ),
            column("text", rejects.iter().map(|r| r.text.as_str())),
        ])?)?;

        let raw = std::mem::take(&mut self.raw);
        let names = [
            "invoice",
            "stock_code",
            "description",
            "quantity",
            "invoice_date",
            "unit_price",
            "customer_id",
            "country",
        ];
        let mut columns = vec![
            column("file", raw.iter().map(|(file, ..)| file.as_str())),
            Column::new(
                "row".into(),
                raw.iter().map(|(_, row, _)| *row).collect::<Vec<_>>(),
            ),
        ];
        for (field, name) in names.into_iter().enumerate() {
            columns.push(column(
                name,
                raw.iter().map(|(.., fields)| fields[field].as_str()),
            ));
        }
        to.raw.write(&DataFrame::new_infer_height(columns)?)
    }
}

/// A row as a line, and whether its price was rounded.
fn parse_line(fields: &[String; FIELDS], rules: &Rules) -> Result<(Line, bool), Rejection> {
    let [
        invoice,
        stock_code,
        description,
        quantity,
        time,
        price,
        customer,
        country,
        _,
    ] = fields;
    let refuse = |field, text: &str, problem: &str| match text.trim() {
        "" => Rejection {
            field,
            reason: "is missing".to_owned(),
        },
        text => Rejection {
            field,
            reason: format!("{problem} `{text}`"),
        },
    };
    let invoice = parse::code(invoice).ok_or_else(|| refuse("invoice", invoice, ""))?;
    let stock_code = parse::code(stock_code).ok_or_else(|| refuse("stock code", stock_code, ""))?;
    let pieces = parse::quantity(quantity)
        .ok_or_else(|| refuse("quantity", quantity, "is no whole number:"))?;
    let no_date = || match (
        parse::time(time, rules.date_order.other()),
        rules.date_order,
    ) {
        (None, _) => "is no date:".to_owned(),
        (Some(_), read) => {
            format!(
                "is no date with the {} first; {MEANT} {}-first meant?",
                read.first(),
                read.other().first()
            )
        }
    };
    let time = parse::time(time, rules.date_order)
        .ok_or_else(|| refuse("invoice date", time, &no_date()))?;
    let (money, rounded) =
        parse::price(price).ok_or_else(|| refuse("unit price", price, "is no price:"))?;
    let total = pieces
        .checked_mul(money)
        .filter(|total| total.abs() < 1_000_000_000_000_000_000);
    let both = || format!("{} times {}", quantity.trim(), price.trim());
    total.ok_or_else(|| refuse("line total", &both(), "is too large:"))?;
    let kind = Kind::of(invoice, stock_code, pieces, money, &rules.service_codes);
    if kind == Kind::Cancellation && pieces > 0 {
        return Err(refuse(
            "quantity",
            quantity,
            "is above 0 in a cancellation:",
        ));
    }
    if kind == Kind::Cancellation && money < 0 {
        return Err(refuse("unit price", price, "is below 0 in a cancellation:"));
    }
    let customer = parse::customer_id(customer);
    let country = Some(country.trim())
        .filter(|country| !country.is_empty())
        .unwrap_or("Unspecified");
    let description = Some(description.trim()).filter(|description| !description.is_empty());
    let line = Line {
        kind,
        invoice: invoice.to_owned(),
        stock_code: stock_code.to_owned(),
        description: description.map(str::to_owned),
        quantity: pieces,
        time,
        price: money,
        customer: customer.map(str::to_owned),
        country: country.to_owned(),
        duplicate: false,
    };
    Ok((line, rounded))
}

fn column<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
    Column::new(name.into(), values.collect::<Vec<_>>())
}

/// Money: ten-thousandths as a decimal number with four places.
fn money(name: &str, values: Vec<i64>) -> Result<Column, LakeError> {
    let values: Int128Chunked =
        ChunkedArray::from_vec(name.into(), values.into_iter().map(i128::from).collect());
    Ok(values
        .into_decimal_unchecked(18, 4)
        .into_series()
        .into_column())
}

fn table(ids: &[i64], lines: &[Line]) -> Result<DataFrame, LakeError> {
    let times: Vec<i64> = lines
        .iter()
        .map(|line| line.time.and_utc().timestamp_micros())
        .collect();
    let micros = DataType::Datetime(TimeUnit::Microseconds, None);
    Ok(DataFrame::new_infer_height(vec![
        Column::new("line_id".into(), ids),
        column("invoice", lines.iter().map(|l| l.invoice.as_str())),
        column("stock_code", lines.iter().map(|l| l.stock_code.as_str())),
        Column::new(
            "description".into(),
            lines
                .iter()
                .map(|l| l.description.as_deref())
                .collect::<Vec<_>>(),
        ),
        Column::new(
            "quantity".into(),
            lines.iter().map(|l| l.quantity).collect::<Vec<_>>(),
        ),
        Column::new("invoice_time".into(), times).cast(&micros)?,
        money("unit_price", lines.iter().map(|l| l.price).collect())?,
        Column::new(
            "customer_id".into(),
            lines
                .iter()
                .map(|l| l.customer.as_deref())
                .collect::<Vec<_>>(),
        ),
        column("country", lines.iter().map(|l| l.country.as_str())),
        column("kind", lines.iter().map(|l| l.kind.as_str())),
        Column::new(
            "is_duplicate".into(),
            lines.iter().map(|l| l.duplicate).collect::<Vec<_>>(),
        ),
        money("line_total", lines.iter().map(Line::total).collect())?,
    ])?)
}

struct Writers {
    raw: Writer,
    quarantine: Writer,
    processed: Writer,
}

/// A Parquet file that grows by batches.
struct Writer {
    path: PathBuf,
    file: Option<(BatchedWriter<File>, File)>,
}

impl Writer {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn write(&mut self, batch: &DataFrame) -> Result<(), LakeError> {
        let path: &Path = &self.path;
        if self.file.is_none() {
            let file = File::create(path).map_err(LakeError::disk("write", path))?;
            let synced = file.try_clone().map_err(LakeError::disk("write", path))?;
            let writer = ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None));
            let writer = writer
                .batched(batch.schema())
                .map_err(|e| disk_or_table(e, path))?;
            self.file = Some((writer, synced));
        }
        match &mut self.file {
            Some((writer, _)) => writer
                .write_batch(batch)
                .map_err(|e| disk_or_table(e, path)),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<(), LakeError> {
        let Some((writer, file)) = self.file else {
            return Ok(());
        };
        writer.finish().map_err(|e| disk_or_table(e, &self.path))?;
        file.sync_all()
            .map_err(LakeError::disk("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_its_invoice_code_and_signs_say() {
        let codes = SERVICE_CODES
            .iter()
            .map(|code| (*code).to_owned())
            .collect();
        for (invoice, stock_code, quantity, price, kind) in [
            ("536365", "85123A", 6, 25_500, Kind::Sale),
            ("C536379", "85123A", -1, 25_500, Kind::Cancellation),
            ("C536379", "M", -1, 25_500, Kind::Cancellation),
            ("A563186", "B", 1, -110_620_600, Kind::Adjustment),
            ("536365", "POST", 1, 180_000, Kind::Service),
            ("536365", "m", 1, 180_000, Kind::Service),
            ("536365", "85123A", -6, 0, Kind::Adjustment),
            ("536365", "85123A", 6, 0, Kind::Adjustment),
        ] {
            assert_eq!(
                Kind::of(invoice, stock_code, quantity, price, &codes),
                kind,
                "{invoice} {stock_code}"
            );
        }
    }
}
