//! Lines of files outside of any lake, to be scored.

use std::path::PathBuf;

use chrono::NaiveDateTime;
use transactions::LineKind;

use super::{
    columns::{Columns, LINE_FIELDS},
    line::{AcceptedLine, Rejection, Rules},
    options::IngestOptions,
    source,
};
use crate::error::LakeError;

/// A line of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// The content of column `line_id`. Without one, the id that the line gets in a lake of these
    /// files: its index among the accepted lines, from 0.
    pub line_id: String,
    /// What it is.
    pub kind: LineKind,
    /// The invoice.
    pub invoice: String,
    /// The product.
    pub stock_code: String,
    /// Units; below 0 for returns.
    pub quantity: i64,
    /// Price of one unit in the shop's currency.
    pub unit_price: f64,
    /// When, in the shop's own time.
    pub time: NaiveDateTime,
    /// The customer, if the line names one.
    pub customer_id: Option<String>,
}

/// Lines of files, and the rows that were rejected.
#[derive(Debug, Clone, Default)]
pub struct Transactions {
    /// In the order of the input.
    pub lines: Vec<Transaction>,
    /// Rejected rows: the file (with its sheet if it has several), the row in it (from 1) and the
    /// reason.
    pub rejected: Vec<(String, u64, Rejection)>,
}

/// Reads the lines of files, to be scored. Rows that cannot be used are returned with their file
/// and reason.
///
/// # Errors
/// [`LakeError`] if a file cannot be read.
pub fn read_transactions(
    inputs: &[PathBuf],
    options: &IngestOptions,
) -> Result<Transactions, LakeError> {
    let columns = Columns::new(options.mapping.as_ref());
    let rules = Rules::of(options);
    let mut read = Transactions::default();
    for (path, file) in source::files(inputs)? {
        source::read(&path, &columns, &mut |raw| {
            match raw.parse(&rules) {
                Ok(line) => {
                    let line_id = match raw.fields[LINE_FIELDS].trim() {
                        "" => read.lines.len().to_string(),
                        id => id.to_owned(),
                    };
                    read.lines.push(Transaction::of(line, line_id));
                }
                Err(rejection) => {
                    let place = raw.place(&file).into_owned();
                    read.rejected.push((place, raw.row, rejection));
                }
            }
            Ok(())
        })?;
    }
    Ok(read)
}

impl Transaction {
    fn of(line: AcceptedLine, line_id: String) -> Self {
        Self {
            line_id,
            kind: line.kind,
            invoice: line.invoice,
            stock_code: line.stock_code,
            quantity: line.quantity,
            unit_price: line.price.to_f64(),
            time: line.time,
            customer_id: line.customer,
        }
    }
}
