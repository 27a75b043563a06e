//! Options of Redis.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use secrecy::SecretString;

use super::{certificates::Certificates, client::Client, servers::RedisError};

/// The Redis that replicas share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct RedisArgs {
    /// Redis that replicas share answers through. Default: each replica keeps its own. Redis need
    /// not be up: without it calls are slower, not wrong
    ///
    /// One server: redis://[user:password@]host[:port][/db]
    ///
    /// The primary that sentinels name:
    /// redis+sentinel://[user:password@]host[:port],host[:port]/service[/db], followed by
    /// ?sentinel-user=USER&sentinel-password=PASSWORD if the sentinels have a user of their own
    ///
    /// A cluster: redis+cluster://[user:password@]host[:port],host[:port]
    ///
    /// Over TLS: the same, beginning with rediss
    #[arg(
        long,
        env = "SHOPKEEPER_REDIS",
        value_name = "URL",
        hide_env_values = true,
        value_parser = secret
    )]
    redis: Option<SecretString>,
    /// Authority of the certificate of Redis (PEM). Default: the authorities of this machine
    #[arg(
        long,
        env = "SHOPKEEPER_REDIS_CA",
        value_name = "FILE",
        requires = "redis"
    )]
    redis_ca: Option<PathBuf>,
    /// Certificate to show to Redis (PEM)
    #[arg(
        long,
        env = "SHOPKEEPER_REDIS_CERT",
        value_name = "FILE",
        requires = "redis_key"
    )]
    redis_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(
        long,
        env = "SHOPKEEPER_REDIS_KEY",
        value_name = "FILE",
        requires = "redis_cert"
    )]
    redis_key: Option<PathBuf>,
    /// Longest that a call waits for Redis
    #[arg(
        long,
        env = "SHOPKEEPER_REDIS_TIMEOUT",
        value_name = "TIME",
        default_value = "5ms",
        value_parser = humantime::parse_duration
    )]
    redis_timeout: Duration,
}

impl RedisArgs {
    /// A client of the Redis that is given, if one is. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the URL or a certificate cannot be used. A Redis that does not answer is no error.
    pub fn build(&self) -> Result<Option<Arc<Client>>, RedisError> {
        let client = |url| Client::new(url, self.certificates(), self.redis_timeout);
        Ok(self.redis.clone().map(client).transpose()?.map(Arc::new))
    }

    fn certificates(&self) -> Certificates {
        let client = self.redis_cert.clone().zip(self.redis_key.clone());
        Certificates::new(self.redis_ca.clone(), client)
    }
}

/// Reads a secret, which is never printed.
pub(crate) fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}
