//! How a process ends.

use std::{io::Write, process::ExitCode};

/// Prints one clear line where a process failed. 0: it was told to stop and did; 4: the environment
/// does not let it work (an address in use, a file that cannot be read); 1: anything else. 2 is
/// clap's, for a wrong command line.
pub fn exit(result: Result<(), anyhow::Error>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    // Nobody is left to tell when stderr is closed.
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
        // Without signals there is nothing to wait for but an end from outside.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
