//! What lines add up to.

use transactions::Money;

use super::codes::{CANCELLATION, KIND, SALE};

/// What lines add up to. Sales and cancellations alone count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Lines that count.
    pub lines: i64,
    /// Units sold.
    pub units: i64,
    /// Units taken back.
    pub returned: i64,
    /// Revenue of the units sold, before returns.
    pub gross: Money,
    /// Value of the units taken back.
    pub returns: Money,
}

impl Sums {
    /// Revenue net of returns.
    pub fn revenue(&self) -> Money {
        self.gross - self.returns
    }

    /// Whether a product was sold.
    pub fn sold(&self) -> bool {
        self.units > 0
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.units += other.units;
        self.returned += other.returned;
        self.gross += other.gross;
        self.returns += other.returns;
    }

    pub(super) fn add_line(&mut self, kind: u8, quantity: i32, unit_price: Money) {
        let quantity = i64::from(quantity);
        match kind & KIND {
            SALE => {
                self.lines += 1;
                self.units += quantity;
                self.gross += unit_price * quantity;
            }
            CANCELLATION => {
                self.lines += 1;
                self.returned -= quantity;
                self.returns -= unit_price * quantity;
            }
            _ => {}
        }
    }
}

/// Sums, and how many orders and customers are behind them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sales {
    /// The sums.
    pub sums: Sums,
    /// Invoices that sold something.
    pub orders: i64,
    /// Known customers that bought something.
    pub customers: i64,
}
