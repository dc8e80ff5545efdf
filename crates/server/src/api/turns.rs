//! Turns.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainspring_client::{Admission, MessageId, RunId, SendOptions, TenantId};
use mainspring_flows::message::MessageBody;
use mainspring_flows::turn::WORKFLOW;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Path, id};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;
use crate::views::{TurnView, turn_view};

/// Shows a turn: its messages, window, steps and reply.
#[utoipa::path(
    get, path = "/v1/turns/{id}", tag = "turns", params(("id" = String, Path)),
    responses((status = 200, body = TurnView), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(turn): Path<String>,
) -> Result<Json<TurnView>, Problem> {
    caller.must_have(Scope::Read)?;
    let found = turn_view(&state.client(caller.tenant), id("turn", &turn)?).await?;
    found.map(Json).ok_or_else(|| {
        let mut problem = Problem::not_found("turn");
        problem.action =
            "check the id; a turn promised to a message begins when the session's live turn has ended".to_owned();
        problem
    })
}

/// How long a replay is remembered: the same turn replayed again within it is the same replay.
const REPLAY_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// Messages of a turn sent again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// The turn they are offered to.
    pub(crate) turn_id: String,
    /// Their new ids, in order.
    message_ids: Vec<String>,
}

/// Sends the messages of a failed or cancelled turn again, in order. They stay in its turn group: side effects that were
/// done are not done again. Repeating it within a day changes nothing.
#[utoipa::path(
    post, path = "/v1/turns/{id}/replay", tag = "turns", params(("id" = String, Path)),
    responses((status = 202, body = Replayed), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn replay(
    State(state): State<AppState>,
    caller: Caller,
    Path(turn): Path<String>,
) -> Result<(StatusCode, Json<Replayed>), Problem> {
    caller.must_have(Scope::Write)?;
    let replayed = send_again(&state, caller.tenant, id("turn", &turn)?).await?;
    Ok((StatusCode::ACCEPTED, Json(replayed)))
}

/// Sends the messages of a turn again, for the API and for the page's button. Durable when it returns.
pub(crate) async fn send_again(state: &AppState, tenant: TenantId, id: RunId) -> Result<Replayed, Problem> {
    let client = state.client(tenant);
    let found = turn_view(&client, id).await?.ok_or_else(|| Problem::not_found("turn"))?;
    if !matches!(found.state.as_str(), "failed" | "cancelled") {
        let detail = format!("turn {id} is {}: only a failed or cancelled one is sent again", found.state);
        let action = "look at the turn; one that is complete was answered, and others go on by themselves";
        return Err(Problem::new(StatusCode::CONFLICT, "turn_not_replayable", detail, action));
    }
    if found.messages.is_empty() {
        let detail = format!("turn {id} ended before it received a message");
        return Err(Problem::new(StatusCode::CONFLICT, "turn_not_replayable", detail, "send the message as a new one"));
    }
    let mut replayed = Replayed { turn_id: String::new(), message_ids: Vec::new() };
    for message in &found.messages {
        let original: MessageId = self::id("message", &message.id)?;
        let row = state.engine().read(tenant, move |reader| reader.message(tenant, original)).await?;
        let row = row.ok_or_else(|| Problem::not_found("message"))?;
        let body = MessageBody::read(&state.engine().payload(tenant, row.payload).await?);
        let turn_group_id = Some(found.turn_group_id.clone());
        let body = MessageBody { replay_of: Some(message.id.clone()), message_id: None, turn_group_id, ..body };
        let admission =
            Admission { once: Some((format!("replay:{}", message.id), REPLAY_KEPT_MS)), ..Admission::default() };
        let options = SendOptions { idempotency_key: None, admission };
        let accepted = client.send(WORKFLOW, &found.session, &body, options).await?;
        replayed.turn_id = accepted.run.to_string();
        replayed.message_ids.push(accepted.message.to_string());
    }
    Ok(replayed)
}
