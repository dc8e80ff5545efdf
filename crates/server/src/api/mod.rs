//! The JSON API. One file per noun; [`crate::openapi`] documents what is here from the same code.

pub mod audit;
pub mod calls;
pub mod config;
pub mod follow_ups;
pub mod incoming;
pub mod messages;
pub mod ops;
pub mod publish;
pub mod runs;
pub mod sessions;
pub mod state;
pub mod streams;
pub mod tokens;
pub mod tools;
pub mod turns;
pub mod webhooks;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{delete, get, post, put};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::state::AppState;

pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}", get(sessions::show))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/messages", post(messages::send))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/events", get(sessions::events))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/state", get(state::show).put(state::put))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/state/history", get(state::history))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/receipts", post(state::receipt))
        .route("/v1/turn", get(calls::standing))
        .route("/v1/turn/commit-point", post(calls::commit_point))
        .route("/v1/turn/state", get(calls::session_state))
        .route("/v1/turn/say", post(calls::say))
        .route("/v1/turn/events", post(calls::event))
        .route("/v1/turn/artifacts/{phase}", put(calls::put_artifact).get(calls::artifact))
        .route("/v1/turn/effects", post(calls::begin_effect))
        .route("/v1/turn/effects/outcome", post(calls::end_effect))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/follow-ups", get(follow_ups::list))
        .route("/v1/sessions/{agent}/{interlocutor}/{channel}/follow-ups", post(follow_ups::schedule))
        .route("/v1/follow-ups/{id}", get(follow_ups::show).delete(follow_ups::cancel))
        .route("/v1/tools", get(tools::list))
        .route("/v1/tools/{name}", get(tools::show).put(tools::put).delete(tools::remove))
        .route("/v1/tools/{name}/execute", post(tools::execute))
        .route("/v1/tools/{name}/execute-stream", post(tools::execute_stream))
        .route("/v1/agents/{agent}/tools/{name}", put(tools::activate))
        .route("/v1/tool-executions", get(tools::executions))
        .route("/v1/tool-executions/{id}", get(tools::execution))
        .route("/v1/tool-executions/{id}/stream", get(tools::stream_of))
        .route("/v1/tool-executions/{id}/cancel", post(tools::cancel))
        .route("/v1/tool-executions/{id}/compensate", post(tools::compensate))
        .route("/v1/tool-callbacks/{id}", post(tools::callback))
        .route("/v1/audit", get(audit::export))
        .route("/v1/attention", get(tools::attention))
        .route("/v1/attention/{run}/{step}/settle", post(tools::settle))
        .route("/v1/turn/tools", get(tools::list_in_turn))
        .route("/v1/turn/tools/{name}", post(tools::execute_in_turn))
        .route("/v1/turn/tool-executions/{id}", get(tools::execution_in_turn))
        .route("/v1/turn/tool-executions/{id}/confirm", post(tools::confirm_in_turn))
        .route("/v1/messages/{id}", get(messages::show))
        .route("/v1/turns/{id}", get(turns::show))
        .route("/v1/turns/{id}/replay", post(turns::replay))
        .route("/v1/runs", get(runs::list))
        .route("/v1/runs/{id}", get(runs::show))
        .route("/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/v1/runs/{id}/resume", post(runs::resume))
        .route("/v1/runs/{id}/signals/{name}", post(runs::signal))
        .route("/v1/workflows/{name}/runs", post(runs::start))
        .route("/v1/events", post(sessions::emit))
        .route("/v1/incoming/{integration}", get(incoming::challenge).post(incoming::take))
        .route("/v1/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/v1/webhooks/{id}", get(webhooks::show).patch(webhooks::change).delete(webhooks::remove))
        .route("/v1/webhooks/{id}/verify", post(webhooks::verify))
        .route("/v1/webhooks/{id}/pause", post(webhooks::pause))
        .route("/v1/webhooks/{id}/resume", post(webhooks::resume))
        .route("/v1/webhooks/{id}/test", post(webhooks::test))
        .route("/v1/webhooks/{id}/rotate-secret", post(webhooks::rotate))
        .route("/v1/webhooks/{id}/attempts", get(webhooks::attempts))
        .route("/v1/webhooks/{id}/dead-letters", get(webhooks::dead_letters))
        .route("/v1/webhooks/{id}/replays", post(webhooks::replay))
        .route("/v1/webhooks/{id}/replays/{replay}", get(webhooks::replay_progress))
        .merge(configurations())
        .merge(stream_routes())
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/cluster", get(ops::cluster))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(ops::openapi))
}

/// What is published, and how.
fn configurations() -> Router<AppState> {
    Router::new()
        .route("/v1/agents/{agent}/config/draft", get(config::draft).put(config::put_draft))
        .route(
            "/v1/agents/{agent}/config/draft/{kind}",
            get(config::draft_kind).put(config::put_draft_kind).delete(config::remove_draft_kind),
        )
        .route("/v1/agents/{agent}/config/settings", get(config::settings).put(config::put_settings))
        .route("/v1/agents/{agent}/config/collect", post(publish::collect))
        .route("/v1/agents/{agent}/publish", get(publish::overview).post(publish::publish))
        .route("/v1/agents/{agent}/rollback", post(publish::rollback))
        .route("/v1/agents/{agent}/canary", post(publish::canary).delete(publish::end_canary))
        .route("/v1/agents/{agent}/promote", post(publish::promote))
        .route("/v1/agents/{agent}/versions", get(config::versions))
        .route("/v1/agents/{agent}/versions/{version}", get(config::version))
        .route("/v1/agents/{agent}/versions/{version}/diff/{to}", get(config::diff))
        .route("/v1/agents/{agent}/bundles/{version}/{kind}", get(config::bundle))
        .route("/v1/agents/{agent}/pointer", get(config::pointer))
        .route("/v1/agents/{agent}/pins", get(config::pins))
        .route("/v1/config-mirror/rebuild", post(publish::rebuild_mirror))
        .route("/v1/publishes/{id}", get(publish::show))
        .route("/v1/publishes/{id}/cancel", post(publish::cancel))
        .route("/v1/config-updates", get(config::updates))
        .route("/v1/config/content", post(config::put_content))
        .route("/v1/config/content/{digest}", get(config::content))
        .route("/v1/turn/bundles/{version}/{kind}", get(config::bundle_in_turn))
}

fn stream_routes() -> Router<AppState> {
    Router::new()
        .route("/v1/streams", get(streams::list))
        .route("/v1/streams/{name}", get(streams::show).put(streams::put))
        .route("/v1/streams/{name}/entries", post(streams::publish))
        .route("/v1/streams/{name}/events", get(streams::events))
        .route("/v1/streams/{name}/replay", post(streams::replay))
        .route("/v1/streams/{name}/groups/{group}", delete(streams::drop_group))
        .route("/v1/streams/{name}/groups/{group}/take", post(streams::take))
        .route("/v1/streams/{name}/groups/{group}/ack", post(streams::ack))
        .route("/v1/streams/{name}/groups/{group}/nack", post(streams::nack))
        .route("/v1/streams/{name}/groups/{group}/dead-letter", post(streams::dead_letter))
        .route("/v1/streams/{name}/groups/{group}/leave", post(streams::leave))
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

/// Bytes beyond the limit that are still read, and dropped: a client that is cut off in the middle of sending sees a
/// broken connection instead of the answer that says why.
const DROPPED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Reads a body within the limit.
pub(crate) async fn body_bytes(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let (mut stream, mut pieces, mut bytes) = (body.into_data_stream(), Vec::new(), 0_usize);
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            Problem::bad_request(
                "body_incomplete",
                format!("the body broke off: {error}"),
                "send the request again, with the same Idempotency-Key",
            )
        })?;
        bytes = bytes.saturating_add(piece.len());
        if bytes <= bytes_max {
            pieces.push(piece);
        } else if bytes <= bytes_max.saturating_add(DROPPED_BYTES_MAX) {
            pieces.clear();
        } else {
            break;
        }
    }
    match (bytes <= bytes_max, pieces.as_slice()) {
        (false, _) => Err(Problem::too_large(bytes_max)),
        (true, [whole]) => Ok(whole.clone()),
        (true, pieces) => Ok(pieces.concat().into()),
    }
}

/// The parts of the address, or a problem document where axum would answer plain text.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Path(path)).map_err(|rejection| {
            Problem::bad_request("address_malformed", rejection.body_text(), "percent-encode the parts as UTF-8")
        })
    }
}

/// The query, or a problem document where axum would answer plain text.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(query)| Query(query)).map_err(|rejection| {
            Problem::bad_request("query_malformed", rejection.body_text(), "see /openapi.json for the parameters")
        })
    }
}

/// Parses an id from the address. One that is no id names nothing, just like one that does not exist.
pub(crate) fn id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::not_found(what))
}
