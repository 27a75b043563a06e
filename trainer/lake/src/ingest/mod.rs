//! From files to typed, labelled lines. Every row becomes a line or goes into quarantine with its
//! reason; none is lost.

mod columns;
mod line;
mod options;
mod parse;
mod quotes;
mod read;
mod source;
mod writer;

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    path::PathBuf,
};

use encoding_rs::Encoding;
use transactions::Money;

pub use columns::{ColumnMapping, place_of};
pub use line::Rejection;
pub use options::{IngestOptions, SERVICE_CODES};
pub use parse::DateOrder;
pub use read::{Transaction, Transactions, read_transactions};

use crate::{
    error::LakeError,
    lake::Lake,
    progress::Progress,
    report::{IngestReport, SourceReport},
    staged::Staged,
};
use columns::Columns;
use line::{AcceptedLine, EXCHANGED, Rules};
use source::RawRow;
use writer::{Raw, Rejected, Writer, line_table, quarantine_table, raw_table};

/// Rows held in memory at once.
const BATCH: usize = 1 << 16;

/// The most that the totals of all lines may add up to regardless of sign, so that no sum of any of
/// them exceeds 64 bits.
const SUM_LIMIT: Money = Money::from_ten_thousandths(1 << 62);

/// Share of rows with a date that is valid only with day and month exchanged, above which the
/// assumed order is taken to be wrong.
const EXCHANGED_SHARE: f64 = 0.01;

/// Reads files into the lake: `raw`, `quarantine`, `processed`. The same input gives the same
/// bytes.
///
/// # Errors
/// [`LakeError`]; the lake is then unchanged.
pub fn ingest(
    inputs: &[PathBuf],
    lake: &Lake,
    options: &IngestOptions,
    progress: &dyn Progress,
) -> Result<IngestReport, LakeError> {
    let lake = &lake.lock()?;
    let files = source::files(inputs)?;
    let columns = Columns::new(options.mapping.as_ref());
    let stage = |name| Staged::new(lake.root().join(name));
    let (raw, quarantine) = (stage("raw")?, stage("quarantine")?);
    let processed = stage("processed")?;
    let mut writers = Writers {
        raw: Writer::new(raw.path("rows.parquet")),
        quarantine: Writer::new(quarantine.path("rows.parquet")),
        processed: Writer::new(processed.path("lines.parquet")),
    };

    progress.begin("ingest: rows", None);
    let mut ingestion = Ingestion::new(Rules::of(options));
    for (path, file) in files {
        let before = ingestion.report.clone();
        let encoding = source::read(&path, &columns, &mut |row| {
            ingestion.push(&file, row);
            if ingestion.raw.len() >= BATCH {
                progress.advance(ingestion.raw.len() as u64);
                ingestion.flush(&mut writers)?;
            }
            Ok(())
        })?;
        let report = &mut ingestion.report;
        report.sources.push(SourceReport {
            file,
            rows: report.rows - before.rows,
            rejected: report.rejected - before.rejected,
            duplicates: report.duplicates - before.duplicates,
            encoding: encoding.map(Encoding::name),
        });
    }
    ingestion.flush(&mut writers)?;
    progress.end();

    let report = ingestion.checked()?;
    writers.raw.finish()?;
    writers.quarantine.finish()?;
    writers.processed.finish()?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    processed.write("report.json", &text)?;
    // The lines last: the next stage reads them.
    raw.swap()?;
    quarantine.swap()?;
    processed.swap()?;
    Ok(report)
}

struct Writers {
    raw: Writer,
    quarantine: Writer,
    processed: Writer,
}

/// What was read so far.
struct Ingestion {
    rules: Rules,
    report: IngestReport,
    /// Hashes of all lines.
    seen: HashSet<u128>,
    /// Totals of all lines, each without its sign.
    sum: Money,
    first_rejection: Option<String>,
    /// Lines that were written.
    flushed: i64,
    // Rows that are not written yet:
    raw: Vec<Raw>,
    lines: Vec<AcceptedLine>,
    rejected: Vec<Rejected>,
}

impl Ingestion {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            report: IngestReport::default(),
            seen: HashSet::new(),
            sum: Money::ZERO,
            first_rejection: None,
            flushed: 0,
            raw: Vec::new(),
            lines: Vec::new(),
            rejected: Vec::new(),
        }
    }

    fn push(&mut self, file: &str, raw: RawRow<'_>) {
        let file = raw.place(file).into_owned();
        match self.line(&raw) {
            Ok(line) => self.accept(line),
            Err(rejection) => self.reject(Rejected {
                file: file.clone(),
                row: raw.row,
                rejection,
                text: (raw.text)(),
            }),
        }
        self.report.rows += 1;
        self.raw.push(Raw {
            file,
            row: raw.row,
            fields: raw.fields,
        });
    }

    /// The row as a line, checked against the lines before it.
    fn line(&mut self, raw: &RawRow<'_>) -> Result<AcceptedLine, Rejection> {
        let mut line = raw.parse(&self.rules)?;
        let size = line.total().checked_abs();
        let sum = size.and_then(|size| self.sum.checked_add(size));
        let Some(sum) = sum.filter(|sum| *sum <= SUM_LIMIT) else {
            let [_, _, _, quantity, _, price, ..] = &raw.fields;
            let reason = format!(
                "is too large beside those before it: `{} times {}`",
                quantity.trim(),
                price.trim()
            );
            return Err(Rejection {
                field: "line total",
                reason,
            });
        };
        self.sum = sum;
        line.is_duplicate = !self.seen.insert(fingerprint(&line));
        Ok(line)
    }

    fn accept(&mut self, line: AcceptedLine) {
        let report = &mut self.report;
        report.accepted += 1;
        *report.kinds.entry(line.kind.as_str()).or_default() += 1;
        report.duplicates += u64::from(line.is_duplicate);
        report.without_customer += u64::from(line.customer.is_none());
        report.rounded_prices += u64::from(line.price_was_rounded);
        report.first = Some(report.first.map_or(line.time, |first| first.min(line.time)));
        report.last = Some(report.last.map_or(line.time, |last| last.max(line.time)));
        self.lines.push(line);
    }

    fn reject(&mut self, rejected: Rejected) {
        let Rejection { field, reason } = &rejected.rejection;
        self.report.rejected += 1;
        // Reasons are counted without the content that they quote.
        let reason_alone = match reason.split_once('`') {
            Some((before, _)) => before.trim(),
            None => reason.as_str(),
        };
        let reasons = &mut self.report.reasons;
        *reasons
            .entry(format!("{field} {reason_alone}"))
            .or_default() += 1;
        if self.first_rejection.is_none() {
            let Rejected { file, row, .. } = &rejected;
            self.first_rejection = Some(format!("{file}, row {row}: {field} {reason}"));
        }
        self.rejected.push(rejected);
    }

    fn flush(&mut self, to: &mut Writers) -> Result<(), LakeError> {
        let lines = mem::take(&mut self.lines);
        to.processed.write(&line_table(self.flushed, &lines)?)?;
        self.flushed += i64::try_from(lines.len()).unwrap_or(i64::MAX);
        to.quarantine
            .write(&quarantine_table(&mem::take(&mut self.rejected))?)?;
        to.raw.write(&raw_table(&mem::take(&mut self.raw))?)
    }

    /// The report, unless the input as a whole cannot be used.
    fn checked(self) -> Result<IngestReport, LakeError> {
        let Self { rules, report, .. } = self;
        let rows = report.rows;
        let rows_out = report.accepted + report.rejected;
        if rows_out != rows {
            return Err(LakeError::Unaccounted {
                rows_in: rows,
                rows_out,
            });
        }
        let exchanged = report.reasons.iter();
        let exchanged = exchanged.filter(|(reason, _)| reason.contains(EXCHANGED));
        let unreadable: u64 = exchanged.map(|(_, count)| count).sum();
        let is_many = unreadable > 0 && unreadable as f64 >= EXCHANGED_SHARE * rows as f64;
        if is_many && !rules.date_order_is_given {
            return Err(LakeError::DateOrder {
                unreadable,
                rows,
                read: rules.date_order.first(),
                other: rules.date_order.other().first(),
            });
        }
        if report.accepted == 0 {
            let example = self.first_rejection;
            return Err(LakeError::NothingUsable {
                rows,
                example: example.unwrap_or_else(|| "there are no rows".to_owned()),
            });
        }
        Ok(report)
    }
}

/// Equal for lines that are equal in every field but the kind, which follows from the others.
///
/// Two hashes of 64 bits each: with one alone, two of 100 million different lines would collide
/// with a probability of 1 in 4,000.
fn fingerprint(line: &AcceptedLine) -> u128 {
    let hash = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        let AcceptedLine {
            invoice,
            stock_code,
            description,
            quantity,
            time,
            price,
            customer,
            country,
            ..
        } = line;
        let product = (stock_code, description);
        (
            salt, invoice, product, quantity, time, price, customer, country,
        )
            .hash(&mut hasher);
        u128::from(hasher.finish())
    };
    hash(0) << 64 | hash(1)
}
