//! Recommendation: candidates from implicit-feedback ALS, item-item weights and sales, ordered by
//! boosted rankers.
//!
//! The rankers learn from the past: models as of several earlier cut-offs give features of their
//! customers' candidates, and the label is whether a candidate was bought between the cut-off and
//! the as-of time, at most 90 days. Models of late cut-offs have nearly as much past as the final
//! model; early cut-offs have a longer window of outcomes. Nothing is fitted to lines at or after
//! the as-of time.

use std::{collections::HashSet, sync::mpsc, thread};

use chrono::Duration;
use rayon::prelude::*;
use scoring::{
    Artifact, Forest, Gate, Metric, Model, ModelKind, TensorFile,
    recommendation::{Held, Parameters, Query, RecommendationModel, answers},
};
use tch::{Device, Tensor};

pub mod als;
mod links;
mod matrix;
mod outcome;
mod pairs;
mod ranker;
mod rules;
mod tables;

use self::{als::Settings, matrix::Matrix, outcome::Outcome, ranker::Lists};
use super::{
    Evaluation, LearnError, Learner, Training, gate,
    lines::{Lines, seconds},
    parquet, recipe,
};

/// Half-life in days of the purchases from which the autoencoder learns.
const TASTE_DAYS: f64 = 120.0;
/// Index into [`Held::fresh`] of the counts from which factors are learnt.
const CONFIDENCE: usize = 3;
/// Days in which recommended products are to be bought.
const OUTCOME_DAYS: i64 = 90;
/// Cut-offs from which the rankers learn, days before the as-of time.
const CUT_OFFS: [i64; 5] = [30, 45, 60, 75, 90];
/// Customers of a cut-off from which the rankers learn, at most.
const MOST_LISTS: usize = 2_500;
/// Customers, and products, that training needs.
const LEAST: u64 = 50;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct RecommendationLearner;

impl RecommendationLearner {
    /// How factors are learnt.
    pub const ALS: Settings = Settings {
        factors: 64,
        iterations: 8,
        unobserved: 1.0,
        lambda: 0.003,
    };
}

impl Learner for RecommendationLearner {
    fn kind(&self) -> ModelKind {
        ModelKind::Recommendation
    }

    fn recipes(&self) -> &'static [&'static str] {
        &["ranked"]
    }

    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError> {
        recipe(self, training.recipe)?;
        let lines = Lines::of(training)?;
        let rankers = rankers(training, &lines)?;
        with_answers(build(training, &lines, rankers.as_ref())?)
    }

    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - Duration::days(OUTCOME_DAYS);
        let model = RecommendationModel::load(&self.train(&training.as_of(earlier))?)?;
        let lines = Lines::of(training)?;
        let outcome = Outcome::of(&model, &lines, seconds(earlier), seconds(training.as_of));
        let recommended = |customer: usize, new_only: bool| {
            let query = Query {
                customer: Some(customer),
                limit: 10,
                new_only,
                ..Query::default()
            };
            let found = model.recommend(&query).into_iter();
            found.map(|found| found.product).collect()
        };
        let popular = |customer: usize, new_only: bool| most_popular(&model, customer, new_only);
        let repeated = |customer: usize, new_only: bool| most_bought(&model, customer, new_only);
        let (next, new, coverage) = outcome.measure(recommended);
        let (naive_next, naive_new, naive_coverage) = outcome.measure(popular);
        let (repeat_next, ..) = outcome.measure(repeated);
        let [next_measured, new_measured] = outcome.measured();
        Ok(Evaluation {
            metrics: vec![
                Metric::against("ndcg_at_10", next, naive_next),
                Metric::against("ndcg_at_10_new", new, naive_new),
                Metric::against("ndcg_at_10_over_repeat_counts", next, repeat_next),
                Metric::against("coverage_at_10", coverage, naive_coverage),
            ],
            gates: vec![
                ndcg_gate(
                    "next purchases are found better than by popularity",
                    next_measured,
                    next,
                    naive_next,
                ),
                ndcg_gate(
                    "new products are found better than by popularity",
                    new_measured,
                    new,
                    naive_new,
                ),
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

/// The naive answer: the ten most popular products.
fn most_popular(model: &RecommendationModel, customer: usize, new_only: bool) -> Vec<usize> {
    let held = model.held(customer).iter();
    let held: HashSet<usize> = held.map(|held| held.product).collect();
    let popular = model.popular().iter().copied();
    popular
        .filter(|product| !new_only || !held.contains(product))
        .take(10)
        .collect()
}

/// The strongest simple answer: the products that the customer has bought most often, then the most
/// popular ones.
fn most_bought(model: &RecommendationModel, customer: usize, new_only: bool) -> Vec<usize> {
    let mut held: Vec<&Held> = if new_only {
        Vec::new()
    } else {
        model.held(customer).iter().collect()
    };
    held.sort_by(|a, b| {
        b.purchases
            .total_cmp(&a.purchases)
            .then(a.days.total_cmp(&b.days))
    });
    let own = held.iter().map(|held| held.product);
    let rest = most_popular(model, customer, true);
    own.chain(rest).take(10).collect()
}

fn ndcg_gate(name: &str, measured: usize, ours: f64, naive: f64) -> Gate {
    let detail = match measured {
        0 => format!(
            "nobody to measure it on: no known customer bought such products in the last \
             {OUTCOME_DAYS} days"
        ),
        _ => format!("NDCG@10 {ours:.3} against {naive:.3}"),
    };
    gate(name, ours > naive, detail)
}

/// The rankers of all products and of new products; `None` if the past has too little to learn
/// from.
fn rankers(training: &Training<'_>, lines: &Lines) -> Result<Option<[Forest; 2]>, LearnError> {
    let mut lists = [Lists::default(), Lists::default()];
    for days in CUT_OFFS {
        let cut_off = training.as_of - Duration::days(days);
        let model = match build(&training.as_of(cut_off), lines, None) {
            Ok(artifact) => RecommendationModel::load(&artifact)?,
            // A young shop is too young as of its early cut-offs.
            Err(LearnError::TooLittle { .. }) => continue,
            Err(error) => return Err(error),
        };
        let mut outcome = Outcome::of(&model, lines, seconds(cut_off), seconds(training.as_of));
        let step = outcome.customers.len().div_ceil(MOST_LISTS).max(1);
        outcome.customers = outcome.customers.into_iter().step_by(step).collect();
        for (to, new_only) in lists.iter_mut().zip([false, true]) {
            let list = |(customer, bought): &(usize, Vec<(usize, bool)>)| {
                let query = Query {
                    customer: Some(*customer),
                    new_only,
                    ..Query::default()
                };
                let relevant = bought.iter().filter(|(_, is_new)| *is_new || !new_only);
                let relevant: Vec<usize> = relevant.map(|(product, _)| *product).collect();
                (model.candidates(&query), relevant)
            };
            let found: Vec<_> = outcome.customers.par_iter().map(list).collect();
            for (candidates, relevant) in &found {
                to.push(candidates, relevant);
            }
        }
    }
    if lists.iter().any(|lists| lists.len() < ranker::LEAST_LISTS) {
        return Ok(None);
    }
    training
        .progress
        .begin("train recommendation: trees", Some(2 * ranker::rounds()));
    let [next, new] = in_parallel(&lists, training);
    let rankers = [next?, new?];
    training.progress.end();
    Ok(Some(rankers))
}

/// Trains both rankers at once. Progress is reported from this thread, since it need not be `Sync`.
fn in_parallel(lists: &[Lists; 2], training: &Training<'_>) -> [Result<Forest, LearnError>; 2] {
    let (tick, ticks) = mpsc::channel();
    let (seed, device) = (training.seed, training.device);
    let grow = |lists, tick: mpsc::Sender<()>| {
        ranker::rank(lists, seed, device, || {
            // The receiver is gone only if this thread panicked.
            let _ = tick.send(());
        })
    };
    thread::scope(|scope| {
        let threads = [&lists[0], &lists[1]].map(|lists| {
            let tick = tick.clone();
            scope.spawn(move || grow(lists, tick))
        });
        // The loop below ends when the last sender is dropped.
        drop(tick);
        ticks.iter().for_each(|()| training.progress.advance(1));
        threads.map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// The model with these rankers, or with none.
fn build(
    training: &Training<'_>,
    lines: &Lines,
    rankers: Option<&[Forest; 2]>,
) -> Result<Artifact, LearnError> {
    let settings = RecommendationLearner::ALS;
    let matrix = Matrix::of(lines, seconds(training.as_of));
    let (n, m) = (matrix.customers.len(), matrix.products.len());
    let found = n.min(m) as u64;
    if found < LEAST {
        return Err(LearnError::TooLittle {
            model: ModelKind::Recommendation,
            what: "customers and products",
            needed: LEAST,
            found,
            as_of: training.as_of,
        });
    }
    let (products, customers) = factors(&matrix, settings, training)?;
    let width = settings.factors as usize;
    let file = TensorFile::new()
        .with("product", &[m, width], &flat(&products)?)
        .with("customer", &[n, width], &flat(&customers)?);
    let recent = matrix.held(|held| (-held.days / TASTE_DAYS).exp2());
    let taste = links::taste(&recent, m, training.device)?;
    let descriptions = matrix.products.iter();
    let descriptions: Vec<Option<&str>> = descriptions
        .map(|product| lines.descriptions[*product as usize].as_deref())
        .collect();
    let file = links::write(&taste, file, "taste");
    let file = links::write(&links::together(&matrix.orders, m), file, "together");
    let mut file = links::write(&links::words(&descriptions), file, "words");
    for (ranker, name) in rankers.into_iter().flatten().zip(["next.", "new."]) {
        file = ranker.write(file, name);
    }

    let parameters = Parameters {
        unobserved: settings.unobserved,
        lambda: settings.lambda,
        ranked: rankers.is_some(),
    };
    let kind = ModelKind::Recommendation;
    let [mut product, mut customer] = [
        tables::products(lines, &matrix)?,
        tables::customers(lines, &matrix)?,
    ];
    let mut interactions = tables::interactions(&matrix)?;
    let mut rules = tables::association_rules(&matrix)?;
    Ok(
        Artifact::builder(kind, "ranked", training.as_of, training.seed)
            .file("model.safetensors", file.into_bytes()?)
            .file("products.parquet", parquet(&mut product)?)
            .file("customers.parquet", parquet(&mut customer)?)
            .file("interactions.parquet", parquet(&mut interactions)?)
            .file("rules.parquet", parquet(&mut rules)?)
            .parameters(&parameters)?
            .trained_on("customers", n as u64)
            .trained_on("products", m as u64)
            .trained_on("interactions", matrix.cells.len() as u64)
            .finish(),
    )
}

/// Factors of products and customers.
fn factors(
    matrix: &Matrix,
    settings: Settings,
    training: &Training<'_>,
) -> Result<(Tensor, Tensor), LearnError> {
    let (n, m) = (matrix.customers.len(), matrix.products.len());
    let device = training.device;
    training.progress.begin(
        "train recommendation: iterations",
        Some(settings.iterations),
    );
    let cells = matrix.weighted(|held| (1.0 + held.fresh[CONFIDENCE]).log2().max(1e-3));
    let advance = || training.progress.advance(1);
    let products = als::factorise(&cells, [n, m], settings, training.seed, device, advance)?;
    // Customers are solved once more with the weights that the services fold in with, so that a
    // known customer and the same purchases as a basket get the same factors.
    let weights = matrix.weighted(Held::confidence);
    let customers = als::Side::of(&weights, n, m, settings, device).solve(&products)?;
    training.progress.end();
    Ok((products, customers))
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, LearnError> {
    let values = tensor.to_device(Device::Cpu).contiguous().view(-1);
    Ok(Vec::try_from(values)?)
}

/// The model with its answers to every customer for the plain query, so that services need not
/// compute them.
fn with_answers(artifact: Artifact) -> Result<Artifact, LearnError> {
    let model = RecommendationModel::load(&artifact)?;
    let query = |customer| Query {
        customer: Some(customer),
        limit: answers::MOST,
        ..Query::default()
    };
    let all = (0..model.customers().count()).into_par_iter();
    let found: Vec<_> = all.map(|customer| model.rank(&query(customer))).collect();
    Ok(artifact.with_file(answers::FILE, answers::write(&found).into_bytes()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_without_customers_to_measure_fails_and_says_so() {
        let empty = ndcg_gate("new", 0, -0.0, -0.0);
        assert!(!empty.passed && empty.detail.starts_with("nobody to measure it on"));
        let measured = ndcg_gate("new", 1, 0.25, 0.125);
        assert!(measured.passed);
        assert_eq!(measured.detail, "NDCG@10 0.250 against 0.125");
    }
}
