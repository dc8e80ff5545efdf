//! A session's state, for operators and programs beside its agent; and receipts of what was delivered.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use mainspring_client::{Guard, PutDocument};
use mainspring_flows::receipts::{self, DeliveryStatus, Receipt};
use mainspring_flows::settings::millis;
use mainspring_flows::{SessionKey, records};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::messages::known_agent;
use super::{Path, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a receipt.
const RECEIPT_BYTES_MAX: usize = 64 * 1024;

/// A session's state.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateView {
    /// Its version, 0 if there is none. It goes up by one with each change.
    version: u64,
    /// What it says.
    data: Value,
    /// When it was changed, in milliseconds since the Unix epoch.
    updated_at: Option<u64>,
    /// The turn that changed it. `None` for a change from outside.
    turn_id: Option<String>,
}

fn session_of(caller: &Caller, state: &AppState, parts: (String, String, String)) -> Result<SessionKey, Problem> {
    let (agent, interlocutor, channel) = parts;
    let session = SessionKey::new(caller.tenant, &agent, &interlocutor, &channel)?;
    known_agent(state, &session)?;
    Ok(session)
}

fn view(row: &mainspring_client::DocumentRow) -> StateView {
    StateView {
        version: row.version,
        data: serde_json::from_slice(&row.body).unwrap_or(Value::Null),
        updated_at: Some(row.updated_at),
        turn_id: row.by.map(|run| run.to_string()),
    }
}

/// Shows a session's state.
#[utoipa::path(
    get, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/state", tag = "sessions",
    params(("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path)),
    responses((status = 200, body = StateView), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(parts): Path<(String, String, String)>,
) -> Result<Json<StateView>, Problem> {
    caller.must_have(Scope::Read)?;
    let session = session_of(&caller, &state, parts)?;
    let key = records::of_session(records::STATE, &session.to_string());
    let row = state.client(caller.tenant).document(key).await?;
    Ok(Json(row.as_ref().map_or(StateView { version: 0, data: Value::Null, updated_at: None, turn_id: None }, view)))
}

/// The versions of a session's state that are kept, newest first, each with the turn that wrote it.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateHistory {
    versions: Vec<StateView>,
}

/// Shows how a session's state became what it is: the latest 20 versions. May lag by a moment.
#[utoipa::path(
    get, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/state/history", tag = "sessions",
    params(("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path)),
    responses((status = 200, body = StateHistory), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn history(
    State(state): State<AppState>,
    caller: Caller,
    Path(parts): Path<(String, String, String)>,
) -> Result<Json<StateHistory>, Problem> {
    caller.must_have(Scope::Read)?;
    let session = session_of(&caller, &state, parts)?;
    let rows = records::states(&state.client(caller.tenant), &session.to_string()).await?;
    Ok(Json(StateHistory { versions: rows.iter().map(view).collect() }))
}

/// Changes a session's state from outside a turn. `If-Match` has the version it must have now; a turn that works with an
/// older one asks its agent again.
#[utoipa::path(
    put, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/state", tag = "sessions",
    params(
        ("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path),
        ("If-Match" = u64, Header, description = "The version it must have now, 0 for none"),
    ),
    responses((status = 200), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 428, body = Problem)),
)]
pub async fn put(
    State(state): State<AppState>,
    caller: Caller,
    Path(parts): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Write)?;
    let session = session_of(&caller, &state, parts)?;
    let expected = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let expected: Option<u64> = expected.and_then(|text| text.trim().trim_matches('"').parse().ok());
    let Some(expected) = expected else {
        return Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "version_missing",
            "a change of state needs the version it is meant for",
            "read the state and send its version as If-Match, 0 if there is none",
        ));
    };
    let data: Value = json_body(body, state.engine().limits().document_bytes_max).await?;
    let key = session.to_string();
    let ttl = state.agents().get(session.tenant, &session.agent).map(|settings| settings.state_ttl);
    let told = json!({ "version": expected + 1, "turn_id": null });
    let put = PutDocument {
        key: records::of_session(records::STATE, &key),
        expect: Some(expected),
        body: Bytes::from(data.to_string()),
        ttl_ms: ttl.map(millis),
        history: records::STATES_KEPT,
    };
    let event = Some(("session.state_changed".to_owned(), Some(key), Bytes::from(told.to_string())));
    let version = state.client(caller.tenant).put_document(put, None, Guard::default(), event).await?;
    Ok(Json(json!({ "version": version })))
}

/// What a channel says about a segment of a reply.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeReceipt {
    /// The segment's id, as it was delivered under.
    #[serde(default)]
    reply_id: Option<String>,
    /// Or the provider's id for it.
    #[serde(default)]
    provider_message_id: Option<String>,
    /// `sent`, `delivered`, `read` or `failed`.
    #[schema(value_type = String)]
    status: DeliveryStatus,
    /// Why it failed.
    #[serde(default)]
    error: Option<String>,
}

/// Takes a delivery receipt: `reply.delivered`, `reply.read` or `reply.failed` is told, if it says more than is known.
/// Receipts that come twice or late change nothing.
#[utoipa::path(
    post, path = "/v1/sessions/{agent}/{interlocutor}/{channel}/receipts", tag = "sessions",
    params(("agent" = String, Path), ("interlocutor" = String, Path), ("channel" = String, Path)),
    request_body = TakeReceipt,
    responses((status = 200, description = "{advanced, reply_id}"), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn receipt(
    State(state): State<AppState>,
    caller: Caller,
    Path(parts): Path<(String, String, String)>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Write)?;
    let session = session_of(&caller, &state, parts)?;
    let said: TakeReceipt = json_body(body, RECEIPT_BYTES_MAX).await?;
    let client = state.client(caller.tenant);
    let by_provider = match &said.provider_message_id {
        Some(id) => receipts::of_provider(&client, &session.channel, id).await?,
        None => None,
    };
    let Some(reply_id) = said.reply_id.or(by_provider) else {
        let mut problem = Problem::not_found("delivery");
        problem.action = "name a reply_id, or a provider_message_id that the channel answered with".to_owned();
        return Err(problem);
    };
    let key = session.to_string();
    let turn_id = reply_id.split(':').next().unwrap_or_default().to_owned();
    let known = receipts::delivery(&client, &reply_id).await?;
    // A receipt for somebody else's session, or for nothing that was ever sent, is not taken on trust.
    if known.as_ref().is_none_or(|known| known.session != key) {
        let mut problem = Problem::not_found("delivery");
        problem.action =
            "check that the reply belongs to this session and was sent; retry if it was just now".to_owned();
        return Err(problem);
    }
    let error = said.error.map(|error| error.chars().take(1_000).collect());
    let provider_message_id = said.provider_message_id.filter(|id| (1..=200).contains(&id.len()));
    let receipt = Receipt { reply_id, status: said.status, provider_message_id, error };
    let advanced = receipts::take(&client, &key, &turn_id, &receipt).await?;
    Ok(Json(json!({ "advanced": advanced, "reply_id": receipt.reply_id })))
}
