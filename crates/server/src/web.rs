//! The pages' routes: who is asking, what to show, and the headers that keep a page what it is.

mod config;
mod streams;
mod tools;

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use mainspring_client::ATTENTION;
use mainspring_core::{Command, Reply};
use mainspring_engine::RunFilter;
use mainspring_flows::records;
use mainspring_flows::turn::WORKFLOW;
use serde::Deserialize;

use crate::api::{id, runs, turns};
use crate::auth::{COOKIE, Caller, Scope};
use crate::pages::{
    AgentChoice, AsOf, ChatPage, Counts, ErrorPage, Frame, LoginPage, NodesPage, OverviewPage, PageError, RunPage,
    RunsFilter, RunsPage, TurnPage, TurnRow, asset, asset_cache_control,
};
use crate::problem::Problem;
use crate::state::AppState;
use crate::views::{RunSummary, run_view, session_of, turn_summary, turn_view};

/// What waits for a person is counted so far for the menu, on each page.
const WAITING_MAX: usize = 100;

pub(crate) fn routes() -> Router<AppState> {
    Router::new().route("/assets/{*path}", get(assets)).merge(pages())
}

fn pages() -> Router<AppState> {
    Router::new()
        .route("/", get(overview))
        .route("/chat", get(chat))
        .route("/turns/{id}", get(turn))
        .route("/turns/{id}/replay", post(replay))
        .route("/runs", get(run_list))
        .route("/runs/{id}", get(run))
        .route("/runs/{id}/cancel", post(cancel))
        .route("/nodes", get(nodes))
        .merge(crate::webhook_pages::routes())
        .merge(tools::routes())
        .merge(config::routes())
        .merge(streams::routes())
        .route("/login", get(login).post(log_in))
        .layer(axum::middleware::from_fn(harden))
}

/// What keeps other sites and injected text from doing anything with a page.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn assets(Path(path): Path<String>) -> Response {
    match asset(&path) {
        Some((bytes, content_type)) => {
            let cache = asset_cache_control(&path);
            ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, cache)], bytes).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A problem as a page, because a person asked.
pub(crate) struct Shown(Response);

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        self.0
    }
}

pub(crate) fn shown(state: &AppState, tenant: Option<String>, problem: Problem) -> Shown {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let page = ErrorPage {
        frame: frame(tenant),
        status: problem.status,
        code: Some(problem.code.clone()),
        title: problem.title.clone(),
        detail: problem.detail.clone(),
        action: problem.action.clone(),
    };
    match state.pages().error(&page) {
        Ok(html) => Shown((status, Html(html)).into_response()),
        Err(_) => Shown((status, format!("{}: {}", problem.title, problem.detail)).into_response()),
    }
}

pub(crate) fn rendered(state: &AppState, page: Result<String, PageError>) -> Result<Html<String>, Shown> {
    page.map(Html).map_err(|error| {
        tracing::error!(%error, "a page could not be rendered");
        let action = "this is a defect; the API still works";
        shown(state, None, Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "page_defective", error.to_string(), action))
    })
}

pub(crate) fn frame(tenant: Option<String>) -> Frame {
    Frame { tenant, version: env!("CARGO_PKG_VERSION").to_owned(), now_ms: now_ms(), waiting: 0 }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A person with a token, or the way to get one.
pub(crate) struct Visitor {
    pub(crate) caller: Caller,
    pub(crate) tenant: String,
    /// What waits for a person, for the menu.
    waiting: usize,
}

impl Visitor {
    pub(crate) fn frame(&self) -> Frame {
        Frame { waiting: self.waiting, ..frame(Some(self.tenant.clone())) }
    }
}

impl axum::extract::FromRequestParts<AppState> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &AppState) -> Result<Self, Response> {
        state.requests().fetch_add(1, Ordering::Relaxed);
        #[derive(Deserialize)]
        struct WithToken {
            token: Option<String>,
        }
        let path = parts.uri.path().to_owned();
        if let Ok(Query(WithToken { token: Some(token) })) = Query::try_from_uri(&parts.uri) {
            // The token must not stay in the address bar, in the history or in a referrer.
            return Err(welcome(state, &token, &path));
        }
        let caller = Caller::from_request_parts(parts, state).await.and_then(|caller| {
            if path == "/webhooks" || path.starts_with("/webhooks/") {
                caller.may_see_webhooks()?;
            } else {
                caller.must_have(Scope::Read)?;
            }
            Ok(caller)
        });
        match caller {
            Ok(caller) => {
                let name = state.engine().read(caller.tenant, {
                    let tenant = caller.tenant;
                    move |reader| reader.tenants().map(|all| all.into_iter().find(|(id, _)| *id == tenant))
                });
                let name = name.await.ok().flatten().map_or_else(|| caller.tenant.to_string(), |(_, row)| row.name);
                let waiting = state.client(caller.tenant).documents_after(ATTENTION, "", None, WAITING_MAX).await;
                Ok(Visitor { caller, tenant: name, waiting: waiting.map_or(0, |waiting| waiting.len()) })
            }
            Err(_) => Err(Redirect::to(&format!("/login?next={}", encode(&path))).into_response()),
        }
    }
}

/// Sets the cookie and leads on to a page of this server.
fn welcome(state: &AppState, token: &str, next: &str) -> Response {
    let token = state.token_for(token);
    // Browsers read a backslash as a slash and leave tabs and line breaks out, so "/\t/elsewhere" would lead elsewhere.
    let here =
        next.starts_with('/') && !next.starts_with("//") && !next.contains(|c: char| c == '\\' || c.is_control());
    let next = if here { next } else { "/" };
    if state.auth().caller(token).is_none() {
        let reason = "That token is not one of this server's, or has expired.";
        let page = LoginPage { frame: frame(None), reason: Some(reason.to_owned()), next: Some(next.to_owned()) };
        return (StatusCode::UNAUTHORIZED, rendered(state, state.pages().login(&page))).into_response();
    }
    let secure = if state.options().public_url.starts_with("https:") { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000{secure}");
    let Ok(cookie) = HeaderValue::from_str(&cookie) else { return StatusCode::BAD_REQUEST.into_response() };
    ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response()
}

pub(crate) fn encode(path: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    path.bytes().map(|byte| if keep(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn overview(State(state): State<AppState>, visitor: Visitor) -> Result<Html<String>, Shown> {
    let tenant = visitor.caller.tenant;
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let engine = state.engine();
    let counts = match engine.submit(tenant, Command::Count).await {
        Ok((Reply::Counts(counts), _)) => counts,
        Ok((other, _)) => unreachable!("a count is answered as one, not {other:?}"),
        Err(error) => return Err(fail(error.into())),
    };
    engine.wait_applied(tenant, engine.durable_position(tenant), Duration::from_millis(100)).await;
    let read = engine.read(tenant, move |reader| {
        let turns = RunFilter { workflow: Some(WORKFLOW.to_owned()), state: None };
        Ok((
            reader.applied(),
            reader.runs(tenant, &turns, None, 10)?,
            reader.runs(tenant, &RunFilter::default(), None, 10)?,
        ))
    });
    let (position, turns, runs) = read.await.map_err(|error| fail(error.into()))?;
    let turn_rows = turns.rows.iter().filter_map(|(id, row)| {
        let (session, summary) = (session_of(row)?, turn_summary(*id, row));
        Some(TurnRow {
            id: summary.id,
            state: summary.state,
            agent: session.agent,
            interlocutor: session.interlocutor,
            channel: session.channel,
            started_at: summary.started_at,
            finished_at: summary.finished_at,
            message_count: u64::from(summary.message_count),
        })
    });
    let page = OverviewPage {
        frame: visitor.frame(),
        counts: Counts {
            runs_live: counts.runs_live,
            turns_waiting: counts.messages_unread,
            turns_processing: counts.tasks_running,
            messages_accepted: state.accepted().load(Ordering::Relaxed),
            workers_connected: counts.workers,
        },
        turns: turn_rows.collect(),
        runs: runs.rows.iter().filter_map(|(id, row)| serde_json::to_value(RunSummary::of(*id, row)).ok()).collect(),
        as_of: AsOf { position, lag_ms: 0 },
    };
    rendered(&state, state.pages().overview(&page))
}

async fn nodes(State(state): State<AppState>, visitor: Visitor) -> Result<Html<String>, Shown> {
    let cluster = state.cluster(visitor.caller.tenant);
    rendered(&state, state.pages().nodes(&NodesPage { frame: visitor.frame(), cluster }))
}

#[derive(Deserialize)]
struct ChatQuery {
    agent: Option<String>,
    #[serde(rename = "as")]
    interlocutor: Option<String>,
}

async fn chat(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(query): Query<ChatQuery>,
) -> Result<Html<String>, Shown> {
    let names = state.agents().names(visitor.caller.tenant);
    let page = ChatPage {
        frame: visitor.frame(),
        agents: names.into_iter().map(|name| AgentChoice { name, description: None }).collect(),
        agent: query.agent,
        interlocutor: query.interlocutor,
    };
    rendered(&state, state.pages().chat(&page))
}

async fn turn(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(turn): Path<String>,
) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let turn = id("turn", &turn).map_err(fail)?;
    let found = turn_view(&state.client(visitor.caller.tenant), turn).await.map_err(fail)?;
    let turn = found.ok_or_else(|| fail(Problem::not_found("turn")))?;
    let kept = records::state(&state.client(visitor.caller.tenant), &turn.session).await;
    let kept = kept.map_err(|error| fail(error.into()))?;
    let page = TurnPage {
        frame: visitor.frame(),
        turn: serde_json::to_value(turn).unwrap_or_default(),
        state: serde_json::to_value(kept).unwrap_or_default(),
    };
    rendered(&state, state.pages().turn(&page))
}

/// The button of a browser without scripts that sends a failed turn's messages again.
async fn replay(State(state): State<AppState>, caller: Caller, Path(turn): Path<String>) -> Result<Redirect, Shown> {
    let fail = |problem: Problem| shown(&state, None, problem);
    caller.must_have(Scope::Write).map_err(fail)?;
    let turn = id("turn", &turn).map_err(fail)?;
    let replayed = turns::send_again(&state, caller.tenant, turn).await.map_err(fail)?;
    Ok(Redirect::to(&format!("/turns/{}", replayed.turn_id)))
}

async fn run_list(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(query): Query<runs::ListRuns>,
) -> Result<Html<String>, Shown> {
    let filter =
        RunsFilter { workflow: query.workflow.clone(), state: query.state.clone(), cursor: query.cursor.clone() };
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let tenant = visitor.caller.tenant;
    let list = runs::list_of(&state.client(tenant), query).await.map_err(fail)?;
    let workflows = state.engine().read(tenant, move |reader| {
        let rows: Vec<(u128, mainspring_core::row::WorkflowRow)> =
            reader.all(tenant, mainspring_core::Table::Workflow)?;
        Ok(rows.into_iter().filter(|(_, row)| row.current).map(|(_, row)| row.def.name).collect::<Vec<_>>())
    });
    let page = RunsPage {
        frame: visitor.frame(),
        list: serde_json::to_value(list).unwrap_or_default(),
        filter,
        workflows: workflows.await.unwrap_or_default(),
    };
    rendered(&state, state.pages().runs(&page))
}

async fn run(State(state): State<AppState>, visitor: Visitor, Path(run): Path<String>) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let run = id("run", &run).map_err(fail)?;
    let found = run_view(&state.client(visitor.caller.tenant), run).await.map_err(fail)?;
    let run = found.ok_or_else(|| fail(Problem::not_found("run")))?;
    let run = serde_json::to_value(run).unwrap_or_default();
    rendered(&state, state.pages().run(&RunPage { frame: visitor.frame(), run }))
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
    let run = id("run", &run).map_err(fail)?;
    let reason = form.reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "cancelled by request".to_owned());
    let cancelled = state.engine().submit(caller.tenant, Command::CancelRun { run, reason }).await;
    cancelled.map_err(|error| fail(error.into()))?;
    Ok(Redirect::to(&format!("/runs/{run}")))
}

#[derive(Deserialize)]
struct LoginQuery {
    next: Option<String>,
}

async fn login(State(state): State<AppState>, Query(query): Query<LoginQuery>) -> Result<Html<String>, Shown> {
    let page = LoginPage { frame: frame(None), reason: None, next: query.next };
    rendered(&state, state.pages().login(&page))
}

#[derive(Deserialize)]
struct LoginForm {
    token: String,
    next: Option<String>,
}

async fn log_in(State(state): State<AppState>, Form(form): Form<LoginForm>) -> Response {
    welcome(&state, form.token.trim(), form.next.as_deref().unwrap_or("/"))
}
