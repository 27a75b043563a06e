//! What has been asked lately: most questions are asked once, and their answers are not worth a
//! write to Redis.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Key;

/// Keys that are remembered; each is forgotten when another comes to its place.
const PLACES: usize = 1 << 16;
/// Beside a key that was written.
const WRITTEN: u64 = 1;

/// Keys that have been asked for, and whether their answers were written.
#[derive(Debug)]
pub(super) struct Sightings(Box<[AtomicU64]>);

impl Default for Sightings {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Sightings {
    /// Whether there has been an answer before: the next one is written.
    pub(super) fn knows(&self, key: &Key) -> bool {
        let (place, mark) = self.of(key);
        place.load(Ordering::Relaxed) | WRITTEN == mark | WRITTEN
    }

    /// There is a new answer: whether to write it, which is where it was asked for before.
    pub(super) fn made(&self, key: &Key) -> bool {
        let (place, mark) = self.of(key);
        let known = place.load(Ordering::Relaxed) | WRITTEN == mark | WRITTEN;
        place.store(if known { mark | WRITTEN } else { mark }, Ordering::Relaxed);
        known
    }

    /// An answer in this process was given again: whether to write it, which is the first time that
    /// this happens.
    pub(super) fn given_again(&self, key: &Key) -> bool {
        let (place, mark) = self.of(key);
        match place.load(Ordering::Relaxed) {
            known if known == mark | WRITTEN => false,
            known if known == mark => place
                .compare_exchange(mark, mark | WRITTEN, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok(),
            _ => {
                place.store(mark, Ordering::Relaxed);
                false
            }
        }
    }

    /// Its answer was found written.
    pub(super) fn found(&self, key: &Key) {
        let (place, mark) = self.of(key);
        place.store(mark | WRITTEN, Ordering::Relaxed);
    }

    /// A key's place, and what stands there for it: never 0, never [`WRITTEN`].
    fn of(&self, key: &Key) -> (&AtomicU64, u64) {
        let [place, mark] = key.halves();
        (&self.0[place as usize % PLACES], (mark | 2) & !WRITTEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::cache::Question;

    fn key(n: u32) -> Key {
        Key::of(&Question {
            method: "",
            version: "",
            caller: None,
            message: &n.to_le_bytes(),
        })
    }

    #[test]
    fn an_answer_is_written_the_second_time_it_is_wanted() {
        let sightings = Sightings::default();
        assert!(
            !sightings.knows(&key(1)) && !sightings.made(&key(1)),
            "the first time"
        );
        assert!(sightings.knows(&key(1)));
        assert!(sightings.given_again(&key(1)), "the second time");
        assert!(!sightings.given_again(&key(1)), "it has been written");
        assert!(sightings.made(&key(1)), "a newer answer of what is wanted");

        assert!(
            !sightings.made(&key(2)) && sightings.made(&key(2)),
            "without an answer in this process"
        );
        sightings.found(&key(3));
        assert!(!sightings.given_again(&key(3)), "others have written it");
    }

    #[test]
    fn what_is_asked_once_is_not_written() {
        let sightings = Sightings::default();
        assert_eq!((0..200_000).filter(|n| sightings.made(&key(*n))).count(), 0);
        let among_others = |n| {
            sightings.made(&key(n));
            sightings.made(&key(7))
        };
        assert!(
            (200_000..201_000).filter(|n| among_others(*n)).count() > 900,
            "what is asked all the time is"
        );
    }
}
