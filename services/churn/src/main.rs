//! `churn`: Serves churn risks over gRPC.

use std::process::ExitCode;

use clap::Parser;

/// Serves churn risks over gRPC.
#[derive(Debug, Parser)]
#[command(name = "churn", version)]
struct Args {
    #[command(flatten)]
    process: serving::ProcessArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::exit(serving::serve("churn", Args::parse().process, churn::service).await)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
