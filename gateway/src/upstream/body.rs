//! Bodies on an HTTP/2 stream to a service.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tonic::{Status, body::Body};

use crate::{
    error::{Unreachable, chain},
    grpc::frame,
};

/// Sends a request's body as fast as it comes and the service accepts it. If the body breaks off,
/// the call ends.
pub(super) async fn send(mut body: Body, mut to: SendStream<Bytes>) {
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
            // The service wants no more of it.
            _ = std::future::poll_fn(|context| to.poll_reset(context)) => return,
        };
        let is_last = body.is_end_stream();
        // A failure to send belongs to a call that has ended: its response tells how.
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

/// The body of a response, which ends with a status even if its connection breaks.
pub(super) struct ResponseBody {
    body: RecvStream,
    service: Arc<str>,
    next: Part,
    /// Still sends the request's body; ends with the response.
    _sending: Option<JoinSet<()>>,
}

/// The next part of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Trailers,
    End,
}

impl ResponseBody {
    pub(super) fn body(body: RecvStream, service: Arc<str>, sending: Option<JoinSet<()>>) -> Body {
        Body::new(Self {
            body,
            service,
            next: Part::Data,
            _sending: sending,
        })
    }

    fn lost(&mut self, error: &h2::Error) -> Frame<Bytes> {
        self.next = Part::End;
        let problem = format!("lost while it answered: {}", chain(error));
        let unreachable = Unreachable::new(self.service.clone(), problem);
        Frame::trailers(frame::trailers(unreachable.refusal().into()))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.next == Part::Data {
            match ready!(self.body.poll_data(context)) {
                Some(Ok(data)) => {
                    // Cannot fail: it is not more than was received.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Frame::data(data)));
                }
                Some(Err(error)) => return Poll::Ready(Some(self.lost(&error))),
                None => self.next = Part::Trailers,
            }
        }
        if self.next == Part::Trailers {
            let trailers: Option<HeaderMap> = match ready!(self.body.poll_trailers(context)) {
                Ok(trailers) => trailers,
                Err(error) => return Poll::Ready(Some(self.lost(&error))),
            };
            self.next = Part::End;
            return Poll::Ready(trailers.map(Frame::trailers));
        }
        Poll::Ready(None)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.poll_next(context).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.next == Part::End || self.body.is_end_stream()
    }
}
