//! ForecastService over the forecast model.

use chrono::{DateTime, NaiveDate, NaiveTime};
use prost_types::Timestamp;
use proto::forecast::v1::{
    BacktestPoint, ForecastHistoryRequest, ForecastHistoryResponse, ForecastPoint,
    ForecastSalesRequest, ForecastSalesResponse, Frequency, Level, ListBacktestRequest,
    ListBacktestResponse, ListSeriesRequest, ListSeriesResponse, Observation, Quantile, Series,
    forecast_service_server::{ForecastService, ForecastServiceServer},
};
use runtime::{Page, Refusal, finite, non_negative, required, within};
use scoring::forecast::{self as model, ForecastModel};
use serving::{Live, Loaded};
use tonic::{Request, Response, Status};

/// Quantiles by default.
const USUAL_QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];
const MOST_QUANTILES: usize = 9;
/// Periods that a history in a request may have.
const HISTORY: std::ops::RangeInclusive<usize> = 8..=5000;

/// The service over a model.
pub fn service(live: Live<ForecastModel>) -> runtime::Service {
    serving::service(
        &live,
        serving::limited!(ForecastServiceServer::new(Api(live.clone()))),
    )
}

struct Api(Live<ForecastModel>);

#[tonic::async_trait]
impl ForecastService for Api {
    async fn list_series(
        &self,
        request: Request<ListSeriesRequest>,
    ) -> Result<Response<ListSeriesResponse>, Status> {
        self.0.answer(request, list)
    }

    async fn forecast_sales(
        &self,
        request: Request<ForecastSalesRequest>,
    ) -> Result<Response<ForecastSalesResponse>, Status> {
        self.0.answer(request, sales)
    }

    async fn list_backtest(
        &self,
        request: Request<ListBacktestRequest>,
    ) -> Result<Response<ListBacktestResponse>, Status> {
        self.0.answer(request, backtest)
    }

    async fn forecast_history(
        &self,
        request: Request<ForecastHistoryRequest>,
    ) -> Result<Response<ForecastHistoryResponse>, Status> {
        self.0.answer(request, history)
    }
}

fn level(level: i32) -> Result<Option<model::Level>, Refusal> {
    match Level::try_from(level) {
        Ok(Level::Unspecified) => Ok(None),
        Ok(Level::Total) => Ok(Some(model::Level::Total)),
        Ok(Level::Country) => Ok(Some(model::Level::Country)),
        Ok(Level::Product) => Ok(Some(model::Level::Product)),
        Err(_) => Err(Refusal::field(
            "level",
            format!("is {level}, which is no level"),
        )),
    }
}

fn frequency(frequency: i32) -> Result<model::Frequency, Refusal> {
    match Frequency::try_from(frequency) {
        Ok(Frequency::Unspecified | Frequency::Daily) => Ok(model::Frequency::Daily),
        Ok(Frequency::Weekly) => Ok(model::Frequency::Weekly),
        Ok(Frequency::Monthly) => Ok(model::Frequency::Monthly),
        Err(_) => Err(Refusal::field(
            "frequency",
            format!("is {frequency}, which is no frequency"),
        )),
    }
}

fn quantiles(given: &[f64]) -> Result<Vec<f64>, Refusal> {
    if given.is_empty() {
        return Ok(USUAL_QUANTILES.to_vec());
    }
    if given.len() > MOST_QUANTILES {
        return Err(Refusal::field(
            "quantiles",
            format!("has {} items; {MOST_QUANTILES} is the most", given.len()),
        ));
    }
    let check = |(at, level): (usize, &f64)| {
        let field = format!("quantiles[{at}]");
        match finite(&field, *level)? {
            level if level > 0.0 && level < 1.0 => Ok(level),
            level => Err(Refusal::field(
                field,
                format!("is {level}; it must be above 0 and below 1"),
            )),
        }
    };
    given.iter().enumerate().map(check).collect()
}

fn horizon(given: i32, frequency: model::Frequency) -> Result<usize, Refusal> {
    let (usual, most) = frequency.horizons();
    within("horizon", given, usual, most)
}

fn midnight(day: NaiveDate) -> Timestamp {
    Timestamp {
        seconds: day.and_time(NaiveTime::MIN).and_utc().timestamp(),
        nanos: 0,
    }
}

fn points(points: Vec<model::Point>, levels: &[f64]) -> Vec<ForecastPoint> {
    let point = |point: model::Point| ForecastPoint {
        period_start: Some(midnight(point.start)),
        mean: point.mean,
        quantiles: levels
            .iter()
            .zip(point.quantiles)
            .map(|(level, value)| Quantile {
                level: *level,
                value,
            })
            .collect(),
    };
    points.into_iter().map(point).collect()
}

fn message(series: &model::Series) -> Series {
    let (level, unit) = match series.level {
        model::Level::Total => (Level::Total, "currency"),
        model::Level::Country => (Level::Country, "currency"),
        model::Level::Product => (Level::Product, "pieces"),
    };
    Series {
        level: level.into(),
        key: series.key.to_string(),
        name: series.name.to_string(),
        unit: unit.to_owned(),
        start_time: Some(midnight(series.start)),
        recent_total: series.recent_total,
    }
}

fn list(
    loaded: &Loaded<ForecastModel>,
    request: &ListSeriesRequest,
) -> Result<ListSeriesResponse, Refusal> {
    let of = level(request.level)?;
    let page = Page::of(
        "series",
        request.page_size,
        &request.page_token,
        request.level,
        &loaded.info.version,
    )?;
    let matching = loaded
        .model
        .series()
        .iter()
        .filter(|series| of.is_none_or(|level| series.level == level));
    let matching: Vec<&model::Series> = matching.collect();
    let (series, next_page_token) = page.cut(&matching);
    Ok(ListSeriesResponse {
        series: series.iter().map(|series| message(series)).collect(),
        next_page_token,
        total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
        model: Some(loaded.info.clone()),
    })
}

fn find<'a>(model: &'a ForecastModel, of: i32, key: &str) -> Result<&'a model::Series, Refusal> {
    let of = level(of)?.unwrap_or(model::Level::Total);
    let key = match of {
        model::Level::Total if !key.is_empty() => {
            return Err(Refusal::field(
                "key",
                "must be empty for the whole shop; give level as well",
            ));
        }
        model::Level::Total => "",
        model::Level::Country | model::Level::Product => required("key", key)?,
    };
    model
        .find(of, key)
        .ok_or_else(|| Refusal::not_found(of.as_str(), key))
}

/// The name of a series in a request.
fn asked(series: &model::Series) -> &str {
    if series.key.is_empty() {
        series.level.as_str()
    } else {
        &series.key
    }
}

fn sales(
    loaded: &Loaded<ForecastModel>,
    request: &ForecastSalesRequest,
) -> Result<ForecastSalesResponse, Refusal> {
    let (frequency, levels) = (
        frequency(request.frequency)?,
        quantiles(&request.quantiles)?,
    );
    let horizon = horizon(request.horizon, frequency)?;
    let series = find(&loaded.model, request.level, &request.key)?;
    Ok(ForecastSalesResponse {
        series: Some(message(series)),
        points: points(
            loaded.model.forecast(series, frequency, horizon, &levels),
            &levels,
        ),
        reasons: loaded.model.reasons(series),
        model: Some(loaded.info.clone()),
    })
}

fn backtest(
    loaded: &Loaded<ForecastModel>,
    request: &ListBacktestRequest,
) -> Result<ListBacktestResponse, Refusal> {
    let frequency = frequency(request.frequency)?;
    if frequency == model::Frequency::Monthly {
        return Err(Refusal::field(
            "frequency",
            "is FREQUENCY_MONTHLY; there are days and weeks",
        ));
    }
    let series = find(&loaded.model, request.level, &request.key)?;
    let backtest = loaded.model.backtest(series, frequency);
    let points = &backtest
        .ok_or_else(|| Refusal::not_found("backtest", asked(series)))?
        .points;
    let actual: f64 = points.iter().map(|point| point.actual).sum();
    let error: f64 = points
        .iter()
        .map(|point| (point.actual - point.mean).abs())
        .sum();
    // A closed day is known in advance, and so does not count towards the coverage.
    let open: Vec<_> = points.iter().filter(|point| point.mean > 0.0).collect();
    let within = open
        .iter()
        .filter(|point| (point.range[0]..=point.range[1]).contains(&point.actual))
        .count();
    let quantiles = |range: [f64; 2]| {
        [0.1, 0.9]
            .into_iter()
            .zip(range)
            .map(|(level, value)| Quantile { level, value })
            .collect()
    };
    Ok(ListBacktestResponse {
        points: points
            .iter()
            .map(|point| BacktestPoint {
                period_start: Some(midnight(point.start)),
                actual: point.actual,
                mean: point.mean,
                quantiles: quantiles(point.range),
            })
            .collect(),
        wape: if actual > 0.0 { error / actual } else { 0.0 },
        coverage: within as f64 / open.len().max(1) as f64,
        model: Some(loaded.info.clone()),
    })
}

fn history(
    loaded: &Loaded<ForecastModel>,
    request: &ForecastHistoryRequest,
) -> Result<ForecastHistoryResponse, Refusal> {
    let (frequency, levels) = (
        frequency(request.frequency)?,
        quantiles(&request.quantiles)?,
    );
    let horizon = horizon(request.horizon, frequency)?;
    if request.history.is_empty() {
        return Err(Refusal::field("history", "is empty"));
    }
    if !HISTORY.contains(&request.history.len()) {
        let problem = format!(
            "has {} periods; {} to {} are taken",
            request.history.len(),
            HISTORY.start(),
            HISTORY.end()
        );
        return Err(Refusal::field("history", problem));
    }
    let past = past(&request.history, frequency)?;
    Ok(ForecastHistoryResponse {
        points: points(
            loaded
                .model
                .continue_history(&past, frequency, horizon, &levels),
            &levels,
        ),
        reasons: vec![format!(
            "continued from {} periods up to {}",
            past.len(),
            past[past.len() - 1].0
        )],
        model: Some(loaded.info.clone()),
    })
}

/// The caller's periods, each checked to follow the one before it.
fn past(
    history: &[Observation],
    frequency: model::Frequency,
) -> Result<Vec<(NaiveDate, f64)>, Refusal> {
    let mut past: Vec<(NaiveDate, f64)> = Vec::with_capacity(history.len());
    for (at, observation) in history.iter().enumerate() {
        let field = format!("history[{at}].period_start");
        let start = observation
            .period_start
            .as_ref()
            .ok_or_else(|| Refusal::field(&field, "is missing"))?;
        let day = DateTime::from_timestamp(start.seconds, 0).map(|time| time.date_naive());
        // chrono's calendar ends; adding periods to a date near its end would panic.
        let day = day.filter(|day| (1900..2200).contains(&chrono::Datelike::year(day)));
        let day = frequency
            .begin(day.ok_or_else(|| Refusal::field(&field, "is no day from 1900 to 2199"))?);
        if let Some((before, _)) = past.last() {
            let next = frequency.next(*before);
            if day != next {
                return Err(Refusal::field(
                    field,
                    format!("is in the period of {day}; the one of {next} comes next"),
                ));
            }
        }
        let field = format!("history[{at}].value");
        let value = non_negative(&field, observation.value)?;
        if value > model::MOST_VALUE {
            return Err(Refusal::field(
                field,
                format!("is {value:e}; {:e} is the most", model::MOST_VALUE),
            ));
        }
        past.push((day, value));
    }
    Ok(past)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_no_shop_has_is_refused_by_field() {
        let day = |at: i64| {
            Some(Timestamp {
                seconds: at * 86_400,
                nanos: 0,
            })
        };
        let of = |value| {
            [0.0, value]
                .into_iter()
                .zip(0..)
                .map(|(value, at)| Observation {
                    period_start: day(at),
                    value,
                })
        };
        let past = |value| past(&of(value).collect::<Vec<_>>(), model::Frequency::Daily);
        assert_eq!(past(model::MOST_VALUE).unwrap()[1].1, 1e15);
        for (value, problem) in [
            (1e160, "history[1].value is 1e160; 1e15 is the most"),
            (1e307, "history[1].value is 1e307; 1e15 is the most"),
            (
                f64::INFINITY,
                "history[1].value is inf, not a finite number",
            ),
            (-1.0, "history[1].value is -1; 0 is the least"),
        ] {
            assert_eq!(past(value).unwrap_err().to_string(), problem);
        }
    }

    #[test]
    fn a_day_at_the_end_of_calendars_is_refused() {
        for day in [NaiveDate::MIN, NaiveDate::MAX] {
            let seconds = day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp();
            let period_start = Some(Timestamp { seconds, nanos: 0 });
            for frequency in [
                model::Frequency::Daily,
                model::Frequency::Weekly,
                model::Frequency::Monthly,
            ] {
                let refused = super::past(
                    &[Observation {
                        period_start,
                        value: 1.0,
                    }],
                    frequency,
                )
                .unwrap_err();
                assert_eq!(
                    refused.to_string(),
                    "history[0].period_start is no day from 1900 to 2199"
                );
            }
        }
    }
}
