//! Anomaly: what is usual, as medians and MADs of logarithms by product and by customer, found by sorting on the device;
//! scales and severities from how ordinary lines of a rehearsal window score.

use std::{borrow::Borrow, collections::HashMap};

use polars::prelude::{Column, DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit};
use scoring::{
    Artifact, Gate, Metric, Model, ModelKind,
    anomaly::{
        Anomaly as Scorer, Baseline, Baselines, LEAST_LINES, Level, Measure, Parameters, SHRINK, Severity, Transaction,
    },
};
use tch::{Device, Kind as Dtype, Tensor};

use super::{
    Evaluation, LearnError, Learner, Training, known_recipe,
    lines::{DAY, Kind, Line, Lines, seconds},
    parquet,
};

/// Days before the as-of time that severities are set by, and that evaluation plants errors in.
const REHEARSAL_DAYS: i64 = 60;
/// Days before the as-of time whose unusual lines are listed.
const LISTED_DAYS: i64 = 90;
const LEAST: u64 = 1_000;
/// From the MAD to the standard deviation of a normal distribution.
const MAD: f64 = 1.4826;
/// Least spread of a logarithm: prices that never move are still not exact to the penny.
const LEAST_SPREAD: f64 = 0.05;
/// |z| that one line in a thousand exceeds in a normal distribution.
const ONE_IN_A_THOUSAND: f64 = 3.29;
/// Shares of ordinary lines below low, medium and high.
const SEVERITIES: [f64; 3] = [0.99, 0.997, 0.999];
/// One line in this many is given an error by the evaluation.
const PLANTED_EVERY: usize = 100;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Anomaly;

impl Learner for Anomaly {
    const KIND: ModelKind = ModelKind::Anomaly;
    const RECIPES: &'static [&'static str] = &["robust-z"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let lines = Lines::of(training)?;
        let as_of = seconds(training.as_of);
        let sales: Vec<&Line> = lines.lines.iter().filter(|line| line.kind == Kind::Sale).collect();
        if (sales.len() as u64) < LEAST {
            let found = sales.len() as u64;
            return Err(LearnError::TooLittle {
                model: Self::KIND,
                what: "sales",
                needed: LEAST,
                found,
                as_of: training.as_of,
            });
        }
        training.progress.begin("train anomaly: levels", Some(2));
        // Severities come from lines that the levels have not seen; the levels that serve come from all lines.
        let rehearsal = as_of - REHEARSAL_DAYS * DAY;
        let (before, after): (Vec<&Line>, Vec<&Line>) = sales.iter().partition(|line| line.time < rehearsal);
        let parameters = if (before.len() as u64) < LEAST || after.is_empty() {
            calibrate(&lines, fit(&lines, &sales, training.device)?, &sales)
        } else {
            calibrate(&lines, fit(&lines, &before, training.device)?, &after)
        };
        training.progress.advance(1);
        let mut baselines = fit(&lines, &sales, training.device)?;
        baselines.parameters = Parameters { shop: baselines.parameters.shop, ..parameters };
        training.progress.advance(1);
        training.progress.end();

        let listed = sales.iter().copied().filter(|line| line.time >= as_of - LISTED_DAYS * DAY);
        let listed: Vec<&Line> =
            listed.filter(|line| baselines.score(&transaction(&lines, line)).severity != Severity::None).collect();
        let mut products = level_table("stock_code", &baselines.products)?;
        let mut customers = level_table("customer_id", &baselines.customers)?;
        Ok(Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
            .file("products.parquet", parquet(&mut products)?)
            .file("customers.parquet", parquet(&mut customers)?)
            .file("anomalies.parquet", parquet(&mut listed_table(&lines, &listed)?)?)
            .parameters(&baselines.parameters)?
            .trained_on("sales", sales.len() as u64)
            .finish())
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(REHEARSAL_DAYS);
        let scorer = Scorer::load(&Self::train(&training.as_of(earlier))?)?;
        let lines = Lines::of(training)?;
        let (from, as_of) = (seconds(earlier), seconds(training.as_of));
        let naive = Global::of(lines.before(from).filter(|line| line.kind == Kind::Sale));
        tch::manual_seed(training.seed.cast_signed());
        let window: Vec<&Line> =
            lines.before(as_of).filter(|line| line.time >= from && line.kind == Kind::Sale).collect();
        let chances: Vec<f64> =
            Vec::try_from(Tensor::rand([window.len() as i64, 3], (Dtype::Double, Device::Cpu)).view(-1))?;
        let (mut planted, mut scores, mut global, mut high) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (line, chance) in window.iter().zip(chances.chunks(3)) {
            let mut transaction = transaction(&lines, line);
            let plant = chance[0] * (PLANTED_EVERY as f64) < 1.0;
            if plant {
                // Four errors in equal shares: a slip of the key in the quantity, a digit too many or too few in the
                // price, a decimal point lost or doubled.
                match (chance[1] * 4.0) as u32 {
                    0 => transaction.quantity = (transaction.quantity * 10_f64.powf(1.0 + chance[2])).round(),
                    1 => transaction.unit_price *= 10.0,
                    2 => transaction.unit_price /= 10.0,
                    _ => transaction.unit_price *= if chance[2] < 0.5 { 100.0 } else { 0.01 },
                }
            }
            let score = scorer.score(&transaction);
            planted.push(plant);
            high.push(score.severity == Severity::High);
            scores.push(score.score);
            global.push(naive.score(&transaction));
        }
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
        })
    }
}

fn transaction<'a>(lines: &'a Lines, line: &Line) -> Transaction<'a> {
    Transaction {
        stock_code: lines.products.name(line.product),
        quantity: line.quantity as f64,
        unit_price: line.price(),
        customer_id: line.customer.map_or("", |customer| lines.customers.name(customer)),
    }
}

/// Median and MAD by group, and number of lines. `values` in any order.
struct Groups {
    median: Vec<f64>,
    mad: Vec<f64>,
    count: Vec<i64>,
}

/// Medians of groups by two stable sorts: by value, then by group; a group's middle is then at a known place.
fn medians(values: &Tensor, groups: &Tensor, count: &Tensor) -> Tensor {
    let by_value = values.argsort_stable(true, 0, false);
    let by_group = groups.index_select(0, &by_value).argsort_stable(true, 0, false);
    let sorted = values.index_select(0, &by_value).index_select(0, &by_group);
    let start = count.cumsum(0, Dtype::Int64) - count;
    let at = |place: Tensor| sorted.index_select(0, &(&start + place).clamp(0, values.size()[0] - 1));
    let half = count.divide_scalar_mode(2, "floor").to_kind(Dtype::Int64);
    let below = (count - 1).divide_scalar_mode(2, "floor").to_kind(Dtype::Int64).clamp_min(0);
    (at(half) + at(below)) / 2.0
}

fn grouped(values: &[f64], groups: &[i64], of: usize, device: Device) -> Result<Groups, LearnError> {
    let (values, groups) = (Tensor::from_slice(values).to_device(device), Tensor::from_slice(groups).to_device(device));
    let count = groups.bincount(None::<Tensor>, of as i64);
    let median = medians(&values, &groups, &count);
    let apart = (&values - median.index_select(0, &groups)).abs();
    let mad = medians(&apart, &groups, &count);
    let cpu = |tensor: Tensor| tensor.to_device(Device::Cpu);
    Ok(Groups { median: Vec::try_from(cpu(median))?, mad: Vec::try_from(cpu(mad))?, count: Vec::try_from(cpu(count))? })
}

fn log(line: &Line, measure: Measure) -> f64 {
    match measure {
        Measure::Quantity => (line.quantity as f64).ln(),
        Measure::UnitPrice => line.price().ln(),
        Measure::LineTotal => line.total().ln(),
    }
}

/// Levels of the shop, its products and its customers; scales and severities are still those of a normal distribution.
fn fit(lines: &Lines, sales: &[&Line], device: Device) -> Result<Baselines, LearnError> {
    let normal = [[1.0; 3]; 3];
    let mut shop = [Level { median: 0.0, spread: 1.0 }; 3];
    let mut products: HashMap<usize, [Level; 3]> = HashMap::new();
    let mut customers: HashMap<usize, [Level; 3]> = HashMap::new();
    for (at, measure) in Measure::ALL.into_iter().enumerate() {
        let values: Vec<f64> = sales.iter().map(|line| log(line, measure)).collect();
        let all = grouped(&values, &vec![0; values.len()], 1, device)?;
        shop[at] = Level { median: all.median[0], spread: (all.mad[0] * MAD).max(LEAST_SPREAD) };
        let of: Vec<i64> = sales.iter().map(|line| line.product.into()).collect();
        add(&mut products, at, &grouped(&values, &of, lines.products.len(), device)?);
        let known: Vec<(f64, i64)> =
            sales.iter().zip(&values).filter_map(|(line, value)| Some((*value, line.customer?.into()))).collect();
        let (values, of): (Vec<f64>, Vec<i64>) = known.into_iter().unzip();
        if !values.is_empty() {
            add(&mut customers, at, &grouped(&values, &of, lines.customers.len(), device)?);
        }
    }
    Ok(Baselines {
        parameters: Parameters { shop, scale: normal, severity: SEVERITIES },
        products: products
            .into_iter()
            .filter_map(|(at, levels)| Some((lines.products.name(at as u32).parse().ok()?, levels)))
            .collect(),
        customers: customers
            .into_iter()
            .filter_map(|(at, levels)| Some((lines.customers.name(at as u32).parse().ok()?, levels)))
            .collect(),
    })
}

/// Shrinks each group's spread to the typical one.
fn add(to: &mut HashMap<usize, [Level; 3]>, at: usize, groups: &Groups) {
    let own = groups.count.iter().enumerate().filter(|(_, count)| **count >= LEAST_LINES);
    let mut spreads: Vec<f64> = own.clone().map(|(group, _)| groups.mad[group] * MAD).collect();
    spreads.sort_by(f64::total_cmp);
    let typical = spreads.get(spreads.len() / 2).copied().unwrap_or(1.0).max(LEAST_SPREAD);
    for (group, count) in own {
        let (n, spread) = (*count as f64, groups.mad[group] * MAD);
        let shrunk = ((n * spread * spread + SHRINK * typical * typical) / (n + SHRINK)).sqrt();
        let level = Level { median: groups.median[group], spread: shrunk.max(LEAST_SPREAD) };
        to.entry(group).or_insert([level; 3])[at] = level;
    }
}

/// Scales and severities by how ordinary lines score.
fn calibrate(lines: &Lines, mut baselines: Baselines, ordinary: &[&Line]) -> Parameters {
    let mut scale = [[1.0; 3]; 3];
    for measure in Measure::ALL {
        let mut seen: [Vec<f64>; 3] = Default::default();
        for line in ordinary {
            for (baseline, _, z) in baselines.raw(&transaction(lines, line), measure) {
                seen[baseline as usize].push(z.abs());
            }
        }
        for baseline in [Baseline::Product, Baseline::Customer, Baseline::Shop] {
            let tail = quantile(&mut seen[baseline as usize], 0.999);
            scale[baseline as usize][measure as usize] = if tail > 0.0 { ONE_IN_A_THOUSAND / tail } else { 1.0 };
        }
    }
    baselines.parameters.scale = scale;
    let mut scores: Vec<f64> = ordinary.iter().map(|line| baselines.score(&transaction(lines, line)).score).collect();
    let severity = SEVERITIES.map(|share| quantile(&mut scores, share).max(f64::MIN_POSITIVE));
    Parameters { severity, ..baselines.parameters }
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (q * values.len() as f64) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn level_table<K: Borrow<str>>(id: &str, levels: &HashMap<K, [Level; 3]>) -> Result<DataFrame, LearnError> {
    let mut rows: Vec<(&str, &[Level; 3])> = levels.iter().map(|(key, levels)| (key.borrow(), levels)).collect();
    rows.sort_by_key(|row| row.0);
    let mut columns: Vec<Column> =
        vec![Series::new(id.into(), rows.iter().map(|(key, _)| *key).collect::<Vec<_>>()).into_column()];
    for (at, measure) in Measure::ALL.into_iter().enumerate() {
        let mut column = |what: &str, of: fn(&Level) -> f64| {
            let values: Vec<f64> = rows.iter().map(|(_, levels)| of(&levels[at])).collect();
            columns.push(Series::new(format!("{what}_{}", measure.name()).into(), values).into_column());
        };
        column("median", |level| level.median);
        column("spread", |level| level.spread);
    }
    Ok(DataFrame::new_infer_height(columns)?)
}

fn listed_table(lines: &Lines, listed: &[&Line]) -> Result<DataFrame, LearnError> {
    let text = |name: &str, of: &dyn Fn(&Line) -> Option<String>| {
        Series::new(name.into(), listed.iter().map(|line| of(line)).collect::<Vec<_>>()).into_column()
    };
    let int = |name: &str, of: fn(&Line) -> i64| {
        Series::new(name.into(), listed.iter().map(|line| of(line)).collect::<Vec<_>>())
    };
    let prices: Vec<f64> = listed.iter().map(|line| line.price()).collect();
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
    fn grouped_medians_are_those_of_the_groups() {
        let (values, groups) = ([5.0, 1.0, 2.0, 9.0, 3.0, 4.0], [0, 1, 1, 0, 1, 1]);
        let found = grouped(&values, &groups, 3, Device::Cpu).unwrap();
        assert_eq!((&found.median[..2], &found.mad[..2]), (&[7.0, 2.5][..], &[2.0, 1.0][..]));
        assert_eq!(found.count, [2, 4, 0]);
    }

    #[test]
    fn average_precision_shares_out_ties() {
        assert_eq!(average_precision(&[0.9, 0.8, 0.1], &[true, true, false]), 1.0);
        assert!((average_precision(&[0.5; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
    }
}
