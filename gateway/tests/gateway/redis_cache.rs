//! A Redis that several gateways share, and calls while it fails.

use std::time::Duration;

use proto::churn::v1::ScoreChurnRequest;

use crate::shop::{Front, Redis, ask, ask_and_share, churn, front, until};

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
async fn redis_may_die_and_come_back() {
    let redis = Redis::start().await;
    let (model, service, first) = churn(Some(&redis)).await;
    let mut client = first.churn().await;
    ask_and_share(&first, &redis, "before").await;

    let port = redis.port;
    redis.kill();
    for n in 0..100 {
        // An answer comes within the method's timeout or not at all.
        let answer = ask(&mut client, &format!("without {n}")).await.unwrap();
        assert_eq!(
            (answer.cache.as_str(), answer.version.as_str()),
            ("miss", "v1")
        );
    }
    assert_eq!(
        ask(&mut client, "without 7").await.unwrap().cache,
        "hit-memory"
    );
    // A gateway that starts without Redis works, too.
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
            tokio::time::sleep(Duration::from_millis(20)).await; // writes are asynchronous
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
    let commands = redis.commands().await;
    redis.signal("STOP");
    for n in 0..100 {
        assert_eq!(
            ask(&mut client, &format!("frozen {n}"))
                .await
                .unwrap()
                .version,
            "v1"
        );
    }
    redis.signal("CONT");
    // Redis now reads the commands that it was sent meanwhile. Five calls wait in vain before the
    // circuit breaker opens; then it is probed now and then.
    let sent = redis.commands().await - commands;
    assert!(sent < 60, "100 calls sent {sent} commands");
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
#[expect(
    clippy::too_many_lines,
    reason = "a list of ways to damage an entry, and the steps that try each"
)]
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
        // A gateway with an empty memory; the call below is its first lookup of the key.
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
    // A full Redis stores nothing more and still returns what it has.
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
