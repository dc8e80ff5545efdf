//! Connections to MCP servers, kept while they are used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::model::{ClientCapabilities, ClientConfig, Implementation, ProtocolVersion};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, ClientServiceExt, Peer, RoleClient, RunningService, ServiceError,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use tokio::time::Instant;

use super::RemoteLimits;
use super::outcome::{self, Cause, NotDone};
use super::server::Server;
use super::wire::Wire;

/// Requests over one connection at once; more wait for their turn, and count as not sent until then.
const REQUESTS_AT_ONCE_MAX: usize = 64;
/// Bytes that are read of an answer that is an error.
const ERROR_BYTES_MAX: usize = 4 * 1024;
/// What one event of a stream may have beside the answer in it.
const EVENT_BYTES_MORE: usize = 1_024;
/// How often a stream with an answer is picked up again when it ends early.
const STREAM_RETRIES_MAX: usize = 3;
/// How long to wait before that.
const STREAM_RETRY_AFTER: Duration = Duration::from_millis(200);

/// A connection after its handshake.
pub(super) struct Link {
    service: RunningService<RoleClient, ClientConfig>,
    wire: Wire,
}

impl Link {
    pub(super) fn peer(&self) -> &Peer<RoleClient> {
        self.service.peer()
    }

    /// Why a request failed that changes nothing.
    pub(super) fn failure(&self, error: &ServiceError) -> NotDone {
        let other = || NotDone::new(Cause::Unreachable, outcome::cut(&error.to_string()));
        self.wire.last_failure().unwrap_or_else(other)
    }
}

#[derive(Default)]
struct Slot {
    /// Locked while connecting, so that those who want the same server wait for one handshake.
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
}

/// All connections, by server.
pub(super) struct Links {
    http: reqwest::Client,
    limits: RemoteLimits,
    slots: Mutex<HashMap<Server, Kept>>,
}

struct Kept {
    slot: Arc<Slot>,
    used: Instant,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("count", &self.slots().len()).finish_non_exhaustive()
    }
}

impl Links {
    pub(super) fn new(http: reqwest::Client, limits: RemoteLimits) -> Self {
        Links { http, limits, slots: Mutex::default() }
    }

    /// A connection to a server, made now if there is none.
    pub(super) async fn get(self: &Arc<Self>, server: &Server) -> Result<Arc<Link>, NotDone> {
        let slot = self.slot(server);
        let mut there = slot.link.lock().await;
        if let Some(link) = there.as_ref().filter(|link| !link.peer().is_transport_closed()) {
            return Ok(link.clone());
        }
        let link = Arc::new(self.connect(server).await?);
        *there = Some(link.clone());
        tokio::spawn(close_when_idle(Arc::downgrade(self), server.clone(), Arc::downgrade(&link), self.limits.idle));
        Ok(link)
    }

    /// Lets a connection go, so that the next one is new. Calls under way on it go on.
    pub(super) async fn drop_link(&self, server: &Server, link: &Arc<Link>) {
        let Some(slot) = self.slots().get(server).map(|kept| kept.slot.clone()) else { return };
        let mut there = slot.link.lock().await;
        if there.as_ref().is_some_and(|there| Arc::ptr_eq(there, link)) {
            *there = None;
        }
    }

    fn slot(&self, server: &Server) -> Arc<Slot> {
        let mut slots = self.slots();
        let now = Instant::now();
        if let Some(kept) = slots.get_mut(server) {
            kept.used = now;
            return kept.slot.clone();
        }
        if slots.len() >= self.limits.links_max {
            let oldest = slots.iter().min_by_key(|(_, kept)| kept.used).map(|(server, _)| server.clone());
            if let Some(oldest) = oldest {
                slots.remove(&oldest);
            }
        }
        let slot = Arc::new(Slot::default());
        slots.insert(server.clone(), Kept { slot: slot.clone(), used: now });
        slot
    }

    async fn connect(&self, server: &Server) -> Result<Link, NotDone> {
        let wire = Wire::new(self.http.clone());
        let mut config = StreamableHttpClientTransportConfig::with_uri(server.url.as_str())
            .custom_headers(server.headers.iter().cloned().collect())
            .max_concurrent_requests(REQUESTS_AT_ONCE_MAX)
            .max_sse_event_size(self.limits.answer_bytes_max + EVENT_BYTES_MORE);
        config.max_json_response_size = self.limits.answer_bytes_max;
        config.max_error_response_size = ERROR_BYTES_MAX;
        config.retry_config = Arc::new(Again);
        let transport = StreamableHttpClientTransport::with_client(wire.clone(), config);
        let own = Implementation::new("mainspring", env!("CARGO_PKG_VERSION"));
        let own = ClientConfig::new(ClientCapabilities::default(), own);
        let lifecycle = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
        };
        match own.serve_with_lifecycle(transport, lifecycle).await {
            Ok(service) => Ok(Link { service, wire }),
            Err(error) => Err(wire.last_failure().unwrap_or_else(|| not_mcp(&error))),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Server, Kept>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that answers, and not as the protocol says.
fn not_mcp(error: &ClientInitializeError) -> NotDone {
    let detail = format!("what answers there is not an MCP server that we can talk to: {error}");
    NotDone::new(Cause::NotMcp, outcome::cut(&detail))
}

/// Closes a connection that nobody used for a while. It ends when the connection does.
async fn close_when_idle(links: Weak<Links>, server: Server, link: Weak<Link>, idle: Duration) {
    let mut wake = Instant::now() + idle;
    loop {
        tokio::time::sleep_until(wake).await;
        let (Some(links), Some(link)) = (links.upgrade(), link.upgrade()) else { return };
        let used = links.slots().get(&server).map(|kept| kept.used);
        let until = used.map_or(wake, |used| used + idle);
        // Two: the one that is kept, and ours. More are calls.
        let idle_now = until <= Instant::now() && Arc::strong_count(&link) <= 2;
        if idle_now {
            links.drop_link(&server, &link).await;
            return;
        }
        wake = until.max(Instant::now() + idle / 4);
    }
}

/// A stream is picked up again a few times, as far as the server can: the answer to a call that was sent is worth it.
#[derive(Debug)]
struct Again;

impl rmcp::transport::common::client_side_sse::SseRetryPolicy for Again {
    fn retry(&self, times: usize) -> Option<Duration> {
        (times < STREAM_RETRIES_MAX).then_some(STREAM_RETRY_AFTER)
    }
}
