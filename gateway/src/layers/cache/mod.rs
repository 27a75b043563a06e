//! Answers that are given again: what they are kept under, as what, where, and when.
//!
//! Promise: an answer is served for the request, the caller and the model version it was given for,
//! and for no other. A cache that fails is a cache without the answer.

mod admission;
mod args;
mod entry;
mod key;
mod layer;
mod memory;
mod redis;
mod single_flight;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use self::admission::Sightings;
pub(crate) use self::layer::layer;
pub use self::{
    args::{CacheArgs, SharedCacheArgs},
    entry::{Answer, Codec, Entry},
    key::{Key, Question},
    memory::Memory,
    redis::Redis,
};
use crate::metrics;

/// Largest answer that is kept, bytes.
const LARGEST: usize = 64 << 10;

/// Answers that nearly always take less are made rather than waited for: to ask who makes one costs
/// as much.
const WORTH_ASKING: Duration = Duration::from_millis(5);
/// Longest wait for the answer that another replica is making, and the pauses between looks whether
/// it is there.
const AWAITED: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(1);
const LOOK_LATER: Duration = Duration::from_millis(8);

/// Somewhere to keep answers. Nothing here fails: what cannot be read is not there, what cannot be
/// written is not kept.
pub trait Cache: fmt::Debug + Send + Sync {
    /// Which kind it is.
    fn tier(&self) -> Tier;

    /// The answer kept under a key.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Arc<Entry>>>;

    /// Keeps an answer.
    fn put(&self, key: Key, entry: Arc<Entry>, lifetime: Duration) -> BoxFuture<'_, ()>;

    /// Whether nobody else who shares this is making the answer; from here on this one is, for so
    /// long at most.
    fn lead<'a>(&'a self, _key: &'a Key, _at_most: Duration) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// A kind of cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In this process.
    Memory,
    /// Shared by replicas.
    Redis,
}

impl Tier {
    /// As metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// Caches, the nearest first; none at all is fine. What is in this process is cheap, and keeps
/// every answer; what replicas share keeps those that are asked for a second time.
#[derive(Debug, Clone, Default)]
pub struct Tiers {
    tiers: Vec<Arc<dyn Cache>>,
    sightings: Arc<Sightings>,
}

impl Tiers {
    /// These caches, the nearest first.
    pub fn new(tiers: Vec<Arc<dyn Cache>>) -> Self {
        Self {
            tiers,
            sightings: Arc::default(),
        }
    }

    /// Whether there is anywhere to look.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The answer, and where it was. Nearer caches keep a copy for a while: a tenth of its time, at
    /// most 10 s.
    pub async fn get(&self, key: &Key) -> Option<(Tier, Arc<Entry>)> {
        for (i, cache) in self.tiers.iter().enumerate() {
            let Some(entry) = cache.get(key).await else {
                continue;
            };
            let left = entry.left(SystemTime::now());
            let (nearer, farther) = (&self.tiers[..i], &self.tiers[i + 1..]);
            match cache.tier() {
                Tier::Memory if self.sightings.given_again(key) => {
                    keep(farther, *key, &entry, left).await
                }
                Tier::Memory => {}
                Tier::Redis => self.sightings.found(key),
            }
            let for_a_while = (entry.ttl / 10).min(Duration::from_secs(10)).min(left);
            keep(nearer, *key, &entry, for_a_while).await;
            return Some((cache.tier(), entry));
        }
        None
    }

    /// The answer, where it is in this process.
    pub async fn near(&self, key: &Key) -> Option<(Tier, Arc<Entry>)> {
        let near = self
            .tiers
            .first()
            .filter(|cache| cache.tier() == Tier::Memory)?;
        near.get(key).await.map(|entry| (Tier::Memory, entry))
    }

    /// The answer that another replica is making, where it is one that replicas share, usually
    /// takes long enough to be waited for, and comes within a while. Where there is none, this
    /// one is to make it.
    pub(crate) async fn awaited(
        &self,
        key: &Key,
        usual: impl FnOnce() -> Option<Duration> + Send,
        at_most: Duration,
    ) -> Option<(Tier, Arc<Entry>)> {
        let shared = self
            .tiers
            .iter()
            .find(|cache| cache.tier() == Tier::Redis)?;
        let at_most = at_most.min(AWAITED);
        let is_quick = || usual().is_some_and(|usual| usual < WORTH_ASKING);
        if !self.sightings.knows(key) || is_quick() || shared.lead(key, at_most).await {
            return None;
        }
        let (until, mut pause) = (Instant::now() + at_most, LOOK);
        while Instant::now() + pause < until {
            sleep(pause).await;
            if let Some(found) = self.get(key).await {
                return Some(found);
            }
            pause = (pause * 2).min(LOOK_LATER);
        }
        None
    }

    /// Keeps an answer for its time give or take a tenth: what is asked at once does not end at
    /// once.
    pub async fn put(&self, key: Key, mut entry: Entry) -> Arc<Entry> {
        entry.ttl = entry.ttl.mul_f64(0.9 + 0.2 * key.share());
        let (left, entry) = (entry.left(SystemTime::now()), Arc::new(entry));
        let is_asked_for_again = self.sightings.made(&key);
        for cache in &self.tiers {
            if cache.tier() == Tier::Memory || is_asked_for_again {
                keep(std::slice::from_ref(cache), key, &entry, left).await;
            }
        }
        entry
    }
}

async fn keep(caches: &[Arc<dyn Cache>], key: Key, entry: &Arc<Entry>, lifetime: Duration) {
    for cache in caches {
        metrics::stored(cache.tier());
        cache.put(key, entry.clone(), lifetime).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(seconds: u64) -> Entry {
        let answer = Answer::Found(Bytes::from_static(b"answer"));
        let (made, took) = (SystemTime::now(), Duration::ZERO);
        Entry {
            version: "v".into(),
            made,
            took,
            ttl: Duration::from_secs(seconds),
            answer,
        }
    }

    fn key(message: &[u8]) -> Key {
        Key::of(&Question {
            method: "",
            version: "",
            caller: None,
            message,
        })
    }

    /// A cache that keeps everything and says for how long it was asked to.
    #[derive(Debug, Default)]
    struct Shelf(std::sync::Mutex<Vec<(Key, Arc<Entry>, Duration)>>);

    impl Cache for Shelf {
        fn tier(&self) -> Tier {
            Tier::Redis
        }
        fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Arc<Entry>>> {
            let found = self
                .0
                .lock()
                .unwrap()
                .iter()
                .find(|(k, ..)| k == key)
                .map(|(_, entry, _)| entry.clone());
            Box::pin(std::future::ready(found))
        }
        fn put(&self, key: Key, entry: Arc<Entry>, lifetime: Duration) -> BoxFuture<'_, ()> {
            self.0.lock().unwrap().push((key, entry, lifetime));
            Box::pin(std::future::ready(()))
        }
    }

    impl Shelf {
        fn lifetimes(&self) -> Vec<f64> {
            self.0
                .lock()
                .unwrap()
                .iter()
                .map(|(.., lifetime)| lifetime.as_secs_f64())
                .collect()
        }
    }

    #[tokio::test]
    async fn a_nearer_cache_learns_from_a_farther_one() {
        let (near, far) = (Arc::new(Memory::new(1 << 20)), Arc::new(Shelf::default()));
        let kept = Arc::new(entry(300));
        far.put(key(b"a"), kept.clone(), Duration::from_secs(300))
            .await;
        let tiers = Tiers::new(vec![near, far]);
        assert_eq!(
            tiers.get(&key(b"a")).await,
            Some((Tier::Redis, kept.clone()))
        );
        assert_eq!(tiers.get(&key(b"a")).await, Some((Tier::Memory, kept)));
        assert_eq!(tiers.get(&key(b"b")).await, None);
        assert_eq!(Tiers::default().get(&key(b"a")).await, None);
    }

    #[tokio::test]
    async fn a_copy_ends_no_later_than_the_answer() {
        let (near, far) = (Arc::new(Shelf::default()), Arc::new(Shelf::default()));
        let old = Entry {
            made: SystemTime::now() - Duration::from_secs(298),
            ..entry(300)
        };
        far.put(key(b"a"), Arc::new(old), Duration::from_secs(300))
            .await;
        let tiers = Tiers::new(vec![near.clone(), far]);
        tiers.get(&key(b"a")).await.unwrap();
        assert!(near.lifetimes()[0] <= 2.0, "{:?}", near.lifetimes());
    }

    #[tokio::test]
    async fn replicas_share_what_is_asked_for_again() {
        let (near, far) = (Arc::new(Memory::new(1 << 20)), Arc::new(Shelf::default()));
        let tiers = Tiers::new(vec![near, far.clone()]);
        tiers.put(key(b"a"), entry(300)).await;
        assert_eq!(far.lifetimes().len(), 0);
        for _ in 0..3 {
            tiers.get(&key(b"a")).await.unwrap();
        }
        assert_eq!(far.lifetimes().len(), 1);
        tiers.put(key(b"a"), entry(300)).await;
        assert_eq!(
            far.lifetimes().len(),
            2,
            "a newer answer of what is asked for"
        );
    }

    #[tokio::test]
    async fn lifetimes_differ_by_at_most_a_tenth() {
        let shelf = Arc::new(Shelf::default());
        let tiers = Tiers::new(vec![shelf.clone()]);
        for n in 0..100u8 {
            tiers.put(key(&[n]), entry(100)).await;
            tiers.put(key(&[n]), entry(100)).await;
        }
        let lifetimes = shelf.lifetimes();
        assert_eq!(lifetimes.len(), 100);
        assert!(lifetimes.iter().all(|l| (89.9..=110.0).contains(l)));
        assert!(lifetimes.iter().any(|l| *l < 95.0) && lifetimes.iter().any(|l| *l > 105.0));
    }
}
