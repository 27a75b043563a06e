//! Callers who mean harm. Whatever they do, the gateway stays up and others are answered.

use std::time::Duration;

use futures_util::future::join_all;
use proto::churn::v1::BatchGetChurnRisksRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
};
use tonic::Code;

use crate::{
    churn,
    shop::{Front, ask},
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
    for (name, value) in [(&[0x04][..], path), (&[0x01], "shop"), (&[0x0f, 0x10], "application/grpc")] {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    frame(1, 0x4, stream, &block)
}

const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

/// Somebody else, who goes on calling meanwhile.
struct Neighbour {
    stop: watch::Sender<bool>,
    calls: JoinHandle<[usize; 2]>,
}

impl Neighbour {
    async fn of(front: &Front) -> Self {
        let mut client = front.churn().await;
        let (stop, stopped) = watch::channel(false);
        let calls = tokio::spawn(async move {
            let [mut answered, mut late] = [0, 0];
            while !*stopped.borrow() {
                match ask(&mut client, &format!("neighbour {}", answered % 100)).await {
                    Ok(_) => answered += 1,
                    // This machine may be busy with harm for a moment.
                    Err(status) if status.code() == Code::DeadlineExceeded => late += 1,
                    Err(status) => panic!("{status:?}"),
                }
            }
            [answered, late]
        });
        Self { stop, calls }
    }

    async fn was_answered(self) {
        self.stop.send_replace(true);
        let [answered, late] = self.calls.await.unwrap();
        assert!(answered > 20 && late * 10 <= answered, "{answered} answered, {late} too late");
    }
}

/// What the gateway says until it hangs up.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = vec![];
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        rest.extend_from_slice(&buffer[..length]);
    }
    rest
}

/// Error codes of the GOAWAY frames in this.
fn farewells(mut bytes: &[u8]) -> Vec<u8> {
    let mut codes = vec![];
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if *kind == 7 {
            codes.push(payload[7]);
        }
        bytes = rest;
    }
    codes
}

const ENHANCE_YOUR_CALM: u8 = 0xb;

/// Sends frames until it is done or the gateway has hung up, and says what that said.
async fn sends(front: &Front, frames: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(front.running.address).await.unwrap().into_split();
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

#[tokio::test]
async fn calls_that_are_taken_back_at_once_end_their_connection() {
    let (_model, _service, front) = churn(None).await;
    let neighbour = Neighbour::of(&front).await;
    // RST_STREAM, CANCEL.
    let calls = (0..50_000).map(|n| [head(2 * n + 1, RISK), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat());
    let said = sends(&front, calls).await;
    assert_eq!(farewells(&said), [ENHANCE_YOUR_CALM]);
    neighbour.was_answered().await;
}

#[tokio::test]
async fn ten_thousand_streams_of_one_connection_are_not_all_taken() {
    let (_model, _service, front) = churn(None).await;
    let neighbour = Neighbour::of(&front).await;
    let said = sends(&front, (0..10_000).map(|n| head(2 * n + 1, RISK))).await;
    assert_eq!(farewells(&said), [ENHANCE_YOUR_CALM]);
    neighbour.was_answered().await;
}

#[tokio::test]
async fn a_head_without_end_is_not_read_to_the_end() {
    let (_model, _service, front) = churn(None).await;
    let neighbour = Neighbour::of(&front).await;
    // HEADERS that do not end, and CONTINUATION after CONTINUATION: name and value of a literal without an index.
    let field = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let first = frame(1, 0, 1, &[0x83]);
    let said = sends(&front, [first].into_iter().chain((0..100_000).map(move |_| frame(9, 0, 1, &field)))).await;
    assert_eq!(farewells(&said).len(), 1);
    neighbour.was_answered().await;
}

#[tokio::test]
async fn who_says_a_byte_now_and_then_is_hung_up_on() {
    let (_model, _service, front) = churn(None).await;
    let neighbour = Neighbour::of(&front).await;
    let http1 = format!("GET /v1/customers/17850/churnRisk HTTP/1.1\r\nhost: shop\r\nx: {}", "y".repeat(1_000));
    let starts = [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", http1.as_bytes()];
    let slow = starts.into_iter().cycle().take(80).map(|text| {
        let text = text.to_vec();
        let address = front.running.address;
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for byte in text {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            rest(&mut stream).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(40), join_all(slow)).await.expect("all are hung up on");
    neighbour.was_answered().await;
}

#[tokio::test]
async fn a_body_of_a_hundred_megabytes_is_refused_and_not_kept() {
    let (model, _service, front) = churn(None).await;
    let neighbour = Neighbour::of(&front).await;
    let mut client = front.churn().await.max_encoding_message_size(usize::MAX);
    let request = BatchGetChurnRisksRequest { customer_ids: vec!["x".repeat(100 << 20)] };
    let status = client.batch_get_churn_risks(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    drop(client);
    let mut stream = TcpStream::connect(front.running.address).await.unwrap();
    let head = format!("POST /v1/churn:score HTTP/1.1\r\nhost: shop\r\ncontent-length: {}\r\n\r\n", 100 << 20);
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..100 {
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    drop(stream);
    neighbour.was_answered().await;
    assert!(model.calls() > 0);
}
