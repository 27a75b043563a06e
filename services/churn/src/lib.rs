//! ChurnService and the Open Inference Protocol over the churn model.

use std::collections::HashMap;

use proto::churn::v1::{
    BatchGetChurnRisksRequest, BatchGetChurnRisksResponse, ChurnRisk, GetChurnCalibrationRequest,
    GetChurnCalibrationResponse, GetChurnRiskRequest, GetChurnRiskResponse,
    ListAtRiskCustomersRequest, ListAtRiskCustomersResponse, Reason, RiskLevel, ScoreChurnRequest,
    ScoreChurnResponse,
    batch_get_churn_risks_response::{Result as Item, result},
    churn_service_server::{ChurnService, ChurnServiceServer},
    get_churn_calibration_response::CalibrationBin,
};
use runtime::{Page, Refusal, at_least_one, item_status, required};
use scoring::{
    churn::{self as model, About, ChurnModel, Customer},
    customer::Feature,
};
use serving::{
    Live, Loaded,
    inference::{Batch, Interface, Output, Tensor, at},
};
use tonic::{Request, Response, Status};

/// Most customers of a batch.
const MOST: usize = 1000;
/// Reasons of a score.
const REASONS: usize = 5;

/// The service over a model.
pub fn service(live: Live<ChurnModel>) -> runtime::Service {
    let own = serving::limited!(ChurnServiceServer::new(Api(live.clone())));
    serving::service(&live, own).and(serving::inference::service(&live, &INTERFACE))
}

struct Api(Live<ChurnModel>);

#[tonic::async_trait]
impl ChurnService for Api {
    async fn get_churn_risk(
        &self,
        request: Request<GetChurnRiskRequest>,
    ) -> Result<Response<GetChurnRiskResponse>, Status> {
        self.0
            .answer(request, |loaded, asked| get(loaded, &asked.customer_id))
    }

    async fn batch_get_churn_risks(
        &self,
        request: Request<BatchGetChurnRisksRequest>,
    ) -> Result<Response<BatchGetChurnRisksResponse>, Status> {
        self.0
            .answer(request, |loaded, asked| batch(loaded, &asked.customer_ids))
    }

    async fn score_churn(
        &self,
        request: Request<ScoreChurnRequest>,
    ) -> Result<Response<ScoreChurnResponse>, Status> {
        self.0
            .answer(request, |loaded, asked| score(loaded, &asked.features))
    }

    async fn list_at_risk_customers(
        &self,
        request: Request<ListAtRiskCustomersRequest>,
    ) -> Result<Response<ListAtRiskCustomersResponse>, Status> {
        self.0.answer(request, list)
    }

    async fn get_churn_calibration(
        &self,
        request: Request<GetChurnCalibrationRequest>,
    ) -> Result<Response<GetChurnCalibrationResponse>, Status> {
        self.0.answer(request, |loaded, _| Ok(calibration(loaded)))
    }
}

fn level(level: model::RiskLevel) -> RiskLevel {
    match level {
        model::RiskLevel::Low => RiskLevel::Low,
        model::RiskLevel::Medium => RiskLevel::Medium,
        model::RiskLevel::High => RiskLevel::High,
    }
}

fn with_reasons(model: &ChurnModel, all: &[model::Reason], probability: f64) -> ChurnRisk {
    let (told, rest) = all.split_at(all.len().min(REASONS));
    let reasons = told.iter().map(|reason| {
        let (feature, value) = match reason.about {
            About::Feature(feature, value) => (feature.name(), value.into()),
            About::Taste => ("taste", 0.0),
        };
        Reason {
            feature: feature.to_owned(),
            text: reason.text(),
            value,
            contribution: reason.contribution,
        }
    });
    ChurnRisk {
        customer_id: String::new(),
        probability,
        risk_level: level(model.level(probability)).into(),
        reasons: reasons.collect(),
        base: model.base(),
        other: rest.iter().map(|reason| reason.contribution).sum(),
        annual_value: None,
        value_at_risk: None,
    }
}

fn of_customer(model: &ChurnModel, customer: &Customer) -> ChurnRisk {
    ChurnRisk {
        customer_id: customer.id.to_string(),
        annual_value: Some(customer.annual_value),
        value_at_risk: Some(customer.value_at_risk()),
        ..with_reasons(model, model.reasons_of(customer), customer.probability)
    }
}

fn find<'a>(model: &'a ChurnModel, id: &str) -> Result<&'a Customer, Refusal> {
    let id = scoring::CustomerId::canonical(required("customer_id", id)?);
    model
        .customer(id)
        .ok_or_else(|| Refusal::not_found("customer", id))
}

fn get(loaded: &Loaded<ChurnModel>, id: &str) -> Result<GetChurnRiskResponse, Refusal> {
    let risk = of_customer(&loaded.model, find(&loaded.model, id)?);
    loaded.note([("probability", risk.probability)]);
    Ok(GetChurnRiskResponse {
        churn_risk: Some(risk),
        model: Some(loaded.info.clone()),
    })
}

fn batch(
    loaded: &Loaded<ChurnModel>,
    ids: &[String],
) -> Result<BatchGetChurnRisksResponse, Refusal> {
    let results = at_least_one("customer_ids", ids, MOST)?.iter().map(|id| {
        let result = match find(&loaded.model, id) {
            Ok(customer) => result::Result::ChurnRisk(of_customer(&loaded.model, customer)),
            Err(refusal) => result::Result::Error(item_status(refusal)),
        };
        Item {
            result: Some(result),
        }
    });
    Ok(BatchGetChurnRisksResponse {
        results: results.collect(),
        model: Some(loaded.info.clone()),
    })
}

/// A feature as the model accepts it, or what is wrong with it.
fn usable(value: f64) -> Result<f32, String> {
    match value as f32 {
        // f32 is what the model computes in; a number beyond it is as unusable as NaN.
        narrow if !narrow.is_finite() => Err(format!("is {value}, not a finite number")),
        _ if value < 0.0 => Err(format!("is {value}; 0 is the least")),
        narrow => Ok(narrow),
    }
}

fn score(
    loaded: &Loaded<ChurnModel>,
    given: &HashMap<String, f64>,
) -> Result<ScoreChurnResponse, Refusal> {
    let (mut features, mut problems) = (Vec::with_capacity(model::WIDTH), Vec::new());
    for feature in Feature::ALL {
        let value = given
            .get(feature.name())
            .ok_or_else(|| "is missing".to_owned());
        match value.and_then(|value| usable(*value)) {
            Ok(value) => features.push(value),
            Err(problem) => problems.push((format!("features.{}", feature.name()), problem)),
        }
    }
    // A name too many is an unknown one, because every feature was found.
    if !problems.is_empty() || given.len() != features.len() {
        let mut unknown: Vec<_> = given
            .keys()
            .filter(|name| Feature::named(name).is_none())
            .collect();
        unknown.sort();
        let none = |name| {
            (
                format!("features.{name}"),
                "is no feature of the model".to_owned(),
            )
        };
        return Err(Refusal::InvalidFields(
            unknown.into_iter().map(none).chain(problems).collect(),
        ));
    }
    let features = loaded.model.with_average_taste(&features);
    let (probability, reasons) = loaded.model.explain(&features);
    let named = Feature::ALL
        .iter()
        .zip(&features)
        .map(|(feature, value)| (feature.name(), f64::from(*value)));
    loaded.note(named.chain([("probability", probability)]));
    let churn_risk = Some(with_reasons(&loaded.model, &reasons, probability));
    Ok(ScoreChurnResponse {
        churn_risk,
        model: Some(loaded.info.clone()),
    })
}

fn list(
    loaded: &Loaded<ChurnModel>,
    request: &ListAtRiskCustomersRequest,
) -> Result<ListAtRiskCustomersResponse, Refusal> {
    let ListAtRiskCustomersRequest {
        page_size,
        page_token,
        min_risk_level,
        country,
    } = request;
    let unknown = |_| {
        Refusal::field(
            "min_risk_level",
            format!("is {min_risk_level}, which is no level"),
        )
    };
    let least = match RiskLevel::try_from(*min_risk_level).map_err(unknown)? {
        RiskLevel::Unspecified | RiskLevel::Medium => model::RiskLevel::Medium,
        RiskLevel::Low => model::RiskLevel::Low,
        RiskLevel::High => model::RiskLevel::High,
    };
    let page = Page::of(
        "customers at risk",
        *page_size,
        page_token,
        (min_risk_level, country),
        &loaded.info.version,
    )?;
    let model = &loaded.model;
    let matching = model.customers().iter().filter(|customer| {
        model.level(customer.probability) >= least
            && (country.is_empty() || *customer.country == **country)
    });
    let matching: Vec<&Customer> = matching.collect();
    if matching.is_empty() && !knows_country(model.customers(), country) {
        return Err(Refusal::not_found("country", country));
    }
    let (customers, next_page_token) = page.cut(&matching);
    Ok(ListAtRiskCustomersResponse {
        churn_risks: customers
            .iter()
            .map(|customer| of_customer(model, customer))
            .collect(),
        next_page_token,
        total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
        as_of: loaded.info.as_of,
        model: Some(loaded.info.clone()),
    })
}

/// Whether any customer buys in a country; an empty name stands for all countries.
fn knows_country(customers: &[Customer], country: &str) -> bool {
    country.is_empty()
        || customers
            .iter()
            .any(|customer| *customer.country == *country)
}

fn calibration(loaded: &Loaded<ChurnModel>) -> GetChurnCalibrationResponse {
    let bins = loaded.model.calibration().iter().map(|bin| CalibrationBin {
        lower: bin.lower,
        upper: bin.upper,
        predicted: bin.predicted,
        observed: bin.observed,
        customers: bin.customers.cast_signed(),
    });
    let [medium_from, high_from] = loaded.model.levels();
    GetChurnCalibrationResponse {
        bins: bins.collect(),
        medium_from,
        high_from,
        model: Some(loaded.info.clone()),
    }
}

const FEATURES: Tensor<f32> = Tensor::matrix("features", Feature::ALL.len());
const CUSTOMER_ID: Tensor<String> = Tensor::column("customer_id");
const PROBABILITY: Tensor<f64> = Tensor::column("probability");
const RISK_LEVEL: Tensor<String> = Tensor::column("risk_level");

/// Accepts the features of ScoreChurn in the model's order, or ids of customers that the model
/// knows.
static INTERFACE: Interface<ChurnModel> = Interface {
    inputs: &[FEATURES.info(), CUSTOMER_ID.info()],
    outputs: &[PROBABILITY.info(), RISK_LEVEL.info()],
    infer,
};

fn infer(model: &ChurnModel, batch: &Batch<'_>) -> Result<Vec<Output>, Refusal> {
    let probabilities: Vec<f64> = match batch.alone(&CUSTOMER_ID)? {
        None => of_features(model, &batch.required(&FEATURES)?)?,
        Some(ids) => {
            let known = ids.iter().enumerate().map(|(row, id)| {
                let customer =
                    find(model, id).map_err(|refusal| refusal.renamed(|field| at(field, row)))?;
                Ok(customer.probability)
            });
            known.collect::<Result<_, Refusal>>()?
        }
    };
    let levels = probabilities
        .iter()
        .map(|probability| level(model.level(*probability)).as_str_name().to_owned());
    Ok(vec![RISK_LEVEL.of(levels), PROBABILITY.of(probabilities)])
}

fn of_features(model: &ChurnModel, rows: &[f32]) -> Result<Vec<f64>, Refusal> {
    let mut vectors = Vec::with_capacity(rows.len());
    for (row, given) in rows.chunks_exact(Feature::ALL.len()).enumerate() {
        for (value, feature) in given.iter().zip(Feature::ALL) {
            let field = |problem| {
                Refusal::field(
                    format!("{}.{}", at("features", row), feature.name()),
                    problem,
                )
            };
            usable((*value).into()).map_err(field)?;
        }
        vectors.extend(model.with_average_taste(given));
    }
    Ok(model.probabilities(&vectors))
}
