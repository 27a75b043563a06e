//! How an attempt at a call ended, and what that means for the next one.

use std::time::Duration;

use http::{HeaderName, Response};
use tonic::{Code, body::Body};

use crate::{
    error::{BoxError, Unreachable},
    grpc::frame,
};

/// When a service asks for the next attempt, in milliseconds; a value that is no number asks for
/// none (gRFC A6).
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How an attempt ends: an answer, or an error on its way up.
pub(crate) type Answer = Result<Response<Body>, BoxError>;

/// What the end of an attempt says about a retry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The service answered, with whichever status.
    Answered,
    /// The attempt failed for a reason that says nothing about the service.
    Inconclusive,
    /// The attempt failed, and the service asks for no retry.
    NoRetry,
    /// The attempt failed and may be retried.
    Retry {
        /// Pause that the service asks for.
        after: Option<Duration>,
    },
}

/// Whether the service answered, with whichever status, rather than lost or refused the call.
pub(crate) fn is_answer(answer: &Answer) -> bool {
    Outcome::of(answer) == Outcome::Answered
}

impl Outcome {
    pub(crate) fn of(answer: &Answer) -> Self {
        let headers = match answer {
            Ok(response) => response.headers(),
            Err(error) if error.is::<Unreachable>() => return Self::Retry { after: None },
            Err(_) => return Self::Inconclusive,
        };
        let is = |code| frame::code(headers) == Some(code);
        match headers.get(PUSHBACK) {
            Some(pushback) if is(Code::Unavailable) || is(Code::ResourceExhausted) => {
                let milliseconds = pushback.to_str().ok().and_then(|text| text.parse().ok());
                milliseconds.map_or(Self::NoRetry, |milliseconds| Self::Retry {
                    after: Some(Duration::from_millis(milliseconds)),
                })
            }
            None if is(Code::Unavailable) => Self::Retry { after: None },
            Some(_) | None => Self::Answered,
        }
    }
}
