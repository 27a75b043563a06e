//! A call that is in flight at a replica, and what its end says about the replica.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri};
use http_body::Frame;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;

use crate::{
    error::{TurnedDown, Unreachable},
    grpc::frame,
    metrics,
    outcome::Answer,
    upstream::{replica::Replica, replica_set::ReplicaSet},
};

/// See the module. If it is dropped unsettled, its caller has given up: after a long silence the
/// replica has lost the call.
pub(super) struct InFlight {
    set: Arc<ReplicaSet>,
    replica: Arc<Replica>,
    began: Instant,
    uri: Uri,
    /// Whether the whole request has been handed over.
    sent: Arc<AtomicBool>,
    settled: bool,
}

impl InFlight {
    pub(super) fn new(set: Arc<ReplicaSet>, replica: Arc<Replica>) -> Self {
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            set,
            replica,
            began: Instant::now(),
            uri: Uri::default(),
            sent: Arc::default(),
            settled: false,
        }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The path of the method, once the request is sent.
    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sends a request to the replica.
    pub(super) fn send(&mut self, request: Request<Body>) -> impl Future<Output = Answer> + use<> {
        self.uri = request.uri().clone();
        self.replica
            .backend
            .clone()
            .oneshot(request.map(|body| SentBody::body(body, self.sent.clone())))
    }

    /// Cancels the call: another replica answered it first.
    pub(super) fn lost_hedge(mut self) {
        self.settled = true;
        if self.replica.lost_hedge(self.elapsed(), self.set.now()) {
            self.lost(None);
        }
    }

    /// Cancels the call, which says nothing about the replica.
    pub(super) fn cancel(mut self) {
        self.settled = true;
    }

    /// The call ended with this answer.
    pub(super) fn settle(mut self, answer: &Answer) {
        self.settled = true;
        match answer {
            Ok(response) => match frame::code(response.headers()) {
                // The service's clock ended the call, just before the caller's would have.
                Some(Code::DeadlineExceeded) if self.is_lost_to_silence() => self.lost(None),
                Some(Code::DeadlineExceeded) => self.replica.reached(),
                code => self.answered(code.is_some_and(is_failure)),
            },
            Err(error) => {
                if let Some(unreachable) = error.downcast_ref() {
                    self.lost(Some(unreachable));
                } else if let Some(turned_down) = error.downcast_ref::<TurnedDown>() {
                    if turned_down.caused_by_call {
                        self.replica.reached();
                    } else {
                        self.answered(true);
                    }
                }
            }
        }
    }

    fn answered(&self, failed: bool) {
        let now = self.set.now();
        self.replica.answered(self.elapsed(), failed, now);
        if failed {
            self.set.evaluate(&self.replica, now);
        }
    }

    fn lost(&self, to: Option<&Unreachable>) {
        self.set.last_loss.store(to.cloned().map(Arc::new));
        let (began, now) = (self.set.since_start(self.began), self.set.now());
        if self.replica.lost(began, to.is_none(), now) {
            metrics::replica_ejected(&self.set.service, "lost");
        }
        self.set.suspected.notify_one();
        metrics::replica_lost(&self.set.service);
    }

    /// Whether the replica has the whole request and has been silent about it for too long.
    fn is_lost_to_silence(&self) -> bool {
        let max_silence = || {
            self.replica
                .max_silence(self.set.quantiles.get(self.path()))
        };
        self.sent.load(Ordering::Relaxed) && self.elapsed() >= max_silence()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.settled && self.is_lost_to_silence() {
            self.lost(None);
        }
    }
}

/// Whether the replica failed, rather than its caller.
fn is_failure(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Internal | Code::Unknown)
}

/// A request's body that notes when all of it has been taken.
struct SentBody {
    body: Body,
    sent: Arc<AtomicBool>,
}

impl SentBody {
    fn body(body: Body, sent: Arc<AtomicBool>) -> Body {
        if http_body::Body::is_end_stream(&body) {
            sent.store(true, Ordering::Relaxed);
            return body;
        }
        Body::new(Self { body, sent })
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || polled.is_ready() && self.body.is_end_stream() {
            self.sent.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::replica_set::tests::{one, replicas};

    #[tokio::test]
    async fn a_call_that_is_turned_down_shows_that_the_replica_can_be_reached() {
        let set = replicas(&[true]);
        let replica = one(&set, 0);
        replica.lost(Duration::ZERO, false, Duration::ZERO);
        for (caused_by_call, failures) in [(true, 0), (false, 1)] {
            let mut turned_down = TurnedDown::new("churn", "it answers 431");
            turned_down.caused_by_call = caused_by_call;
            InFlight::new(set.clone(), replica.clone()).settle(&Err(turned_down.into()));
            let record = replica.record();
            assert_eq!(
                (record.streak.losses, record.outlier.consecutive_failures),
                (0, failures)
            );
        }
    }
}
