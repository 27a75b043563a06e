//! Metrics, probes and health of a process while it serves and while it drains, over real sockets.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use runtime::{Server, ServerArgs, Service, telemetry::TelemetryArgs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};
use tonic::{Request, service::Routes, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// The answer to a GET request over HTTP/1.1 with its head, or an empty text.
async fn get(address: SocketAddr, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_string(&mut answer).await;
    }
    answer
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: a process starts, answers and drains"
)]
async fn a_process_can_be_looked_at_until_its_end_and_names_no_method_that_there_is_not() {
    let probes = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let metrics = format!("--metrics-listen={probes}");
    let args = Args::parse_from([
        "test",
        "--listen=127.0.0.1:0",
        &metrics,
        "--drain-delay=60s",
        "--log=off",
    ]);
    let _telemetry = runtime::telemetry::init("test", &args.telemetry).unwrap();
    let server = Server::bind(&args.server).await.unwrap();
    let address = server.local_addr().unwrap();
    let ready = watch::Sender::new(true);
    let (routes, draining) = (Routes::default(), watch::Sender::new(false));
    let service = Service {
        name: "test",
        services: vec![],
        routes,
        ready: ready.subscribe(),
        status: None,
        draining,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let life = tokio::spawn(server.serving(service).serve_until(async {
        let _ = stopped.await;
    }));

    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = HealthClient::new(channel.clone());
    client.check(HealthCheckRequest::default()).await.unwrap();
    for timeout in ["soon", "0n"] {
        let mut calls = tonic::client::Grpc::new(channel.clone());
        calls.ready().await.unwrap();
        let mut request = Request::new(HealthCheckRequest::default());
        request
            .metadata_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
        calls
            .unary(request, "/made.up/Name".parse().unwrap(), codec)
            .await
            .unwrap_err();
    }
    let said = get(probes, "/metrics").await;
    assert!(
        said.contains(r#"rpc_method="grpc.health.v1.Health/Check""#),
        "{said}"
    );
    assert!(
        said.contains(r#"rpc_method="_OTHER""#) && !said.contains("made.up"),
        "{said}"
    );
    assert!(get(probes, "/readyz").await.starts_with("HTTP/1.1 200"));

    stop.send(()).unwrap();
    while get(probes, "/readyz").await.starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (path, status) in [
        ("/readyz", "HTTP/1.1 503"),
        ("/healthz", "HTTP/1.1 200"),
        ("/metrics", "HTTP/1.1 200"),
    ] {
        let answer = get(probes, path).await;
        assert!(answer.starts_with(status), "{path}: {answer}");
    }
    let said = client.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(said.get_ref().status(), ServingStatus::NotServing);
    life.abort();
}
