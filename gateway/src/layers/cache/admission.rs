//! An admission filter (a doorkeeper, as in TinyLFU: Einziger, Friedman, Manes, ACM ToS 2017): most
//! questions are asked once, and their answers are not worth a write to Redis. Those that are
//! wanted a second time are.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Key;

/// The bit of a slot that says that the answer was written.
const WRITTEN: u64 = 1;

/// Keys of answers that were wanted, and whether they were written. A key is forgotten when another
/// one comes to its slot.
#[derive(Debug)]
pub(super) struct AdmissionFilter(Box<[AtomicU64]>);

impl AdmissionFilter {
    pub(super) fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| AtomicU64::new(0)).collect())
    }

    /// The service has given an answer. Returns whether to write it: if it was wanted before.
    pub(super) fn made(&self, key: &Key) -> bool {
        let (slot, tag) = self.slot(key);
        let known = slot.load(Ordering::Relaxed) | WRITTEN == tag | WRITTEN;
        slot.store(if known { tag | WRITTEN } else { tag }, Ordering::Relaxed);
        known
    }

    /// This process has found the answer in its memory. Returns whether to write it: if it was
    /// wanted before and is not written.
    pub(super) fn hit(&self, key: &Key) -> bool {
        let (slot, tag) = self.slot(key);
        match slot.load(Ordering::Relaxed) {
            known if known == tag | WRITTEN => false,
            known if known == tag => slot
                .compare_exchange(tag, tag | WRITTEN, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok(),
            _ => {
                slot.store(tag, Ordering::Relaxed);
                false
            }
        }
    }

    /// The answer was found where replicas share it.
    pub(super) fn found(&self, key: &Key) {
        let (slot, tag) = self.slot(key);
        slot.store(tag | WRITTEN, Ordering::Relaxed);
    }

    /// A key's slot, and the tag that stands in it for the key: never 0, without [`WRITTEN`].
    fn slot(&self, key: &Key) -> (&AtomicU64, u64) {
        let [slot, tag] = key.halves();
        (&self.0[slot as usize % self.0.len()], (tag | 2) & !WRITTEN)
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
        let filter = AdmissionFilter::new(1 << 16);
        assert!(!filter.made(&key(1)), "the first time");
        assert!(filter.hit(&key(1)), "the second time");
        assert!(!filter.hit(&key(1)), "it has been written");
        assert!(filter.made(&key(1)), "a newer answer of what is wanted");

        assert!(
            !filter.made(&key(2)) && filter.made(&key(2)),
            "without an answer in this process"
        );
        filter.found(&key(3));
        assert!(!filter.hit(&key(3)), "another replica has written it");
    }

    #[test]
    fn an_answer_that_is_wanted_once_is_not_written() {
        let filter = AdmissionFilter::new(1 << 16);
        assert_eq!((0..200_000).filter(|n| filter.made(&key(*n))).count(), 0);
        let among_others = |n| {
            filter.made(&key(n));
            filter.made(&key(7))
        };
        assert!(
            (200_000..201_000).filter(|n| among_others(*n)).count() > 900,
            "one that is wanted all the time is"
        );
    }
}
