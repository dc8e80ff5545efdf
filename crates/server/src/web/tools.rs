//! The pages about tools: the catalogue, executions, and what waits for a person, with the buttons that settle it.

use axum::Router;
use axum::extract::{Form, Path, Query, State};
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use mainspring_client::{DocumentKey, RunId};
use mainspring_flows::records;
use mainspring_flows::tools::door::Verdict;
use mainspring_flows::tools::{Door, Execution, ToolCallError, call, run};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shown, Visitor, rendered, shown};
use crate::api::{id, tools as api};
use crate::auth::{Caller, Scope};
use crate::pages::{AttentionPage, ExecutionPage, ExecutionsFilter, ExecutionsPage, ToolsPage};
use crate::problem::Problem;
use crate::state::AppState;
use crate::views::{RunView, run_view};

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/tools", get(catalogue))
        .route("/tools/executions", get(executions))
        .route("/tools/executions/{id}", get(execution))
        .route("/tools/executions/{id}/cancel", post(cancel))
        .route("/tools/executions/{id}/compensate", post(compensate))
        .route("/attention", get(attention))
        .route("/attention/{run}/{step}/settle", post(settle))
}

async fn catalogue(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(query): Query<api::ForAgent>,
) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let agent = query.agent.filter(|agent| !agent.is_empty());
    let door = state.tools(visitor.caller.tenant).map_err(fail)?;
    let page = ToolsPage {
        frame: visitor.frame(),
        tools: api::listed(&door, agent.as_deref()).await.map_err(fail)?,
        agents: state.agents().names(visitor.caller.tenant),
        agent,
    };
    rendered(&state, state.pages().tools(&page))
}

async fn executions(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(query): Query<api::ListExecutions>,
) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let door = state.tools(visitor.caller.tenant).map_err(fail)?;
    let filter = ExecutionsFilter {
        tool: query.tool.clone(),
        status: query.status.clone(),
        session: query.session.clone(),
        agent: query.agent.clone(),
        cursor: query.cursor.clone(),
    };
    let (executions, next_cursor) = api::executions_of(&door, query).await.map_err(fail)?;
    let tools = door.catalogue().tools().await.map_err(|error| fail(ToolCallError::from(error).into()))?;
    let page = ExecutionsPage {
        frame: visitor.frame(),
        executions: executions.iter().map(|one| json!(one)).collect(),
        next_cursor,
        filter,
        tools: tools.into_iter().map(|entry| entry.tool.name).collect(),
    };
    rendered(&state, state.pages().executions(&page))
}

async fn execution(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(run): Path<String>,
) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let door = state.tools(visitor.caller.tenant).map_err(fail)?;
    let run: RunId = id("execution", &run).map_err(fail)?;
    let told = told(&door, run).await.map_err(fail)?;
    let found = run_view(door.client(), run).await.map_err(fail)?;
    let found = found.ok_or_else(|| fail(Problem::not_found("execution of a tool")))?;
    let page = ExecutionPage {
        frame: visitor.frame(),
        children: children(&door, &found).await.map_err(fail)?,
        run: json!(found),
        execution: told,
    };
    rendered(&state, state.pages().execution(&page))
}

/// An execution as the API tells it, with what it is about and what it asks of a person.
async fn told(door: &Door, run: RunId) -> Result<Value, Problem> {
    let (execution, row) = door.read(run).await?;
    let mut told = json!(door.execution(run).await?);
    let undone_by = match &execution.ledger {
        Some(ledger) => {
            let key = DocumentKey::new(records::EFFECT, format!("{ledger}:comp:{run}"));
            door.client().document(key).await.map_err(ToolCallError::from)?.and_then(|row| row.by)
        }
        None => None,
    };
    let undone_by = match undone_by {
        Some(by) => Some(json!({ "execution_id": by.to_string(), "status": door.execution(by).await?.status })),
        None => None,
    };
    let asked = door.asks(run).await?;
    let Execution { tool, version, others, arguments, caller, confirm, deadline_at, undoes, step, .. } = &execution;
    let compensations: serde_json::Map<String, Value> = others
        .values()
        .chain([tool])
        .filter_map(|tool| Some((tool.name.clone(), json!(tool.compensation.as_ref()?.tool))))
        .collect();
    if let Some(members) = told.as_object_mut() {
        members.extend([
            ("execution_id".to_owned(), json!(run.to_string())),
            ("definition".to_owned(), json!(tool)),
            ("version".to_owned(), json!(version)),
            ("way".to_owned(), json!(if row.workflow == run::TASK { "queued" } else { "durable" })),
            ("arguments".to_owned(), json!(call::preview(tool, arguments))),
            ("caller".to_owned(), json!(caller)),
            ("confirm".to_owned(), json!(confirm)),
            ("deadline_at".to_owned(), json!(deadline_at)),
            ("undoes".to_owned(), json!(undoes.as_ref().and_then(|(_, undone)| undone.execution_id.clone()))),
            ("undone_by".to_owned(), json!(undone_by)),
            ("step".to_owned(), json!(step)),
            ("compensations".to_owned(), Value::Object(compensations)),
            ("attention".to_owned(), json!(asked)),
        ]);
    }
    Ok(told)
}

/// The runs of steps that have one of their own, each with the step it is for.
async fn children(door: &Door, run: &RunView) -> Result<Vec<Value>, Problem> {
    let mut children = Vec::new();
    for step in run.tasks.iter().flat_map(|task| &task.journal) {
        let child = step.detail.as_deref().and_then(|detail| detail.strip_prefix("run "));
        let child = child.and_then(|child| child.parse::<RunId>().ok());
        let ours = step.kind == "spawn" && [run::WORKFLOW, run::ORDERED].contains(&step.name.as_str());
        let Some(child) = child.filter(|_| ours) else { continue };
        let Ok((execution, _)) = door.read(child).await else { continue };
        let answer = door.execution(child).await?;
        children.push(json!({
            "step": execution.step, "execution_id": child.to_string(), "status": answer.status, "error": answer.error,
        }));
    }
    Ok(children)
}

#[derive(Deserialize)]
struct CancelForm {
    reason: Option<String>,
}

/// The cancel button of a browser without scripts.
async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(run): Path<String>,
    Form(form): Form<CancelForm>,
) -> Result<Redirect, Shown> {
    let fail = |problem: Problem| shown(&state, None, problem);
    caller.must_have(Scope::Write).map_err(fail)?;
    let run: RunId = id("execution", &run).map_err(fail)?;
    let reason = form.reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "cancelled by request".to_owned());
    let cancelled = state.tools(caller.tenant).map_err(fail)?.cancel(run, &reason).await;
    cancelled.map_err(|error| fail(error.into()))?;
    Ok(Redirect::to(&format!("/tools/executions/{run}")))
}

/// The button of a browser without scripts that has a call undone.
async fn compensate(State(state): State<AppState>, caller: Caller, Path(run): Path<String>) -> Result<Redirect, Shown> {
    let fail = |problem: Problem| shown(&state, None, problem);
    caller.must_have(Scope::Write).map_err(fail)?;
    let run: RunId = id("execution", &run).map_err(fail)?;
    let by = format!("token {}", caller.token);
    let undoing = state.tools(caller.tenant).map_err(fail)?.compensate(run, &by).await;
    let undoing = undoing.map_err(|error| fail(error.into()))?;
    Ok(Redirect::to(&format!("/tools/executions/{undoing}")))
}

async fn attention(State(state): State<AppState>, visitor: Visitor) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let door = state.tools(visitor.caller.tenant).map_err(fail)?;
    let waiting = door.attention().await.map_err(|error| fail(error.into()))?;
    let page = AttentionPage { frame: visitor.frame(), waiting: waiting.iter().map(|one| json!(one)).collect() };
    rendered(&state, state.pages().attention(&page))
}

#[derive(Deserialize)]
struct SettleForm {
    verb: String,
    #[serde(default)]
    result: String,
    #[serde(default)]
    note: String,
}

/// The buttons of a browser without scripts that settle what waits for a person.
async fn settle(
    State(state): State<AppState>,
    caller: Caller,
    Path((run, step)): Path<(String, String)>,
    Form(form): Form<SettleForm>,
) -> Result<Redirect, Shown> {
    let fail = |problem: Problem| shown(&state, None, problem);
    caller.must_have(Scope::Write).map_err(fail)?;
    let run: RunId = id("run", &run).map_err(fail)?;
    let result = match form.result.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).map_err(|error| {
            let action = "write JSON, as {\"booking\": \"F-1\"}, or leave it empty";
            fail(Problem::bad_request("json_malformed", format!("the result is no JSON: {error}"), action))
        })?,
    };
    let note = Some(form.note.trim().to_owned()).filter(|note| !note.is_empty());
    let verdict = Verdict { verb: form.verb, result, note };
    let by = format!("token {}", caller.token);
    let settled = state.tools(caller.tenant).map_err(fail)?.settle(run, &step, &verdict, &by).await;
    settled.map_err(|error| fail(error.into()))?;
    Ok(Redirect::to("/attention"))
}
