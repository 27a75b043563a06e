//! How many connections there are and how long they live, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Parser;
use runtime::{Server, ServerArgs, Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tonic::{Code, service::Routes, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// A process that has health alone.
async fn start(flags: &[&str]) -> SocketAddr {
    let args = Args::try_parse_from([&["test", "--listen=127.0.0.1:0"], flags].concat()).unwrap();
    let server = Server::bind(&args.server).await.unwrap();
    let address = server.local_addr().unwrap();
    let ready = watch::Sender::new(true);
    let (routes, draining) = (Routes::default(), watch::Sender::new(false));
    let service = Service { name: "test", services: vec![], routes, ready: ready.subscribe(), draining };
    tokio::spawn(async move {
        server.serving(service).serve_until(std::future::pending()).await.unwrap();
        drop(ready);
    });
    address
}

/// Whether a new connection is answered; it is left open.
async fn opens(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.ok()?;
    assert_eq!(&answer, b"HTTP/1.1 404");
    Some(stream)
}

#[tokio::test]
async fn there_are_as_many_connections_as_may_be() {
    let address = start(&["--max-connections=2"]).await;
    let (first, second) = (opens(address).await, opens(address).await);
    assert!(first.is_some() && second.is_some());
    for _ in 0..5 {
        assert!(opens(address).await.is_none(), "one too many");
    }
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    while opens(address).await.is_none() {
        assert!(Instant::now() < deadline, "there is room again");
    }
}

#[tokio::test]
async fn a_connection_that_is_old_takes_no_new_calls_and_those_in_flight_have_time() {
    let address = start(&["--max-connection-age=300ms", "--drain-timeout=2s"]).await;
    let mut idle = opens(address).await.unwrap();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let start = Instant::now();
    let ended = tokio::spawn(async move { (watch.message().await, start.elapsed()) });
    while !ended.is_finished() {
        // A call that was not sent yet when the connection ended is sent over the next one.
        if let Err(unsent) = client.check(HealthCheckRequest::default()).await {
            assert_eq!(unsent.code(), Code::Cancelled, "{unsent:?}");
            client.check(HealthCheckRequest::default()).await.unwrap();
        }
    }
    let (message, lived) = ended.await.unwrap();
    assert!(message.is_err() && lived > Duration::from_secs(2), "{message:?} {lived:?}");
    while idle.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {}
}
