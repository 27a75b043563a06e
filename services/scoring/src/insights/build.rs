//! From lines to the files of an artifact.

use chrono::NaiveDateTime;
use transactions::{DescriptionCounts, Interner, Line};

use super::{
    codes::{NONE, code, kind_of},
    files,
};
use crate::{
    Artifact, ModelError, ModelKind,
    artifact::columns::{Names, Written, write},
};

/// An artifact in the making: lines in any order.
#[derive(Debug, Default)]
pub struct Builder {
    invoices: Interner,
    products: Interner,
    descriptions: Interner,
    customers: Interner,
    countries: Interner,
    rows: Vec<Row>,
}

/// A line with numbers for names. The order of its fields is the order in which lines are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    time: i64,
    invoice: u32,
    customer: u32,
    country: u32,
    id: i64,
    product: u32,
    description: u32,
    quantity: i32,
    kind: u8,
    unit_price: i64,
}

impl Row {
    /// Lines with the same of these are a receipt.
    fn receipt(&self) -> (i64, u32, u32, u32) {
        (self.time, self.invoice, self.customer, self.country)
    }
}

impl Builder {
    /// Without a line yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`ModelError::Inconsistent`] if a number is beyond the range of its column.
    pub fn push(&mut self, line: &Line<'_>) -> Result<(), ModelError> {
        let quantity = i32::try_from(line.quantity).map_err(|_| {
            ModelError::inconsistent("quantity", format!("is {}, beyond 2^31", line.quantity))
        })?;
        self.rows.push(Row {
            time: line.time,
            invoice: number(&mut self.invoices, line.invoice)?,
            customer: line
                .customer
                .map_or(Ok(NONE), |name| number(&mut self.customers, name))?,
            country: number(&mut self.countries, line.country)?,
            id: line.id,
            product: number(&mut self.products, line.stock_code)?,
            description: line
                .description
                .map_or(Ok(NONE), |text| number(&mut self.descriptions, text))?,
            quantity,
            kind: code(line.kind, line.is_duplicate),
            unit_price: line.unit_price.ten_thousandths(),
        });
        Ok(())
    }

    /// The artifact. The same lines in another order give the same bytes.
    ///
    /// # Errors
    /// [`ModelError`] if there is more than the format can hold.
    pub fn finish(
        mut self,
        recipe: &str,
        as_of: NaiveDateTime,
        seed: u64,
    ) -> Result<Artifact, ModelError> {
        let (invoices, invoice) = sorted(&self.invoices)?;
        let (products, product) = sorted(&self.products)?;
        let (descriptions, description) = sorted(&self.descriptions)?;
        let (customers, customer) = sorted(&self.customers)?;
        let (countries, country) = sorted(&self.countries)?;
        let rank = |ranks: &[u32], number: u32| {
            if number == NONE {
                NONE
            } else {
                ranks[number as usize]
            }
        };
        for row in &mut self.rows {
            row.invoice = rank(&invoice, row.invoice);
            row.product = rank(&product, row.product);
            row.description = rank(&description, row.description);
            row.customer = rank(&customer, row.customer);
            row.country = rank(&country, row.country);
        }
        self.rows.sort_unstable();
        let product_description = product_descriptions(&self.rows, products.len());

        let mut receipts: Vec<(Row, i32)> = Vec::new();
        for row in &self.rows {
            match receipts.last_mut() {
                Some((first, lines)) if first.receipt() == row.receipt() => *lines += 1,
                Some(_) | None => receipts.push((*row, 1)),
            }
        }
        let names = |column: &str, names: &Names| write(vec![(column, Written::Texts(names))]);
        let product_columns = vec![
            ("stock_code", Written::Texts(&products)),
            (
                "description",
                Written::Ints(product_description.into_iter().map(column).collect()),
            ),
        ];
        let artifact = Artifact::builder(ModelKind::Insights, recipe, as_of, seed)
            .trained_on("transactions", self.rows.len() as u64)
            .trained_on("receipts", receipts.len() as u64)
            .trained_on("customers", customers.len() as u64)
            .file(files::RECEIPTS, write(receipt_columns(&receipts))?)
            .file(files::LINES, write(line_columns(&self.rows))?)
            .file(files::PRODUCTS, write(product_columns)?)
            .file(files::INVOICES, names("invoice", &invoices)?)
            .file(files::CUSTOMERS, names("customer_id", &customers)?)
            .file(files::COUNTRIES, names("country", &countries)?)
            .file(files::DESCRIPTIONS, names("description", &descriptions)?);
        Ok(artifact.finish())
    }
}

/// Receipts by their first line, and how many lines each has.
fn receipt_columns(receipts: &[(Row, i32)]) -> Vec<(&'static str, Written<'static>)> {
    let names = |of: fn(&Row) -> u32| {
        Written::Ints(receipts.iter().map(|(row, _)| column(of(row))).collect())
    };
    let times = receipts.iter().map(|(row, _)| row.time);
    let lines = receipts.iter().map(|(_, lines)| *lines);
    vec![
        ("time", Written::Longs(times.collect())),
        ("invoice", names(|row| row.invoice)),
        ("customer", names(|row| row.customer)),
        ("country", names(|row| row.country)),
        ("lines", Written::Ints(lines.collect())),
    ]
}

fn line_columns(rows: &[Row]) -> Vec<(&'static str, Written<'static>)> {
    let ints = |of: fn(&Row) -> i32| Written::Ints(rows.iter().map(of).collect());
    let longs = |of: fn(&Row) -> i64| Written::Longs(rows.iter().map(of).collect());
    vec![
        ("line_id", longs(|row| row.id)),
        ("product", ints(|row| column(row.product))),
        ("description", ints(|row| column(row.description))),
        ("quantity", ints(|row| row.quantity)),
        ("unit_price", longs(|row| row.unit_price)),
        ("kind", ints(|row| row.kind.into())),
    ]
}

/// A number in a column: numbers are below 2^31, see [`Interner`]; [`NONE`] is -1.
fn column(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(-1)
}

/// The number of each product's usual description; [`NONE`] of a product without any.
fn product_descriptions(rows: &[Row], products: usize) -> Vec<u32> {
    let mut counts = DescriptionCounts::default();
    for row in rows.iter().filter(|row| row.description != NONE) {
        counts.add(row.product, row.description, kind_of(row.kind));
    }
    // By now descriptions are numbered in the order of their spelling.
    let usual = counts.usual(products, |description| description);
    usual.into_iter().map(|text| text.unwrap_or(NONE)).collect()
}

fn number(names: &mut Interner, name: &str) -> Result<u32, ModelError> {
    names
        .intern(name)
        .map_err(|_| ModelError::inconsistent("lines", "have too many names"))
}

/// The names in order, and the place of each number among them.
fn sorted(interner: &Interner) -> Result<(Names, Vec<u32>), ModelError> {
    let (mut names, mut ranks) = (Names::default(), vec![0; interner.len()]);
    for (rank, number) in (0..).zip(interner.sorted()) {
        names
            .push(interner.name(number))
            .map_err(|problem| ModelError::inconsistent("name", problem))?;
        ranks[number as usize] = rank;
    }
    Ok((names, ranks))
}
