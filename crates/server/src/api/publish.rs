//! Publishing: what is asked for, how it goes, and how it is stopped. Configurations themselves are in [`super::config`].

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use mainspring_flows::publish::mirror::RebuildError;
use mainspring_flows::publish::{Action, Asked, ConfigError, Configs, Job, Share};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::config::{by, changing, reading};
use super::messages::idempotency_key;
use super::{Path, body_bytes};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a request.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A publish.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublishBody {
    /// What is new, in words.
    description: Option<String>,
    /// Which sessions get it; without this it becomes the current version: `{percent, sessions}`.
    #[schema(value_type = Option<Object>)]
    canary: Option<Share>,
    /// Whether sessions pinned to another version move on.
    force: bool,
    /// The version the draft must have.
    draft_version: Option<u64>,
}

/// A rollback.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    /// Where to: a version before the current one.
    target_version: u64,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
    /// Whether sessions stay with the version that is left.
    #[serde(default)]
    keep_pinned: bool,
}

/// A canary.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryBody {
    /// The version that some sessions get.
    version: u64,
    /// Percent of the sessions, by the hash of their key.
    #[serde(default)]
    percent: u32,
    /// Session keys that get it in any case.
    #[serde(default)]
    sessions: Vec<String>,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

/// What is said with the end of a canary.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WhyBody {
    /// Why.
    reason: Option<String>,
    /// Whether sessions pinned to another version move on.
    force: bool,
}

/// Reads a body that may be left out.
async fn read<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = body_bytes(body, BODY_BYTES_MAX).await?;
    let text = if bytes.is_empty() { &b"{}"[..] } else { &bytes[..] };
    serde_json::from_slice(text).map_err(|error| {
        let detail = format!("the body is not the JSON this call takes: {error}");
        Problem::bad_request("json_malformed", detail, "see /openapi.json for the body's shape")
    })
}

/// A job as it is told, for the API and the page alike.
pub(crate) fn told(configs: &Configs, job: &Job) -> Value {
    let mut told = json!(job);
    if let Some(members) = told.as_object_mut() {
        members.remove("fingerprint");
        members.remove("id");
    }
    told["asked"] = json!(job.action);
    told["action"] = json!(job.action.word());
    told["publish_id"] = json!(job.id);
    told["correlation_id"] = json!(job.correlation_id(configs.client().tenant()));
    told["swapped"] = json!(job.swapped());
    told
}

type Accepted = (StatusCode, Json<Value>);

/// Asks for something, and tells what was accepted.
pub(crate) async fn ask(configs: &Configs, agent: &str, action: Action, asked: Asked) -> Result<Accepted, Problem> {
    let (job, repeated) = configs.request(agent, &Asked { action, ..asked }).await?;
    let mut told = told(configs, &job);
    told["repeated"] = json!(repeated);
    if matches!(job.action, Action::Rollback { .. }) {
        told["rollback_id"] = json!(job.id);
        told["to_version"] = json!(job.version);
    }
    Ok((StatusCode::ACCEPTED, Json(told)))
}

/// What goes with each request.
pub(crate) fn asked_by(caller: &Caller, key: Option<String>, description: Option<String>, force: bool) -> Asked {
    Asked {
        action: Action::EndCanary,
        description: description.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
        force,
        by: by(caller),
        idempotency_key: key,
        draft_version: None,
    }
}

/// Shows how an agent's configuration stands: what is current, what is drafted, and the latest publishes.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/publish", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 200, description = "{current_version, canary_version, draft_version, has_unpublished_changes, changes, last_published_at, last_published_by, in_progress, publishes}"), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn overview(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    Ok(Json(overview_of(&configs, &agent).await?))
}

/// The same for the page.
pub(crate) async fn overview_of(configs: &Configs, agent: &str) -> Result<Value, Problem> {
    configs.heal(agent).await?;
    let (_, register) = configs.register(agent).await?;
    let (draft_version, draft) = configs.draft(agent).await?;
    let manifests = configs.manifests(agent).await?;
    let current = manifests.iter().find(|one| Some(one.version) == register.current());
    let sources = draft.sources();
    let published = current.map(|one| one.sources.clone()).unwrap_or_default();
    let digest = |one: Option<&mainspring_flows::publish::BundleRef>| one.map(|one| one.digest.clone());
    let kinds: std::collections::BTreeSet<&String> = sources.keys().chain(published.keys()).collect();
    let changed: Vec<&String> =
        kinds.into_iter().filter(|kind| digest(sources.get(*kind)) != digest(published.get(*kind))).collect();
    let last = manifests.last();
    Ok(json!({
        "agent": agent,
        "current_version": register.current(),
        "epoch": register.epoch,
        "latest_version": register.latest,
        "canary_version": register.canary.as_ref().map(|canary| canary.version),
        "draft_version": draft_version,
        "draft": draft.kinds,
        "has_unpublished_changes": !sources.is_empty() && !changed.is_empty(),
        "changed_kinds": if sources.is_empty() { Vec::new() } else { changed },
        "last_published_at": last.map(|one| one.at),
        "last_published_by": last.map(|one| one.by.clone()),
        "in_progress": register.line.iter().map(|place| &place.publish_id).collect::<Vec<_>>(),
        "publishes": configs.jobs(agent).await?.iter().map(|job| told(configs, job)).collect::<Vec<_>>(),
    }))
}

/// Publishes the draft as a new version. Durable when answered; how it goes on is at `/v1/publishes/{id}`.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/publish", tag = "configuration", request_body = PublishBody,
    params(("agent" = String, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same key again within 90 days after its end is the same publish")),
    responses((status = 202, description = "{publish_id, version, status, stages, correlation_id, repeated}"), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn publish(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Accepted, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let PublishBody { description, canary, force, draft_version } = read(body).await?;
    let asked = asked_by(&caller, idempotency_key(&headers)?, description, force);
    ask(&configs, &agent, Action::Publish { canary }, Asked { draft_version, ..asked }).await
}

/// Moves the pointer back to an earlier version. Sessions of the version that is left move on with their next turn, unless
/// `keep_pinned`.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/rollback", tag = "configuration", request_body = RollbackBody,
    params(("agent" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, description = "{rollback_id, from_version, to_version, status, ...}"), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn rollback(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Accepted, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let RollbackBody { target_version, reason, keep_pinned } = read(body).await?;
    let asked = asked_by(&caller, idempotency_key(&headers)?, reason, false);
    ask(&configs, &agent, Action::Rollback { target_version, keep_pinned }, asked).await
}

/// Gives a version to some sessions: a part of those that begin, and those that are listed.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/canary", tag = "configuration", request_body = CanaryBody,
    params(("agent" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub async fn canary(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Accepted, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let CanaryBody { version, percent, sessions, reason } = read(body).await?;
    let asked = asked_by(&caller, idempotency_key(&headers)?, reason, false);
    ask(&configs, &agent, Action::Canary { version, share: Share { percent, sessions } }, asked).await
}

/// Ends the canary. Its sessions go back to the current version with their next turn.
#[utoipa::path(
    delete, path = "/v1/agents/{agent}/canary", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 202), (status = 409, body = Problem)),
)]
pub async fn end_canary(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Accepted, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let WhyBody { reason, force } = read(body).await?;
    ask(&configs, &agent, Action::EndCanary, asked_by(&caller, idempotency_key(&headers)?, reason, force)).await
}

/// Makes the canary the current version.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/promote", tag = "configuration", request_body = WhyBody,
    params(("agent" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202), (status = 409, body = Problem)),
)]
pub async fn promote(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Accepted, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let WhyBody { reason, force } = read(body).await?;
    ask(&configs, &agent, Action::Promote, asked_by(&caller, idempotency_key(&headers)?, reason, force)).await
}

/// Shows how a publish, rollback, canary or promotion stands: its stages, what is wrong with the draft, how it ended.
#[utoipa::path(
    get, path = "/v1/publishes/{id}", tag = "configuration", params(("id" = String, Path)),
    responses((status = 200, description = "{publish_id, action, version, status, stages: [{name, status, started_at, duration_ms, failed_tries, error, note}], findings: [{kind, path, line, message}], ...}"), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Read)?;
    let configs = state.configs(caller.tenant)?;
    let job = standing(&configs, &id).await?;
    Ok(Json(told(&configs, &job)))
}

/// A job as it stands, for the API and the page alike.
pub(crate) async fn standing(configs: &Configs, id: &str) -> Result<Job, Problem> {
    let (_, job) = configs.job(id).await?;
    if job.status.over() {
        return Ok(job);
    }
    // Should nobody work on it any more, it ends here.
    configs.heal(&job.agent).await?;
    Ok(configs.job(id).await?.1)
}

/// Stops a publish, rollback, canary or promotion, while the pointer has not moved. Durable when answered.
#[utoipa::path(
    post, path = "/v1/publishes/{id}/cancel", tag = "configuration", params(("id" = String, Path)),
    responses((status = 200, description = "as it stands now"), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Admin)?;
    let configs = state.configs(caller.tenant)?;
    let job = configs.cancel(&id, &by(&caller)).await?;
    Ok(Json(told(&configs, &job)))
}

/// Gives up versions nobody needs, and content nothing refers to, as every publish does at its end.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/config/collect", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 200, description = "{versions, pinned, content}"), (status = 404, body = Problem)),
)]
pub async fn collect(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    Ok(Json(json!(configs.collect_now(&agent).await?)))
}

/// Gives the mirror of published configurations (Redis) everything of the tenant anew, from the tables.
#[utoipa::path(
    post, path = "/v1/config-mirror/rebuild", tag = "configuration",
    responses(
        (status = 200, description = "{bundles, agents}: how many were given"),
        (status = 404, body = Problem), (status = 503, body = Problem),
    ),
)]
pub async fn rebuild_mirror(State(state): State<AppState>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.must_have(Scope::Admin)?;
    let given = state.configs(caller.tenant)?.rebuild_mirror().await.map_err(|error| match error {
        RebuildError::Bundle(error) => ConfigError::from(error).into(),
        RebuildError::Mirror(error) => {
            let action = "mend what the detail names, then ask again; publishing goes on meanwhile";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "mirror_unavailable", error.to_string(), action)
        }
    })?;
    let (bundles, agents) = given.ok_or_else(|| {
        let action = "add [redis] to mainspring.toml: see docs/redis.md";
        Problem::new(StatusCode::NOT_FOUND, "not_found", "this server has no mirror of configurations", action)
    })?;
    Ok(Json(json!({ "bundles": bundles, "agents": agents })))
}
