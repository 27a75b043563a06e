//! Answers that replicas share. Promise: a Redis that is slow, down, full, or holds what is not an
//! answer costs a call a few milliseconds at most (see [`Client`]).
//!
//! Of several replicas that make one answer at the same time the first leaves a note beside its
//! key, which ends by itself: one that dies over it holds the others up no longer than that.

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

/// Time for a batch of writes, which no call waits for.
const WRITE: Duration = Duration::from_millis(250);
/// Writes that may wait; more are dropped.
const WAITING: usize = 1 << 10;
/// Writes sent at once.
const BATCH: usize = 64;

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
        let (writes, queue) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(client.clone(), queue));
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
            self.client
                .ask("lead", &set)
                .await
                .is_none_or(|set: Option<String>| set.is_some())
        }
        .boxed()
    }
}

async fn write(client: Arc<Client>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let Some(link) = client.link_for_writes() else {
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
            metrics::redis("set", "timeout");
            client.failed(&link, false);
            continue;
        };
        for error in written.into_iter().filter_map(Result::err) {
            metrics::redis("set", "error");
            tracing::debug!(%error, "redis refused a write");
            // A primary that has become a replica behind its name: another may have that name now.
            let is_demoted = error.code() == Some("READONLY") && link.has_lasted();
            if is_demoted || error.is_unrecoverable_error() {
                client.abandon(&link);
            }
            link.refuses_writes(); // reads may go on
        }
    }
}
