//! Configuration: the draft, the settings, versions and their bundles, the pointer, and who is told when it moves.
//! Publishing is in [`super::publish`].

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mainspring_client::TenantId;
use mainspring_core::row::EventRow;
use mainspring_flows::SessionKey;
use mainspring_flows::publish::{
    BUNDLE_BYTES_MAX, BundleError, BundleRef, ConfigError, Configs, Draft, Manifest, Register, SCOPE, Settings,
    UPDATED_EVENT, Updated,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::calls::Attempt;
use super::messages::known_agent;
use super::{Path, Query, body_bytes, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::sse::follow_some;
use crate::state::AppState;

/// Bytes of a draft that comes with all its kinds at once.
const DRAFT_BYTES_MAX: usize = 2 * BUNDLE_BYTES_MAX;
/// Bytes of an agent's settings.
const SETTINGS_BYTES_MAX: usize = 256 * 1024;

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        let detail = error.to_string();
        let (status, code, action) = match error {
            ConfigError::NotFound(what) => return Problem::not_found(what),
            ConfigError::InProgress { .. } => (
                StatusCode::CONFLICT,
                "publish_in_progress",
                "wait for it, or cancel it with POST /v1/publishes/{id}/cancel",
            ),
            ConfigError::State(_) => {
                (StatusCode::CONFLICT, "config_conflict", "look at how it stands, then decide anew")
            }
            ConfigError::Unfit { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "config_unfit", "change what the detail names")
            }
            ConfigError::Malformed { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "draft_malformed",
                "mend the line that is named; nothing was changed",
            ),
            ConfigError::DraftChanged { .. } => {
                (StatusCode::CONFLICT, "draft_changed", "GET the draft, decide anew, and send its version")
            }
            ConfigError::KeyReused(_) => {
                (StatusCode::CONFLICT, "idempotency_conflict", "use a new key for a new request")
            }
            ConfigError::Bundle(BundleError::Client(error)) => return error.into(),
            ConfigError::Bundle(BundleError::TooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "split it into several kinds")
            }
            ConfigError::Bundle(BundleError::Damaged { .. }) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "content_damaged",
                "put the same content again, or restore a backup",
            ),
            ConfigError::Bundle(BundleError::Contended { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy", "send it again")
            }
        };
        Problem::new(status, code, detail, action)
    }
}

/// The agent of an address, which is its name, or `{tenant}:{name}` as in keys and correlation ids. One that names
/// another tenant is refused whether or not there is such an agent.
///
/// # Errors
/// A 403 for another tenant's, a 404 for one that is not configured.
pub(crate) fn agent_of(state: &AppState, caller: &Caller, text: &str) -> Result<String, Problem> {
    let name = match text.split_once(':') {
        None => text,
        Some((tenant, name)) if tenant.parse::<TenantId>().is_ok_and(|tenant| tenant == caller.tenant) => name,
        Some(_) => {
            let detail = "the address names an agent of another tenant, and the token is not one of that tenant's";
            let action = "use a token of that tenant, or leave the tenant out of the address";
            return Err(Problem::new(StatusCode::FORBIDDEN, "tenant_forbidden", detail, action));
        }
    };
    let session = SessionKey::new(caller.tenant, name, "nobody", "none")?;
    known_agent(state, &session)?;
    Ok(name.to_owned())
}

/// Reads about an agent's configuration.
pub(crate) fn reading(state: &AppState, caller: &Caller, agent: &str) -> Result<(Configs, String), Problem> {
    caller.must_have(Scope::Read)?;
    let agent = agent_of(state, caller, agent)?;
    Ok((state.configs(caller.tenant)?, agent))
}

/// Changes an agent's configuration, which changes what it says and does: that is for admins, as the tools are.
pub(crate) fn changing(state: &AppState, caller: &Caller, agent: &str) -> Result<(Configs, String), Problem> {
    caller.must_have(Scope::Admin)?;
    let agent = agent_of(state, caller, agent)?;
    Ok((state.configs(caller.tenant)?, agent))
}

pub(crate) fn by(caller: &Caller) -> String {
    format!("token {}", caller.token)
}

fn etag(tag: &str) -> [(header::HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{tag}\""));
    [(header::ETAG, value.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))]
}

/// Whether the caller has what this tag stands for.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let named = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    named.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == format!("\"{tag}\"") || one == "*")
}

/// The draft's version in `If-Match`.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let read = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    read.map(Some).ok_or_else(|| {
        let action = "send the ETag of the draft as it was answered";
        Problem::bad_request("if_match_malformed", "the If-Match header is no version of a draft", action)
    })
}

fn draft_answer(version: u64, draft: &Draft) -> Response {
    (etag(&version.to_string()), Json(json!({ "version": version, "kinds": draft.kinds }))).into_response()
}

/// Shows an agent's draft: which kinds it has, by digest. Its `ETag` is its version.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/config/draft", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 200, description = "{version, kinds: {kind: {digest, bytes, at, by}}}"), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn draft(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Response, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    let (version, draft) = configs.draft(&agent).await?;
    Ok(draft_answer(version, &draft))
}

/// Replaces an agent's draft: an object with the content of each kind. With `If-Match` only the version that was read.
#[utoipa::path(
    put, path = "/v1/agents/{agent}/config/draft", tag = "configuration",
    params(("agent" = String, Path), ("If-Match" = Option<String>, Header)), request_body = Value,
    responses((status = 200, description = "the draft"), (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)),
)]
pub async fn put_draft(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    // As it was written, so that findings name its lines.
    let kinds: BTreeMap<String, Box<RawValue>> = json_body(body, DRAFT_BYTES_MAX).await?;
    let kinds = kinds.into_iter().map(|(kind, text)| (kind, Bytes::from(text.get().to_owned()))).collect();
    let (version, draft) = configs.put_draft(&agent, kinds, true, expected(&headers)?, &by(&caller)).await?;
    Ok(draft_answer(version, &draft))
}

/// Shows a kind of a draft, as it was written.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/config/draft/{kind}", tag = "configuration",
    params(("agent" = String, Path), ("kind" = String, Path)),
    responses((status = 200, description = "the content"), (status = 304), (status = 404, body = Problem)),
)]
pub async fn draft_kind(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, kind)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    let (_, draft) = configs.draft(&agent).await?;
    let drafted = draft.kinds.get(&kind).ok_or_else(|| Problem::not_found("kind in the draft"))?;
    content_answer(&configs, &drafted.content, &headers, false).await
}

/// Puts one kind into a draft, as it is written. With `If-Match` only into the version that was read.
#[utoipa::path(
    put, path = "/v1/agents/{agent}/config/draft/{kind}", tag = "configuration",
    params(("agent" = String, Path), ("kind" = String, Path), ("If-Match" = Option<String>, Header)), request_body = Value,
    responses((status = 200, description = "the draft"), (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)),
)]
pub async fn put_draft_kind(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, kind)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let text = body_bytes(body, BUNDLE_BYTES_MAX).await?;
    let (kinds, by) = (vec![(kind, text)], by(&caller));
    let (version, draft) = configs.put_draft(&agent, kinds, false, expected(&headers)?, &by).await?;
    Ok(draft_answer(version, &draft))
}

/// Takes a kind out of a draft.
#[utoipa::path(
    delete, path = "/v1/agents/{agent}/config/draft/{kind}", tag = "configuration",
    params(("agent" = String, Path), ("kind" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn remove_draft_kind(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, kind)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    configs.remove_draft(&agent, &kind, expected(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows how an agent's configuration is published.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/config/settings", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 200, description = "{concurrency, soft_pin, idle_move_ms, keep_versions, schemas, validate, compile, apply}"), (status = 404, body = Problem)),
)]
pub async fn settings(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Settings>, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    Ok(Json(configs.settings(&agent).await?.1))
}

/// Replaces how an agent's configuration is published. What is left out is as by default.
#[utoipa::path(
    put, path = "/v1/agents/{agent}/config/settings", tag = "configuration", params(("agent" = String, Path)), request_body = Value,
    responses((status = 204), (status = 422, body = Problem)),
)]
pub async fn put_settings(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (configs, agent) = changing(&state, &caller, &agent)?;
    let settings: Settings = json_body(body, SETTINGS_BYTES_MAX).await?;
    configs.put_settings(&agent, &settings).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a version stands, in a word.
fn standing(register: &Register, manifest: &Manifest) -> &'static str {
    if manifest.collected_at.is_some() {
        "given_up"
    } else if register.current() == Some(manifest.version) {
        "current"
    } else if register.canary.as_ref().is_some_and(|canary| canary.version == manifest.version) {
        "canary"
    } else if register.withdrawn.contains(&manifest.version) {
        "withdrawn"
    } else {
        "kept"
    }
}

/// The versions of an agent, newest first, for the API and the page alike.
pub(crate) async fn versions_of(configs: &Configs, agent: &str) -> Result<Vec<Value>, Problem> {
    let (_, register) = configs.register(agent).await?;
    let mut manifests = configs.manifests(agent).await?;
    manifests.reverse();
    manifests.truncate(mainspring_flows::publish::door::VERSIONS_MAX);
    Ok(manifests
        .iter()
        .map(|manifest| {
            let mut shown = json!(manifest);
            shown["status"] = json!(standing(&register, manifest));
            shown["bytes"] = json!(manifest.bundles.values().map(|one| one.bytes).sum::<u64>());
            shown
        })
        .collect())
}

/// Lists versions, newest first, with their bundles' digests. Those that were given up can't be moved to any more.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/versions", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 200, description = "{versions: [{version, status, digest, bundles, publish_id, at, by}]}"), (status = 404, body = Problem)),
)]
pub async fn versions(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    Ok(Json(json!({ "versions": versions_of(&configs, &agent).await? })))
}

/// Shows a version.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/versions/{version}", tag = "configuration",
    params(("agent" = String, Path), ("version" = u64, Path)),
    responses((status = 200, description = "the version with its bundles"), (status = 404, body = Problem)),
)]
pub async fn version(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, version)): Path<(String, u64)>,
) -> Result<Json<Value>, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    let (_, manifest) = configs.manifest(&agent, version).await?;
    let (_, register) = configs.register(&agent).await?;
    let mut shown = json!(manifest);
    shown["status"] = json!(standing(&register, &manifest));
    Ok(Json(shown))
}

/// Says what is different between two versions: by kind, the ids that came, went and changed.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/versions/{version}/diff/{to}", tag = "configuration",
    params(("agent" = String, Path), ("version" = u64, Path), ("to" = u64, Path)),
    responses((status = 200, description = "{from, to, kinds: {kind: {added, removed, changed, total}}}"), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn diff(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, from, to)): Path<(String, u64, u64)>,
) -> Result<Json<Value>, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    let kinds = configs.diff(&agent, from, to).await?;
    Ok(Json(json!({ "from": from, "to": to, "kinds": kinds })))
}

/// Content with its digest as `ETag`: it never changes. Compressed for those who take it so.
async fn content_answer(
    configs: &Configs,
    one: &BundleRef,
    headers: &HeaderMap,
    for_ever: bool,
) -> Result<Response, Problem> {
    let tag = etag(&one.digest);
    if has(headers, &one.digest) {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let gone = || Problem::not_found("content: it was given up");
    let takes_gzip = headers.get_all(header::ACCEPT_ENCODING).iter().any(|value| {
        let named = value.to_str().unwrap_or_default();
        named.split(',').any(|one| matches!(one.trim(), "gzip" | "*") || one.trim().starts_with("gzip;q=1"))
    });
    let cache = if for_ever { "private, max-age=31536000, immutable" } else { "private, no-cache" };
    let fixed =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, cache), (header::VARY, "Accept-Encoding")];
    if takes_gzip {
        let packed = configs.bundles().packed(&one.digest).await.map_err(ConfigError::from)?.ok_or_else(gone)?;
        return Ok((tag, fixed, [(header::CONTENT_ENCODING, "gzip")], packed).into_response());
    }
    let content = configs.bundles().get(&one.digest).await.map_err(ConfigError::from)?.ok_or_else(gone)?;
    Ok((tag, fixed, content).into_response())
}

/// Gives a bundle. Its digest is its `ETag`; it never changes.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/bundles/{version}/{kind}", tag = "configuration",
    params(("agent" = String, Path), ("version" = u64, Path), ("kind" = String, Path), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, description = "the bundle"), (status = 304), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub async fn bundle(
    State(state): State<AppState>,
    caller: Caller,
    Path((agent, version, kind)): Path<(String, u64, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    let one = configs.bundle_of(&agent, version, &kind).await?;
    content_answer(&configs, &one, &headers, true).await
}

/// Gives a bundle of the turn's agent to that agent.
#[utoipa::path(
    get, path = "/v1/turn/bundles/{version}/{kind}", tag = "turn calls", security(("turn" = [])),
    params(("version" = u64, Path), ("kind" = String, Path)),
    responses((status = 200, description = "the bundle"), (status = 304), (status = 401, body = Problem), (status = 404, body = Problem)),
)]
pub async fn bundle_in_turn(
    State(state): State<AppState>,
    attempt: Attempt,
    Path((version, kind)): Path<(u64, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grant = attempt.grant();
    let session = SessionKey::parse(&grant.session).ok_or_else(|| Problem::not_found("session"))?;
    let configs = state.configs(grant.tenant)?;
    let one = configs.bundle_of(&session.agent, version, &kind).await?;
    content_answer(&configs, &one, &headers, true).await
}

/// Gives content by its digest: what whoever checks or compiles a draft was told the digest of.
#[utoipa::path(
    get, path = "/v1/config/content/{digest}", tag = "configuration", params(("digest" = String, Path)),
    responses((status = 200, description = "the content"), (status = 304), (status = 404, body = Problem)),
)]
pub async fn content(
    State(state): State<AppState>,
    caller: Caller,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.must_have(Scope::Read)?;
    let one = BundleRef { digest, bytes: 0, stored_bytes: 0 };
    content_answer(&state.configs(caller.tenant)?, &one, &headers, true).await
}

/// Stores content, for whoever compiles a draft into more than goes into an answer. What nothing refers to within a day is
/// removed again.
#[utoipa::path(
    post, path = "/v1/config/content", tag = "configuration", request_body = Value,
    responses((status = 200, description = "{digest, bytes, stored_bytes}"), (status = 413, body = Problem), (status = 422, body = Problem)),
)]
pub async fn put_content(
    State(state): State<AppState>,
    caller: Caller,
    body: Body,
) -> Result<Json<BundleRef>, Problem> {
    caller.must_have(Scope::Admin)?;
    let text = body_bytes(body, BUNDLE_BYTES_MAX).await?;
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&text) {
        let kind = "the content".to_owned();
        return Err(ConfigError::Malformed { kind, line: error.line(), cause: error.to_string() }.into());
    }
    let stored = state.configs(caller.tenant)?.bundles().put(text).await.map_err(ConfigError::from)?;
    Ok(Json(stored))
}

/// The pointer as it is told, for the API and the page alike.
pub(crate) async fn pointer_of(configs: &Configs, agent: &str) -> Result<(u64, Value), Problem> {
    let (_, register) = configs.register(agent).await?;
    let canary = register.canary.as_ref().map(|canary| {
        json!({
            "version": canary.version, "percent": canary.share.percent, "sessions": canary.share.sessions,
            "digest": canary.digest, "since": canary.at,
        })
    });
    let mut told = json!({
        "agent": agent, "version": register.current(), "epoch": register.epoch, "canary": canary, "bundles": {},
    });
    if let Some(pointer) = &register.pointer {
        let (_, manifest) = configs.manifest(agent, pointer.version).await?;
        let digests: BTreeMap<&String, &String> =
            manifest.bundles.iter().map(|(kind, one)| (kind, &one.digest)).collect();
        told["bundles"] = json!(digests);
        told["digest"] = json!(pointer.digest);
        told["at"] = json!(pointer.at);
        told["publish_id"] = json!(pointer.publish_id);
        told["reason"] = json!(pointer.reason);
    }
    Ok((register.epoch, told))
}

/// Says which version is current. Its `ETag` is the epoch, which counts the moves: cheap to ask again and again.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/pointer", tag = "configuration",
    params(("agent" = String, Path), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, description = "{version, epoch, digest, bundles, canary, at, publish_id, reason}"), (status = 304), (status = 404, body = Problem)),
)]
pub async fn pointer(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    let (epoch, told) = pointer_of(&configs, &agent).await?;
    let tag = epoch.to_string();
    if has(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, etag(&tag)).into_response());
    }
    Ok((etag(&tag), Json(told)).into_response())
}

/// How many sessions go by each version, for the API and the page alike.
pub(crate) async fn pins_of(configs: &Configs, agent: &str) -> Result<Value, Problem> {
    let (_, register) = configs.register(agent).await?;
    let pins = configs.pins(agent, &register).await?;
    let shown = pins
        .into_iter()
        .rev()
        .map(|(version, pinned)| json!({ "version": version, "holding": pinned.holding, "leaving": pinned.leaving }));
    Ok(json!(shown.collect::<Vec<Value>>()))
}

/// Counts the sessions of each version: those that stay with it if they say something now, and those that move on then.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/pins", tag = "configuration", params(("agent" = String, Path)),
    responses((status = 200, description = "{pins: [{version, holding, leaving}]}"), (status = 404, body = Problem)),
)]
pub async fn pins(
    State(state): State<AppState>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (configs, agent) = reading(&state, &caller, &agent)?;
    Ok(Json(json!({ "pins": pins_of(&configs, &agent).await? })))
}

/// Whose updates, and from where on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Updates {
    /// Only of this agent.
    pub agent: Option<String>,
    /// The number of the last event that was heard.
    pub after: Option<u64>,
}

/// Streams moves of pointers and canaries, and how publishes end (`config.updated`, `publish.completed`,
/// `publish.failed`). Resumes as a session's events do. Whoever may have missed one asks for the pointer.
#[utoipa::path(
    get, path = "/v1/config-updates", tag = "configuration", params(Updates, ("Last-Event-ID" = Option<u64>, Header)),
    responses((status = 200, content_type = "text/event-stream"), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn updates(
    State(state): State<AppState>,
    caller: Caller,
    Query(updates): Query<Updates>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    caller.must_have(Scope::Read)?;
    let agent = updates.agent.map(|agent| agent_of(&state, &caller, &agent)).transpose()?;
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let keep = move |event: &EventRow| agent.as_ref().is_none_or(|agent| of_agent(event, agent));
    follow_some(state.client(caller.tenant), caller, SCOPE.to_owned(), header.or(updates.after), keep).await
}

fn of_agent(event: &EventRow, agent: &str) -> bool {
    if event.name == UPDATED_EVENT {
        return serde_json::from_slice::<Updated>(&event.data).is_ok_and(|updated| updated.agent_id == agent);
    }
    serde_json::from_slice::<Value>(&event.data).is_ok_and(|data| data["agent"] == agent)
}
