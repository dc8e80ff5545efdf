//! The pages about streams: how far each group is behind, who holds what, and why what waits does.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Html;
use axum::routing::get;

use super::{Shown, Visitor, rendered, shown};
use crate::api::{Path as ApiPath, streams as api};
use crate::pages::{StreamPage, StreamsPage};
use crate::state::AppState;

pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/streams", get(list)).route("/streams/{name}", get(one))
}

async fn list(State(state): State<AppState>, visitor: Visitor) -> Result<Html<String>, Shown> {
    let fail = |problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let list = api::list(State(state.clone()), visitor.caller.clone()).await.map_err(fail)?;
    let list = serde_json::to_value(list.0).unwrap_or_default();
    let (elsewhere, degraded) = match state.beside() {
        Some(beside) => (beside.streams(visitor.caller.tenant), beside.degraded()),
        None => Default::default(),
    };
    rendered(&state, state.pages().streams(&StreamsPage { frame: visitor.frame(), list, elsewhere, degraded }))
}

async fn one(State(state): State<AppState>, visitor: Visitor, Path(name): Path<String>) -> Result<Html<String>, Shown> {
    let fail = |problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let found = api::show(State(state.clone()), visitor.caller.clone(), ApiPath(name)).await.map_err(fail)?;
    let stream = serde_json::to_value(found.0).unwrap_or_default();
    rendered(&state, state.pages().stream(&StreamPage { frame: visitor.frame(), stream }))
}
