//! Callers who mean harm. Whatever they do, the gateway stays up and others are answered.

use std::time::Duration;

use futures_util::future::join_all;
use proto::churn::v1::BatchGetChurnRisksRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tonic::Code;

use crate::{
    churn,
    shop::{Front, Model, Running, ask, until},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of HTTP/2, as it is on the wire.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// The head of a call; its body does not end.
fn head(stream: u32, path: &str) -> Vec<u8> {
    // POST, http, and literals without an index: :path, :authority, content-type.
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

/// Does harm again and again, until somebody else has had a hundred answers meanwhile.
async fn beside_a_neighbour(front: &Front, harm: impl AsyncFn()) {
    let (tell, told) = watch::channel([0, 0]);
    let mut client = front.churn().await;
    let neighbour = tokio::spawn(async move {
        for n in 0.. {
            match ask(&mut client, &format!("neighbour {n}")).await {
                Ok(_) => tell.send_modify(|[answered, _]| *answered += 1),
                Err(status) => {
                    // This machine may be busy with harm for a moment.
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

/// Kinds and payloads of the frames in this.
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

/// Error codes of the GOAWAY frames in this.
fn farewells(bytes: &[u8]) -> Vec<u8> {
    frames(bytes)
        .into_iter()
        .filter(|(kind, _)| *kind == 7)
        .map(|(_, payload)| payload[7])
        .collect()
}

/// How many HEADERS frames there are in this.
fn heads(bytes: &[u8]) -> usize {
    frames(bytes)
        .into_iter()
        .filter(|(kind, _)| *kind == 1)
        .count()
}

const ENHANCE_YOUR_CALM: u8 = 0xb;

/// Sends frames until it is done or the gateway has hung up, and says what that said.
async fn sends(front: &Front, frames: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(front.running.address)
        .await
        .unwrap()
        .into_split();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_taken_back_at_once_end_their_connection() {
    let (_model, _service, front) = churn(None).await;
    beside_a_neighbour(&front, async || {
        // RST_STREAM, CANCEL.
        let calls = (0..50_000)
            .map(|n| [head(2 * n + 1, RISK), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat());
        assert_eq!(farewells(&sends(&front, calls).await), [ENHANCE_YOUR_CALM]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_of_one_connection_are_not_all_taken() {
    let (_model, _service, front) = churn(None).await;
    beside_a_neighbour(&front, async || {
        let calls = (0..10_000).map(|n| head(2 * n + 1, RISK));
        assert_eq!(farewells(&sends(&front, calls).await), [ENHANCE_YOUR_CALM]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_end_is_not_read_to_the_end() {
    let (_model, _service, front) = churn(None).await;
    beside_a_neighbour(&front, async || {
        // HEADERS that do not end, and CONTINUATION after CONTINUATION: name and value of a literal
        // without an index.
        let field = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
        let more = (0..100_000).map(move |_| frame(9, 0, 1, &field));
        assert_eq!(
            farewells(&sends(&front, [frame(1, 0, 1, &[0x83])].into_iter().chain(more)).await)
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
        // Until the gateway has had enough.
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
    let request = [&[0, 0, 0, 0, 3][..], b"\x0a\x01a"].concat();
    let calls = [1, 3].map(|stream| [head(stream, RISK), frame(0, 1, stream, &request)].concat());
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
