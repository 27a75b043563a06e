//! Forecast: two ridge regressions (Hoerl and Kennard 1970), one of the revenue of the shop and its
//! largest countries by day, one of the units of its best-selling products by week. Quantiles come
//! from the errors of past forecasts, each by regressions learnt before it.
//!
//! Revenue is gross of returns and includes services such as postage: lines with a quantity and a
//! price above 0 whose invoice is neither a cancellation nor an adjustment.

use chrono::NaiveTime;
use polars::prelude::{DataFrame, DataType, TimeUnit};
use scoring::{
    Artifact, ModelKind, TensorFile,
    forecast::{
        Level, Linear, Parameters, STEADINESS, revenue,
        spread::{LEVELS, Spread},
        units,
    },
};

mod backtest;
mod origin;
mod panel;
mod regression;
mod spreads;

use self::{
    origin::{Origin, study},
    panel::{Daily, Panel, panel},
    spreads::Spreads,
};
use super::{Evaluation, LearnError, Learner, Training, lines::Lines, parquet, recipe};
use crate::columns::column;

/// Days of a series' recent total, by which series are listed.
const RECENT_DAYS: usize = 28;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct ForecastLearner;

impl Learner for ForecastLearner {
    fn kind(&self) -> ModelKind {
        ModelKind::Forecast
    }

    fn recipes(&self) -> &'static [&'static str] {
        &["blend"]
    }

    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = recipe(self, training.recipe)?;
        let lines = Lines::of(training)?;
        let panel = panel(&lines, training)?;
        let study = study(&panel, &[panel.days], training, "train forecast: origins")?;
        let spreads = Spreads::of(&panel, &study, panel.days);
        let now = &study[&panel.days];
        let parameters = Parameters {
            calendar: now.shop.calendar.clone(),
            share: now.share,
            growth: now.growth,
        };
        let model = tensors(&panel, now, &spreads);
        let mut table = series_table(&panel)?;
        let builder = Artifact::builder(self.kind(), recipe, training.as_of, training.seed);
        Ok(builder
            .file("model.safetensors", model.into_bytes()?)
            .file("series.parquet", parquet(&mut table)?)
            .parameters(&parameters)?
            .trained_on("series", table.height() as u64)
            .trained_on("days", panel.days as u64)
            .finish())
    }

    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let lines = Lines::of(training)?;
        backtest::evaluate(&panel(&lines, training)?, training)
    }
}

/// The regressions, the history from which they forecast, and the spreads.
fn tensors(panel: &Panel, now: &Origin, spreads: &Spreads) -> TensorFile {
    let flat = |rule: &Linear| [rule.weights.as_slice(), &[rule.intercept]].concat();
    let single =
        |values: Vec<f64>| -> Vec<f32> { values.into_iter().map(|value| value as f32).collect() };
    let errors = |spreads: &mut dyn Iterator<Item = &Spread>| -> Vec<f64> {
        spreads.flat_map(|spread| spread.errors).collect()
    };
    let revenue_series = panel.revenue.len();
    let days = panel.total().past(panel.days).len();
    let history: Vec<f64> = panel
        .revenue
        .iter()
        .flat_map(|series| series.past(panel.days))
        .copied()
        .collect();
    let weeks: Vec<Vec<f64>> = panel
        .products
        .iter()
        .map(|series| now.shop.weeks(series.past(panel.days)))
        .collect();
    let width = weeks.first().map_or(1, Vec::len);
    let usual: Vec<f64> = spreads.revenue.iter().map(|[day, ..]| day.usual).collect();
    let revenue_errors = errors(&mut spreads.revenue.iter().flatten());
    let units_errors = errors(&mut spreads.units.iter());
    // In the model's file, units are called pieces.
    TensorFile::new()
        .with(
            "revenue_rule",
            &[revenue::FEATURES + 1],
            &flat(&now.revenue),
        )
        .with("pieces_rule", &[units::FEATURES + 1], &flat(&now.units))
        .with("revenue", &[revenue_series, days], &single(history))
        .with("pieces", &[weeks.len(), width], &single(weeks.concat()))
        .with(
            "revenue_error",
            &[revenue_series, 3, LEVELS.len()],
            &revenue_errors,
        )
        .with("revenue_usual", &[revenue_series], &usual)
        .with(
            "pieces_error",
            &[3, STEADINESS, 2, LEVELS.len()],
            &units_errors,
        )
        .with("pieces_edge", &[STEADINESS - 1], &spreads.edges)
}

/// The series in the order of the tensors: the shop, its countries, its products.
fn series_table(panel: &Panel) -> Result<DataFrame, LearnError> {
    let (shop, countries) = panel.revenue.split_at(1);
    let levels = [
        (Level::Total, shop),
        (Level::Country, countries),
        (Level::Product, panel.products.as_slice()),
    ];
    let mut series: Vec<(&str, &Daily)> = Vec::new();
    for (level, of_level) in levels {
        series.extend(of_level.iter().map(|series| (level.as_str(), series)));
    }
    let all = || series.iter().map(|(_, series)| *series);
    let start = |series: &Daily| {
        let midnight = series.first.and_time(NaiveTime::MIN);
        midnight.and_utc().timestamp_micros()
    };
    let recent = |series: &Daily| -> f64 {
        let first = series.values.len().saturating_sub(RECENT_DAYS);
        series.values[first..].iter().sum()
    };
    let micros = DataType::Datetime(TimeUnit::Microseconds, None);
    Ok(DataFrame::new_infer_height(vec![
        column("level", series.iter().map(|(level, _)| *level)),
        column("key", all().map(|series| series.key.as_str())),
        column("name", all().map(|series| series.name.as_str())),
        column("start", all().map(start)).cast(&micros)?,
        column("recent_total", all().map(recent)),
    ])?)
}
