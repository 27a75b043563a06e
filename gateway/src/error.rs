//! Errors that several layers share. `rescue` alone turns them into statuses.

use std::{sync::Arc, time::Duration};

use runtime::Refusal;

/// An error on its way up to `rescue`.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service cannot be reached, or its connection was lost before it answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} cannot be reached: {problem}")]
pub(crate) struct Unreachable {
    service: Arc<str>,
    problem: Arc<str>,
}

impl Unreachable {
    /// When the caller is asked to try again: by then there has been another attempt to connect.
    pub(crate) const RETRY_IN: Duration = Duration::from_millis(500);

    pub(crate) fn new(service: impl Into<Arc<str>>, problem: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            problem: problem.into(),
        }
    }

    /// The refusal that the caller receives.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::Unreachable {
            service: (*self.service).to_owned(),
            problem: (*self.problem).to_owned(),
            retry_in: Self::RETRY_IN,
        }
    }
}

/// A service turned a call down without a gRPC answer: it can be reached, and would turn the same
/// call down again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} turned the call down: {problem}")]
pub(crate) struct TurnedDown {
    pub(crate) service: Arc<str>,
    problem: Arc<str>,
    /// Whether the call itself was the reason, as far as the gateway can tell.
    pub(crate) caused_by_call: bool,
}

impl TurnedDown {
    /// Turned down because of the call itself.
    pub(crate) fn new(service: impl Into<Arc<str>>, problem: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            problem: problem.into(),
            caused_by_call: true,
        }
    }
}

/// Why the gateway does not wait for a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadlineError {
    /// `grpc-timeout` does not have the form that the protocol demands.
    #[error("grpc-timeout cannot be read")]
    Malformed,
    /// The deadline has passed.
    #[error("the deadline has passed")]
    Passed,
}

/// Too many calls are in flight.
#[derive(Debug, thiserror::Error)]
#[error("too many calls are in flight")]
pub(crate) struct Overloaded;

impl Overloaded {
    /// When the caller is asked to try again.
    pub(crate) const RETRY_IN: Duration = Duration::from_millis(100);
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
