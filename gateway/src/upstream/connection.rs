//! A service that answers calls: one in this process, or one behind a network. Promise: a service
//! that cannot be reached is known to be so at once, after the first attempt; an answer that breaks
//! off ends with a status; one that nobody reads keeps no other waiting.
//!
//! Calls go out over h2 itself: whoever calls writes the request and wakes up to its answer,
//! without the tasks and channels in between that a client of hyper has for every call.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client::SendRequest};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE},
};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use runtime::{ClientTls, Gathered, Turns, WINDOW, WINDOWS};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;
use tonic::{Status, body::Body};
use tower::{Service, util::BoxCloneSyncService};

use crate::{
    error::{BoxError, TurnedDown, Unreachable},
    grpc::frame,
    tasks::Tasks,
    upstream::{backend::Backend, target::Target},
};

/// Time for a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// Pauses between attempts.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// A connection that lived this long was a good one, answers or not.
const GOOD: Duration = Duration::from_secs(1);
/// How often a silent connection is asked whether it is alive, and how long it has to say so.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Time for calls in flight to a service that is asked no more.
const DRAIN: Duration = Duration::from_secs(30);
/// Heads of answers, bytes.
const LARGEST_HEAD: u32 = 16 << 10;

/// Returns how a service turned a call down, if its stream was reset, or is no HTTP/2, while the
/// connection goes on. A stream that the service refuses to begin is lost instead: the service has
/// done nothing for it.
fn turned_down(service: &Arc<str>, error: &h2::Error) -> Option<TurnedDown> {
    let is_lost =
        error.is_io() || error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    // If the service did not reset it, the request broke off.
    let caused_by_call = !error.is_remote() && !error.is_library();
    (!is_lost).then(|| TurnedDown {
        caused_by_call,
        ..TurnedDown::new(service.clone(), error.to_string())
    })
}

/// What listens at an address of a network, over so many connections. They are made at once, kept,
/// and made again when they break; once nobody asks any more they last until the calls in flight
/// have ended. `tls` is for targets that are encrypted. Must be called within a tokio runtime.
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
        tokio::spawn(keep(
            service.clone(),
            target.clone(),
            address,
            tls.clone(),
            index,
            state,
        ));
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
    sender: SendRequest<Bytes>,
    course: Arc<Course>,
}

/// What has become of a connection.
#[derive(Debug, Default)]
struct Course {
    /// Whether it has had an answer.
    answered: AtomicBool,
    /// Whether it takes calls no more, as when the service is about to end; those in flight go on.
    left: AtomicBool,
    leaving: Notify,
}

impl Open {
    fn is_open(&self) -> bool {
        !self.course.left.load(Ordering::Relaxed)
    }

    fn leave(&self) {
        self.course.left.store(true, Ordering::Relaxed);
        self.course.leaving.notify_one();
    }
}

impl Connections {
    async fn open(&self) -> Result<Open, Unreachable> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.states.len();
        let (before, from) = self.states.split_at(next);
        let open = from
            .iter()
            .chain(before)
            .find_map(|state| match &*state.borrow() {
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
            Ok(State::Connecting | State::Left) | Err(_) => Err(Unreachable::new(
                self.service.clone(),
                "it is being shut down",
            )),
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
        let problem =
            match tokio::time::timeout(CONNECT, connect(&target, address, tls.as_ref())).await {
                Ok(Ok((sender, connection, turns))) => {
                    let (since, course) = (Instant::now(), Arc::new(Course::default()));
                    let mut driven = tokio::spawn(drive(connection, turns));
                    state.send_replace(State::Open(Open {
                        sender,
                        course: course.clone(),
                    }));
                    let problem = tokio::select! {
                        ended = &mut driven => ended.ok().flatten(),
                        () = course.leaving.notified() => None, // it goes on until the last call over it has ended
                        () = state.closed() => {
                            state.send_replace(State::Left); // the last sender: a connection without calls ends
                            if tokio::time::timeout(DRAIN, &mut driven).await.is_err() {
                                driven.abort();
                            }
                            return;
                        }
                    };
                    course.left.store(true, Ordering::Relaxed);
                    if course.answered.load(Ordering::Relaxed) || since.elapsed() >= GOOD {
                        (told, pause) = (false, PAUSES[0]);
                        state.send_replace(State::Connecting);
                        tracing::debug!(service = &*service, connection = index, "reconnecting");
                        continue;
                    }
                    problem.unwrap_or_else(|| "it closed the connection".to_owned())
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

/// Keeps a connection going, for as long as it says that it is alive; says what ended it.
async fn drive(mut connection: Connection, turns: Turns) -> Option<String> {
    let pings = connection.ping_pong();
    tokio::select! {
        ended = turns.count(connection) => ended.err().map(|error| chain(&error)),
        () = silence(pings) => Some(format!("it answered no ping within {KEEPALIVE:?}")),
    }
}

/// Ends when a connection has been silent for too long.
async fn silence(pings: Option<PingPong>) {
    // There is one for each connection, and this is the first who asks.
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(KEEPALIVE).await;
        if !matches!(
            tokio::time::timeout(KEEPALIVE, pings.ping(Ping::opaque())).await,
            Ok(Ok(_))
        ) {
            return;
        }
    }
}

type Stream = Either<TcpStream, tokio_rustls::client::TlsStream<TcpStream>>;
type Connection = h2::client::Connection<Gathered<Stream>, Bytes>;

async fn connect(
    target: &Target,
    address: SocketAddr,
    tls: Option<&ClientTls>,
) -> Result<(SendRequest<Bytes>, Connection, Turns), BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = match tls {
        Some(tls) if target.is_encrypted() => {
            let name = ServerName::try_from(target.host.clone())?;
            Either::Right(tls.connector().connect(name, stream).await?)
        }
        None if target.is_encrypted() => {
            return Err("it is at https://, and there is no TLS to call it with".into());
        }
        Some(_) | None => Either::Left(stream),
    };
    let turns = Turns::default();
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS)
        .max_header_list_size(LARGEST_HEAD)
        .enable_push(false)
        .handshake(turns.gather(stream))
        .await?;
    Ok((sender, connection, turns))
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

impl Connections {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.target.scheme.clone());
        parts.authority = Some(self.target.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts)?;
        *request.version_mut() = Version::HTTP_2;
        OF_THE_CALLERS_CONNECTION
            .iter()
            .for_each(|name| drop(request.headers_mut().remove(name)));
        request
            .headers_mut()
            .insert(TE, HeaderValue::from_static("trailers"));
        let lost = |error: h2::Error| -> BoxError {
            match turned_down(&self.service, &error) {
                Some(error) => error.into(),
                None => Unreachable::new(self.service.clone(), chain(&error)).into(),
            }
        };

        let (mut sender, course) = self.sender().await?;
        let (head, body) = request.into_parts();
        let is_whole = body.is_end_stream();
        let (answer, stream) = sender
            .send_request(Request::from_parts(head, ()), is_whole)
            .map_err(lost)?;
        let mut sending = Tasks::default();
        if !is_whole {
            let mut rest = Box::pin(send(body, stream));
            // Mostly all of it is here, and there is room.
            if rest.as_mut().now_or_never().is_none() {
                sending.spawn(rest);
            }
        }
        let (head, body) = answer.await.map_err(lost)?.into_parts();
        // Too many requests are a reason to ask somebody else.
        if head.status.is_client_error() && head.status != StatusCode::TOO_MANY_REQUESTS {
            let problem = format!("{} answers {}", self.target, head.status);
            return Err(TurnedDown::new(self.service.clone(), problem).into());
        }
        let is_grpc = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
        if !head.status.is_success() || !is_grpc {
            let problem = format!("{} answers {} and not gRPC", self.target, head.status);
            return Err(Unreachable::new(self.service.clone(), problem).into());
        }
        course.answered.store(true, Ordering::Relaxed);
        let service = self.service.clone();
        Ok(Response::from_parts(
            head,
            Body::new(Answer {
                body,
                service,
                part: Part::Data,
                _sending: sending,
            }),
        ))
    }

    /// A connection that takes a call.
    async fn sender(&self) -> Result<(SendRequest<Bytes>, Arc<Course>), Unreachable> {
        loop {
            let open = self.open().await?;
            let Open { sender, course } = open.clone();
            match sender.ready().await {
                Ok(sender) => return Ok((sender, course)),
                Err(_) => open.leave(), // nothing has been sent: another is as good
            }
        }
    }
}

/// Headers over HTTP/1.1 that say how to go on with that connection.
const OF_THE_CALLERS_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Sends a request's body as fast as it comes and the service takes it. One that breaks off ends
/// the call.
async fn send(mut body: Body, mut to: SendStream<Bytes>) {
    loop {
        to.reserve_capacity(1);
        while to.capacity() == 0 {
            let Some(Ok(_)) = std::future::poll_fn(|context| to.poll_capacity(context)).await
            else {
                return;
            };
        }
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            _ = std::future::poll_fn(|context| to.poll_reset(context)) => return, // it wants no more
        };
        let is_last = body.is_end_stream();
        // What cannot be sent belongs to a call that has ended: its answer says how.
        let sent = match frame {
            None => return drop(to.send_data(Bytes::new(), true)),
            Some(Err(_)) => return to.send_reset(Reason::INTERNAL_ERROR),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => to.send_data(data, is_last),
                Err(frame) => {
                    return drop(to.send_trailers(frame.into_trailers().unwrap_or_default()));
                }
            },
        };
        if is_last || sent.is_err() {
            return;
        }
    }
}

/// The body of an answer, which ends with a status even where its connection breaks.
struct Answer {
    body: RecvStream,
    service: Arc<str>,
    part: Part,
    /// What is still being sent is not wanted any longer than the answer is.
    _sending: Tasks,
}

/// What comes next of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Trailers,
    Nothing,
}

impl Answer {
    fn lost(&mut self, error: &h2::Error) -> Frame<Bytes> {
        self.part = Part::Nothing;
        let problem = format!("lost while it answered: {}", chain(error));
        Frame::trailers(frame::trailers(
            Unreachable::new(self.service.clone(), problem)
                .refusal()
                .into(),
        ))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.part == Part::Data {
            match ready!(self.body.poll_data(context)) {
                Some(Ok(data)) => {
                    // It is less than has been received.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Frame::data(data)));
                }
                Some(Err(error)) => return Poll::Ready(Some(self.lost(&error))),
                None => self.part = Part::Trailers,
            }
        }
        if self.part == Part::Trailers {
            let trailers: Option<HeaderMap> = match ready!(self.body.poll_trailers(context)) {
                Ok(trailers) => trailers,
                Err(error) => return Poll::Ready(Some(self.lost(&error))),
            };
            self.part = Part::Nothing;
            return Poll::Ready(trailers.map(Frame::trailers));
        }
        Poll::Ready(None)
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.poll_next(context).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.part == Part::Nothing || self.body.is_end_stream()
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
    use tower::ServiceExt;

    #[tokio::test]
    async fn nobody_at_home_is_said_at_once() {
        // Bound and dropped: refused from now on.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let backend = network(
            "churn",
            format!("http://{free}").parse().unwrap(),
            free,
            2,
            None,
        );

        for _ in 0..3 {
            let start = Instant::now();
            let request = Request::post("/shopkeeper.churn.v1.ChurnService/GetChurnRisk")
                .body(Body::empty())
                .unwrap();
            let error = backend.clone().oneshot(request).await.unwrap_err();
            assert!(
                error
                    .downcast_ref::<Unreachable>()
                    .unwrap()
                    .to_string()
                    .starts_with("churn cannot be reached: ")
            );
            assert!(start.elapsed() < CONNECT);
        }
    }
}
