//! Forecast: what will sell. The shop's revenue and its countries' by day, products' units by
//! week; each by a regression that is global over its series together with a smoothing of the
//! series itself (see [`revenue`] and [`units`]), on the days on which the shop is open, with what
//! last year's season does to the level ([`calendar`]).
//!
//! In: the days of the shop and its countries, the weeks of products. Out: a mean for each day
//! ahead, 0 or more and 0 on closed days; weeks and months are sums of their days, countries add up
//! to the shop; quantiles are the mean plus the quantiles of what forecasts of the past erred by
//! ([`spread`]).
//!
//! `model.safetensors`: `revenue_rule` `[FEATURES + 1]` f64, weights and intercept, `pieces_rule`
//! alike, `revenue` `[shop and countries, days]` f32, `pieces` `[products, weeks]` f32,
//! `revenue_error` `[shop and countries, frequencies, levels]` f64, `revenue_usual` `[shop and
//! countries]` f64, `pieces_error` `[frequencies, steadiness, halves, levels]` f64, `pieces_edge`
//! `[steadiness - 1]` f64. `series.parquet`: `level`, `key`, `name`, `start`, `recent_total`; shop,
//! countries and products in this order.

pub mod calendar;
mod linear;
pub mod revenue;
pub mod smoothing;
pub mod spread;
pub mod units;

use std::{collections::HashMap, sync::OnceLock};

use chrono::{Datelike, Days, Months, NaiveDate};
use serde::{Deserialize, Serialize};

pub use self::linear::Linear;

use self::{
    calendar::{Calendar, Shop},
    spread::{LEVELS, Spread},
    units::Outlook,
};
use crate::{Artifact, Model, ModelError, ModelKind, Table, Tensors};

/// Days of history that a forecast looks at.
pub const DAYS: usize = 728;

/// Days ahead that the backtest covers. Farther days are less certain, by the root of the time.
pub const JUDGED: usize = 56;

/// Groups of products with errors of their own, from steady to unsteady.
pub const STEADINESS: usize = 5;

/// Days of the first half of the backtest, which has errors of its own.
pub const HALF: usize = JUDGED / 2;

/// Days ahead that can be asked for: 53 weeks, or 12 months.
const AHEAD: usize = 372;

/// Greatest value of a period in a history of the caller's own, so that squares and sums of values
/// stay finite.
pub const MOST_VALUE: f64 = 1e15;

/// What a series is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Revenue of the shop.
    Total,
    /// Revenue of a country.
    Country,
    /// Units of a product.
    Product,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Total, Self::Country, Self::Product];

    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Country => "country",
            Self::Product => "product",
        }
    }
}

/// Length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequency {
    /// Days.
    Daily,
    /// Weeks from Monday.
    Weekly,
    /// Calendar months.
    Monthly,
}

impl Frequency {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Daily, Self::Weekly, Self::Monthly];

    /// Periods by default, and the most.
    pub const fn horizons(self) -> (usize, usize) {
        match self {
            Self::Daily => (28, 366),
            Self::Weekly => (8, 53),
            Self::Monthly => (3, 12),
        }
    }

    /// The first day of the period after the one that holds `day`.
    pub fn next(self, day: NaiveDate) -> NaiveDate {
        let begin = self.begin(day);
        match self {
            Self::Daily => begin + Days::new(1),
            Self::Weekly => begin + Days::new(7),
            Self::Monthly => begin + Months::new(1),
        }
    }

    /// The first day of the period before the one that holds `day`.
    fn before(self, day: NaiveDate) -> NaiveDate {
        self.begin(self.begin(day) - Days::new(1))
    }

    /// The first day of the period that holds `day`.
    pub fn begin(self, day: NaiveDate) -> NaiveDate {
        match self {
            Self::Daily => day,
            Self::Weekly => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
            Self::Monthly => day - Days::new(u64::from(day.day0())),
        }
    }

    /// Days of a period in the backtest; a month is four weeks there.
    pub const fn days(self) -> usize {
        match self {
            Self::Daily => 1,
            Self::Weekly => 7,
            Self::Monthly => 28,
        }
    }
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// When the shop is closed.
    pub calendar: Calendar,
    /// What part of a week's units a weekday sells, from Monday.
    pub share: [f64; 7],
    /// How the shop has grown, see [`units::growth`].
    pub growth: [f64; 4],
}

/// A series that can be forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is about.
    pub level: Level,
    /// Country or stock code; empty for the shop.
    pub key: Box<str>,
    /// The same for people.
    pub name: Box<str>,
    /// Its first day with a sale.
    pub start: NaiveDate,
    /// Its sum over the last 28 days.
    pub recent_total: f64,
    /// Place among the series of revenue, or among those of units.
    row: usize,
}

/// A period ahead.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Its first day.
    pub start: NaiveDate,
    /// Expected sales.
    pub mean: f64,
    /// The quantiles asked for.
    pub quantiles: Vec<f64>,
}

/// Revenue of the shop or a country.
#[derive(Debug)]
struct Revenue {
    /// By day.
    history: Vec<f64>,
    /// By day ahead.
    means: Vec<f64>,
    /// By frequency.
    spreads: [Spread; 3],
    /// Reasons of its forecasts, computed at the first request.
    reasons: OnceLock<Vec<String>>,
}

/// Forecasts of a series of the past by rules learnt before it, and what was sold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backtest {
    /// What it is about.
    pub level: Level,
    /// The country; empty for the shop.
    pub key: String,
    /// Days, or weeks that start with a forecast.
    pub frequency: Frequency,
    /// In time order.
    pub points: Vec<BacktestPoint>,
}

/// A period of the past.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BacktestPoint {
    /// Its first day.
    pub start: NaiveDate,
    /// What was sold.
    pub actual: f64,
    /// What was forecast.
    pub mean: f64,
    /// The 10 % and 90 % quantiles.
    pub range: [f64; 2],
}

/// The model.
#[derive(Debug)]
pub struct ForecastModel {
    backtests: Vec<Backtest>,
    shop: Shop,
    revenue_rule: Linear,
    units_rule: Linear,
    share: [f64; 7],
    growth: [f64; 4],
    revenue: Vec<Revenue>,
    /// By product, week by week.
    units: Vec<Vec<f32>>,
    /// By frequency, steadiness and half, flat.
    units_spreads: Vec<Spread>,
    /// Unsteadiness at which one group ends and the next begins.
    units_edges: Vec<f64>,
    /// The shop, then countries, then products; within a level the largest first.
    series: Vec<Series>,
    places: HashMap<(Level, Box<str>), usize>,
}

fn rule(tensors: &Tensors<'_>, name: &str, features: usize) -> Result<Linear, ModelError> {
    let mut weights: Vec<f64> = tensors.get(name, &[features + 1])?;
    let intercept = weights.pop().unwrap_or_default();
    Ok(Linear { weights, intercept })
}

/// The rules for revenue and for units.
fn rules(tensors: &Tensors<'_>) -> Result<(Linear, Linear), ModelError> {
    let revenue = rule(tensors, "revenue_rule", revenue::FEATURES)?;
    let units = rule(tensors, "pieces_rule", units::FEATURES)?;
    let is_finite = |rule: &Linear| {
        rule.weights
            .iter()
            .chain([&rule.intercept])
            .all(|x| x.is_finite())
    };
    match is_finite(&revenue) && is_finite(&units) {
        true => Ok((revenue, units)),
        false => Err(ModelError::inconsistent(
            "revenue_rule",
            "or pieces_rule is not finite",
        )),
    }
}

/// The series in the order of the table.
fn series(table: &Table) -> Result<Vec<Series>, ModelError> {
    let (levels, keys) = (table.text("level")?, table.text("key")?);
    let names = table.text("name")?;
    let (starts, totals) = (table.time("start")?, table.float("recent_total")?);
    let one = |row: usize| {
        let level = Level::ALL
            .into_iter()
            .find(|level| level.as_str() == &*levels[row]);
        Ok(Series {
            level: level.ok_or_else(|| {
                ModelError::inconsistent("level", format!("is unknown in row {row}"))
            })?,
            key: keys[row].clone(),
            name: names[row].clone(),
            start: starts[row].date(),
            recent_total: totals[row],
            row,
        })
    };
    (0..table.rows()).map(one).collect()
}

/// Numbers the series of units from 0, as those of revenue before them, and returns how many there
/// are of revenue.
fn number_by_kind(series: &mut [Series]) -> Result<usize, ModelError> {
    let of_revenue = series
        .iter()
        .take_while(|series| series.level != Level::Product)
        .count();
    let is_placed = |(row, series): (usize, &Series)| match series.level {
        Level::Total => row == 0,
        Level::Country => row > 0 && row < of_revenue,
        Level::Product => row >= of_revenue,
    };
    if of_revenue == 0 || !series.iter().enumerate().all(is_placed) {
        return Err(ModelError::inconsistent(
            "level",
            "is not in order, the shop first",
        ));
    }
    for (row, series) in series[of_revenue..].iter_mut().enumerate() {
        series.row = row;
    }
    Ok(of_revenue)
}

/// Rows of errors, each in order.
fn errors(
    tensors: &Tensors<'_>,
    name: &'static str,
    shape: &[usize],
) -> Result<Vec<Spread>, ModelError> {
    let flat: Vec<f64> = tensors.get(name, shape)?;
    let spread = |row: &[f64]| {
        let mut errors = [0.0; LEVELS.len()];
        errors.copy_from_slice(row);
        let ordered = errors.is_sorted() && errors.iter().all(|error| error.is_finite());
        ordered
            .then_some(Spread { errors, usual: 0.0 })
            .ok_or_else(|| ModelError::inconsistent(name, "is not in order"))
    };
    flat.chunks(LEVELS.len()).map(spread).collect()
}

impl Model for ForecastModel {
    const KIND: ModelKind = ModelKind::Forecast;

    #[expect(
        clippy::too_many_lines,
        reason = "the tensors are read and checked against each other, and forecast from, in order"
    )]
    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let Parameters {
            calendar,
            share,
            growth,
        } = artifact.parameters()?;
        let tensors = artifact.tensors("model.safetensors")?;
        let (revenue_rule, units_rule) = rules(&tensors)?;
        let mut series = series(&artifact.table("series.parquet")?)?;
        let of_revenue = number_by_kind(&mut series)?;

        let ([_, days], [_, weeks]) = (tensors.shape("revenue")?, tensors.shape("pieces")?);
        let revenue: Vec<f32> = tensors.get("revenue", &[of_revenue, days])?;
        let units: Vec<f32> = tensors.get("pieces", &[series.len() - of_revenue, weeks])?;
        let usual: Vec<f64> = tensors.get("revenue_usual", &[of_revenue])?;
        if revenue.iter().chain(&units).any(|value| !value.is_finite())
            || usual.iter().any(|usual| !usual.is_finite())
        {
            return Err(ModelError::inconsistent(
                "revenue",
                "or pieces is not finite",
            ));
        }
        if days == 0 || weeks == 0 {
            return Err(ModelError::inconsistent(
                "revenue",
                "or pieces has no history",
            ));
        }
        let revenue_spreads = errors(&tensors, "revenue_error", &[of_revenue, 3, LEVELS.len()])?;
        let units_spreads = errors(&tensors, "pieces_error", &[3, STEADINESS, 2, LEVELS.len()])?;
        let units_edges: Vec<f64> = tensors.get("pieces_edge", &[STEADINESS - 1])?;

        let histories: Vec<Vec<f64>> = revenue
            .chunks(days)
            .map(|row| row.iter().map(|value| f64::from(*value)).collect())
            .collect();
        let shop = Shop::with(calendar, &histories[0], artifact.manifest().as_of.date());
        let slices: Vec<&[f64]> = histories.iter().map(Vec::as_slice).collect();
        let means = revenue::forecast(&revenue_rule, &shop, &slices, AHEAD);
        let spreads = revenue_spreads
            .chunks(Frequency::ALL.len())
            .zip(usual)
            .map(|(of, usual)| [Spread { usual, ..of[0] }, of[1], of[2]]);
        let revenue =
            histories
                .into_iter()
                .zip(means)
                .zip(spreads)
                .map(|((history, means), spreads)| Revenue {
                    history,
                    means,
                    spreads,
                    reasons: OnceLock::new(),
                });
        let revenue = revenue.collect();

        series.sort_by(|a, b| {
            a.level
                .cmp(&b.level)
                .then(b.recent_total.total_cmp(&a.recent_total))
                .then_with(|| a.key.cmp(&b.key))
        });
        let places = series
            .iter()
            .enumerate()
            .map(|(at, series)| ((series.level, series.key.clone()), at))
            .collect();
        let units = units.chunks(weeks).map(<[f32]>::to_vec).collect();
        Ok(Self {
            backtests: artifact.backtest()?,
            shop,
            revenue_rule,
            units_rule,
            share,
            growth,
            revenue,
            units,
            units_spreads,
            units_edges,
            series,
            places,
        })
    }
}

impl ForecastModel {
    /// How a series was forecast in the backtest; `None` if the backtest has not kept the series.
    pub fn backtest(&self, series: &Series, frequency: Frequency) -> Option<&Backtest> {
        let of =
            |backtest: &&Backtest| backtest.level == series.level && *backtest.key == *series.key;
        self.backtests
            .iter()
            .filter(of)
            .find(|backtest| backtest.frequency == frequency)
    }

    /// All series, the largest of a level first.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// A series; the shop's has no key.
    pub fn find(&self, level: Level, key: &str) -> Option<&Series> {
        self.places
            .get(&(level, Box::from(key.trim())))
            .and_then(|at| self.series.get(*at))
    }

    fn outlook(&self, series: &Series) -> Outlook {
        let weeks: Vec<f64> = self.units[series.row]
            .iter()
            .map(|value| f64::from(*value))
            .collect();
        Outlook::of(
            &self.units_rule,
            &units::tame(weeks),
            self.growth,
            |ahead| self.shop.season(ahead),
        )
    }

    /// Periods from the as-of day on; one that has begun is forecast from its first day ahead.
    pub fn forecast(
        &self,
        series: &Series,
        frequency: Frequency,
        horizon: usize,
        levels: &[f64],
    ) -> Vec<Point> {
        let end = self.shop.end;
        if series.level != Level::Product {
            let revenue = &self.revenue[series.row];
            return periods(&revenue.means, end, frequency, horizon)
                .into_iter()
                .map(|period| period.around(&revenue.spreads[frequency as usize], levels))
                .collect();
        }
        let outlook = self.outlook(series);
        let group = self
            .units_edges
            .partition_point(|edge| *edge < outlook.unsteady);
        periods(
            &outlook.days(&self.shop, &self.share, AHEAD),
            end,
            frequency,
            horizon,
        )
        .into_iter()
        .map(|period| {
            let half = usize::from(period.away >= HALF);
            let spread = &self.units_spreads[units_place(frequency, group, half)];
            let scale = period.mean.max(outlook.floor * period.days as f64 / 7.0);
            let quantile = |level: &f64| {
                (period.mean + scale * period.wider() * spread.error(*level)).max(0.0)
            };
            let quantiles = levels
                .iter()
                .map(|level| {
                    if period.mean > 0.0 {
                        quantile(level)
                    } else {
                        0.0
                    }
                })
                .collect();
            Point {
                start: period.start,
                mean: period.mean,
                quantiles,
            }
        })
        .collect()
    }

    /// Periods after a history of the caller's own, which has no gaps. Its calendar is learnt from
    /// its days. Its quantiles come from forecasts of its own past, or from the shop's if it is too
    /// short.
    pub fn continue_history(
        &self,
        history: &[(NaiveDate, f64)],
        frequency: Frequency,
        horizon: usize,
        levels: &[f64],
    ) -> Vec<Point> {
        let Some((last, _)) = history.last() else {
            return Vec::new();
        };
        let end = frequency.next(*last);
        let values: Vec<f64> = history[history.len().saturating_sub(DAYS)..]
            .iter()
            .map(|(_, value)| *value)
            .collect();
        // Forecast origins are two steps apart, and each covers four.
        let (step, least) = match frequency {
            Frequency::Daily => (7, 84),
            Frequency::Weekly => (1, 13),
            Frequency::Monthly => (1, 8),
        };
        let ahead = |past: &[f64], horizon: usize| {
            let end = (past.len()..values.len()).fold(end, |end, _| frequency.before(end));
            self.own(past, end, frequency, horizon)
        };
        let (mut means, mut actual) = (Vec::new(), Vec::new());
        for back in (0..8).map(|back| 4 * step + 2 * step * back) {
            let Some(origin) = values
                .len()
                .checked_sub(back)
                .filter(|origin| *origin >= least)
            else {
                break;
            };
            means.extend(ahead(&values[..origin], 4 * step));
            actual.extend_from_slice(&values[origin..origin + 4 * step]);
        }
        let shops = self.revenue[0].spreads[frequency as usize];
        let lumpy = smoothing::is_lumpy(&values);
        let own = match frequency {
            Frequency::Daily => Spread::of(&means, &actual, lumpy),
            Frequency::Weekly | Frequency::Monthly => Spread::relative(&means, &actual, lumpy),
        };
        let usual = if shops.usual > 0.0 {
            smoothing::mean(&values)
        } else {
            0.0
        };
        let spread = own.unwrap_or(Spread { usual, ..shops });
        let mut start = end;
        let mut points = Vec::with_capacity(horizon);
        for (at, mean) in ahead(&values, horizon).into_iter().enumerate() {
            let period = Period {
                start,
                mean,
                days: frequency.days(),
                away: at * frequency.days(),
            };
            points.push(period.around(&spread, levels));
            start = frequency.next(start);
        }
        points
    }

    /// Means of the periods from `end` on, after values of the caller's own.
    fn own(&self, past: &[f64], end: NaiveDate, frequency: Frequency, horizon: usize) -> Vec<f64> {
        match frequency {
            Frequency::Daily => {
                let shop = Shop::of(past, end);
                revenue::forecast(&self.revenue_rule, &shop, &[past], horizon).swap_remove(0)
            }
            Frequency::Weekly => {
                let tame = units::tame(past.to_vec());
                let outlook =
                    Outlook::of(&self.units_rule, &tame, units::growth(past, past), |_| 0.0);
                (0..horizon)
                    .map(|week| outlook.weeks[week.min(units::WEEKS - 1)])
                    .collect()
            }
            Frequency::Monthly => {
                let level = smoothing::smoothed(past);
                let grown = past.len().checked_sub(15).map_or(1.0, |from| {
                    let (before, now) = (
                        smoothing::mean(&past[from..from + 3]),
                        smoothing::mean(&past[from + 12..]),
                    );
                    if before > 0.0 {
                        (now / before).clamp(0.5, 2.0)
                    } else {
                        1.0
                    }
                });
                let month = |ahead: usize| match past.len().checked_sub(12) {
                    // The mean of the level now and of the same month last year, which is scaled by
                    // the growth since.
                    Some(year) if past.len() >= 15 => {
                        (level + past[year + ahead % 12] * grown) / 2.0
                    }
                    _ => level,
                };
                (0..horizon).map(month).collect()
            }
        }
    }

    /// The reasons of a forecast, in words.
    pub fn reasons(&self, series: &Series) -> Vec<String> {
        match series.level {
            Level::Total | Level::Country => self.revenue[series.row]
                .reasons
                .get_or_init(|| self.find_reasons(series))
                .clone(),
            Level::Product => self.find_reasons(series),
        }
    }

    fn find_reasons(&self, series: &Series) -> Vec<String> {
        let of_series = match series.level {
            Level::Product => self.unit_reasons(series),
            Level::Total | Level::Country => self.revenue_reasons(series),
        };
        let Some(mut reasons) = of_series else {
            return vec!["nothing was sold in the history that the model looks at".to_owned()];
        };
        let season = self.shop.season(JUDGED).exp();
        if (season - 1.0).abs() >= 0.02 {
            reasons.push(format!(
                "last year's season puts the shop {} today's level in 8 weeks",
                percent(season)
            ));
        }
        for weekday in &self.shop.calendar.closed_weekdays {
            reasons.push(format!("closed on {}", WEEKDAYS[*weekday as usize % 7]));
        }
        reasons
    }

    /// `None` if nothing was sold.
    fn unit_reasons(&self, series: &Series) -> Option<Vec<String>> {
        let weeks = self.units[series.row].iter();
        let weeks: Vec<f64> = weeks.map(|value| f64::from(*value)).collect();
        if weeks.iter().all(|value| *value <= 0.0) {
            return None;
        }
        let mut reasons = Vec::from_iter(trend(recent(&weeks, 4), recent(&weeks, 16)));
        let last = &weeks[weeks.len().saturating_sub(8)..];
        let idle = last.iter().filter(|value| **value <= 0.0).count();
        if idle > 0 {
            reasons.push(format!("{idle} of the last 8 weeks sold nothing"));
        }
        Some(reasons)
    }

    /// `None` if nothing was sold.
    fn revenue_reasons(&self, series: &Series) -> Option<Vec<String>> {
        let open = revenue::open_days(&self.shop, &self.revenue[series.row].history);
        if open.iter().all(|value| *value <= 0.0) {
            return None;
        }
        let week = self.shop.calendar.week();
        let trend = trend(recent(&open, 4 * week), recent(&open, 16 * week));
        let mut reasons = Vec::from_iter(trend);
        let levels = revenue::Recent::of(&open, &self.shop.weekdays, week);
        let known = (0..7).filter(|weekday| self.shop.weekdays.contains(weekday));
        let best = known.max_by(|a, b| levels.weekday(*a).total_cmp(&levels.weekday(*b)));
        if let Some(best) = best {
            let usual = recent(&open, 8 * week).max(f64::MIN_POSITIVE);
            reasons.push(format!(
                "{} are the strongest days, {} the average",
                WEEKDAYS[best],
                percent(levels.weekday(best) * levels.level / usual)
            ));
        }
        Some(reasons)
    }
}

const WEEKDAYS: [&str; 7] = [
    "Mondays",
    "Tuesdays",
    "Wednesdays",
    "Thursdays",
    "Fridays",
    "Saturdays",
    "Sundays",
];

/// A ratio in words: `12 % above`.
fn percent(ratio: f64) -> String {
    let side = if ratio < 1.0 { "below" } else { "above" };
    format!("{:.0} % {side}", (ratio - 1.0).abs() * 100.0)
}

/// The mean of the last `n` values.
fn recent(values: &[f64], n: usize) -> f64 {
    smoothing::mean(&values[values.len().saturating_sub(n)..])
}

/// How the last 4 weeks compare with the last 16.
fn trend(recent: f64, usual: f64) -> Option<String> {
    (usual > 0.0).then(|| {
        let ratio = percent(recent / usual);
        format!("the last 4 weeks are {ratio} the last 16")
    })
}

/// Place of the errors of a group of products.
pub fn units_place(frequency: Frequency, group: usize, half: usize) -> usize {
    (frequency as usize * STEADINESS + group.min(STEADINESS - 1)) * 2 + half
}

/// A period ahead and its mean.
#[derive(Debug, Clone, PartialEq)]
struct Period {
    start: NaiveDate,
    mean: f64,
    days: usize,
    /// Days from the end of history to its start.
    away: usize,
}

impl Period {
    /// How much wider errors are than those of the backtest.
    fn wider(&self) -> f64 {
        (self.away as f64 / JUDGED as f64).max(1.0).sqrt()
    }

    fn around(&self, spread: &Spread, levels: &[f64]) -> Point {
        let spread = spread.widened(self.wider());
        let quantiles = levels
            .iter()
            .map(|level| spread.around(self.mean, *level))
            .collect();
        Point {
            start: self.start,
            mean: self.mean,
            quantiles,
        }
    }
}

/// Sums of days from `end` on; a period that has begun has only its days ahead.
fn periods(days: &[f64], end: NaiveDate, frequency: Frequency, horizon: usize) -> Vec<Period> {
    let at = |day: NaiveDate| ((day - end).num_days().max(0) as usize).min(days.len());
    let mut start = end;
    let mut periods = Vec::with_capacity(horizon);
    for _ in 0..horizon {
        let next = frequency.next(start);
        let (from, to) = (at(start), at(next));
        periods.push(Period {
            start,
            mean: days[from..to].iter().sum(),
            days: to - from,
            away: from,
        });
        start = next;
    }
    periods
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn weeks_and_months_begin_where_people_say() {
        for (frequency, of, begin, next) in [
            (Frequency::Daily, "2011-09-01", "2011-09-01", "2011-09-02"),
            (Frequency::Weekly, "2011-09-01", "2011-08-29", "2011-09-05"),
            (Frequency::Monthly, "2011-12-31", "2011-12-01", "2012-01-01"),
        ] {
            assert_eq!(
                (frequency.begin(day(of)), frequency.next(day(of))),
                (day(begin), day(next))
            );
        }
    }

    #[test]
    fn a_period_that_has_begun_has_its_days_ahead_and_far_ones_are_wider() {
        // A Thursday.
        let weeks = periods(&[1.0; 372], day("2011-09-01"), Frequency::Weekly, 53);
        assert_eq!(
            (weeks[0].days, weeks[0].mean, weeks[1].start),
            (4, 4.0, day("2011-09-05"))
        );
        assert_eq!((weeks[8].away, weeks[8].wider()), (53, 1.0));
        assert!(
            weeks[52].days == 7 && (weeks[52].wider() - (361.0_f64 / 56.0).sqrt()).abs() < 1e-12
        );
        let months = periods(&[1.0; 372], day("2011-12-31"), Frequency::Monthly, 12);
        assert_eq!(
            (months[0].days, months[1].days, months[11].days),
            (1, 31, 30)
        );
    }

    /// A shop of a year and four months without a regression, that sold the same each day.
    fn model() -> ForecastModel {
        let total = vec![10.0; 480];
        let shop = Shop::of(&total, day("2012-04-01"));
        let flat = |width: usize, at: usize, intercept: f64| {
            let mut weights = vec![0.0; width];
            weights[at] = 1.0;
            Linear { weights, intercept }
        };
        let spread = Spread {
            errors: LEVELS.map(|level| level - 0.5),
            usual: 0.0,
        };
        ForecastModel {
            backtests: Vec::new(),
            revenue_rule: flat(revenue::FEATURES, 3, 0.0),
            units_rule: flat(units::FEATURES, 3, 0.0),
            share: [1.0 / 7.0; 7],
            growth: [0.0; 4],
            revenue: vec![Revenue {
                means: vec![10.0; AHEAD],
                history: total,
                spreads: [spread; 3],
                reasons: OnceLock::new(),
            }],
            units: Vec::new(),
            units_spreads: Vec::new(),
            units_edges: Vec::new(),
            series: Vec::new(),
            places: HashMap::new(),
            shop,
        }
    }

    #[test]
    fn a_history_of_ones_own_is_continued_with_errors_of_its_own() {
        let model = model();
        let end = day("2012-03-05");
        let weeks: Vec<(NaiveDate, f64)> = (0..40)
            .map(|back| {
                (
                    end - Days::new(7 * (40 - back)),
                    if back % 2 == 0 { 80.0 } else { 120.0 },
                )
            })
            .collect();
        let points = model.continue_history(&weeks, Frequency::Weekly, 3, &[0.1, 0.9]);
        assert_eq!(
            points.iter().map(|point| point.start).collect::<Vec<_>>(),
            [0, 7, 14].map(|at| end + Days::new(at))
        );
        assert!(
            points
                .iter()
                .all(|point| (point.mean - 100.0).abs() < 10.0 && point.quantiles[0] < 90.0),
            "{points:?}"
        );
        // Twelve weeks are too short to be judged: the shop's errors.
        let short = model.continue_history(&weeks[28..], Frequency::Weekly, 1, &[0.9]);
        assert!(
            (short[0].quantiles[0] / short[0].mean - 1.4).abs() < 1e-9,
            "{short:?}"
        );
        let months: Vec<(NaiveDate, f64)> = (0..27)
            .map(|at| {
                (
                    day("2010-01-01") + Months::new(at),
                    if (at + 1) % 12 == 0 { 300.0 } else { 100.0 },
                )
            })
            .collect();
        let points = model.continue_history(&months, Frequency::Monthly, 12, &[0.5]);
        assert!(
            points[8].mean > 1.5 * points[0].mean,
            "December stands out: {points:?}"
        );
    }

    proptest! {
        #[test]
        fn forecasts_are_finite_ordered_and_not_below_zero(
            history in prop::collection::vec(0.0..=1.0_f64, 8..300),
            largest in prop::sample::select(vec![1e-300, 1.0, 1e9, MOST_VALUE]),
            frequency in 0..3_usize,
            offset in 0..400_u64,
        ) {
            let frequency = Frequency::ALL[frequency];
            let mut at = frequency.begin(day("2011-01-01") + Days::new(offset));
            let history: Vec<(NaiveDate, f64)> = history.into_iter().map(|value| {
                let here = at;
                at = frequency.next(at);
                (here, value * largest)
            }).collect();
            let points = model().continue_history(&history, frequency, 30, &[0.05, 0.5, 0.95]);
            prop_assert_eq!(points.len(), 30);
            for point in points {
                prop_assert!(point.mean.is_finite() && point.mean >= 0.0);
                prop_assert!(point.quantiles.is_sorted() && point.quantiles[0] >= 0.0);
                prop_assert!(point.quantiles.iter().all(|quantile| quantile.is_finite()));
            }
        }
    }
}
