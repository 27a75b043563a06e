//! AnomalyService and the Open Inference Protocol over the anomaly model.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use prost_types::Timestamp;
use proto::anomaly::v1::{
    Anomaly as Listed, Deviation, ListAnomaliesRequest, ListAnomaliesResponse, Measure,
    ScoreTransactionRequest, ScoreTransactionResponse, ScoreTransactionsRequest,
    ScoreTransactionsResponse, Severity, Transaction, TransactionScore,
    anomaly_service_server::{AnomalyService, AnomalyServiceServer},
    score_transactions_response,
};
use runtime::{Page, Refusal, item_status, positive, required};
use scoring::anomaly::{self as model, AnomalyModel, Recorded};
use serving::{
    Live, Loaded,
    inference::{Batch, Interface, Output, Tensor, at},
};
use tonic::{Request, Response, Status, Streaming};

/// The service over a model.
pub fn service(live: Live<AnomalyModel>) -> runtime::Service {
    let own = serving::limited!(AnomalyServiceServer::new(Api(live.clone())));
    serving::service(&live, own).and(serving::inference::service(&live, &INTERFACE))
}

/// Most lines of a stream that are scored together.
const AT_ONCE: usize = 64;

struct Api(Live<AnomalyModel>);

#[tonic::async_trait]
impl AnomalyService for Api {
    async fn score_transaction(
        &self,
        request: Request<ScoreTransactionRequest>,
    ) -> Result<Response<ScoreTransactionResponse>, Status> {
        self.0.answer(request, |loaded, asked| {
            let score = Some(score(loaded, asked.transaction.as_ref())?);
            Ok(ScoreTransactionResponse {
                score,
                model: Some(loaded.info.clone()),
            })
        })
    }

    type ScoreTransactionsStream =
        Pin<Box<dyn Stream<Item = Result<ScoreTransactionsResponse, Status>> + Send>>;

    async fn score_transactions(
        &self,
        request: Request<Streaming<ScoreTransactionsRequest>>,
    ) -> Result<Response<Self::ScoreTransactionsStream>, Status> {
        let (live, channel) = (self.0.clone(), serving::channel(&request));
        live.on(channel)?;
        // Lines that have arrived already are scored together, others as they arrive. More are read
        // when the answers before them have been taken, so that the caller's flow-control window is
        // the only buffer. A message that cannot be read ends the stream, because tonic would
        // return the same error for ever.
        let lines = request.into_inner().ready_chunks(AT_ONCE);
        let answers = stream::try_unfold(Some((lines, live)), move |going_on| async move {
            let Some((mut lines, live)) = going_on else {
                return Ok(None);
            };
            let Some(asked) = lines.next().await else {
                return Ok(None);
            };
            // Each batch is scored by the model that is current now; a stream may outlive many.
            let answers = score_each(&*live.on(channel)?, asked);
            let going_on = answers.iter().all(Result::is_ok).then_some((lines, live));
            Ok::<_, Status>(Some((stream::iter(answers), going_on)))
        });
        let answers = answers.try_flatten();
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_anomalies(
        &self,
        request: Request<ListAnomaliesRequest>,
    ) -> Result<Response<ListAnomaliesResponse>, Status> {
        self.0.answer(request, list)
    }
}

fn severity(severity: model::Severity) -> Severity {
    match severity {
        model::Severity::None => Severity::None,
        model::Severity::Low => Severity::Low,
        model::Severity::Medium => Severity::Medium,
        model::Severity::High => Severity::High,
    }
}

/// The score of a line without a known invoice.
fn score(
    loaded: &Loaded<AnomalyModel>,
    transaction: Option<&Transaction>,
) -> Result<TransactionScore, Refusal> {
    let (line, line_id) = of_message(transaction)?;
    let score = loaded.model.score(&line);
    loaded.note([("score", score.score)]);
    Ok(message(&score, line_id, line.stock_code, line.customer_id))
}

/// The answers to many lines, up to the first that could not be read.
fn score_each(
    loaded: &Loaded<AnomalyModel>,
    asked: Vec<Result<ScoreTransactionsRequest, Status>>,
) -> Vec<Result<ScoreTransactionsResponse, Status>> {
    let mut unread = None;
    let asked: Vec<_> = asked
        .into_iter()
        .map_while(|line| line.map_err(|status| unread = Some(status)).ok())
        .collect();
    let lines: Vec<_> = asked
        .iter()
        .map(|line| of_message(line.transaction.as_ref()))
        .collect();
    let usable: Vec<_> = lines.iter().flatten().map(|(line, _)| *line).collect();
    let scores = loaded.model.scores(&usable);
    loaded.note(scores.iter().map(|score| ("score", score.score)));
    let mut scores = scores.iter();
    let answers = asked.iter().zip(lines).map(|(asked, line)| {
        // `scores` has one score for each usable line, in order.
        let scored = line.and_then(|(line, line_id)| {
            let score = scores.next().ok_or(Refusal::Internal)?;
            Ok(message(score, line_id, line.stock_code, line.customer_id))
        });
        let result = match scored {
            Ok(score) => score_transactions_response::Result::Score(score),
            Err(refusal) => score_transactions_response::Result::Error(item_status(refusal)),
        };
        let model = Some(loaded.info.clone());
        Ok(ScoreTransactionsResponse {
            sequence: asked.sequence,
            result: Some(result),
            model,
        })
    });
    answers
        .chain(unread.map(|status| Err(runtime::unreadable(status))))
        .collect()
}

/// A line of a request as the model accepts it, and its id.
fn of_message(
    transaction: Option<&Transaction>,
) -> Result<(model::Transaction<'_>, &str), Refusal> {
    let transaction = transaction.ok_or_else(|| Refusal::field("transaction", "is missing"))?;
    let Transaction {
        line_id,
        stock_code,
        quantity,
        unit_price,
        customer_id,
        ..
    } = transaction;
    let line = usable(stock_code, *quantity, *unit_price, customer_id)
        .map_err(|refusal| refusal.renamed(|field| format!("transaction.{field}")))?;
    Ok((line, line_id))
}

/// A line as the model accepts it.
fn usable<'a>(
    stock_code: &'a str,
    quantity: i64,
    unit_price: f64,
    customer_id: &'a str,
) -> Result<model::Transaction<'a>, Refusal> {
    required("stock_code", stock_code)?;
    if quantity < 1 {
        return Err(Refusal::field(
            "quantity",
            format!("is {quantity}; 1 is the least"),
        ));
    }
    let unit_price = positive("unit_price", unit_price)?;
    let line = model::Transaction {
        stock_code,
        quantity: quantity as f64,
        unit_price,
        customer_id,
    };
    if !(line.quantity * line.unit_price).is_finite() {
        return Err(Refusal::field("unit_price", "is too large"));
    }
    Ok(line)
}

fn message(
    score: &model::Score,
    line_id: &str,
    stock_code: &str,
    customer_id: &str,
) -> TransactionScore {
    let deviations = score.deviations.iter().map(|deviation| Deviation {
        measure: match deviation.measure {
            model::Measure::Quantity => Measure::Quantity,
            model::Measure::UnitPrice => Measure::UnitPrice,
            model::Measure::LineTotal => Measure::LineTotal,
        }
        .into(),
        baseline: deviation.baseline.as_str().to_owned(),
        value: deviation.value,
        expected: deviation.expected,
        z_score: deviation.z,
    });
    TransactionScore {
        line_id: line_id.to_owned(),
        score: score.score,
        size: score.size,
        severity: severity(score.severity).into(),
        reason: score.reason(stock_code, customer_id),
        deviations: deviations.collect(),
    }
}

fn list(
    loaded: &Loaded<AnomalyModel>,
    request: &ListAnomaliesRequest,
) -> Result<ListAnomaliesResponse, Refusal> {
    let ListAnomaliesRequest {
        page_size,
        page_token,
        min_severity,
        start_time,
        end_time,
    } = request;
    let unknown = |_| {
        Refusal::field(
            "min_severity",
            format!("is {min_severity}, which is no severity"),
        )
    };
    let least = match Severity::try_from(*min_severity).map_err(unknown)? {
        Severity::Unspecified | Severity::Medium => model::Severity::Medium,
        Severity::None | Severity::Low => model::Severity::Low,
        Severity::High => model::Severity::High,
    };
    let seconds = |time: &Option<Timestamp>| time.as_ref().map(|time| (time.seconds, time.nanos));
    let (from, to) = (seconds(start_time), seconds(end_time));
    if from.zip(to).is_some_and(|(from, to)| to < from) {
        return Err(Refusal::field("end_time", "is before start_time"));
    }
    let page = Page::of(
        "anomalies",
        *page_size,
        page_token,
        (min_severity, from, to),
        &loaded.info.version,
    )?;
    let matching = loaded.model.recorded().iter().filter(|line| {
        let time = (line.time.and_utc().timestamp(), 0);
        line.score.severity >= least
            && from.is_none_or(|from| time >= from)
            && to.is_none_or(|to| time < to)
    });
    let matching: Vec<&Recorded> = matching.collect();
    let (lines, next_page_token) = page.cut(&matching);
    Ok(ListAnomaliesResponse {
        anomalies: lines.iter().map(|line| recorded(line)).collect(),
        next_page_token,
        total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
        model: Some(loaded.info.clone()),
    })
}

fn recorded(line: &Recorded) -> Listed {
    let line_id = line.line_id.to_string();
    Listed {
        transaction: Some(Transaction {
            line_id: line_id.clone(),
            invoice: line.invoice.to_string(),
            stock_code: line.stock_code.to_string(),
            quantity: line.quantity,
            unit_price: line.unit_price,
            customer_id: line.customer_id.to_string(),
            country: line.country.to_string(),
            invoice_time: Some(Timestamp {
                seconds: line.time.and_utc().timestamp(),
                nanos: 0,
            }),
        }),
        score: Some(message(
            &line.score,
            &line_id,
            &line.stock_code,
            &line.customer_id,
        )),
    }
}

const STOCK_CODE: Tensor<String> = Tensor::column("stock_code");
const QUANTITY: Tensor<i64> = Tensor::column("quantity");
const UNIT_PRICE: Tensor<f64> = Tensor::column("unit_price");
const CUSTOMER_ID: Tensor<String> = Tensor::column("customer_id");
const SCORE: Tensor<f64> = Tensor::column("score");
const SEVERITY: Tensor<String> = Tensor::column("severity");
const REASON: Tensor<String> = Tensor::column("reason");

/// Accepts the fields of ScoreTransaction; the customer may be left out.
static INTERFACE: Interface<AnomalyModel> = Interface {
    inputs: &[
        STOCK_CODE.info(),
        QUANTITY.info(),
        UNIT_PRICE.info(),
        CUSTOMER_ID.info(),
    ],
    outputs: &[SCORE.info(), SEVERITY.info(), REASON.info()],
    infer,
};

fn infer(model: &AnomalyModel, batch: &Batch<'_>) -> Result<Vec<Output>, Refusal> {
    let (stock_codes, quantities) = (batch.required(&STOCK_CODE)?, batch.required(&QUANTITY)?);
    let unit_prices = batch.required(&UNIT_PRICE)?;
    let customers = batch
        .get(&CUSTOMER_ID)?
        .unwrap_or_else(|| vec![String::new(); batch.rows()]);
    let rows = stock_codes
        .iter()
        .zip(quantities)
        .zip(unit_prices)
        .zip(&customers)
        .enumerate();
    let lines = rows.map(
        |(row, (((stock_code, quantity), unit_price), customer_id))| {
            usable(stock_code, quantity, unit_price, customer_id)
                .map_err(|refusal| refusal.renamed(|field| at(field, row)))
        },
    );
    let lines: Vec<_> = lines.collect::<Result<_, Refusal>>()?;
    let scores = model.scores(&lines);
    let reasons = scores
        .iter()
        .zip(&lines)
        .map(|(score, line)| score.reason(line.stock_code, line.customer_id));
    Ok(vec![
        SCORE.of(scores.iter().map(|score| score.score)),
        SEVERITY.of(scores
            .iter()
            .map(|score| severity(score.severity).as_str_name().to_owned())),
        REASON.of(reasons),
    ])
}
