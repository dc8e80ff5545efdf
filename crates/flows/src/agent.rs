//! Agents: how turns with them go, what they are told, and what they answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{Client, RetryPolicy, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happens to a message that comes while the agent works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMessage {
    /// It waits for the next turn.
    Queue,
    /// The agent's work is stopped, and the next turn has all messages.
    Supersede,
}

/// How an agent is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentKind {
    /// An HTTP endpoint that is sent [`AgentRequest`] and answers JSON or NDJSON.
    Http {
        /// Where.
        url: String,
    },
    /// A workflow whose runs take [`AgentRequest`] and give [`AgentAnswer`].
    Workflow {
        /// Its name.
        name: String,
    },
}

/// How turns with one agent go. A turn keeps what it began with in its journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSettings {
    /// How the agent is reached.
    pub kind: AgentKind,
    /// What happens to a message that comes while it works.
    pub on_message: OnMessage,
    /// Silence after which a turn's messages are complete.
    pub quiet: Duration,
    /// They are complete after this time even without silence.
    pub max_wait: Duration,
    /// They are complete at this number even without silence.
    pub messages_max: u32,
    /// How long one try at the agent may take.
    pub timeout: Duration,
    /// When a failed try is repeated.
    pub retry: RetryPolicy,
    /// Where replies are posted, beside the event stream.
    pub deliver_url: Option<String>,
}

impl AgentSettings {
    /// Settings for a web chat: 600 ms of silence, 10 s at most, 50 messages at most, three tries of 30 s.
    pub fn new(kind: AgentKind) -> Self {
        AgentSettings {
            kind,
            on_message: OnMessage::Queue,
            quiet: Duration::from_millis(600),
            max_wait: Duration::from_secs(10),
            messages_max: 50,
            timeout: Duration::from_secs(30),
            retry: RetryPolicy {
                attempts_max: 3,
                backoff: Duration::from_millis(500),
                backoff_max: Duration::from_secs(10),
            },
            deliver_url: None,
        }
    }
}

/// The agents of all tenants. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    by_name: Arc<HashMap<(TenantId, String), AgentSettings>>,
}

impl Agents {
    /// A registry of these agents.
    pub fn new(agents: impl IntoIterator<Item = (TenantId, String, AgentSettings)>) -> Self {
        let by_name = agents.into_iter().map(|(tenant, name, settings)| ((tenant, name), settings));
        Agents { by_name: Arc::new(by_name.collect()) }
    }

    /// An agent's settings.
    pub fn get(&self, tenant: TenantId, name: &str) -> Option<&AgentSettings> {
        self.by_name.get(&(tenant, name.to_owned()))
    }

    /// The names of a tenant's agents, sorted.
    pub fn names(&self, tenant: TenantId) -> Vec<String> {
        let mut names: Vec<String> =
            self.by_name.keys().filter(|(of, _)| *of == tenant).map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }
}

/// A message as an agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnMessage {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Whatever else came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_at: u64,
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRequest {
    /// The turn. The same id again is the same turn, tried again.
    pub turn_id: String,
    /// The session key.
    pub session: String,
    /// The agent's own name.
    pub agent: String,
    /// Who talks to it.
    pub interlocutor: String,
    /// Over which channel.
    pub channel: String,
    /// `{tenant}:{agent}:{session}:{turn}`, for logs.
    pub correlation_id: String,
    /// The messages, in order.
    pub messages: Vec<TurnMessage>,
    /// How long the answer may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentAnswer {
    /// The reply's text.
    pub text: String,
    /// Whatever else goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// A try at an agent that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Another try may help.
    #[error("{0}")]
    Retryable(String),
    /// No further try will help.
    #[error("{0}")]
    Final(String),
}

/// Speaks to whoever follows a session now: what the agent is doing, and its answer as it grows. Nothing of it is
/// recorded; the reply is, once it is whole.
#[derive(Debug, Clone)]
pub struct Voice {
    client: Client,
    session: String,
    turn_id: String,
}

impl Voice {
    /// A voice in a session's turn.
    pub fn new(client: Client, session: &str, turn_id: &str) -> Self {
        Voice { client, session: session.to_owned(), turn_id: turn_id.to_owned() }
    }

    /// Says what the agent is doing.
    pub fn status(&self, text: &str) {
        self.say("agent.status", text);
    }

    /// Adds to the answer.
    pub fn delta(&self, text: &str) {
        self.say("reply.delta", text);
    }

    fn say(&self, name: &str, text: &str) {
        let data = serde_json::json!({ "text": text });
        self.client.whisper(name, &self.session, self.turn_id.parse().ok(), Bytes::from(data.to_string()));
    }
}
