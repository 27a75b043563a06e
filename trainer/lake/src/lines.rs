//! The curated table `transactions` as typed lines.

use polars::prelude::*;
use transactions::{Line, UncheckedLine};

use crate::error::LakeError;

/// The rows of the curated table `transactions` as checked lines, in order.
///
/// # Errors
/// [`LakeError::Table`] if a column is missing or has another type; each item
/// [`LakeError::Line`] if its row is not a line.
pub fn lines(
    table: &DataFrame,
) -> Result<impl Iterator<Item = Result<Line<'_>, LakeError>>, LakeError> {
    let columns = Columns::of(table)?;
    Ok((0..table.height()).map(move |row| {
        Line::try_from(columns.row(row)).map_err(|source| LakeError::Line { row, source })
    }))
}

/// The table's columns in their types.
struct Columns<'a> {
    line_id: &'a Int64Chunked,
    invoice: &'a StringChunked,
    stock_code: &'a StringChunked,
    description: &'a StringChunked,
    quantity: &'a Int64Chunked,
    invoice_time: &'a Int64Chunked,
    unit_price: &'a Int128Chunked,
    customer_id: &'a StringChunked,
    country: &'a StringChunked,
    kind: &'a StringChunked,
    is_duplicate: &'a BooleanChunked,
    line_total: &'a Int128Chunked,
}

impl<'a> Columns<'a> {
    fn of(table: &'a DataFrame) -> PolarsResult<Self> {
        Ok(Self {
            line_id: table.column("line_id")?.i64()?,
            invoice: table.column("invoice")?.str()?,
            stock_code: table.column("stock_code")?.str()?,
            description: table.column("description")?.str()?,
            quantity: table.column("quantity")?.i64()?,
            invoice_time: table.column("invoice_time")?.datetime()?.physical(),
            unit_price: table.column("unit_price")?.decimal()?.physical(),
            customer_id: table.column("customer_id")?.str()?,
            country: table.column("country")?.str()?,
            kind: table.column("kind")?.str()?,
            is_duplicate: table.column("is_duplicate")?.bool()?,
            line_total: table.column("line_total")?.decimal()?.physical(),
        })
    }

    fn row(&self, row: usize) -> UncheckedLine<'a> {
        UncheckedLine {
            line_id: self.line_id.get(row),
            invoice: self.invoice.get(row),
            stock_code: self.stock_code.get(row),
            description: self.description.get(row),
            quantity: self.quantity.get(row),
            invoice_time: self.invoice_time.get(row),
            unit_price: self.unit_price.get(row),
            customer_id: self.customer_id.get(row),
            country: self.country.get(row),
            kind: self.kind.get(row),
            is_duplicate: self.is_duplicate.get(row),
            line_total: self.line_total.get(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CurateOptions, IngestOptions, Lake, NoProgress};

    fn table() -> DataFrame {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("rows.csv");
        let text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID\n\
                    1,10,A THING,2,1/1/2011 8:00,1.5,12\n";
        fs_err::write(&input, text).unwrap();
        let lake = Lake::create(folder.path().join("lake")).unwrap();
        crate::ingest(&[input], &lake, &IngestOptions::default(), &NoProgress).unwrap();
        crate::curate(&lake, &CurateOptions::default(), &NoProgress).unwrap();
        lake.transactions().unwrap().collect().unwrap()
    }

    #[test]
    fn every_row_is_a_line_or_an_error() {
        let good = table();
        let line = lines(&good).unwrap().next().unwrap().unwrap();
        assert_eq!((line.stock_code, line.total().to_f64()), ("10", 3.0));
        let unknown = good
            .clone()
            .lazy()
            .with_column(lit("refund").alias("kind"))
            .collect()
            .unwrap();
        let refused = lines(&unknown).unwrap().next().unwrap().unwrap_err();
        assert!(
            matches!(refused, LakeError::Line { row: 0, .. }),
            "{refused}"
        );
        assert!(lines(&good.drop("kind").unwrap()).is_err());
    }
}
