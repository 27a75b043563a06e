//! Hedges a call: if a replica has not answered within the latency of nearly all calls of the
//! method, a second replica gets the same request ("The Tail at Scale", Dean and Barroso 2013). The
//! first good answer is the caller's; the other attempt is cancelled. A replica that stands still
//! so costs its callers a moment rather than an answer.
//!
//! Promise: at most one hedge per call, to another, healthy replica, within the caller's deadline,
//! only for methods without side effects, and only while the retry budget is above its reserve.
//! What a replica refuses, whatever its pushback, is left to `layers::retry` (gRFC A6).

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderValue, Request};
use tokio::time::{Instant, timeout};
use tonic::body::Body;

use crate::{
    attempts::{AttemptedReplicas, PREVIOUS_ATTEMPTS, RetryBudget},
    grpc::{frame::Known, timeout as grpc_timeout},
    metrics,
    outcome::{Answer, is_answer},
    upstream::{in_flight::InFlight, picker::pick_for_hedge, replica_set::ReplicaSet},
};

/// What a hedge needs, beside the first request. It travels as an extension of that.
#[derive(Debug, Clone)]
pub(crate) struct Hedge {
    /// What the hedge is paid from.
    pub(crate) budget: RetryBudget,
    /// When an answer is too late.
    pub(crate) deadline: Instant,
    /// The request's messages.
    pub(crate) body: Bytes,
}

impl Hedge {
    /// Copies a request, so that the copy can be sent later.
    fn copy(&self, request: &Request<Body>) -> Request<Body> {
        let mut copy = Request::new(Known::body(self.body.clone(), None));
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        *copy.version_mut() = request.version();
        copy.headers_mut().clone_from(request.headers());
        copy
    }

    /// Pays for a copy that is sent now, with the time that is left. Returns none if there is no
    /// time left or the budget is too low.
    fn pay(&self, mut copy: Request<Body>) -> Option<Request<Body>> {
        let headers = copy.headers_mut();
        grpc_timeout::carry(headers, self.deadline).ok()?;
        let before = headers
            .get(PREVIOUS_ATTEMPTS)
            .and_then(|attempts| attempts.to_str().ok()?.parse::<u32>().ok());
        let attempts = before.unwrap_or_default().saturating_add(1);
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempts));
        self.budget.pay_hedge().then_some(copy)
    }
}

/// Sends a request to the replica of `first`, and to a second one if there is no answer after the
/// method's usual latency, but at least after `min_wait`.
pub(super) async fn send(
    set: &Arc<ReplicaSet>,
    mut first: InFlight,
    request: Request<Body>,
    attempted: &AttemptedReplicas,
    hedge: &Hedge,
    min_wait: Duration,
) -> Answer {
    let copy = hedge.copy(&request);
    let mut first_answer = pin!(first.send(request));
    // As long as no latency of the method is known, half of the caller's time.
    let half = || hedge.deadline.duration_since(first.began()) / 2;
    let usual = set.quantiles.get(first.path()).unwrap_or_else(half);
    let in_time = timeout(usual.max(min_wait), &mut first_answer).await.ok();
    let second = if in_time.is_none() {
        pick_for_hedge(set, attempted)
    } else {
        None
    };
    // Paid last: without a replica to send it to, a hedge costs nothing.
    let Some((second, copy)) = second.and_then(|second| Some((second, hedge.pay(copy)?))) else {
        let answer = match in_time {
            Some(answer) => answer,
            None => first_answer.await,
        };
        set.quantiles.observe(first.path(), first.elapsed());
        first.settle(&answer);
        return answer;
    };
    attempted.add_hedge(second.id());
    let mut second = InFlight::new(set.clone(), second);
    let second_answer = pin!(second.send(copy));
    let (answer, answered_by) = race(set, first, first_answer, second, second_answer).await;
    metrics::hedged(&set.service, answered_by);
    answer
}

/// Waits for the first good answer of two attempts, and if there is none for both to fail. Returns
/// the caller's answer, and which attempt gave it.
async fn race(
    set: &ReplicaSet,
    first: InFlight,
    first_answer: impl Future<Output = Answer> + Unpin,
    second: InFlight,
    second_answer: impl Future<Output = Answer> + Unpin,
) -> (Answer, &'static str) {
    let ended = select(first_answer, second_answer).await;
    set.quantiles.observe(first.path(), first.elapsed());
    match ended {
        Either::Left((answer, _)) if is_answer(&answer) => {
            first.settle(&answer);
            second.cancel();
            (answer, "first")
        }
        Either::Left((failure, second_answer)) => {
            first.settle(&failure);
            let answer = second_answer.await;
            second.settle(&answer);
            if is_answer(&answer) {
                (answer, "second")
            } else {
                (failure, "neither")
            }
        }
        Either::Right((answer, _)) if is_answer(&answer) => {
            second.settle(&answer);
            first.lost_hedge();
            (answer, "second")
        }
        Either::Right((failure, first_answer)) => {
            second.settle(&failure);
            let answer = first_answer.await;
            first.settle(&answer);
            let answered_by = if is_answer(&answer) {
                "first"
            } else {
                "neither"
            };
            (answer, answered_by)
        }
    }
}
