//! The world outside: agents that are asked and channels that are delivered to. Over HTTP in production; a simulator has
//! its own, in which both can be slow, gone, or have done what they did not answer to.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use mainspring_client::Failure;
use serde::Deserialize;
use serde_json::Value;

use crate::agent::{AgentAnswer, AgentError, AgentRequest, Voice};
use crate::deliver::Delivery;

/// Bytes an agent's whole answer may have.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a channel's endpoint may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a call outside becomes.
pub type Calling<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever is asked and told outside this deployment.
pub trait Outside: Send + Sync {
    /// Asks the agent at `url` once, for as long as the request allows. What it says meanwhile goes to `voice`.
    fn ask<'a>(
        &'a self,
        url: &'a str,
        request: &'a AgentRequest,
        voice: &'a Voice,
    ) -> Calling<'a, Result<AgentAnswer, AgentError>>;

    /// Posts a reply to a channel's endpoint once, and gives the status of its acceptance.
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Calling<'a, Result<u16, Failure>>;
}

impl Outside for reqwest::Client {
    fn ask<'a>(
        &'a self,
        url: &'a str,
        request: &'a AgentRequest,
        voice: &'a Voice,
    ) -> Calling<'a, Result<AgentAnswer, AgentError>> {
        Box::pin(ask(self, url, request, voice))
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Calling<'a, Result<u16, Failure>> {
        Box::pin(deliver(self, delivery))
    }
}

/// One line of a streamed answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AgentLine {
    Status {
        text: String,
    },
    Delta {
        text: String,
    },
    Final {
        text: Option<String>,
        data: Option<Value>,
    },
    Error {
        message: String,
        #[serde(default)]
        retry: bool,
    },
}

/// Asks an HTTP agent once.
async fn ask(
    http: &reqwest::Client,
    url: &str,
    request: &AgentRequest,
    voice: &Voice,
) -> Result<AgentAnswer, AgentError> {
    let asking = async {
        let response = http
            .post(url)
            .header("Mainspring-Turn-Id", &request.turn_id)
            .header("Idempotency-Key", &request.turn_id)
            .json(request)
            .send()
            .await
            .map_err(|error| {
                AgentError::Retryable(format!("the agent at {url} can't be reached: {}", root_of(&error)))
            })?;
        let status = response.status();
        if !status.is_success() {
            let error = format!("the agent at {url} answered {status}");
            // A refusal of the request itself will be the same next time; overload and failures may not.
            let hopeless = status.is_client_error() && status.as_u16() != 408 && status.as_u16() != 429;
            return Err(if hopeless { AgentError::Final(error) } else { AgentError::Retryable(error) });
        }
        read_answer(response, voice).await
    };
    let timeout = Duration::from_millis(request.timeout_ms);
    tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| {
        let waited = timeout.as_millis();
        Err(AgentError::Retryable(format!("the agent at {url} did not answer within {waited} ms")))
    })
}

async fn read_answer(mut response: reqwest::Response, voice: &Voice) -> Result<AgentAnswer, AgentError> {
    let broken =
        |error: reqwest::Error| AgentError::Retryable(format!("the agent's answer broke off: {}", root_of(&error)));
    let streamed = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/x-ndjson") || value.starts_with("application/ndjson"));
    let (mut pending, mut bytes, mut spoken) = (BytesMut::new(), 0, String::new());
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        bytes += chunk.len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(AgentError::Final(format!("the agent's answer exceeds {ANSWER_BYTES_MAX} bytes")));
        }
        pending.extend_from_slice(&chunk);
        while streamed && let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end + 1);
            if let Some(answer) = hear(&line, &mut spoken, voice)? {
                return Ok(answer);
            }
        }
    }
    if streamed {
        return match hear(&pending, &mut spoken, voice)? {
            Some(answer) => Ok(answer),
            None => Err(AgentError::Retryable("the agent's stream ended without a final line".to_owned())),
        };
    }
    serde_json::from_slice(&pending).map_err(|error| {
        AgentError::Retryable(format!(
            "the agent's answer is not the JSON that was expected ({{\"text\": ...}}): {error}"
        ))
    })
}

/// Takes one line of a stream; gives the answer if it was the last.
fn hear(line: &[u8], spoken: &mut String, voice: &Voice) -> Result<Option<AgentAnswer>, AgentError> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line: AgentLine = serde_json::from_slice(line)
        .map_err(|error| AgentError::Retryable(format!("a line of the agent's stream is not understood: {error}")))?;
    match line {
        AgentLine::Status { text } => voice.status(&text),
        AgentLine::Delta { text } => {
            spoken.push_str(&text);
            voice.delta(&text);
        }
        AgentLine::Final { text, data } => {
            return Ok(Some(AgentAnswer { text: text.unwrap_or_else(|| std::mem::take(spoken)), data }));
        }
        AgentLine::Error { message, retry: true } => return Err(AgentError::Retryable(message)),
        AgentLine::Error { message, retry: false } => return Err(AgentError::Final(message)),
    }
    Ok(None)
}

/// The innermost cause: reqwest's own text says only that a request failed.
fn root_of(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

async fn deliver(http: &reqwest::Client, delivery: &Delivery) -> Result<u16, Failure> {
    let Delivery { url, reply_id, turn_id, session, text, data } = delivery;
    let body = serde_json::json!({
        "reply_id": reply_id, "turn_id": turn_id, "session": session, "text": text, "data": data,
    });
    let response = http
        .post(url)
        .timeout(DELIVERY_TIMEOUT)
        .header("Mainspring-Reply-Id", reply_id)
        .header("Idempotency-Key", reply_id)
        .json(&body)
        .send()
        .await
        .map_err(|error| Failure::Retryable(format!("{url} can't be reached: {error}")))?;
    let status = response.status();
    if status.is_success() {
        return Ok(status.as_u16());
    }
    let error = format!("{url} answered {status}");
    let hopeless = status.is_client_error() && status.as_u16() != 408 && status.as_u16() != 429;
    Err(if hopeless { Failure::Final(error) } else { Failure::Retryable(error) })
}
