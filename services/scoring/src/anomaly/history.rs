//! What is usual, by the recent lines of each product and customer, kept up to date line by line.

use std::collections::VecDeque;

use transactions::{CustomerId, Interner, StockCode};

use super::{
    features::{
        Input, Invoice, Neighbours, Others, Over, Remembered, SHRINK_PRICE, WIDTH, features,
    },
    levels::{
        ChannelPrices, CustomerLevels, LEAST_PRICE, LEAST_QUANTITY, Level, MAD, ProductLevels, Shop,
    },
    line::{Observation, Transaction},
};
use crate::{Artifact, ModelError, quantile::median};

/// The latest lines of a product are remembered, up to this many.
pub const OF_PRODUCT: usize = 128;
/// The latest lines of a customer are remembered, up to this many.
pub const OF_CUSTOMER: usize = 64;
/// The levels of a product with fewer lines than this are recomputed with each invoice, others once
/// a day.
const YOUNG: usize = 16;
/// Lines of the shop's usual level that stand beside a product's own.
const SHRINK_PRODUCT: f64 = 2.0;
/// Lines of the shop's usual level that stand beside a customer's own.
const SHRINK_CUSTOMER: f64 = 5.0;
/// A line that is remembered.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    /// How many lines had come before.
    order: u32,
    product: u32,
    customer: Option<u32>,
    quantity: f32,
    price: f32,
}

/// How many lines had exactly a value; values from the greatest place on are counted together.
#[derive(Debug, Clone)]
struct Counts {
    of: Vec<u32>,
    all: u32,
}

impl Counts {
    fn new(most: usize) -> Self {
        Self {
            of: vec![0; most + 1],
            all: 0,
        }
    }

    fn at(&self, value: f64) -> usize {
        (value.round().max(0.0) as usize).min(self.of.len() - 1)
    }

    fn count(&mut self, value: f64, by: i32) {
        let at = self.at(value);
        self.of[at] = self.of[at].saturating_add_signed(by);
        self.all = self.all.saturating_add_signed(by);
    }

    /// Logarithm of the share of lines with a value.
    fn share(&self, value: f64) -> f64 {
        (f64::from(self.of[self.at(value)]) + 0.5).ln() - (f64::from(self.all) + 1.0).ln()
    }
}

fn units(log: f64) -> f64 {
    log.exp()
}

fn cents(log: f64) -> f64 {
    log.exp() * 100.0
}

/// The ids of a table by row. Lines point at rows, so that no id may stand in two.
fn load_ids(
    table: &'static str,
    ids: &[Box<str>],
    canonical: fn(&str) -> &str,
) -> Result<Interner, ModelError> {
    let mut interner = Interner::default();
    for (row, id) in ids.iter().enumerate() {
        let is_canonical = !id.is_empty() && canonical(id) == &**id;
        let number = interner.intern(id).ok().filter(|_| is_canonical);
        if number.is_none_or(|number| number as usize != row) {
            return Err(ModelError::inconsistent(
                table,
                format!("has no new id in row {row}: `{id}`"),
            ));
        }
    }
    Ok(interner)
}

/// What a line is compared with beside its product: what is usual of its customer, and the other
/// lines of its invoice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Context<'a> {
    pub(super) customer: Option<CustomerLevels>,
    others: Option<Others>,
    /// Quantities of all lines of the invoice.
    quantities: &'a [f64],
    /// The line's place among them.
    place: usize,
}

/// The recent lines of a shop and what is usual by them.
#[derive(Debug, Clone)]
pub struct History {
    shop: Shop,
    products: Interner,
    customers: Interner,
    of_product: Vec<VecDeque<Line>>,
    of_customer: Vec<VecDeque<Line>>,
    levels: Vec<Option<ProductLevels>>,
    /// The day of the first line that the levels have not seen.
    stale: Vec<Option<i64>>,
    units: Counts,
    cents: Counts,
    next: u32,
}

impl History {
    /// Without a line.
    pub fn new(shop: Shop) -> Self {
        Self {
            shop,
            products: Interner::default(),
            customers: Interner::default(),
            of_product: Vec::new(),
            of_customer: Vec::new(),
            levels: Vec::new(),
            stale: Vec::new(),
            units: Counts::new(2_000),
            cents: Counts::new(20_000),
            next: 0,
        }
    }

    /// What is usual in the shop.
    pub fn shop(&self) -> &Shop {
        &self.shop
    }

    /// A line by number; a new product or customer gets the next number.
    pub fn number(&mut self, line: &Transaction<'_>) -> Observation {
        for (names, id) in [
            (&mut self.products, StockCode::canonical(line.stock_code)),
            (&mut self.customers, CustomerId::canonical(line.customer_id)),
        ] {
            if !id.is_empty() {
                // Beyond 2^31 ids a line counts as one of an unknown product or customer.
                let _ = names.intern(id);
            }
        }
        self.of_product
            .resize_with(self.products.len(), VecDeque::new);
        self.of_customer
            .resize_with(self.customers.len(), VecDeque::new);
        self.levels.resize(self.products.len(), None);
        self.stale.resize(self.products.len(), None);
        self.observe(line)
    }

    /// A line by number.
    pub fn observe(&self, line: &Transaction<'_>) -> Observation {
        let customer = CustomerId::canonical(line.customer_id);
        Observation {
            product: self.products.get(StockCode::canonical(line.stock_code)),
            customer: self.customers.get(customer),
            named: !customer.is_empty(),
            quantity: line.quantity.ln(),
            price: line.unit_price.ln(),
        }
    }

    /// Adds a numbered line, which is later than all lines added before; `day` counts days from any
    /// origin.
    pub fn push(&mut self, line: &Observation, day: i64) {
        let Some(product) = line.product else { return };
        let (quantity, price) = (line.quantity as f32, line.price as f32);
        let kept = Line {
            order: self.next,
            product,
            customer: line.customer,
            quantity,
            price,
        };
        self.next += 1;
        let ring = &mut self.of_product[product as usize];
        // A full ring drops its oldest line first: one more line would double its memory.
        let old = if ring.len() == OF_PRODUCT {
            ring.pop_front()
        } else {
            None
        };
        ring.push_back(kept);
        self.units.count(units(quantity.into()), 1);
        self.cents.count(cents(price.into()), 1);
        if let Some(old) = old {
            self.units.count(units(old.quantity.into()), -1);
            self.cents.count(cents(old.price.into()), -1);
        }
        if let Some(customer) = line.customer {
            let ring = &mut self.of_customer[customer as usize];
            if ring.len() == OF_CUSTOMER {
                ring.pop_front();
            }
            ring.push_back(kept);
        }
        self.stale[product as usize].get_or_insert(day);
    }

    /// Brings a product's levels up to date on a day: by the lines of earlier days, or by all lines
    /// if there are few.
    pub fn refresh(&mut self, product: Option<u32>, day: i64) {
        let Some(product) = product.map(|product| product as usize) else {
            return;
        };
        let young = self.of_product[product].len() < YOUNG;
        if self.stale[product].is_some_and(|since| young || since < day) {
            self.stale[product] = None;
            self.levels[product] = product_levels(&self.of_product[product], &self.shop);
        }
    }

    /// Brings all levels up to date.
    pub fn refresh_all(&mut self) {
        for product in 0..self.of_product.len() {
            self.refresh(Some(product as u32), i64::MAX);
        }
    }

    pub(super) fn product(&self, line: &Observation) -> Option<&ProductLevels> {
        self.levels.get(line.product? as usize)?.as_ref()
    }

    /// `None` if no line of the customer is remembered.
    pub(super) fn customer(&self, line: &Observation) -> Option<CustomerLevels> {
        let ring = self.of_customer.get(line.customer? as usize)?;
        let over: Vec<f64> = ring
            .iter()
            .map(|line| f64::from(line.quantity) - self.usual_quantity(line.product))
            .collect();
        let most = over.iter().copied().reduce(f64::max)?;
        let n = over.len() as f64;
        let own = median(over.clone());
        let spread = MAD * median(over.iter().map(|over| (over - own).abs()).collect());
        let weight = n / (n + SHRINK_CUSTOMER);
        let spread =
            (weight * spread.powi(2) + (1.0 - weight) * self.shop.quantity.spread.powi(2)).sqrt();
        Some(CustomerLevels {
            quantity: Level {
                median: own * weight,
                spread: spread.max(LEAST_QUANTITY),
            },
            most,
        })
    }

    fn usual_quantity(&self, product: u32) -> f64 {
        let levels = self.levels.get(product as usize).and_then(Option::as_ref);
        levels.map_or(self.shop.quantity.median, |levels| levels.quantity.median)
    }

    /// Quantity and price over the product's usual ones, or over the shop's for a product that was
    /// never sold.
    pub(super) fn over(&self, line: &Observation) -> Over {
        let product = self.product(line);
        let quantity = product.map_or(self.shop.quantity.median, |product| product.quantity.median);
        Over {
            quantity: line.quantity - quantity,
            price: product.map_or(0.0, |product| line.price - product.price.median),
        }
    }

    /// The context of a line without a known invoice.
    pub fn alone(&self, line: &Observation) -> Context<'static> {
        Context {
            customer: self.customer(line),
            others: None,
            quantities: &[],
            place: 0,
        }
    }

    /// The context of each line of an invoice; `quantities` are those of its lines.
    pub fn contexts<'a>(&self, invoice: &[Observation], quantities: &'a [f64]) -> Vec<Context<'a>> {
        let n = invoice.len() as f64;
        let over: Vec<Over> = invoice.iter().map(|line| self.over(line)).collect();
        let of = |value: &dyn Fn(usize) -> f64| {
            others(&(0..invoice.len()).map(value).collect::<Vec<_>>())
        };
        let (quantity, price) = (of(&|at| over[at].quantity), of(&|at| over[at].price));
        let total = of(&|at| invoice[at].quantity + invoice[at].price);
        // As a rule an invoice has one customer.
        let mut of_customer: Vec<(Option<u32>, Option<CustomerLevels>)> = Vec::new();
        let mut customer = |line: &Observation| match of_customer
            .iter()
            .find(|(known, _)| *known == line.customer)
        {
            Some((_, levels)) => *levels,
            None => {
                let levels = self.customer(line);
                of_customer.push((line.customer, levels));
                levels
            }
        };
        let context = |place: usize| Context {
            customer: customer(&invoice[place]),
            // Shrinks towards 0: the fewer the other lines, the less their quantities say.
            others: quantity[place].map(|quantity| Others {
                quantity: quantity * (n - 1.0) / n,
                price: price[place].unwrap_or_default(),
                total: total[place].unwrap_or_default(),
            }),
            quantities,
            place,
        };
        (0..invoice.len()).map(context).collect()
    }

    /// What the trees see of a line: the first [`super::ALONE`] features say nothing of the
    /// invoice, the rest are 0 if it is not known.
    pub fn features(&self, line: &Observation, context: &Context<'_>) -> [f32; WIDTH] {
        let ring = line
            .product
            .and_then(|product| self.of_product.get(product as usize));
        let remembered = ring.into_iter().flatten().map(|other| Remembered {
            named: other.customer.is_some(),
            quantity: other.quantity.into(),
            price: other.price.into(),
        });
        let input = Input {
            line,
            shop: &self.shop,
            product: self.product(line),
            customer: context.customer,
            over: self.over(line),
            neighbours: Neighbours::of(line, remembered),
            quantity_share: self.units.share(units(line.quantity)),
            price_share: self.cents.share(cents(line.price)),
        };
        let invoice = context.others.map(|others| {
            let quantities = context.quantities.iter().enumerate();
            let other = quantities.filter(|(place, _)| *place != context.place);
            let larger = other.filter(|(_, other)| **other > line.quantity - 1e-6);
            Invoice {
                others,
                lines: context.quantities.len() as f64,
                larger: larger.count() as f64,
            }
        });
        features(&input, invoice.as_ref())
    }

    /// Products and customers by number, and the lines that are remembered, the oldest first.
    pub fn parts(&self) -> (Vec<&str>, Vec<&str>, Vec<Observation>) {
        let mut lines: Vec<&Line> = self
            .of_product
            .iter()
            .chain(&self.of_customer)
            .flatten()
            .collect();
        lines.sort_unstable_by_key(|line| line.order);
        lines.dedup_by_key(|line| line.order);
        let lines = lines.into_iter().map(|line| Observation {
            product: Some(line.product),
            customer: line.customer,
            named: line.customer.is_some(),
            quantity: line.quantity.into(),
            price: line.price.into(),
        });
        (
            self.products.names().collect(),
            self.customers.names().collect(),
            lines.collect(),
        )
    }

    /// From an artifact: the same lines in the same order make the same history.
    pub(super) fn load(artifact: &Artifact, shop: Shop) -> Result<Self, ModelError> {
        let mut history = Self::new(shop);
        history.products = load_ids(
            "products",
            &artifact.table("products.parquet")?.text("stock_code")?,
            StockCode::canonical,
        )?;
        history.customers = load_ids(
            "customers",
            &artifact.table("customers.parquet")?.text("customer_id")?,
            CustomerId::canonical,
        )?;
        let (products, customers) = (history.products.len(), history.customers.len());
        history.of_product.resize_with(products, VecDeque::new);
        history.of_customer.resize_with(customers, VecDeque::new);
        history.levels.resize(products, None);
        history.stale.resize(products, None);
        let table = artifact.table("lines.parquet")?;
        let (product, customer) = (table.int("product")?, table.int("customer")?);
        let (quantity, price) = (table.float("log_quantity")?, table.float("log_price")?);
        for row in 0..product.len() {
            let below = |number: i64, count: usize| {
                u32::try_from(number).ok().filter(|n| (*n as usize) < count)
            };
            let (product, customer) = (
                below(product[row], products),
                below(customer[row], customers),
            );
            let (quantity, price) = (quantity[row], price[row]);
            // `!(a < b)` rather than `a >= b`, so that a NaN is refused as well.
            if product.is_none() || !(quantity.abs() < 50.0 && price.abs() < 50.0) {
                return Err(ModelError::inconsistent(
                    "lines",
                    format!("has no usable line in row {row}"),
                ));
            }
            history.push(
                &Observation {
                    product,
                    customer,
                    named: customer.is_some(),
                    quantity,
                    price,
                },
                0,
            );
        }
        history.refresh_all();
        Ok(history)
    }
}

/// The levels of a product by its remembered lines, shrunk towards the shop's; `None` without a
/// line.
fn product_levels(ring: &VecDeque<Line>, shop: &Shop) -> Option<ProductLevels> {
    let n = ring.len() as f64;
    let weight = n / (n + SHRINK_PRODUCT);
    let level = |of: fn(&Line) -> f32| {
        let values: Vec<f64> = ring.iter().map(|line| f64::from(of(line))).collect();
        let centre = median(values.clone());
        (
            centre,
            MAD * median(values.iter().map(|value| (value - centre).abs()).collect()),
        )
    };
    let shrunk =
        |own: f64, typical: f64| (weight * own.powi(2) + (1.0 - weight) * typical.powi(2)).sqrt();
    let ((quantity, quantity_spread), (price, price_spread)) =
        (level(|line| line.quantity), level(|line| line.price));
    let channel = |named: bool| {
        let of: Vec<f64> = ring
            .iter()
            .filter(|line| line.customer.is_some() == named)
            .map(|line| f64::from(line.price))
            .collect();
        let k = of.len() as f64;
        (k * median(of) + SHRINK_PRICE * price) / (k + SHRINK_PRICE)
    };
    (!ring.is_empty()).then(|| ProductLevels {
        quantity: Level {
            median: weight * quantity + (1.0 - weight) * shop.quantity.median,
            spread: shrunk(quantity_spread, shop.quantity.spread).max(LEAST_QUANTITY),
        },
        price: Level {
            median: price,
            spread: shrunk(price_spread, shop.price_within).max(LEAST_PRICE),
        },
        channel: ChannelPrices {
            named: channel(true),
            anonymous: channel(false),
        },
    })
}

/// For each value the median of all others; `None` for a single value.
fn others(values: &[f64]) -> Vec<Option<f64>> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut medians = vec![None; values.len()];
    if values.len() < 2 {
        return medians;
    }
    let others = values.len() - 1;
    for (rank, at) in order.iter().enumerate() {
        let without = |place: usize| values[order[if rank <= place { place + 1 } else { place }]];
        medians[*at] = Some(f64::midpoint(
            without((others - 1) / 2),
            without(others / 2),
        ));
    }
    medians
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(stock_code: &str, quantity: f64, unit_price: f64) -> Transaction<'_> {
        Transaction {
            stock_code,
            quantity,
            unit_price,
            customer_id: "14911",
        }
    }

    fn shop() -> Shop {
        Shop {
            quantity: Level {
                median: 1.0,
                spread: 0.8,
            },
            price: Level {
                median: 1.0,
                spread: 1.0,
            },
            price_within: 0.1,
        }
    }

    #[test]
    fn the_others_of_an_invoice_are_those_beside_a_line() {
        assert_eq!(others(&[1.0]), [None]);
        assert_eq!(others(&[1.0, 5.0]), [Some(5.0), Some(1.0)]);
        assert_eq!(
            others(&[3.0, 1.0, 9.0, 4.0]),
            [Some(4.0), Some(4.0), Some(3.0), Some(3.0)]
        );
    }

    #[test]
    fn an_id_stands_in_one_row_in_one_spelling() {
        let load = |ids: &[&str]| {
            let ids: Vec<Box<str>> = ids.iter().map(|id| (*id).into()).collect();
            load_ids("customers", &ids, CustomerId::canonical).map(|ids| ids.len())
        };
        assert_eq!(load(&["17850", "14911"]), Ok(2));
        for (ids, row) in [
            (["17850", "17850"], 1),
            (["17850", "17850.0"], 1),
            (["17850.0", "1"], 0),
            (["1", ""], 1),
        ] {
            let message = format!("customers has no new id in row {row}: `{}`", ids[row]);
            assert_eq!(load(&ids).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn levels_wait_for_the_next_day_once_a_product_is_known_well() {
        let mut history = History::new(shop());
        for day in 0..20 {
            let line = history.number(&line("A", 4.0, 2.5));
            history.push(&line, day);
            history.refresh(line.product, day + 1);
        }
        let usual = history.observe(&line("A", 4.0, 2.5));
        let before = *history.product(&usual).unwrap();
        for _ in 0..40 {
            let line = history.number(&line("A", 40.0, 2.5));
            history.push(&line, 21);
        }
        history.refresh(usual.product, 21);
        assert_eq!(*history.product(&usual).unwrap(), before);
        history.refresh(usual.product, 22);
        assert!(history.product(&usual).unwrap().quantity.median > 3.0);
    }

    proptest! {
        #[test]
        fn medians_of_others_are_their_medians(
            values in prop::collection::vec(-9.0..9.0_f64, 2..12),
        ) {
            for (at, found) in others(&values).into_iter().enumerate() {
                let mut rest = values.clone();
                rest.remove(at);
                prop_assert_eq!(found, Some(median(rest)));
            }
        }

        #[test]
        fn what_is_remembered_makes_the_same_history(
            lines in prop::collection::vec(
                (0..3_usize, 0..40_usize, 1..50_u16, 1..9_u16),
                1..900,
            )
        ) {
            let mut history = History::new(shop());
            let codes = ["A", "B", "C"];
            let customers: Vec<String> = (0..40).map(|customer| format!("{customer}")).collect();
            for (code, customer, quantity, price) in lines {
                let line = history.number(&Transaction {
                    stock_code: codes[code],
                    quantity: quantity.into(),
                    unit_price: f64::from(price) / 4.0,
                    customer_id: if customer < 5 { "" } else { &customers[customer] },
                });
                history.push(&line, 0);
            }
            history.refresh_all();
            let (products, customers, lines) = history.parts();
            let mut again = History::new(shop());
            for id in products {
                again.number(&line(id, 1.0, 1.0));
            }
            for id in customers {
                again.number(&Transaction { customer_id: id, ..line("A", 1.0, 1.0) });
            }
            for line in &lines {
                again.push(line, 0);
            }
            again.refresh_all();
            prop_assert_eq!(&again.levels[..history.levels.len()], &history.levels[..]);
            prop_assert_eq!(again.units.of, history.units.of.clone());
            prop_assert_eq!(again.cents.of, history.cents.of.clone());
            for line in &lines {
                let features = history.features(line, &history.alone(line));
                prop_assert!(features.iter().all(|x| x.is_finite()));
            }
        }
    }
}
