//! Webhooks of platforms, coming in: verified, read, made durable, answered; and then a turn. The request's signature
//! stands for a token.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainspring_client::{SendOptions, TenantId};
use mainspring_flows::incoming::{Arrived, Envelope, Integration, NotTaken, Platform};
use mainspring_flows::settings::millis;
use mainspring_flows::turn::WORKFLOW;
use mainspring_flows::{SessionKey, receipts};
use serde::Deserialize;

use super::messages::known_agent;
use super::{Path, Query, body_bytes};
use crate::auth::now_s;
use crate::problem::Problem;
use crate::state::AppState;

/// Bytes of a request.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// An integration, and where what it brings belongs.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The integration.
    pub integration: Integration,
    /// Whose it is.
    pub tenant: TenantId,
    /// Who answers.
    pub agent: String,
    /// Over which channel.
    pub channel: String,
}

/// Meta's question whether we are we.
#[derive(Debug, Deserialize)]
pub struct Question {
    #[serde(rename = "hub.mode")]
    mode: String,
    #[serde(rename = "hub.verify_token")]
    token: String,
    #[serde(rename = "hub.challenge")]
    challenge: String,
}

/// Answers Meta's question whether this is the integration it was told of.
#[utoipa::path(
    get, path = "/v1/incoming/{integration}", tag = "incoming", security(()),
    params(
        ("integration" = String, Path), ("hub.mode" = String, Query), ("hub.verify_token" = String, Query),
        ("hub.challenge" = String, Query),
    ),
    responses((status = 200, body = String), (status = 400, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn challenge(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(question): Query<Question>,
) -> Result<String, Problem> {
    let placed = state.integration(&id)?;
    let answer = placed.integration.challenge(&question.mode, &question.token, &question.challenge);
    answer.ok_or_else(|| {
        let action = "configure the same verify token here and there";
        Problem::new(StatusCode::FORBIDDEN, "verify_token_wrong", "the verify token is not this integration's", action)
    })
}

/// Takes what a platform sends. Answered once every message of it is durable; sent again, it is the same messages.
#[utoipa::path(
    post, path = "/v1/incoming/{integration}", tag = "incoming", security(()), params(("integration" = String, Path)),
    request_body(content = String, description = "As the platform sends it"),
    responses(
        (status = 200), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem),
    ),
)]
pub async fn take(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let placed = state.integration(&id)?;
    let body = body_bytes(body, BODY_BYTES_MAX).await?;
    let header_of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let brought = placed.integration.read(Arrived { header: &header_of, body: &body, now_s: now_s() })?;
    for message in brought.messages {
        send(&state, placed, message).await?;
    }
    let client = state.client(placed.tenant);
    for receipt in brought.receipts {
        // Of something that was not sent by us, or is not remembered any more, there is nothing to say.
        let Some(reply_id) = receipts::of_provider(&client, &placed.channel, &receipt.message_id).await? else {
            continue;
        };
        let Some(known) = receipts::delivery(&client, &reply_id).await? else { continue };
        let taken =
            receipts::Receipt { reply_id, status: receipt.status, provider_message_id: None, error: receipt.error };
        receipts::take(&client, &known.session, &known.turn_id, &taken).await?;
    }
    Ok(match placed.integration.platform {
        // Twilio reads the answer as what to say next: nothing.
        Platform::Twilio => ([(header::CONTENT_TYPE, "text/xml")], "<Response/>").into_response(),
        Platform::Generic | Platform::Meta => StatusCode::OK.into_response(),
    })
}

async fn send(state: &AppState, placed: &Placed, message: Envelope) -> Result<(), Problem> {
    let session = SessionKey::new(placed.tenant, &placed.agent, &message.sender, &placed.channel)?;
    known_agent(state, &session)?;
    let settings = state.agents().get(session.tenant, &session.agent);
    let mut admission = settings.map(|settings| settings.protection.admission(&session)).unwrap_or_default();
    if let Some(settings) = settings {
        admission.once = Some((message.message_id.chars().take(200).collect(), millis(settings.message_id_ttl)));
    }
    let options = SendOptions { idempotency_key: None, admission };
    let body = message.into_message();
    let accepted = state.client(placed.tenant).send(WORKFLOW, &session.to_string(), &body, options).await?;
    state.accepted().fetch_add(u64::from(!accepted.duplicate), Ordering::Relaxed);
    Ok(())
}

impl From<NotTaken> for Problem {
    fn from(refused: NotTaken) -> Self {
        let text = refused.to_string();
        match refused {
            NotTaken::Unsigned | NotTaken::Stale => {
                let action = "sign with the secret that is configured for this integration";
                Problem::new(StatusCode::UNAUTHORIZED, "signature_invalid", text, action)
            }
            NotTaken::Malformed(_) => {
                Problem::bad_request("body_malformed", text, "check which platform is configured")
            }
        }
    }
}
