//! A small shop to put the gateway in front of: two services of the real API whose answers are easy
//! to check, over real sockets, and a real Redis.

use std::{
    net::SocketAddr,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use clap::Parser;
use gateway::{Gateway, GatewayArgs};
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
        churn_service_client::ChurnServiceClient,
        churn_service_server::{ChurnService, ChurnServiceServer},
    },
    model::v1::{
        GetModelStatusRequest, GetModelStatusResponse, ListModelVersionsRequest,
        ListModelVersionsResponse, ModelInfo, ModelStatus, SetCurrentVersionRequest,
        SetCurrentVersionResponse, WatchModelRequest, WatchModelResponse,
        model_service_server::{ModelService, ModelServiceServer},
    },
};
use runtime::{Refusal, Server, ServerArgs};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Barrier, Semaphore, oneshot, watch},
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{
    Request, Response, Status, Streaming, codec::CompressionEncoding, service::Routes,
    transport::Channel,
};

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A model service whose model is its version.
#[derive(Debug, Clone)]
pub(crate) struct Model(Arc<State>);

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
pub(crate) enum Manner {
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
    pub(crate) fn new(area: &'static str, version: &str) -> Self {
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
    pub(crate) fn works(&self, manner: Manner) {
        self.0.manner.send_replace(manner);
    }

    /// How many questions about a customer have reached it, answered or not.
    pub(crate) fn arrived(&self) -> usize {
        self.0.arrived.load(Ordering::Relaxed)
    }

    /// How many calls keep it busy.
    pub(crate) fn at_work(&self) -> usize {
        self.0.at_work.load(Ordering::Relaxed)
    }

    /// How long it has worked, every call's time together.
    pub(crate) fn worked(&self) -> Duration {
        Duration::from_micros(self.0.worked.load(Ordering::Relaxed))
    }

    /// Another version answers from here on, and says so.
    pub(crate) fn publish(&self, version: &str) {
        self.0
            .status
            .send_modify(|status| version.clone_into(&mut status.version));
    }

    /// How many calls it has had.
    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    /// `grpc-timeout` of the last call.
    pub(crate) fn timeout(&self) -> Option<String> {
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
    pub(crate) fn service(&self) -> runtime::Service {
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

/// A process in all but name: it listens, drains when it is told to, and when it is killed nothing
/// of it is left.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    life: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) async fn start(service: runtime::Service) -> Self {
        Self::start_at(service, ([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn start_at(service: runtime::Service, listen: SocketAddr) -> Self {
        Self::start_with(
            service,
            ServerArgs {
                listen,
                ..ServerArgs::local()
            },
        )
        .await
    }

    pub(crate) async fn start_with(service: runtime::Service, args: ServerArgs) -> Self {
        let (bound, address) = oneshot::channel();
        let ((stop, stopped), (kill, killed)) =
            (oneshot::channel::<()>(), oneshot::channel::<()>());
        let life = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::bind(&args).await.unwrap();
                bound.send(server.local_addr().unwrap()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                tokio::select! {
                    served = server.serving(service).serve_until(stopped) => served.unwrap(),
                    _ = killed => {}
                }
            });
        });
        Self {
            address: address.await.unwrap(),
            stop: Some(stop),
            kill: Some(kill),
            life: Some(life),
        }
    }

    /// Ends at once, calls, connections and all.
    pub(crate) async fn kill(mut self) {
        drop(self.kill.take());
        self.ended().await;
    }

    /// Drains.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.ended().await;
    }

    async fn ended(&mut self) {
        let life = self.life.take().unwrap();
        tokio::task::spawn_blocking(|| life.join().unwrap())
            .await
            .unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url())
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
}

/// A gateway at an address.
pub(crate) struct Front {
    pub(crate) running: Running,
    pub(crate) gateway: Gateway,
}

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
}

impl Front {
    /// A gateway with these flags.
    pub(crate) async fn start(flags: &[(&str, String)]) -> Self {
        let flags = flags
            .iter()
            .map(|(name, value)| format!("--{name}={value}"));
        let args = Args::try_parse_from(["gateway".to_owned()].into_iter().chain(flags)).unwrap();
        Self::over(
            args.gateway
                .build(SocketAddr::from(([127, 0, 0, 1], 0)))
                .unwrap(),
        )
        .await
    }

    pub(crate) async fn over(gateway: Gateway) -> Self {
        let running = Running::start(gateway.service()).await;
        Self { running, gateway }
    }

    /// A client of the churn service behind it.
    pub(crate) async fn churn(&self) -> ChurnServiceClient<Channel> {
        ChurnServiceClient::new(self.running.channel().await)
    }

    /// Waits until it knows which version of the churn model answers.
    pub(crate) async fn knows(&self, version: &str) {
        let client = self.churn().await;
        until("the gateway knows the version", || {
            let mut client = client.clone();
            async move {
                ask(&mut client, "does it know")
                    .await
                    .is_ok_and(|a| a.cache != "bypass" && a.version == version)
            }
        })
        .await;
    }
}

impl Front {
    /// Waits until it writes to Redis, which it does with what is asked for a second time.
    pub(crate) async fn shares(&self, redis: &Redis) {
        let (client, before, mut n) = (self.churn().await, redis.keys().await.len(), 0);
        until("answers are shared", || {
            n += 1;
            let (mut client, id) = (client.clone(), format!("is it shared {n}"));
            async move {
                for _ in 0..2 {
                    ask(&mut client, &id).await.unwrap();
                }
                redis.keys().await.len() > before
            }
        })
        .await;
    }

    /// Waits until an answer of this gateway is one of the other's: both use one Redis.
    pub(crate) async fn shares_with(&self, other: &Self) {
        let (one, other, mut n) = (self.churn().await, other.churn().await, 0);
        until("answers are shared", || {
            n += 1;
            let (mut one, mut other, id) =
                (one.clone(), other.clone(), format!("is it shared {n}"));
            async move {
                for _ in 0..2 {
                    let _ = ask(&mut one, &id).await; // one that is late is no reason to give up
                }
                tokio::time::sleep(Duration::from_millis(20)).await; // writes are behind
                ask(&mut other, &id)
                    .await
                    .is_ok_and(|answer| answer.cache == "hit-redis")
            }
        })
        .await;
    }
}

/// An answer, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    pub(crate) response: GetChurnRiskResponse,
    pub(crate) cache: String,
    pub(crate) version: String,
}

pub(crate) fn customer(id: &str) -> Request<GetChurnRiskRequest> {
    Request::new(GetChurnRiskRequest {
        customer_id: id.into(),
    })
}

/// Asks for a customer's risk.
pub(crate) async fn ask(
    client: &mut ChurnServiceClient<Channel>,
    id: &str,
) -> Result<Answered, Status> {
    ask_with(client, customer(id)).await
}

pub(crate) async fn ask_with(
    client: &mut ChurnServiceClient<Channel>,
    request: Request<GetChurnRiskRequest>,
) -> Result<Answered, Status> {
    let response = client.get_churn_risk(request).await?;
    let header = |name| {
        response
            .metadata()
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let (cache, version) = (header("x-cache"), header("x-model-version"));
    Ok(Answered {
        response: response.into_inner(),
        cache,
        version,
    })
}

/// A port that nobody listens at.
pub(crate) async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A real Redis.
pub(crate) struct Redis {
    process: Child,
    pub(crate) port: u16,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_at(free_port().await).await
    }

    pub(crate) async fn start_at(port: u16) -> Self {
        let redis = Self::spawn(port, &["--port", &port.to_string()]);
        until("Redis answers", || async {
            redis.connection().await.is_ok()
        })
        .await;
        redis
    }

    /// One with these options, which may not answer yet.
    pub(crate) fn spawn(port: u16, options: &[&str]) -> Self {
        let process = Command::new("redis-server")
            .args(options)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for this test");
        Self { process, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?
            .get_multiplexed_async_connection()
            .await
    }

    /// Keys of answers in it.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let keys = redis::cmd("KEYS")
            .arg("sk:1:*")
            .query_async(&mut self.connection().await.unwrap())
            .await;
        keys.map(|keys: Vec<String>| {
            keys.into_iter()
                .filter(|key| !key.ends_with(":making"))
                .collect()
        })
        .unwrap()
    }

    pub(crate) async fn run(&self, command: &[&[u8]]) {
        self.answer::<()>(command).await.unwrap();
    }

    pub(crate) async fn answer<T: redis::FromRedisValue>(
        &self,
        command: &[&[u8]],
    ) -> redis::RedisResult<T> {
        let mut cmd = redis::Cmd::new();
        command.iter().for_each(|part| {
            cmd.arg(*part);
        });
        cmd.query_async(&mut self.connection().await?).await
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// `STOP`: it listens and says nothing. `CONT`: it goes on.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Wires that can be cut, and be silent.
pub(crate) struct Wires {
    pub(crate) address: SocketAddr,
    cut: watch::Sender<()>,
    silent: watch::Sender<bool>,
    _listening: JoinSet<()>,
}

impl Wires {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, silent) = (watch::Sender::new(()), watch::Sender::new(false));
        let (cuts, silence) = (cut.clone(), silent.clone());
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, mut silent) = (cuts.subscribe(), silence.subscribe());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let carried = copy_bidirectional(&mut near, &mut far);
                    tokio::pin!(carried);
                    loop {
                        let are_silent = *silent.borrow_and_update();
                        tokio::select! {
                            _ = &mut carried, if !are_silent => return,
                            _ = silent.changed() => {}
                            _ = cut.changed() => return,
                        }
                    }
                });
            }
        });
        Self {
            address,
            cut,
            silent,
            _listening: listening,
        }
    }

    /// Nothing arrives while they are.
    pub(crate) fn silent(&self, are: bool) {
        self.silent.send_replace(are);
    }

    /// Every connection breaks; new ones are taken.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }
}
