//! A service that answers calls: one in this process, or one behind a network. Promise: a service that cannot be reached is
//! known to be so at once, after the first attempt; an answer that breaks off ends with a status.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    Request, Response, Uri, Version,
    header::CONTENT_TYPE,
    uri::{Authority, Scheme},
};
use http_body::Frame;
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::{ClientTls, Gathered, Refusal, Turns};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;
use tonic::{Status, body::Body, service::Routes};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{frame, stack::BoxError};

/// A service of ours.
pub type Backend = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Time for a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// Pauses between attempts.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// A connection that lived this long was a good one, answers or not.
const GOOD: Duration = Duration::from_secs(1);
/// When callers are told to try again.
pub(crate) const RETRY_IN: Duration = Duration::from_millis(500);
/// How often a silent connection is asked whether it is alive, and how long it has to say so.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Time for calls in flight to a service that is asked no more.
const DRAIN: Duration = Duration::from_secs(30);

/// A service cannot be reached, or was lost before it answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} cannot be reached: {problem}")]
pub(crate) struct Unreachable {
    service: Arc<str>,
    problem: Arc<str>,
}

impl Unreachable {
    pub(crate) fn new(service: impl Into<Arc<str>>, problem: impl Into<Arc<str>>) -> Self {
        Self { service: service.into(), problem: problem.into() }
    }

    /// What the caller is told.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::Unreachable {
            service: (*self.service).to_owned(),
            problem: (*self.problem).to_owned(),
            retry_in: RETRY_IN,
        }
    }
}

/// A service has turned a call down without an answer of gRPC: it is there, and would do so again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} turned the call down: {problem}")]
pub(crate) struct TurnedDown {
    pub(crate) service: Arc<str>,
    problem: Arc<str>,
    /// Whether the call itself was the reason, as far as anybody can tell.
    pub(crate) its_own_fault: bool,
}

impl TurnedDown {
    /// Turned down for what it is.
    pub(crate) fn new(service: impl Into<Arc<str>>, problem: impl Into<Arc<str>>) -> Self {
        Self { service: service.into(), problem: problem.into(), its_own_fault: true }
    }

    /// Where a stream was reset and its connection goes on. One that the service refuses to begin is lost: it has done
    /// nothing for it.
    fn of(service: &Arc<str>, error: &hyper::Error) -> Option<Self> {
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<h2::Error>() {
                let lost = !error.is_reset() || error.reason() == Some(h2::Reason::REFUSED_STREAM);
                // Where it was not the service that did so, the request broke off.
                let its_own_fault = !error.is_remote() && !error.is_library();
                return (!lost).then(|| Self { its_own_fault, ..Self::new(service.clone(), error.to_string()) });
            }
            source = error.source();
        }
        None
    }
}

/// A service in this process: no socket between.
pub fn in_process(routes: Routes) -> Backend {
    let routes = routes.prepare();
    BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_err(routes, |never: Infallible| match never {}))
}

/// Where a service listens: `http://host:port`, or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    scheme: Scheme,
    authority: Authority,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why an address of a service cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// It is no URL.
    #[error("is no URL; http://localhost:50051 is one")]
    NotAUrl,
    /// It is neither http nor https.
    #[error("is neither http:// nor https://")]
    NotHttp,
    /// It has a path.
    #[error("has a path; services have none")]
    HasPath,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri = Uri::from_str(text).map_err(|_| TargetError::NotAUrl)?;
        let authority = uri.authority().ok_or(TargetError::NotAUrl)?.clone();
        let scheme = uri.scheme().ok_or(TargetError::NotAUrl)?.clone();
        let usual = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(TargetError::NotHttp),
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(TargetError::NotAUrl);
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(TargetError::HasPath);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { scheme, host, port: authority.port_u16().unwrap_or(usual), authority })
    }
}

impl Target {
    /// Whether it is reached over TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// What listens at an address of a network, over so many connections. They are made at once, kept, and made again when they
/// break; once nobody asks any more they last until the calls in flight have ended. `tls` is for targets that are encrypted.
/// Must be called within a tokio runtime.
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
        tokio::spawn(keep(service.clone(), target.clone(), address, tls.clone(), index, state));
        states
    });
    let states = states.collect();
    let connections = Connections { service, target, states, next: AtomicUsize::new(0) };
    BoxCloneSyncService::new(Network { connections: Arc::new(connections) })
}

/// Connections to one address.
struct Connections {
    service: Arc<str>,
    target: Target,
    states: Box<[watch::Receiver<State>]>,
    next: AtomicUsize,
}

/// How a connection is doing.
#[derive(Debug)]
enum State {
    /// It is being made; calls wait.
    Connecting,
    /// It takes calls.
    Open(Open),
    /// The last attempt failed; there will be others, but no call waits for them.
    Failed(Unreachable),
    /// Nobody asks any more.
    Left,
}

/// A connection that takes calls.
#[derive(Debug, Clone)]
struct Open {
    sender: SendRequest<Body>,
    /// Whether it has had an answer.
    answered: Arc<AtomicBool>,
}

impl Open {
    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Connections {
    async fn open(&self) -> Result<Open, Unreachable> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.states.len();
        let (before, from) = self.states.split_at(next);
        let open = from.iter().chain(before).find_map(|state| match &*state.borrow() {
            State::Open(open) if open.is_open() => Some(open.clone()),
            State::Open(_) | State::Connecting | State::Failed(_) | State::Left => None,
        });
        if let Some(open) = open {
            return Ok(open);
        }
        // None is open: whichever this one becomes decides.
        let mut state = from.first().unwrap_or(&self.states[0]).clone();
        let settled = state.wait_for(|state| match state {
            State::Connecting => false,
            State::Open(open) => open.is_open(),
            State::Failed(_) | State::Left => true,
        });
        match settled.await.as_deref() {
            Ok(State::Open(open)) => Ok(open.clone()),
            Ok(State::Failed(unreachable)) => Err(unreachable.clone()),
            Ok(State::Connecting | State::Left) | Err(_) => {
                Err(Unreachable::new(self.service.clone(), "it is being shut down"))
            }
        }
    }
}

/// Keeps one connection for as long as somebody may ask: makes it, and makes it again.
async fn keep(
    service: Arc<str>,
    target: Target,
    address: SocketAddr,
    tls: Option<ClientTls>,
    index: usize,
    state: watch::Sender<State>,
) {
    let [mut pause, longest] = PAUSES;
    let mut told = false;
    loop {
        let problem = match tokio::time::timeout(CONNECT, connect(&target, address, tls.as_ref())).await {
            Ok(Ok((sender, connection))) => {
                let (since, answered) = (Instant::now(), Arc::new(AtomicBool::new(false)));
                state.send_replace(State::Open(Open { sender, answered: answered.clone() }));
                tokio::pin!(connection);
                let ended = tokio::select! {
                    ended = &mut connection => ended,
                    () = state.closed() => {
                        state.send_replace(State::Left); // the last sender: a connection without calls ends
                        let _ = tokio::time::timeout(DRAIN, connection).await;
                        return;
                    }
                };
                if answered.load(Ordering::Relaxed) || since.elapsed() >= GOOD {
                    (told, pause) = (false, PAUSES[0]);
                    state.send_replace(State::Connecting);
                    tracing::debug!(service = &*service, connection = index, "reconnecting");
                    continue;
                }
                ended.err().map_or_else(|| "it closed the connection".to_owned(), |error| chain(&error))
            }
            Ok(Err(error)) => chain(&*error),
            Err(_) => format!("no connection within {CONNECT:?}"),
        };
        if index == 0 && !told {
            tracing::warn!(service = &*service, %address, problem, "cannot be reached");
            told = true;
        }
        state.send_replace(State::Failed(Unreachable::new(service.clone(), problem)));
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
            () = state.closed() => return,
        }
    }
}

type Stream = Either<TcpStream, tokio_rustls::client::TlsStream<TcpStream>>;
type Connection = hyper::client::conn::http2::Connection<TokioIo<Gathered<Stream>>, Body, Turns>;

async fn connect(
    target: &Target,
    address: SocketAddr,
    tls: Option<&ClientTls>,
) -> Result<(SendRequest<Body>, Connection), BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = match tls {
        Some(tls) if target.is_encrypted() => {
            let name = ServerName::try_from(target.host.clone())?;
            Either::Right(tls.connector().connect(name, stream).await?)
        }
        None if target.is_encrypted() => return Err("it is at https://, and there is no TLS to call it with".into()),
        Some(_) | None => Either::Left(stream),
    };
    let turns = Turns::default();
    let handshake = hyper::client::conn::http2::Builder::new(turns.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(turns.gather(stream)));
    Ok(handshake.await?)
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let connections = self.connections.clone();
        Box::pin(async move {
            let service = connections.service.clone();
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(connections.target.scheme.clone());
            parts.authority = Some(connections.target.authority.clone());
            *request.uri_mut() = Uri::from_parts(parts)?;
            *request.version_mut() = Version::HTTP_2;
            let mut open = connections.open().await?;
            let (head, body) = match open.sender.try_send_request(request).await {
                Ok(response) => response.into_parts(),
                Err(error) => {
                    return Err(match TurnedDown::of(&service, error.error()) {
                        Some(turned_down) => turned_down.into(),
                        None => Unreachable::new(service, chain(error.error())).into(),
                    });
                }
            };
            if head.status.is_client_error() {
                let problem = format!("{} answers {}", connections.target, head.status);
                return Err(TurnedDown::new(service, problem).into());
            }
            let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
            if !head.status.is_success() || !is_grpc {
                let problem = format!("{} answers {} and not gRPC", connections.target, head.status);
                return Err(Unreachable::new(service, problem).into());
            }
            open.answered.store(true, Ordering::Relaxed);
            Ok(Response::from_parts(head, Body::new(Whole { body, service })))
        })
    }
}

/// A body that ends with a status even where its connection breaks.
struct Whole {
    body: Incoming,
    service: Arc<str>,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context).map(|polled| {
            polled.map(|frame| {
                Ok(frame.unwrap_or_else(|error| {
                    let lost =
                        Unreachable::new(self.service.clone(), format!("lost while it answered: {}", chain(&error)));
                    Frame::trailers(frame::trailers(lost.refusal().into()))
                }))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An error and what it came from, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_where_a_service_listens() {
        for (text, host) in [
            ("http://localhost:50051", Ok(("localhost", 50051))),
            ("http://churn/", Ok(("churn", 80))),
            ("http://[::1]:7", Ok(("::1", 7))),
            ("https://churn", Ok(("churn", 443))),
            ("ftp://churn:1", Err(TargetError::NotHttp)),
            ("churn:1", Err(TargetError::NotAUrl)),
            ("churn", Err(TargetError::NotAUrl)),
            ("http://", Err(TargetError::NotAUrl)),
            ("http://me@churn:1", Err(TargetError::NotAUrl)),
            ("http://churn:1/api", Err(TargetError::HasPath)),
            ("", Err(TargetError::NotAUrl)),
        ] {
            let target = text.parse::<Target>();
            assert_eq!(target.as_ref().map(|t| (t.host.as_str(), t.port)).map_err(Clone::clone), host, "{text}");
        }
    }

    #[tokio::test]
    async fn nobody_at_home_is_said_at_once() {
        // Bound and dropped: refused from now on.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let backend = network("churn", format!("http://{free}").parse().unwrap(), free, 2, None);

        for _ in 0..3 {
            let start = Instant::now();
            let request = Request::post("/shopkeeper.churn.v1.ChurnService/GetChurnRisk").body(Body::empty()).unwrap();
            let error = backend.clone().oneshot(request).await.unwrap_err();
            assert!(error.downcast_ref::<Unreachable>().unwrap().to_string().starts_with("churn cannot be reached: "));
            assert!(start.elapsed() < CONNECT);
        }
    }
}
