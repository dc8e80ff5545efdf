//! What operators and their machines ask.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use mainspring_engine::Health;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// How the server stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Standing {
    /// `ok`, or `degraded`: work is accepted, and something beside the log is away.
    status: &'static str,
    /// What is away, and what to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<String>,
}

impl Standing {
    const OK: Standing = Standing { status: "ok", degraded: Vec::new() };
}

/// Whether the process lives. Says nothing about whether it accepts work.
#[utoipa::path(get, path = "/healthz", tag = "operations", security(()), responses((status = 200, body = Standing)))]
pub async fn healthz() -> Json<Standing> {
    Json(Standing::OK)
}

/// Whether work is accepted: the log can be written and the tables keep up.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", security(()),
    responses((status = 200, body = Standing), (status = 503, body = Problem)),
)]
pub async fn readyz(State(state): State<AppState>) -> Result<Json<Standing>, Problem> {
    readiness([&state])
}

/// Whether all of these accept work, as `/readyz` answers it.
///
/// # Errors
/// A 503 that says which does not and why.
pub fn readiness<'a>(states: impl IntoIterator<Item = &'a AppState>) -> Result<Json<Standing>, Problem> {
    let unavailable = |code: &str, detail: String, action: &str| {
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail, action))
    };
    let mut degraded = Vec::new();
    for state in states {
        match state.engine().health() {
            Health::Accepting => {}
            Health::Stopped { cause } => {
                return unavailable(
                    "log_unwritable",
                    cause,
                    "do what it says, and restart the server; nothing accepted is lost",
                );
            }
            Health::ShuttingDown => {
                return unavailable("shutting_down", "the server is shutting down".to_owned(), "wait for the next");
            }
        }
        if let Some(error) = state.engine().stats().find_map(|(stats, _)| stats.tables_error()) {
            return unavailable(
                "tables_unwritable",
                error,
                "mend the disk or the database; the tables catch up by themselves, nothing accepted is lost",
            );
        }
        for one in state.beside().map(crate::state::Beside::degraded).unwrap_or_default() {
            if !degraded.contains(&one) {
                degraded.push(one);
            }
        }
    }
    Ok(Json(if degraded.is_empty() { Standing::OK } else { Standing { status: "degraded", degraded } }))
}

/// How the nodes stand, where there are several: who lives, who holds which partition.
#[utoipa::path(
    get, path = "/v1/cluster", tag = "operations",
    responses((status = 200, body = serde_json::Value), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn cluster(State(state): State<AppState>, caller: Caller) -> Result<Json<serde_json::Value>, Problem> {
    caller.must_have(Scope::Read)?;
    state.cluster(caller.tenant).map(Json).ok_or_else(|| Problem::not_found("cluster: this server is on its own"))
}

/// Counters in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", security(()), responses((status = 200, content_type = "text/plain")))]
pub async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let text = crate::metrics::text(std::slice::from_ref(&state)).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// This API's description, made from its code.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", security(()), responses((status = 200, content_type = "application/json")))]
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], crate::openapi::document())
}
