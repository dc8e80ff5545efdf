//! Webhooks out: subscriptions, what became of their deliveries, and sending again.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use mainspring_flows::Secret;
use mainspring_flows::webhooks::delivery::Attempt;
use mainspring_flows::webhooks::health::Health;
use mainspring_flows::webhooks::history::DeadLetter;
use mainspring_flows::webhooks::message;
use mainspring_flows::webhooks::replay::{Progress, ReplayRequest};
use mainspring_flows::webhooks::{Change, Choices, Subscription, WebhookError, Webhooks};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::messages::idempotency_key;
use super::{Path, Query, json_body};
use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a request.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long two secrets are valid together if nothing is said: a day.
const OVERLAP_DEFAULT_MS: u64 = 24 * 60 * 60 * 1_000;

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookView {
    /// Its id.
    id: String,
    /// `pending`, `active`, `paused` or `disabled`.
    #[schema(value_type = String)]
    state: Value,
    /// Why it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Whether its endpoint, as it is now, answered the challenge.
    verified: bool,
    /// What was chosen: see docs/webhooks.md. Values of headers are not shown.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    choices: Value,
    /// How its endpoint is doing.
    health: HealthView,
    /// When it was made, in milliseconds since the Unix epoch.
    created_at: u64,
    /// When it was changed.
    updated_at: u64,
    /// The signing secret. Shown once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// How an endpoint is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// Failures in a row.
    consecutive_failures: u32,
    /// The share of tries of the last hour or two that failed, in percent.
    failure_percent: Option<u64>,
    /// Since when it fails.
    failing_since: Option<u64>,
    /// Until when it is spared: only probed now and then.
    spared_until: Option<u64>,
    /// The last success.
    last_success_at: Option<u64>,
    /// The last failure.
    last_failure_at: Option<u64>,
    /// What that was.
    last_failure_reason: Option<String>,
    /// How often its name led to an address that may not be called.
    refused_addresses: u64,
}

impl From<Health> for HealthView {
    fn from(health: Health) -> Self {
        HealthView {
            consecutive_failures: health.streak,
            failure_percent: health.failure_percent(),
            failing_since: health.failing_since,
            spared_until: health.spared_until,
            last_success_at: health.last_success_at,
            last_failure_at: health.last_failure_at,
            last_failure_reason: health.last_failure,
            refused_addresses: health.refused,
        }
    }
}

/// The tenant's subscriptions.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookList {
    /// In the order of their ids.
    webhooks: Vec<WebhookView>,
}

/// Tries at deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptList {
    /// The tries.
    #[schema(value_type = Vec<Object>)]
    attempts: Vec<Attempt>,
    /// Where the next page begins.
    next: Option<String>,
}

/// Deliveries that were given up, in the order of their events.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterList {
    /// The letters.
    dead_letters: Vec<DeadLetterView>,
    /// Where the next page begins.
    next: Option<String>,
}

/// A delivery that was given up.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterView {
    /// The id its endpoint was told.
    delivery_id: String,
    /// The event's number, by which it is sent again.
    sequence: u64,
    /// How many tries there were.
    attempts: u32,
    /// The last of them.
    #[schema(value_type = Object)]
    last_attempt: Attempt,
    /// When it was given up.
    died_at: u64,
    /// When it was last sent again because a person asked.
    replayed_at: Option<u64>,
}

/// A test event was told.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestSent {
    /// The event's number.
    sequence: u64,
    /// The id of its delivery.
    delivery_id: String,
}

/// A replay, and how far it came.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayView {
    /// Its id.
    id: String,
    /// How many events it looked at.
    looked_at: u64,
    /// How many it sent, or would have sent.
    matched: u64,
    /// Whether it only counts.
    dry_run: bool,
    /// Whether it is through.
    done: bool,
}

/// How a secret is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate {
    /// How long the secret before it stays valid too, in milliseconds; a day if it is not said.
    overlap_ms: Option<u64>,
}

/// Which page.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Page {
    /// As `next` of the page before said.
    from: Option<String>,
    /// How many at most.
    limit: Option<usize>,
}

impl From<WebhookError> for Problem {
    fn from(error: WebhookError) -> Self {
        let text = error.to_string();
        let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
        match error {
            WebhookError::Choice(_) => {
                Problem::new(unprocessable, "webhook_choice_invalid", text, "change the field that is named")
            }
            WebhookError::Url(_) => {
                Problem::new(unprocessable, "webhook_url_refused", text, "use an https address on the public internet")
            }
            WebhookError::Filter(_) => Problem::new(
                unprocessable,
                "webhook_filter_invalid",
                text,
                "write a CEL expression that is true or false",
            ),
            WebhookError::NotFound => Problem::not_found("webhook"),
            WebhookError::State(_) => Problem::new(StatusCode::CONFLICT, "webhook_state", text, "see docs/webhooks.md"),
            WebhookError::Unverified(_) => {
                let action = "have the endpoint answer the challenge, then verify it again";
                Problem::new(unprocessable, "webhook_unverified", text, action)
            }
            WebhookError::Full => {
                Problem::new(StatusCode::CONFLICT, "limit_reached", text, "delete one that is not needed")
            }
            WebhookError::Client(error) => error.into(),
        }
    }
}

async fn view(webhooks: &Webhooks, subscription: Subscription, secret: Option<Secret>) -> Result<WebhookView, Problem> {
    let health = webhooks.health(&subscription.id).await?;
    Ok(WebhookView {
        state: serde_json::to_value(subscription.state).unwrap_or_default(),
        reason: subscription.reason,
        verified: subscription.verified,
        choices: serde_json::to_value(&subscription.choices).unwrap_or_default(),
        health: health.into(),
        created_at: subscription.created_at,
        updated_at: subscription.updated_at,
        id: subscription.id,
        secret: secret.map(|secret| secret.0),
    })
}

/// Makes a subscription. It is pending until its endpoint is verified; the secret is shown in this answer only.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", request_body = Object,
    responses(
        (status = 201, body = WebhookView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<WebhookView>), Problem> {
    caller.must_have(Scope::Write)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let choices: Choices = json_body(body, BODY_BYTES_MAX).await?;
    let (made, secret) = webhooks.create(choices).await?;
    Ok((StatusCode::CREATED, Json(view(webhooks, made, Some(secret)).await?)))
}

/// Lists the tenant's subscriptions.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks",
    responses((status = 200, body = WebhookList), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<WebhookList>, Problem> {
    caller.may_see_webhooks()?;
    let webhooks = state.webhooks(caller.tenant)?;
    let mut views = Vec::new();
    for (_, subscription) in webhooks.list().await? {
        views.push(view(webhooks, subscription, None).await?);
    }
    Ok(Json(WebhookList { webhooks: views }))
}

/// Shows a subscription.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, body = WebhookView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<WebhookView>, Problem> {
    caller.may_see_webhooks()?;
    let webhooks = state.webhooks(caller.tenant)?;
    let (_, subscription) = webhooks.find(&id).await?;
    Ok(Json(view(webhooks, subscription, None).await?))
}

/// Changes what is named in the body; the rest stays. Another `url` has to be verified again.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), request_body = Object,
    responses(
        (status = 200, body = WebhookView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem),
    ),
)]
pub async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<WebhookView>, Problem> {
    caller.must_have(Scope::Write)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let change: Change = json_body(body, BODY_BYTES_MAX).await?;
    let changed = webhooks.change(&id, &change).await?;
    Ok(Json(view(webhooks, changed, None).await?))
}

/// Deletes a subscription. What it was still owed is not delivered.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Write)?;
    state.webhooks(caller.tenant)?.delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends the endpoint a challenge. If it answers it, the subscription is active from here on.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/verify", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 200, body = WebhookView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 422, body = Problem),
    ),
)]
pub async fn verify(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<WebhookView>, Problem> {
    caller.must_have(Scope::Write)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let verified = webhooks.verify(&id).await?;
    Ok(Json(view(webhooks, verified, None).await?))
}

/// Stops deliveries. What is owed waits, for fourteen days at most.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/pause", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 200, body = WebhookView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem),
    ),
)]
pub async fn pause(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<WebhookView>, Problem> {
    caller.must_have(Scope::Write)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let paused = webhooks.pause(&id).await?;
    Ok(Json(view(webhooks, paused, None).await?))
}

/// Goes on with deliveries after a pause, or after the subscription was disabled. What waited is delivered first.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/resume", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 200, body = WebhookView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem),
    ),
)]
pub async fn resume(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<WebhookView>, Problem> {
    caller.must_have(Scope::Write)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let resumed = webhooks.resume(&id).await?;
    Ok(Json(view(webhooks, resumed, None).await?))
}

/// Sends a test event to this subscription alone, the way of all others.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/test", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 202, body = TestSent), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem),
    ),
)]
pub async fn test(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<TestSent>), Problem> {
    caller.must_have(Scope::Write)?;
    let sequence = state.webhooks(caller.tenant)?.test(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(TestSent { sequence, delivery_id: message::delivery_id(&id, sequence) })))
}

/// Gives a new secret, shown in this answer only. Requests are signed with both until the overlap ends.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/rotate-secret", tag = "webhooks", params(("id" = String, Path)), request_body = Rotate,
    responses(
        (status = 200, body = WebhookView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem),
    ),
)]
pub async fn rotate(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<WebhookView>, Problem> {
    caller.must_have(Scope::Write)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let wanted: Rotate = json_body(body, BODY_BYTES_MAX).await?;
    let overlap_ms = wanted.overlap_ms.unwrap_or(OVERLAP_DEFAULT_MS);
    let (rotated, secret) = webhooks.rotate(&id, overlap_ms).await?;
    Ok(Json(view(webhooks, rotated, Some(secret)).await?))
}

/// Lists the tries at deliveries of a subscription, newest first. May lag by some tens of milliseconds.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/attempts", tag = "webhooks",
    params(("id" = String, Path), ("from" = Option<String>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, body = AttemptList), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn attempts(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<AttemptList>, Problem> {
    caller.may_see_webhooks()?;
    let webhooks = state.webhooks(caller.tenant)?;
    webhooks.find(&id).await?;
    let (attempts, next) = webhooks.attempts(&id, page.place()?, page.limit.unwrap_or(50)).await?;
    Ok(Json(AttemptList { attempts, next: next.map(|next| next.to_string()) }))
}

/// Lists what was given up, in the order of its events. May lag by some tens of milliseconds.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/dead-letters", tag = "webhooks",
    params(("id" = String, Path), ("from" = Option<String>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, body = DeadLetterList), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn dead_letters(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<DeadLetterList>, Problem> {
    caller.may_see_webhooks()?;
    let webhooks = state.webhooks(caller.tenant)?;
    webhooks.find(&id).await?;
    let (letters, next) = webhooks.dead_letters(&id, page.place()?, page.limit.unwrap_or(50)).await?;
    let dead_letters = letters.into_iter().map(|(_, letter)| dead_view(letter)).collect();
    Ok(Json(DeadLetterList { dead_letters, next: next.map(|next| next.to_string()) }))
}

fn dead_view(letter: DeadLetter) -> DeadLetterView {
    DeadLetterView {
        delivery_id: letter.last.delivery_id.clone(),
        sequence: letter.owed.seq,
        attempts: letter.attempts,
        died_at: letter.died_at,
        replayed_at: letter.replayed_at,
        last_attempt: letter.last,
    }
}

/// Sends again: dead letters, or all events of a time; by filter, or only counted. The same `Idempotency-Key` again is
/// the same replay.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/replays", tag = "webhooks", params(("id" = String, Path)), request_body = Object,
    responses(
        (status = 202, body = ReplayView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem),
    ),
)]
pub async fn replay(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ReplayView>), Problem> {
    caller.must_have(Scope::Write)?;
    let key = idempotency_key(&headers)?;
    let webhooks = state.webhooks(caller.tenant)?;
    let request: ReplayRequest = json_body(body, BODY_BYTES_MAX).await?;
    let dry_run = request.dry_run;
    let replay = webhooks.replay(&id, request, key).await?.to_string();
    let progress = webhooks.replay_progress(&replay).await?;
    let progress = progress.unwrap_or(Progress { dry_run, ..Progress::default() });
    Ok((StatusCode::ACCEPTED, Json(replay_view(replay, &progress))))
}

/// Shows how far a replay came.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/replays/{replay}", tag = "webhooks",
    params(("id" = String, Path), ("replay" = String, Path)),
    responses((status = 200, body = ReplayView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn replay_progress(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, replay)): Path<(String, String)>,
) -> Result<Json<ReplayView>, Problem> {
    caller.may_see_webhooks()?;
    let progress = state.webhooks(caller.tenant)?.replay_progress(&replay).await?;
    let progress =
        progress.filter(|progress| progress.subscription == id).ok_or_else(|| Problem::not_found("replay"))?;
    Ok(Json(replay_view(replay, &progress)))
}

fn replay_view(id: String, progress: &Progress) -> ReplayView {
    let Progress { looked_at, matched, dry_run, done, .. } = *progress;
    ReplayView { id, looked_at, matched, dry_run, done }
}

impl Page {
    /// A page that begins there.
    pub(crate) fn from_place(from: Option<String>) -> Query<Page> {
        Query(Page { from, limit: None })
    }

    fn place(&self) -> Result<Option<u64>, Problem> {
        let malformed = || Problem::bad_request("query_malformed", "from is not a place", "give what next said");
        self.from.as_ref().map(|from| from.parse().map_err(|_| malformed())).transpose()
    }
}

/// The tenants that have webhooks, each with its own.
pub type OfTenants = BTreeMap<mainspring_client::TenantId, Webhooks>;
