//! The HTTP under the protocol: the caller's client, watched at the one place where it is known what left.
//!
//! The library above says that a request failed; whether the server may have begun with it depends on where. So each call
//! has a [`Passage`], which travels with its request down to here and is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, GetExtensions, JsonRpcMessage};
use rmcp::service::ServiceError;
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse, StreamableHttpResponseLimits,
};
use sse_stream::Sse;

use super::outcome::{self, Cause, Doubt, NotDone, Outcome};

/// How long a server may ask to be left alone.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One call on its way.
#[derive(Debug, Clone)]
pub(super) struct Passage {
    idempotency_key: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
enum State {
    /// Not sent yet.
    #[default]
    Here,
    /// Handed to the connection. From here on the server may have it.
    Gone,
    /// It came back, certainly without having been begun with.
    Back(NotDone),
    /// What came instead of an answer.
    Lost(Doubt),
}

impl Passage {
    pub(super) fn new(idempotency_key: &str) -> Self {
        Passage { idempotency_key: idempotency_key.into(), state: Arc::default() }
    }

    /// What it means that the library gave up on the call with `error`.
    pub(super) fn outcome(&self, error: &ServiceError, answer_bytes_max: usize) -> Outcome {
        match self.state() {
            State::Here => {
                Outcome::NotDone(NotDone::new(Cause::Unreachable, "the connection was closed before the call"))
            }
            State::Back(why) => Outcome::NotDone(why),
            State::Lost(Doubt::TooLarge { .. }) => Outcome::InDoubt(Doubt::TooLarge { max: answer_bytes_max }),
            State::Lost(doubt) => Outcome::InDoubt(doubt),
            State::Gone => Outcome::InDoubt(Doubt::ConnectionLost(outcome::cut(&error.to_string()))),
        }
    }

    /// What it means that there was no answer in time.
    pub(super) fn timed_out(&self, timeout: Duration) -> Outcome {
        match self.state() {
            State::Here => Outcome::NotDone(NotDone::timed_out(timeout)),
            State::Back(why) => Outcome::NotDone(why),
            State::Gone | State::Lost(_) => Outcome::InDoubt(Doubt::TimedOut { timeout }),
        }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The caller's HTTP client as the library wants it.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    http: reqwest::Client,
    failed: Arc<Mutex<Option<State>>>,
}

type Result<T> = std::result::Result<T, StreamableHttpError<reqwest::Error>>;
type Events = BoxStream<'static, std::result::Result<Sse, SseError>>;

impl Wire {
    pub(super) fn new(http: reqwest::Client) -> Self {
        Wire { http, failed: Arc::default() }
    }

    /// What the last request failed with that was not a call: those change nothing.
    pub(super) fn last_failure(&self) -> Option<NotDone> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()? {
            State::Back(why) => Some(why),
            State::Lost(doubt) => {
                let cause = match &doubt {
                    Doubt::TimedOut { .. } => Cause::TimedOut,
                    Doubt::ConnectionLost(_) => Cause::Unreachable,
                    Doubt::TooLarge { .. } => Cause::TooLarge,
                    Doubt::Unreadable(_) => Cause::NotMcp,
                    Doubt::ServerError(_) => Cause::ServerFailed,
                };
                Some(NotDone::new(cause, doubt.to_string()))
            }
            State::Here | State::Gone => None,
        }
    }
}

impl StreamableHttpClient for Wire {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse> {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session_id, auth_header, custom_headers, limits).await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        mut custom_headers: HashMap<HeaderName, HeaderValue>,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse> {
        let passage = passage(&message);
        let asked = match &message {
            ClientJsonRpcMessage::Request(request) => Some(request.id.clone()),
            _ => None,
        };
        if let Some(passage) = &passage {
            if let Ok(key) = HeaderValue::from_str(&passage.idempotency_key) {
                custom_headers.insert(HeaderName::from_static("idempotency-key"), key);
            }
            passage.set(State::Gone);
        }
        let posted = self
            .http
            .post_message_with_response_limits(uri, message, session_id, auth_header, custom_headers, limits)
            .await;
        match posted {
            Ok(StreamableHttpPostResponse::Sse(events, session)) => {
                let events = match passage {
                    None => events,
                    Some(passage) => events
                        .inspect(move |event| {
                            if let Err(error) = event {
                                passage.set(State::Lost(of_events(error)));
                            }
                        })
                        .boxed(),
                };
                Ok(StreamableHttpPostResponse::Sse(events, session))
            }
            Ok(StreamableHttpPostResponse::Json(JsonRpcMessage::Error(mut error), session)) => {
                // Servers that refuse a request before they read it don't know its id. It is the answer to this one, and
                // the library would not find whose it is.
                error.id = asked.or(error.id);
                Ok(StreamableHttpPostResponse::Json(JsonRpcMessage::Error(error), session))
            }
            Ok(response) => Ok(response),
            Err(error) => {
                let error = without_address(error);
                let state = of_failure(&error);
                match &passage {
                    Some(passage) => passage.set(state),
                    None => *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(state),
                }
                Err(error)
            }
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<()> {
        self.http.delete_session(uri, session_id, auth_header, custom_headers).await.map_err(without_address)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<Events> {
        let max = StreamableHttpResponseLimits::default().max_sse_event_size;
        self.get_stream_with_max_sse_event_size(uri, session_id, last_event_id, auth_header, custom_headers, max).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
        max_sse_event_size: usize,
    ) -> Result<Events> {
        if last_event_id.is_none() {
            // The stream on which a server speaks first. We listen to no such thing, so no connection is held for it.
            return Err(StreamableHttpError::ServerDoesNotSupportSse);
        }
        self.http
            .get_stream_with_max_sse_event_size(
                uri,
                session_id,
                last_event_id,
                auth_header,
                custom_headers,
                max_sse_event_size,
            )
            .await
            .map_err(without_address)
    }
}

/// The passage of a call. Other messages have none.
fn passage(message: &ClientJsonRpcMessage) -> Option<Passage> {
    match message {
        ClientJsonRpcMessage::Request(request) => match &request.request {
            ClientRequest::CallToolRequest(call) => call.extensions().get::<Passage>().cloned(),
            _ => None,
        },
        _ => None,
    }
}

/// Errors are logged by the library, and addresses may have a token behind their `?`.
fn without_address(error: StreamableHttpError<reqwest::Error>) -> StreamableHttpError<reqwest::Error> {
    match error {
        StreamableHttpError::Client(error) => StreamableHttpError::Client(error.without_url()),
        error => error,
    }
}

/// What a failed request means for whoever sent it.
fn of_failure(error: &StreamableHttpError<reqwest::Error>) -> State {
    let back = |cause, detail: String| State::Back(NotDone::new(cause, detail));
    match error {
        StreamableHttpError::Client(error) if error.is_connect() => {
            back(Cause::Unreachable, format!("the MCP server can't be reached: {}", root_of(error)))
        }
        StreamableHttpError::Client(error) if error.is_builder() => {
            back(Cause::Unreachable, format!("the MCP server can't be asked: {}", root_of(error)))
        }
        StreamableHttpError::Client(error) => State::Lost(Doubt::ConnectionLost(root_of(error))),
        StreamableHttpError::AuthRequired(_) => back(Cause::Unauthorized, refused_with(401)),
        StreamableHttpError::InsufficientScope(_) => back(Cause::Unauthorized, refused_with(403)),
        StreamableHttpError::SessionExpired => {
            back(Cause::Refused, "the MCP server has forgotten the session".to_owned())
        }
        StreamableHttpError::ReservedHeaderConflict(name) => {
            back(Cause::Refused, format!("the header {name} is the protocol's own: leave it out"))
        }
        StreamableHttpError::HttpStatus(status) => {
            let retry_after = status.retry_after.as_deref().and_then(seconds);
            if status.status == 429 {
                let detail = "the MCP server has too much to do (HTTP 429)".to_owned();
                State::Back(NotDone { cause: Cause::Busy, detail, retry_after })
            } else {
                State::Lost(Doubt::ServerError(format!("HTTP {}", status.status)))
            }
        }
        StreamableHttpError::ResponseBodyTooLarge { max_size } => State::Lost(Doubt::TooLarge { max: *max_size }),
        StreamableHttpError::UnexpectedServerResponse(text) => match status_in(text) {
            Some(401 | 403) => back(Cause::Unauthorized, refused_with(status_in(text).unwrap_or_default())),
            // It may have begun before it lost patience.
            Some(408) | None => State::Lost(Doubt::Unreadable(outcome::cut(text))),
            Some(300..400) => {
                let detail = "the MCP server is elsewhere now, and redirects are not followed: change its address";
                back(Cause::Refused, detail.to_owned())
            }
            Some(400..500) => {
                back(Cause::Refused, format!("the MCP server refused the request: {}", outcome::cut(text)))
            }
            Some(_) => State::Lost(Doubt::ServerError(outcome::cut(text))),
        },
        error => State::Lost(Doubt::Unreadable(outcome::cut(&error.to_string()))),
    }
}

fn of_events(error: &SseError) -> Doubt {
    let text = error.to_string();
    // The library keeps its error for this to itself; its words are held by a test.
    if text.contains("maximum size of") {
        Doubt::TooLarge { max: 0 }
    } else {
        Doubt::ConnectionLost(outcome::cut(&text))
    }
}

fn refused_with(status: u16) -> String {
    format!("the MCP server did not let us in (HTTP {status}): look at the headers it is sent")
}

/// The status in the library's words for an answer it has no other words for: `HTTP 404 Not Found: ...`. The words are
/// held by a test; if they change, the calls are in doubt.
fn status_in(text: &str) -> Option<u16> {
    text.strip_prefix("HTTP ")?.get(..3)?.parse().ok()
}

/// The seconds of a `Retry-After`. The other form, a date, is not worth a calendar here.
fn seconds(retry_after: &str) -> Option<Duration> {
    let seconds = retry_after.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The innermost cause, which is the one that says something.
fn root_of(error: &reqwest::Error) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    outcome::cut(&root.to_string())
}
