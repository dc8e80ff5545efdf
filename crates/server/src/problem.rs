//! Errors as RFC 9457 problem documents: a stable code, what happened, and what to do.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use mainspring_client::ClientError;
use mainspring_core::Refusal;
use mainspring_engine::EngineError;
use mainspring_flows::BadSessionKey;
use serde::Serialize;
use utoipa::ToSchema;

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:mainspring:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable word for programs.
    pub code: String,
    /// What happened.
    pub detail: String,
    /// What to do.
    pub action: String,
    /// When to try again, if that may help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>, action: impl Into<String>) -> Self {
        let mut title = code.replace('_', " ");
        if let Some(first) = title.get_mut(0..1) {
            first.make_ascii_uppercase();
        }
        Problem {
            kind: format!("urn:mainspring:problem:{code}"),
            title,
            status: status.as_u16(),
            code: code.to_owned(),
            detail: detail.into(),
            action: action.into(),
            retry_after_ms: None,
        }
    }

    /// Something that is not there, or not this tenant's, which must look the same.
    pub fn not_found(what: &str) -> Self {
        let action = "check the id, and that the token belongs to the tenant it was made in";
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"), action)
    }

    /// A request that is not understood.
    pub fn bad_request(code: &str, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, code, detail, action)
    }

    /// A body over the limit.
    pub fn too_large(max: usize) -> Self {
        let detail = format!("the request's body exceeds the limit of {max} bytes");
        let action = "send less, or store the content elsewhere and send a reference to it";
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail, action)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after_ms = self.retry_after_ms;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.div_ceil(1_000)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, action) = match &refusal {
            Refusal::NoTenant => (StatusCode::NOT_FOUND, "create the tenant, or use a token of one that exists"),
            Refusal::NoWorkflow { .. } => {
                (StatusCode::NOT_FOUND, "start a worker that registers it, or check the spelling")
            }
            Refusal::NoRun { .. } | Refusal::NoTask { .. } | Refusal::NoToken | Refusal::NoWorker => {
                (StatusCode::NOT_FOUND, "check the id, and that the token belongs to the tenant it was made in")
            }
            Refusal::NoStream { .. } => (StatusCode::NOT_FOUND, "publish to it first, or check the spelling"),
            Refusal::NoStreamGroup { .. } => (StatusCode::NOT_FOUND, "take from it first, or check the spelling"),
            Refusal::NoEntry { .. } => (StatusCode::NOT_FOUND, "name entries as they were handed out"),
            Refusal::RunEnded { .. } => (StatusCode::CONFLICT, "start a new run"),
            Refusal::NotReplayable { .. } => (StatusCode::CONFLICT, "start a new run with the same input"),
            Refusal::NotEnded { .. } => (StatusCode::CONFLICT, "cancel the run first, or wait for its end"),
            Refusal::WorkerNotConnected => (StatusCode::CONFLICT, "let the worker connect first"),
            Refusal::NotParked { .. } | Refusal::NotRunning { .. } => {
                (StatusCode::CONFLICT, "look at the run's state first")
            }
            Refusal::StaleClaim { .. } | Refusal::StaleFence { .. } => {
                (StatusCode::CONFLICT, "stop working on the attempt")
            }
            Refusal::Committed { .. } => (StatusCode::CONFLICT, "let it end"),
            Refusal::MessageWaits { .. } => {
                (StatusCode::CONFLICT, "look at the message, or ask again without `unless_pending`")
            }
            Refusal::VersionConflict { .. } => {
                (StatusCode::CONFLICT, "read it again, decide anew, and send that version")
            }
            Refusal::TooFast { .. } | Refusal::Crowded { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "send it again after the time in Retry-After")
            }
            Refusal::BadDefinition(_)
            | Refusal::StartedByMessages { .. }
            | Refusal::NoInbox { .. }
            | Refusal::NotYet { .. }
            | Refusal::KeyMissing { .. }
            | Refusal::NotBefore { .. }
            | Refusal::NotDurable { .. }
            | Refusal::Empty { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "change the request as the detail says"),
            Refusal::IdempotencyConflict { .. } => (StatusCode::CONFLICT, "use a new key for a new request"),
            Refusal::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "send less, or send a reference to it"),
            Refusal::StreamFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "retry when its groups have caught up"),
            Refusal::Full { .. } => (StatusCode::TOO_MANY_REQUESTS, "retry later; the detail says what helps"),
            Refusal::JournalMismatch { .. } | Refusal::JournalGap { .. } => {
                (StatusCode::CONFLICT, "run the code the journal was written by")
            }
        };
        let mut problem = Problem::new(status, refusal.code(), refusal.to_string(), action);
        problem.retry_after_ms = match refusal {
            Refusal::TooFast { retry_after_ms, .. } => Some(retry_after_ms),
            _ => (status == StatusCode::TOO_MANY_REQUESTS).then_some(1_000),
        };
        problem
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match error {
            EngineError::Refused(refusal) => refusal.into(),
            EngineError::Busy { retry_after_ms, .. } => {
                let mut problem = Problem::new(
                    unavailable,
                    "busy",
                    text,
                    "retry after the stated time, with the same Idempotency-Key",
                );
                problem.retry_after_ms = Some(retry_after_ms);
                problem
            }
            EngineError::Stopped { .. } => Problem::new(
                unavailable,
                "log_unwritable",
                text,
                "do what it says, and restart the server; nothing accepted is lost",
            ),
            EngineError::ShuttingDown => {
                let mut problem =
                    Problem::new(unavailable, "shutting_down", text, "retry with the same Idempotency-Key");
                problem.retry_after_ms = Some(500);
                problem
            }
            EngineError::Unreadable { .. } => Problem::new(
                unavailable,
                "store_unreadable",
                text,
                "try again; if it persists, look at the server's log and mend the store",
            ),
            EngineError::Missing { .. } => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "store_incomplete",
                text,
                "restore the store from a backup",
            ),
        }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Engine(error) => error.into(),
            ClientError::Json { .. } => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "json_unexpected",
                error.to_string(),
                "send the JSON the API describes",
            ),
            ClientError::Random { .. } => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "no_randomness",
                error.to_string(),
                "look at the server's system log, then try again",
            ),
            ClientError::NotCompleted { .. } => {
                Problem::new(StatusCode::CONFLICT, "run_not_completed", error.to_string(), "look at the run")
            }
        }
    }
}

impl From<BadSessionKey> for Problem {
    fn from(bad: BadSessionKey) -> Self {
        Problem::bad_request(
            "session_key_malformed",
            bad.to_string(),
            format!("change the {} in the address", bad.part),
        )
    }
}

/// What is answered where no route is.
pub async fn no_such_route(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", detail, "see /openapi.json for what there is")
}

/// What is answered where the route does not take the method.
pub async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    let action = "see /openapi.json for the methods it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail, action)
}
