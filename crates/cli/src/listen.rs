//! Listening: connections of HTTP/1 and HTTP/2 on one port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::cork::Corked;

/// Requests at work over one connection: over that of a peer come those of all its clients, event streams among them.
const STREAMS_MAX: u32 = 100_000;
/// How long to wait before the next connection is taken when the system has nothing left for it.
const TAKE_BREATH: Duration = Duration::from_millis(100);

pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| {
        format!(
            "can't listen on {address}: end what uses it, or choose another with --listen (port 0 takes a free one)"
        )
    })
}

/// Serves until it is dropped; connections that are open then go on until they end.
pub(crate) async fn serve(listener: TcpListener, routes: Router) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).adaptive_window(true);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(TAKE_BREATH).await;
                continue;
            }
        };
        tune(&stream);
        let (builder, service) = (builder.clone(), TowerToHyperService::new(routes.clone()));
        tokio::spawn(async move {
            // How a connection ends is its client's affair.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(Corked::new(stream)), service).await;
        });
    }
}

fn tune(stream: &TcpStream) {
    // Small answers must not wait for more to send. A peer that vanished without a word is noticed after a minute.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = rustix::net::sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = rustix::net::sockopt::set_tcp_keepcnt(stream, 3);
}

/// What others may call this machine, which may be any name.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let name: String = name.chars().filter(fits).take(60).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}
