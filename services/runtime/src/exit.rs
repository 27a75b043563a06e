//! How a process ends.

use std::{io::Write, process::ExitCode};

/// Prints one line on stderr if a process failed, and returns its exit code. 0: it stopped when it
/// was told to. 4: an I/O error (an address in use, a file that cannot be read). 1: any other
/// failure. 2 is clap's code for a wrong command line.
pub fn exit(result: Result<(), anyhow::Error>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    // If stderr is closed there is no place left to report to.
    let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
    match error.chain().any(|cause| cause.is::<std::io::Error>()) {
        true => ExitCode::from(4),
        false => ExitCode::FAILURE,
    }
}

/// Resolves when the process is told to stop, from this call on: SIGTERM or SIGINT. Must be called
/// within a tokio runtime.
pub fn shutdown() -> impl Future<Output = ()> + Send {
    #[cfg(unix)]
    let signals = {
        use tokio::signal::unix::{SignalKind, signal};
        [SignalKind::terminate(), SignalKind::interrupt()].map(signal)
    };
    async move {
        #[cfg(unix)]
        if let [Ok(mut terminate), Ok(mut interrupt)] = signals {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            return;
        }
        // Without signals the process ends only by being killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
