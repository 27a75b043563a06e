//! Customers, products and purchases as rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use scoring::recommendation::{HALF_LIVES, Held, NEVER, Shopper, Standing, WINDOWS};
use transactions::{LineKind, Money, StockCode};

use crate::learn::lines::{DAY, Line, Lines};

/// Days without a sale after which a product is off the list.
const OFF_THE_LIST_DAYS: i64 = 365;

/// What customers have bought as of an instant.
pub(super) struct Matrix {
    /// Numbers of the customers and products that have a row.
    pub(super) customers: Vec<u32>,
    pub(super) products: Vec<u32>,
    /// Rows of customers, and the products that they hold, in order of customer and product.
    pub(super) cells: Vec<(usize, Held)>,
    pub(super) shoppers: Vec<Shopper>,
    pub(super) standings: Vec<Standing>,
    /// Rows of the products of each order, with or without a customer, ascending.
    pub(super) orders: Vec<Vec<u32>>,
}

/// A sale of a listed product to a known customer. Events sort by customer, product and order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    customer: u32,
    /// Row of the product.
    product: usize,
    invoice: u32,
    time: i64,
    quantity: i64,
}

impl Matrix {
    pub(super) fn of(lines: &Lines, as_of: i64) -> Self {
        let sales: Vec<&Line> = lines
            .before(as_of)
            .filter(|line| line.kind == LineKind::Sale && !line.is_duplicate)
            .collect();
        let spelling = spelling(lines);
        let products = listed_products(&sales, &spelling, as_of);
        let product_rows = rows(&products);

        let mut in_order: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut prices = vec![Vec::new(); products.len()];
        let mut quantities = vec![Vec::new(); products.len()];
        let mut events = Vec::new();
        for line in &sales {
            let product = spelling[line.product as usize];
            let Some(product) = product_rows.get(&product).copied() else {
                continue;
            };
            let order = in_order.entry(line.invoice).or_default();
            order.insert(product as u32);
            prices[product].push(line.price);
            quantities[product].push(line.quantity);
            if let Some(customer) = line.customer {
                events.push(Event {
                    customer,
                    product,
                    invoice: line.invoice,
                    time: line.time,
                    quantity: line.quantity,
                });
            }
        }
        events.sort_unstable();
        let mut customers: Vec<u32> = events.iter().map(|event| event.customer).collect();
        customers.dedup();
        let customer_rows = rows(&customers);
        let cells: Vec<(usize, Held)> = events
            .chunk_by(|a, b| (a.customer, a.product) == (b.customer, b.product))
            .map(|events| (customer_rows[&events[0].customer], held(events, as_of)))
            .collect();
        let mut standings: Vec<Standing> = prices
            .into_iter()
            .zip(quantities)
            .map(|(prices, quantities)| not_counted(prices, quantities))
            .collect();
        count_buyers(&mut standings, &cells);
        let orders = in_order.into_values();
        Self {
            shoppers: shoppers(&events, &sales, &customer_rows, as_of),
            customers,
            products,
            cells,
            standings,
            orders: orders.map(|order| order.into_iter().collect()).collect(),
        }
    }

    /// Products and weights of each customer.
    pub(super) fn held(&self, weight: impl Fn(&Held) -> f64) -> Vec<Vec<(usize, f32)>> {
        let mut held = vec![Vec::new(); self.customers.len()];
        self.cells
            .iter()
            .for_each(|(customer, of)| held[*customer].push((of.product, weight(of) as f32)));
        held
    }

    /// Rows of customers and products with weights.
    pub(super) fn weighted(&self, weight: impl Fn(&Held) -> f64) -> Vec<(usize, usize, f64)> {
        self.cells
            .iter()
            .map(|(customer, held)| (*customer, held.product, weight(held)))
            .collect()
    }
}

/// Numbers of the products on the list, ascending: those sold in the last year.
fn listed_products(sales: &[&Line], spelling: &[u32], as_of: i64) -> Vec<u32> {
    let mut last_sold: BTreeMap<u32, i64> = BTreeMap::new();
    for line in sales {
        let product = spelling[line.product as usize];
        let last = last_sold.entry(product).or_insert(line.time);
        *last = line.time.max(*last);
    }
    last_sold.retain(|_, last| *last >= as_of - OFF_THE_LIST_DAYS * DAY);
    last_sold.into_keys().collect()
}

fn days(time: i64, as_of: i64) -> f64 {
    (as_of - time) as f64 / DAY as f64
}

/// The standing of a product before [`count_buyers`].
fn not_counted(prices: Vec<Money>, quantities: Vec<i64>) -> Standing {
    Standing {
        price: median(prices).to_f64(),
        quantity: median(quantities) as f64,
        buyers: [0.0; WINDOWS.len()],
        days: NEVER,
        first_days: 0.0,
        repeats: 0.0,
        repeat_share: 0.0,
    }
}

/// What a customer holds of a product, from all of their events.
fn held(events: &[Event], as_of: i64) -> Held {
    let days = |time: i64| days(time, as_of);
    let times: Vec<i64> = events
        .chunk_by(|a, b| a.invoice == b.invoice)
        .map(|order| order[0].time)
        .collect();
    let purchases = times.len() as f64;
    let (first, last) = (times.iter().min().copied(), times.iter().max().copied());
    let quantity: i64 = events.iter().map(|event| event.quantity).sum();
    Held {
        product: events[0].product,
        purchases,
        days: last.map_or(NEVER, days),
        first_days: first.map_or(NEVER, days),
        quantity: quantity as f64 / purchases,
        fresh: HALF_LIVES.map(|half| times.iter().map(|time| (-days(*time) / half).exp2()).sum()),
    }
}

/// The customers in order of their rows. Their prices are those of all their purchases, listed
/// products or not.
fn shoppers(
    events: &[Event],
    sales: &[&Line],
    customer_rows: &HashMap<u32, usize>,
    as_of: i64,
) -> Vec<Shopper> {
    let mut prices = vec![Vec::new(); customer_rows.len()];
    for line in sales {
        let row = line.customer.and_then(|of| customer_rows.get(&of));
        if let Some(row) = row {
            prices[*row].push(line.price);
        }
    }
    let of_customers = events.chunk_by(|a, b| a.customer == b.customer);
    let shopper = |(events, prices): (&[Event], Vec<Money>)| {
        let mut invoices: Vec<u32> = events.iter().map(|event| event.invoice).collect();
        invoices.sort_unstable();
        invoices.dedup();
        let times = || events.iter().map(|event| event.time);
        let quantities = events.iter().map(|event| event.quantity).collect();
        Shopper {
            orders: invoices.len() as f64,
            recency_days: days(times().max().unwrap_or(as_of), as_of),
            tenure_days: days(times().min().unwrap_or(as_of), as_of),
            price: median(prices).to_f64(),
            quantity: median(quantities) as f64,
        }
    };
    of_customers.zip(prices).map(shopper).collect()
}

/// Adds the buyers of each product.
fn count_buyers(standings: &mut [Standing], cells: &[(usize, Held)]) {
    for (_, held) in cells {
        let of = &mut standings[held.product];
        for (buyers, window) in of.buyers.iter_mut().zip(WINDOWS) {
            *buyers += f64::from(u8::from(held.days <= window as f64));
        }
        of.days = of.days.min(held.days);
        of.first_days = of.first_days.max(held.first_days);
        of.repeats += held.purchases;
        of.repeat_share += f64::from(u8::from(held.purchases > 1.0));
    }
    for of in standings {
        let buyers = of.buyers[WINDOWS.len() - 1].max(1.0);
        of.repeats /= buyers;
        of.repeat_share /= buyers;
    }
}

/// The upper median of values, the default of none.
fn median<T: Copy + Default + Ord>(mut values: Vec<T>) -> T {
    let middle = values.len() / 2;
    if values.is_empty() {
        T::default()
    } else {
        *values.select_nth_unstable(middle).1
    }
}

/// The product that each product number stands for: codes that differ only in case are one product.
pub(super) fn spelling(lines: &Lines) -> Vec<u32> {
    let mut first: HashMap<String, u32> = HashMap::new();
    let number = |number: u32| {
        *first
            .entry(StockCode::folded(lines.products.name(number)))
            .or_insert(number)
    };
    (0..lines.products.len() as u32).map(number).collect()
}

/// The row of each number, in order.
fn rows(numbers: &[u32]) -> HashMap<u32, usize> {
    numbers
        .iter()
        .enumerate()
        .map(|(row, number)| (*number, row))
        .collect()
}
