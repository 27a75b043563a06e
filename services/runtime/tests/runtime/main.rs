//! Listeners over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod tls;

use std::net::SocketAddr;

use clap::Parser;
use runtime::{Server, ServerArgs, Service};
use tokio::sync::watch;
use tonic::service::Routes;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// Starts a server with these flags and no services but health and reflection.
async fn start(flags: impl IntoIterator<Item = String>) -> SocketAddr {
    serve(bind(flags).await)
}

async fn bind(flags: impl IntoIterator<Item = String>) -> Server {
    let own = ["test", "--listen=127.0.0.1:0"].map(str::to_owned);
    let args = Args::try_parse_from(own.into_iter().chain(flags)).unwrap();
    Server::bind(&args.server).await.unwrap()
}

fn serve(server: Server) -> SocketAddr {
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
    tokio::spawn(async move {
        server
            .serving(service)
            .serve_until(std::future::pending())
            .await
            .unwrap();
        drop(ready);
    });
    address
}
