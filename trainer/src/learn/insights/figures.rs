//! Figures of the published model and of the curated table, to be compared.

use std::collections::BTreeMap;

use chrono::DateTime;
use polars::prelude::*;
use scoring::insights::{Frequency, Sales, Selection, Shop, Sums};
use transactions::{LineKind, Money};

use crate::learn::LearnError;

/// Figures of each country, month or product.
pub(super) type Figures = BTreeMap<String, Sales>;

/// Keys of [`query`].
pub(super) fn country() -> Expr {
    col("country")
}

pub(super) fn month() -> Expr {
    col("invoice_time").dt().strftime("%Y-%m")
}

pub(super) fn product() -> Expr {
    col("stock_code")
}

pub(super) fn by_country(shop: &Shop, selection: &Selection) -> Figures {
    let name = |(country, sales)| (shop.countries().get(country).to_owned(), sales);
    shop.by_country(selection).into_iter().map(name).collect()
}

pub(super) fn by_month(shop: &Shop) -> Figures {
    let all = shop.all();
    let periods = shop.periods(&all, Frequency::Monthly);
    let sales = shop.trend(&all, &periods, 0..periods.starts.len());
    let name = |start: &i64| {
        let time = DateTime::from_timestamp_micros(*start).unwrap_or_default();
        time.format("%Y-%m").to_string()
    };
    periods
        .starts
        .iter()
        .map(name)
        .zip(sales)
        .filter(|(_, sales)| sales.sums.lines > 0)
        .collect()
}

pub(super) fn by_product(shop: &Shop, selection: &Selection) -> Figures {
    let named = |(product, sums)| {
        let name = shop.products_by_name().get(product).to_owned();
        let sales = Sales {
            sums,
            ..Sales::default()
        };
        (name, sales)
    };
    shop.products(selection).into_iter().map(named).collect()
}

/// The same figures by a query over the curated lines. The published model keeps no orders and
/// customers of products, so they are left at 0 here as well.
pub(super) fn query(lines: LazyFrame, key: Expr) -> Result<Figures, LearnError> {
    let [sale, cancellation] =
        [LineKind::Sale, LineKind::Cancellation].map(|kind| col("kind").eq(lit(kind.as_str())));
    let is_product = key == product();
    let frame = lines
        .filter(sale.clone().or(cancellation.clone()))
        .group_by([key.alias("key")])
        .agg([
            len().alias("lines"),
            col("quantity").filter(sale.clone()).sum().alias("units"),
            col("quantity")
                .filter(cancellation.clone())
                .sum()
                .alias("returned"),
            col("line_total").filter(sale.clone()).sum().alias("gross"),
            col("line_total")
                .filter(cancellation)
                .sum()
                .alias("returns"),
            col("invoice")
                .filter(sale.clone())
                .n_unique()
                .alias("orders"),
            col("customer_id")
                .filter(sale)
                .drop_nulls()
                .n_unique()
                .alias("customers"),
        ])
        .with_columns(
            [col("lines"), col("orders"), col("customers")]
                .map(|count| count.cast(DataType::Int64)),
        )
        .collect()?;
    let key = frame.column("key")?.str()?;
    let int = |name: &str| frame.column(name)?.i64();
    let money = |name: &str| Ok::<_, PolarsError>(frame.column(name)?.decimal()?.physical());
    let (lines, units, returned) = (int("lines")?, int("units")?, int("returned")?);
    let (gross, returns) = (money("gross")?, money("returns")?);
    let (orders, customers) = (int("orders")?, int("customers")?);
    let mut figures = Figures::new();
    for row in 0..frame.height() {
        let int = |of: &Int64Chunked| of.get(row).unwrap_or_default();
        let money = |of: &Int128Chunked| Money::try_from(of.get(row).unwrap_or_default());
        let counted = |of: &Int64Chunked| if is_product { 0 } else { int(of) };
        let sums = Sums {
            lines: int(lines),
            units: int(units),
            returned: -int(returned),
            gross: money(gross)?,
            returns: -money(returns)?,
        };
        let sales = Sales {
            sums,
            orders: counted(orders),
            customers: counted(customers),
        };
        figures.insert(key.get(row).unwrap_or_default().to_owned(), sales);
    }
    Ok(figures)
}
