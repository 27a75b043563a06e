//! The two ridge regressions, solved from their normal equations on the device.

use scoring::{
    forecast::{Linear, calendar::Shop, revenue, units},
    quantile,
};
use tch::Tensor;

use super::panel::{Panel, largest};
use crate::learn::{LearnError, linear::standardised_ridge};

/// Countries from which the regression of revenue learns beside the shop, the largest; small ones
/// are noise.
pub(super) const LEARNT_COUNTRIES: usize = 8;
/// Ridges, relative to the sum of the examples' weights.
const REVENUE_RIDGE: f64 = 0.3;
const UNITS_RIDGE: f64 = 1.0;
/// Examples that a regression needs.
const LEAST_EXAMPLES: usize = 200;

/// Examples of a regression over many series.
#[derive(Default)]
struct Examples {
    /// Features, one example after the other.
    x: Vec<f64>,
    y: Vec<f64>,
    /// Index of the first example of each series.
    series: Vec<usize>,
}

impl Examples {
    /// Fits `target(y)` to `x`; returns `prior` if there are too few examples.
    ///
    /// A series is weighted by the inverse variance of `measure(y)`, which counts as at least
    /// `least`, so that series with large variance do not dominate the others.
    fn fit(
        &self,
        measure: impl Fn(f64) -> f64,
        target: impl Fn(f64) -> f64,
        least: f64,
        ridge: f64,
        prior: Linear,
        device: tch::Device,
    ) -> Result<Linear, LearnError> {
        if self.y.len() < LEAST_EXAMPLES {
            return Ok(prior);
        }
        let mut weights = Vec::with_capacity(self.y.len());
        let ends = self.series.iter().skip(1).copied().chain([self.y.len()]);
        for (from, to) in self.series.iter().zip(ends) {
            let of: Vec<f64> = self.y[*from..to].iter().map(|y| measure(*y)).collect();
            let centre = of.iter().sum::<f64>() / of.len().max(1) as f64;
            let variance =
                of.iter().map(|y| (y - centre).powi(2)).sum::<f64>() / of.len().max(1) as f64;
            weights.extend(std::iter::repeat_n(1.0 / variance.max(least), of.len()));
        }
        let y: Vec<f64> = self.y.iter().map(|y| target(*y)).collect();
        let tensor = |values: &[f64]| Tensor::from_slice(values).to_device(device);
        let x = tensor(&self.x).view([y.len() as i64, -1]);
        let (weights, intercept) = standardised_ridge(&x, &tensor(&y), &tensor(&weights), ridge)?;
        Ok(Linear { weights, intercept })
    }
}

/// The regression of revenue: an example for each series, open day as the origin and open day
/// ahead, in proportion to the level of the series at the origin.
pub(super) fn learn_revenue(
    panel: &Panel,
    origin: usize,
    shop: &Shop,
    device: tch::Device,
) -> Result<Linear, LearnError> {
    let week = shop.calendar.week();
    let total = revenue::open_days(shop, panel.total().past(origin));
    let mut examples = Examples::default();
    let countries = largest(&panel.revenue[1..], origin, LEARNT_COUNTRIES)
        .into_iter()
        .map(|country| country + 1);
    for series in std::iter::once(0).chain(countries) {
        let values = revenue::open_days(shop, panel.revenue[series].past(origin));
        let first = values
            .iter()
            .position(|value| *value > 0.0)
            .unwrap_or(values.len());
        examples.series.push(examples.y.len());
        for seen in (8 * week).max(first + 2 * week)..values.len() {
            let recent = revenue::Recent::of(&values[..seen], &shop.weekdays[..seen], week);
            let growth = revenue::growth(&total[..seen], week);
            for ahead in 1..=(revenue::WEEKS * week).min(values.len() - seen) {
                let at = seen + ahead - 1;
                examples
                    .x
                    .extend(recent.features(shop.weekdays[at], ahead, growth));
                examples.y.push(values[at] / recent.level);
            }
        }
    }
    let sold: Vec<f64> = examples.y.iter().copied().filter(|y| *y > 0.0).collect();
    // Outliers are capped: a single large order must not set the weights.
    let most = quantile::linear(&sold, 0.99);
    // Feature 3 is the mean of the weekday's last eight values.
    let mut prior = Linear {
        weights: vec![0.0; revenue::FEATURES],
        intercept: 0.0,
    };
    prior.weights[3] = 1.0;
    examples.fit(
        |y| y.min(most),
        |y| y.min(most),
        1e-3,
        REVENUE_RIDGE,
        prior,
        device,
    )
}

/// The regression of units: an example for each product, week as the origin and week ahead, as the
/// logarithm of the proportion to the product's level at the origin.
pub(super) fn learn_units(
    products: &[(usize, Vec<f64>)],
    revenue: &[f64],
    all_units: &[f64],
    device: tch::Device,
) -> Result<Linear, LearnError> {
    let mut examples = Examples::default();
    for (_, weeks) in products {
        examples.series.push(examples.y.len());
        let first = 13
            .min(weeks.len().saturating_sub(4))
            .max(units::launch(weeks) + 4);
        for seen in first..weeks.len() {
            let recent = units::Recent::of(&weeks[..seen]);
            let growth = units::growth(&revenue[..seen], &all_units[..seen]);
            for ahead in 1..=units::WEEKS.min(weeks.len() - seen) {
                examples.x.extend(recent.features(ahead, growth));
                examples.y.push(weeks[seen + ahead - 1] / recent.level);
            }
        }
    }
    // Feature 3 is the mean of the last four weeks.
    let mut prior = Linear {
        weights: vec![0.0; units::FEATURES],
        intercept: 0.0,
    };
    prior.weights[3] = 1.0;
    examples.fit(
        |y| y.min(5.0),
        |y| (y + units::LEAST).ln(),
        1e-2,
        UNITS_RIDGE,
        prior,
        device,
    )
}

/// The share of a week's units that each weekday sells, over the last sixteen weeks.
pub(super) fn share(shop: &Shop, all_units: &[f64]) -> [f64; 7] {
    let week = shop.calendar.week();
    let recent = shop.open.len().saturating_sub(16 * week);
    let (mut sums, mut counts) = ([0.0; 7], [0.0; 7]);
    for (at, weekday) in shop.open[recent..].iter().zip(&shop.weekdays[recent..]) {
        sums[*weekday] += all_units[*at];
        counts[*weekday] += 1.0;
    }
    let means: [f64; 7] = std::array::from_fn(|w| {
        if counts[w] > 0.0 {
            sums[w] / counts[w]
        } else {
            0.0
        }
    });
    let all: f64 = means.iter().sum();
    if all > 0.0 {
        means.map(|mean| mean / all)
    } else {
        [1.0 / week as f64; 7]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regression_finds_the_weekday_and_weighs_series_alike() {
        let mut examples = Examples::default();
        for scale in [1.0, 100.0] {
            examples.series.push(examples.y.len());
            for at in 0..400 {
                let x = f64::from(at % 7);
                examples.x.push(x);
                // The second series has the opposite slope, a hundred times as steep.
                examples.y.push(if scale > 1.0 { -scale * x } else { x });
            }
        }
        let prior = Linear {
            weights: vec![9.0],
            intercept: 0.0,
        };
        let fit = examples
            .fit(|y| y, |y| y, 1e-3, 1e-9, prior, tch::Device::Cpu)
            .unwrap();
        assert!(fit.weights[0] > 0.9, "{fit:?}");
        let few = Examples {
            x: vec![1.0],
            y: vec![1.0],
            series: vec![0],
        };
        let prior = Linear {
            weights: vec![9.0],
            intercept: 0.0,
        };
        assert_eq!(
            few.fit(|y| y, |y| y, 1e-3, 1.0, prior.clone(), tch::Device::Cpu)
                .unwrap(),
            prior
        );
    }
}
