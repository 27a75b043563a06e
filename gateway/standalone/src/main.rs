//! The process of the whole shop.

use std::process::ExitCode;

use clap::Parser;
use runtime::{Server, ServerArgs, telemetry::TelemetryArgs};
use standalone::StandaloneArgs;

/// All of Shopkeeper in one process: every service, and the gateway in front of them
///
/// One process in place of seven and Redis, at one address. Models are loaded from the store, and
/// loaded again when another version is published.
#[derive(Debug, Parser)]
#[command(name = "standalone", version)]
struct Args {
    #[command(flatten)]
    standalone: StandaloneArgs,
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
    let _flushes_on_drop = runtime::telemetry::init("standalone", &args.telemetry)?;
    let shutdown = runtime::shutdown();
    let server = Server::bind(&args.server).await?;
    let standalone = args.standalone.build(args.server.listen).await?;
    let gateway = &standalone.gateway;
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
}
