//! The lines of a shop in the order of their arrival, with planted errors: what the trees learn
//! from.

use lake::Random;
use scoring::{
    Forest, ModelKind,
    anomaly::{History, Judge, Observation, Shop, Sold, WIDTH, day, invoices},
};
use tch::{Device, Tensor};
use transactions::LineKind;

use super::sales::sold;
use crate::learn::{
    LearnError, Training,
    forest::{Binned, Boosting, Growth, boost},
    lines::{DAY, Line, Lines, seconds},
    statistics::{lower_quantile, sorted},
};

/// Days before the as-of time from which the trees learn.
const LEARNT_DAYS: i64 = 120;
/// First days of the history that only fill it; half of a shorter history.
const FILLING_DAYS: i64 = 60;
/// Days before the as-of time from which unusual lines are listed.
const LISTED_DAYS: i64 = 90;
/// Sales that training needs.
const LEAST: usize = 1_000;
/// Sales from which the trees learn at least, however old they are.
const LEAST_LEARNT: usize = 500;
/// Range of the factors of planted errors.
const FACTORS: (f64, f64) = (3.0, 300.0);
/// Real lines from which the trees learn, at most, drawn at random; each has a copy with an error.
const MOST_LINES: usize = 150_000;
/// Bins of a feature.
const BINS: i64 = 64;
pub(super) const BOOSTING: Boosting = Boosting {
    rounds: 200,
    rate: 0.1,
    growth: Growth {
        depth: 5,
        least: 5.0,
        ridge: 5.0,
        tried: 10,
    },
};
/// Shares of real lines below severity low, and below medium.
const LOW: f64 = 0.99;
const MEDIUM: f64 = 0.997;
/// Share of real lines that the history accepts at first sight; others must be repeated.
const LEARNT: f64 = 0.999;
/// How far severity high lies above [`LEARNT`], in log-odds. The trees have seen these lines and
/// score new ones higher; at this distance, 0.05 % of new lines were false alerts as of any time.
const HIGH_MARGIN: f64 = 1.3;

/// The features of a shop's lines, each as the scoring crate has them when the line arrives.
pub(super) struct Replay {
    /// The examples: features of real lines and of copies with an error.
    rows: Vec<[f32; WIDTH]>,
    /// Whether each example has an error.
    wrong: Vec<bool>,
    /// Index among the sales, and features, of each line of the last [`LISTED_DAYS`].
    pub(super) recent: Vec<(usize, [f32; WIDTH])>,
    /// The history behind the last line.
    pub(super) history: History,
}

impl Replay {
    #[expect(
        clippy::too_many_lines,
        reason = "one pass over the invoices in time; each step depends on the history before it"
    )]
    pub(super) fn of(
        lines: &Lines,
        sales: &[&Line],
        training: &Training<'_>,
    ) -> Result<Self, LearnError> {
        let as_of = seconds(training.as_of);
        let mut times: Vec<i64> = sales
            .iter()
            .filter(|line| line.kind == LineKind::Sale)
            .map(|line| line.time)
            .collect();
        times.sort_unstable();
        if times.len() < LEAST {
            return Err(LearnError::TooLittle {
                model: ModelKind::Anomaly,
                what: "sales",
                needed: LEAST as u64,
                found: times.len() as u64,
                as_of: training.as_of,
            });
        }
        // The first lines have no history to compare with, so they only fill it.
        let filled = times[0] + ((as_of - times[0]) / 2).min(FILLING_DAYS * DAY);
        let from = filled
            .max(as_of - LEARNT_DAYS * DAY)
            .min(times[times.len() - LEAST_LEARNT]);
        let listed = as_of - LISTED_DAYS * DAY;
        let window = sales.iter().filter(|line| line.time >= from).count();
        let share = (MOST_LINES as f64 / window as f64).min(1.0);

        let number = |line: &&&Line| Observation {
            product: Some(line.product),
            customer: line.customer,
            named: line.customer.is_some(),
            quantity: (line.quantity as f64).ln(),
            price: line.price.to_f64().ln(),
        };
        let before: Vec<Observation> = sales
            .iter()
            .filter(|line| line.time < from)
            .map(|line| number(&line))
            .collect();
        let shop = match before.len() < LEAST {
            true => Shop::of(&sales.iter().map(|line| number(&line)).collect::<Vec<_>>()),
            false => Shop::of(&before),
        };
        let mut random = Random::new(training.seed);
        let mut replay = Self {
            rows: Vec::new(),
            wrong: Vec::new(),
            recent: Vec::new(),
            history: History::new(shop),
        };
        let sold: Vec<Sold<'_>> = sales.iter().map(|line| sold(lines, line)).collect();
        for members in invoices(&sold) {
            let today = members
                .iter()
                .map(|at| day(sold[*at].time))
                .min()
                .unwrap_or_default();
            let observed: Vec<Observation> = members
                .iter()
                .map(|at| replay.history.number(&sold[*at].line))
                .collect();
            observed
                .iter()
                .for_each(|line| replay.history.refresh(line.product, today));
            if members.iter().any(|at| sales[*at].time >= from.min(listed)) {
                let quantities: Vec<f64> = observed.iter().map(|line| line.quantity).collect();
                let contexts = replay.history.contexts(&observed, &quantities);
                for ((at, line), context) in members.iter().zip(&observed).zip(&contexts) {
                    let features = replay.history.features(line, context);
                    if sales[*at].time >= listed {
                        replay.recent.push((*at, features));
                    }
                    if sales[*at].time < from || !random.chance(share) {
                        continue;
                    }
                    replay.rows.push(features);
                    replay.wrong.push(false);
                    // Services get errors as well, although no price of a manual entry is wrong:
                    // otherwise the trees would learn that prices typical of services are right
                    // for any product.
                    if let Some(wrong) = with_error(line, &mut random) {
                        replay.rows.push(replay.history.features(&wrong, context));
                        replay.wrong.push(true);
                    }
                }
            }
            observed
                .iter()
                .for_each(|line| replay.history.push(line, today));
        }
        Ok(replay)
    }

    /// Trees on the first `width` features, and how to judge their scores.
    pub(super) fn learn(
        &self,
        width: usize,
        seed: u64,
        device: Device,
        each: impl FnMut(),
    ) -> Result<(Forest, Judge), LearnError> {
        let rows: Vec<&[f32]> = self.rows.iter().map(|row| &row[..width]).collect();
        let binned = Binned::of(&rows, BINS, device);
        let wrong: Vec<f64> = self
            .wrong
            .iter()
            .map(|wrong| f64::from(u8::from(*wrong)))
            .collect();
        let wrong = Tensor::from_slice(&wrong).to_device(device);
        let (forest, base) = boost(
            &binned,
            &wrong,
            &wrong.ones_like(),
            BOOSTING,
            &mut Random::new(seed),
            each,
        )?;
        let real = rows.iter().zip(&self.wrong).filter(|(_, wrong)| !**wrong);
        let scores = sorted(real.map(|(row, _)| base + forest.sum(row)));
        let learnt_below = lower_quantile(&scores, LEARNT);
        let severity = [
            lower_quantile(&scores, LOW),
            lower_quantile(&scores, MEDIUM),
            learnt_below + HIGH_MARGIN,
        ];
        Ok((
            forest,
            Judge {
                base,
                learnt_below,
                severity,
            },
        ))
    }
}

/// The line with a typing error: the quantity multiplied, or the price multiplied or divided, by a
/// factor, rounded to what can be typed. `None` if the rounded values are unchanged or the price is
/// 0.
fn with_error(line: &Observation, random: &mut Random) -> Option<Observation> {
    let (least, most) = FACTORS;
    let factor = (least.ln() + random.unit() * (most / least).ln()).exp();
    let whole = if random.chance(0.5) {
        factor.round()
    } else {
        factor
    };
    let (quantity, price) = (line.quantity.exp(), line.price.exp());
    let cents = |price: f64| (price * 100.0).round() / 100.0;
    let (new_quantity, new_price) = match random.below(3) {
        0 => ((quantity * whole).round(), price),
        1 => (quantity, cents(price * factor)),
        _ => (quantity, cents(price / factor)),
    };
    let changed = (new_quantity - quantity).abs() > 0.5 || (new_price - price).abs() > 0.004;
    (changed && new_price > 0.005).then(|| Observation {
        quantity: new_quantity.ln(),
        price: new_price.ln(),
        ..*line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_three_to_three_hundred_times_off() {
        let line = Observation {
            product: Some(0),
            customer: None,
            named: false,
            quantity: 6_f64.ln(),
            price: 2.55_f64.ln(),
        };
        let mut random = Random::new(1);
        let cheap = Observation {
            price: 0.01_f64.ln(),
            ..line
        };
        for _ in 0..500 {
            let wrong = with_error(&line, &mut random).unwrap();
            let off = (wrong.quantity - line.quantity).abs() + (wrong.price - line.price).abs();
            assert!(off.exp() > 2.5 && off.exp() < 301.0, "{wrong:?}");
            // No error makes a line that costs less than a cent.
            assert!(with_error(&cheap, &mut random).is_none_or(|wrong| wrong.price >= cheap.price));
        }
    }
}
