//! What the layers cost, and what the cache's optimisations gain: `cargo bench -p gateway --bench
//! layers`. Each number is the best of several rounds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement, printed to a reader"
)]

#[path = "../tests/gateway/shop.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod shop;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use gateway::{Gateway, Parts, Stack};
use http::Request;
use http_body_util::{BodyExt, Full};
use prost::Message;
use shop::{Front, Model, Redis, Running, customer};
use tonic::body::Body;
use tower::ServiceExt;

const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
const ROUNDS: usize = 7;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    stack().await;
    admission_filter().await;
    oversized_answers().await;
}

/// Calls GetChurnRisk and reads the answer. Returns its `x-cache`.
async fn call(stack: Stack, id: &str) -> String {
    let message = customer(id).into_inner().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], &message].concat();
    let request = Request::post(RISK)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(Bytes::from(body))))
        .unwrap();
    let response = stack.oneshot(request).await.unwrap();
    let cache = response.headers()["x-cache"].to_str().unwrap().to_owned();
    response.into_body().collect().await.unwrap();
    cache
}

/// Time of a hit in memory, and of a miss, with the service in the same process.
async fn stack() {
    let model = Model::new("churn", "v1");
    let mut health = tokio::task::JoinSet::new();
    let (routes, _) = runtime::health_and_reflection(&model.service(), &mut health).unwrap();
    let parts = Parts {
        methods: gateway::method::Methods::read(proto::DESCRIPTORS).unwrap(),
        backends: gateway::Backends::default().with("churn", gateway::in_process(routes)),
        cache: gateway::cache::Tiers::new(vec![Arc::new(gateway::cache::Memory::new(1 << 26))]),
        auth: gateway::Auth::default(),
        in_flight: 2048,
    };
    let front = Front::over(Gateway::new(parts, &gateway::WebArgs::default()).unwrap()).await;
    front.knows("v1").await;
    let stack = front.gateway.stack();
    for (name, calls) in [("hit", 50_000), ("miss", 10_000)] {
        let mut best = Duration::MAX;
        for round in 0..ROUNDS {
            let start = Instant::now();
            for n in 0..calls {
                let id = match name {
                    "hit" => "17850".to_owned(),
                    _ => format!("{round} {n}"),
                };
                call(stack.clone(), &id).await;
            }
            best = best.min(start.elapsed() / calls);
        }
        println!("{name:>4} in one process: {best:?}");
    }
}

/// Time of misses on answers that are wanted once, which the filter keeps from Redis, and of misses
/// on answers that were wanted before, which are written.
async fn admission_filter() {
    let redis = Redis::start().await;
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let flags = [
        ("churn", service.url()),
        ("redis", redis.url()),
        ("cache-memory", "0".to_owned()),
    ];
    let front = Front::start(&flags).await;
    front.knows("v1").await;
    front.shares(&redis).await;
    let mut best = [Duration::MAX; 2];
    for round in 0..ROUNDS {
        for best in &mut best {
            redis.run(&[b"FLUSHALL"]).await;
            let (calls, start) = (5_000, Instant::now());
            let ids = (0..calls).map(|n| format!("{round} {n}"));
            stream::iter(ids)
                .map(|id| {
                    let stack = front.gateway.stack();
                    async move { call(stack, &id).await }
                })
                .buffer_unordered(32)
                .for_each(async |cache| assert_eq!(cache, "miss"))
                .await;
            *best = (*best).min(start.elapsed() / calls);
        }
    }
    let [once, again] = best;
    println!("miss beside Redis: {once:?} if wanted once, {again:?} if wanted before");
}

/// Time of callers at once of an answer that is too large to share: before the cache knows that,
/// and after.
async fn oversized_answers() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url())]).await;
    front.knows("v1").await;
    let id = format!("in a moment {}", "x".repeat(100 << 10));
    for name in ["unknown", "known"] {
        let callers = (0..8).map(|_| {
            let (stack, id) = (front.gateway.stack(), id.clone());
            async move {
                let start = Instant::now();
                call(stack, &id).await;
                start.elapsed()
            }
        });
        let slowest = futures_util::future::join_all(callers).await;
        let slowest = slowest.into_iter().max().unwrap_or_default();
        println!("8 callers of an oversized answer that takes 50 ms, {name}: {slowest:?}");
    }
}
