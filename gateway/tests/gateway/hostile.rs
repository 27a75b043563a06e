//! Attacks: the gateway stays up, and other callers are answered.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use proto::churn::v1::{BatchGetChurnRisksRequest, churn_service_client::ChurnServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::shop::{Front, Model, Running, ask, churn, customer, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An encoded HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// HEADERS of a call without END_STREAM.
fn head(stream: u32, path: &str) -> Vec<u8> {
    // HPACK: `:method: POST` and `:scheme: http` from the static table, then literals without
    // indexing for `:path`, `:authority` and `content-type`.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], path),
        (&[0x01], "shop"),
        (&[0x0f, 0x10], "application/grpc"),
    ] {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    frame(1, 0x4, stream, &block)
}

const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

/// Repeats an attack until another caller has had a hundred answers meanwhile.
async fn beside_a_neighbour(front: &Front, harm: impl AsyncFn()) {
    let (tell, told) = watch::channel([0, 0]);
    let mut client = front.churn().await;
    let neighbour = tokio::spawn(async move {
        for n in 0.. {
            match ask(&mut client, &format!("neighbour {n}")).await {
                Ok(_) => tell.send_modify(|[answered, _]| *answered += 1),
                Err(status) => {
                    // The attack may keep this machine busy for a moment.
                    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
                    tell.send_modify(|[_, late]| *late += 1);
                }
            }
        }
    });
    while told.borrow()[0] < 100 && !neighbour.is_finished() {
        harm().await;
    }
    let [answered, late] = *told.borrow();
    assert!(
        !neighbour.is_finished() && late < answered / 2,
        "{answered} answered, {late} too late"
    );
    neighbour.abort();
}

/// Types and payloads of these frames.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = vec![];
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push((*kind, payload));
        bytes = rest;
    }
    frames
}

/// Error codes of the GOAWAY frames among these.
fn farewells(bytes: &[u8]) -> Vec<u8> {
    frames(bytes)
        .into_iter()
        .filter(|(kind, _)| *kind == 7)
        .map(|(_, payload)| payload[7])
        .collect()
}

/// The number of HEADERS frames among these.
fn heads(bytes: &[u8]) -> usize {
    frames(bytes)
        .into_iter()
        .filter(|(kind, _)| *kind == 1)
        .count()
}

const ENHANCE_YOUR_CALM: u8 = 0xb;

/// Sends frames until all are sent or the connection is closed, and returns the bytes received.
async fn sends(
    address: SocketAddr,
    frames: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        write.write_all(PREFACE).await?;
        write.write_all(&settings()).await?;
        for frame in frames {
            write.write_all(&frame).await?;
        }
        std::io::Result::Ok(write)
    });
    let mut said = vec![];
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = read.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..length]);
    }
    drop(sending);
    said
}

/// How an attacker opens and resets a stream: the bytes of each write.
type ResetForm = fn(u32) -> Vec<Vec<u8>>;

/// RST_STREAM with the code CANCEL.
fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

/// DATA with a request for this customer's risk and END_STREAM.
fn request(stream: u32, customer: &str) -> Vec<u8> {
    let length = u8::try_from(customer.len()).unwrap();
    let message = [&[0x0a, length], customer.as_bytes()].concat();
    frame(
        0,
        1,
        stream,
        &[&[0, 0, 0, 0, length + 2], &*message].concat(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rapid_reset_attack_ends_its_connection() {
    struct Case {
        name: &'static str,
        form: ResetForm,
    }
    let (_model, service, front) = churn(None).await;
    for case in [
        Case {
            name: "opened and reset in one write",
            form: |stream| vec![[head(stream, RISK), reset(stream)].concat()],
        },
        Case {
            name: "opened and reset in two writes",
            form: |stream| vec![head(stream, RISK), reset(stream)],
        },
        Case {
            name: "sent in full and reset in one write",
            form: |stream| {
                vec![[head(stream, RISK), request(stream, "17850"), reset(stream)].concat()]
            },
        },
        Case {
            name: "sent in full and reset in another write, before there is an answer",
            form: |stream| {
                let sent = [head(stream, RISK), request(stream, "slow")].concat();
                vec![sent, reset(stream)]
            },
        },
        Case {
            name: "a method that does not exist, in one write",
            form: |stream| vec![[head(stream, "/no/method"), reset(stream)].concat()],
        },
    ] {
        for address in [front.running.address, service.address] {
            let calls = (0..1_000_000).flat_map(move |n| (case.form)(2 * n + 1));
            let said = sends(address, calls).await;
            assert_eq!(farewells(&said), [ENHANCE_YOUR_CALM], "{}", case.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_callers_are_answered_during_a_rapid_reset_attack() {
    let (_model, _service, front) = churn(None).await;
    beside_a_neighbour(&front, async || {
        let calls = (0..1_000_000).map(|n| [head(2 * n + 1, RISK), reset(2 * n + 1)].concat());
        let said = sends(front.running.address, calls).await;
        assert_eq!(farewells(&said), [ENHANCE_YOUR_CALM]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_below_the_limit_end_no_connection() {
    let (_model, _service, front) = churn(None).await;
    // Half of the burst that a connection is allowed.
    let resets = (0..2_048).map(|n| [head(2 * n + 1, RISK), reset(2 * n + 1)].concat());
    let last = [head(5_001, RISK), request(5_001, "17850")].concat();
    let sent = [PREFACE.to_vec(), settings()].into_iter().chain(resets);
    let mut stream = TcpStream::connect(front.running.address).await.unwrap();
    for bytes in sent.chain([last]) {
        stream.write_all(&bytes).await.unwrap();
    }
    let mut said = vec![];
    while heads(&said) == 0 {
        assert_eq!(farewells(&said), [0; 0]);
        assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0);
    }
}

/// Whether a call that failed was late, or refused by the process itself (overload): its connection
/// did not end.
fn has_kept_its_connection(status: &Status) -> bool {
    status.code() == Code::DeadlineExceeded
        || status.message() == "Timeout expired"
        || status.get_details_error_info().is_some()
}

/// Patient and impatient callers share a connection while the process at its other end pauses: the
/// calls that pass their deadline meanwhile do not end the patient ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_whose_deadline_passes_end_no_connection_that_others_share() {
    let (_model, service, front) = churn(None).await;
    for impatient in [30, 100, 500] {
        for running in [&front.running, &service] {
            let channel = running.channel().await;
            let mut callers = JoinSet::new();
            for n in 0..impatient {
                let mut client = ChurnServiceClient::new(channel.clone());
                callers.spawn(async move {
                    // Not more often: tonic's client ends a connection with 1024 late answers.
                    let mut times_late = 0;
                    while times_late < 2 {
                        let mut request = customer(&format!("impatient {n}"));
                        request.set_timeout(Duration::from_millis(100));
                        if let Err(status) = client.get_churn_risk(request).await {
                            assert!(has_kept_its_connection(&status), "{status:?}");
                            times_late += 1;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                });
            }
            running.pause(Duration::from_millis(300));
            let patient = (0..100).map(async |n| {
                let mut client = ChurnServiceClient::new(channel.clone());
                client
                    .get_churn_risk(customer(&format!("patient {n}")))
                    .await
            });
            for answer in join_all(patient).await {
                if let Err(status) = answer {
                    // A busy machine may be late, and so many callers at once are overload.
                    assert!(has_kept_its_connection(&status), "{status:?}");
                }
            }
            until("every impatient caller was late twice", || {
                running.pause(Duration::from_millis(200));
                while let Some(caller) = callers.try_join_next() {
                    caller.unwrap();
                }
                std::future::ready(callers.is_empty())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_width_of_a_connection_are_not_all_accepted() {
    let (_model, _service, front) = churn(None).await;
    beside_a_neighbour(&front, async || {
        let calls = (0..1_000_000).map(|n| head(2 * n + 1, RISK));
        assert_eq!(
            farewells(&sends(front.running.address, calls).await),
            [ENHANCE_YOUR_CALM]
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_end_is_not_read_to_the_end() {
    let (_model, _service, front) = churn(None).await;
    beside_a_neighbour(&front, async || {
        // HEADERS without END_HEADERS, then CONTINUATION frames with a literal field each.
        let field = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
        let more = (0..100_000).map(move |_| frame(9, 0, 1, &field));
        assert_eq!(
            farewells(
                &sends(
                    front.running.address,
                    [frame(1, 0, 1, &[0x83])].into_iter().chain(more)
                )
                .await
            )
            .len(),
            1
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_a_byte_now_and_then_is_hung_up_on() {
    let (_model, _service, front) = churn(None).await;
    let http1 = format!(
        "GET /v1/customers/17850/churnRisk HTTP/1.1\r\nhost: shop\r\nx: {}",
        "y".repeat(1_000)
    );
    let starts = [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", http1.as_bytes()];
    beside_a_neighbour(&front, async || {
        let slow = starts.iter().cycle().take(80).map(async |text| {
            let mut stream = TcpStream::connect(front.running.address).await.unwrap();
            for byte in text.iter() {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            while stream
                .read(&mut [0; 1024])
                .await
                .is_ok_and(|length| length > 0)
            {}
        });
        tokio::time::timeout(Duration::from_secs(40), join_all(slow))
            .await
            .expect("all are hung up on");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_a_hundred_megabytes_is_refused_and_not_kept() {
    let (_model, _service, front) = churn(None).await;
    let request = BatchGetChurnRisksRequest {
        customer_ids: vec!["x".repeat(100 << 20)],
    };
    let head = format!(
        "POST /v1/churn:score HTTP/1.1\r\nhost: shop\r\ncontent-length: {}\r\n\r\n",
        100 << 20
    );
    beside_a_neighbour(&front, async || {
        let mut client = front.churn().await.max_encoding_message_size(usize::MAX);
        let status = client
            .batch_get_churn_risks(request.clone())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let mut stream = TcpStream::connect(front.running.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // Until the gateway closes the connection.
        let chunk = vec![b' '; 1 << 20];
        let mut sent = 0;
        while sent < 100 && stream.write_all(&chunk).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 100, "all of it was read");
    })
    .await;
}

#[tokio::test]
async fn answers_that_nobody_reads_keep_nobody_out() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[("churn", service.url()), ("in-flight", "2".into())]).await;
    let mut stuck = TcpStream::connect(front.running.address).await.unwrap();
    let no_room = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]); // SETTINGS_INITIAL_WINDOW_SIZE
    let calls = [1, 3].map(|stream| [head(stream, RISK), request(stream, "a")].concat());
    stuck
        .write_all(&[PREFACE, &no_room, &calls.concat()].concat())
        .await
        .unwrap();
    let (mut said, mut answered) = (vec![], 0);
    while answered < 2 {
        assert_ne!(stuck.read_buf(&mut said).await.unwrap(), 0);
        answered = heads(&said);
    }
    let mut client = front.churn().await;
    until("others are answered", || {
        let mut client = client.clone();
        async move { ask(&mut client, "17850").await.is_ok() }
    })
    .await;
    ask(&mut client, "17850").await.unwrap();
}
