//! Forecasts of a series by itself, and what makes its outliers harmless.

use crate::quantile;

/// 0 of no values.
pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

fn deviation(values: &[f64]) -> f64 {
    let centre = mean(values);
    mean(
        &values
            .iter()
            .map(|value| (value - centre).powi(2))
            .collect::<Vec<_>>(),
    )
    .sqrt()
}

pub(super) fn spread(values: &[f64]) -> f64 {
    deviation(values)
}

/// Whether sizes vary too much for a mean to be steady: the squared coefficient of variation of
/// what is not 0 is 0.49 and more (Syntetos, Boylan and Croston 2005).
pub fn is_lumpy(values: &[f64]) -> bool {
    let sold: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| *value > 0.0)
        .collect();
    sold.len() >= 8 && (deviation(&sold) / mean(&sold)).powi(2) >= 0.49
}

/// Lumpy values, cut at a quantile of those above 0; others as they are.
pub fn tamed(values: Vec<f64>, level: f64) -> Vec<f64> {
    if !is_lumpy(&values) {
        return values;
    }
    let sold: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| *value > 0.0)
        .collect();
    let most = quantile::linear(&sold, level);
    values.into_iter().map(|value| value.min(most)).collect()
}

/// Simple exponential smoothing: the level at the end, by the rate of least squared error one step
/// ahead.
pub(super) fn smoothed(values: &[f64]) -> f64 {
    const RATES: [f64; 7] = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5];
    let start = mean(&values[..values.len().min(2)]);
    let follow = |rate: f64| {
        let (mut level, mut error) = (start, 0.0);
        for (at, value) in values.iter().enumerate() {
            // The first few only warm the level up.
            if at >= 4 {
                error += (value - level).powi(2);
            }
            level += rate * (value - level);
        }
        (error, level)
    };
    RATES
        .map(follow)
        .into_iter()
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(start, |(_, level)| level)
}

/// The theta method (Assimakopoulos and Nikolopoulos 2000) with a weekday profile: exponential
/// smoothing plus half the linear trend (Hyndman and Billah 2003), the rate by how well levels
/// foretell the mean of the next two weeks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Theta {
    profile: [f64; 7],
    level: f64,
    /// Half the trend, a day.
    drift: f64,
    /// Days by which smoothing lags behind.
    lag: f64,
}

impl Theta {
    /// From values and their weekdays; `week` values are a week.
    pub(super) fn of(values: &[f64], weekdays: &[usize], week: usize) -> Self {
        const RATES: [f64; 7] = [0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3];
        let recent = values.len().saturating_sub(16 * week);
        let usual = mean(&values[recent..]);
        let mut profile = [1.0; 7];
        if usual > 0.0 {
            let (mut sums, mut counts) = ([0.0; 7], [0.0; 7]);
            for (value, weekday) in values[recent..].iter().zip(&weekdays[recent..]) {
                sums[*weekday] += value;
                counts[*weekday] += 1.0;
            }
            // As if two usual days had been seen of each.
            profile =
                std::array::from_fn(|w| (sums[w] + 2.0 * usual) / (usual * (counts[w] + 2.0)));
        }
        let even: Vec<f64> = values
            .iter()
            .zip(weekdays)
            .map(|(value, w)| value / profile[*w].max(0.05))
            .collect();
        let (n, ahead) = (even.len(), 2 * week);
        let mut sums = vec![0.0; n + 1];
        for (at, value) in even.iter().enumerate() {
            sums[at + 1] = sums[at] + value;
        }
        let start = mean(&even[..n.min(week)]);
        let follow = |rate: f64| {
            let (mut level, mut error) = (start, 0.0);
            for (at, value) in even.iter().enumerate() {
                level += rate * (value - level);
                if at + 1 >= 4 * week && at + ahead < n {
                    error += (level - (sums[at + 1 + ahead] - sums[at + 1]) / ahead as f64).abs();
                }
            }
            (error, level, rate)
        };
        // A history that is too short to choose by leaves all errors at 0; 0.1 is the default rate.
        let tried = RATES.map(follow);
        let chosen = tried
            .into_iter()
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(error, ..)| *error > 0.0);
        let (_, level, rate) = chosen.unwrap_or(tried[3]);
        Self {
            profile,
            level,
            drift: 0.5 * slope(&even),
            lag: 1.0 / rate,
        }
    }

    /// The `ahead`th value after the last, 1 the next.
    pub(super) fn at(&self, ahead: usize, weekday: usize) -> f64 {
        (self.profile[weekday] * (self.level + self.drift * (ahead as f64 - 1.0 + self.lag)))
            .max(0.0)
    }
}

/// Of the least-squares line through values one apart.
fn slope(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let (centre, level) = ((n - 1.0) / 2.0, mean(values));
    let (mut xy, mut xx) = (0.0, 0.0);
    for (at, value) in values.iter().enumerate() {
        let x = at as f64 - centre;
        xy += x * (value - level);
        xx += x * x;
    }
    if xx > 0.0 { xy / xx } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_great_order_is_tamed_and_a_steady_series_is_left_alone() {
        let mut values = vec![10.0; 30];
        assert_eq!(tamed(values.clone(), 0.9), values);
        values[7] = 1_000.0;
        assert_eq!(tamed(values, 0.9), vec![10.0; 30]);
    }

    #[test]
    fn theta_continues_weekdays_and_half_a_trend() {
        let weekdays: Vec<usize> = (0..140).map(|at| at % 7).collect();
        let flat: Vec<f64> = weekdays
            .iter()
            .map(|w| if *w == 0 { 200.0 } else { 100.0 })
            .collect();
        let theta = Theta::of(&flat, &weekdays, 7);
        assert!(
            (theta.at(1, 0) - 200.0).abs() < 12.0 && (theta.at(2, 1) - 100.0).abs() < 3.0,
            "{theta:?}"
        );
        let rising: Vec<f64> = (0..140).map(|at| 100.0 + f64::from(at)).collect();
        let theta = Theta::of(&rising, &weekdays, 7);
        assert!(
            (theta.at(1, 0) - 240.0).abs() < 15.0
                && (theta.at(29, 0) - theta.at(1, 0) - 14.0).abs() < 2.0
        );
    }

    #[test]
    fn smoothing_follows_a_step_and_averages_noise() {
        let step: Vec<f64> = (0..40)
            .map(|at| if at < 20 { 10.0 } else { 50.0 })
            .collect();
        assert!((smoothed(&step) - 50.0).abs() < 1.0);
        let noise: Vec<f64> = (0..40)
            .map(|at| if at % 2 == 0 { 10.0 } else { 20.0 })
            .collect();
        assert!((smoothed(&noise) - 15.0).abs() < 1.5);
    }
}
