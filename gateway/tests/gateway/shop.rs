//! A gateway in front of fake services, over real sockets, and a real Redis.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::Parser;
pub(crate) use fake_shop::{Model, Running, until};
use gateway::{Gateway, GatewayArgs};
use proto::churn::v1::{
    GetChurnRiskRequest, GetChurnRiskResponse, churn_service_client::ChurnServiceClient,
};
use tokio::net::TcpListener;
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt;

/// A gateway that listens on a socket.
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
        let running = Running::start_in_front(gateway.service()).await;
        Self { running, gateway }
    }

    /// A client of the churn service behind the gateway, with a connection of its own.
    pub(crate) async fn churn(&self) -> ChurnServiceClient<Channel> {
        ChurnServiceClient::new(self.running.channel().await)
    }

    /// Waits until the gateway has learnt that this version of the churn model is current.
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
    /// Waits until the gateway writes to Redis. It writes an answer when it is asked for a second
    /// time.
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

    /// Waits until the other gateway answers from Redis what this one has written there.
    pub(crate) async fn shares_with(&self, other: &Self) {
        let (one, other, mut n) = (self.churn().await, other.churn().await, 0);
        until("answers are shared", || {
            n += 1;
            let (mut one, mut other, id) =
                (one.clone(), other.clone(), format!("is it shared {n}"));
            async move {
                for _ in 0..2 {
                    let _ = ask(&mut one, &id).await; // a late answer is tried again
                }
                tokio::time::sleep(Duration::from_millis(20)).await; // writes are asynchronous
                ask(&mut other, &id)
                    .await
                    .is_ok_and(|answer| answer.cache == "hit-redis")
            }
        })
        .await;
    }
}

/// An answer, the cache that it came from and its model version.
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

/// Calls GetChurnRisk.
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

/// The churn service and a gateway that has learnt its version.
pub(crate) async fn churn(redis: Option<&Redis>) -> (Model, Running, Front) {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = front(&service, redis).await;
    (model, service, front)
}

pub(crate) async fn front(service: &Running, redis: Option<&Redis>) -> Front {
    let flags = [("churn", service.url())]
        .into_iter()
        .chain(redis.map(|redis| ("redis", redis.url())));
    let front = Front::start(&flags.collect::<Vec<_>>()).await;
    front.knows("v1").await;
    if let Some(redis) = redis {
        front.shares(redis).await;
    }
    front
}

/// Calls GetChurnRisk twice for a new customer, and waits until the answer is in Redis.
pub(crate) async fn ask_and_share(front: &Front, redis: &Redis, id: &str) -> Answered {
    let mut client = front.churn().await;
    let answer = ask(&mut client, id).await.unwrap();
    ask(&mut client, id).await.unwrap();
    until("the answer is in Redis", || redis.has_answer_about(id)).await;
    answer
}

/// Checks that two statuses are equal. Their bytes may differ: a map in the details has no order.
pub(crate) fn assert_same(one: &Status, other: &Status) {
    let parts = |status: &Status| {
        let details = status.get_error_details();
        let info = details
            .error_info()
            .map(|info| (info.reason.clone(), info.metadata.clone()));
        let violations = details
            .bad_request()
            .map(|bad| format!("{:?}", bad.field_violations));
        let resource = details
            .resource_info()
            .map(|resource| format!("{resource:?}"));
        (
            status.code(),
            status.message().to_owned(),
            status.details().len(),
            info,
            violations,
            resource,
        )
    };
    assert_eq!(parts(one), parts(other));
}

/// A port at which nothing listens.
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

    /// Starts Redis with these options, and does not wait until it answers.
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

    /// The keys of the cached answers.
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

    /// Whether an answer that names this customer is cached.
    pub(crate) async fn has_answer_about(&self, id: &str) -> bool {
        for key in self.keys().await {
            let value: Vec<u8> = self.answer(&[b"GET", key.as_bytes()]).await.unwrap();
            if value.windows(id.len()).any(|part| part == id.as_bytes()) {
                return true;
            }
        }
        false
    }

    /// The number of commands processed so far, this one included.
    pub(crate) async fn commands(&self) -> u64 {
        let stats: String = self.answer(&[b"INFO", b"stats"]).await.unwrap();
        let count = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        count.unwrap().trim().parse().unwrap()
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

    /// After `STOP` Redis accepts connections and does not answer, until `CONT`.
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
