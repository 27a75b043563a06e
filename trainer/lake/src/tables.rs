//! The curated tables. Each is a function of the lines of the lake and the as-of time, and each
//! rule in it is a named expression.

use chrono::NaiveDateTime;
use polars::prelude::*;
use transactions::LineKind;

/// A curated table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name in queries, and of its file.
    pub name: &'static str,
    /// What one of its rows is.
    pub row: &'static str,
    /// Derives it as of a time: [`TRANSACTIONS`] from all lines, any other table from
    /// `transactions`.
    pub(crate) derive: fn(LazyFrame, NaiveDateTime) -> LazyFrame,
}

/// `transactions`: every line before the as-of time.
pub(crate) const TRANSACTIONS: Table = Table {
    name: "transactions",
    row: "a line of an invoice: a sale, cancellation, service or adjustment",
    derive: |lines, as_of| lines.filter(before(as_of)),
};

/// All curated tables; the others are derived from the first.
pub const TABLES: [Table; 12] = [
    TRANSACTIONS,
    Table {
        name: "customers",
        row: "a customer with a purchase: recency, frequency, revenue and habits",
        derive: customers,
    },
    Table {
        name: "products",
        row: "a product that was sold: what it is, how much, how often, to how many customers",
        derive: |transactions, _| products(transactions),
    },
    Table {
        name: "interactions",
        row: "a customer and a product that the customer bought",
        derive: |transactions, _| interactions(transactions),
    },
    Table {
        name: "baskets",
        row: "an invoice with a sale: its customer, time and products",
        derive: |transactions, _| baskets(transactions),
    },
    Table {
        name: "sales_daily",
        row: "a day and a country",
        derive: |transactions, _| sales_daily(transactions),
    },
    Table {
        name: "product_weekly",
        row: "a week from Monday and a product",
        derive: |transactions, _| product_weekly(transactions),
    },
    Table {
        name: "sales_per_country",
        row: "a country",
        derive: |transactions, _| sales_per(transactions, col("country"), "country"),
    },
    Table {
        name: "monthly_sales",
        row: "a calendar month",
        derive: |transactions, _| sales_per(transactions, month(), "month"),
    },
    Table {
        name: "customer_metrics",
        row: "a customer with the totals of reports",
        derive: |transactions, _| customer_metrics(transactions),
    },
    Table {
        name: "product_performance",
        row: "a product with the totals of reports",
        derive: |transactions, _| product_performance(transactions),
    },
    Table {
        name: "line_kinds",
        row: "a kind of line: number of lines and their total",
        derive: |transactions, _| line_kinds(transactions),
    },
];

fn before(as_of: NaiveDateTime) -> Expr {
    col("invoice_time").lt(lit(as_of))
}

fn is_kind(kind: LineKind) -> Expr {
    col("kind").eq(lit(kind.as_str()))
}

pub(crate) fn is_sale() -> Expr {
    is_kind(LineKind::Sale)
}

fn is_return() -> Expr {
    is_kind(LineKind::Cancellation)
}

/// Sales net of returns. Services and adjustments are not revenue.
fn is_revenue() -> Expr {
    is_sale().or(is_return())
}

/// A sale to a known customer.
fn is_purchase() -> Expr {
    is_sale().and(col("customer_id").is_not_null())
}

/// In the shop's currency, exact; below 0 for returns.
fn line_total() -> Expr {
    col("line_total")
}

/// Total of the lines that fulfil a condition.
fn total_if(condition: Expr) -> Expr {
    line_total().filter(condition).sum()
}

/// Number of invoices with a sale.
fn orders() -> Expr {
    col("invoice").filter(is_sale()).n_unique()
}

/// Units sold.
fn units() -> Expr {
    col("quantity").filter(is_sale()).sum()
}

fn day() -> Expr {
    col("invoice_time").dt().date()
}

fn week() -> Expr {
    col("invoice_time").dt().truncate(lit("1w")).dt().date()
}

/// The calendar month, for example `2011-09`.
pub(crate) fn month() -> Expr {
    col("invoice_time").dt().strftime("%Y-%m")
}

/// Days between two instants, with a fraction.
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

/// Country of the latest line; of several lines at one time, of the last in the input.
fn country_of_last() -> Expr {
    col("country")
        .sort_by(["invoice_time", "line_id"], SortMultipleOptions::default())
        .last()
}

/// The most frequent description; of several, the first by spelling.
fn description() -> Expr {
    col("description")
        .drop_nulls()
        .sort(SortOptions::default())
        .mode(false)
        .sort(SortOptions::default())
        .first()
}

/// `customers`: what each customer with a purchase did before the as-of time. Days have fractions;
/// money is exact.
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

/// `products`: sales of each product.
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

/// `interactions`: how often, how much and when last each customer bought each product.
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

/// `baskets`: the products of each invoice and their total.
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

/// `sales_daily`: revenue net of returns, gross revenue, orders, units and customers of each day in
/// each country.
fn sales_daily(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .filter(is_revenue())
        .group_by([day().alias("day"), col("country")])
        .agg([
            line_total().sum().alias("revenue"),
            total_if(is_sale()).alias("gross_revenue"),
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

/// `product_weekly`: units, revenue and orders of each product in each week from Monday.
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

/// `sales_per_country` and `monthly_sales`: revenue net of returns, returns, orders, units and
/// customers.
fn sales_per(transactions: LazyFrame, by: Expr, name: &str) -> LazyFrame {
    let table = transactions
        .filter(is_revenue())
        .group_by([by.alias(name)])
        .agg([
            line_total().sum().alias("revenue"),
            total_if(is_return()).alias("returns"),
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

/// `customer_metrics`: totals of each customer, net of returns.
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

/// `product_performance`: totals of each product, net of returns.
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

/// `line_kinds`: lines and their total of each kind.
fn line_kinds(transactions: LazyFrame) -> LazyFrame {
    let table = transactions
        .group_by([col("kind")])
        .agg([len().alias("lines"), line_total().sum().alias("total")]);
    sorted(table, ["kind"])
}
