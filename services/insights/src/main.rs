//! `insights`: Serves the shop's figures over gRPC.

use std::process::ExitCode;

use clap::Parser;

/// Serves the shop's figures over gRPC.
#[derive(Debug, Parser)]
#[command(name = "insights", version)]
struct Args {
    #[command(flatten)]
    process: serving::ProcessArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let served = serving::serve_from("insights", Args::parse().process, async |store| {
        // Two models: the lines, and the segments of customers.
        Ok(insights::service(
            serving::watch(store).await?,
            serving::watch(store).await?,
        ))
    });
    runtime::exit(served.await)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
