//! Errors planted in later lines, and how well they are found.

use lake::Random;
use scoring::anomaly::{AnomalyModel, Severity, Sold, Transaction};
use transactions::LineKind;

use super::sales::{sales, sold};
use crate::learn::lines::{Line, Lines};

/// One line in this many gets an error.
const PLANTED_EVERY: f64 = 100.0;

/// Lines, some with a planted error, and their scores.
pub(super) struct Backtest {
    /// Whether each line has an error.
    pub(super) planted: Vec<bool>,
    /// The model's scores.
    pub(super) scores: Vec<f64>,
    /// Whether the model gives severity high.
    pub(super) high: Vec<bool>,
    /// Scores of the naive answer, [`ZScores`].
    pub(super) naive: Vec<f64>,
}

impl Backtest {
    /// Of the lines from an instant on.
    pub(super) fn of(model: &AnomalyModel, lines: &Lines, from: i64, seed: u64) -> Self {
        let z_scores = ZScores::of(sales(lines).filter(|line| line.time < from));
        let mut random = Random::new(seed);
        let (mut planted, mut test, mut naive) = (Vec::new(), Vec::new(), Vec::new());
        for line in sales(lines).filter(|line| line.time >= from) {
            let is_sale = line.kind == LineKind::Sale;
            let mut line = sold(lines, line);
            let is_planted = is_sale && random.chance(1.0 / PLANTED_EVERY);
            if is_planted {
                plant(&mut line, &mut random);
            }
            planted.push(is_planted);
            naive.push(z_scores.score(&line.line));
            test.push(line);
        }
        let scored = model.score_all(&test);
        let scored = || scored.iter().map(Option::as_ref);
        Self {
            planted,
            scores: scored()
                .map(|score| score.map_or(0.0, |score| score.score))
                .collect(),
            high: scored()
                .map(|score| score.is_some_and(|score| score.severity == Severity::High))
                .collect(),
            naive,
        }
    }

    /// Share of the lines with or without an error that have severity high.
    pub(super) fn share_high(&self, with_error: bool) -> f64 {
        let of_class = self.planted.iter().zip(&self.high);
        let of_class = of_class.filter(|(planted, _)| **planted == with_error);
        let all = of_class.clone().count().max(1) as f64;
        of_class.filter(|(_, high)| **high).count() as f64 / all
    }
}

/// Plants one of four errors, none of which is made as the learner makes its own: a slip of the key
/// in the quantity, a digit too many or too few in the price, a decimal point lost or doubled.
fn plant(line: &mut Sold<'_>, random: &mut Random) {
    let line = &mut line.line;
    match random.below(4) {
        0 => line.quantity = (line.quantity * 10_f64.powf(1.0 + random.unit())).round(),
        1 => line.unit_price *= 10.0,
        2 => line.unit_price /= 10.0,
        _ => line.unit_price *= if random.chance(0.5) { 100.0 } else { 0.01 },
    }
}

/// The naive answer: the largest z-score of quantity, price and total over the whole shop.
struct ZScores {
    /// Mean and standard deviation of each.
    moments: [(f64, f64); 3],
}

impl ZScores {
    fn of<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let (mut n, mut sums) = (0.0, [(0.0, 0.0); 3]);
        for line in lines {
            let values = [
                line.quantity as f64,
                line.price.to_f64(),
                line.total.to_f64(),
            ];
            n += 1.0;
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = (sum.0 + value, sum.1 + value * value);
            }
        }
        let n = f64::max(n, 1.0);
        let moments = sums.map(|(sum, squares)| {
            let mean = sum / n;
            (mean, (squares / n - mean * mean).max(1e-12).sqrt())
        });
        Self { moments }
    }

    fn score(&self, line: &Transaction<'_>) -> f64 {
        let total = line.quantity * line.unit_price;
        let values = [line.quantity, line.unit_price, total];
        values
            .iter()
            .zip(&self.moments)
            .map(|(value, (mean, deviation))| ((value - mean) / deviation).abs())
            .fold(0.0, f64::max)
    }
}
