//! The errors of REST calls: a status and sentences, in the form Hatchet's SDKs read.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainspring_engine::EngineError;
use serde::Serialize;
use tonic::{Code, Status};

use crate::status;

/// An answer other than what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    field: Option<String>,
    description: String,
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct ApiErrors {
    errors: [ApiError; 1],
}

#[derive(Serialize)]
struct ApiError {
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    description: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, description: impl Into<String>) -> Self {
        Problem { status, field: None, description: description.into(), retry_after_ms: None }
    }

    /// A part of the request is not as it should be. `what` says what to change.
    pub(crate) fn field(field: &str, what: &str) -> Self {
        let description = format!("{field}: {what}");
        Problem { field: Some(field.to_owned()), ..Problem::new(StatusCode::BAD_REQUEST, description) }
    }

    /// There is nothing under an id.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no {what} {id} in this tenant"))
    }

    /// A part of the address that should be an id is none. Not 404, which SDKs ask for again and again.
    pub(crate) fn not_an_id(field: &str, found: &str) -> Self {
        Problem::field(field, &format!("{found:?} is no id"))
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(code, status.message())
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let retry_after_ms = match &error {
            EngineError::Busy { retry_after_ms, .. } => Some(*retry_after_ms),
            _ => None,
        };
        Problem { retry_after_ms, ..Problem::from(status::failed(&error)) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.status.as_u16();
        let error = ApiError { code, field: self.field, description: self.description };
        let mut response = (self.status, Json(ApiErrors { errors: [error] })).into_response();
        if let Some(wait_ms) = self.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
