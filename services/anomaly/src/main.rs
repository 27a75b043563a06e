//! `anomaly`: Serves anomaly scores over gRPC.

use std::process::ExitCode;

use clap::Parser;

/// Serves anomaly scores over gRPC.
#[derive(Debug, Parser)]
#[command(name = "anomaly", version)]
struct Args {
    #[command(flatten)]
    process: serving::ProcessArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::exit(serving::serve("anomaly", Args::parse().process, anomaly::service).await)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
