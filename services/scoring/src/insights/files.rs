//! Names of the files of an artifact.

pub(super) const RECEIPTS: &str = "receipts.parquet";
pub(super) const LINES: &str = "lines.parquet";
pub(super) const PRODUCTS: &str = "products.parquet";
pub(super) const INVOICES: &str = "invoices.parquet";
pub(super) const CUSTOMERS: &str = "customers.parquet";
pub(super) const COUNTRIES: &str = "countries.parquet";
pub(super) const DESCRIPTIONS: &str = "descriptions.parquet";
