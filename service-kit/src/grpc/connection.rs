//! Accepted connections as the HTTP/2 server sees them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::peer::{TcpPeer, UnixPeer};

/// A TLS connection with its peer.
pub(super) struct TlsStream {
    pub(super) stream: tokio_rustls::server::TlsStream<TcpStream>,
    pub(super) peer: TcpPeer,
}

/// A Unix socket connection with its peer.
pub(super) struct UnixStream {
    pub(super) stream: tokio::net::UnixStream,
    pub(super) peer: UnixPeer,
}

impl Connected for TlsStream {
    type ConnectInfo = TcpPeer;

    fn connect_info(&self) -> TcpPeer {
        self.peer.clone()
    }
}

impl Connected for UnixStream {
    type ConnectInfo = UnixPeer;

    fn connect_info(&self) -> UnixPeer {
        self.peer.clone()
    }
}

/// Bytes a client of HTTP/2 sends first, whatever it wants (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// Waits for a client to begin. HTTP/2 itself would wait for ever.
pub(super) struct Preface {
    too_late: BoxFuture<'static, ()>,
    missing: usize,
}

impl Preface {
    /// It must have come before `too_late` is over.
    pub(super) fn before(too_late: BoxFuture<'static, ()>) -> Self {
        Self { too_late, missing: PREFACE_BYTES }
    }
}

/// A connection that counts against the limit, and breaks when the client does not begin or when the grace period after
/// the shutdown is over.
pub(super) struct Connection<IO> {
    pub(super) io: IO,
    pub(super) stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` once the client has begun.
    pub(super) preface: Option<Preface>,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl<IO: Connected> Connected for Connection<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "server is shutting down")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Some(preface) = &mut self.preface {
            preface.missing = preface.missing.saturating_sub(buf.filled().len() - before);
            if preface.missing == 0 {
                self.preface = None;
            } else if polled.is_pending() && preface.too_late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
            }
        }
        polled
    }
}

/// Passes writing on to the inner stream.
macro_rules! write_through {
    ($field:ident) => {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.$field).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.$field).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.$field).poll_shutdown(cx)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.$field).poll_write_vectored(cx, slices)
        }

        fn is_write_vectored(&self) -> bool {
            self.$field.is_write_vectored()
        }
    };
}

/// Passes reading on to the inner stream.
macro_rules! read_through {
    ($field:ident) => {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.$field).poll_read(cx, buf)
        }
    };
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    write_through!(io);
}

impl AsyncRead for TlsStream {
    read_through!(stream);
}

impl AsyncWrite for TlsStream {
    write_through!(stream);
}

impl AsyncRead for UnixStream {
    read_through!(stream);
}

impl AsyncWrite for UnixStream {
    write_through!(stream);
}
