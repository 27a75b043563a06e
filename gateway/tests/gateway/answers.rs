//! Answers from the cache: which are kept, and that they equal the service's own.

use std::sync::Arc;

use fake_shop::Manner;
use proto::churn::v1::{
    BatchGetChurnRisksRequest, ListAtRiskCustomersRequest, churn_service_client::ChurnServiceClient,
};
use tokio::sync::Barrier;
use tonic::{Status, codec::CompressionEncoding, transport::Channel};

use crate::shop::{Front, Model, Redis, ask, ask_with, assert_same, churn, customer};

#[tokio::test]
async fn answers_are_the_same_with_and_without_a_cache_and_a_gateway() {
    let redis = Redis::start().await;
    let (_, service, front) = churn(Some(&redis)).await;
    let mut direct = ChurnServiceClient::new(service.channel().await);
    let mut through = front.churn().await;
    for id in ["17850", "", "stranger é", "a/b", "\u{1F6D2}"] {
        let expected = direct.get_churn_risk(customer(id)).await;
        for attempt in 0..3 {
            let got = through.get_churn_risk(customer(id)).await;
            match (&expected, got) {
                (Ok(expected), Ok(got)) => {
                    assert_eq!(expected.get_ref(), got.get_ref(), "{id} {attempt}")
                }
                (Err(expected), Err(got)) => {
                    assert_same(expected, &got);
                }
                (expected, got) => panic!("{id:?}: {expected:?} and {got:?}"),
            }
        }
    }
    // NOT_FOUND is cached as well; other errors are not.
    let cache = |status: Status| {
        status
            .metadata()
            .get("x-cache")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        cache(
            through
                .get_churn_risk(customer("stranger é"))
                .await
                .unwrap_err()
        ),
        "hit-memory"
    );
    assert_eq!(
        cache(through.get_churn_risk(customer("")).await.unwrap_err()),
        "miss"
    );
}

#[tokio::test]
async fn a_version_that_is_gone_answers_no_more() {
    let redis = Redis::start().await;
    let (model, _service, front) = churn(Some(&redis)).await;
    let mut client = front.churn().await;
    for round in 2..30 {
        let version = format!("v{round}");
        ask(&mut client, "17850").await.unwrap();
        model.publish(&version);
        // Once a caller has seen an answer of the new version, no answer of the old one may follow.
        let mut batch = client.clone();
        let seen = batch
            .batch_get_churn_risks(BatchGetChurnRisksRequest::default())
            .await
            .unwrap();
        assert_eq!(seen.metadata().get("x-model-version").unwrap(), &version);
        for _ in 0..20 {
            let answer = ask(&mut client, "17850").await.unwrap();
            assert_eq!(answer.version, version, "{}", answer.cache);
            assert_eq!(answer.response.model.unwrap().version, version);
        }
    }
    // After a rollback the cached answers of that version are valid again. Answers that were in
    // flight may make the gateway doubt the version once more.
    model.publish("v1");
    let answer = loop {
        front.knows("v1").await;
        let answer = ask(&mut client, "17850").await.unwrap();
        if answer.cache != "bypass" {
            break answer;
        }
    };
    assert_eq!(
        (answer.version.as_str(), answer.cache.starts_with("hit-")),
        ("v1", true)
    );
}

#[tokio::test]
async fn a_caller_who_wants_a_new_answer_gets_one() {
    let (model, _service, front) = churn(None).await;
    let mut client = front.churn().await;
    ask(&mut client, "17850").await.unwrap();
    let calls = model.calls();
    let mut request = customer("17850");
    request
        .metadata_mut()
        .insert("cache-control", "no-cache".parse().unwrap());
    let answer = ask_with(&mut client, request).await.unwrap();
    assert_eq!(
        (answer.cache.as_str(), model.calls()),
        ("bypass", calls + 1)
    );
}

#[tokio::test]
async fn a_large_answer_goes_through_and_is_not_kept() {
    let (_, _service, front) = churn(None).await;
    let mut client = front.churn().await.max_decoding_message_size(usize::MAX);
    for (size, again) in [(100, "hit-memory"), (1_000, "miss"), (100_000, "miss")] {
        for cache in ["miss", again] {
            let request = ListAtRiskCustomersRequest {
                page_size: size,
                ..ListAtRiskCustomersRequest::default()
            };
            let answer = client.list_at_risk_customers(request).await.unwrap();
            assert_eq!(answer.metadata().get("x-cache").unwrap(), cache, "{size}");
            assert_eq!(
                answer.into_inner().churn_risks.len(),
                usize::try_from(size).unwrap()
            );
        }
    }
}

#[tokio::test]
async fn nobody_waits_for_an_answer_that_is_not_kept() {
    let (model, _service, front) = churn(None).await;
    let client = front.churn().await.max_decoding_message_size(usize::MAX);
    let list = async || {
        let request = ListAtRiskCustomersRequest {
            page_size: 1_000,
            ..ListAtRiskCustomersRequest::default()
        };
        client.clone().list_at_risk_customers(request).await
    };
    list().await.unwrap();
    // From here on the service answers two calls only together. If one caller waited for the
    // other's answer, neither would be answered.
    model.works(Manner::Together(Arc::new(Barrier::new(2))));
    let (one, other) = tokio::join!(list(), list());
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a table with a case per encoding, and the calls that all cases share"
)]
async fn callers_that_compress_share_answers_with_those_that_do_not() {
    let (_, _service, front) = churn(None).await;
    let plain = front.churn().await;
    let packed = |encoding| {
        plain
            .clone()
            .send_compressed(encoding)
            .accept_compressed(encoding)
    };
    let accepting = plain.clone().accept_compressed(CompressionEncoding::Gzip);
    let request = ListAtRiskCustomersRequest {
        page_size: 200,
        ..ListAtRiskCustomersRequest::default()
    };
    let mut answers = vec![];
    struct Case {
        client: ChurnServiceClient<Channel>,
        cache: &'static str,
        encoding: Option<&'static str>,
    }
    for Case {
        mut client,
        cache,
        encoding,
    } in [
        Case {
            client: packed(CompressionEncoding::Gzip),
            cache: "miss",
            encoding: Some("gzip"),
        },
        Case {
            client: packed(CompressionEncoding::Zstd),
            cache: "hit-memory",
            encoding: Some("zstd"),
        },
        Case {
            client: plain.clone(),
            cache: "hit-memory",
            encoding: None,
        },
        Case {
            client: accepting,
            cache: "hit-memory",
            encoding: None,
        },
    ] {
        let answer = client
            .list_at_risk_customers(request.clone())
            .await
            .unwrap();
        let (metadata, message, _) = answer.into_parts();
        assert_eq!(metadata.get("x-cache").unwrap(), cache);
        assert_eq!(
            metadata
                .get("grpc-encoding")
                .map(|value| value.to_str().unwrap()),
            encoding
        );
        answers.push(message);
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]));
    // Messages of methods without a cache pass through compressed.
    let batch = BatchGetChurnRisksRequest {
        customer_ids: vec!["17850".into()],
    };
    assert!(
        packed(CompressionEncoding::Gzip)
            .batch_get_churn_risks(batch)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_gateway_over_services_in_its_own_process_answers_the_same() {
    let model = Model::new("churn", "v1");
    let mut health = tokio::task::JoinSet::new();
    let (routes, _) = runtime::health_and_reflection(&model.service(), &mut health).unwrap();
    let backends = gateway::Backends::default().with("churn", gateway::in_process(routes));
    let methods = gateway::method::Methods::read(proto::DESCRIPTORS).unwrap();
    let memory = std::sync::Arc::new(gateway::cache::Memory::new(1 << 20));
    let cache = gateway::cache::Tiers::new(vec![memory]);
    let parts = gateway::Parts {
        methods,
        backends,
        cache,
        auth: gateway::Auth::default(),
        in_flight: 8,
    };
    let within =
        Front::over(gateway::Gateway::new(parts, &gateway::WebArgs::default()).unwrap()).await;
    within.knows("v1").await;
    let (_, _service, over_sockets) = churn(None).await;

    let (mut one, mut other) = (within.churn().await, over_sockets.churn().await);
    for id in ["17850", "", "stranger é", &"x".repeat(10 << 20)] {
        for _ in 0..2 {
            let (a, b) = (
                one.get_churn_risk(customer(id)).await,
                other.get_churn_risk(customer(id)).await,
            );
            match (a, b) {
                (Ok(a), Ok(b)) => {
                    assert_eq!(
                        (a.metadata().get("x-cache"), a.get_ref()),
                        (b.metadata().get("x-cache"), b.get_ref())
                    )
                }
                (Err(a), Err(b)) => assert_same(&a, &b),
                (a, b) => panic!("{a:?} and {b:?}"),
            }
        }
    }
    model.publish("v2");
    within.knows("v2").await;
}
