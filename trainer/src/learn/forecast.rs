//! Forecast: a ridge regression (Hoerl and Kennard 1970) for each level, global over its series, solved from its normal
//! equations by Cholesky on the device; quantiles from how actual sales compared with the mean on rolling origins.
//!
//! Revenue is what was sold, gross of returns and with services (postage is paid for): lines with a quantity and a price
//! above 0 whose invoice is neither a cancellation nor an adjustment. Products are counted in pieces.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Days, NaiveDate};
use polars::prelude::{DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit};
use scoring::{
    Artifact, Gate, Metric, ModelKind, TensorFile,
    forecast::{
        Calendar, DAYS, DISTANCES, FEATURES, Frequency, Level, Parameters, QUANTILES, Rules, State, distance, ratio,
    },
};
use tch::{Kind as Dtype, Tensor};

use super::{
    Evaluation, LearnError, Learner, Training, known_recipe,
    lines::{Kind, Line, Lines, seconds},
    parquet,
};

/// Days of history that a forecast needs at least.
const LEAST_DAYS: u64 = 70;
/// Days ahead that the regression learns from.
const AHEAD: usize = 28;
/// Days between origins, in training and evaluation.
const STEP: u64 = 7;
const RIDGE: f64 = 5.0;
/// Products that the regression learns from, by pieces sold.
const LEARNT_PRODUCTS: usize = 300;
/// Days before the as-of time in which evaluation forecasts.
const EVALUATED_DAYS: u64 = 84;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Forecast;

/// A series of days without gaps, up to the end of the panel.
struct Daily {
    level: Level,
    key: String,
    name: String,
    first: NaiveDate,
    values: Vec<f64>,
}

struct Panel {
    series: Vec<Daily>,
    /// The day after the last.
    end: NaiveDate,
    days: usize,
}

impl Panel {
    fn of(lines: &Lines, as_of: chrono::NaiveDateTime) -> Option<Self> {
        // A day that has begun is no whole day.
        let end = as_of.date();
        let day_of = |line: &Line| DateTime::from_timestamp(line.time, 0).map(|time| time.date_naive());
        let sold = |line: &&Line| {
            line.quantity > 0
                && line.price > 0
                && line.kind != Kind::Cancellation
                && !lines.invoices.name(line.invoice).starts_with(['A', 'a'])
        };
        let lines_sold: Vec<(NaiveDate, &Line)> =
            lines.before(seconds(end.into())).filter(sold).filter_map(|line| Some((day_of(line)?, line))).collect();
        let start = lines_sold.iter().map(|(day, _)| *day).min()?;
        let days = usize::try_from((end - start).num_days()).ok()?;
        let mut sums: BTreeMap<(Level, &str), (NaiveDate, Vec<f64>)> = BTreeMap::new();
        for (day, line) in &lines_sold {
            let at = usize::try_from((*day - start).num_days()).ok()?;
            let mut add = |level, key, value: f64| {
                let series = sums.entry((level, key)).or_insert_with(|| (*day, vec![0.0; days]));
                series.0 = series.0.min(*day);
                series.1[at] += value;
            };
            add(Level::Total, "", line.total());
            add(Level::Country, lines.countries.name(line.country), line.total());
            if line.kind == Kind::Sale {
                add(Level::Product, lines.products.name(line.product), line.quantity as f64);
            }
        }
        let descriptions: BTreeMap<&str, &str> = (0..lines.products.len())
            .filter_map(|number| Some((lines.products.name(number as u32), lines.descriptions[number].as_deref()?)))
            .collect();
        let series = sums.into_iter().map(|((level, key), (first, values))| Daily {
            level,
            key: key.to_owned(),
            name: match level {
                Level::Total => "whole shop".to_owned(),
                Level::Country => key.to_owned(),
                Level::Product => descriptions.get(key).copied().unwrap_or(key).to_owned(),
            },
            first,
            values,
        });
        Some(Self { series: series.collect(), end, days })
    }

    fn date(&self, at: usize) -> NaiveDate {
        self.end - Days::new((self.days - at) as u64)
    }

    /// When the shop was closed, as far as the days before a place in the panel tell.
    fn calendar(&self, until: usize) -> Calendar {
        let total = self.series.iter().find(|series| series.level == Level::Total);
        calendar(total.map(|series| &series.values[..until]).unwrap_or_default(), self.date(0))
    }

    /// The series that a level's rules are learnt from.
    fn learnt(&self, level: Level) -> Vec<&Daily> {
        let mut series: Vec<&Daily> = self.series.iter().filter(|series| series.level == level).collect();
        let size = |series: &Daily| series.values.iter().sum::<f64>();
        series.sort_by(|a, b| size(b).total_cmp(&size(a)).then_with(|| a.key.cmp(&b.key)));
        series.truncate(LEARNT_PRODUCTS);
        series
    }
}

/// Weekdays without a sale, and runs of days around the turn of the year without one.
fn calendar(total: &[f64], start: NaiveDate) -> Calendar {
    let mut sold_on = [0_u32; 7];
    let mut weeks = [0_u32; 7];
    let date = |at: usize| start + Days::new(at as u64);
    for (at, value) in total.iter().enumerate() {
        let weekday = date(at).weekday().num_days_from_monday() as usize;
        weeks[weekday] += 1;
        sold_on[weekday] += u32::from(*value > 0.0);
    }
    // A weekday on which the shop sold once in twenty weeks is a closed one.
    let closed_weekdays: Vec<u32> = (0..7).filter(|w| sold_on[*w as usize] * 20 <= weeks[*w as usize]).collect();
    let closed_days: BTreeSet<(u32, u32)> = total
        .iter()
        .enumerate()
        .map(|(at, value)| (date(at), *value))
        .filter(|(day, value)| {
            *value == 0.0 && (day.month() == 12 && day.day() >= 20 || day.month() == 1 && day.day() <= 7)
        })
        .filter(|(day, _)| !closed_weekdays.contains(&day.weekday().num_days_from_monday()))
        .map(|(day, _)| (day.month(), day.day()))
        .collect();
    Calendar { closed_weekdays, closed_days: closed_days.into_iter().collect() }
}

/// Learns rules from the days before `until` (a place in the panel).
fn learn(panel: &Panel, until: usize, training: &Training<'_>) -> Result<Rules, LearnError> {
    let mut rules = Rules {
        calendar: panel.calendar(until),
        coefficients: [[0.0; FEATURES]; 3],
        ratios: vec![[1.0; QUANTILES]; 3 * 3 * DISTANCES],
    };
    for level in Level::ALL {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for series in panel.learnt(level) {
            for origin in origins(until) {
                let Some(state) =
                    State::of(&series.values[origin.saturating_sub(DAYS)..origin], panel.date(origin), &rules.calendar)
                else {
                    continue;
                };
                for ahead in 0..AHEAD.min(until - origin) {
                    let day = panel.date(origin + ahead);
                    if rules.calendar.is_open(day) {
                        x.extend(state.features(day, ahead + 1));
                        // One great order is not a level.
                        y.push((series.values[origin + ahead] / state.scale).min(10.0));
                    }
                }
            }
        }
        rules.coefficients[level as usize] = ridge(&x, &y, training)?;
        quantiles(panel, until, level, &mut rules);
    }
    Ok(rules)
}

/// Places from which the past is forecast.
fn origins(until: usize) -> impl Iterator<Item = usize> {
    (1..).map(move |back| until.saturating_sub(back * STEP as usize)).take_while(|origin| *origin >= 42)
}

/// `argmin |Xw - y|² + ridge |w - prior|²`, the prior being the weekday's own level.
fn ridge(x: &[f64], y: &[f64], training: &Training<'_>) -> Result<[f64; FEATURES], LearnError> {
    let mut prior = [0.0; FEATURES];
    prior[4] = 1.0;
    if y.is_empty() {
        return Ok(prior);
    }
    let options = (Dtype::Double, training.device);
    let x = Tensor::from_slice(x).view([y.len() as i64, FEATURES as i64]).to_device(training.device);
    let w = Tensor::from_slice(&prior).to_device(training.device).unsqueeze(1);
    let y = Tensor::from_slice(y).to_device(training.device).unsqueeze(1) - x.matmul(&w);
    let xt = x.transpose(0, 1);
    let a = xt.matmul(&x) + Tensor::eye(FEATURES as i64, options) * RIDGE;
    let (factor, _) = a.f_linalg_cholesky_ex(false, false)?;
    let solved = xt.matmul(&y).f_cholesky_solve(&factor, false)? + w;
    let solved: Vec<f64> = Vec::try_from(solved.squeeze().to_device(tch::Device::Cpu))?;
    let mut coefficients = [0.0; FEATURES];
    coefficients.copy_from_slice(&solved);
    Ok(coefficients)
}

/// Quantiles of actual over mean, by frequency and distance, from forecasts of the past.
fn quantiles(panel: &Panel, until: usize, level: Level, rules: &mut Rules) {
    let mut seen: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for series in panel.learnt(level) {
        for origin in origins(until) {
            for frequency in Frequency::ALL {
                let (usual, _) = frequency.horizons();
                let history = &series.values[origin.saturating_sub(DAYS)..origin];
                let points = rules.periods(level, history, panel.date(origin), frequency, usual, &[]);
                let mut at = origin;
                for (period, point) in points.iter().enumerate() {
                    let length = (frequency.next(point.start) - point.start).num_days().max(1) as usize;
                    if at + length > until {
                        break;
                    }
                    let actual: f64 = series.values[at..at + length].iter().sum();
                    if point.mean > 0.0 {
                        seen.entry(ratio(level, frequency, distance(frequency, period)))
                            .or_default()
                            .push(actual / point.mean);
                    }
                    at += length;
                }
            }
        }
    }
    for (place, mut ratios) in seen {
        ratios.sort_by(f64::total_cmp);
        for (q, stored) in rules.ratios[place].iter_mut().enumerate() {
            let at = (q as f64 + 0.5) / QUANTILES as f64 * ratios.len() as f64;
            *stored = ratios[(at as usize).min(ratios.len() - 1)];
        }
    }
    // A distance without a past of its own is as uncertain as the one before it.
    for frequency in Frequency::ALL {
        for d in 1..DISTANCES {
            let (here, before) = (ratio(level, frequency, d), ratio(level, frequency, d - 1));
            if rules.ratios[here].iter().all(|r| *r == 1.0) {
                rules.ratios[here] = rules.ratios[before];
            }
        }
    }
}

fn panel(lines: &Lines, training: &Training<'_>) -> Result<Panel, LearnError> {
    let panel = Panel::of(lines, training.as_of);
    let found = panel.as_ref().map_or(0, |panel| panel.days as u64);
    panel.filter(|panel| panel.days as u64 >= LEAST_DAYS).ok_or(LearnError::TooLittle {
        model: ModelKind::Forecast,
        what: "days",
        needed: LEAST_DAYS,
        found,
        as_of: training.as_of,
    })
}

impl Learner for Forecast {
    const KIND: ModelKind = ModelKind::Forecast;
    const RECIPES: &'static [&'static str] = &["ridge"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let lines = Lines::of(training)?;
        let panel = panel(&lines, training)?;
        training.progress.begin("train forecast: series", Some(panel.series.len() as u64));
        let rules = learn(&panel, panel.days, training)?;
        let mut history = Vec::with_capacity(panel.series.len() * DAYS);
        for series in &panel.series {
            let recent = &series.values[series.values.len().saturating_sub(DAYS)..];
            history.extend(std::iter::repeat_n(0.0, DAYS - recent.len()));
            history.extend(recent.iter().map(|value| *value as f32));
            training.progress.advance(1);
        }
        training.progress.end();
        let coefficients: Vec<f64> = rules.coefficients.iter().flatten().copied().collect();
        let ratios: Vec<f64> = rules.ratios.iter().flatten().copied().collect();
        let model = TensorFile::new()
            .with("coefficient", &[3, FEATURES], &coefficients)
            .with("ratio", &[3, 3, DISTANCES, QUANTILES], &ratios)
            .with("history", &[panel.series.len(), DAYS], &history);
        let text = |name: &str, of: &dyn Fn(&Daily) -> String| {
            Series::new(name.into(), panel.series.iter().map(of).collect::<Vec<_>>()).into_column()
        };
        let starts: Vec<i64> = panel
            .series
            .iter()
            .map(|s| s.first.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
            .collect();
        let recent = |s: &Daily| s.values[s.values.len().saturating_sub(28)..].iter().sum::<f64>();
        let mut table = DataFrame::new_infer_height(vec![
            text("level", &|s| s.level.as_str().to_owned()),
            text("key", &|s| s.key.clone()),
            text("name", &|s| s.name.clone()),
            Series::new("start".into(), starts).cast(&DataType::Datetime(TimeUnit::Microseconds, None))?.into_column(),
            Series::new("recent_total".into(), panel.series.iter().map(recent).collect::<Vec<_>>()).into_column(),
        ])?;
        Ok(Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
            .file("model.safetensors", model.into_bytes()?)
            .file("series.parquet", parquet(&mut table)?)
            .parameters(&Parameters { calendar: rules.calendar })?
            .trained_on("series", panel.series.len() as u64)
            .trained_on("days", panel.days as u64)
            .finish())
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let lines = Lines::of(training)?;
        let panel = panel(&lines, training)?;
        let from = panel.days.saturating_sub(EVALUATED_DAYS as usize).max(LEAST_DAYS as usize);
        let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
        let mut origin = from;
        // Rules are learnt anew for each origin, from what came before it.
        while origin + AHEAD <= panel.days {
            let rules = learn(&panel, origin, training)?;
            for (name, level, frequency) in [
                ("shop_daily", Level::Total, Frequency::Daily),
                ("country_daily", Level::Country, Frequency::Daily),
                ("shop_weekly", Level::Total, Frequency::Weekly),
                ("product_weekly", Level::Product, Frequency::Weekly),
            ] {
                let of = if level == Level::Country { 8 } else { 200 };
                for series in panel.learnt(level).into_iter().take(of) {
                    tallies.entry(name).or_default().add(&panel, &rules, series, origin, frequency);
                }
            }
            origin += AHEAD / 2;
        }
        let mut metrics = Vec::new();
        for (name, tally) in &tallies {
            metrics.push(Metric::against(format!("wape_{name}"), tally.wape(), tally.naive / tally.actual.max(1e-9)));
            metrics.push(Metric::new(format!("coverage_80_{name}"), tally.covered / tally.points.max(1.0)));
        }
        let empty = Tally::default();
        let shop = tallies.get("shop_daily").unwrap_or(&empty);
        let (ours, naive, coverage) =
            (shop.wape(), shop.naive / shop.actual.max(1e-9), shop.covered / shop.points.max(1.0));
        // The shop's own figure first: it is the one that lists show.
        metrics.sort_by_key(|metric| metric.name != "wape_shop_daily");
        Ok(Evaluation {
            metrics,
            gates: vec![
                Gate {
                    name: "days are forecast better than by the week before".to_owned(),
                    passed: shop.points > 0.0 && ours < naive,
                    detail: format!("WAPE {ours:.3} against {naive:.3}"),
                },
                Gate {
                    name: "intervals mean what they say".to_owned(),
                    passed: (0.5..=0.97).contains(&coverage),
                    detail: format!(
                        "{:.0} % of days lie between the 10 % and 90 % quantiles; 50 to 97 are allowed",
                        coverage * 100.0
                    ),
                },
            ],
        })
    }
}

/// How forecasts compared with what came.
#[derive(Debug, Default)]
struct Tally {
    actual: f64,
    error: f64,
    naive: f64,
    covered: f64,
    points: f64,
}

impl Tally {
    fn wape(&self) -> f64 {
        self.error / self.actual.max(1e-9)
    }

    fn add(&mut self, panel: &Panel, rules: &Rules, series: &Daily, origin: usize, frequency: Frequency) {
        let history = &series.values[origin.saturating_sub(DAYS)..origin];
        let horizon = if frequency == Frequency::Daily { AHEAD } else { AHEAD / 7 };
        let points = rules.periods(series.level, history, panel.date(origin), frequency, horizon, &[0.1, 0.9]);
        let mut at = origin;
        for point in points {
            let length = (frequency.next(point.start) - point.start).num_days().max(1) as usize;
            if at + length > panel.days {
                break;
            }
            let actual: f64 = series.values[at..at + length].iter().sum();
            // The same weekdays of the last week before the origin.
            let naive: f64 = (at..at + length).map(|day| series.values[origin - 7 + (day - origin) % 7]).sum();
            self.actual += actual;
            self.error += (actual - point.mean).abs();
            self.naive += (actual - naive).abs();
            // Closed days are no achievement.
            if point.mean > 0.0 {
                self.points += 1.0;
                self.covered += f64::from(u8::from((point.quantiles[0]..=point.quantiles[1]).contains(&actual)));
            }
            at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weekday_without_sales_is_closed_and_so_is_christmas() {
        let start: NaiveDate = "2010-12-01".parse().unwrap();
        let closed = |day: NaiveDate| {
            day.weekday().num_days_from_monday() == 5
                || (day.month(), day.day()) == (12, 25)
                || (day.month(), day.day()) == (12, 27)
        };
        let total: Vec<f64> = (0..120).map(|at| if closed(start + Days::new(at)) { 0.0 } else { 100.0 }).collect();
        // 25 December 2010 was a Saturday already.
        assert_eq!(calendar(&total, start), Calendar { closed_weekdays: vec![5], closed_days: vec![(12, 27)] });
    }
}
