//! Anomaly: boosted trees that tell errors in quantity and price from real lines. Nobody has marked the errors of a shop:
//! the learner plants them itself among the lines of the last 60 days (self-supervised; levels are those of before), a
//! factor of 3 to 300 in quantity or price.
//!
//! Severities are set by a rehearsal: the same learning as of 60 days earlier, and how its scores of the real lines since
//! are distributed.

use std::collections::BTreeMap;

use lake::Random;
use polars::prelude::{Column, DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit};
use scoring::{
    Artifact, Gate, Metric, Model, ModelKind, TensorFile,
    anomaly::{
        Anomaly as Trained, Context, History, Levels, Observation, Parameters, Score, Scorer, Severity, Sold,
        Transaction, WIDTH,
    },
};
use tch::Tensor;

use super::{
    Evaluation, LearnError, Learner, Training,
    forest::{Binned, Boosting, Growth, boost},
    known_recipe,
    lines::{DAY, Kind, Line, Lines, seconds},
    parquet,
};

/// Days of lines that errors are planted in; also those that severities are set by, and that evaluation plants errors in.
const WINDOW_DAYS: i64 = 60;
/// Days before the as-of time whose unusual lines are listed.
const LISTED_DAYS: i64 = 90;
const LEAST: u64 = 1_000;
/// Levels are brought up to date this often.
const REFRESH_DAYS: i64 = 7;
/// Rounds of planting, and the share of lines that carry an error in each.
const ROUNDS: usize = 4;
const PLANTED: f64 = 0.03;
/// Factors of planted errors.
const FACTORS: (f64, f64) = (3.0, 300.0);
/// Share of the lines that are shown a second time as if nothing else of their invoice were known.
const ALONE: f64 = 0.1;
/// Lines that the trees learn from, at most.
const MOST_LINES: usize = 150_000;
/// Bins of a feature: many, for what is odd lies in the tail of everything.
const BINS: i64 = 256;
const BOOSTING: Boosting =
    Boosting { rounds: 180, rate: 0.1, growth: Growth { depth: 6, least: 0.02, ridge: 5.0, tried: 10 } };
/// Shares of real lines below low, medium and high.
const SEVERITIES: [f64; 3] = [0.99, 0.997, 0.999];
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
        let as_of = seconds(training.as_of);
        let sales: Vec<&Line> = sales(&lines).collect();
        let first = sales.iter().map(|line| line.time).min().unwrap_or(as_of);
        let old = sales.iter().filter(|line| line.time < as_of - WINDOW_DAYS * DAY).count() as u64;
        if old < LEAST {
            return Err(LearnError::TooLittle {
                model: Self::KIND,
                what: "sales 60 days",
                needed: LEAST,
                found: old,
                as_of: training.as_of,
            });
        }
        training.progress.begin("train anomaly: trees", Some(2 * u64::from(BOOSTING.rounds)));
        let mut scorer = learn(&lines, &sales, as_of, training)?;
        // As long a past as the rehearsal needs, or severities by the lines that the trees have learnt from.
        let rehearsed = as_of - WINDOW_DAYS * DAY;
        let rehearsal = match rehearsed - first >= 2 * WINDOW_DAYS * DAY {
            true => Some(learn(&lines, &sales, rehearsed, training)?),
            false => None,
        };
        let since: Vec<Sold<'_>> =
            sales.iter().filter(|line| line.time >= rehearsed).map(|line| sold(&lines, line)).collect();
        let judge = rehearsal.as_ref().unwrap_or(&scorer);
        let from = chrono::DateTime::from_timestamp(rehearsed, 0).unwrap_or_default().naive_utc();
        let mut scores: Vec<f64> =
            judge.score_all(&since, from).into_iter().flatten().map(|score| score.score).collect();
        scorer.parameters.severity = SEVERITIES.map(|share| quantile(&mut scores, share));
        training.progress.end();

        let recent: Vec<&Line> = sales.iter().copied().filter(|line| line.time >= as_of - LISTED_DAYS * DAY).collect();
        let scored =
            scorer.score_all(&recent.iter().map(|line| sold(&lines, line)).collect::<Vec<_>>(), training.as_of);
        let listed: Vec<(&Line, Score)> = recent
            .into_iter()
            .zip(scored)
            .filter_map(|(line, score)| Some((line, score.filter(|score| score.severity != Severity::None)?)))
            .collect();
        let (products, customers, kept) = scorer.history.parts();
        let int = |name: &str, values: Vec<i64>| Column::new(name.into(), values);
        let number = |of: Option<u32>| of.map_or(-1, i64::from);
        let mut product_table = DataFrame::new_infer_height(vec![Column::new("stock_code".into(), products)])?;
        let mut customer_table = DataFrame::new_infer_height(vec![Column::new("customer_id".into(), customers)])?;
        let mut line_table = DataFrame::new_infer_height(vec![
            int("product", kept.iter().map(|line| number(line.product)).collect()),
            int("customer", kept.iter().map(|line| number(line.customer)).collect()),
            Column::new("log_quantity".into(), kept.iter().map(|line| line.quantity).collect::<Vec<_>>()),
            Column::new("log_price".into(), kept.iter().map(|line| line.price).collect::<Vec<_>>()),
        ])?;
        Ok(Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
            .file("model.safetensors", scorer.forest.write(TensorFile::new(), "").into_bytes()?)
            .file("products.parquet", parquet(&mut product_table)?)
            .file("customers.parquet", parquet(&mut customer_table)?)
            .file("lines.parquet", parquet(&mut line_table)?)
            .file("anomalies.parquet", parquet(&mut listed_table(&lines, &listed)?)?)
            .parameters(&scorer.parameters)?
            .trained_on("sales", sales.len() as u64)
            .finish())
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(WINDOW_DAYS);
        let scorer = Trained::load(&Self::train(&training.as_of(earlier))?)?;
        let lines = Lines::of(training)?;
        let from = seconds(earlier);
        let naive = Global::of(sales(&lines).filter(|line| line.time < from));
        let mut random = Random::new(training.seed ^ 1);
        let (mut planted, mut test, mut global) = (Vec::new(), Vec::new(), Vec::new());
        for line in sales(&lines).filter(|line| line.time >= from) {
            let is_product = line.kind == Kind::Sale;
            let mut line = sold(&lines, line);
            let plant = is_product && random.chance(1.0 / PLANTED_EVERY);
            if plant {
                // Four errors in equal shares, none of them the learner's own: a slip of the key in the quantity, a digit
                // too many or too few in the price, a decimal point lost or doubled.
                match random.below(4) {
                    0 => line.line.quantity = (line.line.quantity * 10_f64.powf(1.0 + random.unit())).round(),
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
        let scores: Vec<f64> = scored.iter().map(|score| score.as_ref().map_or(0.0, |score| score.score)).collect();
        let high: Vec<bool> =
            scored.iter().map(|score| score.as_ref().is_some_and(|score| score.severity == Severity::High)).collect();
        let (area, naive) = (average_precision(&scores, &planted), average_precision(&global, &planted));
        let share = |of: bool| {
            let all = planted.iter().filter(|p| **p == of).count().max(1) as f64;
            planted.iter().zip(&high).filter(|(p, high)| **p == of && **high).count() as f64 / all
        };
        let (found, false_high) = (share(true), share(false));
        let gate = |name: &str, passed: bool, detail: String| Gate { name: name.to_owned(), passed, detail };
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
                    format!("{:.2} % of ordinary lines; 0.50 % is the most", false_high * 100.0),
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
        time: chrono::DateTime::from_timestamp(line.time, 0).unwrap_or_default().naive_utc(),
        line: Transaction {
            stock_code: lines.products.name(line.product),
            quantity: line.quantity as f64,
            unit_price: line.price(),
            customer_id: line.customer.map_or("", |customer| lines.customers.name(customer)),
        },
    }
}

/// Trees from errors planted in the 60 days before an instant, and the recent lines as of then. Severities are left open.
fn learn(lines: &Lines, sales: &[&Line], as_of: i64, training: &Training<'_>) -> Result<Scorer, LearnError> {
    let mut random = Random::new(training.seed);
    let from = as_of - WINDOW_DAYS * DAY;
    let mut history = History::default();
    sales.iter().filter(|line| line.time < from).for_each(|line| history.push(&sold(lines, line).line));
    history.trim();

    let window = sales.iter().filter(|line| (from..as_of).contains(&line.time)).count();
    let share = (MOST_LINES as f64 / window.max(1) as f64).min(1.0);
    let (mut rows, mut outcomes) = (Vec::<[f32; WIDTH]>::new(), Vec::new());
    for start in (from..as_of).step_by((REFRESH_DAYS * DAY) as usize) {
        let end = (start + REFRESH_DAYS * DAY).min(as_of);
        let levels = Levels::of(&history);
        let week: Vec<&&Line> = sales.iter().filter(|line| (start..end).contains(&line.time)).collect();
        // Observations, and whether errors may be planted in them: what a manual entry should cost nobody knows.
        let mut invoices: BTreeMap<u32, Vec<(Observation, bool)>> = BTreeMap::new();
        for line in &week {
            let observed = history.observe(&sold(lines, line).line);
            invoices.entry(line.invoice).or_default().push((observed, line.kind == Kind::Sale));
        }
        for members in invoices.values() {
            if !random.chance(share) {
                continue;
            }
            for round in 0..ROUNDS {
                let planted: Vec<bool> = members.iter().map(|(_, open)| *open && random.chance(PLANTED)).collect();
                if round > 0 && !planted.contains(&true) {
                    continue;
                }
                let shown: Vec<Observation> = members
                    .iter()
                    .zip(&planted)
                    .map(|((line, _), planted)| if *planted { err(line, &mut random) } else { *line })
                    .collect();
                let contexts = levels.contexts(&shown);
                for ((line, context), planted) in shown.iter().zip(&contexts).zip(planted) {
                    // Real lines stand once with what is known of their invoice, however often errors are planted.
                    if planted || round == 0 {
                        rows.push(levels.features(line, context));
                        outcomes.push(f64::from(u8::from(planted)));
                        if random.chance(ALONE) {
                            rows.push(levels.features(line, &Context::default()));
                            outcomes.push(f64::from(u8::from(planted)));
                        }
                    }
                }
            }
        }
        week.iter().for_each(|line| history.push(&sold(lines, line).line));
        history.trim();
    }
    let binned = Binned::of(&rows.iter().map(<[f32; WIDTH]>::as_slice).collect::<Vec<_>>(), BINS, training.device);
    let outcome = Tensor::from_slice(&outcomes).to_device(training.device);
    // Each real line stands for all the rounds that it was in.
    let weight = (1.0 - &outcome) * (ROUNDS as f64 - 1.0) + 1.0;
    let (forest, base) = boost(&binned, &outcome, &weight, BOOSTING, &mut random, || training.progress.advance(1))?;
    let levels = Levels::of(&history);
    let open = [f64::MAX; 3];
    Ok(Scorer { parameters: Parameters { base, severity: open }, forest, history, levels })
}

/// A line with an error in it: a factor up in the quantity, up or down in the price, to what could be typed.
fn err(line: &Observation, random: &mut Random) -> Observation {
    let (least, most) = FACTORS;
    let factor = least.ln() + random.unit() * (most / least).ln();
    let pennies = |log: f64| ((log.exp() * 100.0).round() / 100.0).max(0.01).ln();
    match random.below(3) {
        0 => Observation { quantity: (line.quantity + factor).exp().round().ln(), ..*line },
        1 => Observation { price: pennies(line.price + factor), ..*line },
        _ => Observation { price: pennies(line.price - factor), ..*line },
    }
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (q * values.len() as f64) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn listed_table(lines: &Lines, listed: &[(&Line, Score)]) -> Result<DataFrame, LearnError> {
    let text = |name: &str, of: &dyn Fn(&Line) -> Option<String>| {
        Series::new(name.into(), listed.iter().map(|(line, _)| of(line)).collect::<Vec<_>>()).into_column()
    };
    let int = |name: &str, of: fn(&Line) -> i64| {
        Series::new(name.into(), listed.iter().map(|(line, _)| of(line)).collect::<Vec<_>>())
    };
    let prices: Vec<f64> = listed.iter().map(|(line, _)| line.price()).collect();
    let scores: Vec<f64> = listed.iter().map(|(_, score)| score.score).collect();
    Ok(DataFrame::new_infer_height(vec![
        int("line_id", |line| line.id).into_column(),
        text("invoice", &|line| Some(lines.invoices.name(line.invoice).to_owned())),
        text("stock_code", &|line| Some(lines.products.name(line.product).to_owned())),
        int("quantity", |line| line.quantity).into_column(),
        Series::new("unit_price".into(), prices).into_column(),
        text("customer_id", &|line| line.customer.map(|customer| lines.customers.name(customer).to_owned())),
        text("country", &|line| Some(lines.countries.name(line.country).to_owned())),
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
            for (sum, value) in sums.iter_mut().zip([line.quantity as f64, line.price(), line.total()]) {
                *sum = (sum.0 + value, sum.1 + value * value);
            }
        }
        Self(sums.map(|(sum, squares)| {
            let mean = sum / f64::max(n, 1.0);
            (mean, (squares / f64::max(n, 1.0) - mean * mean).max(1e-12).sqrt())
        }))
    }

    fn score(&self, line: &Transaction<'_>) -> f64 {
        let values = [line.quantity, line.unit_price, line.quantity * line.unit_price];
        values.iter().zip(&self.0).map(|(value, (mean, sd))| ((value - mean) / sd).abs()).fold(0.0, f64::max)
    }
}

/// Area under the precision-recall curve, as average precision.
fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let all = positive.iter().filter(|positive| **positive).count() as f64;
    let (mut hits, mut sum, mut at) = (0.0, 0.0, 0);
    while at < order.len() {
        let end = order[at..].iter().position(|i| scores[*i] != scores[order[at]]).map_or(order.len(), |n| at + n);
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
        assert_eq!(average_precision(&[0.9, 0.8, 0.1], &[true, true, false]), 1.0);
        assert!((average_precision(&[0.5; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn an_error_is_three_to_three_hundred_times_off() {
        let line =
            Observation { product: Some(0), customer: None, named: false, quantity: 6_f64.ln(), price: 2.55_f64.ln() };
        let mut random = Random::new(1);
        for _ in 0..500 {
            let wrong = err(&line, &mut random);
            let off = (wrong.quantity - line.quantity).abs() + (wrong.price - line.price).abs();
            assert!(off.exp() > 2.5 && off.exp() < 301.0, "{wrong:?}");
        }
    }
}
