//! The stream beneath a connection of HTTP/2. Promise: it counts the RST_STREAM frames in both
//! directions, and once they are too many it says GOAWAY (ENHANCE_YOUR_CALM) between two frames of
//! the answers and lets no further frame through.
//!
//! hyper has no call that ends a connection with an error code, hence the frame is written here.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use crate::{
    resets::Resets,
    write_coalescing::{CoalescedWrites, Polls},
};

/// What a caller of HTTP/2 begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a caller that resets too many calls has to read that the connection ends.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// RFC 9113, section 4.1: a frame's head is its length, type, flags and stream.
const HEAD: usize = 9;
/// The head of RST_STREAM and its payload, an error code.
const RESET: usize = HEAD + 4;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// Codes with which h2 polls down what a caller did wrong: PROTOCOL_ERROR, FLOW_CONTROL_ERROR,
/// STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM and COMPRESSION_ERROR.
const CALLERS_ERRORS: [u32; 6] = [0x1, 0x3, 0x5, 0x6, 0x7, 0x9];
/// The debug data of the GOAWAY, for the caller's log; h2 uses the same text.
const TOO_MANY_RESETS: &[u8] = b"too_many_resets";

/// Finds the frames in bytes that come in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    /// The head, and the error code of RST_STREAM.
    head: [u8; RESET],
    /// Bytes of the head that have come.
    filled: usize,
    /// Bytes of the payload that are still to come.
    payload: usize,
}

impl Frames {
    /// Passes type, stream and error code (of RST_STREAM, else 0) of each frame whose head ends in
    /// these bytes.
    fn advance(&mut self, mut bytes: &[u8], mut found: impl FnMut(u8, u32, u32)) {
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.filled < HEAD { HEAD } else { RESET };
            let taken = (wanted - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            let [l0, l1, l2, kind, _flags, s0, s1, s2, s3, code @ ..] = self.head;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            let is_reset = kind == RST_STREAM && length == RESET - HEAD;
            if self.filled == RESET {
                self.filled = 0;
                found(kind, stream, u32::from_be_bytes(code));
            } else if self.filled == HEAD && !is_reset {
                self.payload = length;
                self.filled = 0;
                found(kind, stream, 0);
            }
        }
    }

    /// Whether the next byte begins a frame.
    fn is_between_frames(&self) -> bool {
        self.filled == 0 && self.payload == 0
    }
}

/// The frame that ends a connection on which this was the last stream.
fn goaway(last_stream: u32) -> Vec<u8> {
    let length = u8::try_from(8 + TOO_MANY_RESETS.len()).unwrap_or(u8::MAX);
    [
        &[0, 0, length, GOAWAY, 0, 0, 0, 0, 0][..],
        &last_stream.to_be_bytes(),
        &ENHANCE_YOUR_CALM.to_be_bytes(),
        TOO_MANY_RESETS,
    ]
    .concat()
}

/// What the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many bytes of the preface have come.
    Unknown(usize),
    Http1,
    Http2,
}

/// How far the end of a connection with too many resets has come.
#[derive(Debug)]
enum End {
    /// Either there are not too many, or a frame has still to be written to its end.
    NotYet,
    /// This is still to be written.
    Goaway(Vec<u8>),
    /// All is to be flushed, and the caller to be told that no more comes.
    Shutdown,
    /// The caller has been told, and the stream is left to [`discard`].
    Told,
}

/// A stream that counts resets. See the module.
#[derive(Debug)]
pub(crate) struct Http2Io<S> {
    /// None once the connection has ended.
    stream: Option<CoalescedWrites<S>>,
    polls: Polls,
    resets: Arc<Resets>,
    /// Resets after which the rest waits for the next poll.
    most_in_poll: u64,
    poll: u64,
    protocol: Protocol,
    read: Frames,
    written: Frames,
    last_stream: u32,
    end: End,
}

/// Discards what the caller still sends, for this long. A socket that is closed with bytes unread
/// resets the connection, and the caller may then never see the GOAWAY.
async fn discard(mut stream: impl AsyncRead + Unpin) {
    let _ = timeout(LINGER, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
}

fn too_many_resets() -> io::Error {
    io::Error::other("too many calls were reset")
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Http2Io<S> {
    pub(crate) fn new(stream: S, polls: &Polls, resets: Arc<Resets>, most_in_poll: u32) -> Self {
        Self {
            stream: Some(polls.coalesce(stream)),
            polls: polls.clone(),
            resets,
            most_in_poll: most_in_poll.into(),
            poll: 0,
            protocol: Protocol::Unknown(0),
            read: Frames::default(),
            written: Frames::default(),
            last_stream: 0,
            end: End::NotYet,
        }
    }

    /// Looks at what the caller has sent.
    fn note_read(&mut self, mut bytes: &[u8]) {
        if let Protocol::Unknown(matched) = self.protocol {
            let expected = &PREFACE[matched..];
            let length = expected.len().min(bytes.len());
            self.protocol = if bytes[..length] != expected[..length] {
                Protocol::Http1
            } else if length == expected.len() {
                Protocol::Http2
            } else {
                Protocol::Unknown(matched + length)
            };
            bytes = &bytes[length..];
        }
        if self.protocol == Protocol::Http2 {
            let (resets, last_stream) = (&self.resets, &mut self.last_stream);
            self.read.advance(bytes, |kind, stream, _| match kind {
                RST_STREAM => resets.count_read(),
                HEADERS => *last_stream = stream.max(*last_stream),
                _ => {}
            });
        }
    }

    /// Looks at what has been written of these slices.
    fn note_written<'a>(
        &mut self,
        slices: impl Iterator<Item = &'a [u8]>,
        mut length: usize,
        context: &Context<'_>,
    ) {
        if self.protocol != Protocol::Http2 {
            return;
        }
        for slice in slices {
            let written = &slice[..length.min(slice.len())];
            let resets = &self.resets;
            self.written.advance(written, |kind, _, code| {
                if kind == RST_STREAM && CALLERS_ERRORS.contains(&code) {
                    resets.turned_down();
                }
            });
            length -= written.len();
        }
        if self.resets.is_exhausted() && self.written.is_between_frames() {
            // Reading goes on with the end.
            context.waker().wake_by_ref();
        }
    }

    /// Whether the connection has ended for its writer.
    fn has_ended(&self) -> bool {
        !matches!(self.end, End::NotYet)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut CoalescedWrites<S>>> {
        let stream = self.stream.as_mut().ok_or_else(too_many_resets)?;
        Ok(Pin::new(stream))
    }

    /// Tells the caller that the connection ends.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.end = match std::mem::replace(&mut self.end, End::NotYet) {
                End::NotYet if !self.written.is_between_frames() => return Poll::Pending,
                End::NotYet => End::Goaway(goaway(self.last_stream)),
                End::Goaway(rest) if rest.is_empty() => End::Shutdown,
                End::Goaway(mut rest) => match self.stream()?.poll_write(context, &rest) {
                    Poll::Ready(written) => End::Goaway(rest.split_off(written?)),
                    Poll::Pending => {
                        self.end = End::Goaway(rest);
                        return Poll::Pending;
                    }
                },
                End::Shutdown => match self.stream()?.poll_shutdown(context) {
                    Poll::Ready(shut) => {
                        shut?;
                        self.stream
                            .take()
                            .map(|stream| tokio::spawn(discard(stream)));
                        End::Told
                    }
                    Poll::Pending => {
                        self.end = End::Shutdown;
                        return Poll::Pending;
                    }
                },
                End::Told => {
                    self.end = End::Told;
                    return Poll::Ready(Ok(()));
                }
            };
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Http2Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.resets.is_exhausted() && this.protocol == Protocol::Http2 {
            ready!(this.poll_end(context))?;
            return Poll::Ready(Err(too_many_resets()));
        }
        let poll = this.polls.number();
        if std::mem::replace(&mut this.poll, poll) != poll {
            this.resets.begin_poll();
        }
        // h2 hands calls over only when it has read all there is, and keeps those that were reset
        // until then. It has a limit on those that it keeps; a poll ends well before that.
        if this.resets.read_in_poll() >= this.most_in_poll {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(this.stream()?.poll_read(context, buffer))?;
        this.note_read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Http2Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_ended() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(self.stream()?.poll_write(context, bytes))?;
        self.note_written([bytes].into_iter(), written, context);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_ended() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = ready!(self.stream()?.poll_write_vectored(context, slices))?;
        self.note_written(slices.iter().map(|slice| &**slice), written, context);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_ended() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_ended() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::HeaderMap;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;
    use crate::{heartbeat::Heartbeat, resets::ResetLimit};

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    fn resets() -> Arc<Resets> {
        let heartbeat = Arc::new(Heartbeat::new(Instant::now()));
        Resets::new(ResetLimit::of_width(1), heartbeat)
    }

    /// Both ends of a connection that ends with its fifth reset.
    fn connection() -> (DuplexStream, Http2Io<DuplexStream>, Arc<Resets>) {
        let (caller, stream) = duplex(1 << 10);
        let resets = resets();
        let io = Http2Io::new(stream, &Polls::default(), resets.clone(), 1_000);
        (caller, io, resets)
    }

    fn exhaust(resets: &Arc<Resets>) {
        while !resets.is_exhausted() {
            drop(resets.begin_call(&HeaderMap::new()));
        }
    }

    #[test]
    fn frames_are_found_however_bytes_come() {
        let frames = [
            frame(4, 0, &[]),
            frame(HEADERS, 1, &[7; 300]),
            frame(RST_STREAM, 1, &[0, 0, 0, 8]),
            frame(HEADERS, 3, &[3; 17]),
        ];
        let bytes = frames.concat();
        for size in 1..bytes.len() {
            let (mut read, mut found) = (Frames::default(), vec![]);
            for piece in bytes.chunks(size) {
                read.advance(piece, |kind, stream, code| found.push((kind, stream, code)));
            }
            let expected = [(4, 0, 0), (1, 1, 0), (3, 1, 8), (1, 3, 0)];
            assert_eq!(found, expected, "{size}");
            assert!(read.is_between_frames());
            read.advance(&[0], |_, _, _| {});
            assert!(!read.is_between_frames());
        }
    }

    #[tokio::test]
    async fn resets_are_counted_and_http1_is_left_alone() {
        let reset = frame(RST_STREAM, 1, &[0, 0, 0, 8]);
        struct Case {
            sent: Vec<u8>,
            resets: u64,
        }
        for case in [
            Case {
                sent: [PREFACE, &frame(4, 0, &[]), &reset, &reset].concat(),
                resets: 2,
            },
            Case {
                sent: [b"POST / HTTP/1.1\r\n\r\n", &reset[..]].concat(),
                resets: 0,
            },
            Case {
                sent: [&PREFACE[..20], &reset].concat(),
                resets: 0,
            },
        ] {
            let (mut caller, mut io, resets) = connection();
            caller.write_all(&case.sent).await.unwrap();
            drop(caller);
            io.read_to_end(&mut vec![]).await.unwrap();
            assert_eq!(resets.read_in_poll(), case.resets);
        }
    }

    #[tokio::test]
    async fn the_end_is_said_between_two_frames() {
        let (mut caller, mut io, resets) = connection();
        let opened = frame(HEADERS, 5, &[1]);
        caller
            .write_all(&[PREFACE, &opened].concat())
            .await
            .unwrap();
        io.read_exact(&mut [0; 34]).await.unwrap();
        let answer = frame(HEADERS, 5, &[2; 30]);
        io.write_all(&answer[..20]).await.unwrap();
        exhaust(&resets);
        assert!(io.read_u8().now_or_never().is_none(), "half a frame");
        io.write_all(&answer[20..]).await.unwrap();
        let ended = tokio::spawn(async move {
            let error = io.read_u8().await.unwrap_err();
            io.write_all(b"nobody reads this").await.unwrap();
            error
        });
        let mut said = vec![];
        caller.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, [answer, goaway(5)].concat());
        drop(caller);
        let error = ended.await.unwrap();
        assert_eq!(error.to_string(), "too many calls were reset");
    }

    #[tokio::test]
    async fn a_poll_ends_after_so_many_resets() {
        let (mut caller, stream) = duplex(1 << 10);
        let (polls, resets) = (Polls::default(), resets());
        let mut io = Http2Io::new(stream, &polls, resets.clone(), 2);
        let sent = [PREFACE, &frame(RST_STREAM, 1, &[0; 4]).repeat(4)].concat();
        caller.write_all(&sent).await.unwrap();
        drop(caller);
        let mut count = 0;
        let read = std::future::poll_fn(|context| {
            count += 1;
            let mut small = [0; 13];
            let mut buffer = ReadBuf::new(&mut small);
            loop {
                buffer.clear();
                ready!(Pin::new(&mut io).poll_read(context, &mut buffer)).unwrap();
                if buffer.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        });
        polls.count(read).await;
        assert_eq!(count, 3);
    }
}
