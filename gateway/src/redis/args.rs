//! Options of Redis.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use redis::{ClientTlsConfig, TlsCertificates};
use secrecy::SecretString;

use super::{Client, RedisError};

/// The Redis that replicas share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct RedisArgs {
    /// Redis that replicas share answers through; without one each keeps its own. It need not be
    /// up: without it calls are slower, not wrong
    ///
    /// One server: redis://[user:password@]host[:port][/db]
    ///
    /// The primary that sentinels name:
    /// redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]; for
    /// sentinels with a user of their own ?sentinel-user=USER&sentinel-password=PASSWORD follows
    ///
    /// A cluster: redis+cluster://[user:password@]host[:port],host[:port]
    ///
    /// Over TLS each begins with rediss instead
    #[arg(long, env = "SHOPKEEPER_REDIS", value_name = "URL", hide_env_values = true, value_parser = secret)]
    redis: Option<SecretString>,
    /// Who signs the certificate of Redis (PEM); without it, whom this machine trusts
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
    /// Its key (PEM)
    #[arg(
        long,
        env = "SHOPKEEPER_REDIS_KEY",
        value_name = "FILE",
        requires = "redis_cert"
    )]
    redis_key: Option<PathBuf>,
    /// Longest that a call waits for Redis
    #[arg(long, env = "SHOPKEEPER_REDIS_TIMEOUT", value_name = "TIME", default_value = "5ms", value_parser = humantime::parse_duration)]
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
        Certificates {
            authority: self.redis_ca.clone(),
            client,
        }
    }
}

/// Files with the certificates that Redis is reached with.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// Of who signs the one of Redis.
    authority: Option<PathBuf>,
    /// What is shown to Redis, and its key.
    client: Option<(PathBuf, PathBuf)>,
}

impl Certificates {
    pub(super) fn read(&self) -> Result<Option<TlsCertificates>, RedisError> {
        let root_cert = self.authority.as_ref().map(fs_err::read).transpose()?;
        let client = self.client.as_ref().map(|(cert, key)| {
            std::io::Result::Ok(ClientTlsConfig {
                client_cert: fs_err::read(cert)?,
                client_key: fs_err::read(key)?,
            })
        });
        let client_tls = client.transpose()?;
        let given = root_cert.is_some() || client_tls.is_some();
        Ok(given.then_some(TlsCertificates {
            client_tls,
            root_cert,
        }))
    }
}

/// What is never printed.
pub(crate) fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}
