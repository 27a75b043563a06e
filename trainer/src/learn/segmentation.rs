//! Segmentation: which kind of customer somebody is.
//!
//! The recipe `default` forecasts what each customer spends in the next 90 days, by regression
//! forests and a ridge on the features of `scoring::customer`, and cuts the forecasts into six
//! tiers. `rfm3` and `value4` are those of the systems that Shopkeeper replaces, kept for
//! comparison: k-means (Lloyd 1982; k-means++ seeding, Arthur and Vassilvitskii 2007)
//! on standardised recency, frequency and monetary value, with restarts, all points at once on the
//! device.

use std::collections::{HashMap, HashSet};

use lake::Random;
use polars::prelude::{DataFrame, IntoColumn, NamedFrom, Series};
use rayon::prelude::*;
use scoring::{
    Artifact, Forest, Gate, Metric, Model, ModelKind, TensorFile,
    segmentation::{
        Cuts, Parameters, Placement, RFM, Rfm, Segment, Segmentation as Scorer, Space, Spend, tier,
    },
};
use tch::{Device, Kind as Dtype, Tensor};

use super::{
    Evaluation, LearnError, Learner, Training,
    customers::{Customers, Snapshot, Study, standardised, terms},
    forest::{Bagging, Binned, Growth, Nodes, bag, grow},
    known_recipe, linear,
    lines::{DAY, Kind, Lines, SCALE, seconds},
    parquet,
};

const RESTARTS: i64 = 20;
const ITERATIONS: usize = 300;
/// Where k-means stops, the same as in scikit-learn. The original of `rfm3` stopped there; two
/// customers on a border would change sides further on.
const TOLERANCE: f64 = 1e-4;
/// Points that starts are looked for among, at most.
const START_SAMPLE: i64 = 1 << 15;
/// Starts that all points move, and by how much of its inertia one differs from another: what is
/// best for a sample may be second best for all.
const FINALISTS: usize = 2;
const DIFFERENT: f64 = 1e-3;
/// Points that are looked at together: what fits a processor's cache, and what keeps a GPU busy.
const TOGETHER_CPU: i64 = 1 << 12;
const TOGETHER_CUDA: i64 = 1 << 22;
/// Customers that silhouette is computed over, at most: it takes all pairs.
const SILHOUETTE_SAMPLE: usize = 8_000;
/// Days after the rehearsal in which customers' spend is watched.
const OUTCOME_DAYS: i64 = 90;

/// Bins of a feature.
const BINS: i64 = 64;
const BAGGING: Bagging = Bagging {
    trees: 192,
    batch: 24,
    growth: Growth {
        depth: 8,
        least: 20.0,
        ridge: 0.0,
        tried: 40,
    },
};
/// Ridge of the linear forecast's weights.
const RIDGE: f64 = 300.0;
/// Parts of the customers that the linear forecast is held out on.
const FOLDS: u32 = 5;
/// The spend above this quantile counts as that much: a single wholesaler is no rule.
const CAPPED: f64 = 0.99;
/// Shares of customers below each tier but the lowest.
const SHARES: [f64; 5] = [0.30, 0.55, 0.75, 0.90, 0.98];
/// A customer who did nothing keeps the tier until the forecast is this many standard deviations
/// beyond its border.
const MARGIN: f64 = 0.25;
/// Trees that place values without a customer, and how they grow.
const PLACING_TREES: i64 = 24;
const PLACING: Growth = Growth {
    depth: 6,
    least: 10.0,
    ridge: 0.0,
    tried: 2,
};

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Segmentation;

struct Recipe {
    name: &'static str,
    /// Where k-means works; `None`: tiers of a forecast.
    space: Option<Space>,
    /// Names by value, the highest first, with what to do.
    segments: &'static [(&'static str, &'static str)],
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "default",
        space: None,
        segments: &[
            (
                "Champions",
                "VIP programme: early access, a person to call, no discounts needed",
            ),
            (
                "Loyal",
                "Bundles and volume prices on what they buy anyway; ask for reviews and referrals",
            ),
            (
                "Regular",
                "Cross-sell beside the last order; a reason to come back within a month",
            ),
            (
                "Occasional",
                "Seasonal reminders with their own products; free postage above their usual basket",
            ),
            (
                "Drifting",
                "One win-back offer with the products they bought",
            ),
            (
                "Dormant",
                "A greeting before the season; no money spent on them otherwise",
            ),
        ],
    },
    Recipe {
        name: "rfm3",
        space: Some(Space::LogMonetary),
        segments: &[
            ("Champions", "VIP programme: early access, a person to call"),
            ("Regular", "Bundles and cross-selling"),
            ("Hibernating", "Win-back offer"),
        ],
    },
    Recipe {
        name: "value4",
        space: Some(Space::SpendOrders),
        segments: &[
            ("High Value", "VIP programme and personal service"),
            ("Medium Value", "Volume prices and bundles"),
            ("Low Value", "Cross-selling and free postage thresholds"),
            ("New Buyers", "Welcome series and a second-order offer"),
        ],
    },
];

/// What is known of a customer, as a recipe counts it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The customer.
    pub customer_id: String,
    /// Recency, frequency, monetary value.
    pub rfm: Rfm,
    /// Days since the first order.
    pub tenure_days: f64,
}

impl Learner for Segmentation {
    const KIND: ModelKind = ModelKind::Segmentation;
    const RECIPES: &'static [&'static str] = &["default", "rfm3", "value4"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let name = known_recipe::<Self>(training.recipe)?;
        let recipe = RECIPES
            .iter()
            .find(|recipe| recipe.name == name)
            .unwrap_or(&RECIPES[0]);
        let lines = Lines::of(training)?;
        let mut rows = table(&lines, recipe.name, seconds(training.as_of));
        if recipe.name == "rfm3" {
            // In exact money: who has returned all they bought has bought nothing.
            rows.retain(|row| row.rfm.monetary > 0.0);
        }
        let needed = 10 * recipe.segments.len() as u64;
        if (rows.len() as u64) < needed {
            let found = rows.len() as u64;
            return Err(LearnError::TooLittle {
                model: Self::KIND,
                what: "customers",
                needed,
                found,
                as_of: training.as_of,
            });
        }

        let Placed {
            placement,
            model,
            placed,
            forecasts,
            x,
        } = match recipe.space {
            None => tiers(&mut rows, training)?,
            Some(space) => clusters(recipe, space, &rows, training)?,
        };
        let parameters = Parameters {
            placement,
            segments: segments(recipe, &rows, &placed),
            silhouette: silhouette(
                &x,
                &Tensor::from_slice(&placed.iter().map(|p| *p as i64).collect::<Vec<_>>()),
            ),
            fifths: fifths(&rows),
            usual_gap_days: usual_gap(&rows),
        };

        let column = |name: &str, of: fn(&Row) -> f64| {
            Series::new(name.into(), rows.iter().map(of).collect::<Vec<_>>()).into_column()
        };
        let forecast = |name: &str, of: fn(&Spend) -> f64| {
            Series::new(
                name.into(),
                forecasts
                    .iter()
                    .map(|f| f.as_ref().map(of))
                    .collect::<Vec<_>>(),
            )
            .into_column()
        };
        let mut customers = DataFrame::new_infer_height(vec![
            Series::new(
                "customer_id".into(),
                rows.iter()
                    .map(|row| row.customer_id.as_str())
                    .collect::<Vec<_>>(),
            )
            .into_column(),
            column("recency_days", |row| row.rfm.recency_days),
            column("frequency", |row| row.rfm.frequency),
            column("monetary", |row| row.rfm.monetary),
            column("tenure_days", |row| row.tenure_days),
            Series::new(
                "segment_id".into(),
                placed
                    .iter()
                    .map(|place| *place as i64 + 1)
                    .collect::<Vec<_>>(),
            )
            .into_column(),
            forecast("typical", |spend| spend.typical),
            forecast("average", |spend| spend.average),
        ])?;
        Ok(
            Artifact::builder(Self::KIND, name, training.as_of, training.seed)
                .file("model.safetensors", model.into_bytes()?)
                .file("customers.parquet", parquet(&mut customers)?)
                .parameters(&parameters)?
                .trained_on("customers", rows.len() as u64)
                .distribution("recency_days", rows.iter().map(|row| row.rfm.recency_days))
                .distribution("frequency", rows.iter().map(|row| row.rfm.frequency))
                .distribution("monetary", rows.iter().map(|row| row.rfm.monetary))
                .finish(),
        )
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(OUTCOME_DAYS);
        let rehearsal = Self::train(&training.as_of(earlier))?;
        let scorer = Scorer::load(&rehearsal)?;
        let lines = Lines::of(training)?;
        let from = seconds(earlier);
        let mut spend = vec![0.0; lines.customers.len()];
        for line in lines
            .lines
            .iter()
            .filter(|line| line.time >= from && line.is_purchase())
        {
            if let Some(customer) = line.customer {
                spend[customer as usize] += line.total();
            }
        }
        let mut customers: Vec<(usize, f64, f64)> = Vec::new();
        for (customer, spend) in spend.iter().enumerate() {
            if let Some(known) = scorer.customer(lines.customers.name(customer as u32)) {
                customers.push((known.segment, known.rfm.monetary, *spend));
            }
        }
        let explained = eta_squared(
            customers
                .iter()
                .map(|(segment, _, spend)| (*segment, spend.ln_1p())),
        );
        let mut amounts: Vec<f64> = customers.iter().map(|(.., spend)| *spend).collect();
        let cap = quantile(&mut amounts, CAPPED);
        let of_amounts = eta_squared(
            customers
                .iter()
                .map(|(segment, _, spend)| (*segment, spend.min(cap))),
        );
        let ordered = means_by_segment(&customers, cap).is_sorted_by(|a, b| a >= b);
        customers.sort_by(|a, b| a.1.total_cmp(&b.1));
        let n = customers.len().max(1);
        let naive = eta_squared(
            customers
                .iter()
                .enumerate()
                .map(|(at, (_, _, spend))| (at * 5 / n, spend.ln_1p())),
        );
        let Parameters {
            segments,
            silhouette,
            ..
        } = scorer.parameters();
        // The recipes kept for comparison are published for what they are.
        let forecasting = matches!(scorer.parameters().placement, Placement::Tiers(_));
        let least = if forecasting { 0.9 * naive } else { 0.01 };
        let smallest = segments
            .iter()
            .map(|segment| segment.customer_share)
            .fold(1.0, f64::min);
        Ok(Evaluation {
            metrics: vec![
                Metric::against("spend_explained", explained, naive),
                Metric::new("capped_spend_explained", of_amounts),
                Metric::new("silhouette", *silhouette),
                Metric::new("smallest_share", smallest),
            ],
            gates: vec![
                Gate {
                    name: "segments tell apart who will spend".to_owned(),
                    passed: explained >= least,
                    detail: format!(
                        "{explained:.3} of the variance of log spend in the next {OUTCOME_DAYS} \
                         days; {least:.3} is the least, fifths by spend have {naive:.3}"
                    ),
                },
                Gate {
                    name: "a higher segment spends more".to_owned(),
                    passed: ordered || !forecasting,
                    detail: if ordered {
                        "in the next 90 days, on average".to_owned()
                    } else {
                        "not in order".to_owned()
                    },
                },
                Gate {
                    name: "every segment has customers".to_owned(),
                    passed: smallest > 0.0,
                    detail: format!("the smallest has {:.2} %", smallest * 100.0),
                },
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

/// A row for each customer that a recipe looks at, in order of their first line.
fn table(lines: &Lines, recipe: &str, as_of: i64) -> Vec<Row> {
    let everything = recipe == "rfm3";
    // `rfm3` counts whole days to a day after the last line, returns and all; the others days to
    // the as-of time.
    let last_line = lines
        .lines
        .iter()
        .map(|line| line.time)
        .max()
        .unwrap_or(as_of);
    let mut customers: Vec<(i64, i64, HashSet<u32>, i64)> =
        vec![(i64::MAX, i64::MIN, HashSet::new(), 0); lines.customers.len()];
    for line in lines.before(as_of) {
        let Some(customer) = line.customer else {
            continue;
        };
        let (first, last, invoices, net) = &mut customers[customer as usize];
        if everything || line.is_paid() {
            *first = line.time.min(*first);
            *last = line.time.max(*last);
            invoices.insert(line.invoice);
        }
        if everything || line.is_paid() || line.kind == Kind::Cancellation {
            *net += line.total;
        }
    }
    let days = |from: i64, to: i64| (to - from) as f64 / DAY as f64;
    let rows = customers
        .into_iter()
        .enumerate()
        .filter(|(_, (_, _, invoices, _))| !invoices.is_empty());
    rows.map(|(number, (first, last, invoices, net))| Row {
        customer_id: lines.customers.name(number as u32).to_owned(),
        rfm: Rfm {
            recency_days: if everything {
                days(last, last_line + DAY).floor()
            } else {
                days(last, as_of)
            },
            frequency: invoices.len() as f64,
            monetary: net as f64 / SCALE,
        },
        tenure_days: days(first, if everything { last_line + DAY } else { as_of }),
    })
    .collect()
}

/// What a recipe made of its customers.
struct Placed {
    placement: Placement,
    model: TensorFile,
    /// Place of each customer's segment, 0 the highest.
    placed: Vec<usize>,
    forecasts: Vec<Option<Spend>>,
    /// Customers in the space that silhouette is measured in.
    x: Tensor,
}

fn clusters(
    recipe: &Recipe,
    space: Space,
    rows: &[Row],
    training: &Training<'_>,
) -> Result<Placed, LearnError> {
    training
        .progress
        .begin("train segmentation: restarts", Some(RESTARTS as u64));
    let Clustered {
        x,
        fit,
        mean,
        scale,
    } = cluster(recipe, space, rows, training.seed, training.device, || {
        training.progress.advance(1)
    });
    training.progress.end();

    // Numbers and names go by value, so that they mean the same after every retraining.
    let labels: Vec<i64> = Vec::try_from(&fit.labels)?;
    let (k, d) = (recipe.segments.len(), mean.len());
    let order = by_value(space, rows, &labels, k);
    let centroids: Vec<f64> =
        Vec::try_from(&fit.centroids.to_device(Device::Cpu).contiguous().view(-1))?;
    let centroids: Vec<f64> = order
        .iter()
        .flat_map(|&c| centroids[c * d..][..d].to_vec())
        .collect();
    let place = |label: i64| {
        order
            .iter()
            .position(|&c| c == label as usize)
            .unwrap_or_default()
    };
    let model = TensorFile::new()
        .with("centroid", &[k, d], &centroids)
        .with("mean", &[d], &mean)
        .with("scale", &[d], &scale);
    Ok(Placed {
        placement: Placement::Centroids(space),
        model,
        placed: labels.iter().map(|label| place(*label)).collect(),
        forecasts: vec![None; rows.len()],
        x,
    })
}

/// Tiers of forecast spend. Cuts are quantiles of forecasts for the latest past snapshot by
/// learners that had not seen the customers, so that they are where the forecasts' own shrinking
/// puts them.
fn tiers(rows: &mut Vec<Row>, training: &Training<'_>) -> Result<Placed, LearnError> {
    let customers = Customers::of(training)?;
    let study = customers.study(Segmentation::KIND, training)?;
    let Forecasts { past, now } = forecasts(&study, training)?;
    let quantile_of =
        |of: fn(&Spend) -> f64, q: f64| quantile(&mut past.iter().map(of).collect::<Vec<_>>(), q);
    let cuts = Cuts {
        typical: [0, 1, 2, 3].map(|at| quantile_of(|spend| spend.typical, SHARES[at])),
        average: quantile_of(|spend| spend.average, SHARES[4]),
    };
    let names = study
        .now
        .customers
        .iter()
        .map(|customer| customers.lines.customers.name(*customer));
    let mut by_name: HashMap<&str, Spend> = names.zip(now).collect();
    rows.retain(|row| by_name.contains_key(row.customer_id.as_str()));
    let now: Vec<Spend> = rows
        .iter()
        .filter_map(|row| by_name.remove(row.customer_id.as_str()))
        .collect();
    let spread = Spend {
        typical: deviation(now.iter().map(|s| s.typical)),
        average: deviation(now.iter().map(|s| s.average)),
    };
    let previous = training
        .previous
        .and_then(|artifact| Some((Scorer::load(artifact).ok()?, artifact.manifest().as_of)));
    let placed: Vec<usize> = rows
        .iter()
        .zip(&now)
        .map(|(row, spend)| {
            let fresh = tier(spend.typical, spend.average, &cuts);
            let kept = previous.as_ref().and_then(|(scorer, then)| {
                let days = (training.as_of - *then).num_seconds() as f64 / DAY as f64;
                kept(scorer, row, days)
            });
            match kept {
                Some(before) if near(before, spend, &cuts, &spread) => before,
                Some(_) | None => fresh,
            }
        })
        .collect();

    let vectors: Vec<[f32; RFM]> = rows.iter().map(|row| row.rfm.vector()).collect();
    let binned = Binned::of(
        &vectors
            .iter()
            .map(<[f32; RFM]>::as_slice)
            .collect::<Vec<_>>(),
        BINS,
        training.device,
    );
    let learn = |of: fn(&Spend) -> f64| -> Result<Forest, LearnError> {
        let target =
            Tensor::from_slice(&now.iter().map(of).collect::<Vec<_>>()).to_device(training.device);
        let weights = Tensor::ones(
            [PLACING_TREES, rows.len() as i64],
            (Dtype::Double, training.device),
        );
        let mut nodes = Nodes::default();
        let _ends = grow(
            &binned,
            &weights,
            &(&weights * &target),
            PLACING,
            &mut Random::new(training.seed),
            &mut nodes,
        )?;
        Ok(nodes.forest(RFM, PLACING.depth, 1.0)?)
    };
    let model = learn(|spend| spend.typical)?.write(TensorFile::new(), "typical.");
    let model = learn(|spend| spend.average)?.write(model, "average.");
    let points: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| Space::LogRfm.coordinates(row.rfm))
        .collect();
    let (mean, scale) = standard(&points);
    Ok(Placed {
        placement: Placement::Tiers(cuts),
        model,
        placed,
        forecasts: now.into_iter().map(Some).collect(),
        x: standard_tensor(&points, &mean, &scale, training.device),
    })
}

/// The segment that a customer had in the published version, where nothing has happened since but
/// time.
fn kept(previous: &Scorer, row: &Row, days: f64) -> Option<usize> {
    let before = previous.customer(&row.customer_id)?;
    let forecasting = matches!(previous.parameters().placement, Placement::Tiers(_));
    let same = before.rfm.frequency == row.rfm.frequency
        && (before.rfm.monetary - row.rfm.monetary).abs() < 0.005
        && (before.rfm.recency_days + days - row.rfm.recency_days).abs() < 1e-3;
    (forecasting && days >= 0.0 && same).then_some(before.segment)
}

/// Whether a forecast lies within a tier, or no further than the margin beyond its borders.
fn near(place: usize, spend: &Spend, cuts: &Cuts, spread: &Spend) -> bool {
    let moved = |sign: f64| {
        tier(
            spend.typical + sign * MARGIN * spread.typical,
            spend.average + sign * MARGIN * spread.average,
            cuts,
        )
    };
    (moved(1.0)..=moved(-1.0)).contains(&place)
}

struct Forecasts {
    /// For the latest past snapshot, by learners that have not seen the customer.
    past: Vec<Spend>,
    /// For the as-of time.
    now: Vec<Spend>,
}

/// Forecasts of the next 90 days' spend: `typical`, the mean of a forest's and a ridge's log spend;
/// `average`, the logarithm of the mean that a forest forecasts of the capped spend.
fn forecasts(study: &Study, training: &Training<'_>) -> Result<Forecasts, LearnError> {
    let rows: Vec<(u32, &[f32], f64)> = study.rows().collect();
    let latest = study
        .past
        .first()
        .map_or(0, |snapshot| snapshot.customers.len());
    let mut spends: Vec<f64> = rows.iter().map(|row| row.2).collect();
    let cap = quantile(&mut spends, CAPPED);
    let logs: Vec<f64> = rows.iter().map(|row| row.2.ln_1p()).collect();
    let capped: Vec<f64> = rows.iter().map(|row| row.2.min(cap)).collect();

    let binned = Binned::of(
        &rows.iter().map(|row| row.1).collect::<Vec<_>>(),
        BINS,
        training.device,
    );
    training
        .progress
        .begin("train segmentation: trees", Some(2 * BAGGING.trees as u64));
    let owner: Vec<u32> = rows.iter().map(|row| row.0).collect();
    let forest = |target: &[f64]| {
        bag(&binned, &owner, target, BAGGING, training.seed, |trees| {
            training.progress.advance(trees)
        })
    };
    let (typical, unseen_typical) = forest(&logs)?;
    let (average, unseen_average) = forest(&capped)?;
    training.progress.end();

    let terms = terms(study);
    let x = standardised(rows.iter().map(|row| row.1), &terms, training.device);
    let y = Tensor::from_slice(&logs).to_device(training.device);
    let line = |of: &[f32], (weights, intercept): &linear::Weights| {
        intercept
            + terms
                .iter()
                .zip(of)
                .zip(weights)
                .map(|((term, x), w)| w * term.standard(*x))
                .sum::<f64>()
    };
    let mut unseen_line = vec![0.0; latest];
    for fold in 0..FOLDS {
        let others: Vec<i64> = (0..rows.len())
            .filter(|at| rows[*at].0 % FOLDS != fold)
            .map(|at| at as i64)
            .collect();
        let others = Tensor::from_slice(&others).to_device(training.device);
        let fitted = linear::ridge(
            &x.index_select(0, &others),
            &y.index_select(0, &others),
            RIDGE,
        )?;
        for at in (0..latest).filter(|at| rows[*at].0 % FOLDS == fold) {
            unseen_line[at] = line(rows[at].1, &fitted);
        }
    }
    let fitted = linear::ridge(&x, &y, RIDGE)?;
    let spend = |typical: f64, line: f64, average: f64| Spend {
        typical: f64::midpoint(typical, line),
        average: average.max(0.0).ln_1p(),
    };
    let past = (0..latest)
        .map(|at| spend(unseen_typical[at], unseen_line[at], unseen_average[at]))
        .collect();
    let Snapshot { features, .. } = &study.now;
    let of = |forest: &Forest, x: &[f32]| forest.sum(x) / forest.trees() as f64;
    let now = features
        .iter()
        .map(|x| spend(of(&typical, x), line(x, &fitted), of(&average, x)))
        .collect();
    Ok(Forecasts { past, now })
}

/// The median customer's days between orders, of those with two or more; 90 where there are none.
fn usual_gap(rows: &[Row]) -> f64 {
    let gaps = rows.iter().filter(|row| row.rfm.frequency > 1.0);
    let mut gaps: Vec<f64> = gaps
        .map(|row| (row.tenure_days - row.rfm.recency_days) / (row.rfm.frequency - 1.0))
        .collect();
    if gaps.is_empty() {
        90.0
    } else {
        quantile(&mut gaps, 0.5)
    }
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (q * (values.len().saturating_sub(1)) as f64).round() as usize;
    values.get(at).copied().unwrap_or_default()
}

fn deviation(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    (values.map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Mean capped spend of the customers of each segment, the highest segment first.
fn means_by_segment(customers: &[(usize, f64, f64)], cap: f64) -> Vec<f64> {
    let mut sums: std::collections::BTreeMap<usize, (f64, f64)> = std::collections::BTreeMap::new();
    for (segment, _, spend) in customers {
        let (sum, count) = sums.entry(*segment).or_default();
        *sum += spend.min(cap);
        *count += 1.0;
    }
    sums.values().map(|(sum, count)| sum / count).collect()
}

/// Customers in a recipe's standardised space, and their clusters.
struct Clustered {
    /// `[n, d]`
    x: Tensor,
    fit: Fit,
    mean: Vec<f64>,
    scale: Vec<f64>,
}

fn cluster(
    recipe: &Recipe,
    space: Space,
    rows: &[Row],
    seed: u64,
    device: Device,
    each: impl FnMut(),
) -> Clustered {
    let points: Vec<Vec<f64>> = rows.iter().map(|row| space.coordinates(row.rfm)).collect();
    let (mean, scale) = standard(&points);
    let x = standard_tensor(&points, &mean, &scale, device);
    let fit = k_means(&x, recipe.segments.len() as i64, RESTARTS, seed, each);
    Clustered {
        x,
        fit,
        mean,
        scale,
    }
}

fn standard_tensor(points: &[Vec<f64>], mean: &[f64], scale: &[f64], device: Device) -> Tensor {
    let d = mean.len();
    let flat: Vec<f64> = points
        .iter()
        .flat_map(|p| (0..d).map(|at| (p[at] - mean[at]) / scale[at]))
        .collect();
    Tensor::from_slice(&flat)
        .reshape([points.len() as i64, d as i64])
        .to_device(device)
}

/// Mean and population standard deviation of each coordinate.
fn standard(points: &[Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let (n, d) = (points.len() as f64, points.first().map_or(0, Vec::len));
    let mean: Vec<f64> = (0..d)
        .map(|at| points.iter().map(|p| p[at]).sum::<f64>() / n)
        .collect();
    let variance = |at: usize| {
        points
            .iter()
            .map(|p| (p[at] - mean[at]).powi(2))
            .sum::<f64>()
            / n
    };
    let scale = (0..d)
        .map(|at| variance(at).sqrt())
        .map(|sd| if sd > 0.0 { sd } else { 1.0 })
        .collect();
    (mean, scale)
}

/// What k-means found.
#[derive(Debug)]
pub struct Fit {
    /// `[k, d]`
    pub centroids: Tensor,
    /// `[n]`, on the CPU
    pub labels: Tensor,
    /// Sum of squared distances to the nearest centroid.
    pub inertia: f64,
}

/// K-means of `x` `[n, d]`: the best of several k-means++ starts. Where there are many points, the
/// starts are of a sample (Bradley and Fayyad 1998), and all points move the best few of them. The
/// same seed gives the same result.
pub fn k_means(x: &Tensor, k: i64, restarts: i64, seed: u64, mut each: impl FnMut()) -> Fit {
    let mut random = Random::new(seed);
    let n = x.size()[0];
    let sample = if n > START_SAMPLE {
        let drawn: Vec<i64> = (0..START_SAMPLE)
            .map(|_| random.below(n as usize) as i64)
            .collect();
        x.index_select(0, &Tensor::from_slice(&drawn).to_device(x.device()))
    } else {
        x.shallow_clone()
    };
    let points = Points::of(&sample);
    let mut fits = Vec::new();
    for _ in 0..restarts.max(1) {
        fits.push(points.lloyd(plus_plus(&sample, k, &mut random)));
        each();
    }
    let better = |one: &Fit, other: &Fit| one.inertia.total_cmp(&other.inertia);
    fits.sort_by(better);
    if n > START_SAMPLE {
        fits.dedup_by(|later, kept| later.inertia <= kept.inertia * (1.0 + DIFFERENT));
        let points = Points::of(x);
        fits = fits
            .into_iter()
            .take(FINALISTS)
            .map(|fit| points.lloyd(fit.centroids))
            .collect();
        fits.sort_by(better);
    }
    fits.swap_remove(0)
}

/// `[n, k]` squared distances.
fn distances(x: &Tensor, centroids: &Tensor) -> Tensor {
    (x.unsqueeze(1) - centroids.unsqueeze(0))
        .square()
        .sum_dim_intlist([-1_i64].as_slice(), false, None::<Dtype>)
}

/// Seeds: each next one is the best of a few points, as likely as their squared distances to the
/// nearest seed so far.
fn plus_plus(x: &Tensor, k: i64, random: &mut Random) -> Tensor {
    let n = x.size()[0];
    let tries = 2 + (k as f64).ln() as i64;
    let mut centroids = x.narrow(0, random.below(n as usize) as i64, 1);
    let mut apart = distances(x, &centroids).squeeze_dim(1);
    while centroids.size()[0] < k {
        let reached = apart.cumsum(0, Dtype::Double);
        let all = reached.double_value(&[n - 1]);
        // Where all points are seeds already, any is as good as another.
        let drawn: Vec<f64> = (0..tries).map(|_| random.unit() * all).collect();
        let drawn = Tensor::from_slice(&drawn).to_device(x.device());
        let next = drawn.searchsorted(&reached, false, true, "right", None::<&Tensor>);
        let tried = x.index_select(0, &next.clamp_max(n - 1));
        let closer = distances(x, &tried).minimum(&apart.unsqueeze(1));
        let left = closer.sum_dim_intlist([0_i64].as_slice(), false, None::<Dtype>);
        let best = left.argmin(0, false).int64_value(&[]);
        apart = closer.select(1, best).contiguous();
        centroids = Tensor::cat(&[centroids, tried.narrow(0, best, 1)], 0);
    }
    centroids
}

/// Points in parts that are looked at together, side by side.
struct Points {
    /// Each `[c, d + 1]`, with a 1 after the coordinates.
    parts: Vec<Tensor>,
    /// Mean variance of a coordinate.
    variance: f64,
}

impl Points {
    fn of(x: &Tensor) -> Self {
        let n = x.size()[0];
        let with_one = Tensor::cat(&[x.shallow_clone(), x.ones_like().narrow(1, 0, 1)], 1);
        let most = if x.device().is_cuda() {
            TOGETHER_CUDA
        } else {
            TOGETHER_CPU
        };
        let parts = (0..n)
            .step_by(most as usize)
            .map(|from| with_one.narrow(0, from, most.min(n - from)));
        let variance = x
            .var_dim([0_i64].as_slice(), false, false)
            .mean(None::<Dtype>)
            .double_value(&[]);
        Self {
            parts: parts.collect(),
            variance,
        }
    }

    /// What is made of each part, in order.
    fn each<T: Send>(
        &self,
        centroids: &Tensor,
        of: impl Fn(&Tensor, &Tensor) -> T + Sync,
    ) -> Vec<T> {
        let work: Vec<_> = self
            .parts
            .iter()
            .map(|part| (part.shallow_clone(), centroids.shallow_clone()))
            .collect();
        work.into_par_iter()
            .map(|(part, centroids)| of(&part, &centroids))
            .collect()
    }

    /// Moves centroids to their points' means until together they move less than [`TOLERANCE`] of a
    /// coordinate's variance.
    fn lloyd(&self, mut centroids: Tensor) -> Fit {
        let d = centroids.size()[1];
        for _ in 0..ITERATIONS {
            let sums = self.each(&centroids, |part, centroids| {
                let clusters = Tensor::arange(centroids.size()[0], (Dtype::Int64, part.device()));
                let member = nearest(part, centroids)
                    .unsqueeze(1)
                    .eq_tensor(&clusters)
                    .to_kind(part.kind());
                member.transpose(0, 1).matmul(part)
            });
            let sums = sums
                .into_iter()
                .reduce(|all, part| all + part)
                .unwrap_or_else(|| centroids.zeros_like());
            let counts = sums.narrow(1, d, 1);
            // A centroid that lost all its points stays where it is.
            let moved = (sums.narrow(1, 0, d) / counts.clamp_min(1.0))
                .where_self(&counts.gt(0.0), &centroids);
            let shift = (&moved - &centroids)
                .square()
                .sum(None::<Dtype>)
                .double_value(&[]);
            centroids = moved;
            if shift <= TOLERANCE * self.variance {
                break;
            }
        }
        let found = self.each(&centroids, |part, centroids| {
            let labels = nearest(part, centroids);
            let apart = part.narrow(1, 0, d) - centroids.index_select(0, &labels);
            (labels, apart.square().sum(None::<Dtype>).double_value(&[]))
        });
        let (labels, inertia): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Fit {
            centroids,
            labels: Tensor::cat(&labels, 0).to_device(Device::Cpu),
            inertia: inertia.iter().sum(),
        }
    }
}

/// The nearest centroid of each point of a part.
fn nearest(part: &Tensor, centroids: &Tensor) -> Tensor {
    // |c|² - 2 x·c: the squared distance less |x|², which is the same for all centroids.
    let lengths = centroids
        .square()
        .sum_dim_intlist([1_i64].as_slice(), true, None::<Dtype>);
    part.matmul(&Tensor::cat(&[centroids * -2.0, lengths], 1).transpose(0, 1))
        .argmin(1, false)
}

/// Mean silhouette (Rousseeuw 1987), over an even sample where there are many points.
fn silhouette(x: &Tensor, labels: &Tensor) -> f64 {
    let n = x.size()[0];
    let step = (n as usize).div_ceil(SILHOUETTE_SAMPLE).max(1) as i64;
    let (x, labels) = (
        x.slice(0, 0, n, step),
        labels.to_device(x.device()).slice(0, 0, n, step),
    );
    let k = labels.max().int64_value(&[]) + 1;
    let member = labels.one_hot(k).to_kind(x.kind());
    let sizes = member.sum_dim_intlist([0_i64].as_slice(), false, None::<Dtype>);
    let mut total = 0.0;
    for start in (0..x.size()[0]).step_by(1024) {
        let length = 1024.min(x.size()[0] - start);
        let (part, own) = (
            x.narrow(0, start, length),
            labels.narrow(0, start, length).unsqueeze(1),
        );
        let sums = distances(&part, &x).sqrt().matmul(&member);
        let own_size = sizes.gather(0, &own.squeeze_dim(1), false);
        let within = sums.gather(1, &own, false).squeeze_dim(1) / (&own_size - 1.0).clamp_min(1.0);
        let others = (sums / &sizes).scatter_value(1, &own, f64::INFINITY);
        let between = others.amin([1_i64].as_slice(), false);
        let scores = (&between - &within) / between.maximum(&within);
        total += scores
            .where_scalarother(&own_size.gt(1.0), 0.0)
            .nan_to_num(0.0, 0.0, 0.0)
            .sum(None::<Dtype>)
            .double_value(&[]);
    }
    total / x.size()[0] as f64
}

/// Clusters by value, the highest first.
fn by_value(space: Space, rows: &[Row], labels: &[i64], k: usize) -> Vec<usize> {
    let mut sums = vec![(0.0, 0.0); k];
    for (row, label) in rows.iter().zip(labels) {
        let Rfm {
            recency_days,
            frequency,
            monetary,
        } = row.rfm;
        let value = match space {
            Space::SpendOrders => monetary,
            Space::LogMonetary => {
                frequency.ln_1p() + monetary.max(0.0).ln_1p() - recency_days / 100.0
            }
            Space::LogRfm => frequency.ln_1p() + monetary.max(0.0).ln_1p() - recency_days.ln_1p(),
        };
        sums[*label as usize].0 += value;
        sums[*label as usize].1 += 1.0;
    }
    let mut order: Vec<usize> = (0..k).collect();
    let mean = |at: usize| sums[at].0 / f64::max(sums[at].1, 1.0);
    order.sort_by(|a, b| mean(*b).total_cmp(&mean(*a)).then(a.cmp(b)));
    order
}

fn segments(recipe: &Recipe, rows: &[Row], placed: &[usize]) -> Vec<Segment> {
    let all: f64 = rows.iter().map(|row| row.rfm.monetary).sum();
    let describe = |(id, (name, strategy)): (usize, &(&str, &str))| {
        let members: Vec<&Rfm> = rows
            .iter()
            .zip(placed)
            .filter(|(_, place)| **place == id)
            .map(|(row, _)| &row.rfm)
            .collect();
        let n = members.len() as f64;
        let mean = |of: fn(&Rfm) -> f64| {
            if n > 0.0 {
                members.iter().map(|rfm| of(rfm)).sum::<f64>() / n
            } else {
                0.0
            }
        };
        Segment {
            id: id as u32 + 1,
            name: (*name).to_owned(),
            strategy: (*strategy).to_owned(),
            customers: members.len() as u64,
            customer_share: n / rows.len() as f64,
            monetary_share: members.iter().map(|rfm| rfm.monetary).sum::<f64>()
                / all.max(f64::MIN_POSITIVE),
            average: Rfm {
                recency_days: mean(|r| r.recency_days),
                frequency: mean(|r| r.frequency),
                monetary: mean(|r| r.monetary),
            },
        }
    };
    recipe.segments.iter().enumerate().map(describe).collect()
}

fn fifths(rows: &[Row]) -> [[f64; 4]; 3] {
    let measures: [fn(&Rfm) -> f64; 3] = [|r| r.recency_days, |r| r.frequency, |r| r.monetary];
    measures.map(|of| {
        let mut values: Vec<f64> = rows.iter().map(|row| of(&row.rfm)).collect();
        values.sort_by(f64::total_cmp);
        [1, 2, 3, 4].map(|fifth| {
            values
                .get(values.len() * fifth / 5)
                .copied()
                .unwrap_or_default()
        })
    })
}

/// Share of the variance of a value that lies between groups.
fn eta_squared(values: impl Iterator<Item = (usize, f64)>) -> f64 {
    let values: Vec<_> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / n.max(1.0);
    let mut groups: std::collections::BTreeMap<usize, (f64, f64)> =
        std::collections::BTreeMap::new();
    for (group, value) in &values {
        let (sum, count) = groups.entry(*group).or_default();
        *sum += value;
        *count += 1.0;
    }
    let between: f64 = groups
        .values()
        .map(|(sum, count)| count * (sum / count - mean).powi(2))
        .sum();
    let total: f64 = values.iter().map(|(_, value)| (value - mean).powi(2)).sum();
    if total > 0.0 { between / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_means_finds_blobs_and_finds_them_again() {
        let points: Vec<f64> = (0..300)
            .flat_map(|i| {
                let c = f64::from(i % 3) * 10.0;
                [c + f64::from(i % 7) * 0.1, c - f64::from(i % 5) * 0.1]
            })
            .collect();
        let x = Tensor::from_slice(&points).reshape([300, 2]);
        let (one, two) = (k_means(&x, 3, 4, 1, || {}), k_means(&x, 3, 4, 1, || {}));
        assert_eq!(one.inertia, two.inertia);
        let labels: Vec<i64> = Vec::try_from(&one.labels).unwrap();
        assert!((3..300).all(|i| labels[i] == labels[i - 3]));
        assert!(silhouette(&x, &one.labels) > 0.9);
    }

    /// Of the real file, as `rfm3` counts: every row with a customer, returns and duplicates
    /// included.
    fn real_rows() -> Vec<Row> {
        let folder = tempfile::tempdir().unwrap();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../shared/data/online_retail.csv");
        let lake = lake::Lake::create(folder.path()).unwrap();
        lake::ingest(
            &[file],
            &lake,
            &lake::IngestOptions::default(),
            &lake::NoProgress,
        )
        .unwrap();
        let report =
            lake::curate(&lake, &lake::CurateOptions::default(), &lake::NoProgress).unwrap();
        let lines = Lines::read(lake.transactions().unwrap()).unwrap();
        table(&lines, "rfm3", seconds(report.as_of))
    }

    fn sizes(rows: &[Row]) -> (Vec<usize>, f64) {
        let recipe = &RECIPES[1];
        let Clustered { x, fit, .. } =
            cluster(recipe, Space::LogMonetary, rows, 42, Device::Cpu, || {});
        let labels: Vec<i64> = Vec::try_from(&fit.labels).unwrap();
        let order = by_value(Space::LogMonetary, rows, &labels, 3);
        let size = |cluster: &usize| {
            labels
                .iter()
                .filter(|label| **label as usize == *cluster)
                .count()
        };
        (
            order.iter().map(size).collect(),
            silhouette(&x, &fit.labels),
        )
    }

    #[test]
    fn rfm3_reproduces_the_original_on_the_real_file() {
        // Their net is zero to the penny; sums in binary fractions leave 1e-14, which the original
        // took for spend.
        const NOTHING_LEFT: [&str; 4] = ["12454", "12558", "12607", "13762"];
        let rows = real_rows();
        let exact: Vec<Row> = rows
            .iter()
            .filter(|row| row.rfm.monetary > 0.0)
            .cloned()
            .collect();
        assert_eq!(exact.len(), 4_317);
        assert!(NOTHING_LEFT.iter().all(|id| {
            rows.iter()
                .any(|row| row.customer_id == *id && row.rfm.monetary == 0.0)
        }));
        let (clusters, silhouette) = sizes(&exact);
        // By value: Champions, Regular, Hibernating.
        assert_eq!(clusters, [885, 2_422, 1_010]);
        assert!((silhouette - 0.425).abs() < 0.001, "{silhouette}");

        let mut original = exact;
        for row in rows
            .into_iter()
            .filter(|row| NOTHING_LEFT.contains(&row.customer_id.as_str()))
        {
            original.push(Row {
                rfm: Rfm {
                    monetary: 1e-14,
                    ..row.rfm
                },
                ..row
            });
        }
        assert_eq!(original.len(), 4_321);
        let (clusters, silhouette) = sizes(&original);
        // With these four the objective is so flat that scikit-learn itself ends between 878 / 2430
        // / 1013 and 867 / 2439 / 1015, by its seed and tolerance; the original's seed
        // ended at 870 / 2437 / 1014.
        let apart = clusters
            .iter()
            .zip([870, 2_437, 1_014])
            .map(|(size, original)| size.abs_diff(original));
        assert!(apart.max() <= Some(10), "{clusters:?}");
        assert!((silhouette - 0.425).abs() < 0.001, "{silhouette}");
    }

    #[test]
    fn k_means_ends_where_scikit_learn_does_on_the_real_file() {
        // `KMeans(k, n_init=10, random_state=42).inertia_` of scikit-learn 1.9.1 for k = 2..10, of
        // the same points.
        const SCIKIT_LEARN: [f64; 9] = [
            8476.22, 5893.60, 4143.69, 3130.42, 2619.57, 2250.48, 1947.65, 1733.59, 1569.71,
        ];
        let mut rows = real_rows();
        rows.retain(|row| row.rfm.monetary > 0.0);
        let points: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| Space::LogMonetary.coordinates(row.rfm))
            .collect();
        let (mean, scale) = standard(&points);
        let x = standard_tensor(&points, &mean, &scale, Device::Cpu);
        for (k, theirs) in (2..).zip(SCIKIT_LEARN) {
            let ours = k_means(&x, k, RESTARTS, 42, || {}).inertia;
            assert!(ours <= theirs * 1.001, "k = {k}: {ours} against {theirs}");
        }
    }

    #[test]
    fn k_means_of_many_points_starts_from_some_and_ends_with_all() {
        let (mut random, n) = (Random::new(5), 3 * START_SAMPLE);
        let points: Vec<f64> = (0..n)
            .flat_map(|i| {
                let centre = (i % 4) as f64 * 8.0;
                [centre + random.normal(), random.normal() - centre]
            })
            .collect();
        let x = Tensor::from_slice(&points).reshape([n, 2]);
        let fit = k_means(&x, 4, 3, 1, || {});
        let labels: Vec<i64> = Vec::try_from(&fit.labels).unwrap();
        assert_eq!(labels.len() as i64, n);
        assert!(
            (4..labels.len())
                .filter(|i| labels[*i] != labels[*i - 4])
                .count()
                < 100
        );
        // Two coordinates with variance 1.
        assert!(
            (fit.inertia / n as f64 - 2.0).abs() < 0.02,
            "{}",
            fit.inertia
        );
    }

    #[test]
    fn eta_squared_is_the_share_between_groups() {
        assert_eq!(
            eta_squared([(0, 1.0), (0, 1.0), (1, 3.0), (1, 3.0)].into_iter()),
            1.0
        );
        assert_eq!(
            eta_squared([(0, 1.0), (0, 3.0), (1, 1.0), (1, 3.0)].into_iter()),
            0.0
        );
    }
}
