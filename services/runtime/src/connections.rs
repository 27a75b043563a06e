//! Connections of a listener. Promise: their number is bounded. A connection that does not say
//! within seconds what it wants, does not answer a ping, or resets too many calls is closed, and
//! none keeps another waiting.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};
use tonic::{body::Body, service::Routes};
use tower::{Layer, ServiceExt};

use crate::{
    call::CallLayer,
    heartbeat::Heartbeat,
    http2_io::{Http2Io, LINGER, PREFACE},
    metrics::{self, Counter},
    resets::{ResetLimit, Resets},
    tls::Tls,
    write_coalescing::Polls,
};

/// Time for a handshake, then for as many bytes as tell the protocol, and for the head of a request
/// of HTTP/1.1.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a connection of HTTP/2 is asked whether it is alive, and how long it has to say so.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(20)];
/// Calls at once over one connection of HTTP/2; the others wait at their caller's.
const STREAMS: u32 = 1024;
/// What may be under way of one request or answer that is not read yet, bytes.
pub const WINDOW: u32 = 64 << 10;
/// The same of all over one connection: as much as all calls over it can have, so that those that
/// wait to be read keep no other waiting.
pub const WINDOWS: u32 = WINDOW * STREAMS;
/// Resets that are read from a connection before the calls read so far are handed over.
const RESETS_IN_POLL: u32 = STREAMS;
/// Bound on calls that were reset and that h2 has not handed over yet. A poll of the connection
/// ends long before that, so that it is [`ResetLimit`] alone that ends connections.
const RESETS_PENDING: usize = 4 * STREAMS as usize;
/// What is held of a head or a body of HTTP/1.1, bytes.
const HELD: usize = 64 << 10;
/// Fields of a head of HTTP/1.1. Those of HTTP/2 count 32 bytes more each, and so are fewer than
/// 512.
const FIELDS: usize = 100;
/// Pause after the system gave no connection, for example because too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

static REFUSED: LazyLock<Counter> = LazyLock::new(|| {
    metrics::register(
        "shopkeeper_connections_refused",
        "connections closed as they came, because of too many others",
        Counter::default(),
    )
});

static TOO_MANY_RESETS: LazyLock<Counter> = LazyLock::new(|| {
    metrics::register(
        "shopkeeper_connections_too_many_resets",
        "connections closed because too many of their calls were reset",
        Counter::default(),
    )
});

/// What a connection of HTTP/2 may ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Largest head of a request, bytes.
    head: u32,
    /// Calls that may be reset.
    resets: ResetLimit,
}

impl Allowed {
    /// Of a service. Over one connection a gateway sends the calls of many callers, and cancels
    /// them as its callers do.
    pub(crate) const BEHIND: Self = Self {
        head: 16 << 10,
        resets: ResetLimit::of_width(STREAMS).times(8),
    };
    /// Of a process that any caller reaches. Heads are smaller here, since they go on to a service
    /// with a few fields more.
    pub(crate) const IN_FRONT: Self = Self {
        head: 12 << 10,
        resets: ResetLimit::of_width(STREAMS),
    };
}

/// How many connections, and for how long.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ConnectionArgs {
    /// Connections at once; others are closed as they come
    #[arg(
        long,
        env = "SHOPKEEPER_MAX_CONNECTIONS",
        value_name = "N",
        default_value_t = ConnectionArgs::default().max_connections,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections: u32,
    /// Age, give or take a tenth, at which callers are told to connect again, so that they spread
    /// over replicas that are new; calls in flight then have the drain timeout. Without it
    /// connections grow as old as they like
    #[arg(
        long,
        env = "SHOPKEEPER_MAX_CONNECTION_AGE",
        value_name = "TIME",
        value_parser = humantime::parse_duration
    )]
    max_connection_age: Option<Duration>,
}

impl Default for ConnectionArgs {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connection_age: None,
        }
    }
}

/// What every connection is served with.
#[derive(Debug)]
pub(crate) struct Connections {
    args: ConnectionArgs,
    http: Builder<TokioExecutor>,
    routes: Routes,
    tls: Option<Tls>,
    grace: Duration,
    resets: ResetLimit,
    heartbeat: Arc<Heartbeat>,
}

impl Connections {
    /// Connections over which these routes are called. One that is old has so much `grace` to end.
    pub(crate) fn new(
        args: ConnectionArgs,
        allowed: Allowed,
        routes: Routes,
        tls: Option<Tls>,
        grace: Duration,
    ) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        let [every, within] = KEEPALIVE;
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(every)
            .keep_alive_timeout(within)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOWS)
            .max_pending_accept_reset_streams(RESETS_PENDING)
            .max_local_error_reset_streams(None) // counted per time, see `Resets::turned_down`
            .max_header_list_size(allowed.head);
        // Browsers, curl and probes; gRPC itself is HTTP/2.
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_headers(FIELDS)
            .max_buf_size(HELD);
        Self {
            args,
            http,
            routes: routes.prepare(),
            tls,
            grace,
            resets: allowed.resets,
            heartbeat: Arc::new(Heartbeat::new(Instant::now())),
        }
    }

    /// Takes connections until it is told to stop, and ends when the last of them has.
    pub(crate) async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let most = usize::try_from(self.args.max_connections)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        let (connections, places) = (Arc::new(self), Arc::new(Semaphore::new(most)));
        let (mut open, mut beating) = (JoinSet::new(), JoinSet::new());
        let heartbeat = connections.heartbeat.clone();
        beating.spawn(async move { heartbeat.run().await });
        loop {
            let taken = tokio::select! {
                taken = listener.accept() => taken,
                _ = open.join_next(), if !open.is_empty() => continue,
                () = told(stop.clone()) => break,
            };
            match (taken, places.clone().try_acquire_owned()) {
                (Err(error), _) => {
                    tracing::debug!(%error, "no connection could be taken");
                    sleep(PAUSE).await;
                }
                (Ok(_), Err(_)) => {
                    REFUSED.inc();
                }
                (Ok((stream, peer)), Ok(place)) => {
                    let (connections, stop) = (connections.clone(), stop.clone());
                    open.spawn(async move {
                        if let Err(error) = connections.serve_one(stream, peer, stop).await {
                            tracing::debug!("a connection failed: {error:#}");
                        }
                        drop(place);
                    });
                }
            }
        }
        // A caller that connects now is refused by the system, and not kept waiting.
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    async fn serve_one(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.speak(stream, peer, stop).await,
            Some(tls) => {
                let shaken = timeout(PATIENCE, tls.acceptor().accept(stream)).await;
                self.speak(
                    shaken
                        .context("no handshake in time")?
                        .context("handshake")?,
                    peer,
                    stop,
                )
                .await
            }
        }
    }

    async fn speak<IO>(
        &self,
        stream: IO,
        peer: SocketAddr,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let calls = CallLayer
            .layer(self.routes.clone())
            .map_request(|request: Request<Incoming>| request.map(Body::new));
        let (polls, resets) = (
            Polls::default(),
            Resets::new(self.resets, self.heartbeat.clone()),
        );
        let counted = resets.clone();
        let watched = service_fn(move |request: Request<Incoming>| {
            let call = counted.begin_call(request.headers());
            call.watch(calls.clone().oneshot(request))
        });
        let stream = Http2Io::new(stream, &polls, resets.clone(), RESETS_IN_POLL);
        let stream = TokioIo::new(Prompt::new(stream));
        let connection = self.http.serve_connection(stream, watched);
        let served = async {
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = polls.clone().count(connection.as_mut()) => ended,
                () = told(stop) => {
                    connection.as_mut().graceful_shutdown();
                    polls.count(connection).await
                }
                () = old(self.args.max_connection_age, peer) => {
                    connection.as_mut().graceful_shutdown();
                    timeout(self.grace, polls.count(connection))
                        .await
                        .context("old, and calls were still in flight")?
                }
            };
            ended.map_err(|error| anyhow!(error))
        };
        tokio::pin!(served);
        tokio::select! {
            ended = &mut served => ended,
            () = resets.exhausted() => {
                TOO_MANY_RESETS.inc();
                // The stream says so to the caller while the connection is still served.
                let _ = timeout(LINGER, served).await;
                bail!("too many of its calls were reset")
            }
        }
    }
}

/// Resolves when it is time to stop.
async fn told(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which counts as the signal to stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Resolves when a connection is old. What comes at once does not end at once: ports differ.
async fn old(age: Option<Duration>, peer: SocketAddr) {
    match age {
        Some(age) => sleep(age.mul_f64(0.9 + 0.2 * f64::from(peer.port() % 256) / 255.0)).await,
        None => std::future::pending().await,
    }
}

/// A stream whose other side has to say in time which protocol it speaks.
struct Prompt<IO> {
    stream: IO,
    heard: usize,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<IO> Prompt<IO> {
    fn new(stream: IO) -> Self {
        Self {
            stream,
            heard: 0,
            patience: Some(Box::pin(sleep(PATIENCE))),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prompt<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self
            .patience
            .as_mut()
            .is_some_and(|patience| patience.as_mut().poll(context).is_ready())
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no protocol in time",
            )));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.patience.is_some() {
            self.heard += buffer.filled().len() - before;
            self.patience = self.patience.take().filter(|_| self.heard < PREFACE.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prompt<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
