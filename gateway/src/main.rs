//! The gateway's process.

use std::process::ExitCode;

use clap::Parser;
use gateway::GatewayArgs;
use runtime::{Server, ServerArgs, telemetry::TelemetryArgs};

/// One address for all of Shopkeeper's services: gRPC in, cached answers or the services' own out
///
/// Routes by method, keeps answers in memory and in Redis for as long as the .proto says and the
/// model is the same, passes deadlines on, and reports the health of each service. Works without
/// Redis, and without some of the services: their methods answer UNAVAILABLE.
#[derive(Debug, Parser)]
#[command(name = "gateway", version)]
struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let _sends_the_rest = runtime::telemetry::init("gateway", &args.telemetry)?;
    let shutdown = runtime::shutdown();
    let server = Server::bind(&args.server).await?.in_front();
    let gateway = args.gateway.build(args.server.listen)?;
    server
        .serving(gateway.service())
        .serve_until(gateway.until(shutdown))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn secrets_are_not_printed() {
        let args = Args::try_parse_from([
            "gateway",
            "--listen=127.0.0.1:0",
            "--churn=http://localhost:1",
            "--redis=redis://:hunter2@localhost",
            "--cache-secret=hunter3",
            "--jwt-keys=https://me:hunter4@id.shop",
            "--jwt-issuer=joe",
            "--jwt-audience=us",
        ]);
        let printed = format!("{:?}", args.unwrap());
        assert!(
            printed.contains("churn") && !printed.contains("hunter"),
            "{printed}"
        );
    }
}
