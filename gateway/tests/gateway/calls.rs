//! Routing, deadlines, streams and limits of calls.

use std::time::{Duration, Instant};

use proto::{
    anomaly::v1::{ScoreTransactionsRequest, anomaly_service_client::AnomalyServiceClient},
    churn::v1::{
        BatchGetChurnRisksRequest, ScoreChurnRequest, churn_service_client::ChurnServiceClient,
    },
    forecast::v1::{ListSeriesRequest, forecast_service_client::ForecastServiceClient},
    model::v1::{
        GetModelStatusRequest, WatchModelRequest, model_service_client::ModelServiceClient,
    },
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, codec::CompressionEncoding};
use tonic_types::StatusExt;

use crate::shop::{Front, Model, Running, ask, churn, customer};

#[tokio::test]
async fn a_message_above_the_limit_is_refused_with_the_limit() {
    let (model, _service, front) = churn(None).await;
    let mut client = front.churn().await.max_encoding_message_size(usize::MAX);
    let calls = model.calls();
    let cacheable = client
        .get_churn_risk(customer(&"x".repeat(10 << 20)))
        .await
        .unwrap_err();
    let plain = BatchGetChurnRisksRequest {
        customer_ids: vec!["x".repeat(10 << 20)],
    };
    let not_cacheable = client.batch_get_churn_risks(plain).await.unwrap_err();
    for refused in [cacheable, not_cacheable] {
        let info = refused.get_details_error_info().unwrap();
        assert_eq!(
            (refused.code(), info.reason.as_str()),
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
        );
        assert_eq!(info.metadata["limit_bytes"], proto::MAX_MESSAGE.to_string());
    }
    assert_eq!(model.calls(), calls);
    assert!(ask(&mut client, "the connection is fine").await.is_ok());
    assert!(ask(&mut client, &"x".repeat(3 << 20)).await.is_ok());
}

#[tokio::test]
async fn what_is_not_there_is_unimplemented() {
    let (_, _service, front) = churn(None).await;
    let mut client = tonic::client::Grpc::new(front.running.channel().await);
    for path in [
        "/shopkeeper.churn.v1.ChurnService/Nothing",
        "/shopkeeper.nobody.v1.Service/Nothing",
    ] {
        client.ready().await.unwrap();
        let codec = tonic_codec();
        let answer = client
            .unary(
                Request::new(ScoreChurnRequest::default()),
                path.parse().unwrap(),
                codec,
            )
            .await;
        let status = answer
            .map(|response: tonic::Response<ScoreChurnRequest>| response)
            .unwrap_err();
        assert_eq!(
            (
                status.code(),
                status.get_details_error_info().unwrap().reason.as_str()
            ),
            (Code::Unimplemented, "NO_SUCH_METHOD")
        );
    }
    let mut forecast = ForecastServiceClient::new(front.running.channel().await);
    let status = forecast
        .list_series(ListSeriesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "this gateway has no forecast service")
    );
    assert_eq!(
        status.get_details_error_info().unwrap().metadata["service"],
        "forecast"
    );
}

fn tonic_codec() -> impl tonic::codec::Codec<Encode = ScoreChurnRequest, Decode = ScoreChurnRequest>
{
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn deadlines_are_carried_on_and_kept() {
    let (model, _service, front) = churn(None).await;
    let mut client = front.churn().await;
    let with = |id: &str, timeout: &str| {
        let mut request = customer(id);
        request
            .metadata_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        request
    };
    for malformed in ["soon", "10", "-1S", "123456789m"] {
        let status = client
            .get_churn_risk(with("17850", malformed))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{malformed}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "grpc-timeout");
    }

    let microseconds = |model: &Model| -> u64 {
        model
            .timeout()
            .unwrap()
            .strip_suffix('u')
            .unwrap()
            .parse()
            .unwrap()
    };
    client.get_churn_risk(with("first", "1H")).await.unwrap();
    assert!(
        (1..=250_000).contains(&microseconds(&model)),
        "the method's own: {:?}",
        model.timeout()
    );
    client.get_churn_risk(with("second", "100m")).await.unwrap();
    assert!(
        (1..=100_000).contains(&microseconds(&model)),
        "the caller's: {:?}",
        model.timeout()
    );

    // A client without a timeout of its own.
    let mut client = ChurnServiceClient::new(front.gateway.stack());
    for (request, timeout) in [
        (with("slow", "60m"), Duration::from_millis(60)),
        (customer("slow"), Duration::from_millis(250)),
    ] {
        let start = Instant::now();
        let status = client.get_churn_risk(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn streams_go_through_as_they_come() {
    let model = Model::new("anomaly", "a1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("anomaly", service.url())]).await;
    let mut client = AnomalyServiceClient::new(front.running.channel().await);
    let (send, lines) = tokio::sync::mpsc::channel(1);
    let line = |sequence| ScoreTransactionsRequest {
        sequence,
        transaction: None,
    };
    let mut answers = {
        send.send(line(0)).await.unwrap();
        let answer = client
            .score_transactions(ReceiverStream::new(lines))
            .await
            .unwrap();
        assert_eq!(answer.metadata().get("x-cache").unwrap(), "bypass");
        answer.into_inner()
    };
    assert_eq!(answers.message().await.unwrap().unwrap().sequence, 0);
    // Each answer arrives before the next request is sent: nothing is buffered.
    for sequence in 1..1_000 {
        send.send(line(sequence)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().sequence, sequence);
    }
    send.send(line(-1)).await.unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "sequence is below 0")
    );
    assert_eq!(
        status.get_details_bad_request().unwrap().field_violations[0].field,
        "sequence"
    );

    // Many messages at once, and a regular end of the stream.
    let many = client
        .score_transactions(tokio_stream::iter((0..50_000).map(line)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        many.map(|answer| answer.unwrap().sequence)
            .collect::<Vec<_>>()
            .await,
        (0..50_000).collect::<Vec<_>>()
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "two running services, asked by every way to name one of them"
)]
async fn the_model_that_is_named_is_the_service_that_is_asked() {
    let (churn, anomaly) = (Model::new("churn", "v1"), Model::new("anomaly", "a1"));
    let (service, other) = (
        Running::start(churn.service()).await,
        Running::start(anomaly.service()).await,
    );
    let front = Front::start(&[("churn", service.url()), ("anomaly", other.url())]).await;
    let mut client = ModelServiceClient::new(front.running.channel().await);
    let mut packed = client.clone().send_compressed(CompressionEncoding::Gzip);
    for (model, version) in [("churn", "v1"), ("anomaly", "a1")] {
        for client in [&mut client, &mut packed] {
            let answer = client
                .get_model_status(GetModelStatusRequest {
                    model: model.into(),
                })
                .await
                .unwrap();
            assert_eq!(answer.into_inner().status.unwrap().version, version);
        }
        let mut watch = client
            .watch_model(WatchModelRequest {
                model: model.into(),
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
            version
        );
        if model == "churn" {
            churn.publish("v2");
            assert_eq!(
                watch
                    .message()
                    .await
                    .unwrap()
                    .unwrap()
                    .status
                    .unwrap()
                    .version,
                "v2"
            );
        }
    }
    let unnamed = client
        .get_model_status(GetModelStatusRequest::default())
        .await
        .unwrap_err();
    let violation = unnamed
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .remove(0);
    assert_eq!(unnamed.code(), Code::InvalidArgument);
    assert_eq!(
        (&*violation.field, &*violation.description),
        ("model", "is empty; it is one of anomaly, churn")
    );
    let unknown = client
        .get_model_status(GetModelStatusRequest { model: "x".into() })
        .await
        .unwrap_err();
    assert_eq!(
        unknown.get_details_resource_info().unwrap().resource_name,
        "x"
    );
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(
        unknown.message(),
        "there is no model `x` here; there is anomaly, churn"
    );
}

#[tokio::test]
async fn calls_above_the_limit_are_shed() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url()), ("in-flight", "2".into())]).await;
    front.knows("v1").await;
    let client = front.churn().await;
    let slow = |_| {
        let mut client = client.clone();
        async move { ask(&mut client, "slow").await.unwrap_err() }
    };
    let ended: Vec<_> = futures_util::future::join_all((0..6).map(slow)).await;
    let shed: Vec<_> = ended
        .iter()
        .filter(|status| status.code() == Code::ResourceExhausted)
        .collect();
    assert_eq!(shed.len(), 4, "{ended:?}");
    assert!(
        shed.iter()
            .all(|status| status.get_details_retry_info().is_some())
    );
}

#[tokio::test]
async fn what_is_answered_for_can_be_listed() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (_, _service, front) = churn(None).await;
    let mut client = ServerReflectionClient::new(front.running.channel().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<_> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for (name, there) in [
        ("shopkeeper.churn.v1.ChurnService", true),
        ("shopkeeper.model.v1.ModelService", true),
        ("grpc.health.v1.Health", true),
        ("shopkeeper.forecast.v1.ForecastService", false),
    ] {
        assert_eq!(
            names.iter().any(|listed| listed == name),
            there,
            "{names:?}"
        );
    }
}
