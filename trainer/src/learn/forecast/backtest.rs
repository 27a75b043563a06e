//! The backtest: forecasts from earlier origins, each with regressions and spreads from before it,
//! beside what was sold.

use std::collections::BTreeMap;

use chrono::Days;
use scoring::{
    Metric,
    forecast::{
        Backtest, BacktestPoint, Frequency, HALF, JUDGED, Level, spread::Spread, units_place,
    },
};

use super::{
    origin::{FIRST_DAYS, Origin, STEP_DAYS, study},
    panel::{Daily, Panel, largest},
    regression::LEARNT_COUNTRIES,
    spreads::{Spreads, sums},
};
use crate::learn::{Evaluation, LearnError, Training, gate, kept};

/// Origins of the backtest.
const ORIGINS: usize = 4;
/// Products of the backtest, the best-selling.
const PRODUCTS: usize = 200;
/// The share of days between the 10 % and 90 % quantiles that a published model has.
const COVERAGE: std::ops::RangeInclusive<f64> = 0.5..=0.97;
/// The metric of the shop's days, which lists show.
const SHOP_DAILY: &str = "shop_daily";

/// Evaluates the forecasts of a panel.
pub(super) fn evaluate(panel: &Panel, training: &Training<'_>) -> Result<Evaluation, LearnError> {
    let origins: Vec<usize> = (0..ORIGINS)
        .filter_map(|back| panel.days.checked_sub(JUDGED + STEP_DAYS * back))
        .filter(|origin| *origin >= FIRST_DAYS)
        .collect();
    let study = study(panel, &origins, training, "evaluate forecast: origins")?;
    let mut compared = Comparison::default();
    for origin in &origins {
        let from = Forecasts {
            panel,
            origin: *origin,
            forecasts: &study[origin],
            spreads: Spreads::of(panel, &study, *origin),
        };
        // Origins are a step apart: each shows the days until the next, the last one all of its
        // days.
        let is_last = *origin == origins[0];
        compared.add_revenue(&from, if is_last { JUDGED } else { STEP_DAYS });
        compared.add_products(&from);
    }
    let Comparison { tallies, series } = compared;
    let mut metrics = Vec::new();
    for (name, tally) in &tallies {
        let wape = format!("wape_{name}");
        metrics.push(Metric::against(wape, tally.wape(), tally.naive_wape()));
        metrics.push(Metric::new(format!("coverage_80_{name}"), tally.coverage()));
    }
    // Lists show the first metric.
    metrics.sort_by_key(|metric| metric.name != format!("wape_{SHOP_DAILY}"));
    let none = Tally::default();
    let shop = tallies.get(SHOP_DAILY).unwrap_or(&none);
    let (ours, naive, coverage) = (shop.wape(), shop.naive_wape(), shop.coverage());
    Ok(Evaluation {
        metrics,
        gates: vec![
            gate(
                "days are forecast better than by the week before",
                shop.points > 0.0 && ours < naive,
                format!("WAPE {ours:.3} against {naive:.3}"),
            ),
            gate(
                "intervals mean what they say",
                COVERAGE.contains(&coverage),
                format!(
                    "{:.0} % of days lie between the 10 % and 90 % quantiles; 50 to 97 are \
                     allowed",
                    coverage * 100.0
                ),
            ),
        ],
        backtest: kept(&backtests(panel, series))?,
    })
}

/// The series of the backtest as the manifest keeps them.
fn backtests(panel: &Panel, series: BTreeMap<(usize, usize), Vec<BacktestPoint>>) -> Vec<Backtest> {
    let backtest = |((row, days), points): ((usize, usize), Vec<BacktestPoint>)| Backtest {
        level: if row == 0 {
            Level::Total
        } else {
            Level::Country
        },
        key: panel.revenue[row].key.clone(),
        frequency: if days == 1 {
            Frequency::Daily
        } else {
            Frequency::Weekly
        },
        points,
    };
    series.into_iter().map(backtest).collect()
}

/// Forecasts from an origin and their spreads.
struct Forecasts<'a> {
    panel: &'a Panel,
    origin: usize,
    forecasts: &'a Origin,
    spreads: Spreads,
}

/// Forecasts compared with sales.
#[derive(Default)]
struct Comparison {
    /// By name of the metric.
    tallies: BTreeMap<&'static str, Tally>,
    /// By index of the series and days of a period.
    series: BTreeMap<(usize, usize), Vec<BacktestPoint>>,
}

impl Comparison {
    fn tally(&mut self, name: &'static str) -> &mut Tally {
        self.tallies.entry(name).or_default()
    }

    /// Compares the revenue of the shop and of its largest countries; `shown` days are kept for
    /// people.
    fn add_revenue(&mut self, from: &Forecasts<'_>, shown: usize) {
        let Forecasts {
            panel,
            origin,
            forecasts,
            spreads,
        } = from;
        let countries = largest(&panel.revenue[1..], *origin, LEARNT_COUNTRIES);
        let countries = countries.into_iter().map(|country| country + 1);
        for row in std::iter::once(0).chain(countries) {
            let (series, ahead) = (&panel.revenue[row], &forecasts.revenue_ahead[row]);
            let range = |frequency: Frequency| {
                let spread = spreads.revenue[row][frequency as usize];
                move |mean: f64, _| range_of(&spread, mean)
            };
            for (days, frequency) in [(1, Frequency::Daily), (7, Frequency::Weekly)] {
                let actual = &series.values[*origin..origin + shown];
                let points = points(from, days, &ahead[..shown], actual, range(frequency));
                // Origins come latest first, so earlier points go in front.
                let kept = self.series.entry((row, days)).or_default();
                kept.splice(0..0, points);
            }
            let (half, daily) = (&ahead[..HALF], range(Frequency::Daily));
            if row > 0 {
                self.tally("country_daily")
                    .add(series, *origin, half, 1, daily);
                continue;
            }
            self.tally(SHOP_DAILY).add(series, *origin, half, 1, daily);
            let weekly = range(Frequency::Weekly);
            self.tally("shop_weekly")
                .add(series, *origin, ahead, 7, weekly);
        }
    }

    /// Compares the units of the best-selling products by week.
    fn add_products(&mut self, from: &Forecasts<'_>) {
        let Forecasts {
            panel,
            origin,
            forecasts,
            spreads,
        } = from;
        for (product, outlook) in forecasts.products.iter().take(PRODUCTS) {
            let ahead = outlook.days(&forecasts.shop, &forecasts.share, JUDGED);
            let group = spreads
                .edges
                .partition_point(|edge| *edge < outlook.unsteady);
            let range = |mean: f64, day: usize| {
                let half = usize::from(day >= HALF);
                let spread = &spreads.units[units_place(Frequency::Weekly, group, half)];
                let scale = mean.max(outlook.floor);
                let low = (mean + scale * spread.error(0.1)).max(0.0);
                (low, mean + scale * spread.error(0.9))
            };
            let series = &panel.products[*product];
            self.tally("product_weekly")
                .add(series, *origin, &ahead, 7, range);
        }
    }
}

/// The 10 % and 90 % quantiles around a mean.
fn range_of(spread: &Spread, mean: f64) -> (f64, f64) {
    (spread.around(mean, 0.1), spread.around(mean, 0.9))
}

/// Forecasts beside what was sold, by periods of some days.
fn points(
    from: &Forecasts<'_>,
    days: usize,
    means: &[f64],
    actual: &[f64],
    range: impl Fn(f64, usize) -> (f64, f64),
) -> Vec<BacktestPoint> {
    let start = from.panel.date(from.origin);
    let periods = sums(means, days).zip(sums(actual, days)).enumerate();
    periods
        .map(|(period, (mean, actual))| {
            let (low, high) = range(mean, period * days);
            BacktestPoint {
                start: start + Days::new((period * days) as u64),
                actual,
                mean,
                range: [low, high],
            }
        })
        .collect()
}

/// Sums over compared periods.
#[derive(Debug, Default)]
struct Tally {
    actual: f64,
    /// Absolute errors of the forecasts.
    error: f64,
    /// Absolute errors of the naive forecast: the same weekdays of the week before the origin.
    naive_error: f64,
    /// Periods with an actual value within the range.
    covered: f64,
    /// Periods with a range.
    points: f64,
}

impl Tally {
    /// Weighted absolute percentage error.
    fn wape(&self) -> f64 {
        self.error / self.actual.max(1e-9)
    }

    fn naive_wape(&self) -> f64 {
        self.naive_error / self.actual.max(1e-9)
    }

    fn coverage(&self) -> f64 {
        self.covered / self.points.max(1.0)
    }

    /// Adds a forecast: means of the days `ahead`, and the range of a period by its mean and first
    /// day.
    fn add(
        &mut self,
        series: &Daily,
        origin: usize,
        ahead: &[f64],
        days: usize,
        range: impl Fn(f64, usize) -> (f64, f64),
    ) {
        let actual = &series.values[origin..origin + ahead.len()];
        let naive: Vec<f64> = (0..ahead.len())
            .map(|day| series.values[origin - 7 + day % 7])
            .collect();
        let periods = sums(ahead, days).zip(sums(actual, days));
        let periods = periods.zip(sums(&naive, days)).enumerate();
        for (period, ((mean, actual), naive)) in periods {
            self.actual += actual;
            self.error += (actual - mean).abs();
            self.naive_error += (actual - naive).abs();
            // Closed days are always covered, so they do not count.
            if mean > 0.0 {
                let (low, high) = range(mean, period * days);
                self.points += 1.0;
                self.covered += f64::from(u8::from((low..=high).contains(&actual)));
            }
        }
    }
}
