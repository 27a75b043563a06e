//! Forecast origins: days of the panel as of which regressions are learnt and forecasts made.

use std::collections::BTreeMap;

use rayon::prelude::*;
use scoring::forecast::{
    DAYS, HALF, JUDGED, Linear,
    calendar::Shop,
    revenue,
    units::{self, Outlook},
};

use super::{
    panel::{Panel, largest},
    regression::{learn_revenue, learn_units, share},
};
use crate::learn::{LearnError, Training};

/// Products from which the regression of units learns, the best-selling.
const LEARNT_PRODUCTS: usize = 400;
/// Days between origins.
pub(super) const STEP_DAYS: usize = 14;
/// Earlier origins that an origin is compared with.
const PAST_ORIGINS: usize = 8;
/// Days that an earlier origin needs.
pub(super) const FIRST_DAYS: usize = 84;

/// What is learnt as of a day of the panel, and forecasts from there.
pub(super) struct Origin {
    pub(super) shop: Shop,
    /// The regressions.
    pub(super) revenue: Linear,
    pub(super) units: Linear,
    pub(super) growth: [f64; 4],
    /// The share of a week's units that each weekday sells.
    pub(super) share: [f64; 7],
    /// For each series of revenue, the forecast days.
    pub(super) revenue_ahead: Vec<Vec<f64>>,
    /// The best-selling products, each with its forecast.
    pub(super) products: Vec<(usize, Outlook)>,
}

impl Origin {
    fn at(panel: &Panel, origin: usize, device: tch::Device) -> Result<Self, LearnError> {
        let total = panel.total().past(origin);
        let shop = Shop::of(total, panel.date(origin));
        let revenue = learn_revenue(panel, origin, &shop, device)?;
        let past: Vec<&[f64]> = panel
            .revenue
            .iter()
            .map(|series| series.past(origin))
            .collect();
        let revenue_ahead = revenue::forecast(&revenue, &shop, &past, JUDGED);

        let from = origin.saturating_sub(DAYS);
        let all_units = shop.weeks(&panel.all_units[from..origin]);
        let revenue_weeks = shop.weeks(total);
        let learnt: Vec<(usize, Vec<f64>)> = largest(&panel.products, origin, LEARNT_PRODUCTS)
            .into_iter()
            .map(|product| {
                (
                    product,
                    units::tame(shop.weeks(panel.products[product].past(origin))),
                )
            })
            .collect();
        let units = learn_units(&learnt, &revenue_weeks, &all_units, device)?;
        let growth = units::growth(&revenue_weeks, &all_units);
        let products = learnt
            .iter()
            .map(|(product, weeks)| {
                (
                    *product,
                    Outlook::of(&units, weeks, growth, |ahead| shop.season(ahead)),
                )
            })
            .collect();
        let share = share(&shop, &panel.all_units[from..origin]);
        Ok(Self {
            shop,
            revenue,
            units,
            growth,
            share,
            revenue_ahead,
            products,
        })
    }
}

/// Origins by their day in the panel.
pub(super) type Study = BTreeMap<usize, Origin>;

/// The earlier origins. Their forecasts up to `origin` are compared with what was sold: for days
/// and for longer periods, the latest first.
///
/// They are [`STEP_DAYS`] apart, so that origins [`STEP_DAYS`] apart share most of them.
pub(super) fn past(origin: usize) -> [Vec<usize>; 2] {
    [HALF, JUDGED].map(|horizon| {
        let last = origin.saturating_sub(horizon);
        let mut places: Vec<usize> = (0..PAST_ORIGINS)
            .filter_map(|back| last.checked_sub(STEP_DAYS * back))
            .filter(|at| *at >= FIRST_DAYS)
            .collect();
        if places.is_empty() {
            places.push(last.max(JUDGED.min(origin)));
        }
        places
    })
}

/// Forecasts from some origins and from the earlier origins that they are compared with.
pub(super) fn study(
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
        let origins = places
            .par_iter()
            .map(|origin| Ok((*origin, Origin::at(panel, *origin, device)?)));
        study.extend(origins.collect::<Result<Vec<_>, LearnError>>()?);
        training.progress.advance(places.len() as u64);
    }
    training.progress.end();
    Ok(study)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_forecast_from_origins_that_later_forecasts_share() {
        let [days, periods] = past(373);
        assert_eq!((days.len(), days[0], periods[0]), (8, 345, 317));
        assert!(periods[..6].iter().all(|at| days.contains(at)));
        // A shop too young for a whole window.
        assert_eq!(past(70), [vec![56], vec![56]]);
    }
}
