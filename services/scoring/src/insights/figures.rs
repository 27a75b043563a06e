//! Figures over a selection.

use std::{collections::HashMap, ops::Range};

use transactions::Money;

use super::{
    calendar::Frequency,
    codes::{CANCELLATION, KIND, NONE, SALE},
    select::Selection,
    shop::Shop,
    sums::{Sales, Sums},
};

/// The periods that a selection reaches into, without a gap.
#[derive(Debug, Clone)]
pub struct Periods {
    frequency: Frequency,
    /// Start of each, microseconds since 1970.
    pub starts: Vec<i64>,
}

impl Periods {
    /// End of the period at a place.
    fn end(&self, at: usize) -> i64 {
        match (self.starts.get(at + 1), self.starts.get(at)) {
            (Some(next), _) => *next,
            (None, Some(start)) => self.frequency.next(*start),
            (None, None) => i64::MAX,
        }
    }

    /// The time from the start of the first to the end of the last of some of them.
    fn time(&self, range: &Range<usize>) -> Range<i64> {
        let start = self.starts.get(range.start).copied().unwrap_or(i64::MAX);
        start..if range.is_empty() {
            start
        } else {
            self.end(range.end - 1)
        }
    }

    /// The place of an instant that comes after the one asked for last.
    fn advance(&self, at: &mut usize, time: i64) {
        while *at + 1 < self.starts.len() && self.starts[*at + 1] <= time {
            *at += 1;
        }
    }
}

/// New and returning customers of a period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// Customers with their first order in it.
    pub new_customers: i64,
    /// Customers that had bought before.
    pub returning_customers: i64,
    /// Revenue from new customers.
    pub new_revenue: Money,
    /// Revenue from returning customers.
    pub returning_revenue: Money,
    /// Revenue from lines that name no customer, or one that has not bought yet.
    pub other_revenue: Money,
}

/// Customers that first bought in the same period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cohort {
    /// Customers of the cohort.
    pub customers: i64,
    /// What they bought in each period from that one on.
    pub cells: Vec<Cell>,
}

/// What a cohort did in a period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Customers that bought something in it.
    pub customers: i64,
    /// Revenue net of returns.
    pub revenue: Money,
}

/// A customer in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// The figures.
    pub sales: Sales,
    /// Country of delivery of the last order.
    pub country: Option<u32>,
    /// Time of the first and the last order, microseconds since 1970.
    pub span: Option<(i64, i64)>,
    /// Sums by product.
    pub products: Vec<(u32, Sums)>,
}

/// An invoice of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The invoice.
    pub invoice: u32,
    /// Its first line, microseconds since 1970.
    pub time: i64,
    /// Country of delivery.
    pub country: u32,
    /// What its lines add up to.
    pub sums: Sums,
}

/// The mark under which each number was seen last.
struct Seen(Vec<u32>);

impl Seen {
    fn new(numbers: usize) -> Self {
        Self(vec![0; numbers])
    }

    /// Whether a number is seen for the first time under a mark, which is 1 or more.
    fn is_new(&mut self, number: u32, mark: u32) -> bool {
        let seen = &mut self.0[number as usize];
        std::mem::replace(seen, mark) != mark
    }
}

/// Counts orders and customers, each once.
struct Tally<'a> {
    shop: &'a Shop,
    invoices: Seen,
    customers: Seen,
}

impl<'a> Tally<'a> {
    fn new(shop: &'a Shop) -> Self {
        Self {
            shop,
            invoices: Seen::new(shop.invoices.len()),
            customers: Seen::new(shop.customers.len()),
        }
    }

    /// Adds a receipt to figures; each of several figures has a mark of its own.
    fn add(&mut self, sales: &mut Sales, mark: u32, receipt: usize, sums: &Sums) {
        sales.sums.add(sums);
        if sums.sold() {
            let receipts = &self.shop.receipts;
            sales.orders += i64::from(self.invoices.is_new(receipts.invoice[receipt], mark));
            let customer = receipts.customer[receipt];
            sales.customers += i64::from(customer != NONE && self.customers.is_new(customer, mark));
        }
    }
}

impl Shop {
    /// The figures as a whole.
    pub fn sales(&self, selection: &Selection) -> Sales {
        if self.is_all(selection) {
            self.whole
        } else {
            self.add_up(selection)
        }
    }

    /// Adds up everything once, so that the figures of everything are at hand.
    pub(super) fn add_up_whole(&mut self) {
        self.whole = self.add_up(&self.all());
    }

    fn add_up(&self, selection: &Selection) -> Sales {
        let (mut tally, mut sales) = (Tally::new(self), Sales::default());
        for receipt in self.selected(selection) {
            tally.add(&mut sales, 1, receipt, &self.sums(selection, receipt));
        }
        sales
    }

    /// The figures of each country that has any, the one with most revenue first.
    pub fn by_country(&self, selection: &Selection) -> Vec<(u32, Sales)> {
        let mut tally = Tally::new(self);
        let mut all = Vec::new();
        for country in 0..self.countries.len() as u32 {
            let receipts = self.by_country.get(country as usize);
            let [start, end] = [selection.receipts.start, selection.receipts.end]
                .map(|bound| receipts.partition_point(|receipt| (*receipt as usize) < bound));
            let mut sales = Sales::default();
            for &receipt in &receipts[start..end] {
                let receipt = receipt as usize;
                if !self.takes(selection, receipt) {
                    continue;
                }
                tally.add(
                    &mut sales,
                    country + 1,
                    receipt,
                    &self.sums(selection, receipt),
                );
            }
            if sales.sums.lines > 0 {
                all.push((country, sales));
            }
        }
        all.sort_by_key(|(country, sales)| (std::cmp::Reverse(sales.sums.revenue()), *country));
        all
    }

    /// The periods that a selection and the shop's data both reach into.
    pub fn periods(&self, selection: &Selection, frequency: Frequency) -> Periods {
        let starts = self.span().map(|(first, last)| {
            frequency.starts(
                selection.from.max(first),
                selection.to.min(last.saturating_add(1)),
            )
        });
        Periods {
            frequency,
            starts: starts.unwrap_or_default(),
        }
    }

    /// The figures of some periods.
    pub fn trend(
        &self,
        selection: &Selection,
        periods: &Periods,
        range: Range<usize>,
    ) -> Vec<Sales> {
        let mut all = vec![Sales::default(); range.len()];
        let time = periods.time(&range);
        let selection = self.within(selection, time.start, time.end);
        let (mut tally, mut at) = (Tally::new(self), range.start);
        for receipt in self.selected(&selection) {
            periods.advance(&mut at, self.receipts.time[receipt]);
            let sums = self.sums(&selection, receipt);
            tally.add(&mut all[at - range.start], at as u32 + 1, receipt, &sums);
        }
        all
    }

    /// Sums of every product that was sold or taken back, by number.
    pub fn products(&self, selection: &Selection) -> Vec<(u32, Sums)> {
        let mut all = vec![Sums::default(); self.products.len()];
        let is_filtered = selection.products.is_some() || selection.customers.is_some();
        let Range { start, end } = selection.receipts;
        let whole = self
            .cube
            .months
            .iter()
            .enumerate()
            .filter(|(_, month)| !is_filtered && month.start >= start && month.end <= end);
        let mut whole = whole.peekable();
        let first = whole.peek().map_or(end, |(_, month)| month.start);
        let mut last = first;
        for (at, month) in whole {
            for country in 0..self.countries.len() {
                if selection
                    .countries
                    .as_ref()
                    .is_none_or(|mask| mask[country])
                {
                    self.cube
                        .cells(at, country)
                        .iter()
                        .for_each(|cell| all[cell.product as usize].add(&cell.sums));
                }
            }
            last = month.end;
        }
        for receipt in (start..first).chain(last.max(start)..end) {
            if self.takes(selection, receipt) {
                self.each_product(selection, receipt, |product, kind, quantity, price| {
                    all[product as usize].add_line(kind, quantity, price);
                });
            }
        }
        (0..).zip(all).filter(|(_, sums)| sums.lines > 0).collect()
    }

    /// The lines of a receipt that count, if their products are asked for: product, kind, quantity,
    /// price.
    fn each_product(
        &self,
        selection: &Selection,
        receipt: usize,
        mut take: impl FnMut(u32, u8, i32, Money),
    ) {
        for at in self.receipts.lines(receipt) {
            let (product, kind) = (self.lines.product[at], self.lines.kind[at]);
            let counts = matches!(kind & KIND, SALE | CANCELLATION);
            if counts
                && selection
                    .products
                    .as_ref()
                    .is_none_or(|products| products.has(product))
            {
                take(
                    product,
                    kind,
                    self.lines.quantity[at],
                    self.lines.unit_price[at],
                );
            }
        }
    }

    /// New and returning customers of some periods.
    pub fn growth(
        &self,
        selection: &Selection,
        periods: &Periods,
        range: Range<usize>,
    ) -> Vec<Growth> {
        let mut all = vec![Growth::default(); range.len()];
        let time = periods.time(&range);
        let selection = self.within(selection, time.start, time.end);
        let (mut seen, mut at) = (Seen::new(self.customers.len()), range.start);
        for receipt in self.selected(&selection) {
            periods.advance(&mut at, self.receipts.time[receipt]);
            let (sums, customer) = (
                self.sums(&selection, receipt),
                self.receipts.customer[receipt],
            );
            let growth = &mut all[at - range.start];
            let first = self
                .first_time(customer)
                .filter(|first| *first < periods.end(at));
            let Some(first) = first else {
                growth.other_revenue += sums.revenue();
                continue;
            };
            // The first period may begin before the selection does.
            let is_new = first >= periods.starts[at].max(selection.from);
            let counts = i64::from(sums.sold() && seen.is_new(customer, at as u32 + 1));
            match is_new {
                true => (
                    growth.new_revenue += sums.revenue(),
                    growth.new_customers += counts,
                ),
                false => (
                    growth.returning_revenue += sums.revenue(),
                    growth.returning_customers += counts,
                ),
            };
        }
        all
    }

    /// When a customer first bought something.
    fn first_time(&self, customer: u32) -> Option<i64> {
        let receipt = self
            .first_receipt
            .get(customer as usize)
            .filter(|receipt| **receipt != NONE)?;
        self.receipts.time.get(*receipt as usize).copied()
    }

    /// The cohorts of some periods, each followed for `most` periods or to the end of all.
    pub fn cohorts(
        &self,
        selection: &Selection,
        periods: &Periods,
        range: Range<usize>,
        most: usize,
    ) -> Vec<Cohort> {
        let last = periods
            .starts
            .len()
            .min(range.end.saturating_add(most).saturating_sub(1))
            .max(range.end);
        let followed = |cohort: usize| most.min(periods.starts.len() - (range.start + cohort));
        let mut all: Vec<Cohort> = (0..range.len())
            .map(|cohort| Cohort {
                customers: 0,
                cells: vec![Cell::default(); followed(cohort)],
            })
            .collect();
        let selection = self.within(
            selection,
            periods.time(&range).start,
            periods.time(&(range.start..last)).end,
        );
        let mut of_customer = vec![NONE; self.customers.len()];
        for (customer, first) in self.first_receipt.iter().enumerate() {
            let receipt = *first as usize;
            if selection.receipts.contains(&receipt) && self.takes(&selection, receipt) {
                let period = periods
                    .starts
                    .partition_point(|start| *start <= self.receipts.time[receipt])
                    - 1;
                if let Some(cohort) = all.get_mut(period - range.start) {
                    cohort.customers += 1;
                    of_customer[customer] = period as u32;
                }
            }
        }
        let (mut seen, mut at) = (Seen::new(self.customers.len()), range.start);
        for receipt in self.selected(&selection) {
            periods.advance(&mut at, self.receipts.time[receipt]);
            let customer = self.receipts.customer[receipt];
            let Some(cohort) = of_customer
                .get(customer as usize)
                .filter(|cohort| **cohort != NONE)
            else {
                continue;
            };
            let cohort = *cohort as usize;
            // A return before the first purchase is in no period of the cohort.
            let Some(offset) = at.checked_sub(cohort) else {
                continue;
            };
            if let Some(cell) = all[cohort - range.start].cells.get_mut(offset) {
                let sums = self.sums(&selection, receipt);
                cell.revenue += sums.revenue();
                cell.customers += i64::from(sums.sold() && seen.is_new(customer, at as u32 + 1));
            }
        }
        all
    }

    /// The figures of `groups` groups of customers, and last of all other lines. `group_of` has a
    /// group for each customer; a number from `groups` on is none of them.
    pub fn by_group(&self, selection: &Selection, group_of: &[u16], groups: usize) -> Vec<Sales> {
        let mut all = vec![Sales::default(); groups + 1];
        // Receipts of a group are not next to each other, so that one mark for each invoice does
        // not do: each group has a bit for each invoice.
        let words = self.invoices.len().div_ceil(64);
        let mut invoices = vec![0_u64; words * all.len()];
        let mut customers = Seen::new(self.customers.len());
        for receipt in self.selected(selection) {
            let (customer, sums) = (
                self.receipts.customer[receipt],
                self.sums(selection, receipt),
            );
            let group = group_of
                .get(customer as usize)
                .map_or(groups, |group| usize::from(*group).min(groups));
            let sales = &mut all[group];
            sales.sums.add(&sums);
            if sums.sold() {
                let invoice = self.receipts.invoice[receipt] as usize;
                let (word, bit) = (
                    &mut invoices[group * words + invoice / 64],
                    1_u64 << (invoice % 64),
                );
                sales.orders += i64::from(*word & bit == 0);
                *word |= bit;
                sales.customers += i64::from(customer != NONE && customers.is_new(customer, 1));
            }
        }
        all
    }

    /// A customer's figures.
    pub fn profile(&self, customer: u32, selection: &Selection) -> Profile {
        let mut profile = Profile::default();
        let mut products: HashMap<u32, Sums> = HashMap::new();
        let mut invoices: Vec<u32> = Vec::new();
        for receipt in self.of_customer(customer, selection) {
            let sums = self.sums(selection, receipt);
            profile.sales.sums.add(&sums);
            self.each_product(selection, receipt, |product, kind, quantity, price| {
                products
                    .entry(product)
                    .or_default()
                    .add_line(kind, quantity, price);
            });
            if sums.sold() {
                let time = self.receipts.time[receipt];
                profile.span = Some((profile.span.map_or(time, |(first, _)| first), time));
                profile.country = Some(self.receipts.country[receipt].into());
                invoices.push(self.receipts.invoice[receipt]);
            }
        }
        invoices.sort_unstable();
        invoices.dedup();
        profile.sales.orders = invoices.len() as i64;
        profile.sales.customers = i64::from(profile.sales.sums.sold());
        profile.products = products.into_iter().collect();
        profile
            .products
            .sort_unstable_by_key(|(product, _)| *product);
        profile
    }

    /// A customer's invoices that sold something or took it back, the latest first.
    pub fn orders(&self, customer: u32, selection: &Selection) -> Vec<Order> {
        let mut orders: Vec<Order> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        for receipt in self.of_customer(customer, selection) {
            let sums = self.sums(selection, receipt);
            if sums.lines == 0 {
                continue;
            }
            let invoice = self.receipts.invoice[receipt];
            match places.get(&invoice).and_then(|at| orders.get_mut(*at)) {
                Some(order) => order.sums.add(&sums),
                None => {
                    places.insert(invoice, orders.len());
                    let country = self.receipts.country[receipt].into();
                    orders.push(Order {
                        invoice,
                        time: self.receipts.time[receipt],
                        country,
                        sums,
                    });
                }
            }
        }
        orders.reverse();
        orders
    }

    fn of_customer<'a>(
        &'a self,
        customer: u32,
        selection: &'a Selection,
    ) -> impl Iterator<Item = usize> + 'a {
        let receipts = self
            .by_customer
            .get(customer as usize)
            .iter()
            .map(|receipt| *receipt as usize);
        receipts.filter(|receipt| {
            selection.receipts.contains(receipt) && self.takes(selection, *receipt)
        })
    }

    /// Time of a country's first and last line, and what they add up to.
    pub fn country(&self, country: u32) -> Option<(i64, i64, Sums)> {
        let receipts = self.by_country.get(country as usize);
        let time = |receipt: &u32| self.receipts.time[*receipt as usize];
        let sums = self.country_sums.get(country as usize)?;
        Some((
            receipts.first().map(time)?,
            receipts.last().map(time)?,
            *sums,
        ))
    }

    /// Products that hold all words of the query in code or description. First the product with the
    /// query as its code, then those with a code that begins with it, then by revenue.
    pub fn search(&self, query: &str) -> Vec<u32> {
        let query = query.trim().to_lowercase();
        let words: Vec<&str> = query.split_whitespace().collect();
        let matching = (0_u32..)
            .zip(&self.product_text)
            .filter(|(_, text)| words.iter().all(|word| text.contains(word)));
        let mut found: Vec<_> = matching
            .map(|(product, text)| {
                let code = self.products.get(product).to_lowercase();
                let worse = !text.starts_with(&*query) || query.is_empty();
                (
                    code != query,
                    worse,
                    std::cmp::Reverse(self.product_sums[product as usize].revenue()),
                    product,
                )
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(.., product)| product).collect()
    }
}
