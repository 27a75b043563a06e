//! Number and age of connections, and the size of heads, over real sockets.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{bind, serve, start};

/// A new connection, left open, if a request over it is answered.
async fn opens(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.ok()?;
    assert_eq!(&answer, b"HTTP/1.1 404");
    Some(stream)
}

#[tokio::test]
async fn there_are_as_many_connections_as_may_be() {
    let address = start(["--max-connections=2".to_owned()]).await;
    let (first, second) = (opens(address).await, opens(address).await);
    assert!(first.is_some() && second.is_some());
    for _ in 0..5 {
        assert!(opens(address).await.is_none(), "one too many");
    }
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(60);
    while opens(address).await.is_none() {
        assert!(Instant::now() < deadline, "there is room again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_old_takes_no_new_calls_and_those_in_flight_have_time() {
    let address =
        start(["--max-connection-age=300ms", "--drain-timeout=2s"].map(str::to_owned)).await;
    let mut idle = opens(address).await.unwrap();
    let start = Instant::now();
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = HealthClient::new(channel);
    let mut watch = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let ended = tokio::spawn(async move { (watch.message().await, start.elapsed()) });
    while !ended.is_finished() {
        // A call that was not sent before the connection ended is sent over the next one.
        if let Err(unsent) = client.check(HealthCheckRequest::default()).await {
            assert_eq!(unsent.code(), Code::Cancelled, "{unsent:?}");
            client.check(HealthCheckRequest::default()).await.unwrap();
        }
    }
    let (message, lived) = ended.await.unwrap();
    assert!(
        message.is_err() && lived > Duration::from_secs(2),
        "{message:?} {lived:?}"
    );
    while idle
        .read(&mut [0; 1024])
        .await
        .is_ok_and(|length| length > 0)
    {}
}

#[tokio::test]
async fn what_a_listener_in_front_takes_is_not_too_large_for_one_behind() {
    let (behind, in_front) = (bind([]).await, bind([]).await.in_front());
    for (server, largest) in [(behind, 15_000), (in_front, 11_000)] {
        let channel = Channel::from_shared(format!("http://{}", serve(server)))
            .unwrap()
            .connect()
            .await
            .unwrap();
        for (size, taken) in [(largest, true), (largest + 2_000, false)] {
            let mut request = Request::new(HealthCheckRequest::default());
            request
                .metadata_mut()
                .insert("x-pad", "z".repeat(size).parse().unwrap());
            let answer = HealthClient::new(channel.clone()).check(request).await;
            assert_eq!(answer.is_ok(), taken, "{size}: {answer:?}");
        }
    }
}
