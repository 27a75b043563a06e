//! The gateway over real sockets, with services built on the real API and a real Redis.

#![expect(clippy::unwrap_used, reason = "what helps tests fails as tests do")]

mod auth;
mod caching;
mod hostile;
mod load;
mod replicas;
mod secrets;
mod servers;
mod shop;
mod web;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    anomaly::v1::{ScoreTransactionsRequest, anomaly_service_client::AnomalyServiceClient},
    churn::v1::{
        BatchGetChurnRisksRequest, ListAtRiskCustomersRequest, ScoreChurnRequest,
        churn_service_client::ChurnServiceClient,
    },
    forecast::v1::{ListSeriesRequest, forecast_service_client::ForecastServiceClient},
    model::v1::{
        GetModelStatusRequest, WatchModelRequest, model_service_client::ModelServiceClient,
    },
};
use shop::{Front, Manner, Model, Redis, Running, Wires, ask, ask_with, customer, until};
use tokio::sync::Barrier;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, codec::CompressionEncoding};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

/// Nobody waits longer than this for a Redis that is not well, whatever else this machine is doing.
const BOUND: Duration = Duration::from_millis(200);

/// The churn service, and a gateway that knows its version.
async fn churn(redis: Option<&Redis>) -> (Model, Running, Front) {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = front(&service, redis).await;
    (model, service, front)
}

async fn front(service: &Running, redis: Option<&Redis>) -> Front {
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

/// Asks for something new, and once more, and waits until its answer is in Redis.
async fn ask_and_share(front: &Front, redis: &Redis, id: &str) -> shop::Answered {
    until("writes have settled", || async {
        let keys = redis.keys().await.len();
        tokio::time::sleep(Duration::from_millis(20)).await;
        redis.keys().await.len() == keys
    })
    .await;
    let keys = redis.keys().await.len();
    let mut client = front.churn().await;
    let answer = ask(&mut client, id).await.unwrap();
    ask(&mut client, id).await.unwrap();
    until("the answer is in Redis", || async {
        redis.keys().await.len() > keys
    })
    .await;
    answer
}

/// The same refusal. A map in its details has no order.
fn assert_same(one: &Status, other: &Status) {
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

#[tokio::test]
async fn an_answer_is_given_again_from_memory_and_to_others_from_redis() {
    let redis = Redis::start().await;
    let (model, service, first) = churn(Some(&redis)).await;
    let mut client = first.churn().await;

    let miss = ask_and_share(&first, &redis, "17850").await;
    let calls = model.calls();
    let hit = ask(&mut client, "17850").await.unwrap();
    assert_eq!(
        (
            miss.cache.as_str(),
            hit.cache.as_str(),
            hit.version.as_str()
        ),
        ("miss", "hit-memory", "v1")
    );
    assert_eq!(
        (miss.response, model.calls()),
        (hit.response.clone(), calls)
    );

    let second = front(&service, Some(&redis)).await;
    let (mut client, calls) = (second.churn().await, model.calls());
    for cache in ["hit-redis", "hit-memory"] {
        let again = ask(&mut client, "17850").await.unwrap();
        assert_eq!(
            (again.cache.as_str(), &again.response, model.calls()),
            (cache, &hit.response, calls)
        );
    }
}

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
    // A NOT_FOUND is remembered as well, other refusals are not.
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
        // The service says so at once; what comes from anywhere after the first new answer is new.
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
    // Back to an earlier one: its answers are still its answers. What was on its way may make it
    // doubtful once more.
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
async fn redis_may_die_and_come_back() {
    let redis = Redis::start().await;
    let (model, service, first) = churn(Some(&redis)).await;
    let mut client = first.churn().await;
    ask_and_share(&first, &redis, "before").await;

    let port = redis.port;
    redis.kill();
    for n in 0..100 {
        let start = Instant::now();
        let answer = ask(&mut client, &format!("without {n}")).await.unwrap();
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        assert_eq!(
            (answer.cache.as_str(), answer.version.as_str()),
            ("miss", "v1")
        );
    }
    assert_eq!(
        ask(&mut client, "without 7").await.unwrap().cache,
        "hit-memory"
    );
    // One that starts without it works, too.
    let late = Front::start(&[
        ("churn", service.url()),
        ("redis", format!("redis://127.0.0.1:{port}")),
    ])
    .await;
    late.knows("v1").await;
    let mut late_client = late.churn().await;
    assert_eq!(ask(&mut late_client, "before").await.unwrap().cache, "miss");

    let redis = Redis::start_at(port).await;
    let mut n = 0;
    until("answers are shared again", || {
        n += 1;
        let (mut one, mut other) = (client.clone(), late_client.clone());
        let id = format!("after {n}");
        async move {
            for _ in 0..2 {
                ask(&mut one, &id).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // writes are behind
            ask(&mut other, &id).await.unwrap().cache == "hit-redis"
        }
    })
    .await;
    assert!(!redis.keys().await.is_empty() && model.calls() > 0);
}

#[tokio::test]
async fn a_redis_that_says_nothing_is_left_alone() {
    let redis = Redis::start().await;
    let (_, _service, front) = churn(Some(&redis)).await;
    let mut client = front.churn().await;
    redis.signal("STOP");
    let mut slow = 0;
    for n in 0..100 {
        let start = Instant::now();
        assert_eq!(
            ask(&mut client, &format!("frozen {n}"))
                .await
                .unwrap()
                .version,
            "v1"
        );
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        slow += u32::from(start.elapsed() >= Duration::from_millis(5));
    }
    // Five wait in vain; this machine may be slow a few times more.
    assert!(slow < 30, "{slow} of 100 calls waited");
    redis.signal("CONT");
    let keys = redis.keys().await.len();
    let mut n = 0;
    until("answers are written again", || {
        n += 1;
        let (mut client, redis, id) = (client.clone(), &redis, format!("thawed {n}"));
        async move {
            for _ in 0..2 {
                ask(&mut client, &id).await.unwrap();
            }
            redis.keys().await.len() > keys
        }
    })
    .await;
}

#[tokio::test]
async fn what_others_put_under_our_keys_is_not_an_answer() {
    let redis = Redis::start().await;
    let (model, service, first) = churn(Some(&redis)).await;
    ask_and_share(&first, &redis, "17850").await;
    let keys = redis.keys().await;
    let mut connection = redis.connection().await.unwrap();
    let values: Vec<Vec<u8>> = redis::cmd("MGET")
        .arg(&keys)
        .query_async(&mut connection)
        .await
        .unwrap();
    let flipped = |value: &[u8], at: usize| {
        let mut value = value.to_vec();
        value[at] ^= 1;
        value
    };

    for damage in [
        "nothing",
        "words",
        "a bit of the body",
        "a bit of the tag",
        "cut short",
        "another's",
        "a list",
    ] {
        for (i, key) in keys.iter().enumerate() {
            let (key, value) = (key.as_bytes(), &values[i]);
            let stored = match damage {
                "words" => b"SKC1 but not really".to_vec(),
                "a bit of the body" => flipped(value, value.len() - 40),
                "a bit of the tag" => flipped(value, value.len() - 1),
                "cut short" => value[..value.len() / 2].to_vec(),
                "another's" => values[(i + 1) % values.len()].clone(),
                _ => vec![],
            };
            redis.run(&[b"DEL", key]).await;
            match damage {
                "a list" => redis.run(&[b"RPUSH", key, b"x"]).await,
                _ => redis.run(&[b"SET", key, &stored]).await,
            }
        }
        // A gateway that has nothing in memory; its first look at the key is ours below.
        let other = Front::start(&[("churn", service.url()), ("redis", redis.url())]).await;
        let mut client = other.churn().await;
        until("the gateway knows the version", || {
            let mut client = client.clone();
            async move {
                client
                    .score_churn(ScoreChurnRequest::default())
                    .await
                    .unwrap()
                    .metadata()
                    .get("x-cache")
                    .unwrap()
                    != "bypass"
            }
        })
        .await;
        let calls = model.calls();
        let answer = ask(&mut client, "17850").await.unwrap();
        assert_eq!(
            (answer.cache.as_str(), model.calls()),
            ("miss", calls + 1),
            "{damage}"
        );
        assert_eq!(answer.response.churn_risk.unwrap().customer_id, "17850");
        assert_eq!(answer.version, "v1");
    }
}

#[tokio::test]
async fn a_full_redis_and_one_with_another_secret_are_no_help_and_no_harm() {
    let redis = Redis::start().await;
    let (_, service, first) = churn(Some(&redis)).await;
    ask_and_share(&first, &redis, "17850").await;
    let flags = [
        ("churn", service.url()),
        ("redis", redis.url()),
        ("cache-secret", "ours".to_owned()),
    ];
    let other = Front::start(&flags).await;
    other.knows("v1").await;
    assert_eq!(
        ask(&mut other.churn().await, "17850").await.unwrap().cache,
        "miss"
    );

    ask_and_share(&first, &redis, "18102").await;
    redis.run(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    let mut client = first.churn().await;
    for n in 0..50 {
        assert_eq!(
            ask(&mut client, &format!("full {n}")).await.unwrap().cache,
            "miss"
        );
    }
    // It takes nothing more, and still gives what it has.
    let flags = [
        ("churn", service.url()),
        ("redis", redis.url()),
        ("cache-memory", "0".to_owned()),
    ];
    let third = Front::start(&flags).await;
    let client = third.churn().await;
    until("it gives what it has", || {
        let mut client = client.clone();
        async move {
            ask(&mut client, "18102")
                .await
                .is_ok_and(|answer| answer.cache == "hit-redis")
        }
    })
    .await;
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
    // From here on as many are asked at once as come: each has a part in what both can only do
    // together.
    model.works(Manner::Together(Arc::new(Barrier::new(2))));
    let (one, other) = tokio::join!(list(), list());
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test]
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
    for (mut client, cache, encoding) in [
        (packed(CompressionEncoding::Gzip), "miss", Some("gzip")),
        (
            packed(CompressionEncoding::Zstd),
            "hit-memory",
            Some("zstd"),
        ),
        (plain.clone(), "hit-memory", None),
        (accepting, "hit-memory", None),
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
    // What is not cached is compressed between the caller and the service alone.
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
        (100_000..=250_000).contains(&microseconds(&model)),
        "the method's own: {:?}",
        model.timeout()
    );
    client.get_churn_risk(with("second", "100m")).await.unwrap();
    assert!(
        (10_000..=100_000).contains(&microseconds(&model)),
        "the caller's: {:?}",
        model.timeout()
    );

    // A client that does not count itself.
    let mut client = ChurnServiceClient::new(front.gateway.stack());
    for (request, at_least, at_most) in [
        (with("slow", "60m"), 60, 240),
        (customer("slow"), 250, 1_000),
    ] {
        let start = Instant::now();
        let status = client.get_churn_risk(request).await.unwrap_err();
        let took = start.elapsed().as_millis();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!((at_least..at_most).contains(&took), "{took} ms");
    }
}

#[tokio::test]
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
        let start = Instant::now();
        let status = ask(&mut client, &format!("gone {n}")).await.unwrap_err();
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
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
        // The budget for second attempts fills again with answers.
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
    // Each answer before the next question: nothing is held back.
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

    // Many at once, and a regular end.
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
        tokio::time::sleep(Duration::from_millis(100)).await;
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
