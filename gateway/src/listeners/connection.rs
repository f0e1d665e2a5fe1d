//! One connection after its handshake: HTTP/1.1 or HTTP/2 as ALPN chose, cut off when it idles or stalls.

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::body::Body;
use futures::future::BoxFuture;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use service_kit::{clock::SharedClock, lifecycle::Shutdown, tls::ALPN_H2};
use tower::ServiceExt as _;

use super::{
    Accepted,
    client::ClientAddress,
    progress::{Progress, Watched},
};
use crate::settings::ServingLimits;

/// A connection is closed after this long, so that clients notice changed certificates and addresses.
pub(super) const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60 * 60);

/// Largest request head on HTTP/1.1 and header list on HTTP/2, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most header fields of a request on HTTP/1.1.
const MAX_HEADERS: usize = 100;

/// Requests one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 100;

/// HTTP/2 pings find peers that are gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Time to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `stream` until the client, the time limits or `shutdown` end it. Whoever sends no head within the header
/// timeout is cut off, over HTTP/1.1 at each request; a connection without a request for the idle timeout is closed, and
/// cut off after the same time again.
pub(super) async fn serve(
    accepted: Accepted,
    client: ClientAddress,
    limits: &ServingLimits,
    clock: &SharedClock,
    shutdown: &Shutdown,
) {
    let Accepted { stream, router, peer } = accepted;
    let max_age = peer.as_ref().map_or(MAX_CONNECTION_AGE, |peer| {
        // An X509-SVID that has ended takes its connection along.
        Duration::try_from(peer.until - clock.now()).unwrap_or_default().min(MAX_CONNECTION_AGE)
    });
    let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
    let progress = Arc::new(Progress::default());
    let counter = Arc::clone(&progress);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let answering = counter.answering();
        request.extensions_mut().insert(client);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.identity());
        }
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let _answering = answering;
            answer.await
        }
    });
    let builder = builder(http2);
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let mut age = clock.sleep(max_age);
    let mut tick = clock.sleep(limits.header_timeout);
    // The first head has its time from the handshake on.
    let mut head: BoxFuture<'static, ()> = Box::pin(pending());
    let mut seen = 0;
    let mut closing = false;
    loop {
        tokio::select! {
            // Errors are the client's: resets, malformed requests, missing close_notify.
            _ = connection.as_mut() => return,
            () = &mut tick => {
                let now = progress.requests.load(Ordering::Relaxed);
                if closing || now == 0 {
                    return;
                }
                closing = now == seen;
                seen = now;
                if closing {
                    connection.as_mut().graceful_shutdown();
                }
                tick = clock.sleep(limits.idle_timeout);
            }
            () = progress.head_begun(), if !http2 => head = clock.sleep(limits.header_timeout),
            () = &mut head => {
                if progress.is_head_open() {
                    return;
                }
                head = Box::pin(pending());
            }
            () = &mut age, if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
                tick = clock.sleep(limits.idle_timeout);
            }
            () = shutdown.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
                tick = clock.sleep(super::DRAIN_TIMEOUT);
            }
        }
    }
}

fn builder(http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would end connections that wait for their next request.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}
