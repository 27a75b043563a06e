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
    Certificates,
    servers::{Connection, RedisError, Servers},
};
use crate::metrics;

/// What a failure adds to a connection's account and an answer takes off it, and the balance at
/// which the circuit breaker opens: 5 failures in a row, or more than 1 in 11 for long.
const FAILURE: u32 = 10;
const ANSWER: u32 = 1;
const ENOUGH: u32 = 50;
/// Time to find the servers, for a connection, and for the probe over it.
const CONNECT: Duration = Duration::from_secs(2);
/// Pauses between probes.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// A connection that has lasted this long is begun again after the shortest pause.
const LASTING: Duration = Duration::from_secs(10);
/// How long nothing is written after Redis has refused to: it is full, read-only, or not ours to
/// write to.
const REFUSED: Duration = Duration::from_secs(1);

/// A client of one Redis.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    timeout: Duration,
    /// None while the circuit breaker is open.
    link: ArcSwapOption<Link>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A connection, and how it has been doing.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    since: Instant,
    /// See [`FAILURE`].
    account: AtomicU32,
    /// Until when nothing is written, milliseconds from `since`.
    refuses_until: AtomicU64,
    broken: Notify,
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
            timeout,
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
            Ok(said) => {
                link.answered();
                Some(said)
            }
            // Full, read-only: reads may go on.
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
        let answer = timeout(self.shared.timeout, command.query_async(&mut connection)).await;
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
        let account = link.account.fetch_add(FAILURE, Ordering::Relaxed) + FAILURE;
        if is_broken || account >= ENOUGH {
            self.abandon(link);
        }
    }

    /// From here on no call uses the connection.
    pub(crate) fn abandon(&self, link: &Arc<Link>) {
        let current = self.shared.link.load();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            self.shared.link.compare_and_swap(&current, None);
        }
        link.broken.notify_one();
    }
}

impl Link {
    fn new(connection: Connection) -> Self {
        let (account, refuses_until) = (AtomicU32::new(0), AtomicU64::new(0));
        Self {
            connection,
            since: Instant::now(),
            account,
            refuses_until,
            broken: Notify::new(),
        }
    }

    fn takes_writes(&self) -> bool {
        self.since.elapsed().as_millis() as u64 >= self.refuses_until.load(Ordering::Relaxed)
    }

    /// Redis has refused a write: none is sent for a while.
    pub(crate) fn refuses_writes(&self) {
        let until = self.since.elapsed() + REFUSED;
        self.refuses_until
            .store(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the connection is older than a name server needs to point at a new primary.
    pub(crate) fn has_lasted(&self) -> bool {
        self.since.elapsed() >= LASTING
    }

    /// A command has had an answer.
    pub(crate) fn answered(&self) {
        if self.account.load(Ordering::Relaxed) > 0 {
            let less = |account: u32| Some(account.saturating_sub(ANSWER));
            let _ = self
                .account
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

async fn keep_connected(servers: impl Fn() -> Result<Servers, RedisError>, shared: Arc<Shared>) {
    let [mut pause, longest] = PAUSES;
    let mut told = false;
    loop {
        match timeout(CONNECT, connect(&servers)).await {
            Ok(Ok(connection)) => {
                tracing::info!("redis answers");
                metrics::redis_up(true);
                let link = Arc::new(Link::new(connection));
                shared.link.store(Some(link.clone()));
                link.broken.notified().await;
                metrics::redis_up(false);
                tracing::warn!("redis fails; answers are not shared until it is back");
                told = true;
                if link.has_lasted() {
                    pause = PAUSES[0];
                }
            }
            failed => {
                if !told {
                    let problem = match failed {
                        Ok(Err(error)) => format!("{:#}", anyhow::Error::new(error)),
                        Ok(Ok(_)) | Err(_) => "no answer in time".to_owned(),
                    };
                    tracing::warn!(
                        problem,
                        "redis does not answer; answers are not shared until it does"
                    );
                    told = true;
                    metrics::redis_up(false);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn connect(
    servers: &impl Fn() -> Result<Servers, RedisError>,
) -> Result<Connection, RedisError> {
    let mut connection = servers()?.connect().await.map_err(RedisError::Client)?;
    connection.probe().await.map_err(RedisError::Client)?;
    Ok(connection)
}
