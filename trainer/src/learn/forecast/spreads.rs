//! Spreads: how far sales fell from the forecasts of the past, each by regressions learnt before
//! it. They are the source of the model's quantiles.

use scoring::{
    forecast::{
        DAYS, Frequency, HALF, JUDGED, STEADINESS, smoothing,
        spread::{LEVELS, Spread},
        units_place,
    },
    quantile,
};

use super::{
    origin::{Study, past},
    panel::Panel,
};

/// The distributions of actual sales around the forecast means.
pub(super) struct Spreads {
    /// Of each series of revenue and frequency.
    pub(super) revenue: Vec<[Spread; 3]>,
    /// Of each frequency, group of steadiness and half of the horizon; see [`units_place`].
    pub(super) units: Vec<Spread>,
    /// Borders between the groups of steadiness.
    pub(super) edges: Vec<f64>,
}

/// The spread without data: from half of the mean to one and a half times it.
fn unknown() -> Spread {
    Spread {
        errors: LEVELS.map(|level| level - 0.5),
        usual: 0.0,
    }
}

/// Sums of periods of some days; an incomplete last period is left out.
pub(super) fn sums(values: &[f64], days: usize) -> impl Iterator<Item = f64> + '_ {
    values.chunks_exact(days).map(|period| period.iter().sum())
}

impl Spreads {
    /// From the forecasts of earlier origins up to `origin`.
    #[expect(
        clippy::too_many_lines,
        reason = "one pass collects each series' errors and those of all"
    )]
    pub(super) fn of(panel: &Panel, study: &Study, origin: usize) -> Self {
        let [days, periods] = past(origin);
        let shop = &study[&origin].shop;
        let from = origin.saturating_sub(DAYS);
        let mut open = vec![false; origin];
        shop.open.iter().for_each(|at| open[from + at] = true);
        let mut of_all: [(Vec<f64>, Vec<f64>); 3] = Default::default();
        let mut own = Vec::with_capacity(panel.revenue.len());
        for (row, series) in panel.revenue.iter().enumerate() {
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
                        &study[at].revenue_ahead[row][..horizon],
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
        // A country with too few sales gets the spread of all countries.
        let of_all = of_all.map(|(means, actual)| Spread::of(&means, &actual, true));
        let revenue = own
            .into_iter()
            .map(|[day, week, month]| {
                let day = day.or(of_all[0]).unwrap_or_else(unknown);
                let week = week.or(of_all[1]).unwrap_or(Spread { usual: 0.0, ..day });
                [day, week, month.or(of_all[2]).unwrap_or(week)]
            })
            .collect();
        let (units, edges) = of_units(panel, study, origin, &periods);
        Self {
            revenue,
            units,
            edges,
        }
    }
}

/// The spreads of units and the borders between the groups of steadiness.
fn of_units(
    panel: &Panel,
    study: &Study,
    origin: usize,
    places: &[usize],
) -> (Vec<Spread>, Vec<f64>) {
    let mut unsteady = Vec::new();
    // (unsteadiness, frequency, half of the horizon, error)
    let mut errors: Vec<(f64, Frequency, usize, f64)> = Vec::new();
    for at in places {
        let origin_then = &study[at];
        let horizon = JUDGED.min(origin - at);
        // Products that were not launched yet have no error.
        for (product, outlook) in origin_then
            .products
            .iter()
            .filter(|(_, outlook)| outlook.floor > 0.025)
        {
            unsteady.push(outlook.unsteady);
            let ahead = outlook.days(&origin_then.shop, &origin_then.share, horizon);
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
        .map(|edge| quantile::linear(&unsteady, edge as f64 / STEADINESS as f64))
        .collect();
    let mut pools = vec![Vec::new(); 3 * STEADINESS * 2];
    for (unsteady, frequency, half, error) in errors {
        let group = edges.partition_point(|edge| *edge < unsteady);
        pools[units_place(frequency, group, half)].push(error);
    }
    (
        pools
            .iter()
            .map(|errors| Spread::scaled(errors).unwrap_or_else(unknown))
            .collect(),
        edges,
    )
}
