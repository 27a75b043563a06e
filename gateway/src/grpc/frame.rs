//! gRPC's framing of messages, and the bodies that the gateway makes of frames. No message is
//! decoded.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use tonic::{Code, Status, body::Body};

/// Bytes before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// Why a body cannot be read whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BufferError {
    /// The message has more bytes than are accepted.
    #[error("the message is larger than {limit} bytes")]
    TooLarge {
        /// Largest message, bytes.
        limit: usize,
    },
    /// The body ended with an error: the caller has hung up.
    #[error("the request ended before its end")]
    Broken(#[from] Status),
}

/// Reads a body of one message, as it is on the wire.
pub(crate) async fn whole(mut body: Body, limit: usize) -> Result<Bytes, BufferError> {
    let too_large = |bytes: &[u8]| {
        bytes.len() > PREFIX + limit || declared(bytes).is_some_and(|length| length > limit)
    };
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if first.is_empty() && all.is_empty() {
            first = data; // most requests are one frame: no copy
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        if too_large(if all.is_empty() { &first } else { &all }) {
            return Err(BufferError::TooLarge { limit });
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// The length of the first message, as its prefix has it.
fn declared(bytes: &[u8]) -> Option<usize> {
    let (_, rest) = bytes.split_first()?;
    let length: [u8; 4] = rest.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

/// The only message of a body, and whether it is compressed; none if the body is anything else.
pub(crate) fn only(body: &Bytes) -> Option<(bool, Bytes)> {
    let compressed = match body.first()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    (declared(body)? == body.len() - PREFIX).then(|| (compressed, body.slice(PREFIX..)))
}

/// Takes the next message from the beginning of a stream, if all of it is there.
pub(crate) fn next(pending: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, BufferError> {
    let Some(length) = declared(pending) else {
        return Ok(None);
    };
    if length > limit {
        return Err(BufferError::TooLarge { limit });
    }
    if pending.len() < PREFIX + length {
        return Ok(None);
    }
    Ok(Some(
        pending.split_to(PREFIX + length).freeze().slice(PREFIX..),
    ))
}

/// A message as it is on the wire; none if it is too long for its prefix.
pub(crate) fn framed(compressed: bool, message: &[u8]) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(u8::from(compressed));
    frame.put_u32(u32::try_from(message.len()).ok()?);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// The last value of a string field, without decoding the message; none if the message is
/// malformed.
pub(crate) fn string_field(message: &[u8], number: u32) -> Option<&str> {
    let mut rest = message;
    let mut value = "";
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let bytes = match key & 7 {
            0 => {
                varint(&mut rest)?;
                continue;
            }
            1 => take(&mut rest, 8)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                take(&mut rest, length)?
            }
            5 => take(&mut rest, 4)?,
            _ => return None,
        };
        if key == u64::from(number) << 3 | 2 {
            value = std::str::from_utf8(bytes).ok()?;
        }
    }
    Some(value)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// A body with all bytes and trailers in memory.
#[derive(Debug)]
pub(crate) struct Known {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Known {
    /// A body of these bytes and trailers.
    pub(crate) fn body(data: Bytes, trailers: Option<HeaderMap>) -> Body {
        Body::new(Self {
            data: Some(data).filter(|data| !data.is_empty()),
            trailers,
        })
    }
}

impl http_body::Body for Known {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(
            data.or_else(|| self.trailers.take().map(Frame::trailers))
                .map(Ok),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        // gRPC-Web puts trailers into the body, and takes this hint for the size of both.
        if self.trailers.is_some() {
            return http_body::SizeHint::default();
        }
        http_body::SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// A body of which the beginning has been read.
#[derive(Debug)]
pub(crate) struct Resumed {
    begun: Option<Bytes>,
    rest: Body,
}

impl Resumed {
    /// These bytes, then the rest.
    pub(crate) fn body(begun: Bytes, rest: Body) -> Body {
        Body::new(Self {
            begun: Some(begun),
            rest,
        })
    }
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.begun.take() {
            Some(begun) => Poll::Ready(Some(Ok(Frame::data(begun)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }
}

/// A body that keeps a value alive until its end.
#[derive(Debug)]
pub(crate) struct Keeping<T> {
    body: Body,
    _kept: T,
}

impl<T: Send + Unpin + 'static> Keeping<T> {
    /// The same body; `kept` is dropped with it.
    pub(crate) fn body(body: Body, kept: T) -> Body {
        if http_body::Body::is_end_stream(&body) {
            body
        } else {
            Body::new(Self { body, _kept: kept })
        }
    }
}

impl<T: Unpin> http_body::Body for Keeping<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A status as headers or trailers.
pub(crate) fn trailers(status: Status) -> HeaderMap {
    status
        .into_http::<()>()
        .into_parts()
        .0
        .headers
        .into_iter()
        .fold(HeaderMap::new(), |mut trailers, (name, value)| {
            if let Some(name) = name.filter(|name| name != http::header::CONTENT_TYPE) {
                trailers.append(name, value);
            }
            trailers
        })
}

/// The status code in headers or trailers, if they have one.
pub(crate) fn code(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(
        headers.get(Status::GRPC_STATUS)?.as_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use proptest::prelude::*;

    fn in_pieces(bytes: &[u8], size: usize) -> Body {
        let pieces: Vec<_> = bytes
            .chunks(size)
            .map(|c| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(c))))
            .collect();
        Body::new(StreamBody::new(futures_util::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn a_body_comes_in_any_pieces() {
        let wire = framed(false, b"hello, shop").unwrap();
        for size in [1, 3, 5, 16, 100] {
            let body = whole(in_pieces(&wire, size), 11).await.unwrap();
            assert_eq!(
                only(&body),
                Some((false, Bytes::from_static(b"hello, shop"))),
                "{size}"
            );
            assert!(matches!(
                whole(in_pieces(&wire, size), 10).await,
                Err(BufferError::TooLarge { limit: 10 })
            ));
        }
    }

    #[test]
    fn only_one_whole_message_is_one() {
        let one = framed(true, b"x").unwrap();
        for (body, is) in [
            (one.clone(), true),
            (Bytes::new(), false),
            (one.slice(..5), false),
            (Bytes::from([&one[..], &one[..]].concat()), false),
            (Bytes::from_static(&[2, 0, 0, 0, 0]), false),
            (Bytes::from_static(&[0, 0, 0, 0, 0]), true),
        ] {
            assert_eq!(only(&body).is_some(), is, "{body:?}");
        }
    }

    #[test]
    fn messages_of_a_stream_come_one_by_one() {
        let two = [
            framed(false, b"one").unwrap(),
            framed(false, b"two!").unwrap(),
        ]
        .concat();
        let mut pending = BytesMut::new();
        let mut messages = Vec::new();
        for byte in two {
            pending.extend_from_slice(&[byte]);
            messages.extend(next(&mut pending, 4).unwrap());
        }
        assert_eq!(messages, [&b"one"[..], b"two!"]);
        assert!(matches!(
            next(&mut BytesMut::from(&[0, 0, 0, 0, 5][..]), 4),
            Err(BufferError::TooLarge { limit: 4 })
        ));
    }

    #[test]
    fn a_field_is_read_without_decoding() {
        for (message, value) in [
            (&b""[..], Some("")),
            (b"\x0a\x05churn", Some("churn")),
            (
                b"\x10\x96\x01\x0a\x05churn\x1d0000\x2100000000",
                Some("churn"),
            ),
            (b"\x0a\x01a\x0a\x01b", Some("b")),
            (b"\x12\x05other", Some("")),
            (b"\x0a\x06churn", None),
            (b"\x0a\x01\xff", None),
            (b"\x0b", None),
            (b"\x80", None),
        ] {
            assert_eq!(string_field(message, 1), value, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = string_field(&bytes, 1);
            let _ = only(&Bytes::from(bytes));
        }
    }
}
