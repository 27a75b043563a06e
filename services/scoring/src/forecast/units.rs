//! Units of products by week: a ridge regression of logarithms on lags, global over the
//! best-selling products, with simple exponential smoothing of each.

use super::{
    calendar::Shop,
    linear::Linear,
    smoothing::{mean, smoothed, spread, tamed},
};
use crate::quantile;

/// Features of a week ahead.
pub const FEATURES: usize = 28;

/// Weeks ahead that are learnt; farther ones are as the last.
pub const WEEKS: usize = 8;

/// Keeps logarithms of nothing finite; as parts of a level.
pub const LEAST: f64 = 0.15;

/// A forecast is this much of the level at most.
const MOST: f64 = 10.0;

/// Quantile of its weeks at which a lumpy product is cut.
const TAME: f64 = 0.95;

/// How much of the shop's season a product takes part in.
const SEASON: f64 = 0.25;

/// Weeks of a product, tamed.
pub fn tame(weeks: Vec<f64>) -> Vec<f64> {
    tamed(weeks, TAME)
}

/// How the shop has grown, in revenue and units: fortnight over eight weeks, four weeks over
/// thirteen, in logarithms.
pub fn growth(revenue: &[f64], units: &[f64]) -> [f64; 4] {
    let of = |weeks: &[f64]| {
        let level = |n: usize| mean(&weeks[weeks.len().saturating_sub(n)..]).max(1.0);
        [(level(2) / level(8)).ln(), (level(4) / level(13)).ln()]
    };
    let ([a, b], [c, d]) = (of(revenue), of(units));
    [a, b, c, d]
}

/// A product as its last weeks show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recent {
    /// Mean of eight weeks, a tenth of the mean of all at least.
    pub level: f64,
    own: [f64; 13],
}

impl Recent {
    /// From weeks, tamed.
    pub fn of(past: &[f64]) -> Self {
        let n = past.len();
        let last = |weeks: usize| &past[n.saturating_sub(weeks)..];
        let level = mean(last(8)).max(0.1 * mean(past)).max(1e-6);
        let log = |value: f64| (value / level + LEAST).ln();
        let launch = launch(past);
        // Since its launch: weeks before it say nothing.
        let since = |rate: f64| {
            let (mut sum, mut weight) = (0.0, 0.0);
            for value in &past[launch.min(n.saturating_sub(3))..] {
                sum = sum * (1.0 - rate) + value;
                weight = weight * (1.0 - rate) + 1.0;
            }
            if weight > 0.0 { sum / weight } else { 0.0 }
        };
        let back =
            |from: usize, to: usize| mean(&past[n.saturating_sub(from)..n.saturating_sub(to)]);
        let own = [
            log(back(1, 0)),
            log(back(2, 1)),
            log(back(4, 2)),
            log(back(4, 0)),
            log(quantile::linear(last(8), 0.5)),
            log(back(13, 0)),
            log(since(0.08)),
            log(since(0.2)),
            log(since(0.4)),
            last(8).iter().filter(|value| **value == 0.0).count() as f64
                / last(8).len().max(1) as f64,
            spread(last(8)) / level,
            ((n - launch) as f64 / 26.0).min(1.0),
            level.ln(),
        ];
        Self { level, own }
    }

    /// Features of the `ahead`th week, 1 the next.
    pub fn features(&self, ahead: usize, growth: [f64; 4]) -> [f64; FEATURES] {
        let far = ahead.min(WEEKS) as f64 / WEEKS as f64;
        let mut x = [0.0; FEATURES];
        x[..13].copy_from_slice(&self.own);
        x[13] = far;
        for (at, own) in self.own[..6].iter().enumerate() {
            x[14 + at] = far * own;
        }
        for (at, growth) in growth.into_iter().enumerate() {
            x[20 + at] = growth;
            x[24 + at] = far * growth;
        }
        x
    }
}

/// Place of the first week with a sale.
pub fn launch(past: &[f64]) -> usize {
    past.iter().position(|value| *value > 0.0).unwrap_or(0)
}

/// A product's weeks ahead.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Means of the weeks from the shop's end on, of usual length, the first `WEEKS`; the last
    /// holds beyond.
    pub weeks: [f64; WEEKS],
    /// How unsteady the product is: deviation of 13 weeks in parts of the mean ahead.
    pub unsteady: f64,
    /// A quarter of the level: errors are not in proportion to means below it.
    pub floor: f64,
}

impl Outlook {
    /// From weeks, tamed. `season`: the shop's, as the logarithm of a factor, by day ahead.
    pub fn of(
        linear: &Linear,
        past: &[f64],
        growth: [f64; 4],
        season: impl Fn(usize) -> f64,
    ) -> Self {
        if past.iter().all(|value| *value <= 0.0) {
            return Self {
                weeks: [0.0; WEEKS],
                unsteady: 0.0,
                floor: 0.0,
            };
        }
        let recent = Recent::of(past);
        let smooth = smoothed(&past[launch(past).min(past.len().saturating_sub(3))..]);
        let weeks: [f64; WEEKS] = std::array::from_fn(|week| {
            let log = linear
                .of(&recent.features(week + 1, growth))
                .min((MOST + LEAST).ln());
            let regression = (log.exp() - LEAST).max(0.0) * recent.level;
            let days = (7 * week..7 * week + 7).map(|day| (SEASON * season(day)).exp());
            (regression + smooth) / 2.0 * days.sum::<f64>() / 7.0
        });
        let unsteady = spread(&past[past.len().saturating_sub(13)..]) / mean(&weeks).max(1e-6);
        Self {
            weeks,
            unsteady,
            floor: 0.25 * recent.level,
        }
    }

    /// Means of the days from the shop's end on. `share`: what part of a week's units a weekday
    /// sells.
    pub fn days(&self, shop: &Shop, share: &[f64; 7], days: usize) -> Vec<f64> {
        let day = |(at, day): (usize, &Option<(usize, usize)>)| {
            day.map_or(0.0, |(weekday, _)| {
                self.weeks[(at / 7).min(WEEKS - 1)] * share[weekday]
            })
        };
        shop.ahead(days).iter().enumerate().map(day).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_where_a_product_begins() {
        let mut past = vec![0.0; 20];
        past.extend([8.0; 4]);
        let recent = Recent::of(&past);
        assert_eq!((launch(&past), recent.level), (20, 4.0));
        // Weighted means see only weeks since then: twice the level.
        assert!((recent.own[7] - (2.0 + LEAST).ln()).abs() < 1e-12);
        assert!((recent.own[11] - 4.0 / 26.0).abs() < 1e-12);
    }

    #[test]
    fn days_of_a_week_add_up_to_it() {
        let total = vec![10.0; 140];
        let shop = Shop::of(&total, "2011-06-01".parse().unwrap());
        let flat = Linear {
            weights: vec![0.0; FEATURES],
            intercept: (1.0_f64 + LEAST).ln(),
        };
        let outlook = Outlook::of(&flat, &tame(shop.weeks(&[3.0; 140])), [0.0; 4], |_| 0.0);
        let share = [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1];
        let days = outlook.days(&shop, &share, 70);
        assert!(
            days.chunks(7)
                .all(|week| (week.iter().sum::<f64>() - 21.0).abs() < 1e-9),
            "{days:?}"
        );
        assert!(outlook.unsteady < 1e-9 && (outlook.floor - 21.0 / 4.0).abs() < 1e-9);
    }
}
