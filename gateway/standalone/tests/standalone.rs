//! The whole shop in one process, over an empty model store.

use clap::Parser;
use proto::{
    churn::v1::{GetChurnRiskRequest, churn_service_client::ChurnServiceClient},
    inference::{
        ModelInferRequest, ModelReadyRequest, RepositoryIndexRequest, ServerLiveRequest,
        ServerReadyRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
    },
    model::v1::{GetModelStatusRequest, ModelState, model_service_client::ModelServiceClient},
};
use runtime::{Server, ServerArgs};
use standalone::StandaloneArgs;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    standalone: StandaloneArgs,
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one running process, asked through each of its APIs in turn"
)]
async fn it_starts_without_a_model_and_says_so() {
    let models = tempfile::tempdir().unwrap();
    let args = Args::parse_from([
        "standalone".as_ref(),
        "--models".as_ref(),
        models.path().as_os_str(),
    ]);
    let standalone = args
        .standalone
        .build(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let server = Server::bind(&ServerArgs::local()).await.unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        server
            .serving(standalone.gateway.service())
            .serve_until(standalone.gateway.until(stopped))
            .await
    });

    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let health = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(channel.clone())
            .check(request)
            .await
            .unwrap();
        answer.into_inner().status().as_str_name()
    };
    assert_eq!(health("").await, "SERVING");
    let mut statuses = ModelServiceClient::new(channel.clone());
    for (area, service) in [
        (
            "segmentation",
            "shopkeeper.segmentation.v1.SegmentationService",
        ),
        ("forecast", "shopkeeper.forecast.v1.ForecastService"),
        (
            "recommendation",
            "shopkeeper.recommendation.v1.RecommendationService",
        ),
        ("churn", "shopkeeper.churn.v1.ChurnService"),
        ("anomaly", "shopkeeper.anomaly.v1.AnomalyService"),
        ("insights", "shopkeeper.insights.v1.InsightsService"),
    ] {
        assert_eq!(health(service).await, "NOT_SERVING", "{area}");
        let status = statuses
            .get_model_status(GetModelStatusRequest { model: area.into() })
            .await
            .unwrap();
        let status = status.into_inner().status.unwrap();
        assert_eq!(
            (status.model.as_str(), status.state()),
            (area, ModelState::Loading)
        );
    }
    assert_eq!(
        health("inference.GRPCInferenceService").await,
        "NOT_SERVING"
    );
    let mut inference = GrpcInferenceServiceClient::new(channel.clone());
    assert!(
        inference
            .server_live(ServerLiveRequest {})
            .await
            .unwrap()
            .into_inner()
            .live
    );
    assert!(
        !inference
            .server_ready(ServerReadyRequest {})
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    let models = inference
        .repository_index(RepositoryIndexRequest::default())
        .await
        .unwrap()
        .into_inner()
        .models;
    let states: Vec<_> = models
        .iter()
        .map(|model| (model.name.as_str(), model.state.as_str()))
        .collect();
    assert_eq!(
        states,
        ["anomaly", "churn", "segmentation"].map(|model| (model, "UNAVAILABLE"))
    );
    let churn = ModelReadyRequest {
        name: "churn".into(),
        ..Default::default()
    };
    assert!(
        !inference
            .model_ready(churn)
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    for (model, code) in [
        ("churn", Code::Unavailable),
        ("forecast", Code::NotFound),
        ("", Code::InvalidArgument),
    ] {
        let request = ModelInferRequest {
            model_name: model.into(),
            ..Default::default()
        };
        assert_eq!(
            inference.model_infer(request).await.unwrap_err().code(),
            code,
            "{model}"
        );
    }
    let request = GetChurnRiskRequest {
        customer_id: "17850".into(),
    };
    let status = ChurnServiceClient::new(channel.clone())
        .get_churn_risk(request)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "no churn model is loaded yet")
    );

    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
}
