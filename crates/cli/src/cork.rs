//! Writes to a connection of HTTP/2, held back for a moment so that what is ready together goes out together.
//!
//! Answers to many requests become ready in one moment, because they were made durable in one moment. Each of them wakes
//! the connection, which comes next and would send it alone; and each sending costs more than all the rest of answering.
//! So the first flush only gives way: whatever else is ready on this thread comes first, and puts its frames in the same
//! buffer. With nothing else ready the connection is back at once.
//!
//! A connection of HTTP/1 has one answer at a time and is left alone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held back at most: many small frames, or a few large ones, which gain nothing by waiting.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// Room for so many stays with a connection that has nothing to send.
const KEPT_BYTES: usize = 8 * 1024;
/// What a connection of HTTP/2 begins with, and none of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// Nothing was read yet.
    Unknown,
    /// HTTP/2.
    Frames,
    /// Anything else, or it came in pieces too small to tell.
    Other,
}

/// A connection whose writes are held back until what is ready with them is there.
#[derive(Debug)]
pub(crate) struct Corked<T> {
    stream: T,
    spoken: Spoken,
    held: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// Whether it has given way to others since the last time everything was sent.
    gave_way: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Corked<T> {
    pub(crate) fn new(stream: T) -> Self {
        Corked { stream, spoken: Spoken::Unknown, held: Vec::new(), sent: 0, gave_way: false }
    }

    /// Sends what is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.held.clear();
        self.held.shrink_to(KEPT_BYTES);
        self.sent = 0;
        self.gave_way = false;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if this.spoken == Spoken::Unknown {
            let read = &buf.filled()[before..];
            this.spoken = if read.starts_with(PREFACE) { Spoken::Frames } else { Spoken::Other };
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.held.len() + bytes > HELD_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        if this.spoken != Spoken::Frames || bytes > HELD_BYTES_MAX {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| this.held.extend_from_slice(buf));
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.held.is_empty() && !this.gave_way {
            this.gave_way = true;
            // A task that wakes itself goes behind those that are ready.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A stream that gives what it is told to, and keeps what is written, write by write.
    #[derive(Default)]
    struct Recorded {
        to_read: VecDeque<&'static [u8]>,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncRead for Recorded {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(self.get_mut().to_read.pop_front().unwrap_or(b""));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Recorded {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.get_mut().writes.push(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn connection(first: &'static [u8]) -> Corked<Recorded> {
        let mut corked = Corked::new(Recorded { to_read: [first].into(), ..Recorded::default() });
        let mut buf = [0; 64];
        assert_eq!(corked.read(&mut buf).await.expect("read"), first.len());
        corked
    }

    #[tokio::test]
    async fn frames_that_are_ready_together_are_one_write() {
        let mut corked = connection(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        corked.write_all(b"one ").await.expect("held");
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut corked).poll_flush(&mut cx).is_pending(), "it gives way once");
        corked.write_all(b"two").await.expect("held");
        assert_eq!(corked.stream.writes.len(), 0);
        assert!(Pin::new(&mut corked).poll_flush(&mut cx).is_ready());
        assert_eq!(corked.stream.writes, [b"one two".to_vec()]);
        // By itself, and at the end: nothing is forgotten.
        corked.write_all(b"three").await.expect("held");
        corked.flush().await.expect("sent");
        corked.write_all(b"four").await.expect("held");
        corked.shutdown().await.expect("sent");
        assert_eq!(corked.stream.writes[1..], [b"three".to_vec(), b"four".to_vec()]);
    }

    #[tokio::test]
    async fn answers_over_http_1_are_not_held_back() {
        let mut corked = connection(b"POST /v1/workflows HTTP/1.1\r\n").await;
        corked.write_all(b"answer").await.expect("written");
        assert_eq!(corked.stream.writes, [b"answer".to_vec()]);
    }

    #[tokio::test]
    async fn a_peer_that_reads_slowly_gets_everything_in_order() {
        let (near, mut far) = tokio::io::duplex(1_000);
        let mut corked = Corked::new(near);
        let sent: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = sent.clone();
        let reading = tokio::spawn(async move {
            far.write_all(PREFACE).await.expect("written");
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.expect("read");
            got
        });
        let mut preface = [0; PREFACE.len()];
        corked.read_exact(&mut preface).await.expect("read");
        // Pieces smaller and larger than what is held, flushed now and then.
        let (mut rest, mut size) = (sent.as_slice(), 1);
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(size.min(rest.len()));
            corked.write_all(piece).await.expect("written");
            if size % 3 == 0 {
                corked.flush().await.expect("sent");
            }
            (rest, size) = (others, size * 3 % 100_003 + 1);
        }
        corked.shutdown().await.expect("sent");
        drop(corked);
        assert!(reading.await.expect("no panic") == expected);
    }
}
