//! How long calls of a method take, as far as that has been seen.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// What the usual time of a method becomes times itself with a call that took longer, and with any
/// other. Where it does not change in the long run one call in twenty takes longer.
const LONGER: f64 = 1.5;
const NOT: f64 = 0.978_886; // LONGER^(-1/19)

/// The time in which nineteen of twenty calls of a method are answered, by path. It follows what is
/// seen, up within a few calls and down within some dozens.
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
    use crate::random::Draws;

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
