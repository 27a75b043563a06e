//! Services, replicas and connections that fail while calls are in flight.

use std::time::Duration;

use fake_shop::Wires;
use proto::anomaly::v1::{ScoreTransactionsRequest, anomaly_service_client::AnomalyServiceClient};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::shop::{Front, Model, Running, ask, customer, until};

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: a service is healthy, gone and back"
)]
async fn a_service_that_is_gone_is_unavailable_and_the_others_answer() {
    let (churn, anomaly) = (Model::new("churn", "v1"), Model::new("anomaly", "a1"));
    let (service, other) = (
        Running::start(churn.service()).await,
        Running::start(anomaly.service()).await,
    );
    let front = Front::start(&[("churn", service.url()), ("anomaly", other.url())]).await;
    front.knows("v1").await;
    let (mut client, channel) = (front.churn().await, front.running.channel().await);
    let health = async |name: &str| {
        let mut client = HealthClient::new(channel.clone());
        let answer = client
            .check(HealthCheckRequest {
                service: name.into(),
            })
            .await;
        answer.map_or_else(
            |status| status.code().description(),
            |answer| answer.into_inner().status().as_str_name(),
        )
    };
    until("both are healthy", || async {
        health("shopkeeper.churn.v1.ChurnService").await == "SERVING"
            && health("shopkeeper.anomaly.v1.AnomalyService").await == "SERVING"
    })
    .await;
    assert_eq!(
        health("shopkeeper.forecast.v1.ForecastService").await,
        Code::NotFound.description()
    );

    let address = service.address;
    service.kill().await;
    until("it is known to be gone", || async {
        health("shopkeeper.churn.v1.ChurnService").await == "NOT_SERVING"
    })
    .await;
    for name in [
        "",
        "shopkeeper.model.v1.ModelService",
        "shopkeeper.anomaly.v1.AnomalyService",
    ] {
        assert_eq!(health(name).await, "SERVING", "{name}");
    }
    for n in 0..20 {
        let status = ask(&mut client, &format!("gone {n}")).await.unwrap_err();
        let details = status.get_error_details();
        assert_eq!(
            (
                status.code(),
                &*details.error_info().unwrap().metadata["service"]
            ),
            (Code::Unavailable, "churn")
        );
        assert!(details.retry_info().unwrap().retry_delay.is_some());
        assert!(
            status.message().starts_with("churn cannot be reached: "),
            "{}",
            status.message()
        );
    }
    let mut anomalies = AnomalyServiceClient::new(channel.clone());
    assert!(
        anomalies
            .list_anomalies(proto::anomaly::v1::ListAnomaliesRequest::default())
            .await
            .is_ok()
    );

    let _back = Running::start_at(churn.service(), address).await;
    until("it is back", || {
        let mut client = client.clone();
        async move { ask(&mut client, "back").await.is_ok() }
    })
    .await;
    until("it is healthy again", || async {
        health("shopkeeper.churn.v1.ChurnService").await == "SERVING"
    })
    .await;
}

#[tokio::test]
async fn connections_may_break_without_a_call_failing() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let wires = Wires::to(service.address).await;
    let front = Front::start(&[
        ("churn", format!("http://{}", wires.address)),
        ("cache-memory", "0".into()),
    ])
    .await;
    let mut client = front.churn().await;
    until("the service is reached", || {
        let mut client = client.clone();
        async move { ask(&mut client, "first").await.is_ok() }
    })
    .await;
    for cut in 0..20 {
        for n in 0..20 {
            let answer = ask(&mut client, &format!("{cut} {n}")).await;
            assert!(answer.is_ok(), "{cut} {n}: {answer:?}");
        }
        // The answers above have refilled the retry budget.
        wires.cut();
    }
}

#[tokio::test]
async fn a_stream_that_breaks_says_so() {
    let model = Model::new("anomaly", "a1");
    let service = Running::start(model.service()).await;
    let wires = Wires::to(service.address).await;
    let front = Front::start(&[("anomaly", format!("http://{}", wires.address))]).await;
    let mut client = AnomalyServiceClient::new(front.running.channel().await);
    let (send, lines) = tokio::sync::mpsc::channel(1);
    let line = |sequence| ScoreTransactionsRequest {
        sequence,
        transaction: None,
    };
    send.send(line(1)).await.unwrap();
    let mut answers = client
        .score_transactions(ReceiverStream::new(lines))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().sequence, 1);
    wires.cut();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status
            .message()
            .starts_with("anomaly cannot be reached: lost while it answered"),
        "{}",
        status.message()
    );
    service.stop().await;
}

#[tokio::test]
async fn while_one_replica_answers_calls_do() {
    let model = Model::new("churn", "v1");
    let (mut one, two) = (
        Running::start(model.service()).await,
        Running::start(model.service()).await,
    );
    let front = Front::start(&[("churn", format!("{},{}", one.url(), two.url()))]).await;
    front.knows("v1").await;
    let fresh = |n: usize| {
        let mut request = customer(&n.to_string());
        request
            .metadata_mut()
            .insert("cache-control", "no-cache".parse().unwrap());
        request
    };
    let client = front.churn().await;
    let mut asked = 0;
    for round in 0..3 {
        let calls_before = model.calls();
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..300 {
            let (mut client, request) = (client.clone(), fresh(n));
            calls.spawn(async move {
                tokio::time::sleep(Duration::from_millis(n as u64)).await;
                client
                    .get_churn_risk(request)
                    .await
                    .map(|answer| answer.into_inner().churn_risk.unwrap().customer_id)
            });
        }
        until("a third of the calls are answered", || async {
            model.calls() >= calls_before + 100
        })
        .await;
        let address = one.address;
        one.kill().await;
        while let Some(answer) = calls.join_next().await {
            answer.unwrap().unwrap();
            asked += 1;
        }
        let health = |status: &tonic_health::pb::HealthCheckResponse| status.status();
        let mut client = HealthClient::new(front.running.channel().await);
        let now = client
            .check(HealthCheckRequest {
                service: String::new(),
            })
            .await
            .unwrap();
        assert_eq!(
            health(now.get_ref()),
            tonic_health::pb::health_check_response::ServingStatus::Serving,
            "{round}"
        );
        one = Running::start_at(model.service(), address).await;
    }
    assert_eq!(asked, 900);
}
