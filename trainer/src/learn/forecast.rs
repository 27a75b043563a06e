//! Forecast: two ridge regressions (Hoerl and Kennard 1970), of the revenue of the shop and its
//! largest countries by day and of the pieces of its best-selling products by week, solved from
//! their normal equations on the device; quantiles from how forecasts of the past, each with rules
//! learnt before it, compared with what came.
//!
//! Revenue is what was sold, gross of returns and with services (postage is paid for): lines with a
//! quantity and a price above 0 whose invoice is neither a cancellation nor an adjustment. Products
//! are counted in pieces.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate};
use polars::prelude::{DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit};
use rayon::prelude::*;
use scoring::{
    Artifact, Gate, Metric, ModelKind, TensorFile,
    forecast::{
        Backtest, BacktestPoint, DAYS, Frequency, HALF, JUDGED, Level, Linear, Parameters,
        STEADINESS,
        calendar::Shop,
        pieces::{self, Outlook},
        pieces_place, revenue, smoothing,
        spread::{LEVELS, Spread},
    },
};
use tch::Tensor;

use super::{
    Evaluation, LearnError, Learner, Training, kept, known_recipe,
    linear::standardised_ridge,
    lines::{Kind, Line, Lines, seconds},
    parquet,
};

/// Days of history that a forecast needs at least.
const LEAST_DAYS: u64 = 70;
/// Days without a sale that end a shop's history: a row with a wrong year, or another shop.
const PAUSE: i64 = 364;
/// Countries that the regression learns from beside the shop, by revenue: small ones are chance.
const LEARNT_COUNTRIES: usize = 8;
/// Products that the regression learns from, by pieces.
const LEARNT_PRODUCTS: usize = 400;
/// Ridges, in parts of the rows.
const REVENUE_RIDGE: f64 = 0.3;
const PIECES_RIDGE: f64 = 1.0;
/// Rows fewer than these teach nothing.
const LEAST_ROWS: usize = 200;
/// Days between forecasts of the past, how many there are, and the days that the first of them
/// needs.
const STEP: usize = 14;
const PAST: usize = 8;
const FIRST: usize = 84;
/// Forecasts that evaluation makes, and products it looks at.
const EVALUATED: usize = 4;
const EVALUATED_PRODUCTS: usize = 200;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Forecast;

/// A series of days without gaps, up to the end of the panel.
struct Daily {
    key: String,
    name: String,
    first: NaiveDate,
    values: Vec<f64>,
}

impl Daily {
    /// What a forecast from a place looks at.
    fn past(&self, origin: usize) -> &[f64] {
        &self.values[origin.saturating_sub(DAYS)..origin]
    }
}

/// The series of a line and what it adds to it.
type Key<'l> = &'l dyn Fn(&Line) -> Option<(&'l str, f64)>;

struct Panel {
    /// Revenue of the shop, then of its countries.
    money: Vec<Daily>,
    /// Pieces.
    products: Vec<Daily>,
    /// Pieces of all products.
    all_pieces: Vec<f64>,
    /// The day after the last.
    end: NaiveDate,
    days: usize,
}

impl Panel {
    fn of(lines: &Lines, as_of: chrono::NaiveDateTime) -> Option<Self> {
        // A day that has begun is no whole day.
        let end = as_of.date();
        let day_of =
            |line: &Line| DateTime::from_timestamp(line.time, 0).map(|time| time.date_naive());
        let sold = |line: &&Line| {
            line.quantity > 0
                && line.price > 0
                && line.kind != Kind::Cancellation
                && !lines.invoices.name(line.invoice).starts_with(['A', 'a'])
        };
        let mut lines_sold: Vec<(NaiveDate, &Line)> = lines
            .before(seconds(end.into()))
            .filter(sold)
            .filter_map(|line| Some((day_of(line)?, line)))
            .collect();
        let start = beginning(&lines_sold.iter().map(|(day, _)| *day).collect(), end)?;
        lines_sold.retain(|(day, _)| *day >= start);
        let days = usize::try_from((end - start).num_days()).ok()?;
        let at = |day: NaiveDate| usize::try_from((day - start).num_days()).unwrap_or_default();
        let descriptions: BTreeMap<&str, &str> = (0..lines.products.len())
            .filter_map(|number| {
                Some((
                    lines.products.name(number as u32),
                    lines.descriptions[number].as_deref()?,
                ))
            })
            .collect();
        let gather = |key: Key<'_>| -> Vec<Daily> {
            let mut sums: BTreeMap<&str, (NaiveDate, Vec<f64>)> = BTreeMap::new();
            for (day, line) in &lines_sold {
                let Some((key, value)) = key(line) else {
                    continue;
                };
                let series = sums.entry(key).or_insert_with(|| (*day, vec![0.0; days]));
                series.0 = series.0.min(*day);
                series.1[at(*day)] += value;
            }
            let series = sums.into_iter().map(|(key, (first, values))| Daily {
                key: key.to_owned(),
                name: descriptions.get(key).copied().unwrap_or(key).to_owned(),
                first,
                values,
            });
            series.collect()
        };
        let mut money: Vec<Daily> = gather(&|line| Some(("", line.total())));
        money
            .iter_mut()
            .for_each(|shop| "whole shop".clone_into(&mut shop.name));
        let mut countries: Vec<Daily> =
            gather(&|line| Some((lines.countries.name(line.country), line.total())));
        countries
            .iter_mut()
            .for_each(|country| country.name.clone_from(&country.key));
        money.append(&mut countries);
        let products: Vec<Daily> = gather(&|line| {
            (line.kind == Kind::Sale)
                .then(|| (lines.products.name(line.product), line.quantity as f64))
        });
        let all_pieces = (0..days)
            .map(|day| products.iter().map(|product| product.values[day]).sum())
            .collect();
        Some(Self {
            money,
            products,
            all_pieces,
            end,
            days,
        })
    }

    fn date(&self, at: usize) -> NaiveDate {
        self.end - Days::new((self.days - at) as u64)
    }

    fn total(&self) -> &Daily {
        &self.money[0]
    }
}

/// Where history begins, of the days with sales: after the last long pause that is followed by
/// enough.
fn beginning(days: &BTreeSet<NaiveDate>, end: NaiveDate) -> Option<NaiveDate> {
    let enough = |day: NaiveDate| (end - day).num_days() >= LEAST_DAYS as i64;
    let after_pause = days
        .iter()
        .zip(days.iter().skip(1))
        .rev()
        .filter(|(last, next)| (**next - **last).num_days() >= PAUSE);
    after_pause
        .map(|(_, next)| *next)
        .find(|next| enough(*next))
        .or(days.first().copied())
}

/// The places of the largest by their past.
fn largest(series: &[Daily], origin: usize, most: usize) -> Vec<usize> {
    let mut sizes: Vec<(f64, usize)> = series
        .iter()
        .enumerate()
        .map(|(at, series)| (series.past(origin).iter().sum(), at))
        .collect();
    sizes.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    sizes.into_iter().take(most).map(|(_, at)| at).collect()
}

/// Examples of a regression, of many series.
#[derive(Default)]
struct Examples {
    x: Vec<f64>,
    y: Vec<f64>,
    /// Where the examples of a series begin.
    series: Vec<usize>,
}

impl Examples {
    /// Weighs each series by how little its targets vary, so that loud ones do not drown the
    /// others; nothing varies less than `least`. Fits what `y` is of `x`; `prior` where there
    /// is too little to learn from.
    fn fit(
        &self,
        measure: impl Fn(f64) -> f64,
        target: impl Fn(f64) -> f64,
        least: f64,
        ridge: f64,
        prior: Linear,
        device: tch::Device,
    ) -> Result<Linear, LearnError> {
        if self.y.len() < LEAST_ROWS {
            return Ok(prior);
        }
        let mut weights = Vec::with_capacity(self.y.len());
        let ends = self.series.iter().skip(1).copied().chain([self.y.len()]);
        for (from, to) in self.series.iter().zip(ends) {
            let of: Vec<f64> = self.y[*from..to].iter().map(|y| measure(*y)).collect();
            let centre = of.iter().sum::<f64>() / of.len().max(1) as f64;
            let variance =
                of.iter().map(|y| (y - centre).powi(2)).sum::<f64>() / of.len().max(1) as f64;
            weights.extend(std::iter::repeat_n(1.0 / variance.max(least), of.len()));
        }
        let y: Vec<f64> = self.y.iter().map(|y| target(*y)).collect();
        let tensor = |values: &[f64]| Tensor::from_slice(values).to_device(device);
        let x = tensor(&self.x).view([y.len() as i64, -1]);
        let (weights, intercept) = standardised_ridge(&x, &tensor(&y), &tensor(&weights), ridge)?;
        Ok(Linear { weights, intercept })
    }
}

/// What is known at a place of the panel, and what it makes of the days after it.
struct Outset {
    shop: Shop,
    revenue: Linear,
    pieces: Linear,
    growth: [f64; 4],
    share: [f64; 7],
    /// By series of money, the days ahead.
    money: Vec<Vec<f64>>,
    /// Products that were learnt from.
    products: Vec<(usize, Outlook)>,
}

impl Outset {
    fn at(panel: &Panel, origin: usize, device: tch::Device) -> Result<Self, LearnError> {
        let total = panel.total().past(origin);
        let shop = Shop::of(total, panel.date(origin));
        let revenue = learn_revenue(panel, origin, &shop, device)?;
        let past: Vec<&[f64]> = panel
            .money
            .iter()
            .map(|series| series.past(origin))
            .collect();
        let money = revenue::forecast(&revenue, &shop, &past, JUDGED);

        let from = origin.saturating_sub(DAYS);
        let all_pieces = shop.weeks(&panel.all_pieces[from..origin]);
        let revenue_weeks = shop.weeks(total);
        let learnt: Vec<(usize, Vec<f64>)> = largest(&panel.products, origin, LEARNT_PRODUCTS)
            .into_iter()
            .map(|product| {
                (
                    product,
                    pieces::tame(shop.weeks(panel.products[product].past(origin))),
                )
            })
            .collect();
        let pieces = learn_pieces(&learnt, &revenue_weeks, &all_pieces, device)?;
        let growth = pieces::growth(&revenue_weeks, &all_pieces);
        let products = learnt
            .iter()
            .map(|(product, weeks)| {
                (
                    *product,
                    Outlook::of(&pieces, weeks, growth, |ahead| shop.season(ahead)),
                )
            })
            .collect();
        let share = share(&shop, &panel.all_pieces[from..origin]);
        Ok(Self {
            shop,
            revenue,
            pieces,
            growth,
            share,
            money,
            products,
        })
    }
}

/// One example for each series, open day seen and open day ahead of it, all in parts of the series'
/// level then.
fn learn_revenue(
    panel: &Panel,
    origin: usize,
    shop: &Shop,
    device: tch::Device,
) -> Result<Linear, LearnError> {
    let week = shop.calendar.week();
    let total = revenue::open_days(shop, panel.total().past(origin));
    let mut examples = Examples::default();
    let countries = largest(&panel.money[1..], origin, LEARNT_COUNTRIES)
        .into_iter()
        .map(|country| country + 1);
    for series in std::iter::once(0).chain(countries) {
        let values = revenue::open_days(shop, panel.money[series].past(origin));
        let first = values
            .iter()
            .position(|value| *value > 0.0)
            .unwrap_or(values.len());
        examples.series.push(examples.y.len());
        for seen in (8 * week).max(first + 2 * week)..values.len() {
            let recent = revenue::Recent::of(&values[..seen], &shop.weekdays[..seen], week);
            let growth = revenue::growth(&total[..seen], week);
            for ahead in 1..=(revenue::WEEKS * week).min(values.len() - seen) {
                let at = seen + ahead - 1;
                examples
                    .x
                    .extend(recent.features(shop.weekdays[at], ahead, growth));
                examples.y.push(values[at] / recent.level);
            }
        }
    }
    let sold: Vec<f64> = examples.y.iter().copied().filter(|y| *y > 0.0).collect();
    let most = smoothing::quantile(&sold, 0.99);
    // Without examples: the mean of the weekday's last eight.
    let mut prior = Linear {
        weights: vec![0.0; revenue::FEATURES],
        intercept: 0.0,
    };
    prior.weights[3] = 1.0;
    examples.fit(
        |y| y.min(most),
        |y| y.min(most),
        1e-3,
        REVENUE_RIDGE,
        prior,
        device,
    )
}

/// One example for each product, week seen and week ahead, as logarithms of parts of the product's
/// level then.
fn learn_pieces(
    products: &[(usize, Vec<f64>)],
    revenue: &[f64],
    all_pieces: &[f64],
    device: tch::Device,
) -> Result<Linear, LearnError> {
    let mut examples = Examples::default();
    for (_, weeks) in products {
        examples.series.push(examples.y.len());
        for seen in 13
            .min(weeks.len().saturating_sub(4))
            .max(pieces::launch(weeks) + 4)..weeks.len()
        {
            let recent = pieces::Recent::of(&weeks[..seen]);
            let growth = pieces::growth(&revenue[..seen], &all_pieces[..seen]);
            for ahead in 1..=pieces::WEEKS.min(weeks.len() - seen) {
                examples.x.extend(recent.features(ahead, growth));
                examples.y.push(weeks[seen + ahead - 1] / recent.level);
            }
        }
    }
    // Without examples: the mean of the last four weeks.
    let mut prior = Linear {
        weights: vec![0.0; pieces::FEATURES],
        intercept: 0.0,
    };
    prior.weights[3] = 1.0;
    examples.fit(
        |y| y.min(5.0),
        |y| (y + pieces::LEAST).ln(),
        1e-2,
        PIECES_RIDGE,
        prior,
        device,
    )
}

/// What part of a week's pieces each weekday sells, of the last sixteen weeks.
fn share(shop: &Shop, all_pieces: &[f64]) -> [f64; 7] {
    let week = shop.calendar.week();
    let recent = shop.open.len().saturating_sub(16 * week);
    let (mut sums, mut counts) = ([0.0; 7], [0.0; 7]);
    for (at, weekday) in shop.open[recent..].iter().zip(&shop.weekdays[recent..]) {
        sums[*weekday] += all_pieces[*at];
        counts[*weekday] += 1.0;
    }
    let means: [f64; 7] = std::array::from_fn(|w| {
        if counts[w] > 0.0 {
            sums[w] / counts[w]
        } else {
            0.0
        }
    });
    let all: f64 = means.iter().sum();
    if all > 0.0 {
        means.map(|mean| mean / all)
    } else {
        [1.0 / week as f64; 7]
    }
}

/// Outsets by their places.
type Study = BTreeMap<usize, Outset>;

/// The places from which the past before `origin` is forecast, for days and for longer periods, the
/// last first.
fn past(origin: usize) -> [Vec<usize>; 2] {
    [HALF, JUDGED].map(|horizon| {
        let last = origin.saturating_sub(horizon);
        let mut places: Vec<usize> = (0..PAST)
            .filter_map(|back| last.checked_sub(STEP * back))
            .filter(|at| *at >= FIRST)
            .collect();
        if places.is_empty() {
            places.push(last.max(JUDGED.min(origin)));
        }
        places
    })
}

fn study(
    panel: &Panel,
    origins: &[usize],
    training: &Training<'_>,
    stage: &str,
) -> Result<Study, LearnError> {
    let mut places: Vec<usize> = origins
        .iter()
        .flat_map(|origin| past(*origin).concat())
        .chain(origins.iter().copied())
        .collect();
    places.sort_unstable();
    places.dedup();
    training.progress.begin(stage, Some(places.len() as u64));
    let mut study = Study::new();
    for places in places.chunks(rayon::current_num_threads()) {
        let device = training.device;
        let outsets = places
            .par_iter()
            .map(|origin| Ok((*origin, Outset::at(panel, *origin, device)?)));
        study.extend(outsets.collect::<Result<Vec<_>, LearnError>>()?);
        training.progress.advance(places.len() as u64);
    }
    training.progress.end();
    Ok(study)
}

/// How far actual sales fall from their means.
struct Spreads {
    /// By series of money and frequency.
    money: Vec<[Spread; 3]>,
    /// By frequency, steadiness and half.
    pieces: Vec<Spread>,
    edges: Vec<f64>,
}

/// Where nothing is known: anything from half to half as much again.
fn unknown() -> Spread {
    Spread {
        errors: LEVELS.map(|level| level - 0.5),
        usual: 0.0,
    }
}

fn sums(values: &[f64], days: usize) -> impl Iterator<Item = f64> + '_ {
    values.chunks_exact(days).map(|period| period.iter().sum())
}

impl Spreads {
    /// As the past before `origin` tells.
    fn of(panel: &Panel, study: &Study, origin: usize) -> Self {
        let [days, periods] = past(origin);
        let shop = &study[&origin].shop;
        let from = origin.saturating_sub(DAYS);
        let mut open = vec![false; origin];
        shop.open.iter().for_each(|at| open[from + at] = true);
        let mut of_all: [(Vec<f64>, Vec<f64>); 3] = Default::default();
        let mut own = Vec::with_capacity(panel.money.len());
        for (row, series) in panel.money.iter().enumerate() {
            let lumpy = smoothing::is_lumpy(&shop.open_days(series.past(origin)));
            own.push(Frequency::ALL.map(|frequency| {
                let (mut means, mut actual) = (Vec::new(), Vec::new());
                for at in if frequency == Frequency::Daily {
                    &days
                } else {
                    &periods
                } {
                    let horizon = if frequency == Frequency::Daily {
                        HALF
                    } else {
                        JUDGED
                    }
                    .min(origin - at);
                    let (ahead, came) = (
                        &study[at].money[row][..horizon],
                        &series.values[*at..at + horizon],
                    );
                    if frequency == Frequency::Daily {
                        let of_open = ahead
                            .iter()
                            .zip(came)
                            .zip(&open[*at..])
                            .filter(|(_, open)| **open);
                        of_open.for_each(|((mean, came), _)| {
                            means.push(*mean);
                            actual.push(*came);
                        });
                    } else {
                        means.extend(sums(ahead, frequency.days()));
                        actual.extend(sums(came, frequency.days()));
                    }
                }
                let spread = if frequency == Frequency::Daily {
                    Spread::of(&means, &actual, lumpy)
                } else {
                    Spread::relative(&means, &actual, lumpy)
                };
                if row > 0 {
                    of_all[frequency as usize].0.extend(means);
                    of_all[frequency as usize].1.extend(actual);
                }
                spread
            }));
        }
        // A country that hardly sold is as uncertain as countries are.
        let of_all = of_all.map(|(means, actual)| Spread::of(&means, &actual, true));
        let money = own
            .into_iter()
            .map(|[day, week, month]| {
                let day = day.or(of_all[0]).unwrap_or_else(unknown);
                let week = week.or(of_all[1]).unwrap_or(Spread { usual: 0.0, ..day });
                [day, week, month.or(of_all[2]).unwrap_or(week)]
            })
            .collect();
        let (pieces, edges) = of_pieces(panel, study, origin, &periods);
        Self {
            money,
            pieces,
            edges,
        }
    }
}

fn of_pieces(
    panel: &Panel,
    study: &Study,
    origin: usize,
    places: &[usize],
) -> (Vec<Spread>, Vec<f64>) {
    let mut unsteady = Vec::new();
    // Unsteadiness, place of frequency and half, error.
    let mut errors: Vec<(f64, Frequency, usize, f64)> = Vec::new();
    for at in places {
        let outset = &study[at];
        let horizon = JUDGED.min(origin - at);
        // Not launched yet then: no error.
        for (product, outlook) in outset
            .products
            .iter()
            .filter(|(_, outlook)| outlook.floor > 0.025)
        {
            unsteady.push(outlook.unsteady);
            let ahead = outlook.days(&outset.shop, &outset.share, horizon);
            let came = &panel.products[*product].values[*at..at + horizon];
            for frequency in Frequency::ALL {
                let days = frequency.days();
                for (period, (mean, came)) in sums(&ahead, days).zip(sums(came, days)).enumerate() {
                    if mean > 0.0 {
                        let error = (came - mean) / mean.max(outlook.floor * days as f64 / 7.0);
                        errors.push((
                            outlook.unsteady,
                            frequency,
                            usize::from(period * days >= HALF),
                            error,
                        ));
                    }
                }
            }
        }
    }
    let edges: Vec<f64> = (1..STEADINESS)
        .map(|edge| smoothing::quantile(&unsteady, edge as f64 / STEADINESS as f64))
        .collect();
    let mut pools = vec![Vec::new(); 3 * STEADINESS * 2];
    for (unsteady, frequency, half, error) in errors {
        let group = edges.partition_point(|edge| *edge < unsteady);
        pools[pieces_place(frequency, group, half)].push(error);
    }
    (
        pools
            .iter()
            .map(|errors| Spread::scaled(errors).unwrap_or_else(unknown))
            .collect(),
        edges,
    )
}

fn panel(lines: &Lines, training: &Training<'_>) -> Result<Panel, LearnError> {
    let panel = Panel::of(lines, training.as_of);
    let found = panel.as_ref().map_or(0, |panel| panel.days as u64);
    panel
        .filter(|panel| panel.days as u64 >= LEAST_DAYS)
        .ok_or(LearnError::TooLittle {
            model: ModelKind::Forecast,
            what: "days",
            needed: LEAST_DAYS,
            found,
            as_of: training.as_of,
        })
}

impl Learner for Forecast {
    const KIND: ModelKind = ModelKind::Forecast;
    const RECIPES: &'static [&'static str] = &["blend"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let lines = Lines::of(training)?;
        let panel = panel(&lines, training)?;
        let study = study(&panel, &[panel.days], training, "train forecast: origins")?;
        let spreads = Spreads::of(&panel, &study, panel.days);
        let Outset {
            shop,
            revenue,
            pieces,
            growth,
            share,
            ..
        } = &study[&panel.days];

        let flat = |rule: &Linear| [rule.weights.as_slice(), &[rule.intercept]].concat();
        let single = |values: Vec<f64>| {
            values
                .into_iter()
                .map(|value| value as f32)
                .collect::<Vec<f32>>()
        };
        let days = panel.total().past(panel.days).len();
        let history: Vec<f64> = panel
            .money
            .iter()
            .flat_map(|series| series.past(panel.days))
            .copied()
            .collect();
        let weeks: Vec<Vec<f64>> = panel
            .products
            .iter()
            .map(|series| shop.weeks(series.past(panel.days)))
            .collect();
        let errors = |spreads: &mut dyn Iterator<Item = &Spread>| {
            spreads.flat_map(|s| s.errors).collect::<Vec<f64>>()
        };
        let usual: Vec<f64> = spreads.money.iter().map(|[day, ..]| day.usual).collect();
        let model = TensorFile::new()
            .with("revenue_rule", &[revenue::FEATURES + 1], &flat(revenue))
            .with("pieces_rule", &[pieces::FEATURES + 1], &flat(pieces))
            .with("revenue", &[panel.money.len(), days], &single(history))
            .with(
                "pieces",
                &[weeks.len(), weeks.first().map_or(1, Vec::len)],
                &single(weeks.concat()),
            )
            .with(
                "revenue_error",
                &[panel.money.len(), 3, LEVELS.len()],
                &errors(&mut spreads.money.iter().flatten()),
            )
            .with("revenue_usual", &[panel.money.len()], &usual)
            .with(
                "pieces_error",
                &[3, STEADINESS, 2, LEVELS.len()],
                &errors(&mut spreads.pieces.iter()),
            )
            .with("pieces_edge", &[STEADINESS - 1], &spreads.edges);

        let levels = (0..panel.money.len())
            .map(|row| {
                if row == 0 {
                    Level::Total
                } else {
                    Level::Country
                }
            })
            .chain(std::iter::repeat_n(Level::Product, panel.products.len()));
        let series: Vec<&Daily> = panel.money.iter().chain(&panel.products).collect();
        let text = |name: &str, of: &dyn Fn(&Daily) -> &str| {
            Series::new(
                name.into(),
                series.iter().map(|series| of(series)).collect::<Vec<_>>(),
            )
            .into_column()
        };
        let starts: Vec<i64> = series
            .iter()
            .map(|s| {
                s.first
                    .and_time(chrono::NaiveTime::MIN)
                    .and_utc()
                    .timestamp_micros()
            })
            .collect();
        let recent = |s: &&Daily| {
            s.values[s.values.len().saturating_sub(28)..]
                .iter()
                .sum::<f64>()
        };
        let mut table = DataFrame::new_infer_height(vec![
            Series::new(
                "level".into(),
                levels.map(Level::as_str).collect::<Vec<_>>(),
            )
            .into_column(),
            text("key", &|s| &s.key),
            text("name", &|s| &s.name),
            Series::new("start".into(), starts)
                .cast(&DataType::Datetime(TimeUnit::Microseconds, None))?
                .into_column(),
            Series::new(
                "recent_total".into(),
                series.iter().map(recent).collect::<Vec<_>>(),
            )
            .into_column(),
        ])?;
        Ok(
            Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
                .file("model.safetensors", model.into_bytes()?)
                .file("series.parquet", parquet(&mut table)?)
                .parameters(&Parameters {
                    calendar: shop.calendar.clone(),
                    share: *share,
                    growth: *growth,
                })?
                .trained_on("series", series.len() as u64)
                .trained_on("days", panel.days as u64)
                .finish(),
        )
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let lines = Lines::of(training)?;
        let panel = panel(&lines, training)?;
        // Each forecast is by rules and errors from before it.
        let origins: Vec<usize> = (0..EVALUATED)
            .filter_map(|back| panel.days.checked_sub(JUDGED + STEP * back))
            .filter(|origin| *origin >= FIRST)
            .collect();
        let study = study(&panel, &origins, training, "evaluate forecast: origins")?;
        let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
        let mut backtests: BTreeMap<(usize, usize), Vec<BacktestPoint>> = BTreeMap::new();
        for origin in &origins {
            let (outset, spreads) = (&study[origin], Spreads::of(&panel, &study, *origin));
            for row in [0].into_iter().chain(
                largest(&panel.money[1..], *origin, LEARNT_COUNTRIES)
                    .into_iter()
                    .map(|c| c + 1),
            ) {
                let (series, ahead) = (&panel.money[row], &outset.money[row]);
                let around = |frequency: Frequency| {
                    let spread = spreads.money[row][frequency as usize];
                    move |mean: f64, _| (spread.around(mean, 0.1), spread.around(mean, 0.9))
                };
                // Origins are a step apart: each tells of the days up to the next, the last one of
                // all it has.
                let told = if *origin == origins[0] { JUDGED } else { STEP };
                for (days, frequency) in [(1, Frequency::Daily), (7, Frequency::Weekly)] {
                    let (means, came) = (&ahead[..told], &series.values[*origin..origin + told]);
                    let points =
                        compared(panel.date(*origin), days, means, came, around(frequency));
                    backtests
                        .entry((row, days))
                        .or_default()
                        .splice(0..0, points);
                }
                let name = if row == 0 {
                    "shop_daily"
                } else {
                    "country_daily"
                };
                tallies.entry(name).or_default().add(
                    series,
                    *origin,
                    &ahead[..HALF],
                    1,
                    around(Frequency::Daily),
                );
                if row == 0 {
                    tallies.entry("shop_weekly").or_default().add(
                        series,
                        *origin,
                        ahead,
                        7,
                        around(Frequency::Weekly),
                    );
                }
            }
            for (product, outlook) in outset.products.iter().take(EVALUATED_PRODUCTS) {
                let ahead = outlook.days(&outset.shop, &outset.share, JUDGED);
                let group = spreads
                    .edges
                    .partition_point(|edge| *edge < outlook.unsteady);
                let around = |mean: f64, day: usize| {
                    let spread = spreads.pieces
                        [pieces_place(Frequency::Weekly, group, usize::from(day >= HALF))];
                    let scale = mean.max(outlook.floor);
                    (
                        (mean + scale * spread.error(0.1)).max(0.0),
                        mean + scale * spread.error(0.9),
                    )
                };
                tallies.entry("product_weekly").or_default().add(
                    &panel.products[*product],
                    *origin,
                    &ahead,
                    7,
                    around,
                );
            }
        }
        let backtests = backtests.into_iter().map(|((row, days), points)| Backtest {
            level: if row == 0 {
                Level::Total
            } else {
                Level::Country
            },
            key: panel.money[row].key.clone(),
            frequency: if days == 1 {
                Frequency::Daily
            } else {
                Frequency::Weekly
            },
            points,
        });
        let mut metrics = Vec::new();
        for (name, tally) in &tallies {
            metrics.push(Metric::against(
                format!("wape_{name}"),
                tally.wape(),
                tally.naive / tally.actual.max(1e-9),
            ));
            metrics.push(Metric::new(
                format!("coverage_80_{name}"),
                tally.covered / tally.points.max(1.0),
            ));
        }
        let empty = Tally::default();
        let shop = tallies.get("shop_daily").unwrap_or(&empty);
        let (ours, naive, coverage) = (
            shop.wape(),
            shop.naive / shop.actual.max(1e-9),
            shop.covered / shop.points.max(1.0),
        );
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
                        "{:.0} % of days lie between the 10 % and 90 % quantiles; 50 to 97 are \
                         allowed",
                        coverage * 100.0
                    ),
                },
            ],
            backtest: kept(&backtests.collect::<Vec<_>>())?,
        })
    }
}

/// What was forecast from a day on beside what came, by periods of some days.
fn compared(
    start: NaiveDate,
    days: usize,
    means: &[f64],
    came: &[f64],
    around: impl Fn(f64, usize) -> (f64, f64),
) -> Vec<BacktestPoint> {
    let periods = sums(means, days).zip(sums(came, days)).enumerate();
    periods
        .map(|(period, (mean, actual))| {
            let (low, high) = around(mean, period * days);
            BacktestPoint {
                start: start + Days::new((period * days) as u64),
                actual,
                mean,
                range: [low, high],
            }
        })
        .collect()
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

    /// `ahead`: means of days; `around`: the range of a period by its mean and first day.
    fn add(
        &mut self,
        series: &Daily,
        origin: usize,
        ahead: &[f64],
        days: usize,
        around: impl Fn(f64, usize) -> (f64, f64),
    ) {
        let came = &series.values[origin..origin + ahead.len()];
        // The same weekdays of the last week before.
        let before: Vec<f64> = (0..ahead.len())
            .map(|day| series.values[origin - 7 + day % 7])
            .collect();
        for (period, ((mean, came), naive)) in sums(ahead, days)
            .zip(sums(came, days))
            .zip(sums(&before, days))
            .enumerate()
        {
            self.actual += came;
            self.error += (came - mean).abs();
            self.naive += (came - naive).abs();
            // Closed days are no achievement.
            if mean > 0.0 {
                let (low, high) = around(mean, period * days);
                self.points += 1.0;
                self.covered += f64::from(u8::from((low..=high).contains(&came)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;

    use super::*;

    #[test]
    fn a_row_with_a_wrong_year_changes_nothing() {
        let shop: String = (0..200)
            .map(|day| chrono::NaiveDate::from_ymd_opt(2011, 1, 1).unwrap() + Days::new(day))
            .filter(|day| day.weekday() != chrono::Weekday::Sat)
            .map(|day| format!("1,10,A THING,{},{day} 8:00,1.5,12,EIRE\n", 1 + day.day()))
            .collect();
        let as_of = "2011-07-20T00:00:00".parse().unwrap();
        let panel =
            |rows: &str| Panel::of(&crate::learn::lines::tests::lines(rows), as_of).unwrap();
        let (good, stray) = (
            panel(&shop),
            panel(&(shop.clone() + "2,11,OLD,1,1900-01-01 8:00,1,13,EIRE\n")),
        );
        assert_eq!(
            (good.days, &good.total().values),
            (stray.days, &stray.total().values)
        );
        assert_eq!(
            Shop::of(stray.total().past(stray.days), stray.end)
                .calendar
                .closed_weekdays,
            [5]
        );
    }

    #[test]
    fn history_begins_after_a_long_pause_that_enough_follows() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        for (days, end, start) in [
            (
                &["2009-01-01", "2009-10-01", "2010-03-01"][..],
                "2010-07-01",
                "2009-01-01",
            ),
            (
                &["2009-01-01", "2010-03-01", "2010-03-02"],
                "2010-07-01",
                "2010-03-01",
            ),
            (&["2009-01-01", "2010-06-20"], "2010-07-01", "2009-01-01"),
            (
                &["1900-01-01", "2009-01-01", "2010-06-20"],
                "2010-07-01",
                "2009-01-01",
            ),
        ] {
            let days = days.iter().map(|text| day(text)).collect();
            assert_eq!(beginning(&days, day(end)), Some(day(start)), "{days:?}");
        }
    }

    #[test]
    fn the_past_is_forecast_from_a_lattice_that_later_forecasts_share() {
        let [days, periods] = past(373);
        assert_eq!((days.len(), days[0], periods[0]), (8, 345, 317));
        assert!(periods[..6].iter().all(|at| days.contains(at)));
        // A young shop: what little there is.
        assert_eq!(past(70), [vec![56], vec![56]]);
    }

    #[test]
    fn a_regression_finds_the_weekday_and_weighs_series_alike() {
        let mut examples = Examples::default();
        for loud in [1.0, 100.0] {
            examples.series.push(examples.y.len());
            for at in 0..400 {
                let x = f64::from(at % 7);
                examples.x.push(x);
                // The loud one says the opposite, a hundred times as loud.
                examples.y.push(if loud > 1.0 { -loud * x } else { x });
            }
        }
        let prior = Linear {
            weights: vec![9.0],
            intercept: 0.0,
        };
        let fit = examples
            .fit(|y| y, |y| y, 1e-3, 1e-9, prior, tch::Device::Cpu)
            .unwrap();
        assert!(fit.weights[0] > 0.9, "{fit:?}");
        let few = Examples {
            x: vec![1.0],
            y: vec![1.0],
            series: vec![0],
        };
        let prior = Linear {
            weights: vec![9.0],
            intercept: 0.0,
        };
        assert_eq!(
            few.fit(|y| y, |y| y, 1e-3, 1.0, prior.clone(), tch::Device::Cpu)
                .unwrap(),
            prior
        );
    }
}
