//! Turns.

use axum::Json;
use axum::extract::State;

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
