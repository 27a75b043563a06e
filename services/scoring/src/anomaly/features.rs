//! What the trees see of a line, each feature defined once for training and serving.

use super::{
    levels::{CustomerLevels, ProductLevels, Shop},
    line::{Measure, Observation},
};

/// Weights and bounds of the features.
struct Numbers {
    /// Lines of the shop's usual quantity that stand beside a price's own.
    shrink_price: f64,
    /// Spread of the quantities of a product that is new, in parts of the shop's.
    new_product_spread: f64,
    /// Counts start from this, so that no share is 0.
    smoothing: f64,
}

const NUMBERS: Numbers = Numbers {
    shrink_price: SHRINK_PRICE,
    new_product_spread: 1.5,
    smoothing: 0.5,
};

/// Lines at a product's usual price that stand beside those of a channel, or of one price.
pub(super) const SHRINK_PRICE: f64 = 1.0;
/// Prices within this of each other, as logarithms, are the same.
pub(super) const SAME_PRICE: f64 = 0.03;
/// Stands for the distance to a price when a product has no line yet.
const NO_PRICE: f64 = -1.0;

/// Quantity and price over the product's usual ones, as logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Over {
    pub(super) quantity: f64,
    pub(super) price: f64,
}

/// Medians over the other lines of an invoice: quantity and price over the product's usual ones,
/// and the line total, as logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Others {
    pub(super) quantity: f64,
    pub(super) price: f64,
    pub(super) total: f64,
}

/// How a line compares with the remembered lines of its product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Neighbours {
    /// How many lines are remembered.
    pub(super) lines: f64,
    nearest_price: f64,
    second_price: f64,
    /// Lines at the same price, and the sum of their quantities.
    at_price: f64,
    quantity_at_price: f64,
    /// Lines of the same quantity.
    same_quantity: f64,
    /// Lines of the same kind of buyer, and those of them that are at least as large.
    alike: f64,
    larger: f64,
}

/// A remembered line.
pub(super) struct Remembered {
    pub(super) named: bool,
    pub(super) quantity: f64,
    pub(super) price: f64,
}

impl Neighbours {
    /// One pass over the product's remembered lines.
    pub(super) fn of(line: &Observation, lines: impl Iterator<Item = Remembered>) -> Self {
        let mut found = Self {
            lines: 0.0,
            nearest_price: f64::INFINITY,
            second_price: f64::INFINITY,
            at_price: 0.0,
            quantity_at_price: 0.0,
            same_quantity: 0.0,
            alike: 0.0,
            larger: 0.0,
        };
        for other in lines {
            found.lines += 1.0;
            let apart = (other.price - line.price).abs();
            if apart < found.nearest_price {
                (found.nearest_price, found.second_price) = (apart, found.nearest_price);
            } else if apart < found.second_price {
                found.second_price = apart;
            }
            if apart < SAME_PRICE {
                found.at_price += 1.0;
                found.quantity_at_price += other.quantity;
            }
            // Remembered quantities are f32: equal ones differ by a rounding error.
            let more = other.quantity - line.quantity;
            if more.abs() < 1e-5 {
                found.same_quantity += 1.0;
            }
            if other.named == line.named {
                found.alike += 1.0;
                if more > -1e-5 {
                    found.larger += 1.0;
                }
            }
        }
        found
    }

    /// Distance to the second nearest price, because the nearest may carry the same error.
    fn price_distance(&self) -> f64 {
        match self.lines {
            0.0 => NO_PRICE,
            1.0 => self.nearest_price,
            _ => self.second_price,
        }
    }

    /// Logarithm of a share of the remembered lines.
    fn share(&self, count: f64) -> f64 {
        ((count + NUMBERS.smoothing) / (self.lines + 1.0)).ln()
    }
}

/// A line and what stands beside it.
pub(super) struct Input<'a> {
    pub(super) line: &'a Observation,
    pub(super) shop: &'a Shop,
    pub(super) product: Option<&'a ProductLevels>,
    pub(super) customer: Option<CustomerLevels>,
    pub(super) over: Over,
    pub(super) neighbours: Neighbours,
    /// Logarithm of the share of the shop's lines with exactly this quantity.
    pub(super) quantity_share: f64,
    /// Logarithm of the share of the shop's lines with exactly this price.
    pub(super) price_share: f64,
}

/// The other lines of the invoice.
pub(super) struct Invoice {
    pub(super) others: Others,
    /// Lines of the invoice.
    pub(super) lines: f64,
    /// Other lines that are at least as large.
    pub(super) larger: f64,
}

impl Input<'_> {
    /// Quantity over the product's usual one, in the product's spreads.
    fn quantity_z(&self) -> f64 {
        let new = || NUMBERS.new_product_spread * self.shop.quantity.spread;
        let spread = self
            .product
            .map_or_else(new, |product| product.quantity.spread);
        self.over.quantity / spread
    }

    fn price_z(&self) -> f64 {
        let level = self
            .product
            .map_or(self.shop.price, |product| product.price);
        level.z(self.line.price)
    }

    /// Quantity over what usually goes at this price: the mean quantity at it, with the usual
    /// quantity as one more line.
    fn over_quantity_at_price(&self) -> f64 {
        let usual = self.line.quantity - self.over.quantity;
        let Neighbours {
            at_price,
            quantity_at_price,
            ..
        } = self.neighbours;
        let weight = NUMBERS.shrink_price;
        self.line.quantity - (quantity_at_price + weight * usual) / (at_price + weight)
    }

    fn larger_share(&self) -> f64 {
        let Neighbours { larger, alike, .. } = self.neighbours;
        ((larger + NUMBERS.smoothing) / (alike + 1.0)).ln()
    }

    fn over_customer(&self) -> f64 {
        let quantity = self.over.quantity;
        let usual = self.customer.map(|customer| customer.quantity.median);
        usual.map_or(quantity, |usual| quantity - usual)
    }

    fn over_largest_of_customer(&self) -> f64 {
        let most = self.customer.map(|customer| customer.most);
        most.map_or(0.0, |most| self.over.quantity - most)
    }

    fn over_channel_price(&self) -> f64 {
        let channel = self.product.map(|product| product.channel.of(self.line));
        channel.map_or(0.0, |usual| self.line.price - usual)
    }
}

macro_rules! measure {
    () => {
        None
    };
    ($measure:ident) => {
        Some(Measure::$measure)
    };
}

macro_rules! features {
    (
        alone($line:ident) {
            $($alone:ident $alone_doc:literal ($($alone_of:ident)?) => $alone_value:expr),* $(,)?
        }
        among($input:ident, $invoice:ident) {
            $($among:ident $among_doc:literal ($($among_of:ident)?) => $among_value:expr),* $(,)?
        }
    ) => {
        /// What the trees see of a line: of the line alone, then of it among the other lines of its
        /// invoice.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(super) enum Feature {
            $(#[doc = $alone_doc] $alone,)*
            $(#[doc = $among_doc] $among,)*
        }

        /// Length of the vector of a line without a known invoice.
        pub const ALONE: usize = [$(Feature::$alone),*].len();
        /// Length of a line's vector.
        pub const WIDTH: usize = ALONE + [$(Feature::$among),*].len();

        /// What each feature measures, if it is one thing.
        pub(super) const MEASURED: [Option<Measure>; WIDTH] =
            [$(measure!($($alone_of)?),)* $(measure!($($among_of)?),)*];

        /// All features, in the order of every vector; those of the invoice are 0 without one.
        pub(super) fn features($line: &Input<'_>, invoice: Option<&Invoice>) -> [f32; WIDTH] {
            let mut vector = [0.0; WIDTH];
            for (place, value) in vector.iter_mut().zip([$($alone_value),*]) {
                *place = value as f32;
            }
            if let Some($invoice) = invoice {
                let $input = $line;
                for (place, value) in vector[ALONE..].iter_mut().zip([$($among_value),*]) {
                    *place = value as f32;
                }
            }
            vector
        }
    };
}
features! {
    alone(x) {
        Price "logarithm of the price" (UnitPrice) => x.line.price,
        Total "logarithm of the line total" (LineTotal) => x.line.quantity + x.line.price,
        Lines "logarithm of 1 and the product's remembered lines" () =>
            x.neighbours.lines.ln_1p(),
        QuantityZ "quantity over the product's usual one, in spreads" (Quantity) => x.quantity_z(),
        PriceZ "price over the product's usual one, in spreads" (UnitPrice) => x.price_z(),
        PriceDistance "distance to the second nearest price of the product" (UnitPrice) =>
            x.neighbours.price_distance(),
        PriceShare "share of the product's lines at the same price" (UnitPrice) =>
            x.neighbours.share(x.neighbours.at_price),
        OverQuantityAtPrice "quantity over what goes at this price" (Quantity) =>
            x.over_quantity_at_price(),
        LargerShare "share of the product's lines that are as large" (Quantity) =>
            x.larger_share(),
        ShopQuantityShare "share of the shop's lines with the quantity" (Quantity) =>
            x.quantity_share,
        QuantityShare "share of the product's lines with the quantity" (Quantity) =>
            x.neighbours.share(x.neighbours.same_quantity),
        OverCustomer "quantity over the customer's usual one" (Quantity) => x.over_customer(),
        OverLargestOfCustomer "quantity over the customer's largest" (Quantity) =>
            x.over_largest_of_customer(),
        OverChannelPrice "price over what the kind of buyer usually pays" (UnitPrice) =>
            x.over_channel_price(),
        ShopPriceShare "share of the shop's lines with the price" (UnitPrice) => x.price_share,
    }
    among(x, invoice) {
        OverInvoiceQuantity "quantity over the other lines'" (Quantity) =>
            x.over.quantity - invoice.others.quantity,
        OverInvoicePrice "price over the other lines'" (UnitPrice) =>
            x.over.price - invoice.others.price,
        OverInvoiceTotal "total over the other lines'" (LineTotal) =>
            x.line.quantity + x.line.price - invoice.others.total,
        InvoiceLines "logarithm of the lines of the invoice" () => invoice.lines.ln(),
        InvoiceLargerShare "share of the invoice's lines that are as large" (Quantity) =>
            ((invoice.larger + NUMBERS.smoothing) / invoice.lines).ln(),
    }
}
