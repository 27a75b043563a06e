//! Answers that are given again: under which key they are kept, in which form, where, and when.
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
mod response;
mod single_flight;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;

use self::admission::AdmissionFilter;
pub(crate) use self::layer::layer;
pub use self::{
    args::{CacheArgs, SharedCacheArgs},
    entry::{Answer, Codec, Entry},
    key::{Key, Question},
    memory::Memory,
    redis::Redis,
};
use crate::metrics;

/// Keeps answers. Nothing here fails: an answer that cannot be read is not there, one that cannot
/// be written is not kept.
pub trait Cache: fmt::Debug + Send + Sync {
    /// The kind of this cache.
    fn tier(&self) -> Tier;

    /// The answer kept under a key.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Arc<Entry>>>;

    /// Keeps an answer.
    fn put(&self, key: Key, entry: Arc<Entry>, lifetime: Duration) -> BoxFuture<'_, ()>;
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
    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// Numbers of the tiers.
#[derive(Debug, Clone)]
struct Config {
    /// A nearer cache keeps a copy of a farther one's answer for this share of its lifetime, and at
    /// most so long.
    copy_share: u32, // one in this many
    max_copy_lifetime: Duration,
    /// Share of its lifetime by which an answer may end sooner or later: answers that were made at
    /// once do not end at once.
    jitter: f64,
    /// Keys that the admission filter remembers.
    admission_slots: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            copy_share: 10,
            max_copy_lifetime: Duration::from_secs(10),
            jitter: 0.1,
            admission_slots: 1 << 16,
        }
    }
}

/// Caches, the nearest first; there may be none. The memory of this process is cheap, and keeps
/// every answer; the cache that replicas share keeps those that are wanted a second time.
#[derive(Debug, Clone)]
pub struct Tiers {
    tiers: Vec<Arc<dyn Cache>>,
    admission: Arc<AdmissionFilter>,
    config: Config,
}

impl Default for Tiers {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Tiers {
    /// These caches, the nearest first.
    pub fn new(tiers: Vec<Arc<dyn Cache>>) -> Self {
        let config = Config::default();
        Self {
            tiers,
            admission: Arc::new(AdmissionFilter::new(config.admission_slots)),
            config,
        }
    }

    /// Whether there is no cache.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The answer, and the cache that had it. Nearer caches keep a copy for a while.
    pub async fn get(&self, key: &Key) -> Option<(Tier, Arc<Entry>)> {
        for (i, cache) in self.tiers.iter().enumerate() {
            let Some(entry) = cache.get(key).await else {
                continue;
            };
            let left = entry.left(SystemTime::now());
            let (nearer, farther) = (&self.tiers[..i], &self.tiers[i + 1..]);
            match cache.tier() {
                Tier::Memory if self.admission.hit(key) => keep(farther, *key, &entry, left).await,
                Tier::Memory => {}
                Tier::Redis => self.admission.found(key),
            }
            let lifetime = (entry.ttl / self.config.copy_share)
                .min(self.config.max_copy_lifetime)
                .min(left);
            keep(nearer, *key, &entry, lifetime).await;
            return Some((cache.tier(), entry));
        }
        None
    }

    /// The answer, if it is in the memory of this process.
    pub async fn near(&self, key: &Key) -> Option<(Tier, Arc<Entry>)> {
        let near = self
            .tiers
            .first()
            .filter(|cache| cache.tier() == Tier::Memory)?;
        near.get(key).await.map(|entry| (Tier::Memory, entry))
    }

    /// Keeps an answer for its lifetime, give or take some jitter.
    pub async fn put(&self, key: Key, mut entry: Entry) -> Arc<Entry> {
        let jitter = self.config.jitter;
        entry.ttl = entry.ttl.mul_f64(1.0 - jitter + 2.0 * jitter * key.share());
        let (left, entry) = (entry.left(SystemTime::now()), Arc::new(entry));
        let is_wanted_again = self.admission.made(&key);
        for cache in &self.tiers {
            if cache.tier() == Tier::Memory || is_wanted_again {
                keep(std::slice::from_ref(cache), key, &entry, left).await;
            }
        }
        entry
    }
}

async fn keep(caches: &[Arc<dyn Cache>], key: Key, entry: &Arc<Entry>, lifetime: Duration) {
    for cache in caches {
        metrics::stored(cache.tier().name());
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

    /// A cache that keeps everything, and the lifetimes that it was given.
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
    async fn replicas_share_what_is_wanted_again() {
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
            "a newer answer of what is wanted again"
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
