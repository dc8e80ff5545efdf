//! Messages in.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use mainspring_client::{MessageId, SendOptions};
use mainspring_flows::SessionKey;
use mainspring_flows::message::{Complete, MessageBody};
use mainspring_flows::settings::millis;
use mainspring_flows::turn::WORKFLOW;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Path, id, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;
use crate::views::{MessageDetail, message_detail};

/// A message to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// Its text.
    text: String,
    /// Whatever else comes with it.
    #[serde(default)]
    data: Option<Value>,
    /// The provider's id for it: the same id again within seven days (by default) is the same message, whatever it says.
    #[serde(default)]
    message_id: Option<String>,
    /// Nothing more follows for now: the turn does not wait for another message.
    #[serde(default)]
    end: bool,
}

/// A message accepted: it is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageAccepted {
    message_id: String,
    /// The turn it is offered to. If that turn is superseded, its `superseded_by` leads on.
    turn_id: String,
    session: String,
    /// Whether an earlier delivery of the same request was accepted before.
    duplicate: bool,
    /// The log position from which reads show it.
    position: u64,
}

/// Sends a message to a session. The first of a quiet session begins a turn; others join it or the next.
///
/// Answered once the message is durable. Send an `Idempotency-Key` and retry with the same key until answered: the
/// message is accepted once.
#[utoipa::path(
    post, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/messages", tag = "messages",
    params(
        ("agent" = String, Path, description = "Which agent answers"),
        ("interlocutor" = String, Path, description = "Who talks to it"),
        ("channel" = String, Path, description = "Over which channel"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again within ten minutes gives the same answer"),
    ),
    request_body = SendMessage,
    responses(
        (status = 202, body = MessageAccepted),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem),
    ),
)]
pub async fn send(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, interlocutor, channel)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<MessageAccepted>), Problem> {
    caller.must_have(Scope::Write)?;
    let session = SessionKey::new(caller.tenant, &agent, &interlocutor, &channel)?;
    known_agent(&state, &session)?;
    let sent: SendMessage = json_body(body, state.engine().limits().payload_bytes_max).await?;
    let provider_id = sent.message_id.as_deref().map(provider_id).transpose()?;
    let settings = state.agents().get(session.tenant, &session.agent);
    let mut admission = settings.map(|settings| settings.protection.admission(&session)).unwrap_or_default();
    if let (Some(id), Some(settings)) = (provider_id, settings) {
        let ttl_ms = millis(settings.message_id_ttl);
        admission.once = Some((id.to_owned(), ttl_ms));
    }
    let idempotency_key = idempotency_key(&headers)?.map(|key| format!("key:{key}"));
    let complete = sent.end.then_some(Complete::Explicit);
    let body = MessageBody {
        text: sent.text,
        data: sent.data,
        message_id: sent.message_id,
        complete,
        ..MessageBody::default()
    };
    let key = session.to_string();
    let client = state.client(caller.tenant);
    let accepted = client.send(WORKFLOW, &key, &body, SendOptions { idempotency_key, admission }).await?;
    state.accepted().fetch_add(u64::from(!accepted.duplicate), Ordering::Relaxed);
    let answer = MessageAccepted {
        message_id: accepted.message.to_string(),
        turn_id: accepted.run.to_string(),
        session: key,
        duplicate: accepted.duplicate,
        position: accepted.position,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Shows a message, and the turn it is in.
#[utoipa::path(
    get, path = "/v1/messages/{id}", tag = "messages", params(("id" = String, Path)),
    responses((status = 200, body = MessageDetail), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(message): Path<String>,
) -> Result<Json<MessageDetail>, Problem> {
    caller.must_have(Scope::Read)?;
    let message: MessageId = id("message", &message)?;
    let found = message_detail(&state.client(caller.tenant), message).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("message"))
}

pub(crate) fn known_agent(state: &AppState, session: &SessionKey) -> Result<(), Problem> {
    if state.agents().get(session.tenant, &session.agent).is_some() {
        return Ok(());
    }
    let known = state.agents().names(session.tenant);
    let otherwise = if known.is_empty() {
        ": this tenant has no agent yet"
    } else {
        &format!(", or use one of: {}", known.join(", "))
    };
    let detail = format!("no agent named {:?} is configured for this tenant", session.agent);
    let action = format!("configure it under [[agents]] in mainspring.toml{otherwise}");
    Err(Problem::new(StatusCode::NOT_FOUND, "agent_unknown", detail, action))
}

/// An empty id would make all messages that have one the same.
fn provider_id(id: &str) -> Result<&str, Problem> {
    if (1..=200).contains(&id.len()) {
        return Ok(id);
    }
    let detail = format!("message_id has {} bytes", id.len());
    Err(Problem::bad_request("message_id_malformed", detail, "use 1 to 200 bytes, or leave it out"))
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let malformed = || {
        let action = "use 1 to 200 visible ASCII characters";
        Problem::bad_request("idempotency_key_malformed", "the Idempotency-Key header can't be used", action)
    };
    let text = value.to_str().map_err(|_| malformed())?.trim();
    if text.is_empty() || text.len() > 200 {
        return Err(malformed());
    }
    Ok(Some(text.to_owned()))
}
