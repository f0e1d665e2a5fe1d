//! The local Unix socket of the admin API: for the user and group the gateway runs as.

use std::{io, path::Path, sync::Arc};

use axum::{
    Router,
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use service_kit::{
    BoxError,
    clock::SharedClock,
    grpc::unix_socket::{SocketError, UnixSocket, bind_unix},
    lifecycle::Shutdown,
};
use tokio::net::UnixStream;

use crate::{http::admin::caller::Caller, listeners::DRAIN_TIMEOUT};

/// Permission bits of the socket's folder if it is made here.
const FOLDER_MODE: u32 = 0o750;

/// Permission bits of the socket.
const SOCKET_MODE: u32 = 0o770;

/// Pause after the kernel refused to hand out a connection.
const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// The bound socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    socket: UnixSocket,
    clock: SharedClock,
}

impl AdminSocket {
    /// Binds the socket.
    ///
    /// # Errors
    /// When another process answers there, or the path cannot be used.
    pub(crate) fn bind(path: &Path, clock: SharedClock) -> Result<Self, SocketError> {
        Ok(Self { socket: bind_unix(path, FOLDER_MODE, SOCKET_MODE)?, clock })
    }

    /// Answers until `shutdown`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub(crate) async fn serve(self, router: Router, shutdown: Shutdown) -> Result<(), BoxError> {
        let clock = Arc::clone(&self.clock);
        let serve = axum::serve(self, router.into_make_service_with_connect_info::<Caller>())
            .with_graceful_shutdown(shutdown.cancelled_owned());
        tokio::select! {
            outcome = serve.into_future() => Ok(outcome?),
            () = async {
                shutdown.cancelled().await;
                clock.sleep(DRAIN_TIMEOUT).await;
            } => Ok(()),
        }
    }
}

impl Listener for AdminSocket {
    type Io = UnixStream;
    type Addr = Caller;

    async fn accept(&mut self) -> (UnixStream, Caller) {
        loop {
            match self.socket.accept().await {
                Ok(stream) => {
                    let caller = Caller::local(&stream);
                    return (stream, caller);
                }
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    self.clock.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

impl Connected<IncomingStream<'_, AdminSocket>> for Caller {
    fn connect_info(stream: IncomingStream<'_, AdminSocket>) -> Self {
        stream.remote_addr().clone()
    }
}
