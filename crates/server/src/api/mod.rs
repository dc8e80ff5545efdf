//! The JSON API. One file per noun; [`crate::openapi`] documents what is here from the same code.

pub mod messages;
pub mod ops;
pub mod runs;
pub mod sessions;
pub mod tokens;
pub mod turns;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::{delete, get, post};
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::state::AppState;

pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}", get(sessions::show))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/messages", post(messages::send))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/events", get(sessions::events))
        .route("/v1/messages/{id}", get(messages::show))
        .route("/v1/turns/{id}", get(turns::show))
        .route("/v1/runs", get(runs::list))
        .route("/v1/runs/{id}", get(runs::show))
        .route("/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/v1/runs/{id}/resume", post(runs::resume))
        .route("/v1/runs/{id}/signals/{name}", post(runs::signal))
        .route("/v1/workflows/{name}/runs", post(runs::start))
        .route("/v1/events", post(sessions::emit))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(ops::openapi))
}

/// Reads a JSON body within the limit.
pub(crate) async fn json_body<T: DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Problem> {
    let bytes = body_bytes(body, bytes_max).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::bad_request(
            "json_malformed",
            format!("the body is not the JSON this call takes: {error}"),
            "see /openapi.json for the body's shape",
        )
    })
}

/// Reads a body within the limit.
pub(crate) async fn body_bytes(body: Body, bytes_max: usize) -> Result<bytes::Bytes, Problem> {
    to_bytes(body, bytes_max).await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        // The limit's error has no public type; its text has been the same since it exists.
        if cause.to_string().contains("length limit") {
            Problem::too_large(bytes_max)
        } else {
            Problem::bad_request(
                "body_incomplete",
                format!("the body broke off: {cause}"),
                "send the request again, with the same Idempotency-Key",
            )
        }
    })
}

/// Parses an id from the address. One that is no id names nothing, just like one that does not exist.
pub(crate) fn id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::not_found(what))
}
