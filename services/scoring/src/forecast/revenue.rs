//! Revenue of the shop and its countries by day: a ridge regression on lags and the calendar,
//! global over the shop and its largest countries, with the theta method on open days and, for
//! lumpy series, the weekday's median; countries brought to add up to the shop.

use super::{
    calendar::Shop,
    linear::Linear,
    smoothing::{Theta, is_lumpy, mean, tamed},
};
use crate::quantile;

/// Features of a day ahead.
pub const FEATURES: usize = 23;

/// Weeks ahead that the regression learns from; farther ones are as far as the last.
pub const WEEKS: usize = 8;

/// A forecast is this much of the level at most.
const MOST: f64 = 10.0;

/// Quantile of its days at which a lumpy series is cut.
const TAME: f64 = 0.9;

/// The open days of a series, tamed, oldest first.
pub fn open_days(shop: &Shop, values: &[f64]) -> Vec<f64> {
    tamed(shop.open_days(values), TAME)
}

/// How the shop has grown: recent fortnight over eight weeks, four weeks over sixteen, in
/// logarithms.
pub fn growth(total: &[f64], week: usize) -> [f64; 2] {
    let level = |weeks: usize| mean(&total[total.len().saturating_sub(weeks * week)..]).max(1.0);
    [(level(2) / level(8)).ln(), (level(4) / level(16)).ln()]
}

/// A series as its last open days show it, in parts of its level.
#[derive(Debug, Clone, PartialEq)]
pub struct Recent {
    /// Mean of four weeks, a tenth of the mean of all at least.
    pub level: f64,
    /// By weekday: its last day, means of its last 2, 4, 8, median of its last 8.
    same: [[f64; 5]; 7],
    /// Means of the last week, two, eight.
    means: [f64; 3],
    week: usize,
}

impl Recent {
    /// From open days, tamed, and their weekdays; `week` of them are a week.
    pub fn of(past: &[f64], weekdays: &[usize], week: usize) -> Self {
        let last = |weeks: usize| mean(&past[past.len().saturating_sub(weeks * week)..]);
        let level = last(4).max(0.1 * mean(past)).max(1e-6);
        let mut days: [Vec<f64>; 7] = Default::default();
        for (value, weekday) in past.iter().zip(weekdays).rev() {
            if days[*weekday].len() < 8 {
                days[*weekday].push(value / level);
            }
            if days.iter().filter(|days| days.len() == 8).count() == week {
                break;
            }
        }
        let same = days.map(|days| {
            if days.is_empty() {
                return [last(8) / level; 5];
            }
            let first = |n: usize| mean(&days[..n.min(days.len())]);
            [
                days[0],
                first(2),
                first(4),
                first(8),
                quantile::linear(&days, 0.5),
            ]
        });
        Self {
            level,
            same,
            means: [1, 2, 8].map(|weeks| last(weeks) / level),
            week,
        }
    }

    /// Features of the `ahead`th open day after the last, 1 the next.
    pub fn features(&self, weekday: usize, ahead: usize, growth: [f64; 2]) -> [f64; FEATURES] {
        let far = (ahead.min(WEEKS * self.week) as f64) / (4 * self.week) as f64;
        let mut x = [0.0; FEATURES];
        x[..5].copy_from_slice(&self.same[weekday]);
        for (at, mean) in self.means.into_iter().enumerate() {
            x[5 + at] = mean;
            x[9 + at] = far * mean;
        }
        x[8] = far;
        for (at, growth) in growth.into_iter().enumerate() {
            x[12 + at] = growth;
            x[14 + at] = far * growth;
        }
        x[16 + weekday] = 1.0;
        x
    }

    /// Median of a weekday's last eight.
    fn median(&self, weekday: usize) -> f64 {
        self.same[weekday][4] * self.level
    }

    /// What a weekday sells, in parts of the level.
    pub fn weekday(&self, weekday: usize) -> f64 {
        self.same[weekday][3]
    }
}

/// Means of the days from the shop's end on. `series`: days up to the end, the shop's total first,
/// then its parts, which are made to add up to it.
pub fn forecast(linear: &Linear, shop: &Shop, series: &[&[f64]], days: usize) -> Vec<Vec<f64>> {
    let ahead = shop.ahead(days);
    let tame: Vec<Vec<f64>> = series
        .iter()
        .map(|values| open_days(shop, values))
        .collect();
    let growth = tame
        .first()
        .map_or([0.0; 2], |total| growth(total, shop.calendar.week()));
    let mut forecasts: Vec<Vec<f64>> = series
        .iter()
        .zip(&tame)
        .map(|(values, tame)| {
            one(
                linear,
                shop,
                tame,
                is_lumpy(&shop.open_days(values)),
                growth,
                &ahead,
            )
        })
        .collect();
    if let Some((total, parts)) = forecasts
        .split_first_mut()
        .filter(|(_, parts)| !parts.is_empty())
    {
        add_up(total, parts);
    }
    forecasts
}

fn one(
    linear: &Linear,
    shop: &Shop,
    tame: &[f64],
    lumpy: bool,
    growth: [f64; 2],
    ahead: &[Option<(usize, usize)>],
) -> Vec<f64> {
    if tame.iter().all(|value| *value <= 0.0) {
        return vec![0.0; ahead.len()];
    }
    let week = shop.calendar.week();
    let recent = Recent::of(tame, &shop.weekdays, week);
    let theta = Theta::of(tame, &shop.weekdays, week);
    let day = |(at, day): (usize, &Option<(usize, usize)>)| {
        let Some((weekday, place)) = *day else {
            return 0.0;
        };
        let regression = linear
            .of(&recent.features(weekday, place, growth))
            .clamp(0.0, MOST)
            * recent.level;
        // A trend is continued no farther than the regression sees.
        let smoothing = theta.at(place.min(WEEKS * week), weekday);
        let level = if lumpy {
            (regression + smoothing + recent.median(weekday)) / 3.0
        } else {
            (2.0 * regression + smoothing) / 3.0
        };
        level * shop.season(at).exp()
    };
    ahead.iter().enumerate().map(day).collect()
}

/// Brings parts to the total, day by day, in proportion.
fn add_up(total: &mut [f64], parts: &mut [Vec<f64>]) {
    for (day, total) in total.iter_mut().enumerate() {
        let sum: f64 = parts.iter().map(|part| part[day]).sum();
        if sum > 0.0 {
            parts.iter_mut().for_each(|part| part[day] *= *total / sum);
        } else {
            *total = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_see_the_same_weekday_and_no_farther_than_they_learnt() {
        let weekdays: Vec<usize> = (0..70).map(|at| at % 7).collect();
        let past: Vec<f64> = weekdays
            .iter()
            .map(|w| if *w == 3 { 22.0 } else { 13.0 })
            .collect();
        let recent = Recent::of(&past, &weekdays, 7);
        let level = (6.0 * 13.0 + 22.0) / 7.0;
        assert!(
            (recent.level - level).abs() < 1e-9 && (recent.weekday(3) - 22.0 / level).abs() < 1e-9
        );
        assert!((recent.median(3) - 22.0).abs() < 1e-9);
        let (far, farther) = (
            recent.features(0, 56, [0.1, 0.2]),
            recent.features(0, 300, [0.1, 0.2]),
        );
        assert!(far == farther && far[8] == 2.0 && far[16] == 1.0 && (far[15] - 0.4).abs() < 1e-12);
    }

    #[test]
    fn parts_add_up_to_the_whole_and_nothing_is_negative() {
        let end = "2011-06-01".parse().unwrap();
        let parts: Vec<Vec<f64>> = (1..4)
            .map(|part| (0..140).map(|day| f64::from((day * part) % 11)).collect())
            .collect();
        let total: Vec<f64> = (0..140)
            .map(|day| parts.iter().map(|part| part[day]).sum())
            .collect();
        let shop = Shop::of(&total, end);
        let linear = Linear {
            weights: vec![0.1; FEATURES],
            intercept: -0.5,
        };
        let mut series = vec![&total[..]];
        series.extend(parts.iter().map(Vec::as_slice));
        let forecasts = forecast(&linear, &shop, &series, 100);
        for day in 0..100 {
            let sum: f64 = forecasts[1..].iter().map(|part| part[day]).sum();
            assert!((sum - forecasts[0][day]).abs() < 1e-9 && forecasts[0][day] > 0.0);
        }
    }
}
