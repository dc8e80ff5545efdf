//! The pages of webhooks, for a tenant's own users: whoever has a token with the scope `webhooks` sees these and no other.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::api::Path as ApiPath;
use crate::api::webhooks::{self, Page};
use crate::auth::{Caller, Scope};
use crate::pages::{WebhookPage, WebhooksPage};
use crate::problem::Problem;
use crate::state::AppState;
use crate::web::{Shown, Visitor, encode, rendered, shown};

pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/webhooks", get(list))
        .route("/webhooks/{id}", get(one))
        .route("/webhooks/{id}/{verb}", post(act))
}

async fn list(State(state): State<AppState>, visitor: Visitor) -> Result<Html<String>, Shown> {
    let fail = |problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let list = webhooks::list(State(state.clone()), visitor.caller.clone()).await.map_err(fail)?;
    let list = serde_json::to_value(list.0).unwrap_or_default();
    rendered(&state, state.pages().webhooks(&WebhooksPage { frame: visitor.frame(), list }))
}

/// Where the two listings of the page begin.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Places {
    from: Option<String>,
    dead: Option<String>,
}

async fn one(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(places): Query<Places>,
) -> Result<Html<String>, Shown> {
    let fail = |problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let (caller, path) = (&visitor.caller, || ApiPath(id.clone()));
    let (tries_from, dead_from) = (Page::from_place(places.from), Page::from_place(places.dead));
    let hook = webhooks::show(State(state.clone()), caller.clone(), path()).await.map_err(fail)?;
    let tries = webhooks::attempts(State(state.clone()), caller.clone(), path(), tries_from).await.map_err(fail)?;
    let dead = webhooks::dead_letters(State(state.clone()), caller.clone(), path(), dead_from).await.map_err(fail)?;
    let json = |value: Result<serde_json::Value, serde_json::Error>| value.unwrap_or_default();
    let page = WebhookPage {
        frame: visitor.frame(),
        hook: json(serde_json::to_value(hook.0)),
        tries: json(serde_json::to_value(tries.0)),
        dead: json(serde_json::to_value(dead.0)),
        may_change: caller.must_have(Scope::Write).is_ok(),
    };
    rendered(&state, state.pages().webhook(&page))
}

/// The buttons of a browser without scripts.
async fn act(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, verb)): Path<(String, String)>,
) -> Result<Redirect, Shown> {
    let fail = |problem| shown(&state, None, problem);
    let (of, path) = (|| State(state.clone()), || ApiPath(id.clone()));
    let done = match verb.as_str() {
        "verify" => webhooks::verify(of(), caller, path()).await.map(drop),
        "pause" => webhooks::pause(of(), caller, path()).await.map(drop),
        "resume" => webhooks::resume(of(), caller, path()).await.map(drop),
        "test" => webhooks::test(of(), caller, path()).await.map(drop),
        "replay" => webhooks::replay(of(), caller, path(), HeaderMap::new(), Body::from("{}")).await.map(drop),
        _ => Err(Problem::not_found("button")),
    };
    done.map_err(fail)?;
    Ok(Redirect::to(&format!("/webhooks/{}", encode(&id))))
}
