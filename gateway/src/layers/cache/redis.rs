//! Answers that replicas share. Promise: a Redis that is slow, down, full, or holds what is not an
//! answer costs a call a few milliseconds at most (see [`Client`]). No call waits for a write.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{Cache, Codec, Entry, Key, Tier};
use crate::{
    metrics,
    redis::{Client, is_about_the_value},
};

/// Numbers of the writes.
#[derive(Debug, Clone)]
struct Config {
    /// Time for a batch of writes.
    write_timeout: Duration,
    /// Writes that may wait; further ones are dropped.
    max_waiting: usize,
    /// Writes that are sent at once.
    batch: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            write_timeout: Duration::from_millis(250),
            max_waiting: 1 << 10,
            batch: 64,
        }
    }
}

/// Answers in Redis.
#[derive(Debug)]
pub struct Redis {
    client: Arc<Client>,
    codec: Codec,
    writes: mpsc::Sender<Write>,
    _tasks: JoinSet<()>,
}

struct Write {
    key: Key,
    value: Vec<u8>,
    lifetime: Duration,
}

impl Redis {
    /// Answers that are read and written through this client. Must be called within a tokio
    /// runtime.
    pub fn new(client: Arc<Client>, codec: Codec) -> Self {
        let config = Config::default();
        let (writes, queue) = mpsc::channel(config.max_waiting);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(client.clone(), queue, config));
        Self {
            client,
            codec,
            writes,
            _tasks: tasks,
        }
    }

    async fn read(&self, key: &Key) -> Option<Arc<Entry>> {
        let link = self.client.link("get")?;
        let mut get = redis::cmd("GET");
        get.arg(key.to_string());
        let read = self.client.send(&link, "get", &get).await?;
        let value: Option<Vec<u8>> = match read {
            Ok(value) => value,
            Err(error) if is_about_the_value(&error) => {
                metrics::redis("get", "foreign");
                None
            }
            Err(error) => {
                metrics::redis("get", "error");
                tracing::debug!(%error, "redis refused a read");
                self.client.failed(&link, error.is_unrecoverable_error());
                return None;
            }
        };
        link.answered();
        let Some(entry) = self.codec.decode(key, Bytes::from(value?)) else {
            metrics::redis("get", "foreign");
            return None;
        };
        if entry.left(SystemTime::now()).is_zero() {
            metrics::redis("get", "old");
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
        let write = || Write {
            key,
            value: self.codec.encode(&key, &entry),
            lifetime,
        };
        if !self.client.takes_writes() || self.writes.try_send(write()).is_err() {
            metrics::redis("set", "dropped");
        }
        std::future::ready(()).boxed()
    }
}

/// Writes answers as they come. Does not end.
async fn write(client: Arc<Client>, mut queue: mpsc::Receiver<Write>, config: Config) {
    let mut batch = Vec::with_capacity(config.batch);
    while queue.recv_many(&mut batch, config.batch).await > 0 {
        let Some(link) = client.link_for_writes() else {
            batch.clear();
            continue;
        };
        // A command for each answer: in a cluster they are for several servers. They go out
        // together all the same (write coalescing in the connection).
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
        let Ok(written) = timeout(config.write_timeout, join_all(writes)).await else {
            metrics::redis("set", "timeout");
            client.failed(&link, false);
            continue;
        };
        for error in written.into_iter().filter_map(Result::err) {
            metrics::redis("set", "error");
            tracing::debug!(%error, "redis refused a write");
            // A primary that has become a replica: its name may lead to another server by now.
            let is_demoted = error.code() == Some("READONLY") && link.has_lasted();
            if is_demoted || error.is_unrecoverable_error() {
                client.abandon(&link);
            }
            link.refuse_writes(); // reads may go on
        }
    }
}
