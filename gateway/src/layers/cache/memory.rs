//! Answers kept in this process: bounded by bytes, each with a lifetime of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use moka::{Expiry, future};

use super::{Cache, Entry, Key, Tier};

/// What an entry takes besides its own bytes, about: moka's nodes and the entry's fields.
const OVERHEAD_BYTES: usize = 200;

/// Answers in this process.
#[derive(Debug, Clone)]
pub struct Memory {
    entries: future::Cache<Key, (Arc<Entry>, Duration)>,
}

struct OwnLifetime;

impl Expiry<Key, (Arc<Entry>, Duration)> for OwnLifetime {
    fn expire_after_create(
        &self,
        _: &Key,
        kept: &(Arc<Entry>, Duration),
        _: Instant,
    ) -> Option<Duration> {
        Some(kept.1)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        kept: &(Arc<Entry>, Duration),
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.1)
    }
}

impl Memory {
    /// Keeps answers of this many bytes in all.
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &Key, kept: &(Arc<Entry>, Duration)| {
            u32::try_from(kept.0.weight().saturating_add(OVERHEAD_BYTES)).unwrap_or(u32::MAX)
        };
        Self {
            entries: future::Cache::builder()
                .max_capacity(bytes)
                .weigher(weigh)
                .expire_after(OwnLifetime)
                .build(),
        }
    }
}

impl Cache for Memory {
    fn tier(&self) -> Tier {
        Tier::Memory
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Arc<Entry>>> {
        self.entries
            .get(key)
            .map(|kept| kept.map(|(entry, _)| entry))
            .boxed()
    }

    fn put(&self, key: Key, entry: Arc<Entry>, lifetime: Duration) -> BoxFuture<'_, ()> {
        self.entries.insert(key, (entry, lifetime)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::cache::{Answer, Question};
    use bytes::Bytes;

    fn key(n: u32) -> Key {
        Key::of(&Question {
            method: "",
            version: "",
            caller: None,
            message: &n.to_le_bytes(),
        })
    }

    fn entry(bytes: usize) -> Arc<Entry> {
        let answer = Answer::Found(Bytes::from(vec![0; bytes]));
        let (made, took) = (std::time::UNIX_EPOCH, Duration::ZERO);
        Arc::new(Entry {
            version: String::new(),
            made,
            took,
            ttl: Duration::from_secs(60),
            answer,
        })
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_its_lifetime() {
        let memory = Memory::new(1 << 20);
        memory.put(key(1), entry(10), Duration::from_secs(60)).await;
        memory.put(key(2), entry(10), Duration::ZERO).await;
        assert_eq!(memory.get(&key(1)).await, Some(entry(10)));
        assert_eq!(memory.get(&key(2)).await, None);
        assert_eq!(memory.get(&key(3)).await, None);
        memory.put(key(1), entry(11), Duration::ZERO).await;
        assert_eq!(
            memory.get(&key(1)).await,
            None,
            "the newer lifetime is the one that counts"
        );
    }

    #[tokio::test]
    async fn it_never_takes_more_than_its_capacity() {
        let memory = Memory::new(64 << 10);
        for n in 0..1000 {
            memory
                .put(key(n), entry(1 << 10), Duration::from_secs(60))
                .await;
        }
        memory.entries.run_pending_tasks().await;
        assert!(memory.entries.weighted_size() <= 64 << 10);
        assert!(memory.entries.entry_count() > 10);
    }
}
