//! A gateway that is told to stop.

use proto::model::v1::{WatchModelRequest, model_service_client::ModelServiceClient};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::shop::{Model, Running, churn};

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_says_so_first() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let args = gateway_args(&service);
    let gateway = std::sync::Arc::new(args.build(([127, 0, 0, 1], 0).into()).unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let told = gateway.clone();
    let front = Running::start(gateway.service()).await;
    let mut client = HealthClient::new(front.channel().await);
    let mut changes = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        changes
            .message()
            .await
            .unwrap()
            .unwrap()
            .status()
            .as_str_name(),
        "SERVING"
    );
    let draining = tokio::spawn(async move {
        told.until(async {
            let _ = stopped.await;
        })
        .await;
    });
    stop.send(()).unwrap();
    draining.await.unwrap();
    assert_eq!(
        changes
            .message()
            .await
            .unwrap()
            .unwrap()
            .status()
            .as_str_name(),
        "NOT_SERVING"
    );
}

#[tokio::test]
async fn what_would_watch_for_ever_ends_when_the_gateway_does() {
    let (_model, _service, front) = churn(None).await;
    let channel = front.running.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let mut health = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let request = WatchModelRequest {
        model: "churn".into(),
    };
    let mut versions = ModelServiceClient::new(channel)
        .watch_model(request)
        .await
        .unwrap()
        .into_inner();
    assert!(
        health.message().await.unwrap().is_some() && versions.message().await.unwrap().is_some()
    );
    let stopped = tokio::spawn(front.running.stop());
    while let Some(status) = health.message().await.unwrap() {
        assert_eq!(status.status().as_str_name(), "NOT_SERVING");
    }
    let ended = versions.message().await.unwrap_err();
    assert_eq!(
        ended.message(),
        "gateway cannot be reached: it is being shut down",
        "{ended:?}"
    );
    assert!(ended.get_details_retry_info().is_some());
    stopped.await.unwrap();
}

fn gateway_args(service: &Running) -> gateway::GatewayArgs {
    use clap::Parser;
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        gateway: gateway::GatewayArgs,
    }
    Args::parse_from(["gateway".to_owned(), format!("--churn={}", service.url())]).gateway
}
