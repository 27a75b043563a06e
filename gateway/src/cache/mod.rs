//! Answers that are given again: what they are kept under, as what, where, and when.
//!
//! Promise: an answer is served for the request, the caller and the model version it was given for, and for no other.
//! A cache that fails is a cache without the answer.

mod args;
mod entry;
mod key;
mod layer;
mod memory;
mod redis;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub(crate) use self::{args::secret, layer::layer};
pub use self::{
    args::{CacheArgs, RedisArgs},
    entry::{Answer, Codec, Entry},
    key::{Key, Question},
    memory::Memory,
    redis::{Redis, RedisError},
};

/// Largest answer that is kept, bytes.
const LARGEST: usize = 64 << 10;

/// Somewhere to keep answers. Nothing here fails: what cannot be read is not there, what cannot be written is not kept.
pub trait Cache: fmt::Debug + Send + Sync {
    /// Which kind it is.
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

/// Caches, the nearest first; none at all is fine.
#[derive(Debug, Clone, Default)]
pub struct Tiers {
    tiers: Vec<Arc<dyn Cache>>,
}

impl Tiers {
    /// These caches, the nearest first.
    pub fn new(tiers: Vec<Arc<dyn Cache>>) -> Self {
        Self { tiers }
    }

    /// Whether there is anywhere to look.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The answer, and where it was. Nearer caches keep a copy for a while: a tenth of its time, at most 10 s.
    pub async fn get(&self, key: &Key) -> Option<(Tier, Arc<Entry>)> {
        for (i, cache) in self.tiers.iter().enumerate() {
            if let Some(entry) = cache.get(key).await {
                for nearer in &self.tiers[..i] {
                    let lifetime = (entry.ttl / 10).min(Duration::from_secs(10));
                    nearer.put(*key, entry.clone(), lifetime).await;
                }
                return Some((cache.tier(), entry));
            }
        }
        None
    }

    /// Keeps an answer everywhere, for its time give or take a tenth: what is asked at once does not end at once.
    pub async fn put(&self, key: Key, entry: Entry) {
        let (lifetime, entry) = (entry.ttl.mul_f64(0.9 + 0.2 * key.share()), Arc::new(entry));
        for cache in &self.tiers {
            cache.put(key, entry.clone(), lifetime).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(seconds: u64) -> Entry {
        let answer = Answer::Found(Bytes::from_static(b"answer"));
        Entry { version: "v".into(), ttl: Duration::from_secs(seconds), answer }
    }

    fn key(message: &[u8]) -> Key {
        Key::of(&Question { method: "", version: "", caller: None, message })
    }

    /// A cache that keeps everything and says for how long it was asked to.
    #[derive(Debug, Default)]
    struct Shelf(std::sync::Mutex<Vec<(Key, Arc<Entry>, Duration)>>);

    impl Cache for Shelf {
        fn tier(&self) -> Tier {
            Tier::Redis
        }
        fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Arc<Entry>>> {
            let found = self.0.lock().unwrap().iter().find(|(k, ..)| k == key).map(|(_, entry, _)| entry.clone());
            Box::pin(std::future::ready(found))
        }
        fn put(&self, key: Key, entry: Arc<Entry>, lifetime: Duration) -> BoxFuture<'_, ()> {
            self.0.lock().unwrap().push((key, entry, lifetime));
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn a_nearer_cache_learns_from_a_farther_one() {
        let (near, far) = (Arc::new(Memory::new(1 << 20)), Arc::new(Shelf::default()));
        far.put(key(b"a"), Arc::new(entry(300)), Duration::from_secs(300)).await;
        let tiers = Tiers::new(vec![near, far]);
        assert_eq!(tiers.get(&key(b"a")).await, Some((Tier::Redis, Arc::new(entry(300)))));
        assert_eq!(tiers.get(&key(b"a")).await, Some((Tier::Memory, Arc::new(entry(300)))));
        assert_eq!(tiers.get(&key(b"b")).await, None);
        assert_eq!(Tiers::default().get(&key(b"a")).await, None);
    }

    #[tokio::test]
    async fn lifetimes_differ_by_at_most_a_tenth() {
        let shelf = Arc::new(Shelf::default());
        let tiers = Tiers::new(vec![shelf.clone()]);
        for n in 0..100u8 {
            tiers.put(key(&[n]), entry(100)).await;
        }
        let kept = shelf.0.lock().unwrap();
        let lifetimes: Vec<_> = kept.iter().map(|(.., lifetime)| lifetime.as_secs_f64()).collect();
        assert!(lifetimes.iter().all(|l| (90.0..=110.0).contains(l)));
        assert!(lifetimes.iter().any(|l| *l < 95.0) && lifetimes.iter().any(|l| *l > 105.0));
    }
}
