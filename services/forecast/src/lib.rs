//! ForecastService over the forecast model.

use chrono::{DateTime, NaiveDate, NaiveTime};
use prost_types::Timestamp;
use proto::forecast::v1::{
    ForecastHistoryRequest, ForecastHistoryResponse, ForecastPoint, ForecastSalesRequest, ForecastSalesResponse,
    Frequency, Level, ListSeriesRequest, ListSeriesResponse, Observation, Quantile, Series,
    forecast_service_server::{ForecastService, ForecastServiceServer},
};
use runtime::{Page, Refusal, finite, non_negative, required, within};
use scoring::forecast::{self as model, Forecast};
use serving::{Live, Loaded};
use tonic::{Request, Response, Status};

/// Quantiles when the caller does not say.
const USUAL_QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];
const MOST_QUANTILES: usize = 9;
/// Periods of a caller's own history.
const HISTORY: std::ops::RangeInclusive<usize> = 8..=5000;

/// The service over a model.
pub fn service(live: Live<Forecast>) -> runtime::Service {
    serving::service(&live, serving::limited!(ForecastServiceServer::new(Api(live.clone()))))
}

struct Api(Live<Forecast>);

#[tonic::async_trait]
impl ForecastService for Api {
    async fn list_series(&self, request: Request<ListSeriesRequest>) -> Result<Response<ListSeriesResponse>, Status> {
        self.0.answer(|loaded| list(loaded, request.get_ref()))
    }

    async fn forecast_sales(
        &self,
        request: Request<ForecastSalesRequest>,
    ) -> Result<Response<ForecastSalesResponse>, Status> {
        self.0.answer(|loaded| sales(loaded, request.get_ref()))
    }

    async fn forecast_history(
        &self,
        request: Request<ForecastHistoryRequest>,
    ) -> Result<Response<ForecastHistoryResponse>, Status> {
        self.0.answer(|loaded| history(loaded, request.get_ref()))
    }
}

fn level(level: i32) -> Result<Option<model::Level>, Refusal> {
    match Level::try_from(level) {
        Ok(Level::Unspecified) => Ok(None),
        Ok(Level::Total) => Ok(Some(model::Level::Total)),
        Ok(Level::Country) => Ok(Some(model::Level::Country)),
        Ok(Level::Product) => Ok(Some(model::Level::Product)),
        Err(_) => Err(Refusal::field("level", format!("is {level}, which is no level"))),
    }
}

fn frequency(frequency: i32) -> Result<model::Frequency, Refusal> {
    match Frequency::try_from(frequency) {
        Ok(Frequency::Unspecified | Frequency::Daily) => Ok(model::Frequency::Daily),
        Ok(Frequency::Weekly) => Ok(model::Frequency::Weekly),
        Ok(Frequency::Monthly) => Ok(model::Frequency::Monthly),
        Err(_) => Err(Refusal::field("frequency", format!("is {frequency}, which is no frequency"))),
    }
}

fn quantiles(given: &[f64]) -> Result<Vec<f64>, Refusal> {
    if given.is_empty() {
        return Ok(USUAL_QUANTILES.to_vec());
    }
    if given.len() > MOST_QUANTILES {
        return Err(Refusal::field("quantiles", format!("has {} items; {MOST_QUANTILES} is the most", given.len())));
    }
    let check = |(at, level): (usize, &f64)| {
        let field = format!("quantiles[{at}]");
        match finite(&field, *level)? {
            level if level > 0.0 && level < 1.0 => Ok(level),
            level => Err(Refusal::field(field, format!("is {level}; it must be above 0 and below 1"))),
        }
    };
    given.iter().enumerate().map(check).collect()
}

fn horizon(given: i32, frequency: model::Frequency) -> Result<usize, Refusal> {
    let (usual, most) = frequency.horizons();
    within("horizon", given, usual, most)
}

fn midnight(day: NaiveDate) -> Timestamp {
    Timestamp { seconds: day.and_time(NaiveTime::MIN).and_utc().timestamp(), nanos: 0 }
}

fn points(points: Vec<model::Point>, levels: &[f64]) -> Vec<ForecastPoint> {
    let point = |point: model::Point| ForecastPoint {
        period_start: Some(midnight(point.start)),
        mean: point.mean,
        quantiles: levels.iter().zip(point.quantiles).map(|(level, value)| Quantile { level: *level, value }).collect(),
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

fn list(loaded: &Loaded<Forecast>, request: &ListSeriesRequest) -> Result<ListSeriesResponse, Refusal> {
    let of = level(request.level)?;
    let page = Page::of(request.page_size, &request.page_token, request.level, &loaded.info.version)?;
    let matching = loaded.model.series().iter().filter(|series| of.is_none_or(|level| series.level == level));
    let matching: Vec<&model::Series> = matching.collect();
    let (series, next_page_token) = page.cut(&matching);
    Ok(ListSeriesResponse {
        series: series.iter().map(|series| message(series)).collect(),
        next_page_token,
        total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
        model: Some(loaded.info.clone()),
    })
}

fn sales(loaded: &Loaded<Forecast>, request: &ForecastSalesRequest) -> Result<ForecastSalesResponse, Refusal> {
    let (frequency, levels) = (frequency(request.frequency)?, quantiles(&request.quantiles)?);
    let horizon = horizon(request.horizon, frequency)?;
    let of = level(request.level)?.unwrap_or(model::Level::Total);
    let key = match of {
        model::Level::Total if !request.key.is_empty() => {
            return Err(Refusal::field("key", "must be empty for the whole shop; give level as well"));
        }
        model::Level::Total => "",
        model::Level::Country | model::Level::Product => required("key", &request.key)?,
    };
    let series = loaded.model.find(of, key).ok_or_else(|| Refusal::not_found(of.as_str(), key))?;
    Ok(ForecastSalesResponse {
        series: Some(message(series)),
        points: points(loaded.model.forecast(series, frequency, horizon, &levels), &levels),
        reasons: loaded.model.reasons(series),
        model: Some(loaded.info.clone()),
    })
}

fn history(loaded: &Loaded<Forecast>, request: &ForecastHistoryRequest) -> Result<ForecastHistoryResponse, Refusal> {
    let (frequency, levels) = (frequency(request.frequency)?, quantiles(&request.quantiles)?);
    let horizon = horizon(request.horizon, frequency)?;
    if request.history.is_empty() {
        return Err(Refusal::field("history", "is empty"));
    }
    if !HISTORY.contains(&request.history.len()) {
        let problem =
            format!("has {} periods; {} to {} are taken", request.history.len(), HISTORY.start(), HISTORY.end());
        return Err(Refusal::field("history", problem));
    }
    let past = past(&request.history, frequency)?;
    Ok(ForecastHistoryResponse {
        points: points(loaded.model.continue_history(&past, frequency, horizon, &levels), &levels),
        reasons: vec![format!("continued from {} periods up to {}", past.len(), past[past.len() - 1].0)],
        model: Some(loaded.info.clone()),
    })
}

/// The caller's periods, each checked to follow the one before it.
fn past(history: &[Observation], frequency: model::Frequency) -> Result<Vec<(NaiveDate, f64)>, Refusal> {
    let mut past: Vec<(NaiveDate, f64)> = Vec::with_capacity(history.len());
    for (at, observation) in history.iter().enumerate() {
        let field = format!("history[{at}].period_start");
        let start = observation.period_start.as_ref().ok_or_else(|| Refusal::field(&field, "is missing"))?;
        let day = DateTime::from_timestamp(start.seconds, 0).map(|time| frequency.begin(time.date_naive()));
        // Calendars end, and sums over them must not.
        let day = day.filter(|day| (1900..2200).contains(&chrono::Datelike::year(day)));
        let day = day.ok_or_else(|| Refusal::field(&field, "is no day from 1900 to 2199"))?;
        if let Some((before, _)) = past.last() {
            let next = frequency.next(*before);
            if day != next {
                return Err(Refusal::field(field, format!("is in the period of {day}; the one of {next} comes next")));
            }
        }
        past.push((day, non_negative(&format!("history[{at}].value"), observation.value)?));
    }
    Ok(past)
}
