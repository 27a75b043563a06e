//! What is known of a customer and a product together, each feature defined once for training and
//! serving.

/// Half-lives, days, of the counts in [`Held::fresh`].
pub const HALF_LIVES: [f64; 5] = [15.0, 30.0, 60.0, 120.0, 240.0];
/// Half-life that the item-item scores and a fold-in weigh purchases with.
const USUAL: f64 = 60.0;
const SHORT: f64 = 15.0;
/// Windows, days, of [`Standing::buyers`].
pub const WINDOWS: [i64; 6] = [7, 14, 30, 60, 90, i64::MAX];
/// Stands for a time that never was, days.
pub const NEVER: f64 = 999.0;

/// How a customer has bought a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// Row of the product.
    pub product: usize,
    /// Orders with it.
    pub purchases: f64,
    /// Days from the last one to the as-of time.
    pub days: f64,
    /// Days from the first one to the as-of time.
    pub first_days: f64,
    /// Pieces an order.
    pub quantity: f64,
    /// Orders, one that is as old as each of [`HALF_LIVES`] counting half.
    pub fresh: [f64; HALF_LIVES.len()],
}

impl Held {
    /// Bought this instant, for the first time.
    pub(crate) fn now(product: usize, quantity: f64) -> Self {
        Self {
            product,
            purchases: 0.0,
            days: 0.0,
            first_days: 0.0,
            quantity,
            fresh: [0.0; HALF_LIVES.len()],
        }
        .again()
    }

    /// Bought once more, this instant.
    pub(crate) fn again(self) -> Self {
        Self {
            purchases: self.purchases + 1.0,
            days: 0.0,
            fresh: self.fresh.map(|count| count + 1.0),
            ..self
        }
    }

    /// Weights with which the item-item scores count it: usual, none forgotten, fresh alone.
    pub(crate) fn weights(&self) -> [f32; 3] {
        [
            (-self.days / USUAL).exp2() as f32,
            1.0,
            (-self.days / SHORT).exp2() as f32,
        ]
    }

    /// Confidence in a preference for it beyond none (Hu et al. 2008): log orders, decayed.
    pub fn confidence(&self) -> f64 {
        (1.0 + self.fresh[2].max(0.0)).log2().max(1e-3)
    }
}

/// What is known of a customer, whatever the product.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shopper {
    /// Orders.
    pub orders: f64,
    /// Days from the last order to the as-of time.
    pub recency_days: f64,
    /// Days from the first.
    pub tenure_days: f64,
    /// Usual price of what they buy, shop currency.
    pub price: f64,
    /// Usual pieces in a line.
    pub quantity: f64,
}

/// What is known of a product, whoever the customer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Usual price, shop currency.
    pub price: f64,
    /// Usual pieces in a line.
    pub quantity: f64,
    /// Customers who have bought it within each of [`WINDOWS`].
    pub buyers: [f64; WINDOWS.len()],
    /// Days from the last sale to the as-of time.
    pub days: f64,
    /// Days from the first.
    pub first_days: f64,
    /// Orders a buyer.
    pub repeats: f64,
    /// Share of the buyers who have come back for it.
    pub repeat_share: f64,
}

/// Scores of a product by what the customer holds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Signals(pub(crate) [f32; SIGNALS]);

/// Linear autoencoder with three weightings, bought in one order with two, words, factors.
pub(crate) const SIGNALS: usize = 7;

/// A customer and a product.
pub(crate) struct Pair<'a> {
    pub(crate) shopper: &'a Shopper,
    /// Different products that the customer holds, and orders with each in all.
    pub(crate) held_products: f64,
    pub(crate) held_orders: f64,
    pub(crate) held: Option<&'a Held>,
    pub(crate) standing: &'a Standing,
    /// Buyers within each window that a product among the best has.
    pub(crate) best: &'a [f64; WINDOWS.len()],
    pub(crate) signals: Signals,
    /// The highest of the customer's candidates, and the product's place among them.
    pub(crate) highest: &'a Signals,
    pub(crate) rank: [u16; SIGNALS],
}

macro_rules! features {
    ($pair:ident; $($variant:ident $doc:literal => $value:expr),* $(,)?) => {
        /// What a ranker sees of a customer and a product.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Feature { $(#[doc = $doc] $variant),* }

        /// Number of features.
        pub const WIDTH: usize = [$(Feature::$variant),*].len();

        /// All features, in the order of every vector.
        pub(crate) fn features($pair: &Pair<'_>, to: &mut Vec<f32>) {
            to.extend_from_slice(&[$(($value) as f32),*]);
        }
    };
}

fn of(held: Option<&Held>, value: impl Fn(&Held) -> f64, otherwise: f64) -> f64 {
    held.map_or(otherwise, value)
}

/// Days between a customer's purchases of a product.
fn gap(held: &Held) -> f64 {
    match held.purchases > 1.0 {
        true => ((held.first_days - held.days) / (held.purchases - 1.0)).max(0.5),
        false => NEVER,
    }
}

fn share(signal: usize, pair: &Pair<'_>) -> f32 {
    pair.signals.0[signal] / pair.highest.0[signal].max(1e-9)
}

fn popularity(window: usize, pair: &Pair<'_>) -> f64 {
    ((pair.standing.buyers[window] + 0.5) / (pair.best[window] + 0.5)).ln()
}

fn trend(window: usize, days: f64, longer: usize, longer_days: f64, standing: &Standing) -> f64 {
    ((standing.buyers[window] + 1.0) / (standing.buyers[longer] * days / longer_days + 1.0)).ln()
}

features! { pair;
    Purchases "orders with the product" => of(pair.held, |h| h.purchases, 0.0),
    Fresh15 "the same, decayed" => of(pair.held, |h| h.fresh[0], 0.0),
    Fresh30 "the same, decayed" => of(pair.held, |h| h.fresh[1], 0.0),
    Fresh60 "the same, decayed" => of(pair.held, |h| h.fresh[2], 0.0),
    Fresh120 "the same, decayed" => of(pair.held, |h| h.fresh[3], 0.0),
    Fresh240 "the same, decayed" => of(pair.held, |h| h.fresh[4], 0.0),
    Days "days since the customer bought it" => of(pair.held, |h| h.days, NEVER),
    OrderShare "share of the customer's orders with it" => of(pair.held, |h| h.purchases, 0.0) / pair.shopper.orders.max(1.0),
    Gap "days between purchases of it" => of(pair.held, gap, NEVER),
    Overdue "such gaps since the last purchase" =>
        of(pair.held.filter(|h| h.purchases > 1.0), |h| h.days / gap(h), -1.0),
    Passed "days from the last purchase of it to the last order" =>
        of(pair.held, |h| h.days, NEVER) - pair.shopper.recency_days,
    Pieces "pieces an order over the product's usual" => of(pair.held, |h| h.quantity, 0.0) / pair.standing.quantity.max(1.0),
    Popular7 "buyers over those of the best" => popularity(0, pair),
    Popular14 "buyers over those of the best" => popularity(1, pair),
    Popular30 "buyers over those of the best" => popularity(2, pair),
    Popular60 "buyers over those of the best" => popularity(3, pair),
    Popular90 "buyers over those of the best" => popularity(4, pair),
    Popular "buyers over those of the best" => popularity(5, pair),
    Trend7 "buyers of 7 days over those of 30" => trend(0, 7.0, 2, 30.0, pair.standing),
    Trend14 "buyers of 14 days over those of 90" => trend(1, 14.0, 4, 90.0, pair.standing),
    Trend30 "buyers of 30 days over those of 90" => trend(2, 30.0, 4, 90.0, pair.standing),
    Unsold "days since anybody bought it" => pair.standing.days,
    Age "days since anybody bought it first, at most 90" => pair.standing.first_days.min(90.0),
    Repeats "orders a buyer" => pair.standing.repeats,
    RepeatShare "share of its buyers who came back" => pair.standing.repeat_share,
    Price "its price" => pair.standing.price,
    PriceRatio "log of its price over the customer's usual" =>
        ((pair.standing.price + 0.01) / (pair.shopper.price + 0.01)).max(1e-6).ln(),
    Quantity "its usual pieces" => pair.standing.quantity,
    ShopperQuantity "the customer's usual pieces" => pair.shopper.quantity,
    ShopperOrders "the customer's orders" => pair.shopper.orders,
    ShopperProducts "the customer's different products" => pair.held_products,
    ShopperRecency "days since the customer's last order" => pair.shopper.recency_days,
    ShopperTenure "days since the customer's first order" => pair.shopper.tenure_days,
    ShopperRepeats "orders with each product of the customer's" => pair.held_orders / pair.held_products.max(1.0),
    ShopperWidth "products in the customer's order" => pair.held_orders / pair.shopper.orders.max(1.0),
    Taste "autoencoder" => pair.signals.0[0],
    TasteAll "autoencoder, nothing forgotten" => pair.signals.0[1],
    TasteFresh "autoencoder, fresh purchases alone" => pair.signals.0[2],
    Together "bought in one order with what the customer holds" => pair.signals.0[3],
    TogetherFresh "the same with fresh purchases alone" => pair.signals.0[4],
    Words "described like what the customer holds" => pair.signals.0[5],
    Factors "factors" => pair.signals.0[6],
    TasteOfBest "over the best candidate's" => share(0, pair),
    TasteAllOfBest "over the best candidate's" => share(1, pair),
    TogetherOfBest "over the best candidate's" => share(3, pair),
    WordsOfBest "over the best candidate's" => share(5, pair),
    FactorsOfBest "over the best candidate's" => share(6, pair),
    TasteRank "place among the candidates" => pair.rank[0],
    TasteAllRank "place among the candidates" => pair.rank[1],
    TasteFreshRank "place among the candidates" => pair.rank[2],
    TogetherRank "place among the candidates" => pair.rank[3],
    WordsRank "place among the candidates" => pair.rank[5],
    FactorsRank "place among the candidates" => pair.rank[6],
}
