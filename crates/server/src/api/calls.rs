//! What an agent asks on behalf of the turn it works on, with the token it was given for that attempt.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use mainspring_client::ClientError;
use mainspring_flows::Voice;
use mainspring_flows::calls::{Artifact, BeginEffect, CallError, Calls, EndEffect, Grant};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Path, Query, json_body};
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a call's body.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// The attempt a call is made for.
#[derive(Debug)]
pub struct Attempt(Grant);

impl FromRequestParts<AppState> for Attempt {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let text = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = text.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
        let refused = |detail: String| {
            let action = "send the `token` of the request you were asked with, as `Authorization: Bearer`";
            Problem::new(StatusCode::UNAUTHORIZED, "turn_token_invalid", detail, action)
        };
        let token = token.ok_or_else(|| refused("this call needs a turn token".to_owned()))?;
        let now = state.engine().world().now_ms();
        state.auth().keys().turn_tokens().check(token, now).map(Attempt).map_err(|bad| refused(bad.to_string()))
    }
}

impl Attempt {
    /// What it may do.
    pub(super) fn grant(&self) -> &Grant {
        &self.0
    }

    /// Refuses an attempt that is over.
    pub(super) async fn standing(&self, state: &AppState) -> Result<(), Problem> {
        self.calls(state).standing().await?;
        Ok(())
    }

    fn calls(&self, state: &AppState) -> Calls {
        Calls::new(state.client(self.0.tenant), self.0.clone())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Client(ClientError::Engine(error)) => error.into(),
            CallError::Client(error) => Problem::bad_request("json_malformed", error.to_string(), "send JSON"),
            CallError::Unusable(detail) => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "call_unusable",
                detail,
                "change the call as the detail says",
            ),
        }
    }
}

/// How the attempt stands: whether messages wait, and whether the turn is past its commit point. Takes no message.
#[utoipa::path(
    get, path = "/v1/turn", tag = "turn calls", security(("turn" = [])),
    responses((status = 200, description = "{has_pending, pending, committed}"), (status = 401, body = Problem), (status = 409, body = Problem)),
)]
pub async fn standing(State(state): State<AppState>, attempt: Attempt) -> Result<Json<Value>, Problem> {
    let standing = attempt.calls(&state).standing().await?;
    Ok(Json(json!({
        "turn_id": attempt.0.turn.to_string(), "turn_group_id": attempt.0.group.to_string(),
        "has_pending": standing.has_pending, "pending": standing.pending, "committed": standing.committed,
    })))
}

/// Declares that what was done or said can't be taken back: the turn is not begun anew any more.
#[utoipa::path(
    post, path = "/v1/turn/commit-point", tag = "turn calls", security(("turn" = [])),
    responses((status = 200), (status = 401, body = Problem), (status = 409, body = Problem)),
)]
pub async fn commit_point(State(state): State<AppState>, attempt: Attempt) -> Result<Json<Value>, Problem> {
    let standing = attempt.calls(&state).commit_point().await?;
    Ok(Json(json!({ "has_pending": standing.has_pending, "pending": standing.pending, "committed": true })))
}

/// The session's state as the last turn left it. It is changed with the answer.
#[utoipa::path(
    get, path = "/v1/turn/state", tag = "turn calls", security(("turn" = [])),
    responses((status = 200, description = "{version, data}"), (status = 401, body = Problem), (status = 409, body = Problem)),
)]
pub async fn session_state(State(state): State<AppState>, attempt: Attempt) -> Result<Json<Value>, Problem> {
    let found = attempt.calls(&state).state().await?;
    Ok(Json(json!({ "version": found.version, "data": found.data })))
}

/// Something to be seen by whoever follows the session now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// What the agent is doing.
    #[serde(default)]
    status: Option<String>,
    /// A piece of the answer. The first one passes the commit point, unless the agent's settings say that words may be
    /// taken back.
    #[serde(default)]
    delta: Option<String>,
}

/// Shows what the agent is doing, or a piece of its answer. Not recorded. The first piece passes the commit point.
#[utoipa::path(
    post, path = "/v1/turn/say", tag = "turn calls", security(("turn" = [])), request_body = Say,
    responses((status = 204), (status = 401, body = Problem), (status = 409, body = Problem)),
)]
pub async fn say(State(state): State<AppState>, attempt: Attempt, body: Body) -> Result<StatusCode, Problem> {
    let say: Say = json_body(body, BODY_BYTES_MAX).await?;
    let calls = attempt.calls(&state);
    let voice = Voice::new(state.client(attempt.0.tenant), &attempt.0.session, &attempt.0.turn.to_string());
    // Whoever is not the present attempt says nothing.
    calls.standing().await?;
    if let Some(status) = say.status {
        voice.status(&status);
    }
    if let Some(delta) = say.delta {
        if attempt.0.streaming_commits {
            calls.commit_point().await?;
        }
        // What could refuse it has been asked.
        let _ = voice.delta(&delta).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// An event of the session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tell {
    /// Its name.
    name: String,
    /// Its data.
    #[serde(default)]
    data: Value,
}

/// Tells an event of the session. Durable when answered.
#[utoipa::path(
    post, path = "/v1/turn/events", tag = "turn calls", security(("turn" = [])), request_body = Tell,
    responses((status = 202), (status = 401, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn event(
    State(state): State<AppState>,
    attempt: Attempt,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let tell: Tell = json_body(body, BODY_BYTES_MAX).await?;
    let seq = attempt.calls(&state).event(&tell.name, &tell.data).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "seq": seq }))))
}

/// A phase's result.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutArtifact {
    /// The result.
    data: Value,
    /// A hash of what the phase worked on.
    input_fingerprint: String,
    /// A hash of what else it depended on.
    #[serde(default)]
    dependency_fingerprint: String,
    /// `always`, `conditional` or `never`.
    #[schema(value_type = String)]
    reuse: mainspring_flows::calls::Reuse,
}

/// Keeps a phase's result for later attempts of the turn and of those that take over its messages.
#[utoipa::path(
    put, path = "/v1/turn/artifacts/{phase}", tag = "turn calls", security(("turn" = [])),
    params(("phase" = String, Path)), request_body = PutArtifact,
    responses((status = 204), (status = 401, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn put_artifact(
    State(state): State<AppState>,
    attempt: Attempt,
    Path(phase): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let put: PutArtifact = json_body(body, BODY_BYTES_MAX).await?;
    let artifact = Artifact {
        phase,
        data: put.data,
        input_fingerprint: put.input_fingerprint,
        dependency_fingerprint: put.dependency_fingerprint,
        reuse: put.reuse,
        turn_id: String::new(),
        reuse_count: 0,
    };
    attempt.calls(&state).put_artifact(artifact).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// For which input a result is wanted.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    input: String,
    #[serde(default)]
    dependency: String,
}

/// A phase's result of an earlier attempt, if it may be used for this input. Otherwise 404 with the reason.
#[utoipa::path(
    get, path = "/v1/turn/artifacts/{phase}", tag = "turn calls", security(("turn" = [])),
    params(("phase" = String, Path), ("input" = String, Query), ("dependency" = Option<String>, Query)),
    responses((status = 200), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn artifact(
    State(state): State<AppState>,
    attempt: Attempt,
    Path(phase): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Artifact>, Problem> {
    match attempt.calls(&state).artifact(&phase, &wanted.input, &wanted.dependency).await? {
        Ok(artifact) => Ok(Json(artifact)),
        Err(why_not) => {
            let detail = format!("no result of phase {phase:?} can be used: {why_not}");
            Err(Problem::new(StatusCode::NOT_FOUND, "artifact_not_reusable", detail, "carry the phase out"))
        }
    }
}

/// Records that a side effect is about to be carried out, or says why it must not be: `verdict` is `go`, `done` or `unknown`.
#[utoipa::path(
    post, path = "/v1/turn/effects", tag = "turn calls", security(("turn" = [])),
    responses((status = 200), (status = 401, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn begin_effect(State(state): State<AppState>, attempt: Attempt, body: Body) -> Result<Json<Value>, Problem> {
    let begin: BeginEffect = json_body(body, BODY_BYTES_MAX).await?;
    let verdict = attempt.calls(&state).begin_effect(&begin).await?;
    Ok(Json(serde_json::to_value(verdict).unwrap_or_default()))
}

/// Records what came of a side effect: `done` or `failed`. Also taken when the attempt is over: what happened has happened.
#[utoipa::path(
    post, path = "/v1/turn/effects/outcome", tag = "turn calls", security(("turn" = [])),
    responses((status = 204), (status = 401, body = Problem), (status = 422, body = Problem)),
)]
pub async fn end_effect(State(state): State<AppState>, attempt: Attempt, body: Body) -> Result<StatusCode, Problem> {
    let end: EndEffect = json_body(body, BODY_BYTES_MAX).await?;
    attempt.calls(&state).end_effect(end).await?;
    Ok(StatusCode::NO_CONTENT)
}
