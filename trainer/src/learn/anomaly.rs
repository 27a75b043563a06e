//! Anomaly: boosted trees that tell errors in quantity and price from real lines. Nobody has marked
//! the errors of a shop: the learner walks through its lines as the scoring crate does, and beside
//! each of the last 120 days it puts a copy with an error in it, a factor of 3 to 300 in quantity
//! or price (self-supervised).
//!
//! Severities are quantiles of the real lines' scores, and high lies a distance beyond the 99.9 %
//! point: the trees have seen these lines, and score new ones higher.

use chrono::NaiveDateTime;
use lake::Random;
use polars::prelude::{Column, DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit};
use scoring::{
    Artifact, Forest, Gate, Metric, Model, ModelKind, TensorFile,
    anomaly::{
        ALONE, Anomaly as Trained, History, Judge, OF_ALONE, Observation, Parameters, Severity,
        Shop, Sold, Transaction, WIDTH, day, invoices,
    },
};
use tch::{Device, Tensor};

use super::{
    Evaluation, LearnError, Learner, Training,
    forest::{Binned, Boosting, Growth, boost},
    known_recipe,
    lines::{DAY, Kind, Line, Lines, seconds},
    parquet,
};

/// Days before the as-of time whose lines the trees learn from.
const LEARNT_DAYS: i64 = 120;
/// Days that do no more than fill what is usual; half of a shorter history.
const FILLING_DAYS: i64 = 60;
/// Days that evaluation plants errors in; a third of a short history.
const EVALUATED_DAYS: i64 = 60;
/// Days before the as-of time whose unusual lines are listed.
const LISTED_DAYS: i64 = 90;
/// Product lines that training needs, and of those the ones that the trees learn from however old
/// they are.
const LEAST: usize = 1_000;
const LEAST_LEARNT: usize = 500;
/// Factors of planted errors.
const FACTORS: (f64, f64) = (3.0, 300.0);
/// Real lines that the trees learn from, at most, chosen at random; each has a wrong one beside it.
const MOST_LINES: usize = 150_000;
/// Bins of a feature.
const BINS: i64 = 64;
const BOOSTING: Boosting = Boosting {
    rounds: 200,
    rate: 0.1,
    growth: Growth {
        depth: 5,
        least: 5.0,
        ridge: 5.0,
        tried: 10,
    },
};
/// Shares of real lines below low and medium, and of those that are learnt from without a second
/// one.
const LOW: f64 = 0.99;
const MEDIUM: f64 = 0.997;
const LEARNT: f64 = 0.999;
/// How far high is beyond what is learnt from: the log-odds that 0.05 % false alerts took, whatever
/// the as-of time.
const BEYOND: f64 = 1.3;
/// One line in this many is given an error by the evaluation.
const PLANTED_EVERY: f64 = 100.0;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Anomaly;

impl Learner for Anomaly {
    const KIND: ModelKind = ModelKind::Anomaly;
    const RECIPES: &'static [&'static str] = &["self-supervised"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let lines = Lines::of(training)?;
        let sales: Vec<&Line> = sales(&lines).collect();
        let walk = Walk::of(&lines, &sales, training)?;
        training
            .progress
            .begin("train anomaly: trees", Some(BOOSTING.rounds.into()));
        // Side by side: each takes one thread.
        let (seed, device) = (training.seed, training.device);
        let (whole, alone) = std::thread::scope(|scope| {
            let alone = scope.spawn(|| walk.learn(ALONE, seed ^ 2, device, || {}));
            let whole = walk.learn(WIDTH, seed ^ 1, device, || training.progress.advance(1));
            (whole, alone.join())
        });
        let (whole, whole_judge) = whole?;
        let (alone, alone_judge) =
            alone.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        training.progress.end();

        let parameters = Parameters {
            shop: *walk.history.shop(),
            whole: whole_judge,
            alone: alone_judge,
        };
        let listed: Vec<(&Line, f64)> = walk
            .recent
            .iter()
            .map(|(at, features)| (sales[*at], whole_judge.base + whole.sum(features)))
            .filter(|(_, score)| *score >= whole_judge.severity[0])
            .collect();
        // What single lines are scored with.
        let lone = walk
            .recent
            .iter()
            .map(|(_, features)| alone_judge.base + alone.sum(&features[..ALONE]));
        let (products, customers, kept) = walk.history.parts();
        let int = |name: &str, values: Vec<i64>| Column::new(name.into(), values);
        let number = |of: Option<u32>| of.map_or(-1, i64::from);
        let mut product_table =
            DataFrame::new_infer_height(vec![Column::new("stock_code".into(), products)])?;
        let mut customer_table =
            DataFrame::new_infer_height(vec![Column::new("customer_id".into(), customers)])?;
        let mut line_table = DataFrame::new_infer_height(vec![
            int(
                "product",
                kept.iter().map(|line| number(line.product)).collect(),
            ),
            int(
                "customer",
                kept.iter().map(|line| number(line.customer)).collect(),
            ),
            Column::new(
                "log_quantity".into(),
                kept.iter().map(|line| line.quantity).collect::<Vec<_>>(),
            ),
            Column::new(
                "log_price".into(),
                kept.iter().map(|line| line.price).collect::<Vec<_>>(),
            ),
        ])?;
        Ok(
            Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
                .file(
                    "model.safetensors",
                    alone
                        .write(whole.write(TensorFile::new(), ""), OF_ALONE)
                        .into_bytes()?,
                )
                .file("products.parquet", parquet(&mut product_table)?)
                .file("customers.parquet", parquet(&mut customer_table)?)
                .file("lines.parquet", parquet(&mut line_table)?)
                .file(
                    "anomalies.parquet",
                    parquet(&mut listed_table(&lines, &listed)?)?,
                )
                .parameters(&parameters)?
                .trained_on("sales", sales.len() as u64)
                .distribution("score", lone)
                .finish(),
        )
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let lines = Lines::of(training)?;
        let as_of = seconds(training.as_of);
        let first = sales(&lines).map(|line| line.time).min().unwrap_or(as_of);
        let from = as_of - ((as_of - first) / 3).min(EVALUATED_DAYS * DAY);
        let earlier = time(from);
        let scorer = Trained::load(&Self::train(&training.as_of(earlier))?)?;
        let naive = Global::of(sales(&lines).filter(|line| line.time < from));
        let mut random = Random::new(training.seed ^ 1);
        let (mut planted, mut test, mut global) = (Vec::new(), Vec::new(), Vec::new());
        for line in sales(&lines).filter(|line| line.time >= from) {
            let is_product = line.kind == Kind::Sale;
            let mut line = sold(&lines, line);
            let plant = is_product && random.chance(1.0 / PLANTED_EVERY);
            if plant {
                // Four errors in equal shares, none of them the learner's own: a slip of the key in
                // the quantity, a digit too many or too few in the price, a decimal
                // point lost or doubled.
                match random.below(4) {
                    0 => {
                        line.line.quantity =
                            (line.line.quantity * 10_f64.powf(1.0 + random.unit())).round()
                    }
                    1 => line.line.unit_price *= 10.0,
                    2 => line.line.unit_price /= 10.0,
                    _ => line.line.unit_price *= if random.chance(0.5) { 100.0 } else { 0.01 },
                }
            }
            planted.push(plant);
            global.push(naive.score(&line.line));
            test.push(line);
        }
        let scored = scorer.score_all(&test);
        let scores: Vec<f64> = scored
            .iter()
            .map(|score| score.as_ref().map_or(0.0, |score| score.score))
            .collect();
        let high: Vec<bool> = scored
            .iter()
            .map(|score| {
                score
                    .as_ref()
                    .is_some_and(|score| score.severity == Severity::High)
            })
            .collect();
        let (area, naive) = (
            average_precision(&scores, &planted),
            average_precision(&global, &planted),
        );
        let share = |of: bool| {
            let all = planted.iter().filter(|p| **p == of).count().max(1) as f64;
            planted
                .iter()
                .zip(&high)
                .filter(|(p, high)| **p == of && **high)
                .count() as f64
                / all
        };
        let (found, false_high) = (share(true), share(false));
        let gate = |name: &str, passed: bool, detail: String| Gate {
            name: name.to_owned(),
            passed,
            detail,
        };
        Ok(Evaluation {
            metrics: vec![
                Metric::against("pr_auc", area, naive),
                Metric::new("recall_high", found),
                Metric::new("false_high", false_high),
            ],
            gates: vec![
                gate(
                    "planted errors are found better than by global z-scores",
                    area > naive,
                    format!("PR AUC {area:.3} against {naive:.3}"),
                ),
                gate(
                    "high is seldom a false alert",
                    false_high <= 0.005,
                    format!(
                        "{:.2} % of ordinary lines; 0.50 % is the most",
                        false_high * 100.0
                    ),
                ),
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

/// Products sold and services charged: whoever scores lines has both.
fn sales(lines: &Lines) -> impl Iterator<Item = &Line> {
    lines.lines.iter().filter(|line| line.is_paid())
}

fn sold<'a>(lines: &'a Lines, line: &Line) -> Sold<'a> {
    Sold {
        invoice: lines.invoices.name(line.invoice),
        time: time(line.time),
        line: Transaction {
            stock_code: lines.products.name(line.product),
            quantity: line.quantity as f64,
            unit_price: line.price(),
            customer_id: line
                .customer
                .map_or("", |customer| lines.customers.name(customer)),
        },
    }
}

fn time(seconds: i64) -> NaiveDateTime {
    chrono::DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .naive_utc()
}

/// A walk through the lines of a shop as the scoring crate would do it.
struct Walk {
    /// What the trees learn from, and which of it is wrong.
    rows: Vec<[f32; WIDTH]>,
    wrong: Vec<bool>,
    /// The lines of the last days, by their place among the sales, as they were when they came.
    recent: Vec<(usize, [f32; WIDTH])>,
    /// At the end.
    history: History,
}

impl Walk {
    fn of(lines: &Lines, sales: &[&Line], training: &Training<'_>) -> Result<Self, LearnError> {
        let as_of = seconds(training.as_of);
        let mut times: Vec<i64> = sales
            .iter()
            .filter(|line| line.kind == Kind::Sale)
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
            price: line.price().ln(),
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
        let mut walk = Self {
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
                .map(|at| walk.history.number(&sold[*at].line))
                .collect();
            observed
                .iter()
                .for_each(|line| walk.history.refresh(line.product, today));
            if members.iter().any(|at| sales[*at].time >= from.min(listed)) {
                let quantities: Vec<f64> = observed.iter().map(|line| line.quantity).collect();
                let contexts = walk.history.contexts(&observed, &quantities);
                for ((at, line), context) in members.iter().zip(&observed).zip(&contexts) {
                    let features = walk.history.features(line, context);
                    if sales[*at].time >= listed {
                        walk.recent.push((*at, features));
                    }
                    if sales[*at].time < from || !random.chance(share) {
                        continue;
                    }
                    walk.rows.push(features);
                    walk.wrong.push(false);
                    // Services too, though what a manual entry should cost nobody knows: were they
                    // never wrong, a price that only they have would excuse any
                    // product.
                    if let Some(wrong) = err(line, &mut random) {
                        walk.rows.push(walk.history.features(&wrong, context));
                        walk.wrong.push(true);
                    }
                }
            }
            observed
                .iter()
                .for_each(|line| walk.history.push(line, today));
        }
        Ok(walk)
    }

    /// Trees on the first `width` features.
    fn learn(
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
        let mut scores: Vec<f64> = real.map(|(row, _)| base + forest.sum(row)).collect();
        scores.sort_by(f64::total_cmp);
        let learnt_below = quantile(&scores, LEARNT);
        let severity = [
            quantile(&scores, LOW),
            quantile(&scores, MEDIUM),
            learnt_below + BEYOND,
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

/// A line with an error in it: a factor up in the quantity, up or down in the price, to what could
/// be typed. None where that is nothing, or what it was.
fn err(line: &Observation, random: &mut Random) -> Option<Observation> {
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

/// Of ascending values.
fn quantile(values: &[f64], q: f64) -> f64 {
    let at = (q * values.len() as f64) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn listed_table(lines: &Lines, listed: &[(&Line, f64)]) -> Result<DataFrame, LearnError> {
    let text = |name: &str, of: &dyn Fn(&Line) -> Option<String>| {
        Series::new(
            name.into(),
            listed.iter().map(|(line, _)| of(line)).collect::<Vec<_>>(),
        )
        .into_column()
    };
    let int = |name: &str, of: fn(&Line) -> i64| {
        Series::new(
            name.into(),
            listed.iter().map(|(line, _)| of(line)).collect::<Vec<_>>(),
        )
    };
    let prices: Vec<f64> = listed.iter().map(|(line, _)| line.price()).collect();
    let scores: Vec<f64> = listed.iter().map(|(_, score)| *score).collect();
    Ok(DataFrame::new_infer_height(vec![
        int("line_id", |line| line.id).into_column(),
        text("invoice", &|line| {
            Some(lines.invoices.name(line.invoice).to_owned())
        }),
        text("stock_code", &|line| {
            Some(lines.products.name(line.product).to_owned())
        }),
        int("quantity", |line| line.quantity).into_column(),
        Series::new("unit_price".into(), prices).into_column(),
        text("customer_id", &|line| {
            line.customer
                .map(|customer| lines.customers.name(customer).to_owned())
        }),
        text("country", &|line| {
            Some(lines.countries.name(line.country).to_owned())
        }),
        int("invoice_time", |line| line.time * 1_000_000)
            .cast(&DataType::Datetime(TimeUnit::Microseconds, None))?
            .into_column(),
        Series::new("score".into(), scores).into_column(),
    ])?)
}

/// The naive answer: z-scores of raw values over the whole shop.
struct Global([(f64, f64); 3]);

impl Global {
    fn of<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let (mut n, mut sums) = (0.0, [(0.0, 0.0); 3]);
        for line in lines {
            n += 1.0;
            for (sum, value) in
                sums.iter_mut()
                    .zip([line.quantity as f64, line.price(), line.total()])
            {
                *sum = (sum.0 + value, sum.1 + value * value);
            }
        }
        Self(sums.map(|(sum, squares)| {
            let mean = sum / f64::max(n, 1.0);
            (
                mean,
                (squares / f64::max(n, 1.0) - mean * mean).max(1e-12).sqrt(),
            )
        }))
    }

    fn score(&self, line: &Transaction<'_>) -> f64 {
        let values = [
            line.quantity,
            line.unit_price,
            line.quantity * line.unit_price,
        ];
        values
            .iter()
            .zip(&self.0)
            .map(|(value, (mean, sd))| ((value - mean) / sd).abs())
            .fold(0.0, f64::max)
    }
}

/// Area under the precision-recall curve, as average precision.
fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let all = positive.iter().filter(|positive| **positive).count() as f64;
    let (mut hits, mut sum, mut at) = (0.0, 0.0, 0);
    while at < order.len() {
        let end = order[at..]
            .iter()
            .position(|i| scores[*i] != scores[order[at]])
            .map_or(order.len(), |n| at + n);
        let new = order[at..end].iter().filter(|i| positive[**i]).count() as f64;
        hits += new;
        sum += new * hits / end as f64;
        at = end;
    }
    if all > 0.0 { sum / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_shares_out_ties() {
        assert_eq!(
            average_precision(&[0.9, 0.8, 0.1], &[true, true, false]),
            1.0
        );
        assert!((average_precision(&[0.5; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
    }

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
            let wrong = err(&line, &mut random).unwrap();
            let off = (wrong.quantity - line.quantity).abs() + (wrong.price - line.price).abs();
            assert!(off.exp() > 2.5 && off.exp() < 301.0, "{wrong:?}");
            // What would cost less than a cent is no line.
            assert!(err(&cheap, &mut random).is_none_or(|wrong| wrong.price >= cheap.price));
        }
    }
}
