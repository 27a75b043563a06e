//! Which lines a figure is over.

use std::ops::Range;

use transactions::{CustomerId, StockCode};

use super::{codes::NONE, shop::Shop, sums::Sums};

/// What is asked for, by name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// These countries alone; empty: all.
    pub countries: &'a [String],
    /// These products alone; empty: all.
    pub stock_codes: &'a [String],
    /// These customers alone; empty: all.
    pub customers: &'a [String],
    /// Lines from this instant on, microseconds since 1970.
    pub from: Option<i64>,
    /// Lines before this instant.
    pub to: Option<i64>,
}

/// A name that the shop does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{name}` is unknown")]
pub struct Unknown {
    /// `country`, `product` or `customer`.
    pub kind: &'static str,
    /// The name.
    pub name: String,
}

/// What was asked for, by number.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Receipts of the range of time.
    pub(super) receipts: Range<usize>,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) countries: Option<Vec<bool>>,
    pub(super) products: Option<Products>,
    pub(super) customers: Option<Vec<bool>>,
}

/// Products that are asked for.
#[derive(Debug, Clone)]
pub(super) struct Products {
    mask: Vec<bool>,
    /// A bit for each receipt that has a line of one of them.
    receipts: Vec<u64>,
}

impl Products {
    pub(super) fn has(&self, product: u32) -> bool {
        self.mask[product as usize]
    }

    fn is_in(&self, receipt: usize) -> bool {
        self.receipts[receipt / 64] >> (receipt % 64) & 1 == 1
    }
}

impl Shop {
    /// Everything.
    pub fn all(&self) -> Selection {
        let receipts = 0..self.receipts.time.len();
        Selection {
            receipts,
            from: i64::MIN,
            to: i64::MAX,
            countries: None,
            products: None,
            customers: None,
        }
    }

    /// Whether a selection takes every receipt, with all of its lines.
    pub(super) fn is_all(&self, selection: &Selection) -> bool {
        let Selection {
            receipts,
            from: _,
            to: _,
            countries,
            products,
            customers,
        } = selection;
        let of_everybody = countries.is_none() && products.is_none() && customers.is_none();
        of_everybody && *receipts == (0..self.receipts.time.len())
    }

    /// What a filter asks for.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn select(&self, filter: &Filter<'_>) -> Result<Selection, Unknown> {
        let products = mask("product", filter.stock_codes, self.products.len(), |name| {
            self.product_number(name)
        })?;
        let selection = Selection {
            countries: mask("country", filter.countries, self.countries.len(), |name| {
                self.countries.find(name.trim())
            })?,
            products: products.map(|mask| self.with_receipts(mask)),
            customers: mask("customer", filter.customers, self.customers.len(), |name| {
                self.customer_number(name)
            })?,
            ..self.all()
        };
        Ok(self.within(
            &selection,
            filter.from.unwrap_or(i64::MIN),
            filter.to.unwrap_or(i64::MAX),
        ))
    }

    fn with_receipts(&self, mask: Vec<bool>) -> Products {
        let mut receipts = vec![0_u64; self.receipts.time.len().div_ceil(64)];
        for (product, _) in (0..).zip(&mask).filter(|(_, is_asked)| **is_asked) {
            for receipt in self.by_product.get(product as usize) {
                receipts[*receipt as usize / 64] |= 1 << (receipt % 64);
            }
        }
        Products { mask, receipts }
    }

    /// The number of a customer.
    pub fn customer_number(&self, name: &str) -> Option<u32> {
        self.customers.find(CustomerId::canonical(name))
    }

    /// The number of a product.
    pub fn product_number(&self, name: &str) -> Option<u32> {
        self.products.find(StockCode::canonical(name))
    }

    /// The part of a selection that is in `from..to`.
    pub(super) fn within(&self, selection: &Selection, from: i64, to: i64) -> Selection {
        let (from, to) = (from.max(selection.from), to.min(selection.to));
        let time = &self.receipts.time;
        let start = time.partition_point(|time| *time < from);
        let end = time.partition_point(|time| *time < to).max(start);
        Selection {
            receipts: start..end,
            from,
            to,
            ..selection.clone()
        }
    }

    /// The receipts of a selection, in order.
    pub(super) fn selected<'a>(
        &'a self,
        selection: &'a Selection,
    ) -> impl Iterator<Item = usize> + 'a {
        selection
            .receipts
            .clone()
            .filter(|receipt| self.takes(selection, *receipt))
    }

    /// Whether a receipt is selected, by everything but its time; if the selection has products,
    /// whether some of its lines are.
    pub(super) fn takes(&self, selection: &Selection, receipt: usize) -> bool {
        selection
            .countries
            .as_ref()
            .is_none_or(|mask| mask[usize::from(self.receipts.country[receipt])])
            && selection.customers.as_ref().is_none_or(|mask| {
                let customer = self.receipts.customer[receipt];
                customer != NONE && mask[customer as usize]
            })
            && selection
                .products
                .as_ref()
                .is_none_or(|products| products.is_in(receipt))
    }

    /// What the selected lines of a receipt add up to: the stored sums, unless the selection has
    /// products.
    pub(super) fn sums(&self, selection: &Selection, receipt: usize) -> Sums {
        match &selection.products {
            None => self.receipts.sums[receipt],
            Some(products) => self.lines.sums(self.receipts.lines(receipt), |product| {
                products.has(product)
            }),
        }
    }
}

fn mask(
    kind: &'static str,
    names: &[String],
    of: usize,
    find: impl Fn(&str) -> Option<u32>,
) -> Result<Option<Vec<bool>>, Unknown> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut mask = vec![false; of];
    for name in names {
        let number = find(name).ok_or_else(|| Unknown {
            kind,
            name: name.clone(),
        })?;
        mask[number as usize] = true;
    }
    Ok(Some(mask))
}
