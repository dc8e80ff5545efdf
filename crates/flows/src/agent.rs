//! Agents: what they are told, what they answer, and the registry of them.

use std::collections::HashMap;
use std::sync::Arc;

use mainspring_client::{Attention, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::calls::{EffectView, PhaseView};
use crate::channel::Media;
use crate::decision::{Action, Decision};
use crate::message::TurnMessage;
use crate::publish::TurnConfig;
use crate::settings::AgentSettings;
use crate::window::Hint;

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

/// What an agent is sent: JSON with a `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentCall {
    /// Answer a turn.
    Turn(Box<AgentRequest>),
    /// Messages came while you answer: say what should become of them. Only with `on_message = "ask"`.
    Decide(Box<DecideRequest>),
    /// Stop answering a turn. Only with `grace_ms`.
    Stop(StopNotice),
}

/// A turn, as an agent is told it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRequest {
    /// The turn. The same id again is the same turn, tried again.
    pub turn_id: String,
    /// The turn with which a chain of superseded ones began. A key for side effects: in all turns of the chain the same
    /// effect is meant only once.
    #[serde(default)]
    pub turn_group_id: String,
    /// Which time the agent is asked in this turn, counted from 1: tries, and starts anew after messages were absorbed.
    #[serde(default)]
    pub attempt: u32,
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
    /// When that is over, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub deadline_at: u64,
    /// Why the turn, or its predecessor, was begun anew. `None` the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// The session's state, as the last turn left it.
    #[serde(default)]
    pub state: SessionState,
    /// What the last turn said about this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
    /// Results of phases of earlier attempts of this turn group that may be asked for again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<PhaseView>,
    /// Side effects of this turn group that were begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<EffectView>,
    /// Calls of tools that wait for a yes of this session's person: answer them with
    /// `POST {calls_url}/tool-executions/{run_id}/confirm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confirmations: Vec<Attention>,
    /// The configuration this turn goes by, if one is published: its version, and the digests of its bundles. The same
    /// for all of the turn. `GET {calls_url}/bundles/{version}/{kind}` gives a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<TurnConfig>,
    /// The address under which calls on behalf of this attempt are taken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub calls_url: String,
    /// Entitles to such calls, for as long as this attempt lasts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

/// Why an agent is asked again with more messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// `superseded`, `absorbed`, `state_conflict`, or `queued`: it yielded, but the messages belong to the next turn.
    pub reason: String,
    /// The phase from which to go on, if whoever decided named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_phase: Option<String>,
    /// The superseded turn, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<String>,
    /// How often the chain was begun anew.
    pub count: u32,
}

/// A session's state: whatever its agent wants to remember.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SessionState {
    /// Its version, 0 if there is none yet.
    pub version: u64,
    /// What it says.
    pub data: Value,
}

/// What an agent answers. Something in it has to be meant as one: a text, also an empty one, media, or a yield.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "RawAnswer")]
pub struct AgentAnswer {
    /// The reply's text.
    pub text: String,
    /// Whatever else goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Pictures and files that go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<Media>,
    /// The session's state from now on. It is written with the end of the turn, and never if the turn does not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// What is expected of the next turn's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
    /// The session goes on with another agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handoff: Option<Handoff>,
    /// The session may move on to the newest configuration with its next turn: a conversation came to its end, say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release_config: bool,
    /// There is no reply: the agent saw that messages wait and says what should become of the turn.
    #[serde(default, rename = "yield", skip_serializing_if = "Option::is_none")]
    pub yields: Option<Decision>,
}

impl AgentAnswer {
    /// A reply that is a text and nothing else.
    pub fn text(text: impl Into<String>) -> Self {
        AgentAnswer { text: text.into(), ..AgentAnswer::default() }
    }
}

/// An answer as it was written, before it is known to be one: any JSON object looks like an answer without a text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawAnswer {
    pub(crate) text: Option<String>,
    data: Option<Value>,
    media: Vec<Media>,
    state: Option<Value>,
    hint: Option<Hint>,
    handoff: Option<Handoff>,
    release_config: bool,
    #[serde(rename = "yield")]
    yields: Option<Decision>,
}

/// Something that is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has none of `text`, `media` and `yield`: to say nothing, answer with an empty `text`")]
pub(crate) struct NoAnswer;

impl TryFrom<RawAnswer> for AgentAnswer {
    type Error = NoAnswer;

    fn try_from(raw: RawAnswer) -> Result<Self, NoAnswer> {
        let RawAnswer { text, data, media, state, hint, handoff, release_config, yields } = raw;
        if text.is_none() && media.is_empty() && yields.is_none() {
            return Err(NoAnswer);
        }
        let text = text.unwrap_or_default();
        Ok(AgentAnswer { text, data, media, state, hint, handoff, release_config, yields })
    }
}

/// Another agent takes over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handoff {
    /// Which one.
    pub agent: String,
    /// What it is told as the first message.
    #[serde(default)]
    pub context: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What an agent is asked when messages come while it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecideRequest {
    /// The turn it answers.
    pub turn_id: String,
    /// The session key.
    pub session: String,
    /// The agent's own name.
    pub agent: String,
    /// `processing`, or `pre_commit` if it has answered already.
    pub interrupt_point: String,
    /// The turn's messages.
    pub messages: Vec<TurnMessage>,
    /// How many messages wait.
    pub waiting: u64,
    /// What may be decided. Past the commit point nothing is asked.
    pub allowed: Vec<Action>,
}

/// An agent is told to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopNotice {
    /// Answering which turn.
    pub turn_id: String,
    /// The session key.
    pub session: String,
    /// Why.
    pub reason: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_text_media_or_a_yield() {
        let read = |json: &str| serde_json::from_str::<AgentAnswer>(json);
        for answer in [
            r#"{"text": "hello"}"#,
            r#"{"text": "", "state": {"seen": 1}}"#,
            r#"{"media": [{"type": "image", "url": "https://example.org/a.png"}]}"#,
            r#"{"yield": {"action": "queue"}}"#,
        ] {
            let read = read(answer).expect("an answer");
            let again = serde_json::to_string(&read).expect("it encodes");
            assert_eq!(serde_json::from_str::<AgentAnswer>(&again).expect("what was written is read"), read);
        }
        for nothing in ["{}", r#"{"texts": "hello"}"#, r#"{"data": 1}"#, r#"{"media": []}"#, r#"{"text": null}"#] {
            let error = read(nothing).expect_err("no answer").to_string();
            assert!(error.contains("none of `text`"), "{nothing}: {error}");
        }
    }
}
