//! The curated tables, derived from the lines before the as-of time. Each is a function of
//! `transactions`; each rule is a named expression.

use std::fmt;

use chrono::{Days, NaiveDateTime};
use polars::prelude::*;
use serde::Serialize;

use crate::{
    Lake, LakeError, Progress,
    folder::{Staged, replace, scan, write},
    profile,
};

/// Every curated table, and what its rows are.
pub const TABLES: [(&str, &str); 12] = [
    (
        "transactions",
        "a line: what was sold, taken back, adjusted or charged",
    ),
    (
        "customers",
        "a customer who has bought: recency, frequency, money and habits as of the as-of time",
    ),
    (
        "products",
        "a product that was sold: what it is, how much, how often, to how many",
    ),
    ("interactions", "a customer and a product they have bought"),
    (
        "baskets",
        "an invoice that sold something: who, when, which products",
    ),
    ("sales_daily", "a day and a country"),
    ("product_weekly", "a week, from Monday, and a product"),
    ("sales_per_country", "a country"),
    ("monthly_sales", "a calendar month"),
    (
        "customer_metrics",
        "a customer, with the totals that reports show",
    ),
    (
        "product_performance",
        "a product, with the totals that reports show",
    ),
    ("line_kinds", "a kind of line: how many and how much money"),
];

/// How tables are derived.
#[derive(Debug, Clone, Default)]
pub struct CurateOptions {
    /// Lines from before this instant alone; `None`: all, as of the midnight after the last.
    pub as_of: Option<NaiveDateTime>,
}

/// What was derived.
#[derive(Debug, Clone, Serialize)]
pub struct CurateReport {
    /// The tables know lines from before this instant.
    pub as_of: NaiveDateTime,
    /// Rows by table.
    pub tables: Vec<(String, u64)>,
    /// Lines from the as-of time on, which no table holds.
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

/// Derives all tables and the quality profile. The same lines and as-of time give the same bytes.
///
/// # Errors
/// [`LakeError`]; the tables are as they were.
pub fn curate(
    lake: &Lake,
    options: &CurateOptions,
    progress: &dyn Progress,
) -> Result<CurateReport, LakeError> {
    let lake = &lake.hold()?;
    let lines = scan(&lake.processed().join("lines.parquet"))?;
    let span = lines
        .clone()
        .select([
            col("invoice_time").max().alias("last"),
            len().alias("lines"),
        ])
        .collect()?;
    let all = span.column("lines")?.u32()?.get(0).unwrap_or_default();
    let last = span
        .column("last")?
        .datetime()?
        .physical()
        .get(0)
        .and_then(chrono::DateTime::from_timestamp_micros);
    let as_of = match (options.as_of, last) {
        (Some(as_of), _) => as_of,
        (None, Some(last)) => last
            .date_naive()
            .checked_add_days(Days::new(1))
            .unwrap_or(last.date_naive())
            .into(),
        (None, None) => {
            return Err(LakeError::NothingUsable {
                rows: 0,
                example: "there are no lines".to_owned(),
            });
        }
    };
    let lines = lines.filter(before(as_of));

    let staged = Staged::new(lake.curated_dir())?;
    progress.begin("curate: tables", Some(TABLES.len() as u64));
    let kept = write_transactions(&lines, &staged)?;
    if kept == 0 {
        return Err(LakeError::NothingBefore(as_of));
    }
    progress.advance(1);
    let transactions = scan(&staged.path("transactions"))?;
    let mut tables = vec![("transactions".to_owned(), kept)];
    for (name, _) in TABLES.into_iter().skip(1) {
        let mut table = derive(name, transactions.clone(), as_of).collect()?;
        write(&mut table, &staged.path(&format!("{name}.parquet")))?;
        tables.push((name.to_owned(), table.height() as u64));
        progress.advance(1);
    }
    staged.write("as_of", &as_of.format("%Y-%m-%dT%H:%M:%S").to_string())?;
    progress.end();

    let report = CurateReport {
        as_of,
        tables,
        later_lines: u64::from(all) - kept,
    };
    let quality = profile::quality(lake, &transactions, &report)?;
    staged.swap()?;
    replace(
        &lake.root().join("quality.json"),
        &serde_json::to_string_pretty(&quality).unwrap_or_default(),
    )?;
    replace(&lake.root().join("profile.html"), &profile::html(&quality))?;
    Ok(report)
}

/// `transactions`, a folder a month, in the order of the input.
fn write_transactions(lines: &LazyFrame, staged: &Staged) -> Result<u64, LakeError> {
    let months = lines
        .clone()
        .select([month().alias("month")])
        .unique(None, UniqueKeepStrategy::Any)
        .collect()?;
    let mut months: Vec<String> = months
        .column("month")?
        .str()?
        .iter()
        .flatten()
        .map(str::to_owned)
        .collect();
    months.sort();
    let mut rows = 0;
    for name in months {
        let folder = staged.path("transactions").join(format!("month={name}"));
        std::fs::create_dir_all(&folder).map_err(LakeError::disk("make", &folder))?;
        let part = lines.clone().filter(month().eq(lit(name)));
        let mut part = part
            .sort(["line_id"], SortMultipleOptions::default())
            .collect()?;
        write(&mut part, &folder.join("lines.parquet"))?;
        rows += part.height() as u64;
    }
    Ok(rows)
}

fn derive(name: &str, transactions: LazyFrame, as_of: NaiveDateTime) -> LazyFrame {
    match name {
        "customers" => customers(transactions, as_of),
        "products" => products(transactions),
        "interactions" => interactions(transactions),
        "baskets" => baskets(transactions),
        "sales_daily" => sales_daily(transactions),
        "product_weekly" => product_weekly(transactions),
        "sales_per_country" => sales_per(transactions, col("country"), "country"),
        "monthly_sales" => sales_per(transactions, month(), "month"),
        "customer_metrics" => customer_metrics(transactions),
        "product_performance" => product_performance(transactions),
        _ => line_kinds(transactions),
    }
}

// ---- rules

fn before(as_of: NaiveDateTime) -> Expr {
    col("invoice_time").lt(lit(as_of))
}

/// A product was sold.
fn is_sale() -> Expr {
    col("kind").eq(lit("sale"))
}

/// A product was sold and taken back.
fn is_return() -> Expr {
    col("kind").eq(lit("cancellation"))
}

/// Sales and what was taken back of them. Services and adjustments are no revenue.
fn is_revenue() -> Expr {
    is_sale().or(is_return())
}

/// A sale to a customer who is known.
fn is_purchase() -> Expr {
    is_sale().and(col("customer_id").is_not_null())
}

/// Shop currency, exact; below 0 for returns.
fn line_total() -> Expr {
    col("line_total")
}

/// Money of the lines that a condition holds for.
fn total_where(condition: Expr) -> Expr {
    line_total().filter(condition).sum()
}

/// Invoices that sold something.
fn orders() -> Expr {
    col("invoice").filter(is_sale()).n_unique()
}

/// Pieces sold.
fn units() -> Expr {
    col("quantity").filter(is_sale()).sum()
}

fn day() -> Expr {
    col("invoice_time").dt().date()
}

fn week() -> Expr {
    col("invoice_time").dt().truncate(lit("1w")).dt().date()
}

fn month() -> Expr {
    col("invoice_time").dt().strftime("%Y-%m")
}

/// Days between two instants, with their fraction.
fn days(from: Expr, to: Expr) -> Expr {
    (to - from)
        .dt()
        .total_microseconds(false)
        .cast(DataType::Float64)
        / lit(86_400e6)
}

fn sorted<const N: usize>(table: LazyFrame, by: [&str; N]) -> LazyFrame {
    table.sort(by, SortMultipleOptions::default())
}

/// Where the latest line went to; of several at once, the last of the input.
fn country_of_last() -> Expr {
    col("country")
        .sort_by(["invoice_time", "line_id"], SortMultipleOptions::default())
        .last()
}

/// The most frequent description, the first by spelling where several are.
fn description() -> Expr {
    col("description")
        .drop_nulls()
        .sort(SortOptions::default())
        .mode(false)
        .sort(SortOptions::default())
        .first()
}

// ---- tables

/// `customers`: what a customer with at least one purchase did before the as-of time. Days with
/// fractions; money exact.
fn customers(transactions: LazyFrame, as_of: NaiveDateTime) -> LazyFrame {
    let returned = transactions
        .clone()
        .filter(is_return().and(col("customer_id").is_not_null()))
        .group_by([col("customer_id")])
        .agg([line_total().sum().alias("returns_value")]);
    let gap = days(col("first_purchase"), col("last_purchase"))
        / (col("orders").cast(DataType::Float64) - lit(1.0));
    let bought = transactions
        .filter(is_purchase())
        .group_by([col("customer_id")])
        .agg([
            country_of_last().alias("country"),
            col("invoice_time").min().alias("first_purchase"),
            col("invoice_time").max().alias("last_purchase"),
            orders().alias("orders"),
            units().alias("items"),
            col("stock_code").n_unique().alias("products"),
            line_total().sum().alias("gross_revenue"),
        ]);
    let table = bought
        .left_join(returned, col("customer_id"), col("customer_id"))
        .with_columns([
            col("returns_value").fill_null(lit(0)),
            days(col("last_purchase"), lit(as_of)).alias("recency_days"),
            days(col("first_purchase"), lit(as_of)).alias("tenure_days"),
            when(col("orders").gt(lit(1)))
                .then(gap)
                .otherwise(lit(NULL))
                .alias("average_gap_days"),
            (col("gross_revenue").cast(DataType::Float64) / col("orders").cast(DataType::Float64))
                .alias("average_order_value"),
        ]);
    let table =
        table.with_columns([(col("gross_revenue") + col("returns_value")).alias("net_revenue")]);
    sorted(table, ["customer_id"])
}

/// `products`: what was sold of a product.
fn products(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_sale())
        .group_by([col("stock_code")])
        .agg([
            description().alias("description"),
            col("invoice_time").min().alias("first_sold"),
            col("invoice_time").max().alias("last_sold"),
            len().alias("lines"),
            orders().alias("orders"),
            units().alias("units"),
            line_total().sum().alias("revenue"),
            col("customer_id")
                .drop_nulls()
                .n_unique()
                .alias("customers"),
            col("unit_price")
                .cast(DataType::Float64)
                .median()
                .alias("median_price"),
        ]);
    sorted(table, ["stock_code"])
}

/// `interactions`: how often, how much and when last a customer bought a product.
fn interactions(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_purchase())
        .group_by([col("customer_id"), col("stock_code")])
        .agg([
            col("invoice").n_unique().alias("purchases"),
            units().alias("quantity"),
            col("invoice_time").max().alias("last_time"),
        ]);
    sorted(table, ["customer_id", "stock_code"])
}

/// `baskets`: the products of an invoice, and what they cost.
fn baskets(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_sale())
        .group_by([col("invoice")])
        .agg([
            col("customer_id").first().alias("customer_id"),
            col("invoice_time").min().alias("time"),
            col("country").first().alias("country"),
            col("stock_code")
                .unique()
                .sort(SortOptions::default())
                .alias("products"),
            col("stock_code").n_unique().alias("size"),
            line_total().sum().alias("value"),
        ]);
    sorted(table, ["invoice"])
}

/// `sales_daily`: revenue net of returns, gross, orders, pieces and customers of a day in a
/// country.
fn sales_daily(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_revenue())
        .group_by([day().alias("day"), col("country")])
        .agg([
            line_total().sum().alias("revenue"),
            total_where(is_sale()).alias("gross_revenue"),
            orders().alias("orders"),
            units().alias("units"),
            col("customer_id")
                .filter(is_sale())
                .drop_nulls()
                .n_unique()
                .alias("customers"),
        ]);
    sorted(table, ["day", "country"])
}

/// `product_weekly`: pieces, money and orders of a product in a week from Monday.
fn product_weekly(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_sale())
        .group_by([week().alias("week"), col("stock_code")])
        .agg([
            units().alias("units"),
            line_total().sum().alias("revenue"),
            orders().alias("orders"),
        ]);
    sorted(table, ["week", "stock_code"])
}

/// `sales_per_country` and `monthly_sales`.
fn sales_per(transactions: LazyFrame, by: Expr, name: &str) -> LazyFrame {
    let table = transactions
        .filter(is_revenue())
        .group_by([by.alias(name)])
        .agg([
            line_total().sum().alias("revenue"),
            total_where(is_return()).alias("returns"),
            orders().alias("orders"),
            units().alias("units"),
            col("customer_id")
                .filter(is_sale())
                .drop_nulls()
                .n_unique()
                .alias("customers"),
        ]);
    sorted(table, [name])
}

/// `customer_metrics`.
fn customer_metrics(transactions: LazyFrame) -> LazyFrame {
    let known = is_revenue().and(col("customer_id").is_not_null());
    let table = transactions
        .filter(known)
        .group_by([col("customer_id")])
        .agg([
            line_total().sum().alias("total_spent"),
            orders().alias("total_orders"),
            units().alias("total_items"),
            col("invoice_time")
                .filter(is_sale())
                .min()
                .alias("first_order"),
            col("invoice_time")
                .filter(is_sale())
                .max()
                .alias("last_order"),
        ]);
    sorted(table, ["customer_id"])
}

/// `product_performance`.
fn product_performance(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_revenue())
        .group_by([col("stock_code")])
        .agg([
            description().alias("description"),
            units().alias("units_sold"),
            (lit(0) - col("quantity").filter(is_return()).sum()).alias("units_returned"),
            line_total().sum().alias("revenue"),
            orders().alias("orders"),
        ]);
    sorted(table, ["stock_code"])
}

/// `line_kinds`.
fn line_kinds(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .group_by([col("kind")])
        .agg([len().alias("lines"), line_total().sum().alias("total")]);
    sorted(table, ["kind"])
}
