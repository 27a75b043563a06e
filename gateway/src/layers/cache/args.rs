//! Options of the cache.

use std::sync::Arc;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{Cache, Codec, Memory, Redis, Tiers};
use crate::redis::{self, Client};

/// Answers kept in this process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Memory for cached answers in this process, MiB; 0: none
    #[arg(
        long,
        env = "SHOPKEEPER_CACHE_MEMORY",
        value_name = "MIB",
        default_value_t = 64
    )]
    cache_memory: u64,
}

impl CacheArgs {
    /// The cache of one process.
    pub fn build(&self) -> Tiers {
        Tiers::new(self.memory().into_iter().collect())
    }

    fn memory(&self) -> Option<Arc<dyn Cache>> {
        let bytes = self.cache_memory.saturating_mul(1 << 20);
        (bytes > 0).then(|| Arc::new(Memory::new(bytes)) as Arc<dyn Cache>)
    }
}

/// Answers shared by replicas.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct SharedCacheArgs {
    /// Secret of the replicas that share a Redis, which no other writer of that Redis knows:
    /// answers written without it are ignored
    #[arg(
        long,
        env = "SHOPKEEPER_CACHE_SECRET",
        value_name = "TEXT",
        hide_env_values = true,
        value_parser = redis::secret
    )]
    cache_secret: Option<SecretString>,
}

impl SharedCacheArgs {
    /// The cache of one process, and after it the one that replicas share through `redis`, if there
    /// is one.
    pub fn build(&self, near: &CacheArgs, redis: Option<&Arc<Client>>) -> Tiers {
        let secret = self.cache_secret.as_ref();
        let codec = Codec::new(secret.map_or("", |secret| secret.expose_secret()));
        let far = redis.map(|client| Arc::new(Redis::new(client.clone(), codec)) as Arc<dyn Cache>);
        Tiers::new(near.memory().into_iter().chain(far).collect())
    }
}
