//! Another attempt beside the first, where that has no answer after the time in which nearly all calls of its method have
//! theirs: a replica that stands still costs its callers a moment rather than an answer. The first good answer is the
//! caller's; the other attempt is taken back. Promise: one such attempt for a call at most, to another replica that is well,
//! in the caller's time, for methods without side effects alone, and not when calls fail so often that retries may soon be
//! needed more. What has been refused, whatever its pushback says, is for `retry` to ask again (gRFC A6).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request};
use tokio::time::Instant;
use tonic::body::Body;

use crate::{
    deadline,
    frame::Known,
    retry::{ATTEMPTS, Budget},
};

/// What the usual time of a method becomes times itself with a call that took longer, and with any other. Where it does not
/// change in the long run one call in twenty takes longer.
const LONGER: f64 = 1.5;
const NOT: f64 = 0.978_886; // LONGER^(-1/19)

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
        deadline::carry(headers, self.deadline).ok()?;
        let before = headers.get(ATTEMPTS).and_then(|attempts| attempts.to_str().ok()?.parse::<u32>().ok());
        headers.insert(ATTEMPTS, HeaderValue::from(before.unwrap_or_default().saturating_add(1)));
        self.budget.hedges().then_some(again)
    }
}

/// The time in which nineteen of twenty calls of a method are answered, by path. It follows what is seen, up within a few
/// calls and down within some dozens.
#[derive(Debug, Default)]
pub(crate) struct Usual(Mutex<HashMap<Box<str>, f64>>);

impl Usual {
    /// That of a method, where it is known.
    pub(crate) fn of(&self, path: &str) -> Option<Duration> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(path).map(|time| Duration::from_secs_f64(*time))
    }

    /// A call took so long, or longer.
    pub(crate) fn took(&self, path: &str, took: Duration) {
        let took = took.as_secs_f64();
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match times.get_mut(path) {
            Some(time) => *time *= if took > *time { LONGER } else { NOT },
            None => drop(times.insert(path.into(), LONGER * took)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draws;

    #[test]
    fn the_usual_time_is_that_of_nineteen_in_twenty() {
        let (usual, draws) = (Usual::default(), Draws::default());
        assert_eq!(usual.of("/a"), None);
        for slower in [1.0, 20.0, 0.1] {
            // As times are: most short, few long.
            let time = || Duration::from_secs_f64(slower * 0.001 * -draws.share().ln());
            (0..500).for_each(|_| usual.took("/a", time()));
            let longer = (0..10_000).filter(|_| {
                let (before, took) = (usual.of("/a").unwrap(), time());
                usual.took("/a", took);
                took > before
            });
            let longer = longer.count();
            assert!((400..600).contains(&longer), "{longer} of 10000");
        }
        assert_eq!(usual.of("/b"), None);
    }

    #[test]
    fn the_usual_time_follows_within_a_few_calls() {
        let usual = Usual::default();
        (0..100).for_each(|_| usual.took("/a", Duration::from_millis(1)));
        (0..10).for_each(|_| usual.took("/a", Duration::from_millis(30)));
        assert!(usual.of("/a").unwrap() > Duration::from_millis(30));
    }
}
