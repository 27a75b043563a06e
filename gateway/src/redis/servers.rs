//! The Redis of a URL, and its user: one server, the primary that sentinels name, or a cluster.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, Pipeline, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};

/// A key that is never written: reading it shows that reading works.
const PROBE_KEY: &str = "sk:1:probe";
/// Redis' own ports.
const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Numbers of connections.
struct Config {
    /// Commands that a connection's queue holds; further ones wait before it.
    queue: usize,
    /// Redirections that a cluster may answer a command with, because another node has the key.
    max_redirections: u32,
    /// Longest wait for a node of a cluster. Calls wait less.
    node_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue: 1 << 10,
            max_redirections: 1,
            node_timeout: Duration::from_millis(500),
        }
    }
}

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The URL cannot be used. It is not repeated here: it may hold a password.
    #[error("the URL of Redis cannot be used: {0}; redis://localhost:6379 is an example")]
    Url(&'static str),
    /// The certificates or the servers cannot be used together.
    #[error("Redis cannot be reached with this URL and these certificates")]
    Client(#[source] redis::RedisError),
    /// A certificate or key cannot be read.
    #[error("a certificate or key for Redis cannot be read")]
    File(#[from] std::io::Error),
}

/// The servers of one Redis.
pub(super) enum Servers {
    /// A server.
    One(Box<Client>),
    /// The primary that sentinels name.
    Sentinel(Box<SentinelClient>),
    /// All servers of a cluster.
    Cluster(Box<ClusterClient>),
}

/// A connection.
#[derive(Clone)]
pub(crate) enum Connection {
    /// To a server.
    One(MultiplexedConnection),
    /// To all of a cluster.
    Cluster(ClusterConnection),
}

impl Servers {
    /// The servers of a URL: `redis://`, `redis+sentinel://`, `redis+cluster://`; with `rediss`
    /// over TLS.
    pub(super) fn of(
        url: &str,
        certificates: Option<&TlsCertificates>,
    ) -> Result<Self, RedisError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or(RedisError::Url("it has no scheme"))?;
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let certificates = match base {
            "rediss" => certificates,
            "redis" | "unix" if certificates.is_none() => None,
            "redis" | "unix" => return Err(RedisError::Url("certificates are for rediss://")),
            _ => return Err(RedisError::Url("it begins with neither redis nor rediss")),
        };
        let url = Url::of(base, rest);
        match (base, kind) {
            (_, "") => {
                let server = info(url.whole)?;
                let client = match certificates {
                    None => Client::open(server),
                    Some(certificates) => Client::build_with_tls(server, certificates.clone()),
                };
                client
                    .map(Box::new)
                    .map(Self::One)
                    .map_err(RedisError::Client)
            }
            ("redis" | "rediss", "sentinel") => url.sentinel(certificates),
            ("redis" | "rediss", "cluster") => url.cluster(certificates),
            _ => Err(RedisError::Url(
                "there are redis, redis+sentinel and redis+cluster",
            )),
        }
    }

    /// A new connection.
    pub(super) async fn connect(&mut self) -> RedisResult<Connection> {
        // Without timeouts of its own: each caller has one.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(Config::default().queue);
        match self {
            Self::One(client) => client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map(Connection::One),
            Self::Sentinel(client) => client
                .get_async_connection_with_config(&config)
                .await
                .map(Connection::One),
            Self::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

/// A URL that may name several servers.
struct Url<'a> {
    base: &'a str,
    whole: String,
    user: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    fn of(base: &'a str, rest: &'a str) -> Self {
        let whole = format!("{base}://{rest}");
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        Self {
            base,
            whole,
            user,
            hosts,
            path,
            query,
        }
    }

    /// Its servers. One without a port gets this one.
    fn servers(&self, port: u16) -> Result<Vec<ConnectionInfo>, RedisError> {
        let server = |host: &str| {
            let has_port = host
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let port = if has_port {
                String::new()
            } else {
                format!(":{port}")
            };
            let user = self
                .user
                .map_or_else(String::new, |user| format!("{user}@"));
            info(format!("{}://{user}{host}{port}", self.base))
        };
        self.hosts.split(',').map(server).collect()
    }

    fn sentinel(&self, certificates: Option<&TlsCertificates>) -> Result<Servers, RedisError> {
        let (service, db) = self.path.split_once('/').unwrap_or((self.path, "0"));
        if service.is_empty() {
            return Err(RedisError::Url(
                "the path names the service that the sentinels watch",
            ));
        }
        let db = db
            .parse()
            .map_err(|_| RedisError::Url("what follows the service is the number of a database"))?;
        let sentinels = self.servers(SENTINEL_PORT)?;
        let servers = sentinels
            .first()
            .map(|sentinel| sentinel.redis_settings().clone())
            .unwrap_or_default();
        let addresses: Vec<ConnectionAddr> = sentinels
            .iter()
            .map(|sentinel| sentinel.addr().clone())
            .collect();
        let builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master);
        let mut builder =
            builder.map_err(|_| RedisError::Url("a sentinel's address is not valid"))?;
        builder = builder.set_client_to_redis_db(db);
        if let Some(user) = servers.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = servers.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        for (name, value) in url::form_urlencoded::parse(self.query.as_bytes()) {
            builder = match &*name {
                "sentinel-user" => builder.set_client_to_sentinel_username(value),
                "sentinel-password" => builder.set_client_to_sentinel_password(value),
                _ => {
                    return Err(RedisError::Url(
                        "there are ?sentinel-user and &sentinel-password",
                    ));
                }
            };
        }
        if self.base == "rediss" {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = certificates {
            builder = builder.set_client_to_redis_certificates(certificates.clone());
            builder = builder.set_client_to_sentinel_certificates(certificates.clone());
        }
        builder
            .build()
            .map(Box::new)
            .map(Servers::Sentinel)
            .map_err(RedisError::Client)
    }

    fn cluster(&self, certificates: Option<&TlsCertificates>) -> Result<Servers, RedisError> {
        if !self.path.is_empty() || !self.query.is_empty() {
            return Err(RedisError::Url("a cluster's URL ends with its servers"));
        }
        let config = Config::default();
        let mut builder = ClusterClient::builder(self.servers(SERVER_PORT)?)
            .retries(config.max_redirections)
            .connection_timeout(config.node_timeout)
            .response_timeout(config.node_timeout);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates.clone());
        }
        builder
            .build()
            .map(Box::new)
            .map(Servers::Cluster)
            .map_err(RedisError::Client)
    }
}

fn info(url: String) -> Result<ConnectionInfo, RedisError> {
    url.into_connection_info()
        .map_err(|_| RedisError::Url("a server's address, user or database is not valid"))
}

impl Connection {
    /// Checks that reading works; of a cluster, that every primary is there.
    pub(super) async fn probe(&mut self) -> RedisResult<()> {
        match self {
            Self::One(connection) => {
                match redis::cmd("GET")
                    .arg(PROBE_KEY)
                    .exec_async(connection)
                    .await
                {
                    Err(error) if !is_about_the_value(&error) => Err(error),
                    Ok(()) | Err(_) => Ok(()),
                }
            }
            Self::Cluster(connection) => redis::cmd("PING").exec_async(connection).await,
        }
    }
}

/// Whether Redis works, but holds a value of another kind under the key.
pub(crate) fn is_about_the_value(error: &redis::RedisError) -> bool {
    error.code() == Some("WRONGTYPE") || matches!(error.kind(), ErrorKind::UnexpectedReturnType)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_servers_and_their_user() {
        for (url, kind) in [
            ("redis://localhost", "one"),
            ("rediss://user:p%2Fw@redis.example:6380/2", "one"),
            ("unix:///run/redis.sock", "one"),
            ("redis+sentinel://a,b:26380,[::1]/shop", "sentinel"),
            (
                "rediss+sentinel://user:pw@a,b/shop/3?sentinel-user=watch&sentinel-password=p%26w",
                "sentinel",
            ),
            ("redis+cluster://a", "cluster"),
            (
                "rediss+cluster://user:pw@a:7000,b:7000,[::1]:7000",
                "cluster",
            ),
        ] {
            let is = match Servers::of(url, None)
                .map_err(|error| format!("{url}: {error}"))
                .unwrap()
            {
                Servers::One(_) => "one",
                Servers::Sentinel(_) => "sentinel",
                Servers::Cluster(_) => "cluster",
            };
            assert_eq!(is, kind, "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: None,
        };
        for (url, certificates) in [
            ("localhost:6379", None),
            ("http://:hunter2@localhost", None),
            ("redis://:hunter2@localhost/shop", None),
            ("redis://:hunter2@localhost", Some(&certificates)),
            ("redis+sentinel://:hunter2@localhost", None),
            ("redis+sentinel://:hunter2@localhost/shop/first", None),
            (
                "redis+sentinel://:hunter2@localhost/shop?password=hunter2",
                None,
            ),
            ("redis+cluster://:hunter2@localhost/1", None),
            ("redis+cluster://:hunter2@", None),
            ("redis+something://:hunter2@localhost", None),
        ] {
            let error = Servers::of(url, certificates)
                .err()
                .unwrap_or_else(|| panic!("{url} is accepted"));
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{url}: {error:?}"
            );
        }
    }

    #[test]
    fn the_servers_of_a_url_have_its_user_and_a_port_each() {
        let url = Url::of("rediss", "user:p%2Fw@a,b:1,[::1],[::1]:2/shop");
        let servers = url.servers(26379).unwrap();
        let at = |info: &ConnectionInfo| {
            let ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                ..
            } = info.addr()
            else {
                panic!("{info:?}")
            };
            format!("{host} {port}")
        };
        assert_eq!(
            servers.iter().map(at).collect::<Vec<_>>(),
            ["a 26379", "b 1", "::1 26379", "::1 2"]
        );
        for server in &servers {
            let user = server.redis_settings();
            assert_eq!(
                (user.username(), user.password()),
                (Some("user"), Some("p/w"))
            );
        }
    }
}
