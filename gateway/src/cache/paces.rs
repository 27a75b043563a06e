//! How long methods take, as measured in this process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::uri::PathAndQuery;

/// What a new measurement counts for.
const SHARE: f64 = 0.1;

/// How long each method takes.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<HashMap<PathAndQuery, Duration>>);

impl Paces {
    /// A call took so long.
    pub(super) fn took(&self, method: &PathAndQuery, took: Duration) {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match paces.get_mut(method) {
            Some(pace) => *pace = pace.mul_f64(1.0 - SHARE) + took.mul_f64(SHARE),
            None => {
                paces.insert(method.clone(), took);
            }
        }
    }

    /// How long a call should take; nothing where none has been made.
    pub(super) fn of(&self, method: &PathAndQuery) -> Duration {
        let paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paces.get(method).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_methods_pace_follows_its_calls() {
        let (paces, method) = (Paces::default(), PathAndQuery::from_static("/a/B"));
        assert_eq!(paces.of(&method), Duration::ZERO);
        paces.took(&method, Duration::from_millis(100));
        assert_eq!(paces.of(&method), Duration::from_millis(100));
        for _ in 0..50 {
            paces.took(&method, Duration::from_millis(10));
        }
        assert!((10..11).contains(&paces.of(&method).as_millis()));
        assert_eq!(paces.of(&PathAndQuery::from_static("/a/C")), Duration::ZERO);
    }
}
