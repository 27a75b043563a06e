//! `forecast`: Serves sales forecasts over gRPC.

use std::process::ExitCode;

use clap::Parser;

/// Serves sales forecasts over gRPC.
#[derive(Debug, Parser)]
#[command(name = "forecast", version)]
struct Args {
    #[command(flatten)]
    process: serving::ProcessArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::exit(serving::serve("forecast", Args::parse().process, forecast::service).await)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
