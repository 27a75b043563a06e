//! Anomaly: boosted trees that tell errors in quantity and price from real lines.
//!
//! The errors in a shop's lines are not marked, so the learner is self-supervised: it replays the
//! lines as the scoring crate reads them, and beside each line of the last 120 days it puts a copy
//! with an error, a factor of 3 to 300 in quantity or price.
//!
//! Severities low and medium are quantiles of the real lines' scores; severity high lies at a
//! distance above their 99.9 % quantile, since the trees have seen these lines and score new ones
//! higher.

use polars::prelude::{DataFrame, DataType, TimeUnit};
use scoring::{
    Artifact, Metric, Model, ModelKind, TensorFile,
    anomaly::{ALONE, AnomalyModel, OF_ALONE, Parameters, WIDTH},
};

mod backtest;
mod replay;
mod sales;

use self::{
    backtest::Backtest,
    replay::{BOOSTING, Replay},
    sales::{sales, time},
};
use super::{
    Evaluation, LearnError, Learner, Training, gate,
    lines::{DAY, Line, Lines, seconds},
    parquet, recipe,
    statistics::average_precision,
};
use crate::columns::column;

/// Days of the backtest, in which errors are planted; a third of a shorter history.
const EVALUATED_DAYS: i64 = 60;
/// The largest share of ordinary lines with severity high of a published model.
const MOST_FALSE_ALERTS: f64 = 0.005;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct AnomalyLearner;

impl Learner for AnomalyLearner {
    fn kind(&self) -> ModelKind {
        ModelKind::Anomaly
    }

    fn recipes(&self) -> &'static [&'static str] {
        &["self-supervised"]
    }

    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = recipe(self, training.recipe)?;
        let lines = Lines::of(training)?;
        let sales: Vec<&Line> = sales(&lines).collect();
        let replay = Replay::of(&lines, &sales, training)?;
        training
            .progress
            .begin("train anomaly: trees", Some(BOOSTING.rounds.into()));
        // Both ensembles at once, since each uses one thread.
        let (seed, device) = (training.seed, training.device);
        let (whole, alone) = std::thread::scope(|scope| {
            let alone = scope.spawn(|| replay.learn(ALONE, seed ^ 2, device, || {}));
            let whole = replay.learn(WIDTH, seed ^ 1, device, || training.progress.advance(1));
            (whole, alone.join())
        });
        let (whole, whole_judge) = whole?;
        let (alone, alone_judge) =
            alone.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        training.progress.end();

        let parameters = Parameters {
            shop: *replay.history.shop(),
            whole: whole_judge,
            alone: alone_judge,
        };
        let scored = replay.recent.iter();
        let scored =
            scored.map(|(at, features)| (sales[*at], whole_judge.base + whole.sum(features)));
        let listed: Vec<(&Line, f64)> = scored
            .filter(|(_, score)| *score >= whole_judge.severity[0])
            .collect();
        // The model scores single lines, without the rest of their invoice, by `alone`.
        let single_scores = replay
            .recent
            .iter()
            .map(|(_, features)| alone_judge.base + alone.sum(&features[..ALONE]));
        let file = whole.write(TensorFile::new(), "");
        let file = alone.write(file, OF_ALONE);
        let (products, customers, kept) = replay.history.parts();
        let number = |of: Option<u32>| of.map_or(-1, i64::from);
        let mut product_table = DataFrame::new_infer_height(vec![column("stock_code", products)])?;
        let mut customer_table =
            DataFrame::new_infer_height(vec![column("customer_id", customers)])?;
        let mut line_table = DataFrame::new_infer_height(vec![
            column("product", kept.iter().map(|line| number(line.product))),
            column("customer", kept.iter().map(|line| number(line.customer))),
            column("log_quantity", kept.iter().map(|line| line.quantity)),
            column("log_price", kept.iter().map(|line| line.price)),
        ])?;
        let mut anomalies = listed_table(&lines, &listed)?;
        let builder = Artifact::builder(self.kind(), recipe, training.as_of, training.seed);
        Ok(builder
            .file("model.safetensors", file.into_bytes()?)
            .file("products.parquet", parquet(&mut product_table)?)
            .file("customers.parquet", parquet(&mut customer_table)?)
            .file("lines.parquet", parquet(&mut line_table)?)
            .file("anomalies.parquet", parquet(&mut anomalies)?)
            .parameters(&parameters)?
            .trained_on("sales", sales.len() as u64)
            .distribution("score", single_scores)
            .finish())
    }

    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let lines = Lines::of(training)?;
        let as_of = seconds(training.as_of);
        let first = sales(&lines).map(|line| line.time).min().unwrap_or(as_of);
        let from = as_of - ((as_of - first) / 3).min(EVALUATED_DAYS * DAY);
        let model = AnomalyModel::load(&self.train(&training.as_of(time(from)))?)?;
        let backtest = Backtest::of(&model, &lines, from, training.seed ^ 1);
        let area = average_precision(&backtest.scores, &backtest.planted);
        let naive = average_precision(&backtest.naive, &backtest.planted);
        let [found, false_high] = [true, false].map(|error| backtest.share_high(error));
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
                    false_high <= MOST_FALSE_ALERTS,
                    format!(
                        "{:.2} % of ordinary lines; {:.2} % is the most",
                        false_high * 100.0,
                        MOST_FALSE_ALERTS * 100.0
                    ),
                ),
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

/// The unusual lines of the last days with their scores.
fn listed_table(lines: &Lines, listed: &[(&Line, f64)]) -> Result<DataFrame, LearnError> {
    let rows = || listed.iter().map(|(line, _)| *line);
    let customer = |line: &Line| {
        let customer = line.customer;
        customer.map(|customer| lines.customers.name(customer))
    };
    let micros = DataType::Datetime(TimeUnit::Microseconds, None);
    let times = column("invoice_time", rows().map(|line| line.time * 1_000_000));
    Ok(DataFrame::new_infer_height(vec![
        column("line_id", rows().map(|line| line.id)),
        column(
            "invoice",
            rows().map(|line| lines.invoices.name(line.invoice)),
        ),
        column(
            "stock_code",
            rows().map(|line| lines.products.name(line.product)),
        ),
        column("quantity", rows().map(|line| line.quantity)),
        column("unit_price", rows().map(|line| line.price.to_f64())),
        column("customer_id", rows().map(customer)),
        column(
            "country",
            rows().map(|line| lines.countries.name(line.country)),
        ),
        times.cast(&micros)?,
        column("score", listed.iter().map(|(_, score)| *score)),
    ])?)
}
