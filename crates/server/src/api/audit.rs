//! The audit: what was called on whose behalf, who decided what, and what came of it, as the events tell it, to be kept
//! elsewhere.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mainspring_client::{Client, EventRow};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::Query;
use super::tools::received;
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Events read at once.
const PAGE: usize = 500;
/// How events are called that belong to it.
const PREFIXES: [&str; 2] = ["tool.", "attention."];

/// Which part of the audit.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only what comes after this `seq`: the one of the last line that was read.
    #[serde(default)]
    pub after: u64,
    /// Only what happened at or after this time, in milliseconds since the Unix epoch.
    pub from: Option<u64>,
    /// Only what happened before this time.
    pub to: Option<u64>,
    /// Only about this tool.
    pub tool: Option<String>,
    /// Only on behalf of this agent.
    pub agent: Option<String>,
    /// Only in this session.
    pub session: Option<String>,
    /// Only about this execution.
    pub execution_id: Option<String>,
}

impl AuditQuery {
    fn fits(&self, event: &EventRow, data: &Value) -> bool {
        let says = |name: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| data[name] == wanted);
        self.from.is_none_or(|from| event.at >= from)
            && self.to.is_none_or(|to| event.at < to)
            && says("tool", &self.tool)
            && says("agent", &self.agent)
            && says("session", &self.session)
            && says("execution_id", &self.execution_id)
    }
}

/// Exports the audit of tools, oldest first, as far back as events are kept: a line (NDJSON) for each call that was begun,
/// each decision and each outcome. The last line says `end` and how far was read; an export without it was cut off, and
/// goes on with `after`.
#[utoipa::path(
    get, path = "/v1/audit", tag = "tools", params(AuditQuery),
    responses((status = 200, description = "application/x-ndjson: {seq, at, event, data}, at last {end, seq}"), (status = 401, body = Problem)),
)]
pub async fn export(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    caller.must_have(Scope::Read)?;
    let client = state.client(caller.tenant);
    // What can't be read at all is said with a status rather than in the middle.
    let first = client.feed(query.after, PAGE).await?;
    let (sender, lines) = mpsc::channel(8);
    tokio::spawn(tell(client, query, first, sender));
    let body = Body::from_stream(received(lines));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], body).into_response())
}

/// Writes page after page, no faster than they are read.
async fn tell(client: Client, query: AuditQuery, mut page: Vec<(u64, EventRow)>, lines: mpsc::Sender<Bytes>) {
    let mut seq = query.after;
    while let Some((last, _)) = page.last() {
        seq = *last;
        let mut text = String::new();
        let ours = |event: &EventRow| PREFIXES.iter().any(|prefix| event.name.starts_with(prefix));
        for (seq, event) in page.iter().filter(|(_, event)| ours(event)) {
            let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
            if query.fits(event, &data) {
                let line = json!({ "seq": seq, "at": event.at, "event": event.name, "data": data });
                text.push_str(&format!("{line}\n"));
            }
        }
        if !text.is_empty() && lines.send(Bytes::from(text)).await.is_err() {
            return;
        }
        page = match client.feed(seq, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, tenant = %client.tenant(), "an export of the audit was cut off");
                return;
            }
        };
    }
    let _ = lines.send(Bytes::from(format!("{}\n", json!({ "end": true, "seq": seq })))).await;
}
