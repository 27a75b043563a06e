//! Answers that replicas share. Promise: a Redis that is slow, down, full, or says what is not so costs a call a few
//! milliseconds at most, and mostly none: after a few failures in a row no call goes near it until a probe has had an
//! answer. Starting without it is starting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, aio::MultiplexedConnection};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{Cache, Codec, Entry, Key, Tier};
use crate::{meter, tasks::Tasks};

/// Failures in a row after which Redis is left alone.
const FAILURES: u32 = 5;
/// Time for a connection and the probe over it.
const CONNECT: Duration = Duration::from_secs(1);
/// Time for a batch of writes, which no call waits for.
const WRITE: Duration = Duration::from_millis(250);
/// Pauses between probes.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// Writes that may wait; more are dropped.
const WAITING: usize = 1 << 10;
/// Writes sent at once.
const BATCH: usize = 64;
/// Never written: reading it shows that reading works.
const PROBE: &str = "sk:1:probe";

/// Why there can be no cache in Redis.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The URL is none of Redis. It is not repeated here: it may hold a password.
    #[error("the URL of Redis is none; redis://localhost:6379 is one")]
    Url,
}

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
        f.debug_struct("Shared").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A connection, and how it has been doing.
struct Link {
    connection: MultiplexedConnection,
    failures: AtomicU32,
    broken: Notify,
}

struct Write {
    key: Key,
    value: Vec<u8>,
    lifetime: Duration,
}

impl Redis {
    /// A cache that connects by itself, now or when it can.
    ///
    /// # Errors
    /// Where the URL is none.
    pub fn new(url: &SecretString, codec: Codec, timeout: Duration) -> Result<Self, RedisError> {
        let client = Client::open(url.expose_secret()).map_err(|_| RedisError::Url)?;
        let shared = Arc::new(Shared { codec, timeout, link: ArcSwapOption::empty() });
        let (writes, queue) = mpsc::channel(WAITING);
        let mut tasks = Tasks::default();
        tasks.spawn(keep_connected(client, shared.clone()));
        tasks.spawn(write(shared.clone(), queue));
        Ok(Self { shared, writes, _tasks: tasks })
    }

    /// What Redis says to a command that is about no answer; none where it is left alone, or says nothing in time.
    pub(crate) async fn ask<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Option<T> {
        let Some(link) = self.shared.link.load_full() else {
            meter::redis(operation, "left-alone");
            return None;
        };
        let mut connection = link.connection.clone();
        match timeout(self.shared.timeout, command.query_async(&mut connection)).await {
            Ok(Ok(said)) => {
                link.failures.store(0, Ordering::Relaxed);
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
        let reading = get.arg(key.to_string()).query_async::<Option<Vec<u8>>>(&mut connection);
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
        link.failures.store(0, Ordering::Relaxed);
        let entry = self.shared.codec.decode(key, Bytes::from(value?));
        if entry.is_none() {
            meter::redis("get", "foreign");
        }
        entry.map(Arc::new)
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
        let value = self.shared.codec.encode(&key, &entry);
        let is_left_alone = self.shared.link.load().is_none();
        if is_left_alone || self.writes.try_send(Write { key, value, lifetime }).is_err() {
            meter::redis("set", "dropped");
        }
        std::future::ready(()).boxed()
    }
}

impl Shared {
    fn failed(&self, link: &Arc<Link>, is_broken: bool) {
        let failures = link.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if is_broken || failures >= FAILURES {
            self.leave_alone(link);
        }
    }

    /// From here on no call uses the connection.
    fn leave_alone(&self, link: &Arc<Link>) {
        let current = self.link.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            self.link.compare_and_swap(&current, None);
        }
        link.broken.notify_one();
    }
}

async fn keep_connected(client: Client, shared: Arc<Shared>) {
    let [mut pause, longest] = PAUSES;
    let mut told = false;
    loop {
        match timeout(CONNECT, connect(&client)).await {
            Ok(Ok(connection)) => {
                tracing::info!("redis answers");
                pause = PAUSES[0];
                meter::redis_up(true);
                let link = Arc::new(Link { connection, failures: AtomicU32::new(0), broken: Notify::new() });
                shared.link.store(Some(link.clone()));
                link.broken.notified().await;
                meter::redis_up(false);
                tracing::warn!("redis fails; answers are not shared until it is back");
                told = true;
            }
            failed => {
                if !told {
                    let problem = match failed {
                        Ok(Err(error)) => error.to_string(),
                        Ok(Ok(_)) | Err(_) => "no answer in time".to_owned(),
                    };
                    tracing::warn!(problem, "redis does not answer; answers are not shared until it does");
                    told = true;
                    meter::redis_up(false);
                }
                pause = (pause * 2).min(longest);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn connect(client: &Client) -> redis::RedisResult<MultiplexedConnection> {
    // The timeouts are ours: whoever waits says for how long.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(WAITING);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    match redis::cmd("GET").arg(PROBE).query_async::<Option<Vec<u8>>>(&mut connection).await {
        Err(error) if !is_about_the_value(&error) => Err(error),
        Ok(_) | Err(_) => Ok(connection),
    }
}

async fn write(shared: Arc<Shared>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let Some(link) = shared.link.load_full() else {
            batch.clear();
            continue;
        };
        let mut pipeline = Pipeline::with_capacity(batch.len());
        for Write { key, value, lifetime } in batch.drain(..) {
            let milliseconds = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).max(1);
            pipeline.cmd("SET").arg(key.to_string()).arg(value).arg("PX").arg(milliseconds).ignore();
        }
        let mut connection = link.connection.clone();
        match timeout(WRITE, pipeline.query_async::<()>(&mut connection)).await {
            Ok(Ok(())) => {}
            // Full, read-only: reads may go on.
            Ok(Err(error)) => {
                meter::redis("set", "error");
                tracing::debug!(%error, "redis refused a write");
                if error.is_unrecoverable_error() {
                    shared.leave_alone(&link);
                }
            }
            Err(_) => {
                meter::redis("set", "timeout");
                shared.failed(&link, false);
            }
        }
    }
}

/// Whether Redis works, and what it has under the key is not ours.
fn is_about_the_value(error: &redis::RedisError) -> bool {
    error.code() == Some("WRONGTYPE") || matches!(error.kind(), ErrorKind::UnexpectedReturnType)
}
