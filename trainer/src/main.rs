//! `trainer`: turns a shop's transactions into published models.

use std::process::ExitCode;

use clap::Parser;
use trainer::{Cli, Console};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The one place where the trainer reads the clock: the time that a pointer was moved.
    #[expect(
        clippy::disallowed_methods,
        reason = "a command line is where time comes from"
    )]
    let now = chrono::Utc::now();
    // Most tensors here are small: a second thread for one operation would spend its time waiting,
    // and keep other processes from working while it does. What can be done side by side is, by
    // rayon.
    tch::set_num_threads(1);
    let mut console = Console::new(cli.json());
    match trainer::execute(cli, now, &mut console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.failure(&failure);
            failure.exit_code()
        }
    }
}
