//! Why a call is not answered, and what its caller can do.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

/// `domain` of every ErrorInfo.
pub const DOMAIN: &str = "shopkeeper";

/// Longest text in a status, bytes. A status repeats parts of the request in headers, and many
/// peers accept 16 KiB of headers in all.
const NAME: usize = 256;
/// Most fields that one refusal names, and longest name of each, bytes.
const FIELDS: usize = 40;
const PART: usize = 48;
/// Longest message, bytes.
const MESSAGE: usize = 1536;

/// Why a call is not answered. This is the one place that knows gRPC's codes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A field of the request cannot be used.
    #[error("{field} {problem}")]
    InvalidField {
        /// Its path in the request, for example `rfm.recency_days`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Several fields of the request cannot be used.
    #[error("{}", problems(.0))]
    InvalidFields(Vec<(String, String)>),
    /// The model does not know it.
    #[error("{kind} `{name}` is not in the model")]
    NotFound {
        /// `customer`, `product`, ...
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// There is no such model or version of one here.
    #[error("there is no {kind} `{name}` here; there is {known}")]
    NotServed {
        /// `model` or `version`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What there is.
        known: String,
    },
    /// No version of a model is loaded yet.
    #[error("no {model} model is loaded yet")]
    NotReady {
        /// Which model.
        model: &'static str,
        /// When to try again.
        retry_in: Duration,
    },
    /// A page token of an earlier model version.
    #[error("page_token is of another version of the model; begin again without one")]
    ModelChanged,
    /// The operator of the process has not allowed it.
    #[error("{action} is not allowed here")]
    NotAllowed {
        /// What was asked for.
        action: &'static str,
    },
    /// Another change came first.
    #[error("{what} is `{found}` rather than `{expected}`; look again")]
    Changed {
        /// What has changed.
        what: &'static str,
        /// What the caller expected it to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A message is larger than the limit.
    #[error("the message is larger than {limit} bytes")]
    TooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// Too many calls are in flight.
    #[error("too many calls are in flight")]
    Overloaded {
        /// When to try again.
        retry_in: Duration,
    },
    /// A service behind this one cannot be reached.
    #[error("{service} cannot be reached: {problem}")]
    Unreachable {
        /// The service.
        service: String,
        /// What was tried.
        problem: String,
        /// When to try again.
        retry_in: Duration,
    },
    /// The deadline has passed.
    #[error("the deadline has passed")]
    TooLate,
    /// There is no such method.
    #[error("there is no method {path}")]
    NoMethod {
        /// What was called.
        path: String,
    },
    /// A bug.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// A field that cannot be used.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The same refusal, with the field's path extended by that of the message around it.
    #[must_use]
    pub fn renamed(mut self, name: impl FnOnce(&str) -> String) -> Self {
        if let Self::InvalidField { field, .. } = &mut self {
            *field = name(field);
        }
        self
    }

    /// The same refusal, with its texts cut so that they fit into headers.
    fn shortened(mut self) -> Self {
        match &mut self {
            Self::InvalidField { field, problem } => {
                shorten(field, NAME);
                shorten(problem, NAME);
            }
            Self::InvalidFields(fields) => {
                fields.truncate(FIELDS);
                for (field, problem) in fields {
                    shorten(field, PART);
                    shorten(problem, PART);
                }
            }
            Self::NotFound { name, .. }
            | Self::NotServed { name, .. }
            | Self::NoMethod { path: name } => {
                shorten(name, NAME);
            }
            Self::Unreachable { problem, .. } => shorten(problem, NAME),
            Self::Changed {
                expected, found, ..
            } => {
                shorten(expected, NAME);
                shorten(found, NAME);
            }
            Self::NotReady { .. }
            | Self::ModelChanged
            | Self::NotAllowed { .. }
            | Self::TooLarge { .. }
            | Self::Overloaded { .. }
            | Self::TooLate
            | Self::Internal => {}
        }
        self
    }

    /// The model does not know this name.
    pub fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound {
            kind,
            name: name.into(),
        }
    }

    /// Code, reason and metadata. One entry of metadata at most: several would be encoded in any
    /// order, and the same refusal would not always be the same bytes.
    fn parts(&self) -> (Code, &'static str, Option<(&'static str, String)>) {
        match self {
            Self::InvalidField { field, .. } => (
                Code::InvalidArgument,
                "INVALID_FIELD",
                Some(("field", field.clone())),
            ),
            Self::InvalidFields(fields) => {
                let names: Vec<_> = fields.iter().map(|(field, _)| field.as_str()).collect();
                (
                    Code::InvalidArgument,
                    "INVALID_FIELD",
                    Some(("fields", names.join(","))),
                )
            }
            Self::NotFound { kind, name } => {
                (Code::NotFound, "NOT_IN_MODEL", Some((*kind, name.clone())))
            }
            Self::NotServed { kind, name, .. } => {
                (Code::NotFound, "NOT_SERVED", Some((*kind, name.clone())))
            }
            Self::NotReady { .. } => (Code::Unavailable, "MODEL_NOT_LOADED", None),
            Self::ModelChanged => (Code::FailedPrecondition, "MODEL_CHANGED", None),
            Self::NotAllowed { .. } => (Code::PermissionDenied, "NOT_ALLOWED", None),
            Self::Changed { found, .. } => {
                (Code::Aborted, "CHANGED", Some(("found", found.clone())))
            }
            Self::TooLarge { limit } => (
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
                Some(("limit_bytes", limit.to_string())),
            ),
            Self::Overloaded { .. } => (Code::ResourceExhausted, "OVERLOADED", None),
            Self::Unreachable { service, .. } => (
                Code::Unavailable,
                "SERVICE_UNREACHABLE",
                Some(("service", service.clone())),
            ),
            Self::TooLate => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None),
            Self::NoMethod { path } => (
                Code::Unimplemented,
                "NO_SUCH_METHOD",
                Some(("path", path.clone())),
            ),
            Self::Internal => (Code::Internal, "INTERNAL", None),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let refusal = refusal.shortened();
        let mut message = refusal.to_string();
        shorten(&mut message, MESSAGE);
        let (code, reason, metadata) = refusal.parts();
        let mut details = ErrorDetails::new();
        error_info(&mut details, reason, metadata);
        match &refusal {
            Refusal::InvalidField { field, problem } => {
                details.set_bad_request(vec![FieldViolation::new(field, problem)]);
            }
            Refusal::InvalidFields(fields) => {
                let violations = fields
                    .iter()
                    .map(|(field, problem)| FieldViolation::new(field, problem));
                details.set_bad_request(violations.collect::<Vec<_>>());
            }
            Refusal::NotFound { kind, name } | Refusal::NotServed { kind, name, .. } => {
                details.set_resource_info(*kind, name, "", &message);
            }
            Refusal::NotReady { model, retry_in } => {
                details.set_retry_info(Some(*retry_in));
                let violation = PreconditionViolation::new(
                    "MODEL",
                    *model,
                    "no version of the model is loaded",
                );
                details.set_precondition_failure(vec![violation]);
            }
            Refusal::ModelChanged => {
                let violation = PreconditionViolation::new("MODEL_VERSION", "page_token", &message);
                details.set_precondition_failure(vec![violation]);
            }
            Refusal::Overloaded { retry_in } | Refusal::Unreachable { retry_in, .. } => {
                details.set_retry_info(Some(*retry_in));
            }
            Refusal::NotAllowed { .. }
            | Refusal::Changed { .. }
            | Refusal::TooLarge { .. }
            | Refusal::TooLate
            | Refusal::NoMethod { .. }
            | Refusal::Internal => {}
        }
        Self::with_error_details(code, message, details)
    }
}

/// Several fields with their problems, as one message.
fn problems(fields: &[(String, String)]) -> String {
    let problems: Vec<_> = fields
        .iter()
        .map(|(field, problem)| format!("{field} {problem}"))
        .collect();
    problems.join("; ")
}

/// Cuts a text to at most this many bytes; `…` marks the cut.
fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
}

/// Sets the ErrorInfo, which every refusal has.
pub fn error_info(
    details: &mut ErrorDetails,
    reason: &str,
    metadata: Option<(&'static str, String)>,
) {
    let metadata: HashMap<_, _> = metadata
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    details.set_error_info(reason, DOMAIN, metadata);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_back_fits_into_a_header() {
        let long = "é".repeat(1 << 12);
        let fields = vec![(long.clone(), long.clone()); 100];
        for refusal in [
            Refusal::field(&long, &long),
            Refusal::InvalidFields(fields),
            Refusal::not_found("customer", &long),
            Refusal::NotServed {
                kind: "model",
                name: long.clone(),
                known: "churn".to_owned(),
            },
            Refusal::NoMethod { path: long.clone() },
        ] {
            let status = Status::from(refusal);
            // Details are sent as base64, and the message with every byte that is not ASCII as
            // three.
            let sent = status.details().len() * 4 / 3
                + status
                    .message()
                    .bytes()
                    .map(|b| if b.is_ascii() { 1 } else { 3 })
                    .sum::<usize>();
            assert!(sent < 16 << 10 && status.message().contains('…'), "{sent}");
        }
        assert_eq!(
            Status::from(Refusal::not_found("customer", "é")).message(),
            "customer `é` is not in the model"
        );
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table with a case per refusal")]
    fn a_refusal_has_its_code_and_details() {
        let second = Duration::from_secs(1);
        let unreachable = Refusal::Unreachable {
            service: "churn".to_owned(),
            problem: "refused".to_owned(),
            retry_in: second,
        };
        let changed = Refusal::Changed {
            what: "the current version",
            expected: "one".to_owned(),
            found: "two".to_owned(),
        };
        let no_version = Refusal::NotServed {
            kind: "version",
            name: "7".to_owned(),
            known: "8".to_owned(),
        };
        for (refusal, code, reason) in [
            (
                Refusal::field("rfm.frequency", "is negative"),
                Code::InvalidArgument,
                "INVALID_FIELD",
            ),
            (
                Refusal::not_found("customer", "17850"),
                Code::NotFound,
                "NOT_IN_MODEL",
            ),
            (no_version, Code::NotFound, "NOT_SERVED"),
            (
                Refusal::NotReady {
                    model: "churn",
                    retry_in: second,
                },
                Code::Unavailable,
                "MODEL_NOT_LOADED",
            ),
            (
                Refusal::ModelChanged,
                Code::FailedPrecondition,
                "MODEL_CHANGED",
            ),
            (
                Refusal::NotAllowed {
                    action: "publishing",
                },
                Code::PermissionDenied,
                "NOT_ALLOWED",
            ),
            (changed, Code::Aborted, "CHANGED"),
            (
                Refusal::TooLarge { limit: 1 },
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
            ),
            (
                Refusal::Overloaded { retry_in: second },
                Code::ResourceExhausted,
                "OVERLOADED",
            ),
            (unreachable, Code::Unavailable, "SERVICE_UNREACHABLE"),
            (
                Refusal::TooLate,
                Code::DeadlineExceeded,
                "DEADLINE_EXCEEDED",
            ),
        ] {
            let status = Status::from(refusal.clone());
            let details = status.get_error_details();
            assert_eq!(
                (status.code(), details.error_info().unwrap().reason.as_str()),
                (code, reason)
            );
            assert_eq!(
                details.bad_request().is_some(),
                matches!(refusal, Refusal::InvalidField { .. })
            );
            assert_eq!(details.resource_info().is_some(), code == Code::NotFound);
        }
    }
}
