//! How files are read.

use super::{columns::ColumnMapping, parse::DateOrder};

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
    /// Names of columns with unusual names.
    pub mapping: Option<ColumnMapping>,
    /// Stock codes that are services rather than products, in any case.
    pub service_codes: Vec<String>,
    /// How dates are written; `None`: as the mapping says, or else the month first.
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
