//! Messages: as they lie in a session's inbox, and as an agent sees them.

use mainspring_client::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// The person's.
    #[default]
    Person,
    /// A follow-up that came due: nobody said anything, the agent should.
    FollowUp,
    /// Another agent hands the session over.
    Handoff,
}

impl MessageKind {
    /// Whether the person said it.
    pub fn is_person(&self) -> bool {
        *self == MessageKind::Person
    }
}

/// Who says that the person has said everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complete {
    /// The person, or the program in front of them: a "send" button, a form.
    Explicit,
    /// The channel, which bundled the messages itself.
    Channel,
}

/// What a message says, as it lies in the inbox.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MessageBody {
    /// Its text.
    pub text: String,
    /// Whatever else came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The provider's id for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Nothing more will follow for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Complete>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "MessageKind::is_person")]
    pub kind: MessageKind,
    /// For a follow-up: it counts only if the person has said nothing since, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_if_silent_since_ms: Option<u64>,
    /// The message of a failed turn that is sent again by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// The turn group of that turn: what it did is known to the turn that takes this message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_group_id: Option<String>,
    /// How often the session was handed over in a row, this time included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub handovers: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl MessageBody {
    /// What lies in the inbox. What is no JSON of ours is somebody's text.
    pub fn read(payload: &[u8]) -> Self {
        serde_json::from_slice(payload).unwrap_or_else(|_| MessageBody {
            text: String::from_utf8_lossy(payload).into_owned(),
            ..MessageBody::default()
        })
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
    /// Whose it is.
    #[serde(default, skip_serializing_if = "MessageKind::is_person")]
    pub kind: MessageKind,
}

impl TurnMessage {
    /// Of a message that was received.
    pub fn of(message: &Message, body: MessageBody) -> Self {
        let MessageBody { text, data, kind, .. } = body;
        TurnMessage { id: message.id.to_string(), text, data, accepted_at: message.accepted_at, kind }
    }
}
