//! Calls a service over the network. Promise: if a service cannot be reached, calls fail at once
//! after the first attempt; a response that breaks off ends with a status; a response that its
//! caller does not read holds no other one up.
//!
//! Calls use h2 itself: a caller's task writes the request and is woken by the response, without
//! the task and the channels per call that hyper's client has.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use h2::{Ping, PingPong, Reason, client::SendRequest};
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE},
};
use http_body::Body as _;
use runtime::{ClientTls, CoalescedWrites, Polls, WINDOW, WINDOWS};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;
use tonic::body::Body;
use tower::{Service, util::BoxCloneSyncService};

use crate::{
    backoff::Backoff,
    error::{BoxError, TurnedDown, Unreachable, chain},
    upstream::{
        backend::Backend,
        body::{self, ResponseBody},
        target::Target,
    },
};

/// How connections to a service are made and kept.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionConfig {
    /// Longest time for TCP, TLS and the HTTP/2 handshake together. Default: 1 s.
    pub(crate) connect_timeout: Duration,
    /// Pauses after an attempt that failed. Default: 20 to 500 ms.
    pub(crate) reconnect: Backoff,
    /// A connection that ends after this time, or after an answer, is made again at once. Default:
    /// 1 s.
    pub(crate) stable_after: Duration,
    /// Time between two pings, and for the answer to one. Default: 5 s.
    pub(crate) keepalive: Duration,
    /// Longest time for calls in flight to a replica that is gone. Default: 30 s.
    pub(crate) drain: Duration,
    /// Largest response head. Default: 16 KiB.
    pub(crate) max_head_bytes: u32,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            reconnect: Backoff {
                first: Duration::from_millis(20),
                // As long as refused callers are asked to wait.
                longest: Unreachable::RETRY_IN,
            },
            stable_after: Duration::from_secs(1),
            keepalive: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            max_head_bytes: 16 << 10,
        }
    }
}

/// A service at an address of the network, over this many connections. They are made at once and
/// made again when they break; after the last clone of the backend is dropped they last until the
/// calls in flight have ended. `tls` is for encrypted targets. Must be called within a tokio
/// runtime.
pub(crate) fn network(
    service: &str,
    target: Target,
    address: SocketAddr,
    connections: usize,
    tls: Option<ClientTls>,
) -> Backend {
    let service: Arc<str> = service.into();
    let states = (0..connections.max(1)).map(|index| {
        let (state, states) = watch::channel(State::Connecting);
        let keeper = Keeper {
            config: ConnectionConfig::default(),
            service: service.clone(),
            target: target.clone(),
            address,
            tls: tls.clone(),
            index,
        };
        tokio::spawn(keeper.run(state));
        states
    });
    let states = states.collect();
    let connections = Connections {
        service,
        target,
        states,
        next: AtomicUsize::new(0),
    };
    BoxCloneSyncService::new(Network {
        connections: Arc::new(connections),
    })
}

/// The state of a connection.
#[derive(Debug)]
enum State {
    /// It is being made; calls wait for it.
    Connecting,
    /// It accepts calls.
    Open(Open),
    /// The last attempt failed; there will be others, but no call waits for them.
    Failed(Unreachable),
    /// The backend has been dropped.
    Closed,
}

/// A connection that accepts calls.
#[derive(Debug, Clone)]
struct Open {
    sender: SendRequest<Bytes>,
    lifecycle: Arc<Lifecycle>,
}

/// What becomes of a connection. Its flags are atomics rather than a `CancellationToken`, which
/// locks: every call reads them.
#[derive(Debug, Default)]
struct Lifecycle {
    /// Whether a call over it has been answered.
    answered: AtomicBool,
    /// Whether it accepts no more calls, since the service is about to end, say. Calls in flight go
    /// on.
    closing: AtomicBool,
    /// Notified when a call finds it closing.
    found_closing: Notify,
}

impl Open {
    fn accepts_calls(&self) -> bool {
        !self.lifecycle.closing.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.lifecycle.closing.store(true, Ordering::Relaxed);
        self.lifecycle.found_closing.notify_one();
    }
}

/// Makes one connection, and makes it again when it has ended.
struct Keeper {
    config: ConnectionConfig,
    service: Arc<str>,
    target: Target,
    address: SocketAddr,
    tls: Option<ClientTls>,
    index: usize,
}

/// How a connection ended.
enum End {
    /// The backend has been dropped.
    Dropped,
    /// It worked before it broke.
    Broken,
    /// It could not be made, or broke at once.
    Failed(String),
}

impl Keeper {
    async fn run(self, state: watch::Sender<State>) {
        let Self { service, index, .. } = &self;
        let mut pauses = self.config.reconnect.pauses();
        let mut is_reported = false;
        loop {
            let problem = match self.connection(&state).await {
                End::Dropped => return,
                End::Broken => {
                    pauses.reset();
                    is_reported = false;
                    state.send_replace(State::Connecting);
                    tracing::debug!(service = &**service, connection = index, "reconnecting");
                    continue;
                }
                End::Failed(problem) => problem,
            };
            // All connections to an address fail for the same reason: the first one reports it.
            if *index == 0 && !is_reported {
                let address = self.address;
                tracing::warn!(service = &**service, %address, problem, "cannot be reached");
                is_reported = true;
            }
            state.send_replace(State::Failed(Unreachable::new(service.clone(), problem)));
            tokio::select! {
                () = tokio::time::sleep(pauses.next()) => {}
                () = state.closed() => return,
            }
        }
    }

    /// Makes a connection and waits for its end.
    async fn connection(&self, state: &watch::Sender<State>) -> End {
        let limit = self.config.connect_timeout;
        let (sender, connection, polls) = match timeout(limit, self.connect()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return End::Failed(chain(&*error)),
            Err(_) => return End::Failed(format!("no connection within {limit:?}")),
        };
        let (since, lifecycle) = (Instant::now(), Arc::new(Lifecycle::default()));
        let mut driver = tokio::spawn(drive(connection, polls, self.config.keepalive));
        state.send_replace(State::Open(Open {
            sender,
            lifecycle: lifecycle.clone(),
        }));
        let problem = tokio::select! {
            ended = &mut driver => ended.ok().flatten(),
            // Its driver goes on until the last call over it has ended.
            () = lifecycle.found_closing.notified() => None,
            () = state.closed() => {
                // Drops the last sender, which ends a connection without calls.
                state.send_replace(State::Closed);
                if timeout(self.config.drain, &mut driver).await.is_err() {
                    driver.abort();
                }
                return End::Dropped;
            }
        };
        lifecycle.closing.store(true, Ordering::Relaxed);
        let was_stable = since.elapsed() >= self.config.stable_after;
        if lifecycle.answered.load(Ordering::Relaxed) || was_stable {
            return End::Broken;
        }
        End::Failed(problem.unwrap_or_else(|| "it closed the connection".to_owned()))
    }

    async fn connect(&self) -> Result<(SendRequest<Bytes>, Connection, Polls), BoxError> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            Some(tls) if self.target.is_encrypted() => {
                let name = ServerName::try_from(self.target.host.clone())?;
                Either::Right(tls.connector().connect(name, stream).await?)
            }
            None if self.target.is_encrypted() => {
                return Err("it is at https://, and there is no TLS to call it with".into());
            }
            Some(_) | None => Either::Left(stream),
        };
        let polls = Polls::default();
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOWS)
            .max_header_list_size(self.config.max_head_bytes)
            .enable_push(false)
            .handshake(polls.coalesce(stream))
            .await?;
        Ok((sender, connection, polls))
    }
}

type Stream = Either<TcpStream, tokio_rustls::client::TlsStream<TcpStream>>;
type Connection = h2::client::Connection<CoalescedWrites<Stream>, Bytes>;

/// Drives a connection for as long as it answers pings. Returns what ended it.
async fn drive(mut connection: Connection, polls: Polls, keepalive: Duration) -> Option<String> {
    let pings = connection.ping_pong();
    tokio::select! {
        ended = polls.count(connection) => ended.err().map(|error| chain(&error)),
        () = unanswered(pings, keepalive) => {
            Some(format!("it answered no ping within {keepalive:?}"))
        }
    }
}

/// Resolves when a ping is not answered in time.
async fn unanswered(pings: Option<PingPong>, keepalive: Duration) {
    // A connection has one handle for pings, which nothing has taken before.
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(keepalive).await;
        let pong = timeout(keepalive, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

/// Connections to one address.
struct Connections {
    service: Arc<str>,
    target: Target,
    states: Box<[watch::Receiver<State>]>,
    /// The connection of the next call, modulo their number.
    next: AtomicUsize,
}

impl Connections {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        self.prepare(&mut request)?;
        let lost = |error: h2::Error| -> BoxError {
            match turned_down(&self.service, &error) {
                Some(error) => error.into(),
                None => Unreachable::new(self.service.clone(), chain(&error)).into(),
            }
        };

        let (mut sender, lifecycle) = self.sender().await?;
        let (head, body) = request.into_parts();
        let is_whole = body.is_end_stream();
        let (response, stream) = sender
            .send_request(Request::from_parts(head, ()), is_whole)
            .map_err(lost)?;
        let mut sending = None;
        if !is_whole {
            let mut rest = Box::pin(body::send(body, stream));
            // Mostly the whole body is in memory and the windows are wide: no task is needed.
            if rest.as_mut().now_or_never().is_none() {
                sending.get_or_insert_with(JoinSet::new).spawn(rest);
            }
        }
        let (head, body) = response.await.map_err(lost)?.into_parts();
        // Another replica may answer if this one has too many requests.
        if head.status.is_client_error() && head.status != StatusCode::TOO_MANY_REQUESTS {
            let problem = format!("{} answers {}", self.target, head.status);
            return Err(TurnedDown::new(self.service.clone(), problem).into());
        }
        let content_type = head.headers.get(CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
        if !head.status.is_success() || !is_grpc {
            let problem = format!("{} answers {} and not gRPC", self.target, head.status);
            return Err(Unreachable::new(self.service.clone(), problem).into());
        }
        lifecycle.answered.store(true, Ordering::Relaxed);
        let body = ResponseBody::body(body, self.service.clone(), sending);
        Ok(Response::from_parts(head, body))
    }

    /// Makes a caller's request one of HTTP/2 to this service.
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), http::uri::InvalidUriParts> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.target.scheme.clone());
        parts.authority = Some(self.target.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts)?;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Ok(())
    }

    /// Returns a connection that is ready for a call.
    async fn sender(&self) -> Result<(SendRequest<Bytes>, Arc<Lifecycle>), Unreachable> {
        loop {
            let open = self.open().await?;
            let Open { sender, lifecycle } = open.clone();
            match sender.ready().await {
                Ok(sender) => return Ok((sender, lifecycle)),
                Err(_) => open.close(), // nothing has been sent: another will do
            }
        }
    }

    async fn open(&self) -> Result<Open, Unreachable> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.states.len();
        let (before, from) = self.states.split_at(next);
        let open = from
            .iter()
            .chain(before)
            .find_map(|state| match &*state.borrow() {
                State::Open(open) if open.accepts_calls() => Some(open.clone()),
                State::Open(_) | State::Connecting | State::Failed(_) | State::Closed => None,
            });
        if let Some(open) = open {
            return Ok(open);
        }
        // None is open: the call shares the fate of the next one.
        let mut state = from.first().unwrap_or(&self.states[0]).clone();
        let settled = state.wait_for(|state| match state {
            State::Connecting => false,
            State::Open(open) => open.accepts_calls(),
            State::Failed(_) | State::Closed => true,
        });
        match settled.await.as_deref() {
            Ok(State::Open(open)) => Ok(open.clone()),
            Ok(State::Failed(unreachable)) => Err(unreachable.clone()),
            Ok(State::Connecting | State::Closed) | Err(_) => Err(Unreachable::new(
                self.service.clone(),
                "it is being shut down",
            )),
        }
    }
}

/// Headers of HTTP/1.1 that are about the caller's connection. HTTP/2 forbids them.
const HOP_BY_HOP: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Returns how a service turned a call down, if its stream was reset, or is no HTTP/2, while the
/// connection goes on. A stream that the service refuses to begin is lost instead: the service has
/// done nothing for it.
fn turned_down(service: &Arc<str>, error: &h2::Error) -> Option<TurnedDown> {
    let is_lost =
        error.is_io() || error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    if is_lost {
        return None;
    }
    let mut turned_down = TurnedDown::new(service.clone(), error.to_string());
    // If the service did not reset it, the request broke off.
    turned_down.caused_by_call = !error.is_remote() && !error.is_library();
    Some(turned_down)
}

#[derive(Clone)]
struct Network {
    connections: Arc<Connections>,
}

impl Service<Request<Body>> for Network {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connections = self.connections.clone();
        Box::pin(async move { connections.call(request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_call_to_an_address_without_a_server_fails_at_once() {
        // Bound and dropped: refused from now on.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let target = format!("http://{free}").parse().unwrap();
        let backend = network("churn", target, free, 2, None);

        for _ in 0..3 {
            let start = Instant::now();
            let request = Request::post("/shopkeeper.churn.v1.ChurnService/GetChurnRisk")
                .body(Body::empty())
                .unwrap();
            let error = backend.clone().oneshot(request).await.unwrap_err();
            let unreachable = error.downcast_ref::<Unreachable>().unwrap().to_string();
            assert!(unreachable.starts_with("churn cannot be reached: "));
            assert!(start.elapsed() < ConnectionConfig::default().connect_timeout);
        }
    }
}
