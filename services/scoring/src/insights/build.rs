//! From lines to the files of an artifact.

use std::{cmp::Reverse, collections::HashMap};

use chrono::NaiveDateTime;

use super::{Kind, NONE, files};
use crate::{
    Artifact, ModelError, ModelKind,
    columns::{Names, Written, write},
};

/// A line of an invoice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line<'a> {
    /// Its number among all lines, from 0.
    pub id: i64,
    /// The invoice.
    pub invoice: &'a str,
    /// The product.
    pub stock_code: &'a str,
    /// What the line calls it.
    pub description: Option<&'a str>,
    /// Pieces; below 0 for returns.
    pub quantity: i64,
    /// When, microseconds since 1970 in the shop's own time.
    pub time: i64,
    /// Price of one piece, ten-thousandths of the shop's currency.
    pub unit_price: i64,
    /// Who, where it is known.
    pub customer: Option<&'a str>,
    /// Where to.
    pub country: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Whether it repeats an earlier line in every field.
    pub is_duplicate: bool,
}

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

/// A line whose names are numbers, in the order in which lines are kept.
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
    /// [`ModelError::Inconsistent`] where a number is beyond what is kept.
    pub fn push(&mut self, line: &Line<'_>) -> Result<(), ModelError> {
        let quantity = i32::try_from(line.quantity).map_err(|_| {
            ModelError::inconsistent("quantity", format!("is {}, beyond 2^31", line.quantity))
        })?;
        self.rows.push(Row {
            time: line.time,
            invoice: self.invoices.number(line.invoice)?,
            customer: line
                .customer
                .map_or(Ok(NONE), |name| self.customers.number(name))?,
            country: self.countries.number(line.country)?,
            id: line.id,
            product: self.products.number(line.stock_code)?,
            description: line
                .description
                .map_or(Ok(NONE), |text| self.descriptions.number(text))?,
            quantity,
            kind: line.kind.code(line.is_duplicate),
            unit_price: line.unit_price,
        });
        Ok(())
    }

    /// The artifact. The same lines in another order give the same bytes.
    ///
    /// # Errors
    /// [`ModelError`] where there is more than the format can hold.
    pub fn finish(
        mut self,
        recipe: &str,
        as_of: NaiveDateTime,
        seed: u64,
    ) -> Result<Artifact, ModelError> {
        let (invoices, invoice) = self.invoices.sorted()?;
        let (products, product) = self.products.sorted()?;
        let (descriptions, description) = self.descriptions.sorted()?;
        let (customers, customer) = self.customers.sorted()?;
        let (countries, country) = self.countries.sorted()?;
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
        let (rows, counts) = (
            &self.rows,
            [self.rows.len(), receipts.len(), customers.len()],
        );
        let receipt = |of: fn(&Row) -> u32| {
            Written::Ints(receipts.iter().map(|(row, _)| code(of(row))).collect())
        };
        let ints = |of: fn(&Row) -> i32| Written::Ints(rows.iter().map(of).collect());
        let longs = |of: fn(&Row) -> i64| Written::Longs(rows.iter().map(of).collect());
        let written = [
            (
                files::RECEIPTS,
                write(vec![
                    (
                        "time",
                        Written::Longs(receipts.iter().map(|(row, _)| row.time).collect()),
                    ),
                    ("invoice", receipt(|row| row.invoice)),
                    ("customer", receipt(|row| row.customer)),
                    ("country", receipt(|row| row.country)),
                    (
                        "lines",
                        Written::Ints(receipts.iter().map(|(_, lines)| *lines).collect()),
                    ),
                ])?,
            ),
            (
                files::LINES,
                write(vec![
                    ("line_id", longs(|row| row.id)),
                    ("product", ints(|row| code(row.product))),
                    ("description", ints(|row| code(row.description))),
                    ("quantity", ints(|row| row.quantity)),
                    ("unit_price", longs(|row| row.unit_price)),
                    ("kind", ints(|row| row.kind.into())),
                ])?,
            ),
            (
                files::PRODUCTS,
                write(vec![
                    ("stock_code", Written::Texts(&products)),
                    (
                        "description",
                        Written::Ints(product_description.into_iter().map(code).collect()),
                    ),
                ])?,
            ),
            (
                files::INVOICES,
                write(vec![("invoice", Written::Texts(&invoices))])?,
            ),
            (
                files::CUSTOMERS,
                write(vec![("customer_id", Written::Texts(&customers))])?,
            ),
            (
                files::COUNTRIES,
                write(vec![("country", Written::Texts(&countries))])?,
            ),
            (
                files::DESCRIPTIONS,
                write(vec![("description", Written::Texts(&descriptions))])?,
            ),
        ];
        let builder = Artifact::builder(ModelKind::Insights, recipe, as_of, seed);
        let builder = ["transactions", "receipts", "customers"]
            .into_iter()
            .zip(counts)
            .fold(builder, |builder, (what, count)| {
                builder.trained_on(what, count as u64)
            });
        Ok(written
            .into_iter()
            .fold(builder, |builder, (name, bytes)| builder.file(name, bytes))
            .finish())
    }
}

/// Numbers are below 2^31, see [`Interner::number`]; none is -1.
fn code(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(-1)
}

/// What each product is called most often when it is sold, the first by spelling of several; of one
/// that never was, what it is called most often at all.
fn product_descriptions(rows: &[Row], products: usize) -> Vec<u32> {
    let mut counts: HashMap<(u32, u32), (u32, u32)> = HashMap::new();
    for row in rows.iter().filter(|row| row.description != NONE) {
        let (sales, all) = counts.entry((row.product, row.description)).or_default();
        *sales += u32::from(row.kind & super::KIND == super::SALE);
        *all += 1;
    }
    let mut best = vec![None; products];
    for ((product, description), (sales, all)) in counts {
        let one = Some((
            sales,
            if sales == 0 { all } else { 0 },
            Reverse(description),
        ));
        let best = &mut best[product as usize];
        *best = one.max(*best);
    }
    best.into_iter()
        .map(|best| best.map_or(NONE, |(_, _, Reverse(description))| description))
        .collect()
}

/// Names and their numbers, in the order in which they come.
#[derive(Debug, Default)]
struct Interner(HashMap<Box<str>, u32>);

impl Interner {
    fn number(&mut self, name: &str) -> Result<u32, ModelError> {
        if let Some(number) = self.0.get(name) {
            return Ok(*number);
        }
        let number = i32::try_from(self.0.len())
            .map_err(|_| ModelError::inconsistent("lines", "have too many names"))?;
        self.0.insert(name.into(), number.unsigned_abs());
        Ok(number.unsigned_abs())
    }

    /// The names in order, and the place of each number among them.
    fn sorted(self) -> Result<(Names, Vec<u32>), ModelError> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_unstable();
        let (mut names, mut ranks) = (Names::default(), vec![0; all.len()]);
        for (rank, (name, number)) in all.into_iter().enumerate() {
            names
                .push(&name)
                .map_err(|problem| ModelError::inconsistent("name", problem))?;
            ranks[number as usize] = rank as u32;
        }
        Ok((names, ranks))
    }
}
