//! `recommendation`: Serves product recommendations over gRPC.

use std::process::ExitCode;

use clap::Parser;

/// Serves product recommendations over gRPC.
#[derive(Debug, Parser)]
#[command(name = "recommendation", version)]
struct Args {
    #[command(flatten)]
    process: serving::ProcessArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::exit(
        serving::serve(
            "recommendation",
            Args::parse().process,
            recommendation::service,
        )
        .await,
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
