//! From scores to probabilities: slope, intercept and season of the log-odds.

use scoring::churn::{Blend, CalibrationBin, Parameters, probability};

use crate::learn::customers::Study;

/// The shift of all log-odds that makes the customers of the as-of time churn, on average, at the
/// rate of the past cut-offs corrected for the season.
///
/// `factor` is how many times as many orders the next 90 days bring as those that were learnt from.
/// With orders at rate `r` a customer does not order with probability `e^-r`; with `f` times the
/// orders that becomes `e^-fr`, the `f`-th power.
pub(super) fn season(study: &Study, blend: &Blend, parameters: &Parameters, factor: f64) -> f64 {
    let past: Vec<f64> = study
        .rows()
        .map(|(.., spend)| f64::from(u8::from(spend == 0.0)))
        .collect();
    let rate = past.iter().sum::<f64>() / past.len().max(1) as f64;
    let [slope, intercept] = parameters.calibration;
    let log_odds: Vec<f64> = study
        .now
        .features
        .iter()
        .map(|features| slope * blend.score(features) + intercept)
        .collect();
    let anchored = shift(&log_odds, rate);
    let seasonal = log_odds
        .iter()
        .map(|z| probability(z + anchored).powf(factor))
        .sum::<f64>();
    shift(&log_odds, seasonal / log_odds.len().max(1) as f64)
}

/// The shift of all log-odds that gives a mean probability, by bisection.
fn shift(log_odds: &[f64], mean: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    // 60 halvings of 20 reach the precision of a double.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        let found = log_odds
            .iter()
            .map(|z| probability(z + middle))
            .sum::<f64>()
            / log_odds.len().max(1) as f64;
        if found < mean {
            low = middle
        } else {
            high = middle
        }
    }
    f64::midpoint(low, high)
}

/// Slope and intercept of a logistic regression of the outcome on the scores (Platt 1999), by
/// Newton's method.
pub(super) fn platt(scores: &[f64], churned: &[bool]) -> [f64; 2] {
    let points: Vec<(f64, f64)> = scores
        .iter()
        .zip(churned)
        .map(|(s, c)| (*s, f64::from(u8::from(*c))))
        .collect();
    let mut w = [1.0, 0.0];
    for _ in 0..50 {
        // A ridge with the weight of one customer keeps the slope finite if scores separate the
        // outcomes.
        let (mut g, mut h) = ([w[0] - 1.0, 0.0], [[1.0, 0.0], [0.0, 1e-6]]);
        for (x, y) in &points {
            let p = 1.0 / (1.0 + (-(w[0] * x + w[1])).exp());
            let v = p * (1.0 - p);
            g[0] += (p - y) * x;
            g[1] += p - y;
            h[0][0] += v * x * x;
            h[0][1] += v * x;
            h[1][1] += v;
        }
        let determinant = h[0][0] * h[1][1] - h[0][1] * h[0][1];
        if determinant.abs() < 1e-12 {
            break;
        }
        let step = [
            (h[1][1] * g[0] - h[0][1] * g[1]) / determinant,
            (h[0][0] * g[1] - h[0][1] * g[0]) / determinant,
        ];
        w = [w[0] - step[0], w[1] - step[1]];
        if step.iter().all(|s| s.abs() < 1e-10) {
            break;
        }
    }
    // A negative slope would turn the ranking around; the scores as they are serve better.
    if w.iter().all(|w| w.is_finite()) && w[0] > 0.0 {
        w
    } else {
        [1.0, 0.0]
    }
}

/// Expected calibration error in ten bins of equal width.
pub(super) fn calibration_error(bins: &[CalibrationBin]) -> f64 {
    let all: u64 = bins.iter().map(|bin| bin.customers).sum();
    let apart = bins
        .iter()
        .map(|bin| (bin.predicted - bin.observed).abs() * bin.customers as f64);
    apart.sum::<f64>() / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platt_finds_the_slope_that_made_the_outcomes() {
        let scores: Vec<f64> = (0..4000).map(|i| f64::from(i % 100) / 25.0 - 2.0).collect();
        let churned: Vec<bool> = scores
            .iter()
            .enumerate()
            .map(|(i, s)| probability(0.5 * s - 1.0) > (i / 100) as f64 / 40.0)
            .collect();
        let [slope, intercept] = platt(&scores, &churned);
        assert!(
            (slope - 0.5).abs() < 0.1 && (intercept + 1.0).abs() < 0.1,
            "{slope} {intercept}"
        );
    }

    #[test]
    fn a_shift_gives_the_mean_that_was_asked_for() {
        let log_odds = [-2.0, 0.0, 0.3, 4.0];
        let moved = shift(&log_odds, 0.4);
        let mean = log_odds.iter().map(|z| probability(z + moved)).sum::<f64>() / 4.0;
        assert!((mean - 0.4).abs() < 1e-9, "{mean}");
    }
}
