//! A service over a real socket that follows a model store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod trials;

use std::{net::SocketAddr, path::Path, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use model_store::ModelStore;
use proto::model::v1::{
    GetModelStatusRequest, ListModelVersionsRequest, ModelState, ModelStatus,
    SetCurrentVersionRequest, WatchModelRequest, model_service_client::ModelServiceClient,
};
use runtime::{Server, ServerArgs};
use scoring::{Artifact, Model, ModelError, ModelKind};
use serving::Live;
use tokio::sync::oneshot;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// A model that is a number.
struct Number(u64);

impl Model for Number {
    const KIND: ModelKind = ModelKind::Churn;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        artifact.parameters().map(Self)
    }
}

/// Stands for the model's own service: its calls are not tested here.
#[derive(Clone)]
struct Nothing;

impl tonic::server::NamedService for Nothing {
    const NAME: &'static str = "shopkeeper.churn.v1.ChurnService";
}

impl tower::Service<http::Request<tonic::body::Body>> for Nothing {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
        std::future::ready(Ok(tonic::Status::unimplemented("nothing").into_http()))
    }
}

fn artifact(number: u64) -> Artifact {
    let as_of = NaiveDate::from_ymd_opt(2011, 9, 1).unwrap().into();
    Artifact::builder(ModelKind::Churn, "number", as_of, 42)
        .parameters(&number)
        .unwrap()
        .finish()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

struct Running {
    _live: Live<Number>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn start(models: &Path) -> Running {
    start_with(models, false).await
}

async fn start_with(models: &Path, allows_publish: bool) -> Running {
    let store = ModelStore::open(models.to_str().unwrap()).unwrap();
    let live = Live::<Number>::follow(store, Duration::from_millis(20))
        .await
        .publishing(allows_publish);
    let server = Server::bind(&ServerArgs::local())
        .await
        .unwrap()
        .serving(serving::service(&live, Nothing));
    let address = server.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(server.serve_until(async {
        let _ = stopped.await;
    }));
    Running {
        _live: live,
        address,
        stop,
        ended,
    }
}

async fn connect(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

async fn status(channel: &Channel) -> ModelStatus {
    let request = GetModelStatusRequest {
        model: String::new(),
    };
    let answer = ModelServiceClient::new(channel.clone())
        .get_model_status(request)
        .await
        .unwrap();
    answer.into_inner().status.unwrap()
}

async fn wait_for(
    what: &str,
    channel: &Channel,
    holds: impl Fn(&ModelStatus) -> bool,
) -> ModelStatus {
    let mut last = ModelStatus::default();
    for _ in 0..1_000 {
        last = status(channel).await;
        if holds(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("{what}: {last:?}")
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: no version, a sound one, a damaged one, a drain"
)]
async fn a_service_follows_the_store_and_refuses_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let channel = connect(running.address).await;
    let mut health = HealthClient::new(channel.clone());
    let mut serving = async || {
        let request = HealthCheckRequest {
            service: String::new(),
        };
        health.check(request).await.unwrap().into_inner().status()
            == tonic_health::pb::health_check_response::ServingStatus::Serving
    };
    let loading = status(&channel).await;
    let refusal = format!(
        "no version has been published in {}",
        folder.path().display()
    );
    assert_eq!(
        (loading.state(), loading.refusal),
        (ModelState::Loading, refusal)
    );
    assert!(!serving().await, "without a model it is not ready");

    let store = ModelStore::open(folder.path().to_str().unwrap()).unwrap();
    let first = store.publish(&artifact(1), now()).await.unwrap().version;
    wait_for("the first version answers", &channel, |status| {
        status.version == first
    })
    .await;
    assert!(serving().await);

    let mut watch = ModelServiceClient::new(channel.clone());
    let mut watch = watch
        .watch_model(WatchModelRequest {
            model: "churn".to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch
            .message()
            .await
            .unwrap()
            .unwrap()
            .status
            .unwrap()
            .version,
        first
    );

    // A version with a manifest that was changed after it was published.
    let second = artifact(2);
    store.upload(&second).await.unwrap();
    let manifest = folder
        .path()
        .join("churn")
        .join(&second.manifest().version)
        .join("manifest.json");
    let whole = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, whole.replace("\"seed\": 42", "\"seed\": 43")).unwrap();
    store
        .point(ModelKind::Churn, &second.manifest().version, now())
        .await
        .unwrap();
    let refused = wait_for("the second is refused", &channel, |status| {
        !status.refusal.is_empty()
    })
    .await;
    assert_eq!(
        (refused.state(), refused.version.as_str()),
        (ModelState::Degraded, first.as_str())
    );
    assert_eq!(
        refused.refusal,
        "manifest.json is damaged: its checksum is another"
    );
    assert!(serving().await, "the first goes on answering");

    let third = store.publish(&artifact(3), now()).await.unwrap().version;
    wait_for("the third answers", &channel, |status| {
        status.version == third && status.state() == ModelState::Serving
    })
    .await;
    loop {
        let told = watch.message().await.unwrap().unwrap().status.unwrap();
        if told.version == third {
            break;
        }
    }

    let mut client = ModelServiceClient::new(channel.clone());
    let other = client
        .get_model_status(GetModelStatusRequest {
            model: "anomaly".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::NotFound);
    let request = ListModelVersionsRequest {
        page_size: 1,
        ..ListModelVersionsRequest::default()
    };
    let page = client
        .list_model_versions(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.versions.len(), 1);
    assert!(!page.next_page_token.is_empty());

    let everything = HealthCheckRequest {
        service: String::new(),
    };
    let mut healthy = HealthClient::new(channel)
        .watch(everything)
        .await
        .unwrap()
        .into_inner();
    running.stop.send(()).unwrap();
    while watch
        .message()
        .await
        .expect("a watch ends, and is not cut off")
        .is_some()
    {}
    while healthy
        .message()
        .await
        .expect("so does one of health")
        .is_some()
    {}
    running.ended.await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(running.address)
            .await
            .is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn malformed_deadlines_and_unknown_methods_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let channel = connect(running.address).await;
    let mut client = tonic::client::Grpc::new(channel);
    let call = async |client: &mut tonic::client::Grpc<Channel>,
                      path: &'static str,
                      timeout: &'static str| {
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(GetModelStatusRequest::default());
        request
            .metadata_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        let codec =
            tonic_prost::ProstCodec::<_, proto::model::v1::GetModelStatusResponse>::default();
        client
            .unary(request, path.parse().unwrap(), codec)
            .await
            .map(drop)
            .map_err(|status| status.code())
    };
    let known = "/shopkeeper.model.v1.ModelService/GetModelStatus";
    assert_eq!(call(&mut client, known, "1S").await, Ok(()));
    assert_eq!(
        call(&mut client, known, "soon").await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(
        call(&mut client, "/shopkeeper.none.v1.None/Get", "1S").await,
        Err(Code::Unimplemented)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: a caller is refused, publishes and rolls back"
)]
async fn callers_publish_and_roll_back_where_they_may_and_see_what_is_current() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::open(folder.path().to_str().unwrap()).unwrap();
    let [first, second] = [1, 2].map(artifact);
    let [first, second] =
        [&first, &second].map(|artifact| (artifact, artifact.manifest().version.clone()));
    store.publish(first.0, now()).await.unwrap();
    store.upload(second.0).await.unwrap();
    let (first, second) = (first.1, second.1);
    let request = |version: &str, expected: &str| SetCurrentVersionRequest {
        model: "churn".to_owned(),
        version: version.to_owned(),
        expected_version: expected.to_owned(),
    };

    let closed = start(folder.path()).await;
    let mut client = ModelServiceClient::new(connect(closed.address).await);
    let refused = client
        .set_current_version(request(&second, &first))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(
        store
            .current(ModelKind::Churn)
            .await
            .unwrap()
            .unwrap()
            .version,
        first
    );

    let open = start_with(folder.path(), true).await;
    let channel = connect(open.address).await;
    let mut client = ModelServiceClient::new(channel.clone());
    let told = client
        .get_model_status(GetModelStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(told.allows_publish);
    for (version, expected, code) in [
        ("", &first, Code::InvalidArgument),
        ("20110901T000000-000000000000", &first, Code::NotFound),
        ("../../etc", &first, Code::NotFound),
        (&second, &second, Code::Aborted),
        (&second, &String::new(), Code::Aborted),
    ] {
        let refused = client
            .set_current_version(request(version, expected))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code, "{version}: {refused}");
    }
    wait_for("the first still answers", &channel, |status| {
        status.version == first
    })
    .await;

    let moved = client
        .set_current_version(request(&second, &first))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (moved.version, moved.previous_version),
        (second.clone(), first.clone())
    );
    wait_for("the second answers", &channel, |status| {
        status.version == second
    })
    .await;
    client
        .set_current_version(request(&first, &second))
        .await
        .unwrap();
    wait_for("the first answers again", &channel, |status| {
        status.version == first
    })
    .await;
}
