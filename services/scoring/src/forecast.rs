//! Forecast: what will sell. One linear model for each level (shop, country, product), global over its series, on each
//! series' own scale: recent levels, the weekday's level, weekday and season; fitted by ridge regression (Hoerl and
//! Kennard 1970) on rolling origins.
//!
//! In: a series of days without gaps, and the days on which the shop is closed. Out: a mean for each day ahead, 0 or more
//! and 0 on closed days; weeks and months are sums of their days; quantiles are the mean times the quantiles that actual
//! sales had relative to the mean on rolling origins (Koenker's empirical quantiles), by frequency and distance.
//!
//! `model.safetensors`: `coefficient` `[levels, FEATURES]` f64, `ratio` `[levels, frequencies, distances, QUANTILES]` f64,
//! `history` `[series, DAYS]` f32, the last days of each series. `series.parquet`: `level`, `key`, `name`, `start`,
//! `recent_total`.

use std::collections::HashMap;

use chrono::{Datelike, Days, Months, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::{Artifact, Model, ModelError, ModelKind};

/// Days of a series that a forecast looks at.
pub const DAYS: usize = 112;

/// Features of a day ahead.
pub const FEATURES: usize = 16;

/// Quantiles that are stored of actual sales relative to their mean: 0.025, 0.075, ... 0.975.
pub const QUANTILES: usize = 20;

/// Distances with quantiles of their own: first eighth of the longest usual horizon, first half, beyond.
pub const DISTANCES: usize = 3;

/// What a series is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Revenue of the shop.
    Total,
    /// Revenue of a country.
    Country,
    /// Pieces of a product.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

    /// Periods when the caller does not say, and the most.
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

    /// The first day of the period that holds `day`.
    pub fn begin(self, day: NaiveDate) -> NaiveDate {
        match self {
            Self::Daily => day,
            Self::Weekly => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
            Self::Monthly => day - Days::new(u64::from(day.day0())),
        }
    }

    fn distance(self, period: usize) -> usize {
        let (usual, _) = self.horizons();
        if period * 8 < usual {
            0
        } else if period * 2 < usual {
            1
        } else {
            2
        }
    }
}

/// When the shop is closed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calendar {
    /// Weekdays without sales, 0 Monday to 6 Sunday.
    pub closed_weekdays: Vec<u32>,
    /// Days of the year without sales, month and day.
    pub closed_days: Vec<(u32, u32)>,
}

impl Calendar {
    /// Whether the shop sells on a day.
    pub fn is_open(&self, day: NaiveDate) -> bool {
        !self.closed_weekdays.contains(&day.weekday().num_days_from_monday())
            && !self.closed_days.contains(&(day.month(), day.day()))
    }
}

/// A series' state at the end of its history, from which all days ahead are forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Mean of the open days of the last eight weeks, above 0; all else is relative to it.
    pub scale: f64,
    recent: [f64; 4],
    by_weekday: [f64; 7],
}

impl State {
    /// From the days up to, not including, `end`, the oldest first. `None` where nothing was sold in all of them.
    pub fn of(history: &[f64], end: NaiveDate, calendar: &Calendar) -> Option<Self> {
        let start = end.checked_sub_days(Days::new(history.len() as u64))?;
        let days = history.iter().enumerate().map(|(at, value)| (start + Days::new(at as u64), value.max(0.0)));
        let open: Vec<(NaiveDate, f64)> = days.filter(|(day, _)| calendar.is_open(*day)).collect();
        let mean_since = |days: u64, weekday: Option<u32>| {
            let from = end - Days::new(days);
            let values = open
                .iter()
                .filter(|(day, _)| *day >= from && weekday.is_none_or(|w| day.weekday().num_days_from_monday() == w));
            let (sum, n) = values.fold((0.0, 0_u32), |(sum, n), (_, value)| (sum + value, n + 1));
            (n > 0).then(|| sum / f64::from(n))
        };
        let scale = [56, DAYS as u64].into_iter().find_map(|days| mean_since(days, None).filter(|mean| *mean > 0.0))?;
        let relative = |days, weekday| mean_since(days, weekday).map_or(1.0, |mean| mean / scale);
        let recent = [7, 14, 28, DAYS as u64].map(|days| relative(days, None));
        let by_weekday = [0, 1, 2, 3, 4, 5, 6].map(|weekday| relative(56, Some(weekday)));
        Some(Self { scale, recent, by_weekday })
    }

    /// Features of a day, `ahead` days after the end of the history, 1 the first.
    pub fn features(&self, day: NaiveDate, ahead: usize) -> [f64; FEATURES] {
        let weekday = day.weekday().num_days_from_monday() as usize;
        let far = (ahead as f64 / 28.0).min(3.0);
        let season = std::f64::consts::TAU * f64::from(day.ordinal0()) / 365.25;
        let mut x = [0.0; FEATURES];
        x[..4].copy_from_slice(&self.recent);
        x[4] = self.by_weekday[weekday];
        x[5] = self.recent[0] * far;
        x[6] = far;
        x[7 + weekday] = 1.0;
        x[14] = season.sin();
        x[15] = season.cos();
        x
    }
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// When the shop is closed.
    pub calendar: Calendar,
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
    history: Vec<f64>,
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

/// Coefficients and quantiles, without series: what a forecast of any history needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// When the shop is closed.
    pub calendar: Calendar,
    /// By level.
    pub coefficients: [[f64; FEATURES]; 3],
    /// By level, frequency, distance: quantiles of actual over mean.
    pub ratios: Vec<[f64; QUANTILES]>,
}

impl Rules {
    /// Means of the days from `end` on.
    pub fn days(&self, level: Level, history: &[f64], end: NaiveDate, days: usize) -> Vec<f64> {
        self.days_with(level, history, end, days, &self.calendar)
    }

    fn days_with(&self, level: Level, history: &[f64], end: NaiveDate, days: usize, calendar: &Calendar) -> Vec<f64> {
        let Some(state) = State::of(history, end, calendar) else { return vec![0.0; days] };
        let coefficients = &self.coefficients[level as usize];
        let mean = |ahead: usize| {
            let day = end + Days::new(ahead as u64);
            if !calendar.is_open(day) {
                return 0.0;
            }
            let x = state.features(day, ahead + 1);
            // Nothing is believed that is ten times what the series has been.
            state.scale * x.iter().zip(coefficients).map(|(x, c)| x * c).sum::<f64>().clamp(0.0, 10.0)
        };
        (0..days).map(mean).collect()
    }

    /// Periods from `end` on; a period that has begun is forecast from its first day ahead.
    pub fn periods(
        &self,
        level: Level,
        history: &[f64],
        end: NaiveDate,
        frequency: Frequency,
        horizon: usize,
        quantiles: &[f64],
    ) -> Vec<Point> {
        let mut bounds = vec![end];
        for _ in 0..horizon {
            bounds.push(frequency.next(bounds[bounds.len() - 1]));
        }
        let total = (bounds[horizon] - end).num_days().max(0) as usize;
        let days = self.days(level, history, end, total);
        let at = |day: NaiveDate| (day - end).num_days().max(0) as usize;
        let means = bounds.windows(2).map(|pair| (pair[0], days[at(pair[0])..at(pair[1])].iter().sum::<f64>()));
        means
            .enumerate()
            .map(|(period, (start, mean))| self.point(level, frequency, period, start, mean, quantiles))
            .collect()
    }

    fn point(
        &self,
        level: Level,
        frequency: Frequency,
        period: usize,
        start: NaiveDate,
        mean: f64,
        quantiles: &[f64],
    ) -> Point {
        let ratios = &self.ratios[ratio(level, frequency, frequency.distance(period))];
        Point { start, mean, quantiles: quantiles.iter().map(|q| mean * quantile(ratios, *q)).collect() }
    }

    /// Periods after a caller's own history: its periods are spread over the days of an all-week calendar and taken
    /// together again.
    pub fn continue_history(
        &self,
        history: &[(NaiveDate, f64)],
        frequency: Frequency,
        horizon: usize,
        quantiles: &[f64],
    ) -> Vec<Point> {
        let Some((last, _)) = history.last() else { return Vec::new() };
        let end = frequency.next(*last);
        if frequency == Frequency::Daily {
            let values: Vec<f64> = history.iter().map(|(_, value)| *value).collect();
            let own = own_calendar(&values, end);
            let days = self.days_with(Level::Total, &values[values.len().saturating_sub(DAYS)..], end, horizon, &own);
            let point = |(at, mean): (usize, f64)| {
                self.point(Level::Total, frequency, at, end + Days::new(at as u64), mean, quantiles)
            };
            return days.into_iter().enumerate().map(point).collect();
        }
        // Weeks and months have no weekdays: recent level, pulled to the longer one, as far as the history goes.
        let values: Vec<f64> = history.iter().map(|(_, value)| *value).collect();
        let mean = |n: usize| values[values.len().saturating_sub(n)..].iter().sum::<f64>() / n.min(values.len()) as f64;
        let level = 0.5 * mean(4) + 0.3 * mean(8) + 0.2 * mean(13);
        let mut start = end;
        let mut points = Vec::with_capacity(horizon);
        for period in 0..horizon {
            points.push(self.point(Level::Total, frequency, period, start, level, quantiles));
            start = frequency.next(start);
        }
        points
    }
}

/// Weekdays on which a caller's own history never sold.
fn own_calendar(values: &[f64], end: NaiveDate) -> Calendar {
    let mut sold = [false; 7];
    for (back, value) in values.iter().rev().enumerate() {
        let weekday = (end - Days::new(back as u64 + 1)).weekday().num_days_from_monday() as usize;
        sold[weekday] |= *value > 0.0;
    }
    let closed = (0..7).filter(|weekday| !sold[*weekday as usize] && values.len() >= 14 && sold.contains(&true));
    Calendar { closed_weekdays: closed.collect(), closed_days: Vec::new() }
}

/// Place of the quantiles of a level, frequency and distance.
pub fn ratio(level: Level, frequency: Frequency, distance: usize) -> usize {
    (level as usize * Frequency::ALL.len() + frequency as usize) * DISTANCES + distance.min(DISTANCES - 1)
}

/// Place of a period's distance.
pub fn distance(frequency: Frequency, period: usize) -> usize {
    frequency.distance(period)
}

/// A quantile between the stored ones; the outermost ones hold beyond them.
fn quantile(stored: &[f64; QUANTILES], q: f64) -> f64 {
    let place = (q * QUANTILES as f64 - 0.5).clamp(0.0, (QUANTILES - 1) as f64);
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(QUANTILES - 1);
    stored[low] + part * (stored[high] - stored[low])
}

/// The model.
#[derive(Debug)]
pub struct Forecast {
    rules: Rules,
    end: NaiveDate,
    /// The shop, then countries, then products; within a level the largest first.
    series: Vec<Series>,
    places: HashMap<(Level, Box<str>), usize>,
}

impl Model for Forecast {
    const KIND: ModelKind = ModelKind::Forecast;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let Parameters { calendar } = artifact.parameters()?;
        let tensors = artifact.tensors("model.safetensors")?;
        let flat: Vec<f64> = tensors.get("coefficient", &[3, FEATURES])?;
        let stored: Vec<f64> = tensors.get("ratio", &[3, 3, DISTANCES, QUANTILES])?;
        if flat.iter().chain(&stored).any(|x| !x.is_finite()) {
            return Err(ModelError::inconsistent("coefficient", "or ratio is not finite"));
        }
        let mut coefficients = [[0.0; FEATURES]; 3];
        coefficients.iter_mut().zip(flat.chunks(FEATURES)).for_each(|(row, from)| row.copy_from_slice(from));
        let mut ratios = Vec::new();
        for from in stored.chunks(QUANTILES) {
            let mut row = [0.0; QUANTILES];
            row.copy_from_slice(from);
            if row[0] < 0.0 || !row.is_sorted() {
                return Err(ModelError::inconsistent("ratio", "is not in order"));
            }
            ratios.push(row);
        }
        let table = artifact.table("series.parquet")?;
        let (levels, keys, names) = (table.text("level")?, table.text("key")?, table.text("name")?);
        let (starts, totals) = (table.time("start")?, table.float("recent_total")?);
        let history: Vec<f32> = tensors.get("history", &[table.rows(), DAYS])?;
        if history.iter().any(|value| !value.is_finite()) {
            return Err(ModelError::inconsistent("history", "is not finite"));
        }
        let mut series = Vec::with_capacity(table.rows());
        for (row, days) in history.chunks(DAYS).enumerate() {
            let level = Level::ALL.into_iter().find(|level| level.as_str() == &*levels[row]);
            series.push(Series {
                level: level.ok_or_else(|| ModelError::inconsistent("level", format!("is unknown in row {row}")))?,
                key: keys[row].clone(),
                name: names[row].clone(),
                start: starts[row].date(),
                recent_total: totals[row],
                history: days.iter().map(|value| f64::from(*value)).collect(),
            });
        }
        series.sort_by(|a, b| {
            (a.level, b.recent_total)
                .partial_cmp(&(b.level, a.recent_total))
                .unwrap_or(std::cmp::Ordering::Equal)
                .then_with(|| a.key.cmp(&b.key))
        });
        let places = series.iter().enumerate().map(|(at, series)| ((series.level, series.key.clone()), at)).collect();
        Ok(Self {
            rules: Rules { calendar, coefficients, ratios },
            end: artifact.manifest().as_of.date(),
            series,
            places,
        })
    }
}

impl Forecast {
    /// All series, the largest of a level first.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// A series; the shop's has no key.
    pub fn find(&self, level: Level, key: &str) -> Option<&Series> {
        self.places.get(&(level, Box::from(key.trim()))).and_then(|at| self.series.get(*at))
    }

    /// Coefficients, quantiles and calendar.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Periods from the as-of day on.
    pub fn forecast(&self, series: &Series, frequency: Frequency, horizon: usize, quantiles: &[f64]) -> Vec<Point> {
        self.rules.periods(series.level, &series.history, self.end, frequency, horizon, quantiles)
    }

    /// Why a forecast looks so, in words.
    pub fn reasons(&self, series: &Series) -> Vec<String> {
        let mut reasons = Vec::new();
        let Some(state) = State::of(&series.history, self.end, &self.rules.calendar) else {
            return vec![format!("nothing was sold in the last {DAYS} days")];
        };
        let change = (state.recent[2] / state.recent[3].max(1e-9) - 1.0) * 100.0;
        reasons.push(format!(
            "the last 28 days are {:.0} % {} the last {DAYS}",
            change.abs(),
            if change < 0.0 { "below" } else { "above" }
        ));
        const WEEKDAYS: [&str; 7] =
            ["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"];
        let best = state.by_weekday.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        if let Some((weekday, level)) = best {
            reasons.push(format!(
                "{} are the strongest days, {:.0} % of the average",
                WEEKDAYS[weekday],
                level * 100.0
            ));
        }
        for weekday in &self.rules.calendar.closed_weekdays {
            reasons.push(format!("closed on {}", WEEKDAYS[*weekday as usize % 7]));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    /// The weekday's level, whatever it was.
    fn rules() -> Rules {
        let mut coefficients = [[0.0; FEATURES]; 3];
        coefficients.iter_mut().for_each(|row| row[4] = 1.0);
        let mut row = [0.0; QUANTILES];
        row.iter_mut().enumerate().for_each(|(at, ratio)| *ratio = (at as f64 + 0.5) / 10.0);
        Rules {
            calendar: Calendar { closed_weekdays: vec![5], closed_days: vec![(12, 25)] },
            coefficients,
            ratios: vec![row; 3 * 3 * DISTANCES],
        }
    }

    #[test]
    fn weeks_and_months_begin_where_people_say() {
        for (frequency, of, begin, next) in [
            (Frequency::Daily, "2011-09-01", "2011-09-01", "2011-09-02"),
            (Frequency::Weekly, "2011-09-01", "2011-08-29", "2011-09-05"),
            (Frequency::Monthly, "2011-12-31", "2011-12-01", "2012-01-01"),
        ] {
            assert_eq!((frequency.begin(day(of)), frequency.next(day(of))), (day(begin), day(next)));
        }
    }

    #[test]
    fn a_week_is_the_sum_of_its_days_and_closed_days_sell_nothing() {
        let end = day("2011-09-05");
        let history: Vec<f64> =
            (0..DAYS)
                .map(|at| {
                    if (end - Days::new((DAYS - at) as u64)).weekday().num_days_from_monday() == 5 { 0.0 } else { 10.0 }
                })
                .collect();
        let rules = rules();
        let days = rules.days(Level::Total, &history, end, 14);
        let expected = [10.0, 10.0, 10.0, 10.0, 10.0, 0.0, 10.0];
        assert!(days.iter().zip(expected.iter().cycle()).all(|(a, b)| (a - b).abs() < 1e-9), "{days:?}");
        let weeks = rules.periods(Level::Total, &history, end, Frequency::Weekly, 2, &[0.1, 0.5, 0.9]);
        assert!(weeks.iter().all(|week| (week.mean - 60.0).abs() < 1e-9 && week.quantiles.is_sorted()), "{weeks:?}");
    }

    proptest! {
        #[test]
        fn forecasts_are_finite_ordered_and_not_below_zero(history in prop::collection::vec(-10.0..1e9_f64, 0..200), offset in 0..400_u64) {
            let end = day("2011-01-01") + Days::new(offset);
            for point in rules().periods(Level::Product, &history, end, Frequency::Monthly, 3, &[0.05, 0.5, 0.95]) {
                prop_assert!(point.mean.is_finite() && point.mean >= 0.0);
                prop_assert!(point.quantiles.is_sorted() && point.quantiles[0] >= 0.0);
            }
        }
    }
}
