//! A line of the curated table `transactions`.

use crate::{LineKind, Money, MoneyError, UnknownLineKind};

/// A line of an invoice, as the curated table `transactions` has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line<'a> {
    /// The line's number among all lines, from 0.
    pub id: i64,
    /// The invoice.
    pub invoice: &'a str,
    /// The product.
    pub stock_code: &'a str,
    /// What the line calls the product.
    pub description: Option<&'a str>,
    /// Units; below 0 for returns.
    pub quantity: i64,
    /// Microseconds since 1970 in the shop's own time.
    pub time: i64,
    /// Price of one unit.
    pub unit_price: Money,
    /// The customer, if the line names one.
    pub customer: Option<&'a str>,
    /// Country of delivery.
    pub country: &'a str,
    /// What the line is.
    pub kind: LineKind,
    /// Whether it repeats an earlier line in every field.
    pub is_duplicate: bool,
}

/// A row of the table before it is checked: any value may be missing or out of range.
#[derive(Debug, Clone, Copy, Default)]
pub struct UncheckedLine<'a> {
    /// Column `line_id`.
    pub line_id: Option<i64>,
    /// Column `invoice`.
    pub invoice: Option<&'a str>,
    /// Column `stock_code`.
    pub stock_code: Option<&'a str>,
    /// Column `description`, the first of two that may be missing.
    pub description: Option<&'a str>,
    /// Column `quantity`.
    pub quantity: Option<i64>,
    /// Column `invoice_time`, microseconds since 1970.
    pub invoice_time: Option<i64>,
    /// Column `unit_price`, ten-thousandths of the shop's currency.
    pub unit_price: Option<i128>,
    /// Column `customer_id`, the second of two that may be missing.
    pub customer_id: Option<&'a str>,
    /// Column `country`.
    pub country: Option<&'a str>,
    /// Column `kind`.
    pub kind: Option<&'a str>,
    /// Column `is_duplicate`.
    pub is_duplicate: Option<bool>,
    /// Column `line_total`, ten-thousandths of the shop's currency.
    pub line_total: Option<i128>,
}

/// Why a row of the table is not a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A column that every line has is empty.
    #[error("{column} is missing")]
    Missing {
        /// The column.
        column: &'static str,
    },
    /// The kind is unknown.
    #[error("kind {0}")]
    Kind(#[from] UnknownLineKind),
    /// The price does not fit.
    #[error("unit_price {0}")]
    Price(#[from] MoneyError),
    /// The total is not the quantity times the price.
    #[error("line_total is not quantity times unit_price")]
    Total,
}

impl Line<'_> {
    /// Names of the table's columns, in order.
    pub const COLUMNS: [&'static str; 12] = [
        "line_id",
        "invoice",
        "stock_code",
        "description",
        "quantity",
        "invoice_time",
        "unit_price",
        "customer_id",
        "country",
        "kind",
        "is_duplicate",
        "line_total",
    ];

    /// Quantity times price.
    pub fn total(&self) -> Money {
        self.unit_price * self.quantity
    }
}

impl<'a> TryFrom<UncheckedLine<'a>> for Line<'a> {
    type Error = LineError;

    fn try_from(row: UncheckedLine<'a>) -> Result<Self, LineError> {
        fn present<T>(value: Option<T>, column: &'static str) -> Result<T, LineError> {
            value.ok_or(LineError::Missing { column })
        }
        let line = Self {
            id: present(row.line_id, "line_id")?,
            invoice: present(row.invoice, "invoice")?,
            stock_code: present(row.stock_code, "stock_code")?,
            description: row.description,
            quantity: present(row.quantity, "quantity")?,
            time: present(row.invoice_time, "invoice_time")?,
            unit_price: present(row.unit_price, "unit_price")?.try_into()?,
            customer: row.customer_id,
            country: present(row.country, "country")?,
            kind: present(row.kind, "kind")?.parse()?,
            is_duplicate: present(row.is_duplicate, "is_duplicate")?,
        };
        let written = present(row.line_total, "line_total")?;
        match line.unit_price.checked_mul(line.quantity) {
            Some(total) if i128::from(total.ten_thousandths()) == written => Ok(line),
            Some(_) | None => Err(LineError::Total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: UncheckedLine<'_> = UncheckedLine {
        line_id: Some(7),
        invoice: Some("536365"),
        stock_code: Some("85123A"),
        description: None,
        quantity: Some(6),
        invoice_time: Some(1_291_191_960_000_000),
        unit_price: Some(25_500),
        customer_id: None,
        country: Some("EIRE"),
        kind: Some("sale"),
        is_duplicate: Some(false),
        line_total: Some(153_000),
    };

    #[test]
    fn a_whole_row_is_a_line() {
        let line = Line::try_from(ROW).unwrap();
        assert_eq!((line.kind, line.customer), (LineKind::Sale, None));
        assert_eq!(line.total(), Money::from_ten_thousandths(153_000));
    }

    #[test]
    fn a_row_that_is_not_a_line_is_refused_by_column() {
        let refused = |change: fn(&mut UncheckedLine<'_>)| {
            let mut row = ROW;
            change(&mut row);
            Line::try_from(row).unwrap_err().to_string()
        };
        let kind = refused(|row| row.kind = Some("refund"));
        assert_eq!(kind, "kind `refund` is not a kind of line");
        let price = refused(|row| row.unit_price = Some(1 << 70));
        assert_eq!(price, "unit_price is an amount of money beyond 64 bits");
        let total = refused(|row| row.line_total = Some(153_001));
        assert_eq!(total, "line_total is not quantity times unit_price");
        assert_eq!(refused(|row| row.kind = None), "kind is missing");
        assert_eq!(refused(|row| row.country = None), "country is missing");
        let duplicate = refused(|row| row.is_duplicate = None);
        assert_eq!(duplicate, "is_duplicate is missing");
    }
}
