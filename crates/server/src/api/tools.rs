//! Tools: the catalogue, calls, executions, and what waits for a person.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use mainspring_client::{Attention, ClientError, RunId};
use mainspring_engine::RunFilter;
use mainspring_flows::tools::catalogue::{CatalogueError, Standing};
use mainspring_flows::tools::door::{CallbackAnswer, Verdict, WAIT_MS_MAX, late_of};
use mainspring_flows::tools::provider::EXECUTION_SCOPE;
use mainspring_flows::tools::{Activation, Answer, Asked, Door, Finding, ToolCallError, ToolError, run};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::calls::Attempt;
use super::{Path, Query, id, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a request about a tool.
const BODY_BYTES_MAX: usize = 512 * 1024;
/// Executions on one page.
const PAGE_MAX: usize = 50;
/// A stream says this often that a call is still under way.
const HEARTBEAT: Duration = Duration::from_secs(10);

impl From<ToolCallError> for Problem {
    fn from(error: ToolCallError) -> Self {
        let detail = error.to_string();
        match error {
            ToolCallError::NotThere { code, .. } => {
                Problem::new(StatusCode::NOT_FOUND, code, detail, "GET /v1/tools lists what there is, in which tier")
            }
            ToolCallError::Arguments(findings) => unfit("arguments_unfit", detail, &findings),
            ToolCallError::Unusable(_) => {
                let action = "change the call as the detail says";
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "call_unusable", detail, action)
            }
            ToolCallError::Conflict(_) => {
                let action = "look at how it stands now, then decide anew";
                Problem::new(StatusCode::CONFLICT, "tool_conflict", detail, action)
            }
            ToolCallError::NoExecution(_) => Problem::not_found("execution of a tool"),
            ToolCallError::Client(ClientError::Engine(error)) => error.into(),
            ToolCallError::Client(error) => Problem::bad_request("json_malformed", error.to_string(), "send JSON"),
        }
    }
}

impl From<CatalogueError> for Problem {
    fn from(error: CatalogueError) -> Self {
        let detail = error.to_string();
        match error {
            CatalogueError::Findings(findings) => unfit("tool_unfit", detail, &findings),
            CatalogueError::Client(error) => ToolCallError::Client(error).into(),
        }
    }
}

/// A refusal that lists every place.
fn unfit(code: &str, detail: String, findings: &[Finding]) -> Problem {
    let listed: Vec<String> = findings
        .iter()
        .map(|finding| match finding.place.as_str() {
            "" => finding.problem.clone(),
            place => format!("{place}: {}", finding.problem),
        })
        .collect();
    let detail = format!("{detail}: {}", listed.join("; "));
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail, "mend each place that is listed")
}

/// For which agent.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ForAgent {
    /// Its name. Without one, for the tenant.
    pub agent: Option<String>,
}

/// Lists the catalogue, each tool with the tier it is in: `catalogue`, `available`, and for an agent `enabled`. May lag.
#[utoipa::path(
    get, path = "/v1/tools", tag = "tools", params(ForAgent),
    responses((status = 200, description = "{tools: [{tier, version, ...tool}]}"), (status = 401, body = Problem)),
)]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ForAgent>,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Read)?;
    Ok(Json(json!({ "tools": listed(&state.tools(caller.tenant)?, query.agent.as_deref()).await? })))
}

/// The catalogue with tiers, for the API, agents and pages alike.
pub(crate) async fn listed(door: &Door, agent: Option<&str>) -> Result<Vec<Value>, Problem> {
    let mut tools = Vec::new();
    if let Some(agent) = agent {
        for (entry, standing) in door.catalogue().tiers(agent).await.map_err(ToolCallError::from)? {
            let (tier, shown) = match standing {
                Standing::Unknown | Standing::Unavailable => ("catalogue", entry),
                Standing::Disabled => ("available", entry),
                Standing::Enabled(applied) => ("enabled", *applied),
            };
            let mut tool = json!(shown);
            tool["tier"] = json!(tier);
            tools.push(tool);
        }
    } else {
        for entry in door.catalogue().tools().await.map_err(ToolCallError::from)? {
            let tier = if entry.tool.available { "available" } else { "catalogue" };
            let mut tool = json!(entry);
            tool["tier"] = json!(tier);
            tools.push(tool);
        }
    }
    Ok(tools)
}

/// Shows a tool.
#[utoipa::path(
    get, path = "/v1/tools/{name}", tag = "tools", params(("name" = String, Path)),
    responses((status = 200, description = "the tool with its version"), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Read)?;
    let entry = state.tools(caller.tenant)?.catalogue().tool(&name).await.map_err(ToolCallError::from)?;
    Ok(Json(json!(entry.ok_or_else(|| Problem::not_found("tool"))?)))
}

/// Puts a tool into the catalogue, or a new version of it. Durable when answered. Everything that is wrong is listed.
#[utoipa::path(
    put, path = "/v1/tools/{name}", tag = "tools", params(("name" = String, Path)), request_body = Value,
    responses((status = 200, description = "{name, version, advice}"), (status = 422, body = Problem)),
)]
pub async fn put(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Admin)?;
    let written: Value = json_body(body, BODY_BYTES_MAX).await?;
    let (version, advice) = state.tools(caller.tenant)?.catalogue().put(&name, &written).await?;
    Ok(Json(json!({ "name": name, "version": version, "advice": advice })))
}

/// Takes a tool out of the catalogue. What is under way goes on.
#[utoipa::path(
    delete, path = "/v1/tools/{name}", tag = "tools", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)),
)]
pub async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Admin)?;
    let removed = state.tools(caller.tenant)?.catalogue().remove(&name).await.map_err(ToolCallError::from)?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found("tool")) }
}

/// Changes what an agent has of a tool: whether it may use it, and how much stricter.
#[utoipa::path(
    put, path = "/v1/agents/{agent}/tools/{name}", tag = "tools",
    params(("agent" = String, Path), ("name" = String, Path)), request_body = Value,
    responses((status = 204), (status = 422, body = Problem)),
)]
pub async fn activate(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, name)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Admin)?;
    let activation: Activation = json_body(body, BODY_BYTES_MAX).await?;
    state.tools(caller.tenant)?.catalogue().activate(&agent, &name, &activation).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A call's status over HTTP: 200 when it is over, 202 for a receipt.
fn answered(answer: Answer) -> Response {
    let status = if answer.over() { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(answer)).into_response()
}

async fn asked_of(headers: &HeaderMap, body: Body) -> Result<Asked, Problem> {
    let mut asked: Asked = json_body(body, BODY_BYTES_MAX).await?;
    if let Some(key) = super::messages::idempotency_key(headers)? {
        asked.idempotency_key.get_or_insert(key);
    }
    Ok(asked)
}

/// Calls a tool. Whatever has a side effect is durable before it leaves. Answers the outcome, or after `wait_ms` a receipt.
#[utoipa::path(
    post, path = "/v1/tools/{name}/execute", tag = "tools", params(("name" = String, Path)), request_body = Value,
    responses(
        (status = 200, description = "it is over: {status: done | failed | declined | compensated, result, error, ...}"),
        (status = 202, description = "a receipt: {execution_id, status, ...}"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem),
    ),
)]
pub async fn execute(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.must_have(Scope::Write)?;
    let asked = asked_of(&headers, body).await?;
    let by = format!("token {}", caller.token);
    Ok(answered(state.tools(caller.tenant)?.call(&name, asked, Some(&by), None).await?))
}

/// Calls a tool, and tells how it goes, line by line (NDJSON): `status`, `progress`, and one `final_result` or `error`. A
/// stream that ends without either says nothing about the outcome: ask for the execution.
#[utoipa::path(
    post, path = "/v1/tools/{name}/execute-stream", tag = "tools", params(("name" = String, Path)), request_body = Value,
    responses((status = 200, description = "application/x-ndjson"), (status = 404, body = Problem), (status = 422, body = Problem)),
)]
pub async fn execute_stream(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.must_have(Scope::Write)?;
    let asked = Asked { wait_ms: Some(0), ..asked_of(&headers, body).await? };
    let by = format!("token {}", caller.token);
    let door = state.tools(caller.tenant)?;
    let answer = door.call(&name, asked, Some(&by), None).await?;
    Ok(streamed(&state, &caller, door, answer, 0))
}

/// From which line on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AfterSeq {
    /// The number of the last line that was read.
    pub after_seq: Option<u64>,
}

/// Follows an execution, as `execute-stream` does.
#[utoipa::path(
    get, path = "/v1/tool-executions/{id}/stream", tag = "tools", params(("id" = String, Path), AfterSeq),
    responses((status = 200, description = "application/x-ndjson"), (status = 404, body = Problem)),
)]
pub async fn stream_of(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
    Query(query): Query<AfterSeq>,
) -> Result<Response, Problem> {
    caller.must_have(Scope::Read)?;
    let door = state.tools(caller.tenant)?;
    let answer = door.execution(id("execution", &run)?).await?;
    Ok(streamed(&state, &caller, door, answer, query.after_seq.map_or(0, |seq| seq + 1)))
}

/// A line of a stream.
fn line(kind: &str, seq: u64, mut said: Value) -> Bytes {
    said["type"] = json!(kind);
    said["seq"] = json!(seq);
    Bytes::from(format!("{said}\n"))
}

fn streamed(state: &AppState, caller: &Caller, door: Door, answer: Answer, first: u64) -> Response {
    let (sender, lines) = mpsc::channel::<Bytes>(64);
    let (engine, tenant) = (state.engine().clone(), caller.tenant);
    tokio::spawn(async move {
        let mut seq = first;
        let mut say = async |kind: &str, said: Value| {
            let sent = sender.send(line(kind, seq, said)).await.is_ok();
            seq += 1;
            sent
        };
        let run = answer.execution_id.as_ref().and_then(|id| id.parse::<RunId>().ok());
        let mut standing = answer;
        let scope = run.map(|run| format!("{EXECUTION_SCOPE}{run}"));
        let mut progress = engine.hub().listen(tenant, scope.as_deref().or(Some(EXECUTION_SCOPE)));
        if !say("status", json!({ "status": standing.status, "execution_id": standing.execution_id })).await {
            return;
        }
        while let (false, Some(run)) = (standing.over(), run) {
            let mut following = std::pin::pin!(door.follow(run, standing.repeated, HEARTBEAT));
            let looked = loop {
                tokio::select! {
                    looked = &mut following => break looked,
                    Ok(heard) = progress.recv() => {
                        let said: Value = serde_json::from_slice(&heard.event.data).unwrap_or_default();
                        if !say("progress", json!({ "progress": said })).await {
                            return;
                        }
                    }
                }
            };
            match looked {
                Ok(found) => standing = found,
                Err(error) => {
                    let _ = say("error", json!({ "error": { "code": "stream_failed", "message": error.to_string() } }))
                        .await;
                    return;
                }
            }
            if !standing.over() {
                if !say("status", json!(standing)).await {
                    return;
                }
                if standing.prompt.is_some() {
                    // A person is asked: that may take days, and is looked at now and then.
                    tokio::time::sleep(HEARTBEAT).await;
                }
            }
        }
        let kind = if standing.status == "done" { "final_result" } else { "error" };
        let _ = say(kind, json!(standing)).await;
    });
    let body = Body::from_stream(received(lines));
    ([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

pub(super) fn received(lines: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(lines, |mut lines| async move { lines.recv().await.map(|line| (Ok(line), lines)) })
}

/// Which executions to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListExecutions {
    /// Only of this tool.
    pub tool: Option<String>,
    /// Only with this status.
    pub status: Option<String>,
    /// Only in this session.
    pub session: Option<String>,
    /// Only for this agent.
    pub agent: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// An execution in a list.
#[derive(Debug, Serialize)]
pub(crate) struct ExecutionView {
    #[serde(flatten)]
    pub answer: Answer,
    pub arguments: String,
    pub policy: Value,
    pub caller: Value,
    pub created_at: u64,
    pub finished_at: Option<u64>,
}

/// Lists executions, newest first. What was called directly has none, and is in the events `tool.done` and `tool.failed`.
#[utoipa::path(
    get, path = "/v1/tool-executions", tag = "tools", params(ListExecutions),
    responses((status = 200, description = "{executions, next_cursor}"), (status = 401, body = Problem)),
)]
pub async fn executions(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListExecutions>,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Read)?;
    let (executions, next) = executions_of(&state.tools(caller.tenant)?, query).await?;
    Ok(Json(json!({ "executions": executions, "next_cursor": next })))
}

/// The list, for the API and the page alike.
pub(crate) async fn executions_of(
    door: &Door,
    query: ListExecutions,
) -> Result<(Vec<ExecutionView>, Option<String>), Problem> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let before = match some(query.cursor) {
        Some(cursor) => Some(id::<RunId>("cursor", &cursor)?),
        None => None,
    };
    let (tool, status, session, agent) = (some(query.tool), some(query.status), some(query.session), some(query.agent));
    let (client, tenant) = (door.client(), door.client().tenant());
    let mut runs: Vec<RunId> = Vec::new();
    for workflow in [run::WORKFLOW, run::ORDERED, run::TASK] {
        let filter = RunFilter { workflow: Some(workflow.to_owned()), state: None };
        let page = client.engine().read(tenant, move |reader| reader.runs(tenant, &filter, before, PAGE_MAX)).await?;
        runs.extend(page.rows.into_iter().map(|(run, _)| run));
    }
    runs.sort_unstable_by(|a, b| b.cmp(a));
    let more = runs.len() > PAGE_MAX;
    runs.truncate(PAGE_MAX);
    let next = runs.last().filter(|_| more).map(ToString::to_string);
    let mut executions = Vec::new();
    for run in runs {
        let Ok((execution, row)) = door.read(run).await else { continue };
        let fits = tool.as_ref().is_none_or(|wanted| *wanted == execution.tool.name)
            && session.as_ref().is_none_or(|wanted| execution.caller.session.as_ref() == Some(wanted))
            && agent.as_ref().is_none_or(|wanted| execution.caller.agent.as_ref() == Some(wanted));
        if !fits {
            continue;
        }
        let answer = door.execution(run).await?;
        if status.as_ref().is_none_or(|wanted| *wanted == answer.status) {
            executions.push(ExecutionView {
                answer,
                arguments: mainspring_flows::tools::call::preview(&execution.tool, &execution.arguments),
                policy: json!(execution.tool.policy),
                caller: json!(execution.caller),
                created_at: row.created_at,
                finished_at: row.finished_at,
            });
        }
    }
    Ok((executions, next))
}

/// Shows how an execution stands.
#[utoipa::path(
    get, path = "/v1/tool-executions/{id}", tag = "tools", params(("id" = String, Path)),
    responses((status = 200, description = "{status, result, error, ...}"), (status = 404, body = Problem)),
)]
pub async fn execution(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Answer>, Problem> {
    caller.must_have(Scope::Read)?;
    Ok(Json(state.tools(caller.tenant)?.execution(id("execution", &run)?).await?))
}

/// Why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reason {
    /// For whoever looks later.
    reason: Option<String>,
}

/// Asks an execution to end: what it has not begun it does not begin, and what it did is undone. Durable when answered.
#[utoipa::path(
    post, path = "/v1/tool-executions/{id}/cancel", tag = "tools", params(("id" = String, Path)), request_body = Reason,
    responses((status = 202), (status = 404, body = Problem)),
)]
pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Write)?;
    let bytes = super::body_bytes(body, BODY_BYTES_MAX).await?;
    let reason: Reason = serde_json::from_slice(&bytes).unwrap_or_default();
    let reason = reason.reason.unwrap_or_else(|| "cancelled by request".to_owned());
    state.tools(caller.tenant)?.cancel(id("execution", &run)?, &reason).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Has a call that was carried out undone, by the tool it names for that. Asked for again it is the same undoing.
#[utoipa::path(
    post, path = "/v1/tool-executions/{id}/compensate", tag = "tools", params(("id" = String, Path)),
    responses((status = 202, description = "{execution_id}"), (status = 404, body = Problem), (status = 422, body = Problem)),
)]
pub async fn compensate(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.must_have(Scope::Write)?;
    let by = format!("token {}", caller.token);
    let undoing = state.tools(caller.tenant)?.compensate(id("execution", &run)?, &by).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "execution_id": undoing.to_string() }))))
}

/// Lists what waits for a person, the oldest first: outcomes nobody knows, confirmations, tasks, what could not be undone.
#[utoipa::path(
    get, path = "/v1/attention", tag = "tools",
    responses((status = 200, description = "{attention: [{kind, run_id, step, title, verbs, since, detail}]}")),
)]
pub async fn attention(State(state): State<AppState>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Read)?;
    let waiting: Vec<Attention> = state.tools(caller.tenant)?.attention().await?;
    Ok(Json(json!({ "attention": waiting })))
}

/// Settles what a run asks of a person, with one of its verbs. Durable when answered.
#[utoipa::path(
    post, path = "/v1/attention/{run}/{step}/settle", tag = "tools",
    params(("run" = String, Path), ("step" = String, Path)), request_body = Value,
    responses((status = 202), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn settle(
    State(state): State<AppState>,
    caller: Caller,
    Path((run, step)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Write)?;
    let verdict: Verdict = json_body(body, BODY_BYTES_MAX).await?;
    let by = format!("token {}", caller.token);
    state.tools(caller.tenant)?.settle(id("run", &run)?, &step, &verdict, &by).await?;
    Ok(StatusCode::ACCEPTED)
}

/// An outcome that comes later.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CallbackBody {
    /// `success` or `error`.
    status: String,
    /// What it gave.
    #[serde(default)]
    result: Option<Value>,
    /// Why it was not carried out.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    error: Option<ToolError>,
}

/// Takes the outcome of an execution from its provider, with the token it was sent (`Mainspring-Callback-Token`). The first
/// one counts: the same again is 200, another 409. Durable when answered.
#[utoipa::path(
    post, path = "/v1/tool-callbacks/{id}", tag = "tools", security(("callback" = [])),
    params(("id" = String, Path)), request_body = CallbackBody,
    responses((status = 200, description = "{answer: taken | repeated | late}"), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem)),
)]
pub async fn callback(
    State(state): State<AppState>,
    Path(execution): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let action = "send the token that came with the call, as `Authorization: Bearer`";
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = text.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
    let now = state.engine().world().now_ms();
    let grant = state.auth().keys().turn_tokens().check_callback(token, now).map_err(|bad| {
        Problem::new(StatusCode::UNAUTHORIZED, "callback_token_invalid", format!("callback token: {bad}"), action)
    })?;
    let run: RunId = id("execution", &execution)?;
    if grant.run != run {
        // Somebody tries with a token of something else: nothing changes, and the token's tenant is told.
        let told = json!({ "execution_id": grant.run.to_string(), "asked_for": run.to_string() });
        if let Err(error) = state.client(grant.tenant).emit("tool.callback_refused", None, &told).await {
            tracing::warn!(%error, "a refused callback could not be told");
        }
        let detail = "this token is for another execution".to_owned();
        return Err(Problem::new(StatusCode::FORBIDDEN, "callback_forbidden", detail, action));
    }
    let said: CallbackBody = json_body(body, BODY_BYTES_MAX).await?;
    let late = late_of(&said.status, said.result, said.error)
        .map_err(|problem| Problem::bad_request("callback_unusable", problem, "send a final status"))?;
    let answer = state.tools(grant.tenant)?.callback(run, &grant.step, late).await?;
    if answer == CallbackAnswer::Conflict {
        let detail = "another outcome of this execution is on record: the first counts".to_owned();
        return Err(Problem::new(StatusCode::CONFLICT, "callback_conflict", detail, "GET the execution"));
    }
    Ok(Json(json!({ "answer": answer })))
}

/// Calls a tool on behalf of a turn's attempt.
#[utoipa::path(
    post, path = "/v1/turn/tools/{name}", tag = "turn calls", security(("turn" = [])),
    params(("name" = String, Path)), request_body = Value,
    responses((status = 200), (status = 202), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn execute_in_turn(
    State(state): State<AppState>,
    attempt: Attempt,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let asked: Asked = json_body(body, BODY_BYTES_MAX).await?;
    let door = state.tools(attempt.grant().tenant)?;
    Ok(answered(door.call(&name, asked, Some("agent"), Some(attempt.grant())).await?))
}

/// Lists what the turn's agent may use, and what it could have.
#[utoipa::path(
    get, path = "/v1/turn/tools", tag = "turn calls", security(("turn" = [])),
    responses((status = 200, description = "{tools: [{tier, ...tool}]}"), (status = 401, body = Problem)),
)]
pub async fn list_in_turn(State(state): State<AppState>, attempt: Attempt) -> Result<Json<Value>, Problem> {
    let grant = attempt.grant();
    let agent = mainspring_flows::SessionKey::parse(&grant.session).map(|key| key.agent);
    Ok(Json(json!({ "tools": listed(&state.tools(grant.tenant)?, agent.as_deref()).await? })))
}

/// How long a turn waits for one of its executions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitFor {
    /// Milliseconds; 0 only looks.
    pub wait_ms: Option<u64>,
}

/// How an execution stands, for the turn that asked for it or one that took over from it.
#[utoipa::path(
    get, path = "/v1/turn/tool-executions/{id}", tag = "turn calls", security(("turn" = [])),
    params(("id" = String, Path), WaitFor),
    responses((status = 200), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn execution_in_turn(
    State(state): State<AppState>,
    attempt: Attempt,
    Path(run): Path<String>,
    Query(query): Query<WaitFor>,
) -> Result<Json<Answer>, Problem> {
    let (door, run) = (state.tools(attempt.grant().tenant)?, id("execution", &run)?);
    of_session(&door, run, &attempt).await?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0).min(WAIT_MS_MAX));
    Ok(Json(door.follow(run, true, wait).await?))
}

/// Answers a confirmation on behalf of the person of the session, as they said in a message.
#[utoipa::path(
    post, path = "/v1/turn/tool-executions/{id}/confirm", tag = "turn calls", security(("turn" = [])),
    params(("id" = String, Path)), request_body = Value,
    responses((status = 202), (status = 401, body = Problem), (status = 409, body = Problem)),
)]
pub async fn confirm_in_turn(
    State(state): State<AppState>,
    attempt: Attempt,
    Path(run): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Said {
        approve: bool,
        #[serde(default)]
        note: Option<String>,
    }
    let said: Said = json_body(body, BODY_BYTES_MAX).await?;
    let (door, run) = (state.tools(attempt.grant().tenant)?, id("execution", &run)?);
    of_session(&door, run, &attempt).await?;
    // Whoever is not the present attempt says nothing for the person.
    attempt.standing(&state).await?;
    let verb = if said.approve { "yes" } else { "no" }.to_owned();
    let verdict = Verdict { verb, result: Value::Null, note: said.note };
    let by = format!("turn {}", attempt.grant().turn);
    door.settle(run, run::CONFIRM_STEP, &verdict, &by).await?;
    Ok(StatusCode::ACCEPTED)
}

/// An execution of another session is not there.
async fn of_session(door: &Door, run: RunId, attempt: &Attempt) -> Result<(), Problem> {
    let (execution, _) = door.read(run).await?;
    if execution.caller.session.as_ref() == Some(&attempt.grant().session) {
        Ok(())
    } else {
        Err(Problem::not_found("execution of a tool in this session"))
    }
}
