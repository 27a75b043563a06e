//! A model service whose answers are easy to check.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use proto::{
    anomaly::v1::{
        ListAnomaliesRequest, ListAnomaliesResponse, ScoreTransactionRequest,
        ScoreTransactionResponse, ScoreTransactionsRequest, ScoreTransactionsResponse,
        anomaly_service_server::{AnomalyService, AnomalyServiceServer},
    },
    churn::v1::{
        BatchGetChurnRisksRequest, BatchGetChurnRisksResponse, ChurnRisk,
        GetChurnCalibrationRequest, GetChurnCalibrationResponse, GetChurnRiskRequest,
        GetChurnRiskResponse, ListAtRiskCustomersRequest, ListAtRiskCustomersResponse,
        ScoreChurnRequest, ScoreChurnResponse,
        churn_service_server::{ChurnService, ChurnServiceServer},
    },
    model::v1::{
        GetModelStatusRequest, GetModelStatusResponse, ListModelVersionsRequest,
        ListModelVersionsResponse, ModelInfo, ModelStatus, SetCurrentVersionRequest,
        SetCurrentVersionResponse, WatchModelRequest, WatchModelResponse,
        model_service_server::{ModelService, ModelServiceServer},
    },
};
use runtime::Refusal;
use tokio::sync::{Barrier, Semaphore, watch};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding, service::Routes};

/// A model service whose model is its version.
#[derive(Debug, Clone)]
pub struct Model(Arc<State>);

#[derive(Debug)]
struct State {
    area: &'static str,
    status: watch::Sender<ModelStatus>,
    arrived: AtomicUsize,
    calls: AtomicUsize,
    at_work: AtomicUsize,
    timeout: watch::Sender<Option<String>>,
    manner: watch::Sender<Manner>,
    worked: AtomicU64,
}

/// How a model goes about its work.
#[derive(Debug, Clone)]
pub enum Manner {
    /// As it should.
    Well,
    /// It refuses to.
    Refusing(Status),
    /// So many calls at once, each in so much time.
    Busily(Arc<Semaphore>, Duration),
    /// So many calls together.
    Together(Arc<Barrier>),
}

/// A call at work, until it is dropped.
struct AtWork<'a>(&'a AtomicUsize);

impl<'a> AtWork<'a> {
    fn on(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Model {
    /// The model of an area, `churn` or `anomaly`, in a version.
    pub fn new(area: &'static str, version: &str) -> Self {
        let status = ModelStatus {
            model: area.into(),
            version: version.into(),
            ..ModelStatus::default()
        };
        let (status, timeout) = (watch::Sender::new(status), watch::Sender::new(None));
        let manner = watch::Sender::new(Manner::Well);
        let (arrived, calls, at_work, worked) = Default::default();
        Self(Arc::new(State {
            area,
            status,
            arrived,
            calls,
            at_work,
            timeout,
            manner,
            worked,
        }))
    }

    /// From here on it works so.
    pub fn works(&self, manner: Manner) {
        self.0.manner.send_replace(manner);
    }

    /// How many questions about a customer have reached it, answered or not.
    pub fn arrived(&self) -> usize {
        self.0.arrived.load(Ordering::Relaxed)
    }

    /// How many calls keep it busy.
    pub fn at_work(&self) -> usize {
        self.0.at_work.load(Ordering::Relaxed)
    }

    /// How long it has worked, every call's time together.
    pub fn worked(&self) -> Duration {
        Duration::from_micros(self.0.worked.load(Ordering::Relaxed))
    }

    /// Another version answers from here on, and says so.
    pub fn publish(&self, version: &str) {
        self.0
            .status
            .send_modify(|status| version.clone_into(&mut status.version));
    }

    /// How many calls it has had.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    /// `grpc-timeout` of the last call.
    pub fn timeout(&self) -> Option<String> {
        self.0.timeout.borrow().clone()
    }

    fn version(&self) -> String {
        self.0.status.borrow().version.clone()
    }

    fn info(&self) -> Option<ModelInfo> {
        Some(ModelInfo {
            name: self.0.area.into(),
            version: self.version(),
            as_of: None,
        })
    }

    async fn answer<T, R>(
        &self,
        request: &Request<R>,
        with: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        let manner = self.0.manner.borrow().clone();
        match manner {
            Manner::Well => {}
            Manner::Refusing(status) => {
                self.0.calls.fetch_add(1, Ordering::Relaxed);
                return Err(status);
            }
            Manner::Together(all) => {
                all.wait().await;
            }
            Manner::Busily(hands, takes) => {
                let _at_work = AtWork::on(&self.0.at_work);
                let _hand = hands.acquire().await.unwrap();
                let begun = Instant::now();
                tokio::time::sleep(takes).await;
                self.0
                    .worked
                    .fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        }
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let timeout = request
            .metadata()
            .get("grpc-timeout")
            .map(|value| value.to_str().unwrap().to_owned());
        self.0.timeout.send_replace(timeout);
        let version = self.version();
        let header = version.parse().unwrap();
        match with(&version) {
            Ok(answer) => {
                let mut response = Response::new(answer);
                response.metadata_mut().insert("x-model-version", header);
                Ok(response)
            }
            Err(refusal) => {
                let mut status = Status::from(refusal);
                status.metadata_mut().insert("x-model-version", header);
                Err(status)
            }
        }
    }

    /// The services of this model.
    pub fn service(&self) -> runtime::Service {
        macro_rules! limited {
            ($server:expr) => {
                $server
                    .accept_compressed(CompressionEncoding::Gzip)
                    .accept_compressed(CompressionEncoding::Zstd)
                    .send_compressed(CompressionEncoding::Gzip)
                    .max_encoding_message_size(usize::MAX)
            };
        }
        let models = limited!(ModelServiceServer::new(self.clone()));
        let routes = Routes::new(models);
        let (own, routes) = match self.0.area {
            "churn" => (
                "shopkeeper.churn.v1.ChurnService",
                routes.add_service(limited!(ChurnServiceServer::new(self.clone()))),
            ),
            _ => (
                "shopkeeper.anomaly.v1.AnomalyService",
                routes.add_service(limited!(AnomalyServiceServer::new(self.clone()))),
            ),
        };
        runtime::Service {
            name: self.0.area,
            services: vec![own, "shopkeeper.model.v1.ModelService"],
            routes,
            ready: watch::Sender::new(true).subscribe(),
            status: None,
            draining: watch::Sender::new(false),
        }
    }
}

#[tonic::async_trait]
impl ChurnService for Model {
    async fn get_churn_risk(
        &self,
        request: Request<GetChurnRiskRequest>,
    ) -> Result<Response<GetChurnRiskResponse>, Status> {
        self.0.arrived.fetch_add(1, Ordering::Relaxed);
        match request.get_ref().customer_id.as_str() {
            "slow" => tokio::time::sleep(Duration::from_secs(60)).await,
            id if id.starts_with("in a moment") => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            _ => {}
        }
        self.answer(&request, |version| {
            let customer_id = request.get_ref().customer_id.clone();
            match customer_id.as_str() {
                "" => Err(Refusal::field("customer_id", "is empty")),
                "stranger" | "stranger é" => Err(Refusal::not_found("customer", customer_id)),
                _ => Ok(GetChurnRiskResponse {
                    churn_risk: Some(ChurnRisk {
                        customer_id,
                        probability: 0.25,
                        ..ChurnRisk::default()
                    }),
                    model: Some(ModelInfo {
                        name: "churn".into(),
                        version: version.into(),
                        as_of: None,
                    }),
                }),
            }
        })
        .await
    }

    async fn batch_get_churn_risks(
        &self,
        request: Request<BatchGetChurnRisksRequest>,
    ) -> Result<Response<BatchGetChurnRisksResponse>, Status> {
        self.answer(&request, |_| {
            Ok(BatchGetChurnRisksResponse {
                model: self.info(),
                ..Default::default()
            })
        })
        .await
    }

    async fn score_churn(
        &self,
        request: Request<ScoreChurnRequest>,
    ) -> Result<Response<ScoreChurnResponse>, Status> {
        self.answer(&request, |_| {
            Ok(ScoreChurnResponse {
                model: self.info(),
                ..Default::default()
            })
        })
        .await
    }

    /// As many as are asked for; a thousand are more than is kept.
    async fn list_at_risk_customers(
        &self,
        request: Request<ListAtRiskCustomersRequest>,
    ) -> Result<Response<ListAtRiskCustomersResponse>, Status> {
        self.answer(&request, |_| {
            let risk = |n| ChurnRisk {
                customer_id: format!("customer-{n:0100}"),
                ..ChurnRisk::default()
            };
            let churn_risks = (0..request.get_ref().page_size).map(risk).collect();
            Ok(ListAtRiskCustomersResponse {
                churn_risks,
                model: self.info(),
                ..Default::default()
            })
        })
        .await
    }

    async fn get_churn_calibration(
        &self,
        request: Request<GetChurnCalibrationRequest>,
    ) -> Result<Response<GetChurnCalibrationResponse>, Status> {
        self.answer(&request, |_| {
            Ok(GetChurnCalibrationResponse {
                model: self.info(),
                ..Default::default()
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl AnomalyService for Model {
    async fn score_transaction(
        &self,
        request: Request<ScoreTransactionRequest>,
    ) -> Result<Response<ScoreTransactionResponse>, Status> {
        self.answer(&request, |_| {
            Ok(ScoreTransactionResponse {
                score: None,
                model: self.info(),
            })
        })
        .await
    }

    type ScoreTransactionsStream = Answers<ScoreTransactionsResponse>;

    /// A number for a number; below 0 ends the stream with an error.
    async fn score_transactions(
        &self,
        request: Request<Streaming<ScoreTransactionsRequest>>,
    ) -> Result<Response<Self::ScoreTransactionsStream>, Status> {
        let model = self.info();
        let answers = request.into_inner().map(move |line| match line?.sequence {
            sequence @ 0.. => Ok(ScoreTransactionsResponse {
                sequence,
                model: model.clone(),
                ..ScoreTransactionsResponse::default()
            }),
            _ => Err(Refusal::field("sequence", "is below 0").into()),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_anomalies(
        &self,
        request: Request<ListAnomaliesRequest>,
    ) -> Result<Response<ListAnomaliesResponse>, Status> {
        self.answer(&request, |_| {
            Ok(ListAnomaliesResponse {
                model: self.info(),
                ..Default::default()
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl ModelService for Model {
    async fn get_model_status(
        &self,
        _: Request<GetModelStatusRequest>,
    ) -> Result<Response<GetModelStatusResponse>, Status> {
        let status = Some(self.0.status.borrow().clone());
        Ok(Response::new(GetModelStatusResponse {
            status,
            allows_publish: true,
        }))
    }

    async fn list_model_versions(
        &self,
        _: Request<ListModelVersionsRequest>,
    ) -> Result<Response<ListModelVersionsResponse>, Status> {
        Ok(Response::new(ListModelVersionsResponse::default()))
    }

    type WatchModelStream = Answers<WatchModelResponse>;

    async fn watch_model(
        &self,
        _: Request<WatchModelRequest>,
    ) -> Result<Response<Self::WatchModelStream>, Status> {
        let changes = WatchStream::new(self.0.status.subscribe());
        Ok(Response::new(Box::pin(changes.map(|status| {
            Ok(WatchModelResponse {
                status: Some(status),
            })
        }))))
    }

    async fn set_current_version(
        &self,
        request: Request<SetCurrentVersionRequest>,
    ) -> Result<Response<SetCurrentVersionResponse>, Status> {
        let SetCurrentVersionRequest {
            version,
            expected_version,
            ..
        } = request.into_inner();
        Ok(Response::new(SetCurrentVersionResponse {
            version,
            previous_version: expected_version,
        }))
    }
}
