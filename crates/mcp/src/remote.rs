//! Tools of somebody else's MCP server: listed, and called.
//!
//! A call is made at most once. What comes of it is an [`Outcome`]: the tool's answer, or that it certainly did not run,
//! or that nobody here can know. Nothing is called again by itself, whatever went wrong; whether that may be done is for
//! whoever knows what the tool does.
//!
//! Connections to servers are kept for a while and shared by calls with the same tenant, address and headers: the
//! handshake of the protocol costs up to three requests.

mod links;
mod outcome;
mod server;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientRequest,
    ErrorCode, ListToolsRequest, PaginatedRequestParams, RequestId, RequestMetaObject, ServerResult, Tool,
};
use rmcp::service::{PeerRequestOptions, RequestHandle, ServiceError};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use links::{Link, Links};
use wire::Passage;

pub use outcome::{Answer, Cause, Doubt, NotDone, Outcome};
pub use server::{BadServer, Server};

/// Under which name the idempotency key is in a call's `_meta`. It is the HTTP header `Idempotency-Key` as well.
pub const IDEMPOTENCY_KEY: &str = "mainspring/idempotency-key";
/// Under which name the correlation id is in a call's `_meta`.
pub const CORRELATION_ID: &str = "mainspring/correlation-id";

/// Pages of one list that are read.
const PAGES_MAX: usize = 100;

/// What is taken from servers, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteLimits {
    /// Bytes of a call's arguments.
    pub arguments_bytes_max: usize,
    /// Bytes of an answer: one tool's result, or one page of a list.
    pub answer_bytes_max: usize,
    /// Tools of one server.
    pub tools_max: usize,
    /// Bytes of all the tools of one server, with their schemas.
    pub tools_bytes_max: usize,
    /// Connections kept.
    pub links_max: usize,
    /// How long a connection that nobody uses is kept.
    pub idle: Duration,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        RemoteLimits {
            arguments_bytes_max: 1024 * 1024,
            answer_bytes_max: 4 * 1024 * 1024,
            tools_max: 1_000,
            tools_bytes_max: 8 * 1024 * 1024,
            links_max: 256,
            idle: Duration::from_secs(60),
        }
    }
}

/// A tool as its server describes it. What it says of itself is a claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoteTool {
    /// Its name there.
    pub name: String,
    /// Its name for people.
    pub title: Option<String>,
    /// What it does.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Map<String, Value>,
    /// JSON Schema of the structured result.
    pub output_schema: Option<Map<String, Value>>,
    /// That it changes nothing, if the server says so or denies it.
    pub read_only: Option<bool>,
    /// That a second call with the same arguments changes nothing more.
    pub idempotent: Option<bool>,
    /// That it may destroy something.
    pub destructive: Option<bool>,
}

/// One call of a tool.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The tool's name there.
    pub tool: &'a str,
    /// Its arguments.
    pub arguments: &'a Map<String, Value>,
    /// By which the server recognises a repeat, if it knows such keys. Sent in `_meta` and as a header.
    pub idempotency_key: &'a str,
    /// What it belongs to, for the server's log.
    pub correlation_id: Option<&'a str>,
    /// How long it may take, connecting included. Then the server is told that nobody waits any more.
    pub timeout: Duration,
}

/// Lists and calls tools of MCP servers. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Remote {
    links: Arc<Links>,
    limits: RemoteLimits,
}

impl Remote {
    /// A client that sends everything with `http`.
    ///
    /// Which addresses may be reached is that client's rule. It should follow no redirects, as a redirected request
    /// takes its headers along, and have a timeout for connecting that is shorter than calls': a call that ends while it
    /// still connects is in doubt otherwise.
    pub fn new(http: reqwest::Client, limits: RemoteLimits) -> Self {
        Remote { links: Arc::new(Links::new(http, limits)), limits }
    }

    /// Lists all tools of a server.
    ///
    /// # Errors
    /// [`NotDone`]: why the list can't be had. Listing changes nothing, so it may always be tried again.
    pub async fn list_tools(&self, server: &Server, timeout: Duration) -> Result<Vec<RemoteTool>, NotDone> {
        let deadline = Instant::now() + timeout;
        let listed = timeout_at(deadline, async {
            let link = self.links.get(server).await?;
            let listed = self.list(&link).await;
            if listed.is_err() {
                self.links.drop_link(server, &link).await;
            }
            listed
        });
        let tools = listed.await.unwrap_or_else(|_| Err(NotDone::timed_out(timeout)))?;
        Ok(tools.into_iter().map(described).collect())
    }

    /// Calls a tool once, and says what came of it.
    ///
    /// If the returned future is dropped before its end, the server is told that nobody waits; the tool may have run.
    pub async fn call_tool(&self, server: &Server, call: &Call<'_>) -> Outcome {
        let bytes = serde_json::to_vec(call.arguments).map_or(0, |encoded| encoded.len());
        if bytes > self.limits.arguments_bytes_max {
            let max = self.limits.arguments_bytes_max;
            let detail = format!("the arguments have {bytes} bytes, at most {max} are sent: send a reference instead");
            return Outcome::NotDone(NotDone::new(Cause::TooLarge, detail));
        }
        let deadline = Instant::now() + call.timeout;
        let link = match timeout_at(deadline, self.links.get(server)).await {
            Ok(Ok(link)) => link,
            Ok(Err(not_done)) => return Outcome::NotDone(not_done),
            Err(_) => return Outcome::NotDone(NotDone::timed_out(call.timeout)),
        };
        let mut outcome = self.call_over(&link, call, deadline).await;
        if matches!(&outcome, Outcome::NotDone(NotDone { cause: Cause::HeadersWanted, .. })) {
            // The server wants some arguments repeated as headers, which its list of tools says. It refused the call
            // before it looked at it, so this is not a second one.
            if let Ok(Ok(_)) = timeout_at(deadline, self.list(&link)).await {
                outcome = self.call_over(&link, call, deadline).await;
            }
        }
        if !matches!(outcome, Outcome::Succeeded(_) | Outcome::ToolError(_)) {
            // Perhaps it is the connection: the next call begins with a new one.
            self.links.drop_link(server, &link).await;
        }
        outcome
    }

    async fn call_over(&self, link: &Arc<Link>, call: &Call<'_>, deadline: Instant) -> Outcome {
        let passage = Passage::new(call.idempotency_key);
        let params = CallToolRequestParams::new(call.tool.to_owned()).with_arguments(call.arguments.clone());
        let mut request = CallToolRequest::new(params);
        request.extensions.insert(passage.clone());
        let options = PeerRequestOptions::no_options().with_meta(meta(call));
        let peer = link.peer();
        let mut guard = None;
        let answered = timeout_at(deadline, async {
            let sent = peer.send_request_with_option(ClientRequest::CallToolRequest(request), options).await?;
            let RequestHandle { rx, id, .. } = sent;
            guard = Some(Abandoned { link: link.clone(), id: Some(id) });
            rx.await.unwrap_or(Err(ServiceError::TransportClosed))
        });
        let answered = answered.await;
        if let (Some(guard), Ok(_)) = (&mut guard, &answered) {
            guard.id = None;
        }
        match answered {
            Ok(Ok(result)) => outcome::of_result(result),
            Ok(Err(ServiceError::McpError(error))) => outcome::of_error(&error),
            Ok(Err(error)) => passage.outcome(&error, self.limits.answer_bytes_max),
            Err(_) => passage.timed_out(call.timeout),
        }
    }

    async fn list(&self, link: &Link) -> Result<Vec<Tool>, NotDone> {
        let mut tools = Vec::new();
        let mut bytes = 0;
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let params = PaginatedRequestParams::default().with_cursor(cursor.clone());
            let request = ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params));
            let page = match link.peer().send_request(request).await {
                Ok(ServerResult::ListToolsResult(page)) => page,
                Ok(_) => return Err(NotDone::new(Cause::NotMcp, "the answer to tools/list is not a list of tools")),
                Err(ServiceError::McpError(error)) if error.code == ErrorCode::METHOD_NOT_FOUND => return Ok(tools),
                Err(ServiceError::McpError(error)) => {
                    return Err(NotDone::new(Cause::Refused, format!("tools/list: {}", outcome::shown(&error))));
                }
                Err(error) => return Err(link.failure(&error)),
            };
            // Plain data always encodes.
            bytes += serde_json::to_vec(&page.tools).map_or(0, |encoded| encoded.len());
            tools.extend(page.tools);
            let RemoteLimits { tools_max, tools_bytes_max, .. } = self.limits;
            if tools.len() > tools_max || bytes > tools_bytes_max {
                let detail = format!(
                    "the server lists more than {tools_max} tools or {tools_bytes_max} bytes: use an address of it that \
                     offers fewer"
                );
                return Err(NotDone::new(Cause::TooLarge, detail));
            }
            match page.next_cursor {
                None => return Ok(tools),
                again if again == cursor => {
                    return Err(NotDone::new(Cause::NotMcp, "the server gives the same cursor twice in tools/list"));
                }
                next => cursor = next,
            }
        }
        Err(NotDone::new(Cause::TooLarge, format!("the list of tools has more than {PAGES_MAX} pages")))
    }
}

/// Tells the server that nobody waits for a request any more, unless it was answered. The connection is kept until then.
struct Abandoned {
    link: Arc<Link>,
    id: Option<RequestId>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) else { return };
        let link = self.link.clone();
        runtime.spawn(async move {
            let why = CancelledNotificationParam::new(Some(id), Some("nobody waits for it any more".to_owned()));
            // If the server can't be told it does not matter: the call is in doubt anyway.
            let _ = link.peer().send_notification(CancelledNotification::new(why).into()).await;
        });
    }
}

fn meta(call: &Call<'_>) -> RequestMetaObject {
    let mut meta = RequestMetaObject::new();
    meta.insert(IDEMPOTENCY_KEY.to_owned(), call.idempotency_key.into());
    if let Some(id) = call.correlation_id {
        meta.insert(CORRELATION_ID.to_owned(), id.into());
    }
    meta
}

fn described(tool: Tool) -> RemoteTool {
    let hints = tool.annotations.unwrap_or_default();
    RemoteTool {
        name: tool.name.into_owned(),
        title: tool.title.or(hints.title),
        description: tool.description.unwrap_or_default().into_owned(),
        input_schema: Arc::unwrap_or_clone(tool.input_schema),
        output_schema: tool.output_schema.map(Arc::unwrap_or_clone),
        read_only: hints.read_only_hint,
        idempotent: hints.idempotent_hint,
        destructive: hints.destructive_hint,
    }
}
