//! What the stages report: for machines as JSON, for people as text.

use std::{collections::BTreeMap, fmt};

use chrono::NaiveDateTime;
use encoding_rs::UTF_8;
use serde::Serialize;

/// What ingestion made of the input.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IngestReport {
    /// Files in the order of reading.
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
    /// Its name, with its folder only if another file has the same name.
    pub file: String,
    /// Rows in it.
    pub rows: u64,
    /// Rows of it in quarantine.
    pub rejected: u64,
    /// Lines of it that repeat an earlier one in every field.
    pub duplicates: u64,
    /// Encoding of its text; `None` for a file that is not text.
    pub encoding: Option<&'static str>,
}

impl SourceReport {
    /// What may surprise the user.
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
            .map(|encoding| format!("{file} is not UTF-8 throughout and was read as {encoding}"));
        let twice = *duplicates > 0 && duplicates + rejected == *rows;
        let twice = twice
            .then(|| format!("every line of {file} repeats an earlier one: was it given twice?"));
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

/// What curation derived.
#[derive(Debug, Clone, Serialize)]
pub struct CurateReport {
    /// The tables hold lines before this instant.
    pub as_of: NaiveDateTime,
    /// Rows of each table.
    pub tables: Vec<(String, u64)>,
    /// Lines at or after the as-of time, which no table holds.
    pub later_lines: u64,
}

impl fmt::Display for CurateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "curated as of {}:", self.as_of)?;
        for (at, (table, rows)) in self.tables.iter().enumerate() {
            write!(f, "{} {rows} {table}", if at == 0 { "" } else { "," })?;
        }
        if self.later_lines > 0 {
            write!(f, "; {} later lines are left out", self.later_lines)?;
        }
        Ok(())
    }
}
