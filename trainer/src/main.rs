//! `trainer`: turns a shop's transactions into published models.

use std::process::ExitCode;

use clap::Parser;
use trainer::{Cli, Console, Context, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::new(cli.json());
    match run(cli, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.failure(&failure);
            failure.exit_code()
        }
    }
}

fn run(cli: Cli, console: &Console) -> Result<(), Failure> {
    // The only place where the trainer reads the clock: pointers record when they were moved.
    #[expect(
        clippy::disallowed_methods,
        reason = "a command line is where time comes from"
    )]
    let now = chrono::Utc::now();
    // Most tensors here are small: a second thread within one operation would mostly wait, and take
    // its core from other processes. Independent work runs in parallel by rayon instead.
    tch::set_num_threads(1);
    cli.run(&Context::new(console, now)?)
}
