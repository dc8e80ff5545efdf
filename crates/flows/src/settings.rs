//! How turns with one agent go.

use std::collections::BTreeMap;
use std::time::Duration;

use mainspring_client::{Admission, RateUse, RetryPolicy};
use serde::{Deserialize, Serialize};

use crate::channel::{Capability, CapabilityChanges};
use crate::decision::OnMessage;
use crate::session::SessionKey;
use crate::window::WindowRules;

/// How an agent is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentKind {
    /// An HTTP endpoint that is sent an [`AgentCall`](crate::AgentCall) and answers JSON or NDJSON.
    Http {
        /// Where.
        url: String,
    },
    /// A workflow whose runs take an [`AgentCall`](crate::AgentCall) and give an [`AgentAnswer`](crate::AgentAnswer).
    Workflow {
        /// Its name.
        name: String,
    },
}

/// What one channel does otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelSettings {
    /// Its window.
    pub window: Option<WindowRules>,
    /// What happens to a message that comes while the agent works.
    pub on_message: Option<OnMessage>,
    /// What it can carry.
    pub capability: CapabilityChanges,
}

/// How much is taken in. 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protection {
    /// Messages of one session in a minute.
    pub session_messages_per_minute: u32,
    /// Messages of one person to this agent in a minute, over all channels.
    pub interlocutor_messages_per_minute: u32,
    /// Messages to this agent in a minute.
    pub agent_messages_per_minute: u32,
    /// Messages of the tenant in a minute.
    pub tenant_messages_per_minute: u32,
    /// Messages that wait in or are with the live turn of one session.
    pub session_messages_waiting: u32,
    /// Live turns of one person with this agent.
    pub interlocutor_turns: u32,
    /// Live turns of this agent.
    pub agent_turns: u32,
    /// Live turns of the tenant.
    pub tenant_turns: u32,
}

impl Default for Protection {
    /// 120 messages a minute from one session: nobody types more, loops do. The rest is as the engine's own limits have it.
    fn default() -> Self {
        Protection {
            session_messages_per_minute: 120,
            interlocutor_messages_per_minute: 0,
            agent_messages_per_minute: 0,
            tenant_messages_per_minute: 0,
            session_messages_waiting: 0,
            interlocutor_turns: 0,
            agent_turns: 0,
            tenant_turns: 0,
        }
    }
}

impl Protection {
    /// What a message of a session asks of these limits.
    pub fn admission(&self, session: &SessionKey) -> Admission {
        const MINUTE_MS: u64 = 60_000;
        let SessionKey { agent, interlocutor, .. } = session;
        let of_session = format!("{agent}/{interlocutor}/{}", session.channel);
        // Names begin with what they count, so that none can be taken for another.
        let rates = [
            (self.session_messages_per_minute, format!("messages of session {of_session}")),
            (self.interlocutor_messages_per_minute, format!("messages of interlocutor {agent}/{interlocutor}")),
            (self.agent_messages_per_minute, format!("messages of agent {agent}")),
            (self.tenant_messages_per_minute, "messages of the tenant".to_owned()),
        ];
        let groups = [
            (self.interlocutor_turns, format!("interlocutor {agent}/{interlocutor}")),
            (self.agent_turns, format!("agent {agent}")),
            (self.tenant_turns, "the tenant".to_owned()),
        ];
        let rates = rates.into_iter().filter(|(limit, _)| *limit > 0);
        Admission {
            once: None,
            rates: rates.map(|(limit, name)| RateUse { name, units: 1, sets: Some((limit, MINUTE_MS)) }).collect(),
            groups: groups.into_iter().filter(|(max, _)| *max > 0).map(|(max, name)| (name, max)).collect(),
            messages_max: (self.session_messages_waiting > 0).then_some(self.session_messages_waiting),
        }
    }
}

/// How turns with one agent go. A turn keeps what it began with in its journal, but for secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSettings {
    /// How the agent is reached.
    pub kind: AgentKind,
    /// What requests to it are signed with.
    #[serde(skip)]
    pub secret: Option<Secret>,
    /// What happens to a message that comes while it works.
    pub on_message: OnMessage,
    /// When a turn's messages are complete.
    pub window: WindowRules,
    /// What channels do otherwise.
    pub channels: BTreeMap<String, ChannelSettings>,
    /// How long one try at the agent may take.
    pub timeout: Duration,
    /// When a failed try is repeated.
    pub retry: RetryPolicy,
    /// How often a chain of turns may be begun anew, superseded or absorbed, before the next attempt is completed in any
    /// case.
    pub restarts_max: u32,
    /// Whether what was streamed to the person can't be taken back, so that a turn is not begun anew after it.
    pub streaming_commits: bool,
    /// How long a stopped HTTP agent is waited for after it was told. Zero: its connection is closed at once.
    pub grace: Duration,
    /// How long a session's state is kept after its last turn.
    pub state_ttl: Duration,
    /// How long a phase's result may be used again.
    pub artifact_ttl: Duration,
    /// How long a side effect is remembered.
    pub effect_ttl: Duration,
    /// How long a provider's id for a message is remembered.
    pub message_id_ttl: Duration,
    /// What is said to the person when a turn fails.
    pub failure_reply: Option<String>,
    /// Where replies are posted, beside the event stream.
    pub deliver_url: Option<String>,
    /// What those requests are signed with.
    #[serde(skip)]
    pub deliver_secret: Option<Secret>,
    /// What is done about a delivery that fails, after the tries at 1, 5 and 15 s: how many more, a minute apart.
    pub deliver_attempts_more: u32,
    /// How much is taken in.
    pub protection: Protection,
}

/// A secret, which shows itself to nobody who prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl AgentSettings {
    /// Three tries of 30 s, an adaptive window, queueing.
    pub fn new(kind: AgentKind) -> Self {
        const HOUR: u64 = 60 * 60;
        AgentSettings {
            kind,
            secret: None,
            on_message: OnMessage::Queue,
            window: WindowRules::default(),
            channels: BTreeMap::new(),
            timeout: Duration::from_secs(30),
            retry: RetryPolicy {
                attempts_max: 3,
                backoff: Duration::from_millis(500),
                backoff_max: Duration::from_secs(10),
            },
            restarts_max: 3,
            streaming_commits: true,
            grace: Duration::ZERO,
            state_ttl: Duration::from_secs(30 * 24 * HOUR),
            artifact_ttl: Duration::from_secs(10 * 60),
            effect_ttl: Duration::from_secs(24 * HOUR),
            message_id_ttl: Duration::from_secs(7 * 24 * HOUR),
            failure_reply: None,
            deliver_url: None,
            deliver_secret: None,
            deliver_attempts_more: 8,
            protection: Protection::default(),
        }
    }

    /// The window on a channel.
    pub fn window_on(&self, channel: &str) -> &WindowRules {
        self.channels.get(channel).and_then(|settings| settings.window.as_ref()).unwrap_or(&self.window)
    }

    /// What happens on a channel to a message that comes while the agent works.
    pub fn on_message_on(&self, channel: &str) -> OnMessage {
        self.channels.get(channel).and_then(|settings| settings.on_message).unwrap_or(self.on_message)
    }

    /// What a channel can carry.
    pub fn capability_of(&self, channel: &str) -> Capability {
        let changes = self.channels.get(channel).map(|settings| settings.capability).unwrap_or_default();
        Capability::of(channel).with(&changes)
    }
}

/// A time in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
