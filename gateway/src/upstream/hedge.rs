//! Another attempt beside the first, where that has no answer after the time in which nearly all
//! calls of its method have theirs: a replica that stands still costs its callers a moment rather
//! than an answer. The first good answer is the caller's; the other attempt is taken back. Promise:
//! one such attempt for a call at most, to another replica that is well, in the caller's time, for
//! methods without side effects alone, and not when calls fail so often that retries may soon be
//! needed more. What has been refused, whatever its pushback says, is for `retry` to ask again
//! (gRFC A6).

use bytes::Bytes;
use http::{HeaderValue, Request};
use tokio::time::Instant;
use tonic::body::Body;

use crate::{
    grpc::{frame::Known, timeout},
    layers::retry::{ATTEMPTS, Budget},
};

/// What another attempt needs.
#[derive(Debug, Clone)]
pub(crate) struct Hedge {
    /// What it is paid from.
    pub(crate) budget: Budget,
    /// When an answer is too late.
    pub(crate) deadline: Instant,
    /// The request's messages.
    pub(crate) body: Bytes,
}

impl Hedge {
    /// The same request, for later.
    pub(crate) fn again(&self, request: &Request<Body>) -> Request<Body> {
        let mut again = Request::new(Known::body(self.body.clone(), None));
        again.method_mut().clone_from(request.method());
        again.uri_mut().clone_from(request.uri());
        *again.version_mut() = request.version();
        again.headers_mut().clone_from(request.headers());
        again
    }

    /// Pays for a request that is made now; none where there is no time or nothing to pay with.
    pub(crate) fn pay(&self, mut again: Request<Body>) -> Option<Request<Body>> {
        let headers = again.headers_mut();
        timeout::carry(headers, self.deadline).ok()?;
        let before = headers
            .get(ATTEMPTS)
            .and_then(|attempts| attempts.to_str().ok()?.parse::<u32>().ok());
        headers.insert(
            ATTEMPTS,
            HeaderValue::from(before.unwrap_or_default().saturating_add(1)),
        );
        self.budget.hedges().then_some(again)
    }
}
