//! `segmentation`: Serves customer segments over gRPC.

use std::process::ExitCode;

use clap::Parser;

/// Serves customer segments over gRPC.
#[derive(Debug, Parser)]
#[command(name = "segmentation", version)]
struct Args {
    #[command(flatten)]
    process: serving::ProcessArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::exit(
        serving::serve("segmentation", Args::parse().process, segmentation::service).await,
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
