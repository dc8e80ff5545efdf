//! The pages about configuration: what each agent goes by, its versions, and a publish as it goes, with the buttons that
//! move the pointer.

use axum::Router;
use axum::extract::{Form, Path, State};
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use mainspring_flows::publish::{Action, Asked, Share};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shown, Visitor, encode, rendered, shown};
use crate::api::config::{agent_of, pins_of, pointer_of, versions_of};
use crate::api::publish::{ask, asked_by, overview_of, standing, told};
use crate::auth::{Caller, Scope};
use crate::pages::{AgentsPage, ConfigPage, PublishPage};
use crate::problem::Problem;
use crate::state::AppState;

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/agents", get(agents))
        .route("/agents/{agent}/config", get(config))
        .route("/agents/{agent}/config/{action}", post(act))
        .route("/publishes/{id}", get(publish))
        .route("/publishes/{id}/cancel", post(cancel))
}

async fn agents(State(state): State<AppState>, visitor: Visitor) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let tenant = visitor.caller.tenant;
    let configs = state.configs(tenant).map_err(fail)?;
    let mut agents = Vec::new();
    for name in state.agents().names(tenant) {
        let (_, pointer) = pointer_of(&configs, &name).await.map_err(fail)?;
        let (_, register) = configs.register(&name).await.map_err(|error| fail(error.into()))?;
        agents.push(json!({ "name": name, "pointer": pointer, "in_progress": register.line.len() }));
    }
    rendered(&state, state.pages().agents(&AgentsPage { frame: visitor.frame(), agents }))
}

async fn config(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(agent): Path<String>,
) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let agent = agent_of(&state, &visitor.caller, &agent).map_err(fail)?;
    let configs = state.configs(visitor.caller.tenant).map_err(fail)?;
    let page = ConfigPage {
        frame: visitor.frame(),
        overview: overview_of(&configs, &agent).await.map_err(fail)?,
        pointer: pointer_of(&configs, &agent).await.map_err(fail)?.1,
        versions: versions_of(&configs, &agent).await.map_err(fail)?,
        pins: pins_of(&configs, &agent).await.map_err(fail)?,
        may_change: visitor.caller.must_have(Scope::Admin).is_ok(),
        agent,
    };
    rendered(&state, state.pages().config(&page))
}

/// What a form of a browser without scripts says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    description: String,
    reason: String,
    version: Option<u64>,
    target_version: Option<u64>,
    percent: Option<u32>,
}

async fn act(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, action)): Path<(String, String)>,
    Form(said): Form<Said>,
) -> Result<Redirect, Shown> {
    let fail = |problem: Problem| shown(&state, None, problem);
    caller.must_have(Scope::Admin).map_err(fail)?;
    let agent = agent_of(&state, &caller, &agent).map_err(fail)?;
    let configs = state.configs(caller.tenant).map_err(fail)?;
    let missing = |what: &str| {
        let text = format!("the form says no {what}");
        fail(Problem::bad_request("form_incomplete", text, "go back and fill it in"))
    };
    let action = match action.as_str() {
        "publish" => {
            let share = said.percent.filter(|percent| *percent > 0);
            Action::Publish { canary: share.map(|percent| Share { percent, sessions: Vec::new() }) }
        }
        "rollback" => {
            let target_version = said.target_version.ok_or_else(|| missing("version"))?;
            Action::Rollback { target_version, keep_pinned: false }
        }
        "canary" => {
            let share = Share { percent: said.percent.unwrap_or(0), sessions: Vec::new() };
            Action::Canary { version: said.version.ok_or_else(|| missing("version"))?, share }
        }
        "end-canary" => Action::EndCanary,
        "promote" => Action::Promote,
        _ => return Err(fail(Problem::not_found("action"))),
    };
    let text = if said.description.is_empty() { said.reason } else { said.description };
    let asked: Asked = asked_by(&caller, None, Some(text), false);
    let (_, told) = ask(&configs, &agent, action, asked).await.map_err(fail)?;
    let id = told.0["publish_id"].as_str().unwrap_or_default().to_owned();
    Ok(Redirect::to(&format!("/publishes/{}", encode(&id))))
}

async fn publish(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Html<String>, Shown> {
    let fail = |problem: Problem| shown(&state, Some(visitor.tenant.clone()), problem);
    let configs = state.configs(visitor.caller.tenant).map_err(fail)?;
    let job = standing(&configs, &id).await.map_err(fail)?;
    let publish: Value = told(&configs, &job);
    let may_change = visitor.caller.must_have(Scope::Admin).is_ok();
    let page = PublishPage { frame: visitor.frame(), over: job.status.over(), publish, may_change };
    rendered(&state, state.pages().publish(&page))
}

async fn cancel(State(state): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<Redirect, Shown> {
    let fail = |problem: Problem| shown(&state, None, problem);
    caller.must_have(Scope::Admin).map_err(fail)?;
    let configs = state.configs(caller.tenant).map_err(fail)?;
    configs.cancel(&id, &crate::api::config::by(&caller)).await.map_err(|error| fail(error.into()))?;
    Ok(Redirect::to(&format!("/publishes/{}", encode(&id))))
}
