//! Options of the cache.

use std::{sync::Arc, time::Duration};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{Cache, Codec, Memory, Redis, RedisError, Tiers};

/// Answers kept in this process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Memory for answers kept in this process, MiB; 0 keeps none
    #[arg(long, env = "SHOPKEEPER_CACHE_MEMORY", value_name = "MIB", default_value_t = 64)]
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
pub struct RedisArgs {
    /// Redis that replicas share answers through, redis://[user:password@]host[:port][/db]; without one each keeps its
    /// own. It need not be up: without it calls are slower, not wrong
    #[arg(long, env = "SHOPKEEPER_REDIS", value_name = "URL", hide_env_values = true, value_parser = secret)]
    redis: Option<SecretString>,
    /// Longest that a call waits for Redis
    #[arg(long, env = "SHOPKEEPER_REDIS_TIMEOUT", value_name = "TIME", default_value = "5ms", value_parser = humantime::parse_duration)]
    redis_timeout: Duration,
    /// What replicas that share a Redis know and nobody else who can write to it; answers kept by others are ignored
    #[arg(long, env = "SHOPKEEPER_CACHE_SECRET", value_name = "TEXT", hide_env_values = true, value_parser = secret)]
    cache_secret: Option<SecretString>,
}

impl RedisArgs {
    /// The cache of one process before the one that replicas share, and what they share.
    ///
    /// # Errors
    /// Where the URL is none. A Redis that does not answer is no error.
    pub fn build(&self, near: &CacheArgs) -> Result<(Tiers, Option<Arc<Redis>>), RedisError> {
        let codec = Codec::new(self.cache_secret.as_ref().map_or("", |secret| secret.expose_secret()));
        let shared = self.redis.as_ref().map(|url| Redis::new(url, codec, self.redis_timeout)).transpose()?;
        let shared = shared.map(Arc::new);
        let far = shared.clone().map(|redis| redis as Arc<dyn Cache>);
        Ok((Tiers::new(near.memory().into_iter().chain(far).collect()), shared))
    }
}

/// What is never printed.
pub(crate) fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}
