//! What is known of a customer and a product together, each feature defined once for training and
//! serving.

/// Half-lives of the counts in [`Held::fresh`], in the order there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfLife {
    Days15,
    Days30,
    Days60,
    Days120,
    Days240,
}

/// Half-lives, days, of the counts in [`Held::fresh`].
pub const HALF_LIVES: [f64; 5] = [15.0, 30.0, 60.0, 120.0, 240.0];

/// Windows before the as-of time in which [`Standing::buyers`] are counted, in the order there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    Days7,
    Days14,
    Days30,
    Days60,
    Days90,
    Ever,
}

/// Windows, days, of [`Standing::buyers`].
pub const WINDOWS: [i64; 6] = [7, 14, 30, 60, 90, i64::MAX];

impl Window {
    /// The window in which a product "sells at the moment".
    pub(crate) const LATELY: Self = Self::Days30;

    fn days(self) -> f64 {
        WINDOWS[self as usize] as f64
    }
}

/// Days that stand for "never".
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
    /// Units an order.
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

    /// Weights with which item-item scores count the purchase.
    pub(crate) fn weights(&self) -> PurchaseWeights {
        let decayed = |half_life: HalfLife| {
            let half_life_days = HALF_LIVES[half_life as usize];
            (-self.days / half_life_days).exp2() as f32
        };
        PurchaseWeights {
            usual: decayed(HalfLife::Days60),
            undecayed: 1.0,
            fresh: decayed(HalfLife::Days15),
        }
    }

    /// Orders with the product, decayed by a half-life.
    pub(crate) fn decayed(&self, half_life: HalfLife) -> f64 {
        self.fresh[half_life as usize]
    }

    /// Confidence in a preference for the product beyond none (Hu et al. 2008): log orders,
    /// decayed.
    pub fn confidence(&self) -> f64 {
        let orders = self.decayed(HalfLife::Days60).max(0.0);
        (1.0 + orders).log2().max(1e-3)
    }
}

/// How much a purchase counts in an item-item score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PurchaseWeights {
    /// Half after 60 days.
    pub(crate) usual: f32,
    /// The same however old it is.
    pub(crate) undecayed: f32,
    /// Half after 15 days.
    pub(crate) fresh: f32,
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
    /// Usual price of what the customer buys, shop currency.
    pub price: f64,
    /// Usual units in a line.
    pub quantity: f64,
}

/// What is known of a product, whatever the customer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Usual price, shop currency.
    pub price: f64,
    /// Usual units in a line.
    pub quantity: f64,
    /// Customers that have bought it within each of [`WINDOWS`].
    pub buyers: [f64; WINDOWS.len()],
    /// Days from the last sale to the as-of time.
    pub days: f64,
    /// Days from the first.
    pub first_days: f64,
    /// Orders a buyer.
    pub repeats: f64,
    /// Share of the buyers that have come back for it.
    pub repeat_share: f64,
}

impl Standing {
    /// Customers that have bought it within a window.
    pub(crate) fn buyers_within(&self, window: Window) -> f64 {
        self.buyers[window as usize]
    }
}

macro_rules! signals {
    ($($variant:ident $field:ident $doc:literal),* $(,)?) => {
        /// A score of a product by what the customer has bought.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Signal { $(#[doc = $doc] $variant),* }

        /// A value for each signal.
        #[derive(Debug, Clone, Copy, PartialEq, Default)]
        pub(crate) struct BySignal<T> { $(#[doc = $doc] pub(crate) $field: T),* }

        impl<T> BySignal<T> {
            pub(crate) fn from_fn(mut value: impl FnMut(Signal) -> T) -> Self {
                Self { $($field: value(Signal::$variant)),* }
            }

            pub(crate) fn get(&self, signal: Signal) -> &T {
                match signal { $(Signal::$variant => &self.$field),* }
            }
        }
    };
}
signals! {
    Taste taste "linear autoencoder",
    TasteUndecayed taste_undecayed "the same, in which old purchases count as new ones do",
    TasteFresh taste_fresh "the same, of fresh purchases alone",
    Together together "bought in one order",
    TogetherFresh together_fresh "the same, of fresh purchases alone",
    Words words "described alike",
    Factors factors "dot product of the factors",
}

/// The scores of a product.
pub(crate) type Signals = BySignal<f32>;

impl Signals {
    /// Whether anything that the customer has bought speaks for the product. Factors speak for
    /// every product, and so do not count.
    pub(crate) fn speak_for_it(&self) -> bool {
        let of_items = [
            self.taste,
            self.taste_undecayed,
            self.taste_fresh,
            self.together,
            self.together_fresh,
            self.words,
        ];
        of_items.iter().any(|signal| *signal > 0.0)
    }
}

/// A customer and a product.
pub(crate) struct Pair<'a> {
    pub(crate) shopper: &'a Shopper,
    /// Different products that the customer has bought.
    pub(crate) held_products: f64,
    /// Orders with each of them, added up.
    pub(crate) held_orders: f64,
    pub(crate) held: Option<&'a Held>,
    pub(crate) standing: &'a Standing,
    /// Buyers of a best seller within each window.
    pub(crate) best: &'a [f64; WINDOWS.len()],
    pub(crate) signals: Signals,
    /// The highest of each signal among the customer's candidates.
    pub(crate) highest: &'a Signals,
    /// The product's place among them by each signal, 0 the first.
    pub(crate) rank: BySignal<u16>,
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

fn share(signal: Signal, pair: &Pair<'_>) -> f32 {
    pair.signals.get(signal) / pair.highest.get(signal).max(1e-9)
}

fn popularity(window: Window, pair: &Pair<'_>) -> f64 {
    let best = pair.best[window as usize];
    ((pair.standing.buyers_within(window) + 0.5) / (best + 0.5)).ln()
}

/// Buyers of a window over those that the average of a longer one would give.
fn trend(window: Window, longer: Window, standing: &Standing) -> f64 {
    let usual = standing.buyers_within(longer) * window.days() / longer.days();
    ((standing.buyers_within(window) + 1.0) / (usual + 1.0)).ln()
}

features! { pair;
    Purchases "orders with the product" => of(pair.held, |h| h.purchases, 0.0),
    Fresh15 "the same, decayed" => of(pair.held, |h| h.decayed(HalfLife::Days15), 0.0),
    Fresh30 "the same, decayed" => of(pair.held, |h| h.decayed(HalfLife::Days30), 0.0),
    Fresh60 "the same, decayed" => of(pair.held, |h| h.decayed(HalfLife::Days60), 0.0),
    Fresh120 "the same, decayed" => of(pair.held, |h| h.decayed(HalfLife::Days120), 0.0),
    Fresh240 "the same, decayed" => of(pair.held, |h| h.decayed(HalfLife::Days240), 0.0),
    Days "days since the customer bought it" => of(pair.held, |h| h.days, NEVER),
    OrderShare "share of the customer's orders with it" =>
        of(pair.held, |h| h.purchases, 0.0) / pair.shopper.orders.max(1.0),
    Gap "days between purchases of it" => of(pair.held, gap, NEVER),
    Overdue "such gaps since the last purchase" =>
        of(pair.held.filter(|h| h.purchases > 1.0), |h| h.days / gap(h), -1.0),
    Passed "days from the last purchase of it to the last order" =>
        of(pair.held, |h| h.days, NEVER) - pair.shopper.recency_days,
    Units "units an order over the product's usual" =>
        of(pair.held, |h| h.quantity, 0.0) / pair.standing.quantity.max(1.0),
    Popular7 "buyers over a best seller's" => popularity(Window::Days7, pair),
    Popular14 "buyers over a best seller's" => popularity(Window::Days14, pair),
    Popular30 "buyers over a best seller's" => popularity(Window::Days30, pair),
    Popular60 "buyers over a best seller's" => popularity(Window::Days60, pair),
    Popular90 "buyers over a best seller's" => popularity(Window::Days90, pair),
    Popular "buyers over a best seller's" => popularity(Window::Ever, pair),
    Trend7 "buyers of 7 days over those of 30" =>
        trend(Window::Days7, Window::Days30, pair.standing),
    Trend14 "buyers of 14 days over those of 90" =>
        trend(Window::Days14, Window::Days90, pair.standing),
    Trend30 "buyers of 30 days over those of 90" =>
        trend(Window::Days30, Window::Days90, pair.standing),
    Unsold "days since any customer bought it" => pair.standing.days,
    Age "days since any customer bought it first, at most 90" =>
        pair.standing.first_days.min(90.0),
    Repeats "orders a buyer" => pair.standing.repeats,
    RepeatShare "share of its buyers that came back" => pair.standing.repeat_share,
    Price "its price" => pair.standing.price,
    PriceRatio "log of its price over the customer's usual" =>
        ((pair.standing.price + 0.01) / (pair.shopper.price + 0.01)).max(1e-6).ln(),
    Quantity "its usual units" => pair.standing.quantity,
    ShopperQuantity "the customer's usual units" => pair.shopper.quantity,
    ShopperOrders "the customer's orders" => pair.shopper.orders,
    ShopperProducts "the customer's different products" => pair.held_products,
    ShopperRecency "days since the customer's last order" => pair.shopper.recency_days,
    ShopperTenure "days since the customer's first order" => pair.shopper.tenure_days,
    ShopperRepeats "orders with each product of the customer's" =>
        pair.held_orders / pair.held_products.max(1.0),
    ShopperWidth "products in the customer's order" =>
        pair.held_orders / pair.shopper.orders.max(1.0),
    Taste "autoencoder" => pair.signals.taste,
    TasteUndecayed "autoencoder, old purchases as new ones" => pair.signals.taste_undecayed,
    TasteFresh "autoencoder, fresh purchases alone" => pair.signals.taste_fresh,
    Together "bought in one order with what the customer has bought" => pair.signals.together,
    TogetherFresh "the same with fresh purchases alone" => pair.signals.together_fresh,
    Words "described like what the customer has bought" => pair.signals.words,
    Factors "factors" => pair.signals.factors,
    TasteOfBest "over the best candidate's" => share(Signal::Taste, pair),
    TasteUndecayedOfBest "over the best candidate's" => share(Signal::TasteUndecayed, pair),
    TogetherOfBest "over the best candidate's" => share(Signal::Together, pair),
    WordsOfBest "over the best candidate's" => share(Signal::Words, pair),
    FactorsOfBest "over the best candidate's" => share(Signal::Factors, pair),
    TasteRank "place among the candidates" => pair.rank.taste,
    TasteUndecayedRank "place among the candidates" => pair.rank.taste_undecayed,
    TasteFreshRank "place among the candidates" => pair.rank.taste_fresh,
    TogetherRank "place among the candidates" => pair.rank.together,
    WordsRank "place among the candidates" => pair.rank.words,
    FactorsRank "place among the candidates" => pair.rank.factors,
}
