//! Single flight, and that a cached answer is always one that the service would give.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use proto::churn::v1::{BatchGetChurnRisksRequest, churn_service_client::ChurnServiceClient};
use tonic::{Status, body::Body};
use tower::ServiceExt;

use crate::{
    shop::{Front, Model, Redis, Running, ask, assert_same, customer},
    web::http,
};

#[tokio::test]
async fn what_many_ask_at_once_is_asked_once() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url())]).await;
    front.knows("v1").await;
    for round in 0..5 {
        let (calls, id) = (model.calls(), format!("in a moment {round}"));
        let (one, other) = (front.churn().await, front.churn().await);
        let asked = (0..100).map(|n| {
            let (mut client, id) = (
                if n % 2 == 0 {
                    one.clone()
                } else {
                    other.clone()
                },
                id.clone(),
            );
            async move { ask(&mut client, &id).await.unwrap() }
        });
        let answers = futures_util::future::join_all(asked).await;
        let of = |cache: &str| {
            answers
                .iter()
                .filter(|answer| answer.cache == cache)
                .count()
        };
        assert_eq!((model.calls() - calls, of("miss")), (1, 1));
        // A caller that comes after the answer finds it in the cache.
        assert_eq!(of("coalesced") + of("hit-memory"), 99);
        assert!(of("coalesced") > 0);
        assert!(
            answers
                .iter()
                .all(|answer| answer.response == answers[0].response && answer.version == "v1")
        );
    }
}

#[tokio::test]
async fn who_gives_up_takes_nothing_from_those_who_wait() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url())]).await;
    front.knows("v1").await;
    let client = ChurnServiceClient::new(front.gateway.stack()); // without a timeout of its own
    for round in 0..5 {
        let id = format!("in a moment {round}");
        let with = |timeout: &'static str| {
            let (mut client, mut request) = (client.clone(), customer(&id));
            request
                .metadata_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
            async move { client.get_churn_risk(request).await }
        };
        let asked = [with("20m"), with("30m"), with("200m"), with("200m")];
        let [first, second, third, fourth] =
            <[_; 4]>::try_from(futures_util::future::join_all(asked).await).unwrap();
        for late in [first, second] {
            assert_eq!(late.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        }
        for answered in [third, fourth] {
            assert_eq!(
                answered
                    .unwrap()
                    .into_inner()
                    .churn_risk
                    .unwrap()
                    .customer_id,
                id
            );
        }
    }
}

/// The response headers of the same call over gRPC, JSON and gRPC-Web, in this order.
async fn ways(front: &Front, id: &str, headers: &[(&str, &str)]) -> Vec<HeaderMap> {
    let (mut client, mut request) = (front.churn().await, customer(id));
    for (name, value) in headers {
        let name = tonic::metadata::MetadataKey::from_bytes(name.as_bytes()).unwrap();
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let grpc = match client.get_churn_risk(request).await {
        Ok(answer) => answer.metadata().clone(),
        Err(status) => status.metadata().clone(),
    };
    let json = http(
        front,
        Method::GET,
        &format!("/v1/customers/{id}/churnRisk"),
        headers,
        b"",
    )
    .await;
    let message = prost::Message::encode_to_vec(customer(id).get_ref());
    let framed = [
        &[0][..],
        &u32::try_from(message.len()).unwrap().to_be_bytes(),
        &message,
    ]
    .concat();
    let web_headers = [
        &[
            ("content-type", "application/grpc-web+proto"),
            ("x-grpc-web", "1"),
        ],
        headers,
    ]
    .concat();
    let path = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    let web = http(front, Method::POST, path, &web_headers, &framed).await;
    vec![grpc.into_headers(), json.headers, web.headers]
}

#[tokio::test]
async fn every_way_in_says_where_an_answer_came_from_and_can_do_without() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url())]).await;
    front.knows("v1").await;
    for id in ["17850", "stranger"] {
        struct Case {
            headers: &'static [(&'static str, &'static str)],
            first: &'static str,
            others: &'static str,
        }
        for Case {
            headers,
            first,
            others,
        } in [
            Case {
                headers: &[][..],
                first: "miss",
                others: "hit-memory",
            },
            Case {
                headers: &[],
                first: "hit-memory",
                others: "hit-memory",
            },
            Case {
                headers: &[("cache-control", "no-cache")],
                first: "bypass",
                others: "bypass",
            },
            Case {
                headers: &[("cache-control", "no-store")],
                first: "bypass",
                others: "bypass",
            },
        ] {
            let calls = model.calls();
            for (n, told) in ways(&front, id, headers).await.into_iter().enumerate() {
                let cache = if n == 0 { first } else { others };
                let of = |name: &str| told[name].to_str().unwrap().to_owned();
                assert_eq!(
                    (&*of("x-cache"), &*of("x-model-version")),
                    (cache, "v1"),
                    "{id} {n} {headers:?}"
                );
            }
            if first == "bypass" {
                assert_eq!(model.calls() - calls, 3);
            }
        }
    }
}

/// An answer on the wire: its body and model version, or its status.
type Said = Result<(Bytes, String), Box<Status>>;

async fn said<S>(
    service: S,
    path: &str,
    (who, wish): (&str, &str),
    message: &[u8],
) -> (Said, String)
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let framed = [
        &[0][..],
        &u32::try_from(message.len()).unwrap().to_be_bytes(),
        message,
    ]
    .concat();
    let request = http::Request::post(format!("http://shop{path}")).version(http::Version::HTTP_2);
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = request
        .header("x-api-key", who)
        .header("cache-control", wish);
    let answer = service
        .oneshot(request.body(Body::new(Full::from(framed))).unwrap())
        .await
        .unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let header = |name| {
        head.headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let (version, cache) = (header("x-model-version"), header("x-cache"));
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    let status = Status::from_header_map(&trailers).unwrap();
    let said = if status.code() == tonic::Code::Ok {
        Ok((body.to_bytes(), version))
    } else {
        Err(Box::new(status))
    };
    (said, cache)
}

/// A linear congruential generator with a fixed seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A method and an encoded request whose fields are in any order, some of them twice, some unknown.
fn question(dice: &mut Dice) -> (&'static str, Vec<u8>) {
    let text =
        |field: u8, text: &str| [&[field << 3 | 2, text.len() as u8], text.as_bytes()].concat();
    let customer = *dice.of(&["17850", "18102", "", "stranger", "in a moment"]);
    let unknown = text(15, ["a", "b"][dice.below(2)]);
    let (path, mut fields) = match dice.below(4) {
        0 => (
            "ListAtRiskCustomers",
            vec![vec![1 << 3, dice.below(3) as u8], text(2, ""), unknown],
        ),
        1 => ("ScoreChurn", vec![unknown]),
        _ => ("GetChurnRisk", vec![text(1, customer), unknown]),
    };
    if dice.below(2) == 0 {
        fields.pop();
    }
    if dice.below(3) == 0 {
        fields.extend_from_within(..fields.len().min(1));
    }
    if dice.below(2) == 0 {
        fields.reverse();
    }
    (path, fields.concat())
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one random walk; a step may publish, ask or flush"
)]
async fn whatever_happens_the_cached_answer_is_the_one_the_service_gives() {
    let redis = Redis::start().await;
    let model = Model::new("churn", "v0");
    let service = Running::start(model.service()).await;
    let sharing = [("churn", service.url()), ("redis", redis.url())];
    let fronts = [
        Front::start(&sharing).await,
        Front::start(&sharing).await,
        Front::start(&[&sharing[..], &[("cache-memory", "0".to_owned())]].concat()).await,
    ];
    for front in &fronts {
        front.knows("v0").await;
        front.shares(&redis).await;
    }
    let direct = service.channel().await;
    let (mut dice, mut version) = (Dice(7), "v0".to_owned());
    let mut caches = std::collections::BTreeMap::<String, usize>::new();
    for step in 0..400 {
        if dice.below(20) == 0 {
            // A publish or a rollback among five versions.
            for front in &fronts {
                front.knows(&version).await;
            }
            version = format!("v{}", dice.below(5));
            model.publish(&version);
            for front in &fronts {
                let mut client = ChurnServiceClient::new(front.running.channel().await);
                client
                    .batch_get_churn_risks(BatchGetChurnRisksRequest::default())
                    .await
                    .unwrap();
                if dice.below(3) > 0 {
                    front.knows(&version).await;
                }
            }
        }
        let (method, message) = question(&mut dice);
        let path = format!("/shopkeeper.churn.v1.ChurnService/{method}");
        let who = (
            *dice.of(&["a", "b", "c"]),
            *dice.of(&["max-age=9", "", "", "", "", "", "no-cache", "no-store"]),
        );
        let (expected, _) = said(direct.clone(), &path, who, &message).await;
        let front = dice.of(&fronts);
        let asked =
            (0..1 + dice.below(4)).map(|_| said(front.gateway.stack(), &path, who, &message));
        for (got, cache) in futures_util::future::join_all(asked).await {
            match (&expected, got) {
                (Ok(expected), Ok(got)) => {
                    assert_eq!(*expected, got, "{step}: {method} {message:?} {cache}")
                }
                (Err(expected), Err(got)) => assert_same(expected, &got),
                (expected, got) => {
                    panic!("{step}: {method} {message:?} {cache}: {expected:?} and {got:?}")
                }
            }
            *caches.entry(cache).or_default() += 1;
        }
        if dice.below(100) == 0 {
            redis.run(&[b"FLUSHALL"]).await;
        }
    }
    for cache in ["miss", "hit-memory", "hit-redis", "coalesced", "bypass"] {
        assert!(
            caches.contains_key(cache),
            "{cache} did not happen: {caches:?}"
        );
    }
}
