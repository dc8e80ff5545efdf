//! The world outside: agents that are asked and channels that are delivered to. Over HTTP in production; a simulator has
//! its own, in which both can be slow, gone, or have done what they did not answer to.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use crate::agent::{AgentAnswer, AgentCall, AgentError, AgentRequest, DecideRequest, RawAnswer, StopNotice};
use crate::attempt;
use crate::decision::Decision;
use crate::deliver::{Delivery, Posted};
use crate::egress::{Answer, CallLimits, Egress, EgressOptions, HttpEgress, Policy, Request, tls};
use crate::settings::{Secret, millis};
use crate::sign;
use crate::voice::Voice;

/// Bytes an agent's whole answer may have.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a channel's endpoint may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a decision or a notice may take.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a channel's answer that are read.
const RECEIPT_BYTES_MAX: usize = 64 * 1024;

/// What a call outside becomes.
pub type Calling<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An address of an agent or a channel, and what requests to it are signed with.
#[derive(Debug, Clone, Copy)]
pub struct Address<'a> {
    /// Where.
    pub url: &'a str,
    /// The secret, if one is configured.
    pub secret: Option<&'a Secret>,
}

/// Whoever is asked and told outside this deployment.
pub trait Outside: Send + Sync {
    /// Asks an agent once, for as long as the request allows. What it says meanwhile goes to `voice`.
    fn ask<'a>(
        &'a self,
        agent: Address<'a>,
        request: &'a AgentRequest,
        voice: &'a Voice,
    ) -> Calling<'a, Result<AgentAnswer, AgentError>>;

    /// Asks an agent what should become of messages that came while it works.
    fn decide<'a>(
        &'a self,
        agent: Address<'a>,
        request: &'a DecideRequest,
    ) -> Calling<'a, Result<Decision, AgentError>>;

    /// Tells an agent to stop. Whether it heard is not known.
    fn stop<'a>(&'a self, agent: Address<'a>, notice: &'a StopNotice) -> Calling<'a, ()>;

    /// Posts a segment of a reply to a channel's endpoint once, and gives what it said about it.
    fn deliver<'a>(&'a self, channel: Address<'a>, delivery: &'a Delivery) -> Calling<'a, Posted>;
}

/// The world over HTTP. Agents and channels are addresses that whoever operates this deployment chose, so they may be
/// anywhere.
#[derive(Clone)]
pub struct Web {
    agents: reqwest::Client,
    channels: HttpEgress,
}

impl Web {
    /// One that trusts these certificates (PEM) beside the system's when it calls channels.
    ///
    /// # Errors
    /// A sentence that says what can't be used.
    pub fn new(extra_roots: Vec<Bytes>) -> Result<Self, String> {
        let agents = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls(&[])?)
            .build()
            .map_err(|error| format!("no HTTP client could be made: {}", root_of(&error)))?;
        let options = EgressOptions { policy: Policy::open(), extra_roots, ..EgressOptions::default() };
        Ok(Web { agents, channels: HttpEgress::new(options)? })
    }
}

impl Outside for Web {
    fn ask<'a>(
        &'a self,
        agent: Address<'a>,
        request: &'a AgentRequest,
        voice: &'a Voice,
    ) -> Calling<'a, Result<AgentAnswer, AgentError>> {
        Box::pin(ask(&self.agents, agent, request, voice))
    }

    fn decide<'a>(
        &'a self,
        agent: Address<'a>,
        request: &'a DecideRequest,
    ) -> Calling<'a, Result<Decision, AgentError>> {
        Box::pin(decide(&self.agents, agent, request))
    }

    fn stop<'a>(&'a self, agent: Address<'a>, notice: &'a StopNotice) -> Calling<'a, ()> {
        Box::pin(async move {
            let call = AgentCall::Stop(notice.clone());
            let told = post(&self.agents, agent, &format!("{}:stop", notice.turn_id), &call)
                .timeout(SHORT_TIMEOUT)
                .send()
                .await;
            if let Err(error) = told {
                tracing::debug!(turn = notice.turn_id, error = root_of(&error), "the agent could not be told to stop");
            }
        })
    }

    fn deliver<'a>(&'a self, channel: Address<'a>, delivery: &'a Delivery) -> Calling<'a, Posted> {
        Box::pin(deliver(&self.channels, channel, delivery))
    }
}

/// A request to an agent, signed if there is a secret.
fn post(http: &reqwest::Client, agent: Address<'_>, id: &str, call: &AgentCall) -> reqwest::RequestBuilder {
    // Plain data always encodes.
    let body = serde_json::to_vec(call).unwrap_or_default();
    let headers = sign::headers(agent.secret.map(std::slice::from_ref).unwrap_or_default(), id, now_ms(), &body);
    let request = http.post(agent.url).header("Idempotency-Key", id);
    headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)).body(body)
}

fn now_ms() -> u64 {
    millis(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

/// Asks an agent for a decision. It has little time: the turn goes on meanwhile.
async fn decide(http: &reqwest::Client, agent: Address<'_>, request: &DecideRequest) -> Result<Decision, AgentError> {
    let id = format!("{}:decide:{}", request.turn_id, request.waiting);
    let call = AgentCall::Decide(Box::new(request.clone()));
    let failed =
        |error: reqwest::Error| AgentError::Retryable(format!("the agent did not decide: {}", root_of(&error)));
    let response = post(http, agent, &id, &call).timeout(SHORT_TIMEOUT).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(AgentError::Retryable(format!("the agent answered {} when asked to decide", response.status())));
    }
    let body = response.bytes().await.map_err(failed)?;
    serde_json::from_slice(&body).map_err(|error| {
        AgentError::Retryable(format!(
            "the agent's decision is not the JSON that was expected ({{\"action\": ...}}): {error}"
        ))
    })
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
    /// An answer whose text may be left out, because it was streamed.
    Final(Box<RawAnswer>),
    Error {
        message: String,
        #[serde(default)]
        retry: bool,
    },
}

/// Asks an HTTP agent once.
async fn ask(
    http: &reqwest::Client,
    agent: Address<'_>,
    request: &AgentRequest,
    voice: &Voice,
) -> Result<AgentAnswer, AgentError> {
    let url = agent.url;
    let asking = async {
        let call = AgentCall::Turn(Box::new(request.clone()));
        let request = post(http, agent, &request.turn_id, &call).header("Mainspring-Turn-Id", &request.turn_id);
        let response = request.send().await.map_err(|error| {
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
            if let Some(answer) = hear(&line, &mut spoken, voice).await? {
                return Ok(answer);
            }
        }
    }
    if streamed {
        return match hear(&pending, &mut spoken, voice).await? {
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
async fn hear(line: &[u8], spoken: &mut String, voice: &Voice) -> Result<Option<AgentAnswer>, AgentError> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line: AgentLine = serde_json::from_slice(line)
        .map_err(|error| AgentError::Retryable(format!("a line of the agent's stream is not understood: {error}")))?;
    match line {
        AgentLine::Status { text } => voice.status(&text),
        AgentLine::Delta { text } => {
            spoken.push_str(&text);
            voice.delta(&text).await.map_err(AgentError::Retryable)?;
        }
        AgentLine::Final(mut answer) => {
            if !spoken.is_empty() {
                answer.text.get_or_insert_with(|| std::mem::take(spoken));
            }
            let answer = AgentAnswer::try_from(*answer)
                .map_err(|error| AgentError::Retryable(format!("the agent's final line is no answer: {error}")))?;
            return Ok(Some(answer));
        }
        AgentLine::Error { message, retry: true } => return Err(AgentError::Retryable(message)),
        AgentLine::Error { message, retry: false } => return Err(AgentError::Final(message)),
    }
    Ok(None)
}

/// The innermost cause: reqwest's own text says only that a request failed.
pub(crate) fn root_of(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Posts a segment to a channel's endpoint.
async fn deliver(egress: &dyn Egress, channel: Address<'_>, delivery: &Delivery) -> Posted {
    let Delivery { reply_id, turn_id, session, segment, segments, text, media, data, .. } = delivery;
    let body = serde_json::json!({
        "reply_id": reply_id, "turn_id": turn_id, "session": session, "segment": segment, "segments": segments,
        "text": text, "media": media, "data": data,
    });
    let body = Bytes::from(body.to_string());
    let now_ms = now_ms();
    let mut headers =
        sign::headers(channel.secret.map(std::slice::from_ref).unwrap_or_default(), reply_id, now_ms, &body);
    headers.push(("Mainspring-Reply-Id".to_owned(), reply_id.clone()));
    headers.push(("Idempotency-Key".to_owned(), reply_id.clone()));
    let request = Request { method: "POST", url: channel.url.to_owned(), headers, body };
    let limits = CallLimits { time: DELIVERY_TIMEOUT, body_bytes_max: RECEIPT_BYTES_MAX };
    let (said, made, answer) = attempt::make(egress, request, limits, now_ms).await;
    let provider_message_id = answer.as_ref().and_then(provider_id);
    Posted { said, made, provider_message_id }
}

/// The id a channel's provider gave the message, if it says one.
fn provider_id(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        provider_message_id: Option<String>,
    }
    let said: Said = serde_json::from_slice(&answer.body).ok()?;
    said.provider_message_id.filter(|id| (1..=200).contains(&id.len()))
}
