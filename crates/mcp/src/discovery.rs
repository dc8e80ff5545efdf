//! The discovery server: what MCP clients may see of the tools, at `/mcp`.
//!
//! Read-only. `tools/list` gives what the caller's agent may use (or, without an agent, what its tenant has activated), the
//! three tiers are resources, and `tools/call` is answered with the way to the execution API: there side effects are
//! recorded before they happen, which a protocol that knows no receipts can't promise.
//!
//! No sessions are kept: every request carries its token and is answered by itself, so a restart or another node is
//! not noticed by clients, and an open connection costs nothing.

mod door;
mod handler;
mod tier_uri;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use futures_util::future::BoxFuture;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};

use crate::catalogue::{Caller, Catalogue};
use door::Door;
use handler::Handler;

/// Where the server is mounted.
pub const PATH: &str = "/mcp";
/// Tools in one answer. A client that wants more follows the cursor.
pub const PAGE_TOOLS_MAX: usize = 100;
/// Bytes of tools in one answer; what goes over it comes with the next page. Clients hand lists to models, and read
/// them into memory.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a request. Discovery needs names and cursors, nothing large.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Requests answered at once. More are refused and may be repeated; none of them waits for anything but the catalogue.
const REQUESTS_AT_ONCE_MAX: usize = 256;
/// How long the catalogue may take over an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take a list to be true. It is not told of changes, as that would cost a connection each.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// Finds out who sent a request, from the bearer token in it.
pub type Authenticate = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Caller, Denied>> + Send + Sync>;

/// A token that opens nothing here. The text is told to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It is not a token, has expired or was revoked (401).
    Unauthorized(String),
    /// It is good, but not for this (403).
    Forbidden(String),
    /// It can't be checked now (503).
    Unavailable(String),
}

/// The server as a router, with [`PATH`] as its only route.
pub fn router(catalogue: Arc<dyn Catalogue>, authenticate: Authenticate) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(REQUEST_BYTES_MAX)
        // This check is for servers that ask for no token: a page in a browser could talk to them by another name.
        .disable_allowed_hosts();
    let handler = Handler::new(catalogue);
    let service =
        StreamableHttpService::new(move || Ok(handler.clone()), Arc::new(NeverSessionManager::default()), config);
    let door = Door::new(authenticate, REQUESTS_AT_ONCE_MAX, ANSWER_TIMEOUT);
    Router::new().route_service(PATH, service).layer(middleware::from_fn_with_state(door, door::pass))
}
