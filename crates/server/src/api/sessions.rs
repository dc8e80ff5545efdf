//! Sessions, their events, and events from outside.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use mainspring_flows::SessionKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::messages::known_agent;
use super::{Path, Query, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::sse::follow;
use crate::state::AppState;
use crate::views::{SessionView, session_view};

/// Shows a session with its latest turns.
#[utoipa::path(
    get, path = "/v1/sessions/{agent}/{interlocutor}/{channel}", tag = "sessions",
    params(("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path)),
    responses((status = 200, body = SessionView), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, interlocutor, channel)): Path<(String, String, String)>,
) -> Result<Json<SessionView>, Problem> {
    caller.must_have(Scope::Read)?;
    let session = SessionKey::new(caller.tenant, &agent, &interlocutor, &channel)?;
    known_agent(&state, &session)?;
    Ok(Json(session_view(&state.client(caller.tenant), session).await?))
}

/// Where to resume.
#[derive(Debug, Deserialize)]
pub struct Resume {
    after: Option<u64>,
}

/// Streams everything that happens to a session's turns.
///
/// Each event has its durable sequence number as `id`; send the last one as `Last-Event-ID` (or `?after=`) to resume
/// without a gap, 0 to hear all. Events without an `id` (`turn.window`, `reply.delta`, `agent.status`) exist only for those listening.
#[utoipa::path(
    get, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/events", tag = "sessions",
    params(
        ("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path),
        ("Last-Event-ID" = Option<u64>, Header), ("after" = Option<u64>, Query),
    ),
    responses((status = 200, content_type = "text/event-stream"), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn events(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, interlocutor, channel)): Path<(String, String, String)>,
    Query(resume): Query<Resume>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    caller.must_have(Scope::Read)?;
    let session = SessionKey::new(caller.tenant, &agent, &interlocutor, &channel)?;
    known_agent(&state, &session)?;
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    follow(state.client(caller.tenant), caller, session.to_string(), header.or(resume.after)).await
}

/// Something that happened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmitEvent {
    /// Its name.
    name: String,
    /// What it concerns.
    #[serde(default)]
    scope: Option<String>,
    /// Its data.
    #[serde(default)]
    data: Value,
}

/// An event recorded: it is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventEmitted {
    /// Its sequence number.
    seq: u64,
}

/// Tells that something happened: starts the workflows it triggers, completes the waits it satisfies.
#[utoipa::path(
    post, path = "/v1/events", tag = "events", request_body = EmitEvent,
    responses((status = 202, body = EventEmitted), (status = 400, body = Problem), (status = 401, body = Problem), (status = 413, body = Problem)),
)]
pub async fn emit(
    State(state): State<AppState>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<EventEmitted>), Problem> {
    caller.must_have(Scope::Write)?;
    let event: EmitEvent = json_body(body, state.engine().limits().payload_bytes_max).await?;
    let seq = state.client(caller.tenant).emit(&event.name, event.scope.as_deref(), &event.data).await?;
    Ok((StatusCode::ACCEPTED, Json(EventEmitted { seq })))
}
