//! A connection to Redis that costs a call a few milliseconds at most, and mostly nothing: after a
//! few failures the circuit breaker opens, and no call uses the connection until a probe over a new
//! one has had an answer. A Redis that is down at the start is no obstacle.
//!
//! Commands of calls at the same time go out together: a connection writes in one piece whatever
//! has been handed to it, and so does each one of a cluster. No call waits for the answers of
//! others, as it would with MGET.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    certificates::Certificates,
    servers::{Connection, RedisError, Servers},
};
use crate::{backoff::Backoff, metrics};

/// Numbers of the client.
#[derive(Debug, Clone)]
struct Config {
    /// Longest that a call waits for an answer.
    timeout: Duration,
    /// The circuit breaker opens at `max_failure_score`. A failure adds `failure_weight` to the
    /// score, and an answer takes 1 off it: 5 failures in a row, or more than 1 in 11 for long.
    failure_weight: u32,
    max_failure_score: u32,
    /// Time to find the servers, to connect, and for a probe.
    connect_timeout: Duration,
    /// Pauses between probes.
    backoff: Backoff,
    /// After a connection that has lasted this long, pauses begin with the first again.
    min_lifetime: Duration,
    /// How long nothing is written after Redis has refused a write: it is full, read-only, or its
    /// user may not write.
    write_refusal: Duration,
}

impl Config {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            failure_weight: 10,
            max_failure_score: 50,
            connect_timeout: Duration::from_secs(2),
            backoff: Backoff {
                first: Duration::from_millis(100),
                longest: Duration::from_secs(1),
            },
            min_lifetime: Duration::from_secs(10),
            write_refusal: Duration::from_secs(1),
        }
    }
}

/// A client of one Redis.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    config: Config,
    /// None while the circuit breaker is open.
    link: ArcSwapOption<Link>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A connection with its circuit breaker.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    config: Config,
    since: Instant,
    /// See [`Config::max_failure_score`].
    failure_score: AtomicU32,
    /// Until when nothing is written, milliseconds from `since`.
    refuses_until_ms: AtomicU64,
    abandoned: Notify,
}

impl Client {
    /// A client that connects by itself, now or when it can. `certificates` are read before each
    /// connection; no answer is waited for longer than `timeout`. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the URL or a certificate cannot be used.
    pub fn new(
        url: SecretString,
        certificates: Certificates,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let servers = move || Servers::of(url.expose_secret(), certificates.read()?.as_ref());
        servers()?;
        let shared = Arc::new(Shared {
            config: Config::new(timeout),
            link: ArcSwapOption::empty(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_connected(servers, shared.clone()));
        Ok(Self {
            shared,
            _tasks: tasks,
        })
    }

    /// What Redis answers to a command that is not about a cached answer; none if the circuit
    /// breaker is open, or no answer comes in time.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
    ) -> Option<T> {
        let link = self.link(operation)?;
        match self.send(&link, operation, command).await? {
            Ok(answer) => {
                link.answered();
                Some(answer)
            }
            // Redis may be full or read-only: reads go on.
            Err(error) => {
                metrics::redis(operation, "error");
                tracing::debug!(%error, operation, "redis refused");
                if error.is_unrecoverable_error() {
                    self.abandon(&link);
                }
                None
            }
        }
    }

    /// The connection, for this operation; none while the circuit breaker is open.
    pub(crate) fn link(&self, operation: &'static str) -> Option<Arc<Link>> {
        let link = self.shared.link.load_full();
        if link.is_none() {
            metrics::redis(operation, "left-alone");
        }
        link
    }

    /// The answer to a command; none if it does not come in time.
    pub(crate) async fn send<T: FromRedisValue>(
        &self,
        link: &Arc<Link>,
        operation: &'static str,
        command: &Cmd,
    ) -> Option<redis::RedisResult<T>> {
        let mut connection = link.connection.clone();
        let answer = timeout(
            self.shared.config.timeout,
            command.query_async(&mut connection),
        )
        .await;
        if answer.is_err() {
            metrics::redis(operation, "timeout");
            self.failed(link, false);
        }
        answer.ok()
    }

    /// Whether writes are accepted now.
    pub(crate) fn takes_writes(&self) -> bool {
        let link = self.shared.link.load();
        link.as_ref().is_some_and(|link| link.takes_writes())
    }

    /// The connection for writes; none while the circuit breaker is open.
    pub(crate) fn link_for_writes(&self) -> Option<Arc<Link>> {
        self.shared.link.load_full()
    }

    /// A command has failed.
    pub(crate) fn failed(&self, link: &Arc<Link>, is_broken: bool) {
        let config = &self.shared.config;
        let weight = config.failure_weight;
        let score = link.failure_score.fetch_add(weight, Ordering::Relaxed) + weight;
        if is_broken || score >= config.max_failure_score {
            self.abandon(link);
        }
    }

    /// Opens the circuit breaker: from now on no call uses the connection.
    pub(crate) fn abandon(&self, link: &Arc<Link>) {
        let current = self.shared.link.load();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            self.shared.link.compare_and_swap(&current, None);
        }
        link.abandoned.notify_one();
    }
}

impl Link {
    fn new(connection: Connection, config: Config) -> Self {
        Self {
            connection,
            config,
            since: Instant::now(),
            failure_score: AtomicU32::new(0),
            refuses_until_ms: AtomicU64::new(0),
            abandoned: Notify::new(),
        }
    }

    fn takes_writes(&self) -> bool {
        self.since.elapsed().as_millis() as u64 >= self.refuses_until_ms.load(Ordering::Relaxed)
    }

    /// Redis has refused a write: none is sent for a while.
    pub(crate) fn refuse_writes(&self) {
        let until = self.since.elapsed() + self.config.write_refusal;
        self.refuses_until_ms
            .store(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the connection is so old that a new one may do better at once.
    pub(crate) fn has_lasted(&self) -> bool {
        self.since.elapsed() >= self.config.min_lifetime
    }

    /// A command has had an answer.
    pub(crate) fn answered(&self) {
        // Mostly the score is 0: then a read is all that threads share.
        if self.failure_score.load(Ordering::Relaxed) > 0 {
            let less = |score: u32| Some(score.saturating_sub(1));
            let _ = self
                .failure_score
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Connects, and connects again once the connection is abandoned. Does not end.
async fn keep_connected(servers: impl Fn() -> Result<Servers, RedisError>, shared: Arc<Shared>) {
    let config = &shared.config;
    let mut pauses = config.backoff.pauses();
    let mut logged = false;
    loop {
        match timeout(config.connect_timeout, connect(&servers)).await {
            Ok(Ok(connection)) => {
                tracing::info!("redis answers");
                metrics::redis_up(true);
                let link = Arc::new(Link::new(connection, config.clone()));
                shared.link.store(Some(link.clone()));
                link.abandoned.notified().await;
                metrics::redis_up(false);
                tracing::warn!("redis fails; answers are not shared until it is back");
                logged = true;
                if link.has_lasted() {
                    pauses.reset();
                }
            }
            failed => {
                if !logged {
                    let problem = match failed {
                        Ok(Err(error)) => format!("{:#}", anyhow::Error::new(error)),
                        Ok(Ok(_)) | Err(_) => "no answer in time".to_owned(),
                    };
                    tracing::warn!(
                        problem,
                        "redis does not answer; answers are not shared until it does"
                    );
                    logged = true;
                    metrics::redis_up(false);
                }
            }
        }
        tokio::time::sleep(pauses.next()).await;
    }
}

async fn connect(
    servers: &impl Fn() -> Result<Servers, RedisError>,
) -> Result<Connection, RedisError> {
    let mut connection = servers()?.connect().await.map_err(RedisError::Client)?;
    connection.probe().await.map_err(RedisError::Client)?;
    Ok(connection)
}
