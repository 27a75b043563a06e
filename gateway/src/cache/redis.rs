//! Answers that replicas share. Promise: a Redis that is slow, down, full, or says what is not so
//! costs a call a few milliseconds at most, and mostly none: after a few failures no call goes near
//! it until a probe has had an answer. Starting without it is starting.
//!
//! What calls ask for at once goes out together: a connection writes all that has been handed to it
//! in one piece, and so does each of a cluster's. No call waits for others' answers, as it would
//! with MGET.
//!
//! Of several replicas that make one answer at the same time the first leaves a note beside its
//! key, which ends by itself: one that dies over it holds the others up no longer than that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use redis::{Cmd, FromRedisValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};

use super::{
    Cache, Certificates, Codec, Entry, Key, Tier,
    servers::{Connection, RedisError, Servers, is_about_the_value},
};
use crate::{meter, tasks::Tasks};

/// What a failure adds to a connection's account and an answer takes off it, and the balance at
/// which it is left alone: 5 failures in a row, or more than 1 in 11 for long.
const FAILURE: u32 = 10;
const ANSWER: u32 = 1;
const ENOUGH: u32 = 50;
/// Time to find the servers, for a connection, and for the probe over it.
const CONNECT: Duration = Duration::from_secs(2);
/// Time for a batch of writes, which no call waits for.
const WRITE: Duration = Duration::from_millis(250);
/// Pauses between probes.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// A connection that has lasted this long is begun again after the shortest pause.
const LASTING: Duration = Duration::from_secs(10);
/// How long nothing is written where Redis has refused to: it is full, read-only, or not ours to
/// write to.
const REFUSED: Duration = Duration::from_secs(1);
/// Writes that may wait; more are dropped.
const WAITING: usize = 1 << 10;
/// Writes sent at once.
const BATCH: usize = 64;

/// Answers in Redis.
#[derive(Debug)]
pub struct Redis {
    shared: Arc<Shared>,
    writes: mpsc::Sender<Write>,
    _tasks: Tasks,
}

struct Shared {
    codec: Codec,
    timeout: Duration,
    /// None while Redis is left alone.
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
struct Link {
    connection: Connection,
    since: Instant,
    /// See [`FAILURE`].
    account: AtomicU32,
    /// Until when nothing is written, milliseconds from `since`.
    refuses_until: AtomicU64,
    broken: Notify,
}

struct Write {
    key: Key,
    value: Vec<u8>,
    lifetime: Duration,
}

impl Redis {
    /// A cache that connects by itself, now or when it can. `certificates` are read before each
    /// connection.
    ///
    /// # Errors
    /// Where the URL or a certificate is none.
    pub fn new(
        url: SecretString,
        certificates: Certificates,
        codec: Codec,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let servers = move || Servers::of(url.expose_secret(), certificates.read()?.as_ref());
        servers()?;
        let shared = Arc::new(Shared {
            codec,
            timeout,
            link: ArcSwapOption::empty(),
        });
        let (writes, queue) = mpsc::channel(WAITING);
        let mut tasks = Tasks::default();
        tasks.spawn(keep_connected(servers, shared.clone()));
        tasks.spawn(write(shared.clone(), queue));
        Ok(Self {
            shared,
            writes,
            _tasks: tasks,
        })
    }

    /// What Redis says to a command that is about no answer; none where it is left alone, or says
    /// nothing in time.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
    ) -> Option<T> {
        let Some(link) = self.shared.link.load_full() else {
            meter::redis(operation, "left-alone");
            return None;
        };
        let mut connection = link.connection.clone();
        match timeout(self.shared.timeout, command.query_async(&mut connection)).await {
            Ok(Ok(said)) => {
                link.answered();
                Some(said)
            }
            // Full, read-only: reads may go on.
            Ok(Err(error)) => {
                meter::redis(operation, "error");
                tracing::debug!(%error, operation, "redis refused");
                if error.is_unrecoverable_error() {
                    self.shared.leave_alone(&link);
                }
                None
            }
            Err(_) => {
                meter::redis(operation, "timeout");
                self.shared.failed(&link, false);
                None
            }
        }
    }

    async fn read(&self, key: &Key) -> Option<Arc<Entry>> {
        let Some(link) = self.shared.link.load_full() else {
            meter::redis("get", "left-alone");
            return None;
        };
        let mut connection = link.connection.clone();
        let mut get = redis::cmd("GET");
        let reading = get
            .arg(key.to_string())
            .query_async::<Option<Vec<u8>>>(&mut connection);
        let value = match timeout(self.shared.timeout, reading).await {
            Err(_) => {
                meter::redis("get", "timeout");
                self.shared.failed(&link, false);
                return None;
            }
            Ok(Err(error)) if is_about_the_value(&error) => {
                meter::redis("get", "foreign");
                None
            }
            Ok(Err(error)) => {
                meter::redis("get", "error");
                tracing::debug!(%error, "redis refused a read");
                self.shared.failed(&link, error.is_unrecoverable_error());
                return None;
            }
            Ok(Ok(value)) => value,
        };
        link.answered();
        let Some(entry) = self.shared.codec.decode(key, Bytes::from(value?)) else {
            meter::redis("get", "foreign");
            return None;
        };
        if entry.left(SystemTime::now()).is_zero() {
            meter::redis("get", "old");
            return None;
        }
        Some(Arc::new(entry))
    }
}

impl Cache for Redis {
    fn tier(&self) -> Tier {
        Tier::Redis
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Arc<Entry>>> {
        self.read(key).boxed()
    }

    fn put(&self, key: Key, entry: Arc<Entry>, lifetime: Duration) -> BoxFuture<'_, ()> {
        let takes_writes = self
            .shared
            .link
            .load()
            .as_ref()
            .is_some_and(|link| link.takes_writes());
        let write = || Write {
            key,
            value: self.shared.codec.encode(&key, &entry),
            lifetime,
        };
        if !takes_writes || self.writes.try_send(write()).is_err() {
            meter::redis("set", "dropped");
        }
        std::future::ready(()).boxed()
    }

    fn lead<'a>(&'a self, key: &'a Key, at_most: Duration) -> BoxFuture<'a, bool> {
        let milliseconds = u64::try_from(at_most.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let mut set = redis::cmd("SET");
        set.arg(format!("{key}:making"))
            .arg("")
            .arg("NX")
            .arg("PX")
            .arg(milliseconds);
        async move {
            self.ask("lead", &set)
                .await
                .is_none_or(|set: Option<String>| set.is_some())
        }
        .boxed()
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

    fn refuses_writes(&self) {
        let until = self.since.elapsed() + REFUSED;
        self.refuses_until
            .store(until.as_millis() as u64, Ordering::Relaxed);
    }

    fn answered(&self) {
        if self.account.load(Ordering::Relaxed) > 0 {
            let less = |account: u32| Some(account.saturating_sub(ANSWER));
            let _ = self
                .account
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

impl Shared {
    fn failed(&self, link: &Arc<Link>, is_broken: bool) {
        let account = link.account.fetch_add(FAILURE, Ordering::Relaxed) + FAILURE;
        if is_broken || account >= ENOUGH {
            self.leave_alone(link);
        }
    }

    /// From here on no call uses the connection.
    fn leave_alone(&self, link: &Arc<Link>) {
        let current = self.link.load();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            self.link.compare_and_swap(&current, None);
        }
        link.broken.notify_one();
    }
}

async fn keep_connected(servers: impl Fn() -> Result<Servers, RedisError>, shared: Arc<Shared>) {
    let [mut pause, longest] = PAUSES;
    let mut told = false;
    loop {
        match timeout(CONNECT, connect(&servers)).await {
            Ok(Ok(connection)) => {
                tracing::info!("redis answers");
                meter::redis_up(true);
                let link = Arc::new(Link::new(connection));
                shared.link.store(Some(link.clone()));
                link.broken.notified().await;
                meter::redis_up(false);
                tracing::warn!("redis fails; answers are not shared until it is back");
                told = true;
                if link.since.elapsed() >= LASTING {
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
                    meter::redis_up(false);
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

async fn write(shared: Arc<Shared>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let Some(link) = shared.link.load_full() else {
            batch.clear();
            continue;
        };
        // One command each, for in a cluster they are for several servers; they go out together all
        // the same.
        let writes = batch.drain(..).map(
            |Write {
                 key,
                 value,
                 lifetime,
             }| {
                let mut connection = link.connection.clone();
                async move {
                    let milliseconds = u64::try_from(lifetime.as_millis())
                        .unwrap_or(u64::MAX)
                        .max(1);
                    let mut set = redis::cmd("SET");
                    set.arg(key.to_string())
                        .arg(value)
                        .arg("PX")
                        .arg(milliseconds)
                        .exec_async(&mut connection)
                        .await
                }
            },
        );
        let Ok(written) = timeout(WRITE, join_all(writes)).await else {
            meter::redis("set", "timeout");
            shared.failed(&link, false);
            continue;
        };
        for error in written.into_iter().filter_map(Result::err) {
            meter::redis("set", "error");
            tracing::debug!(%error, "redis refused a write");
            // A primary that has become a replica behind its name: another may have that name now.
            let is_demoted = error.code() == Some("READONLY") && link.since.elapsed() >= LASTING;
            if is_demoted || error.is_unrecoverable_error() {
                shared.leave_alone(&link);
            }
            link.refuses_writes(); // reads may go on
        }
    }
}
