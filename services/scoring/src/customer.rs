//! What is known of a customer as of an instant: the features that churn and segmentation share,
//! each defined once.
//!
//! In: the lines of one customer. Out: `[F]` f32 in the order of [`Feature::ALL`]; days, counts,
//! shop currency.

use std::collections::{HashMap, HashSet};

use crate::quantile::median;

const DAY: f64 = 86_400.0;

/// A line of a customer's history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Seconds since 1970.
    pub time: i64,
    /// Number of the invoice; lines of an invoice share it.
    pub invoice: u64,
    /// Number of the product.
    pub product: u32,
    /// Units; below 0 for returns.
    pub quantity: f64,
    /// Shop currency; below 0 for returns.
    pub amount: f64,
}

macro_rules! features {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// What is known of a customer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "`Feature::told` says what each is")]
        pub enum Feature { $($variant),* }

        impl Feature {
            /// All of them, in the order of every vector.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in requests and answers.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}
features! {
    RecencyDays "recency_days",
    TenureDays "tenure_days",
    Orders "orders",
    Spend "spend",
    AverageOrder "average_order_value",
    LastOrder "last_order_value",
    LinesPerOrder "lines_per_order",
    LastLines "last_order_lines",
    AverageGapDays "average_gap_days",
    LongestGapDays "longest_gap_days",
    PreviousGap "previous_gap_days",
    ExpectedGap "expected_gap_days",
    Overdue "overdue",
    OverduePause "overdue_pause",
    OrderRate "order_rate",
    ActiveMonths "active_months",
    Orders30 "orders_30_days",
    Orders90 "orders_90_days",
    Orders180 "orders_180_days",
    Spend90 "spend_90_days",
    FreshOrders "fresh_orders",
    RecentOrders "recent_orders",
    RecentSpend "recent_spend",
    Products "products",
    UsualPrice "usual_price",
    UsualQuantity "usual_quantity",
    RepeatShare "repeat_share",
    LiveShare "live_share",
    Returns "returns",
    ReturnedShare "returned_share",
}

/// Days a product has been sold within to be part of the current range.
pub const LIVE_DAYS: i64 = 30;

impl Feature {
    /// The feature of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|feature| feature.name() == name)
    }

    /// What it is for a customer, in words.
    pub fn told(self, value: f32) -> String {
        let value = f64::from(value) + 0.0; // -0 is told as 0
        let (days, orders) = (|days| some(days, "day"), some(value, "order"));
        match self {
            Self::RecencyDays => format!("last order {}", ago(value)),
            Self::TenureDays => format!("first order {}", ago(value)),
            Self::Orders => format!("{orders} in all"),
            Self::Spend => format!("{value:.2} spent in all"),
            Self::AverageOrder => format!("{value:.2} spent on an order on average"),
            Self::LastOrder => format!("{value:.2} spent on the last order"),
            Self::LinesPerOrder => format!("{} in an order on average", some(value, "line")),
            Self::LastLines => format!("{} in the last order", some(value, "line")),
            Self::AverageGapDays => format!("{} between orders on average", days(value)),
            Self::LongestGapDays => format!("longest pause between orders {}", days(value)),
            Self::PreviousGap => format!("{} between the last two orders", days(value)),
            Self::ExpectedGap => format!("an order expected every {}", days(value)),
            Self::Overdue => format!("away for {} times as long as expected", number(value)),
            Self::OverduePause => format!(
                "away for {} times as long as their longest pause",
                number(value)
            ),
            Self::OrderRate => format!("orders on {} of a month", days(30.0 * value)),
            Self::ActiveMonths => format!("orders in {}", some(value, "calendar month")),
            Self::Orders30 => format!("{orders} in the last 30 days"),
            Self::Orders90 => format!("{orders} in the last 90 days"),
            Self::Orders180 => format!("{orders} in the last 180 days"),
            Self::Spend90 => format!("{value:.2} spent in the last 90 days"),
            Self::FreshOrders => format!("{orders} where one of 45 days ago counts half"),
            Self::RecentOrders => format!("{orders} where one of 120 days ago counts half"),
            Self::RecentSpend => format!(
                "{} for how large and how recent the orders are",
                some(value, "point")
            ),
            Self::Products => some(value, "different product"),
            Self::UsualPrice => format!("usually {value:.2} for a piece"),
            Self::UsualQuantity => format!("usually {} of a product", some(value, "piece")),
            Self::RepeatShare => format!("{} of their lines buy a product again", percent(value)),
            Self::LiveShare => format!(
                "{} of what they bought was still sold in the last 30 days",
                percent(value)
            ),
            Self::Returns => some(value, "return"),
            Self::ReturnedShare => format!("{} of the spend was returned", percent(value)),
        }
    }
}

/// A count and what is counted: `no orders`, `1 order`, `2.5 orders`.
fn some(count: f64, what: &str) -> String {
    match number(count).as_str() {
        "0" => format!("no {what}s"),
        "1" => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

fn ago(days: f64) -> String {
    match days.floor() {
        days if days < 1.0 => "less than a day ago".to_owned(),
        days => format!("{} ago", some(days, "day")),
    }
}

/// A number with as many places as people read: `143`, `7.8`, `0.26`.
fn number(value: f64) -> String {
    let text = match value {
        value if value < 1.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => return format!("{value:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// The features of a customer as of an instant (seconds since 1970), from all lines before it;
/// `None` for a customer that has bought nothing before. `live` tells whether any customer has
/// bought a product in the [`LIVE_DAYS`] before. Lines may come in any order; those from `as_of` on
/// are ignored.
///
/// A customer with orders on a single day has no gap between orders yet. Their tenure, which the
/// first gap will exceed, stands for it.
#[expect(
    clippy::too_many_lines,
    reason = "a match with an arm per feature, below the sums that the arms share"
)]
pub fn features(lines: &[Line], as_of: i64, live: impl Fn(u32) -> bool) -> Option<Vec<f32>> {
    let bought: Vec<&Line> = lines
        .iter()
        .filter(|line| line.time < as_of && line.quantity > 0.0)
        .collect();
    let returned: Vec<&Line> = lines
        .iter()
        .filter(|line| line.time < as_of && line.quantity < 0.0)
        .collect();
    // Orders in time: an invoice's first instant, value and lines.
    let mut orders: HashMap<u64, (i64, f64, f64)> = HashMap::new();
    for line in &bought {
        let order = orders.entry(line.invoice).or_insert((line.time, 0.0, 0.0));
        *order = (order.0.min(line.time), order.1 + line.amount, order.2 + 1.0);
    }
    let mut by_time: Vec<(i64, u64, f64, f64)> =
        orders.iter().map(|(id, o)| (o.0, *id, o.1, o.2)).collect();
    by_time.sort_by_key(|order| (order.0, order.1));
    let (&(first, ..), &(last, _, last_value, last_lines)) = (by_time.first()?, by_time.last()?);

    let days = |from: i64, to: i64| (to - from) as f64 / DAY;
    // Several orders a day are one visit.
    let mut visits: Vec<i64> = by_time
        .iter()
        .map(|order| order.0.div_euclid(DAY as i64))
        .collect();
    visits.dedup();
    let gaps: Vec<f64> = visits
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) as f64)
        .collect();
    let (recency, tenure, count) = (days(last, as_of), days(first, as_of), by_time.len() as f64);
    let gap_or_tenure = |gap: Option<f64>| gap.unwrap_or(tenure);
    let expected_gap = (tenure + 60.0) / (visits.len() as f64 + 0.5);
    let longest = gap_or_tenure(gaps.iter().copied().reduce(f64::max));
    let within = |time: i64, window: f64| days(time, as_of) <= window;
    let orders_within = |window| by_time.iter().filter(|o| within(o.0, window)).count() as f64;
    let faded = |half: f64, of: fn(f64) -> f64| -> f64 {
        by_time
            .iter()
            .map(|o| (-days(o.0, as_of) / half).exp2() * of(o.2))
            .sum()
    };
    let spend: f64 = by_time.iter().map(|order| order.2).sum();
    let mut months: Vec<i64> = by_time.iter().map(|order| month(order.0)).collect();
    months.dedup();
    let products: HashSet<u32> = bought.iter().map(|line| line.product).collect();
    let share = |of: &dyn Fn(&Line) -> bool| {
        bought.iter().filter(|line| of(line)).count() as f64 / bought.len() as f64
    };
    let mut returns: Vec<u64> = returned.iter().map(|line| line.invoice).collect();
    returns.sort_unstable();
    returns.dedup();
    let taken_back: f64 = returned.iter().map(|line| -line.amount).sum();

    let value = |feature: Feature| match feature {
        Feature::RecencyDays => recency,
        Feature::TenureDays => tenure,
        Feature::Orders => count,
        Feature::Spend => spend,
        Feature::AverageOrder => spend / count,
        Feature::LastOrder => last_value,
        Feature::LinesPerOrder => bought.len() as f64 / count,
        Feature::LastLines => last_lines,
        Feature::AverageGapDays => {
            gap_or_tenure((!gaps.is_empty()).then(|| gaps.iter().sum::<f64>() / gaps.len() as f64))
        }
        Feature::LongestGapDays => longest,
        Feature::PreviousGap => gap_or_tenure(gaps.last().copied()),
        Feature::ExpectedGap => expected_gap,
        Feature::Overdue => recency / expected_gap,
        Feature::OverduePause => recency / longest.max(1.0),
        Feature::OrderRate => visits.len() as f64 / (tenure + 30.0),
        Feature::ActiveMonths => months.len() as f64,
        Feature::Orders30 => orders_within(30.0),
        Feature::Orders90 => orders_within(90.0),
        Feature::Orders180 => orders_within(180.0),
        Feature::Spend90 => by_time
            .iter()
            .filter(|o| within(o.0, 90.0))
            .map(|o| o.2)
            .sum(),
        Feature::FreshOrders => faded(45.0, |_| 1.0),
        Feature::RecentOrders => faded(120.0, |_| 1.0),
        Feature::RecentSpend => faded(120.0, f64::ln_1p),
        Feature::Products => products.len() as f64,
        Feature::UsualPrice => median(
            bought
                .iter()
                .map(|line| line.amount / line.quantity)
                .collect(),
        ),
        Feature::UsualQuantity => median(bought.iter().map(|line| line.quantity).collect()),
        Feature::RepeatShare => 1.0 - products.len() as f64 / bought.len() as f64,
        Feature::LiveShare => share(&|line| live(line.product)),
        Feature::Returns => returns.len() as f64,
        Feature::ReturnedShare => (taken_back / spend.max(0.01)).clamp(0.0, 2.0),
    };
    Some(
        Feature::ALL
            .iter()
            .map(|feature| value(*feature) as f32)
            .collect(),
    )
}

/// Number of a calendar month, counted through the years.
fn month(time: i64) -> i64 {
    use chrono::Datelike;
    let day = chrono::DateTime::from_timestamp(time, 0)
        .unwrap_or_default()
        .date_naive();
    i64::from(day.year()) * 12 + i64::from(day.month0())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(day: i64, invoice: u64, product: u32, quantity: f64, amount: f64) -> Line {
        Line {
            time: day * 86_400,
            invoice,
            product,
            quantity,
            amount,
        }
    }

    #[test]
    fn features_are_what_they_say() {
        let history = [
            line(0, 1, 7, 2.0, 10.0),
            line(30, 2, 7, 1.0, 5.0),
            line(30, 2, 8, 1.0, 15.0),
            line(40, 3, 7, -1.0, -5.0),
        ];
        let vector = features(&history, 100 * 86_400, |product| product == 7).unwrap();
        for (feature, value) in [
            (Feature::RecencyDays, 70.0),
            (Feature::Orders, 2.0),
            (Feature::TenureDays, 100.0),
            (Feature::AverageGapDays, 30.0),
            (Feature::OverduePause, 70.0 / 30.0),
            (Feature::Spend, 30.0),
            (Feature::Spend90, 20.0),
            (Feature::ActiveMonths, 1.0),
            (Feature::Products, 2.0),
            (Feature::UsualPrice, 5.0),
            (Feature::RepeatShare, 1.0 / 3.0),
            (Feature::LiveShare, 2.0 / 3.0),
            (Feature::Returns, 1.0),
            (Feature::ReturnedShare, 5.0 / 30.0),
        ] {
            let at = Feature::ALL.iter().position(|f| *f == feature).unwrap();
            assert!(
                (f64::from(vector[at]) - value).abs() < 1e-5,
                "{feature:?} is {}",
                vector[at]
            );
        }
        assert_eq!(features(&history, 0, |_| true), None);
    }

    #[test]
    fn features_are_told_in_words_that_people_use() {
        for (feature, value, text) in [
            (Feature::RecencyDays, 43.9, "last order 43 days ago"),
            (Feature::RecencyDays, 1.2, "last order 1 day ago"),
            (Feature::RecencyDays, 0.9, "last order less than a day ago"),
            (Feature::Spend, -0.0, "0.00 spent in all"),
            (Feature::OrderRate, 0.33, "orders on 9.9 days of a month"),
            (Feature::OrderRate, 1.0 / 30.0, "orders on 1 day of a month"),
            (Feature::Orders90, 0.0, "no orders in the last 90 days"),
            (
                Feature::FreshOrders,
                2.503,
                "2.5 orders where one of 45 days ago counts half",
            ),
            (
                Feature::AverageOrder,
                659.004,
                "659.00 spent on an order on average",
            ),
            (
                Feature::RecentSpend,
                12.04,
                "12 points for how large and how recent the orders are",
            ),
            (Feature::LastLines, 1.0, "1 line in the last order"),
            (
                Feature::ReturnedShare,
                1.0,
                "100 % of the spend was returned",
            ),
            (
                Feature::RepeatShare,
                0.256,
                "26 % of their lines buy a product again",
            ),
            (
                Feature::Overdue,
                0.257,
                "away for 0.26 times as long as expected",
            ),
            (Feature::Returns, 1.0, "1 return"),
        ] {
            assert_eq!(feature.told(value), text);
        }
        for (feature, value) in Feature::ALL
            .iter()
            .flat_map(|feature| [0.0, 1.0, 1e9].map(|value| (*feature, value)))
        {
            let told = feature.told(value);
            assert!(
                !["log", "{}", "1 orders", "1 days"]
                    .iter()
                    .any(|odd| told.contains(odd)),
                "{told}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_future_moves_no_feature(
            lines in prop::collection::vec((0..200_i64, 0..9_u64, 0..9_u32, -5..9_i32), 1..40),
            as_of in 1..200_i64,
        ) {
            let history: Vec<Line> = lines
                .iter()
                .map(|(d, i, p, q)| line(*d, *i, *p, f64::from(*q), f64::from(*q) * 2.0))
                .collect();
            let mut past = history.clone();
            past.retain(|line| line.time < as_of * 86_400);
            let with_future = features(&history, as_of * 86_400, |_| true);
            prop_assert_eq!(&with_future, &features(&past, as_of * 86_400, |_| true));
            let is_sound = |value: &f32| value.is_finite() && *value >= 0.0;
            prop_assert!(with_future.is_none_or(|vector| vector.iter().all(is_sound)));
        }
    }
}
