//! Forecasts of series in bulk.

use rayon::prelude::*;
use scoring::{
    Artifact,
    forecast::{ForecastModel, Frequency, Level, Point},
};

use super::{
    BulkTable, Request,
    ids::requested,
    request::{FrequencyChoice, LevelChoice},
    table::load,
};
use crate::{Failure, columns::column};

/// Columns of quantiles, the usual ones first.
const QUANTILES: [(&str, f64); 9] = [
    ("q10", 0.1),
    ("q50", 0.5),
    ("q90", 0.9),
    ("q20", 0.2),
    ("q30", 0.3),
    ("q40", 0.4),
    ("q60", 0.6),
    ("q70", 0.7),
    ("q80", 0.8),
];

/// A row for each series and period.
pub(crate) fn score(artifact: &Artifact, request: &Request) -> Result<BulkTable, Failure> {
    let model: ForecastModel = load(artifact)?;
    let mut all = Vec::new();
    for (level, frequency) in choices(request) {
        let of_level = model.series().iter().filter(|series| series.level == level);
        all.extend(of_level.map(|series| {
            let id = series_id(frequency, level, &series.key);
            (id, (series, frequency))
        }));
    }
    let (series, left_out) = requested(request.input.as_deref(), "series_id", all)?;
    let levels = QUANTILES.map(|(_, level)| level);
    let points: Vec<Vec<Point>> = series
        .par_iter()
        .map(|(_, (series, frequency))| {
            let horizon = horizon(request.horizon, *frequency)?;
            Ok(model.forecast(series, *frequency, horizon, &levels))
        })
        .collect::<Result<_, Failure>>()?;
    let mut rows = Vec::new();
    for ((id, _), points) in series.iter().zip(&points) {
        rows.extend(points.iter().map(|point| (id.as_str(), point)));
    }
    let mut columns = vec![
        column("series_id", rows.iter().map(|(id, _)| *id)),
        column("timestamp", rows.iter().map(|(_, point)| point.start)),
        column("mean", rows.iter().map(|(_, point)| point.mean)),
    ];
    for (at, (name, _)) in QUANTILES.into_iter().enumerate() {
        let quantiles = rows.iter().map(|(_, point)| point.quantiles[at]);
        columns.push(column(name, quantiles));
    }
    Ok(BulkTable { columns, left_out })
}

/// The levels and frequencies to forecast: those of the flags; without flags all if an input names
/// series, or else the days of the shop.
fn choices(request: &Request) -> Vec<(Level, Frequency)> {
    let has_input = request.input.is_some();
    let levels = match request.level {
        Some(LevelChoice::Country) => vec![Level::Country],
        Some(LevelChoice::Product) => vec![Level::Product],
        None if has_input => vec![Level::Total, Level::Country, Level::Product],
        Some(LevelChoice::Total) | None => vec![Level::Total],
    };
    let frequencies = match request.frequency {
        Some(FrequencyChoice::Weekly) => vec![Frequency::Weekly],
        Some(FrequencyChoice::Monthly) => vec![Frequency::Monthly],
        None if has_input => Frequency::ALL.to_vec(),
        Some(FrequencyChoice::Daily) | None => vec![Frequency::Daily],
    };
    let mut choices = Vec::new();
    for level in levels {
        choices.extend(frequencies.iter().map(|frequency| (level, *frequency)));
    }
    choices
}

fn adverb(frequency: Frequency) -> &'static str {
    match frequency {
        Frequency::Daily => "daily",
        Frequency::Weekly => "weekly",
        Frequency::Monthly => "monthly",
    }
}

fn series_id(frequency: Frequency, level: Level, key: &str) -> String {
    let adverb = adverb(frequency);
    match level {
        Level::Total => format!("{adverb}_total"),
        Level::Country => format!("{adverb}_country/{key}"),
        Level::Product => format!("{adverb}_product/{key}"),
    }
}

/// The number of periods, up to the limit of the service.
fn horizon(requested: Option<u16>, frequency: Frequency) -> Result<usize, Failure> {
    let (default, limit) = frequency.horizons();
    let horizon = requested.map_or(default, usize::from);
    if horizon <= limit {
        return Ok(horizon);
    }
    let adverb = adverb(frequency);
    let problem = format!("{horizon} is too far: the limit of {adverb} forecasts is {limit}");
    Err(Failure::Flag {
        flag: "--horizon",
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::request::tests::request;

    #[test]
    fn a_horizon_is_one_that_the_service_answers() {
        let (default, limit) = Frequency::Monthly.horizons();
        let horizon = |requested| {
            horizon(requested, Frequency::Monthly).map_err(|failure| failure.to_string())
        };
        assert_eq!((horizon(None), horizon(Some(12))), (Ok(default), Ok(limit)));
        let refused = "--horizon 36 is too far: the limit of monthly forecasts is 12";
        assert_eq!(horizon(Some(36)), Err(refused.to_owned()));
    }

    #[test]
    fn the_input_names_the_series_unless_flags_do() {
        assert_eq!(choices(&request("")), [(Level::Total, Frequency::Daily)]);
        let all = choices(&request("--input i.csv"));
        assert_eq!(all.len(), 9);
        assert!(all.contains(&(Level::Country, Frequency::Weekly)));
        let weekly = request("--input i.csv --frequency weekly --level country");
        assert_eq!(choices(&weekly), [(Level::Country, Frequency::Weekly)]);
        assert_eq!(
            series_id(Frequency::Weekly, Level::Country, "Germany"),
            "weekly_country/Germany"
        );
    }
}
