//! The lines one after another, for an export.

use transactions::{Line, LineKind};

use super::{
    codes::{DUPLICATE, KIND, NONE, code, kind_of},
    select::Selection,
    shop::Shop,
};

/// Kinds of lines, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    /// What revenue is made of.
    pub const REVENUE: Self = Self(0b11);

    /// These.
    pub fn of(kinds: impl IntoIterator<Item = LineKind>) -> Self {
        Self(
            kinds
                .into_iter()
                .fold(0, |set, kind| set | 1 << code(kind, false)),
        )
    }

    fn has(self, code: u8) -> bool {
        self.0 >> (code & KIND) & 1 == 1
    }
}

/// How far the lines have been read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    /// Receipts of the selection that are behind.
    receipts: usize,
    /// Lines of the next one that are behind.
    lines: usize,
}

impl Shop {
    /// Number of lines of some kinds.
    pub fn count(&self, selection: &Selection, kinds: Kinds) -> u64 {
        let is_known = selection.products.is_none() && kinds == Kinds::REVENUE;
        let count = |receipt: usize| match is_known {
            true => self.receipts.sums[receipt].lines.unsigned_abs(),
            false => self
                .receipts
                .lines(receipt)
                .filter(|at| self.is_exported(selection, kinds, *at))
                .count() as u64,
        };
        self.selected(selection).map(count).sum()
    }

    /// The next lines of some kinds, `most` at most, in order of time, then invoice. Says how many
    /// there were; fewer than `most` are the last.
    pub fn lines<'a>(
        &'a self,
        selection: &Selection,
        kinds: Kinds,
        cursor: &mut Cursor,
        most: usize,
        mut take: impl FnMut(Line<'a>),
    ) -> usize {
        let mut taken = 0;
        while taken < most {
            let receipt = selection.receipts.start + cursor.receipts;
            if receipt >= selection.receipts.end {
                break;
            }
            if self.takes(selection, receipt) {
                let lines = self.receipts.lines(receipt);
                let mut at = lines.start + cursor.lines;
                while at < lines.end && taken < most {
                    if self.is_exported(selection, kinds, at) {
                        take(self.line(receipt, at));
                        taken += 1;
                    }
                    at += 1;
                }
                if at < lines.end {
                    cursor.lines = at - lines.start;
                    break;
                }
            }
            *cursor = Cursor {
                receipts: cursor.receipts + 1,
                lines: 0,
            };
        }
        taken
    }

    fn is_exported(&self, selection: &Selection, kinds: Kinds, at: usize) -> bool {
        kinds.has(self.lines.kind[at])
            && selection
                .products
                .as_ref()
                .is_none_or(|products| products.has(self.lines.product[at]))
    }

    fn line(&self, receipt: usize, at: usize) -> Line<'_> {
        let (receipts, lines) = (&self.receipts, &self.lines);
        let (customer, description) = (receipts.customer[receipt], lines.description[at]);
        Line {
            id: lines.id[at].into(),
            invoice: self.invoices.get(receipts.invoice[receipt]),
            stock_code: self.products.get(lines.product[at]),
            description: (description != NONE).then(|| self.descriptions.get(description)),
            quantity: lines.quantity[at].into(),
            time: receipts.time[receipt],
            unit_price: lines.unit_price[at],
            customer: (customer != NONE).then(|| self.customers.get(customer)),
            country: self.countries.get(receipts.country[receipt].into()),
            kind: kind_of(lines.kind[at]),
            is_duplicate: lines.kind[at] & DUPLICATE != 0,
        }
    }
}
