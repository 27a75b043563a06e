//! Ends calls in time: the caller's time or the method's, whichever is shorter, counted from when
//! the call came in. What is left of it goes on to the service. A unary call has its whole answer
//! by then, a stream its first message; how long a stream goes on after that is up to its caller,
//! until the gateway drains: a stream that is silent then is ended.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use runtime::{MalformedTimeout, Refusal};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep},
};
use tonic::{Status, body::Body};

use crate::{
    call::Call,
    drain,
    error::{DeadlineError, Unreachable},
    grpc::frame,
    method::GATEWAY,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
};

/// Numbers of this layer.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// A stream without a message for this long is ended while the gateway drains. Streams that
    /// watch something would go on for ever.
    pub(crate) max_silence_draining: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_silence_draining: Duration::from_millis(500),
        }
    }
}

/// Ends calls in time, and silent streams once `draining` is true.
pub(crate) fn layer(draining: watch::Receiver<bool>) -> MiddlewareLayer<Deadline> {
    MiddlewareLayer::new(Deadline {
        draining,
        config: Config::default(),
    })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Deadline {
    draining: watch::Receiver<bool>,
    config: Config,
}

impl Middleware<Call> for Deadline {
    type Next = Call;

    async fn handle(&self, mut call: Call, next: &impl Handler<Call>) -> Answer {
        let wanted = runtime::grpc_timeout(&call.headers)
            .map_err(|MalformedTimeout| DeadlineError::Malformed)?;
        // A time beyond what the clock can hold is no limit.
        if let Some(wanted) = wanted.and_then(|wanted| Instant::now().checked_add(wanted)) {
            call.deadline = call.deadline.min(wanted);
        }
        let (deadline, streams) = (call.deadline, call.method.server_streaming);
        let response = tokio::time::timeout_at(deadline, next.call(call))
            .await
            .map_err(|_| DeadlineError::Passed)??;
        if http_body::Body::is_end_stream(response.body()) {
            return Ok(response);
        }
        let sleep = Some(Box::pin(tokio::time::sleep_until(deadline)));
        let drained = streams.then(|| Drained::new(self.draining.clone(), &self.config));
        Ok(response.map(|body| {
            Body::new(Timed {
                body,
                sleep,
                drained,
            })
        }))
    }
}

/// A body that is cut off at its deadline.
struct Timed {
    body: Body,
    /// None once time no longer matters.
    sleep: Option<Pin<Box<Sleep>>>,
    /// None if the call has one answer.
    drained: Option<Drained>,
}

/// Whether a stream has been silent for a while after the gateway began to drain.
struct Drained {
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// None before that, and after each message.
    silence: Option<Pin<Box<Sleep>>>,
    has_begun: bool,
    max_silence: Duration,
}

impl Drained {
    fn new(draining: watch::Receiver<bool>, config: &Config) -> Self {
        Self {
            draining: Box::pin(drain::begun(draining)),
            silence: None,
            has_begun: false,
            max_silence: config.max_silence_draining,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun {
            ready!(self.draining.as_mut().poll(context));
            self.has_begun = true;
        }
        self.silence
            .get_or_insert_with(|| Box::pin(sleep(self.max_silence)))
            .as_mut()
            .poll(context)
    }
}

impl Timed {
    fn give_up(&mut self, why: Refusal) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        (self.sleep, self.drained, self.body) = (None, None, Body::empty());
        Poll::Ready(Some(Ok(Frame::trailers(frame::trailers(why.into())))))
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            if let Some(drained) = &mut self.drained {
                drained.silence = None;
                self.sleep = None;
            }
            return polled;
        }
        if self
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(context).is_ready())
        {
            return self.give_up(Refusal::TooLate);
        }
        if self
            .drained
            .as_mut()
            .is_some_and(|drained| drained.poll(context).is_ready())
        {
            return self.give_up(Unreachable::new(GATEWAY, "it is being shut down").refusal());
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::tests::call, error::BoxError, grpc::frame::Known, middleware::tests::Bottom,
    };
    use http::{HeaderMap, HeaderValue, Response};
    use http_body_util::{BodyExt, StreamBody};
    use std::sync::{Arc, Mutex};
    use tokio::sync::mpsc;
    use tonic::Code;
    use tower::{Layer, service_fn};
    use tower_test::mock;

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const WATCH: &str = "/shopkeeper.model.v1.ModelService/WatchModel";

    fn at_work() -> watch::Receiver<bool> {
        watch::Sender::new(false).subscribe()
    }

    fn with_timeout(path: &str, timeout: &'static str) -> Call {
        let mut call = call(path, b"");
        call.headers
            .insert("grpc-timeout", HeaderValue::from_static(timeout));
        call
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_of_the_callers_and_the_methods_time_counts() {
        for (timeout, milliseconds) in [("10m", 10), ("250m", 250), ("1H", 250), ("99999999H", 250)]
        {
            let (service, mut handle) = mock::pair::<Call, Response<Body>>();
            let service = layer(at_work()).layer(Bottom(service));
            let start = Instant::now();
            let (answer, _unanswered) = tokio::join!(
                service.call(with_timeout(RISK, timeout)),
                handle.next_request()
            );
            let error = answer.unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(DeadlineError::Passed)));
            let took = start.elapsed().as_millis();
            assert!(
                (milliseconds..=milliseconds + 2).contains(&took),
                "{timeout} took {took} ms"
            );
        }
    }

    #[tokio::test]
    async fn a_timeout_that_cannot_be_read_is_refused() {
        for timeout in ["", "1", "m", "-1S", "1 S", "123456789m", "1x"] {
            let (service, _handle) = mock::pair::<Call, Response<Body>>();
            let service = layer(at_work()).layer(Bottom(service));
            let error = service.call(with_timeout(RISK, timeout)).await.unwrap_err();
            assert!(
                matches!(error.downcast_ref(), Some(DeadlineError::Malformed)),
                "{timeout}"
            );
        }
    }

    /// A message at once if `first`, another one after the deadline, and an end.
    async fn answered(path: &'static str, first: bool) -> (usize, Option<HeaderMap>) {
        let late = move |_: Call| async move {
            let wait = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok::<_, Status>(Frame::data(Bytes::from_static(b"late")))
            });
            let at_once = first.then(|| Ok(Frame::data(Bytes::from_static(b"first"))));
            let frames = futures_util::StreamExt::chain(futures_util::stream::iter(at_once), wait);
            Ok::<_, BoxError>(Response::new(Body::new(StreamBody::new(Box::pin(frames)))))
        };
        let response = layer(at_work())
            .layer(Bottom(service_fn(late)))
            .call(call(path, b""))
            .await
            .unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        (collected.to_bytes().len(), trailers)
    }

    #[tokio::test(start_paused = true)]
    async fn a_unary_answer_is_whole_in_time_and_a_stream_has_begun() {
        let too_late = |trailers: Option<HeaderMap>| {
            Status::from_header_map(&trailers.unwrap()).unwrap().code()
        };
        let (length, trailers) = answered(RISK, true).await;
        assert_eq!((length, too_late(trailers)), (5, Code::DeadlineExceeded));
        let (length, trailers) = answered(WATCH, false).await;
        assert_eq!((length, too_late(trailers)), (0, Code::DeadlineExceeded));
        assert_eq!(answered(WATCH, true).await, (9, None));
    }

    #[tokio::test]
    async fn what_is_answered_in_time_is_left_as_it_is() {
        let inner = service_fn(async |_: Call| {
            let trailers = frame::trailers(Status::ok(""));
            Ok::<_, BoxError>(Response::new(Known::body(
                Bytes::from_static(b"x"),
                Some(trailers),
            )))
        });
        let answer = layer(at_work())
            .layer(Bottom(inner))
            .call(call(RISK, b""))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_silent_while_the_gateway_drains_has_ended() {
        let draining = watch::Sender::new(false);
        let (send, messages) = mpsc::unbounded_channel();
        let messages = tokio_stream::wrappers::UnboundedReceiverStream::new(messages);
        let messages = Arc::new(Mutex::new(Some(messages)));
        let inner = service_fn(move |_: Call| {
            let messages = messages.lock().unwrap().take().unwrap();
            let body = Body::new(StreamBody::new(messages));
            std::future::ready(Ok::<_, BoxError>(Response::new(body)))
        });
        let service = layer(draining.subscribe()).layer(Bottom(inner));
        let mut body = service.call(call(WATCH, b"")).await.unwrap().into_body();
        let send = || {
            send.send(Ok::<_, Status>(Frame::data(Bytes::from_static(b"x"))))
                .unwrap()
        };
        send();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        draining.send_replace(true);
        let silence = Config::default().max_silence_draining;
        for _ in 0..5 {
            assert!(
                tokio::time::timeout(silence / 2, body.frame())
                    .await
                    .is_err()
            );
            send();
            assert!(
                body.frame().await.unwrap().unwrap().is_data(),
                "it goes on while it has messages"
            );
        }
        let trailers = body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(frame::code(&trailers), Some(Code::Unavailable));
    }
}
