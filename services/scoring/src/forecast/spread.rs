//! How far actual sales fall from their mean: quantiles of what forecasts of the past erred by.

use super::smoothing::mean;
use crate::quantile;

/// Levels at which quantiles are stored.
pub const LEVELS: [f64; 21] = [
    0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8,
    0.85, 0.9, 0.95, 0.99,
];

/// Quantiles of fewer errors than this say too little.
pub const FEWEST: usize = 16;

/// Quantiles of errors, in parts of a scale; between the stored levels linear, the outermost hold
/// beyond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// By level, in order.
    pub errors: [f64; LEVELS.len()],
    /// The mean at which errors are in proportion to it; elsewhere they grow with the root of the
    /// mean, as those of counts do. 0 if they grow with the mean itself.
    pub usual: f64,
}

impl Spread {
    /// Of forecasts and what came, `None` of too few. `lumpy`: whether single sales are great
    /// against the mean.
    pub fn of(forecasts: &[f64], actual: &[f64], lumpy: bool) -> Option<Self> {
        let pairs = || {
            forecasts
                .iter()
                .zip(actual)
                .filter(|(mean, _)| **mean > 0.0)
        };
        let n = pairs().count();
        if n < FEWEST {
            return None;
        }
        let idle = pairs().filter(|(_, actual)| **actual <= 0.0).count();
        // If a tenth of days sell nothing, the lowest quantile lies on 0 and the range up to the
        // highest covers too many days: the upper quantiles are pulled in.
        let pulled = lumpy && idle * 10 >= n;
        let pull = |level: f64| {
            if pulled && level > 0.5 {
                0.5 + 0.85 * (level - 0.5)
            } else {
                level
            }
        };
        let usual = if lumpy { 0.0 } else { mean(forecasts) };
        let mut errors: Vec<f64> = pairs()
            .map(|(mean, actual)| (actual - mean) / scale(*mean, usual))
            .collect();
        errors.sort_by(f64::total_cmp);
        // The centre of a steady series is its forecast.
        let centre = if lumpy {
            0.0
        } else {
            quantile::linear_of_sorted(&errors, 0.5)
        };
        Some(Self {
            errors: LEVELS.map(|level| quantile::linear_of_sorted(&errors, pull(level)) - centre),
            usual,
        })
    }

    /// Errors in parts of a scale of the caller's own, as they are; `None` of too few.
    pub fn scaled(errors: &[f64]) -> Option<Self> {
        (errors.len() >= FEWEST).then(|| Self {
            errors: LEVELS.map(|level| quantile::linear(errors, level)),
            usual: 0.0,
        })
    }

    /// The same about periods of relative errors alone, steady or not.
    pub fn relative(forecasts: &[f64], actual: &[f64], lumpy: bool) -> Option<Self> {
        let spread = Self::of(forecasts, actual, true)?;
        let centre = if lumpy { 0.0 } else { spread.error(0.5) };
        Some(Self {
            errors: spread.errors.map(|error| error - centre),
            usual: 0.0,
        })
    }

    /// Wider by a factor.
    pub fn widened(self, factor: f64) -> Self {
        Self {
            errors: self.errors.map(|error| error * factor),
            ..self
        }
    }

    /// The error that is not exceeded with a chance, in parts of the scale.
    pub fn error(&self, level: f64) -> f64 {
        let after = LEVELS.partition_point(|stored| *stored <= level);
        match after.checked_sub(1) {
            None => self.errors[0],
            Some(before) if after == LEVELS.len() => self.errors[before],
            Some(before) => {
                let part = (level - LEVELS[before]) / (LEVELS[after] - LEVELS[before]);
                self.errors[before] + part * (self.errors[after] - self.errors[before])
            }
        }
    }

    /// A quantile around a mean, 0 at least.
    pub fn around(&self, mean: f64, level: f64) -> f64 {
        (mean + scale(mean, self.usual) * self.error(level)).max(0.0)
    }
}

fn scale(mean: f64, usual: f64) -> f64 {
    if usual > 0.0 {
        (mean * usual).sqrt()
    } else {
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_past_around_the_mean() {
        let forecasts = vec![100.0; 101];
        let actual: Vec<f64> = (0..101).map(|at| 50.0 + f64::from(at)).collect();
        let spread = Spread::of(&forecasts, &actual, false).unwrap();
        for (level, expected) in [
            (0.1, 60.0),
            (0.5, 100.0),
            (0.925, 142.5),
            (0.001, 51.0),
            (0.999, 149.0),
        ] {
            assert!(
                (spread.around(100.0, level) - expected).abs() < 1e-9,
                "{level}"
            );
        }
        // Four times the mean: twice as wide, not four times.
        assert!((spread.around(400.0, 0.9) - 480.0).abs() < 1e-9);
        assert!((spread.widened(2.0).around(100.0, 0.9) - 180.0).abs() < 1e-9);
        assert_eq!(Spread::of(&forecasts[..8], &actual[..8], false), None);
    }

    #[test]
    fn days_without_sales_are_quantiles_too() {
        let actual: Vec<f64> = (0..100)
            .map(|at| if at % 2 == 0 { 0.0 } else { 20.0 })
            .collect();
        let spread = Spread::of(&vec![10.0; 100], &actual, true).unwrap();
        assert_eq!(
            (spread.around(10.0, 0.1), spread.around(5.0, 0.9)),
            (0.0, 10.0)
        );
        assert_eq!(spread.around(0.0, 0.9), 0.0);
    }
}
