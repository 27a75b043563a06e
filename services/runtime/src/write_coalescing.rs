//! Write coalescing: what several calls send over one connection in one poll of its task is written
//! with one system call. Promise: a flush waits for at most one turn of the tasks that are ready.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

/// How often the task of a connection has been polled. As hyper's executor it counts the polls of
/// the tasks that it spawns.
#[derive(Debug, Clone, Default)]
pub struct Polls(Arc<AtomicU64>);

impl Polls {
    /// Drives a connection, and counts its polls.
    pub async fn count<F: Future>(self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        std::future::poll_fn(|context| {
            self.0.fetch_add(1, Ordering::Relaxed);
            connection.as_mut().poll(context)
        })
        .await
    }

    /// The number of the present poll.
    pub(crate) fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Coalesces the writes of a stream. [`Polls::count`] must drive its connection.
    pub fn coalesce<S: AsyncWrite>(&self, stream: S) -> CoalescedWrites<S> {
        CoalescedWrites {
            stream: BufWriter::new(stream),
            polls: self.clone(),
            flush_requested_in: None,
        }
    }
}

impl<F> Executor<F> for Polls
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, connection: F) {
        tokio::spawn(self.clone().count(connection));
    }
}

/// A stream that flushes once per poll: a flush is put off to the next poll of its task, which goes
/// to the end of the scheduler's queue. The tasks before it add what they have to send.
#[derive(Debug)]
pub struct CoalescedWrites<S> {
    stream: BufWriter<S>,
    polls: Polls,
    /// The poll in which a flush was first requested.
    flush_requested_in: Option<u64>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for CoalescedWrites<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CoalescedWrites<S> {
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
        let poll = self.polls.number();
        let is_buffered = !self.stream.buffer().is_empty();
        if is_buffered && *self.flush_requested_in.get_or_insert(poll) == poll {
            // Ready, or hyper would stop until the flush is done. The wake makes sure that there is
            // a next poll, which flushes.
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.flush_requested_in = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Records the bytes of each write.
    #[derive(Debug, Default)]
    struct Writes(Vec<String>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(String::from_utf8(bytes.to_vec()).unwrap());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Ends the poll without a wake.
    async fn next_poll() {
        let mut polls = 0;
        std::future::poll_fn(|_| {
            polls += 1;
            if polls == 2 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_sent_in_one_poll_is_written_at_once_in_the_next() {
        let polls = Polls::default();
        let mut stream = polls.coalesce(Writes::default());
        let connection = async {
            for sent in ["head ", "data ", "end"] {
                stream.write_all(sent.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            assert!(stream.stream.get_ref().0.is_empty());
            next_poll().await;
            stream.flush().await.unwrap();
            assert_eq!(stream.stream.get_ref().0, ["head data end"]);
        };
        polls.clone().count(connection).await;
    }

    #[tokio::test]
    async fn a_connection_that_ends_leaves_nothing_unwritten() {
        let polls = Polls::default();
        let mut stream = polls.coalesce(Writes::default());
        let connection = async {
            stream.write_all(b"goodbye").await.unwrap();
            stream.flush().await.unwrap();
            stream.shutdown().await.unwrap();
        };
        polls.clone().count(connection).await;
        assert_eq!(stream.stream.get_ref().0, ["goodbye"]);
    }
}
