//! Runs.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use mainspring_client::{Client, RunId, StartOptions};
use mainspring_core::Command;
use mainspring_engine::RunFilter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::messages::idempotency_key;
use super::{Path, Query, body_bytes, id, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;
use crate::views::{AsOf, RunList, RunSummary, RunView, run_view};

/// Runs on one page, at most.
const PAGE_MAX: usize = 200;
/// Seconds a start may wait for the end. Longer, and what stands between client and server begins to close connections.
const WAIT_SECONDS_MAX: u32 = 60;

/// Which runs to list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListRuns {
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// How many at most, 50 by default, 200 at most.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Lists runs, newest first. The list may lag behind the log by some hundred milliseconds, and says so.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", params(ListRuns),
    responses((status = 200, body = RunList), (status = 400, body = Problem), (status = 401, body = Problem)),
)]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListRuns>,
) -> Result<Json<RunList>, Problem> {
    caller.must_have(Scope::Read)?;
    Ok(Json(list_of(&state.client(caller.tenant), query).await?))
}

/// The list, for the API and the page alike.
pub(crate) async fn list_of(client: &Client, query: ListRuns) -> Result<RunList, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let states = ["queued", "running", "completed", "failed", "cancelled", "superseded", "parked"];
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let filter = RunFilter { workflow: some(query.workflow), state: some(query.state) };
    if let Some(wanted) = &filter.state
        && !states.contains(&wanted.as_str())
    {
        let action = format!("use one of: {}", states.join(", "));
        return Err(Problem::bad_request("state_unknown", format!("{wanted:?} is not a state of a run"), action));
    }
    let limit = query.limit.unwrap_or(50).clamp(1, PAGE_MAX);
    let before = match some(query.cursor) {
        Some(cursor) => Some(cursor.parse::<RunId>().map_err(|_| {
            Problem::bad_request(
                "cursor_malformed",
                "the cursor is not one of this API",
                "use next_cursor of the page before",
            )
        })?),
        None => None,
    };
    // What was answered before this was asked is in it, unless the tables are in trouble; `behind` says so then.
    engine.wait_applied(tenant, engine.durable_position(tenant), Duration::from_millis(250)).await;
    let page = engine.read(tenant, move |reader| Ok((reader.applied(), reader.runs(tenant, &filter, before, limit)?)));
    let (position, page) = page.await?;
    let behind = engine.durable_position(tenant) > position;
    Ok(RunList {
        runs: page.rows.iter().map(|(id, row)| RunSummary::of(*id, row)).collect(),
        next_cursor: page.next.map(|run| run.to_string()),
        // A busy applier gathers for 150 ms and writes for about as long; a longer lag shows as a growing backlog in
        // /metrics.
        as_of: AsOf { position, lag_ms: if behind { 300 } else { 0 } },
    })
}

/// Shows a run with its tasks and journals.
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs", params(("id" = String, Path)),
    responses((status = 200, body = RunView), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<RunView>, Problem> {
    caller.must_have(Scope::Read)?;
    let found = run_view(&state.client(caller.tenant), id("run", &run)?).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("run"))
}

/// A change made: it is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct Changed {
    /// The log position from which reads show it.
    position: u64,
}

/// Why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRun {
    /// For whoever looks at the run later.
    #[serde(default)]
    reason: Option<String>,
}

/// Cancels a run and its children. Repeating it changes nothing.
#[utoipa::path(
    post, path = "/v1/runs/{id}/cancel", tag = "runs", params(("id" = String, Path)), request_body = Option<CancelRun>,
    responses((status = 202, body = Changed), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    caller.must_have(Scope::Write)?;
    let run = id("run", &run)?;
    let bytes = body_bytes(body, 64 * 1024).await?;
    let asked = if bytes.is_empty() { Ok(CancelRun::default()) } else { serde_json::from_slice(&bytes) };
    let asked: CancelRun = asked.map_err(|error| {
        Problem::bad_request("json_malformed", error.to_string(), "send no body, or {\"reason\": \"...\"}")
    })?;
    let reason = asked.reason.unwrap_or_else(|| "cancelled by request".to_owned());
    changed(&state, caller, Command::CancelRun { run, reason }).await
}

/// Lets a parked run try again, after its code was mended.
#[utoipa::path(
    post, path = "/v1/runs/{id}/resume", tag = "runs", params(("id" = String, Path)),
    responses((status = 202, body = Changed), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn resume(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    caller.must_have(Scope::Write)?;
    let run = id("run", &run)?;
    changed(&state, caller, Command::ResumeRun { run }).await
}

/// Sends a signal to a run, with the body as its payload. It is kept until the run takes it.
#[utoipa::path(
    post, path = "/v1/runs/{id}/signals/{name}", tag = "runs", params(("id" = String, Path), ("name" = String, Path)),
    request_body = Value,
    responses((status = 202, body = Changed), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn signal(
    State(state): State<AppState>,
    caller: Caller,
    Path((run, name)): Path<(String, String)>,
    body: Body,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    caller.must_have(Scope::Write)?;
    let run = id("run", &run)?;
    let payload: Value = json_body(body, state.engine().limits().payload_bytes_max).await?;
    let payload = bytes::Bytes::from(payload.to_string());
    changed(&state, caller, Command::SignalRun { run, name, payload }).await
}

async fn changed(state: &AppState, caller: Caller, command: Command) -> Result<(StatusCode, Json<Changed>), Problem> {
    let (_, position) = state.engine().submit(caller.tenant, command).await?;
    Ok((StatusCode::ACCEPTED, Json(Changed { position })))
}

/// A run to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// Its input.
    #[serde(default)]
    input: Value,
    /// What serialises it, if the workflow has a key rule.
    #[serde(default)]
    key: Option<String>,
    /// Higher goes first.
    #[serde(default)]
    priority: Option<u8>,
}

/// Whether whoever starts a run waits for its end.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitForEnd {
    /// Seconds to wait for it, 60 at most. Without it the answer comes as soon as the run is durable.
    wait_seconds: Option<u32>,
}

/// A run started: it is durable. If it was waited for and has ended, also what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunStarted {
    /// Its id.
    run_id: String,
    /// How it ended: `completed`, `failed`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Its output, if it completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    output: Option<Box<RawValue>>,
    /// Why it did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Starts a run of a workflow, and waits for its end if asked to. Repeated with the same `Idempotency-Key` it waits for
/// the same run; a wait that ends early ends nothing but the wait.
#[utoipa::path(
    post, path = "/v1/workflows/{name}/runs", tag = "runs",
    params(("name" = String, Path), WaitForEnd, ("Idempotency-Key" = Option<String>, Header)), request_body = StartRun,
    responses(
        (status = 200, body = RunStarted, description = "It has ended."),
        (status = 202, body = RunStarted, description = "It is started, and has not ended or was not waited for."),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
    ),
)]
pub async fn start(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(wait): Query<WaitForEnd>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<RunStarted>), Problem> {
    caller.must_have(Scope::Write)?;
    let wait_seconds = wait.wait_seconds.unwrap_or(0);
    if wait_seconds > WAIT_SECONDS_MAX {
        let detail = format!("wait_seconds is {wait_seconds}");
        let action = format!("wait {WAIT_SECONDS_MAX} s at most, and ask again with the same Idempotency-Key");
        return Err(Problem::bad_request("wait_too_long", detail, action));
    }
    let idempotency_key = idempotency_key(&headers)?;
    let asked: StartRun = json_body(body, state.engine().limits().payload_bytes_max).await?;
    let options = StartOptions { key: asked.key, priority: asked.priority, idempotency_key };
    let client = state.client(caller.tenant);
    let (run, row) = match wait_seconds {
        0 => (client.start_with(&name, &asked.input, options).await?, None),
        seconds => {
            let patience = Duration::from_secs(seconds.into());
            client.start_and_wait(&name, &asked.input, options, patience).await?
        }
    };
    let mut started = RunStarted { run_id: run.to_string(), state: None, output: None, error: None };
    let Some(row) = row else { return Ok((StatusCode::ACCEPTED, Json(started))) };
    started.state = Some(row.state.word());
    started.error = row.error;
    if let Some(output) = row.output {
        let output = client.payload(output).await?;
        // What a run gave was JSON when it was taken; as text it goes on unread.
        started.output = serde_json::from_slice(&output).ok();
    }
    Ok((StatusCode::OK, Json(started)))
}
