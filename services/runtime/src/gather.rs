//! Fewer writes: what several calls send over one connection goes out together, where each alone
//! would cost a call of the system. Promise: nothing waits for longer than the tasks that are ready
//! need for one turn each.

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

/// The turns that the task of a connection has had. As an executor it spawns tasks whose turns it
/// counts.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<AtomicU64>);

impl Turns {
    /// Drives a connection over a stream that is gathered with these turns.
    pub async fn count<F: Future>(self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        std::future::poll_fn(|context| {
            self.0.fetch_add(1, Ordering::Relaxed);
            connection.as_mut().poll(context)
        })
        .await
    }

    /// The stream of a connection that is driven by [`Turns::count`].
    pub fn gather<S: AsyncWrite>(&self, stream: S) -> Gathered<S> {
        Gathered {
            stream: BufWriter::new(stream),
            turns: self.clone(),
            asked: None,
        }
    }
}

impl<F> Executor<F> for Turns
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, connection: F) {
        tokio::spawn(self.clone().count(connection));
    }
}

/// A stream that, asked to flush, does so in the next turn: its task goes to the end of the queue,
/// and those before it add what they have to send.
#[derive(Debug)]
pub struct Gathered<S> {
    stream: BufWriter<S>,
    turns: Turns,
    /// The turn in which a flush was first asked for.
    asked: Option<u64>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
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
        let turn = self.turns.0.load(Ordering::Relaxed);
        if !self.stream.buffer().is_empty() && *self.asked.get_or_insert(turn) == turn {
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.asked = None;
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

    /// Keeps what each write was.
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

    /// Ends the turn, and wakes nobody.
    async fn next_turn() {
        let mut turns = 0;
        std::future::poll_fn(|_| {
            turns += 1;
            if turns == 2 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_sent_in_one_turn_goes_out_together_in_the_next() {
        let turns = Turns::default();
        let mut stream = turns.gather(Writes::default());
        let connection = async {
            for sent in ["head ", "data ", "end"] {
                stream.write_all(sent.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            assert!(stream.stream.get_ref().0.is_empty());
            next_turn().await;
            stream.flush().await.unwrap();
            assert_eq!(stream.stream.get_ref().0, ["head data end"]);
        };
        turns.clone().count(connection).await;
    }

    #[tokio::test]
    async fn nothing_is_left_where_a_connection_ends() {
        let turns = Turns::default();
        let mut stream = turns.gather(Writes::default());
        let connection = async {
            stream.write_all(b"goodbye").await.unwrap();
            stream.flush().await.unwrap();
            stream.shutdown().await.unwrap();
        };
        turns.clone().count(connection).await;
        assert_eq!(stream.stream.get_ref().0, ["goodbye"]);
    }
}
