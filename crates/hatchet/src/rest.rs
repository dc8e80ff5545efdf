//! The REST calls that Hatchet's SDKs make beside gRPC: to look at runs, tasks, workers, workflows, events and limits,
//! and to cancel, replay and pause.
//!
//! Which operations there are, and how far each is served, stands in [`crate::compatibility`]; those that are not served
//! yet answer 501 and say so. Every call but the three that ask whether the server is there needs a token, and a tenant
//! in the address must be the token's own.
//!
//! What this module does not know: how anything is decided. Calls that change something become commands.

mod events;
mod history;
mod limits;
mod logs;
mod metrics;
mod models;
mod problem;
mod runs;
mod shown;
mod tasks;
mod tenant;
mod time;
mod workers;
mod workflows;

use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::routing::{MethodFilter, MethodRouter, any, get, on, patch, post};
use axum::{Json, Router};
use mainspring_core::TenantId;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::compatibility::{OPERATIONS, State};
use crate::details::Run;
use crate::gate::bearer;
use crate::payload;
use crate::server::{Hatchet, VERSION};
use problem::Problem;

/// Bytes of a request's body: a payload, and what is around it.
const BODY_BYTES_MAX: usize = payload::BYTES_MAX + 64 * 1024;
/// Rows of one page.
const PAGE_MAX: usize = 1_000;
/// Rows of a page of which no size is asked for.
const PAGE: usize = 50;
/// Rows skipped before a page. Each is read, so that pages far behind are dear.
const OFFSET_MAX: usize = 100_000;
/// Parameters of one request.
const PARAMETERS_MAX: usize = 1_000;

/// What a call answers.
type Answer<T> = Result<Json<T>, Problem>;

/// All routes under `/api`.
pub(crate) fn routes(hatchet: &Hatchet) -> Router {
    let served = served();
    let mut router = Router::new();
    for (path, methods) in served {
        router = router.route(path, methods);
    }
    for operation in OPERATIONS.iter().filter(|operation| operation.state == State::NotYet) {
        let name = operation.name;
        let answer = move || async move { not_served(name) };
        if let Ok(method) = MethodFilter::try_from(operation.method()) {
            router = router.route(operation.path, on(method, answer));
        }
    }
    router.route("/api/{*rest}", any(unknown)).method_not_allowed_fallback(no_method).with_state(hatchet.clone())
}

/// What is served, by path.
fn served() -> Vec<(&'static str, MethodRouter<Hatchet>)> {
    vec![
        ("/api/live", get(alive)),
        ("/api/ready", get(ready)),
        ("/api/v1/version", get(version)),
        ("/api/v1/stable/tasks/{task}", get(tasks::show)),
        ("/api/v1/stable/tasks/{task}/logs", get(logs::list)),
        ("/api/v1/stable/tasks/{task}/task-events", get(tasks::events)),
        ("/api/v1/stable/tenants/{tenant}/events", get(events::list)),
        ("/api/v1/stable/tenants/{tenant}/events/{v1-event}", get(events::show)),
        ("/api/v1/stable/tenants/{tenant}/task-metrics", get(metrics::by_status)),
        ("/api/v1/stable/tenants/{tenant}/tasks/cancel", post(tasks::cancel)),
        ("/api/v1/stable/tenants/{tenant}/tasks/replay", post(tasks::replay)),
        ("/api/v1/stable/tenants/{tenant}/workflow-runs", get(runs::list)),
        ("/api/v1/stable/tenants/{tenant}/workflow-runs/external-ids", get(runs::ids)),
        ("/api/v1/stable/tenants/{tenant}/workflow-runs/trigger", post(runs::trigger)),
        ("/api/v1/stable/workflow-runs/{v1-workflow-run}", get(runs::show)),
        ("/api/v1/stable/workflow-runs/{v1-workflow-run}/status", get(runs::status)),
        ("/api/v1/stable/workflow-runs/{v1-workflow-run}/task-events", get(runs::events)),
        ("/api/v1/tenants/{tenant}", get(tenant::show)),
        ("/api/v1/tenants/{tenant}/rate-limits", get(limits::list)),
        ("/api/v1/tenants/{tenant}/step-run-queue-metrics", get(metrics::queues)),
        ("/api/v1/tenants/{tenant}/task-stats", get(metrics::by_action)),
        ("/api/v1/tenants/{tenant}/worker", get(workers::list)),
        ("/api/v1/tenants/{tenant}/workflows", get(workflows::list)),
        ("/api/v1/workers/{worker}", get(workers::show)),
        ("/api/v1/workers/{worker}", patch(workers::update)),
        ("/api/v1/workflows/{workflow}", get(workflows::show)),
        ("/api/v1/workflows/{workflow}/versions", get(workflows::version)),
    ]
}

async fn alive() -> Json<models::Version> {
    version().await
}

/// Whether work is accepted.
async fn ready(hatchet: axum::extract::State<Hatchet>) -> Answer<models::Version> {
    match hatchet.engine().health() {
        mainspring_engine::Health::Accepting => Ok(version().await),
        unwell => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("no work is accepted now: {unwell:?}"))),
    }
}

async fn version() -> Json<models::Version> {
    Json(models::Version { version: VERSION })
}

fn not_served(name: &str) -> Problem {
    let text = format!("{name} is not served yet by this version of Mainspring: see docs/hatchet.md for what is");
    Problem::new(StatusCode::NOT_IMPLEMENTED, text)
}

async fn unknown(method: Method, uri: axum::http::Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("Hatchet's API has no operation {method} {}", uri.path()))
}

async fn no_method(method: Method, uri: axum::http::Uri) -> Problem {
    let text = format!("Hatchet's API has {} but not with {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// A call whose caller is known and may do it.
pub(crate) struct Call {
    pub(crate) hatchet: Hatchet,
    pub(crate) tenant: TenantId,
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

impl FromRequestParts<Hatchet> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hatchet: &Hatchet) -> Result<Self, Problem> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
        let caller = bearer(header).and_then(|token| (hatchet.gate())(token)).ok_or_else(|| {
            let text = "no valid token: send the header 'authorization: Bearer ...' with one of this server";
            Problem::new(StatusCode::UNAUTHORIZED, text)
        })?;
        if parts.method != Method::GET && !caller.writes {
            let text = "the token may only read: use one with the scope \"write\"";
            return Err(Problem::new(StatusCode::FORBIDDEN, text));
        }
        let path = RawPathParams::from_request_parts(parts, hatchet).await;
        let path = path.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
        let path: Vec<(String, String)> =
            path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if let Some((_, tenant)) = path.iter().find(|(name, _)| name == "tenant")
            && tenant.parse() != Ok(caller.tenant)
        {
            let text = format!("the token is not one of tenant {tenant:?}: use one that is");
            return Err(Problem::new(StatusCode::FORBIDDEN, text));
        }
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, hatchet).await;
        let Query(query) = query.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
        if query.len() > PARAMETERS_MAX {
            let text = format!("the query has {} parameters, at most {PARAMETERS_MAX} are allowed", query.len());
            return Err(Problem::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(Call { hatchet: hatchet.clone(), tenant: caller.tenant, path, query })
    }
}

impl Call {
    /// A part of the address.
    fn part(&self, name: &str) -> &str {
        self.path.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// A parameter that may be given; an empty one is not.
    fn parameter(&self, name: &'static str) -> Option<&str> {
        self.parameters(name).next()
    }

    /// A parameter that may be given several times.
    fn parameters(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(found, value)| found == name && !value.is_empty()).map(|(_, value)| &**value)
    }

    /// A parameter that is read.
    fn parsed<T>(
        &self,
        name: &'static str,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let read = |text: &str| read(text).ok_or_else(|| Problem::field(name, &format!("{text:?} is no {what}")));
        self.parameter(name).map(read).transpose()
    }

    /// A time in a parameter, in milliseconds.
    fn time(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        self.parsed(name, "time: write it like 2026-11-24T18:28:20Z", time::parse)
    }

    /// Whether a parameter says so.
    fn flag(&self, name: &'static str, otherwise: bool) -> Result<bool, Problem> {
        let read = |text: &str| text.to_ascii_lowercase().parse().ok();
        Ok(self.parsed(name, "true or false", read)?.unwrap_or(otherwise))
    }

    /// Offset and limit of the page that is asked for.
    fn page(&self) -> Result<(usize, usize), Problem> {
        let number = |text: &str| text.parse::<usize>().ok();
        let offset = self.parsed("offset", "number", number)?.unwrap_or(0);
        if offset > OFFSET_MAX {
            let text = format!("is {offset}, at most {OFFSET_MAX} is allowed: narrow it down by time instead");
            return Err(Problem::field("offset", &text));
        }
        let limit = self.parsed("limit", "number", number)?.unwrap_or(PAGE);
        Ok((offset, limit.clamp(1, PAGE_MAX)))
    }

    /// Waits until listings show what was answered before.
    async fn settle(&self) {
        let engine = self.hatchet.engine();
        let position = engine.durable_position(self.tenant);
        engine.wait_applied(self.tenant, position, std::time::Duration::from_millis(250)).await;
    }

    /// A run by the id in the address, which may be a task's.
    async fn run(&self, part: &str, what: &str) -> Result<(crate::names::Named, Run), Problem> {
        let text = self.part(part);
        let named = crate::names::Named::parse(text).ok_or_else(|| Problem::not_an_id(part, text))?;
        let run = Run::read(&self.hatchet, self.tenant, named.run()).await?;
        let run = run.filter(|run| usize::from(named.task().index) < run.tasks.len().max(1));
        Ok((named, run.ok_or_else(|| Problem::not_found(what, text))?))
    }
}

/// A body in JSON.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Hatchet> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Hatchet) -> Result<Self, Problem> {
        let bytes = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|error| {
            let text = format!("the body broke off or has more than {BODY_BYTES_MAX} bytes: {error}");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
        })?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON this call takes: {error}"))
        })
    }
}

/// Stored bytes as the object that SDKs insist on: what is none is shown as an empty one.
fn object(bytes: &[u8]) -> Box<RawValue> {
    let raw = payload::raw(bytes);
    if raw.get().starts_with('{') { raw } else { empty() }
}

fn empty() -> Box<RawValue> {
    serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
