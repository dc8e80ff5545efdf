//! Who gets in: the token is checked and taken out of the request, requests are counted, and no answer takes for ever.
//!
//! A refusal is an error of JSON-RPC with the problem document of the HTTP API as its data: MCP clients show their people
//! the words of the former, and of anything else only that it was an error.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{Authenticate, Denied};

/// Bytes a token may have.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The code of errors from before the protocol; the status says which. From the range that is the servers' own.
const REFUSED: i32 = -32_000;
/// Bytes an agent's id may have.
const AGENT_BYTES_MAX: usize = 256;

#[derive(Clone)]
pub(super) struct Door {
    authenticate: Authenticate,
    at_once: Arc<Semaphore>,
    timeout: Duration,
}

/// What may be said behind a `?`.
#[derive(Debug, Deserialize)]
struct Asked {
    agent: Option<String>,
}

impl Door {
    pub(super) fn new(authenticate: Authenticate, at_once: usize, timeout: Duration) -> Self {
        Door { authenticate, at_once: Arc::new(Semaphore::new(at_once)), timeout }
    }
}

/// Lets a request through with its caller, or refuses it.
pub(super) async fn pass(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let Ok(_permit) = door.at_once.try_acquire() else {
        return refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_requests",
            "too many discovery requests are being answered",
            "send it again after the time in Retry-After",
        );
    };
    let token = match bearer(&request) {
        Ok(token) => token,
        Err(detail) => return unauthorized(detail),
    };
    let answered = tokio::time::timeout(door.timeout, async {
        let mut caller = match (door.authenticate)(token).await {
            Ok(caller) => caller,
            Err(denied) => return denied.into_response(),
        };
        match asked_agent(&request) {
            Err(response) => return response,
            Ok(None) => {}
            Ok(Some(agent)) if caller.agent.as_ref().is_none_or(|bound| *bound == agent) => caller.agent = Some(agent),
            Ok(Some(_)) => {
                return refused(
                    StatusCode::FORBIDDEN,
                    "forbidden",
                    "this token is bound to another agent",
                    "leave `agent` out, or use a token of that agent",
                );
            }
        }
        // The library keeps a request's head with it, and logs what it is asked. What opens doors stays outside.
        request.headers_mut().remove(header::AUTHORIZATION);
        request.headers_mut().remove(header::COOKIE);
        request.extensions_mut().insert(caller);
        next.run(request).await
    });
    answered.await.unwrap_or_else(|_| {
        refused(
            StatusCode::GATEWAY_TIMEOUT,
            "timed_out",
            "the catalogue took too long to answer",
            "send it again later; nothing was changed",
        )
    })
}

fn bearer(request: &Request) -> Result<String, &'static str> {
    let Some(header) = request.headers().get(header::AUTHORIZATION) else { return Err("no token was sent") };
    let text = header.to_str().map_err(|_| "the Authorization header is not text")?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err("the Authorization header has no bearer token"),
    };
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err("the bearer token is empty, or too long to be one");
    }
    Ok(token.to_owned())
}

/// The agent named in the address, for tokens that are bound to none.
fn asked_agent(request: &Request) -> Result<Option<String>, Response> {
    match Query::<Asked>::try_from_uri(request.uri()) {
        Ok(Query(Asked { agent: None })) => Ok(None),
        Ok(Query(Asked { agent: Some(agent) })) if !agent.is_empty() && agent.len() <= AGENT_BYTES_MAX => {
            Ok(Some(agent))
        }
        _ => Err(refused(
            StatusCode::BAD_REQUEST,
            "bad_query",
            &format!("`agent` has to be one id of at most {AGENT_BYTES_MAX} bytes"),
            "name the agent as in /mcp?agent=trips, or leave it out",
        )),
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Denied::Unauthorized(detail) => unauthorized(&detail),
            Denied::Forbidden(detail) => {
                refused(StatusCode::FORBIDDEN, "forbidden", &detail, "use a token of the tenant that may read")
            }
            Denied::Unavailable(detail) => refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                &detail,
                "send it again after the time in Retry-After",
            ),
        }
    }
}

fn unauthorized(detail: &str) -> Response {
    let action = "send `Authorization: Bearer` with a token of the tenant; MCP clients have a setting for headers";
    refused(StatusCode::UNAUTHORIZED, "unauthorized", detail, action)
}

fn refused(status: StatusCode, code: &str, detail: &str, action: &str) -> Response {
    let document = json!({
        "type": format!("urn:mainspring:problem:{code}"),
        "title": code.replace('_', " "),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
        "action": action,
    });
    // Which request it was is in its body, which is not read for those who may not send one.
    let message = format!("{detail}: {action}");
    let error = json!({ "code": REFUSED, "message": message, "data": document });
    let mut response = (status, Json(json!({ "jsonrpc": "2.0", "id": null, "error": error }))).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
