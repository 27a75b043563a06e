//! Overload, failing replicas, and replicas that are added and removed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fake_shop::{Manner, Wires};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::{
    anomaly::v1::{
        ScoreTransactionRequest, ScoreTransactionsRequest,
        anomaly_service_client::AnomalyServiceClient,
    },
    churn::v1::churn_service_client::ChurnServiceClient,
};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    load::{self, Became, CAPACITY, HANDS, checkout, list, offer},
    shop::{Front, Model, Running, ask, ask_with, customer, until},
};

#[tokio::test]
async fn at_ten_times_its_capacity_a_service_goes_on_doing_what_it_can() {
    let (model, _service, front) = load::start().await;
    let (calls, worked, start) = (model.calls(), model.worked(), Instant::now());
    let lasts = Duration::from_secs(4);
    let cached = async {
        let mut client = front.churn().await;
        while start.elapsed() < lasts {
            let answer = ask(&mut client, "does it know").await.unwrap();
            assert_eq!(
                answer.cache, "hit-memory",
                "what is known needs no place at the service"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (checkouts, lists, ()) = tokio::join!(
        offer(&front, CAPACITY / 2, lasts, checkout),
        offer(&front, CAPACITY * 19 / 2, lasts, list),
        cached
    );
    // The capacity in this time, from the measured duration of calls. Nearly all of it is used
    // (`cargo bench --bench overload` prints the share); half leaves room for a busy machine.
    let (took, calls) = (start.elapsed(), model.calls() - calls);
    let pace = (model.worked() - worked).as_secs_f64() / calls as f64;
    let could = HANDS as f64 * took.as_secs_f64() / pace;
    let answered = checkouts.answered.len() + lists.answered.len();
    assert!(answered as f64 > 0.5 * could, "{answered} of {could}");
    let share = |calls: &Became| calls.answered.len() as f64 / calls.offered as f64;
    assert!(
        share(&checkouts) > 2.0 * share(&lists),
        "{:?} {:?}",
        checkouts.failed.first(),
        lists.failed.first()
    );
    assert!(
        lists.refused * 2 > lists.offered,
        "{} of {}",
        lists.refused,
        lists.offered
    );
    assert!(
        lists.failed.len() * 100 < lists.offered,
        "{:?}",
        lists.failed.first()
    );
}

/// A gateway without a cache over these replicas, and a client of it.
async fn before(replicas: &[&Running]) -> (Front, ChurnServiceClient<Channel>) {
    let urls: Vec<_> = replicas.iter().map(|replica| replica.url()).collect();
    let front = Front::start(&[("churn", urls.join(",")), ("cache-memory", "0".into())]).await;
    let client = front.churn().await;
    (front, client)
}

#[tokio::test]
async fn a_replica_that_refuses_costs_no_call_and_is_soon_left_alone() {
    let (good, bad) = (Model::new("churn", "v1"), Model::new("churn", "v1"));
    let (one, two) = (
        Running::start(good.service()).await,
        Running::start(bad.service()).await,
    );
    let (_front, client) = before(&[&one, &two]).await;
    let (good, bad) = (&good, &bad);
    until("both are asked", || {
        let mut client = client.clone();
        async move {
            let is_ok = ask(&mut client, "17850").await.is_ok();
            is_ok && good.calls() > 0 && bad.calls() > 0
        }
    })
    .await;
    bad.works(Manner::Refusing(Status::unavailable("not today")));
    let calls = bad.calls();
    while bad.calls() == calls {
        ask(&mut client.clone(), "17850").await.unwrap();
    }
    for n in 0..300 {
        ask(&mut client.clone(), &n.to_string()).await.unwrap();
    }
    let refused = bad.calls() - calls;
    assert!(refused < 60, "{refused} of 300 calls");
    bad.works(Manner::Well);
    let calls = bad.calls();
    until("it is asked again", || {
        let mut client = client.clone();
        async move { ask(&mut client, "17850").await.is_ok() && bad.calls() > calls }
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_falls_silent_costs_no_call() {
    let (heard, silent) = (Model::new("churn", "v1"), Model::new("churn", "v1"));
    let (one, two) = (
        Running::start(heard.service()).await,
        Running::start(silent.service()).await,
    );
    let wires = Wires::to(two.address).await;
    let (heard, silent) = (&heard, &silent);
    // Slow, so that the gateway prefers the other replica.
    heard.works(Manner::Busily(
        Arc::new(Semaphore::new(100)),
        Duration::from_millis(50),
    ));
    let start = async |hedge_after: &str| {
        let urls = format!("{},http://{}", one.url(), wires.address);
        let flags = [
            ("churn", urls),
            ("cache-memory", "0".into()),
            ("hedge-after", hedge_after.into()),
        ];
        let front = Front::start(&flags).await;
        let (client, before) = (front.churn().await, (heard.arrived(), silent.calls()));
        until("both are asked", || {
            let mut client = client.clone();
            // The slow replica's call is cancelled as soon as the other one has answered the hedge,
            // hence the requests are counted there.
            let both = || heard.arrived() > before.0 && silent.calls() > before.1;
            async move { ask(&mut client, "17850").await.is_ok() && both() }
        })
        .await;
        (front, client)
    };
    let (_patient, waiting) = start("0s").await;
    let (_front, mut client) = start("10ms").await;
    wires.silent(true);
    until("a call is late where none is made at another", || {
        let mut client = waiting.clone();
        async move {
            ask(&mut client, "17850")
                .await
                .is_err_and(|late| late.code() == Code::DeadlineExceeded)
        }
    })
    .await;
    let (calls, arrived) = (heard.calls(), silent.arrived());
    ask(&mut client, "17850").await.unwrap();
    heard.works(Manner::Well);
    for n in 0..200 {
        ask(&mut client, &n.to_string()).await.unwrap();
    }
    assert_eq!((heard.calls() - calls, silent.arrived()), (201, arrived));
    wires.silent(false);
    let calls = silent.calls();
    until("it is asked again", || {
        let mut client = client.clone();
        async move { ask(&mut client, "17850").await.is_ok() && silent.calls() > calls }
    })
    .await;
}

#[tokio::test]
async fn what_another_replica_has_answered_is_taken_back() {
    let (quick, stuck) = (Model::new("churn", "v1"), Model::new("churn", "v1"));
    let (one, two) = (
        Running::start(quick.service()).await,
        Running::start(stuck.service()).await,
    );
    let (_front, client) = before(&[&one, &two]).await;
    let (quick, stuck) = (&quick, &stuck);
    until("both are asked", || {
        let mut client = client.clone();
        async move {
            let is_ok = ask(&mut client, "17850").await.is_ok();
            is_ok && quick.calls() > 0 && stuck.calls() > 0
        }
    })
    .await;
    stuck.works(Manner::Busily(Arc::new(Semaphore::new(0)), Duration::ZERO));
    let (arrived, calls) = (stuck.arrived(), stuck.calls());
    until("both have a call", || {
        let mut client = client.clone();
        async move {
            ask(&mut client, "17850").await.unwrap();
            stuck.arrived() > arrived
        }
    })
    .await;
    until("it is taken back", || async { stuck.at_work() == 0 }).await;
    assert_eq!(stuck.calls(), calls);
}

#[tokio::test]
async fn a_service_says_whether_and_when_it_is_asked_again() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    struct Case {
        code: Code,
        pushback: Option<&'static str>,
        attempts: usize,
    }
    for Case {
        code,
        pushback,
        attempts,
    } in [
        Case {
            code: Code::Unavailable,
            pushback: None,
            attempts: 3,
        },
        Case {
            code: Code::Unavailable,
            pushback: Some("-1"),
            attempts: 1,
        },
        Case {
            code: Code::ResourceExhausted,
            pushback: None,
            attempts: 1,
        },
        Case {
            code: Code::ResourceExhausted,
            pushback: Some("1"),
            attempts: 3,
        },
        Case {
            code: Code::Internal,
            pushback: None,
            attempts: 1,
        },
    ] {
        model.works(Manner::Well);
        let (_front, mut client) = before(&[&service]).await; // with a retry budget of its own
        ask(&mut client, "17850").await.unwrap();
        let mut status = Status::new(code, "not now");
        if let Some(pushback) = pushback {
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
        }
        model.works(Manner::Refusing(status));
        let calls = model.calls();
        let refused = ask(&mut client, "17850").await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, "not now"));
        assert_eq!(model.calls() - calls, attempts, "{code:?} {pushback:?}");
    }
}

#[tokio::test]
async fn callers_who_wait_in_vain_take_nothing_from_others() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let (_front, mut client) = before(&[&service]).await;
    ask(&mut client, "17850").await.unwrap();
    for _ in 0..10 {
        let mut request = customer("slow");
        request.set_timeout(Duration::from_millis(130));
        ask_with(&mut client, request).await.unwrap_err();
    }
    ask(&mut client, "17850").await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_for_the_service_is_its_callers_own_trouble() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let (front, _) = before(&[&service]).await;
    // A listener with the limit of a service: a head that it accepts can, with the fields that the
    // gateway adds, be too large for the service.
    let wide = Running::start(front.gateway.service()).await;
    let mut client = ChurnServiceClient::new(wide.channel().await);
    let mut turned_down = 0;
    for pad in (15_200..16_300).step_by(8) {
        let mut request = customer("17850");
        request
            .metadata_mut()
            .insert("x-pad", "z".repeat(pad).parse().unwrap());
        let arrived = model.arrived();
        if let Err(status) = ask_with(&mut client, request).await
            && let Some(info) = status.get_details_error_info()
        {
            assert_eq!(
                (status.code(), info.reason.as_str()),
                (Code::Internal, "CALL_TURNED_DOWN"),
                "{status:?}"
            );
            assert_eq!(model.arrived(), arrived);
            turned_down += 1;
        }
        ask(&mut client, "17850").await.unwrap();
    }
    assert!(turned_down >= 3, "{turned_down}");
}

#[tokio::test]
async fn replicas_come_and_go_with_the_lines_of_a_file() {
    let (first, second) = (Model::new("anomaly", "a1"), Model::new("anomaly", "a1"));
    let (one, two) = (
        Running::start(first.service()).await,
        Running::start(second.service()).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("anomaly");
    std::fs::write(&file, one.url()).unwrap();
    let flags = [
        ("anomaly", format!("file:{}", file.display())),
        ("cache-memory", "0".into()),
    ];
    let front = Front::start(&flags).await;
    let mut client = AnomalyServiceClient::new(front.running.channel().await);
    let scoring = client.clone();
    let score = async |model: &Model| {
        let calls = model.calls();
        let answer = scoring
            .clone()
            .score_transaction(ScoreTransactionRequest::default())
            .await;
        answer.is_ok() && model.calls() > calls
    };
    until("the first one is asked", || score(&first)).await;

    let (send, lines) = tokio::sync::mpsc::channel(1);
    let line = |sequence| ScoreTransactionsRequest {
        sequence,
        transaction: None,
    };
    send.send(line(1)).await.unwrap();
    let mut stream = client
        .score_transactions(ReceiverStream::new(lines))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().sequence, 1);

    std::fs::write(&file, two.url()).unwrap();
    until("the other one is asked", || score(&second)).await;
    for _ in 0..20 {
        assert!(score(&second).await, "and the first no more");
    }
    send.send(line(2)).await.unwrap();
    assert_eq!(
        stream.message().await.unwrap().unwrap().sequence,
        2,
        "what was begun goes on"
    );

    std::fs::write(&file, format!("{}\n{}\n", one.url(), two.url())).unwrap();
    until("both are asked", || score(&first)).await;
}

#[tokio::test]
async fn a_file_can_say_that_an_address_is_reached_in_another_way() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("churn");
    std::fs::write(&file, service.url()).unwrap();
    let front = Front::start(&[
        ("churn", format!("file:{}", file.display())),
        ("cache-memory", "0".into()),
    ])
    .await;
    let client = front.churn().await;
    let answers = async || ask(&mut client.clone(), "17850").await.is_ok();
    until("it answers", answers).await;
    std::fs::write(&file, service.url().replace("http:", "https:")).unwrap();
    until(
        "it is called over TLS, which it does not speak",
        async || !answers().await,
    )
    .await;
    std::fs::write(&file, service.url()).unwrap();
    until("it answers again", answers).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_its_callers_mistake() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let (front, _client) = before(&[&service]).await;
    let (garbage, packed) = (&b"\x0a\xff"[..], &b"not gzip"[..]);
    for (flag, message) in [(0, garbage), (1, packed), (2, garbage)] {
        let body = [
            &[flag, 0, 0, 0, u8::try_from(message.len()).unwrap()],
            message,
        ]
        .concat();
        let request = http::Request::post(format!(
            "{}/shopkeeper.churn.v1.ChurnService/GetChurnRisk",
            front.running.url()
        ));
        let request = request
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip");
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let response = client
            .request(request.body(Full::new(Bytes::from(body))).unwrap())
            .await
            .unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(
            (
                status.code(),
                status.get_details_error_info().unwrap().reason.as_str()
            ),
            (Code::InvalidArgument, "INVALID_FIELD"),
            "{status:?}"
        );
    }
}
