//! What becomes of an envelope that came in: a message in a session's inbox, a receipt, or a refusal. The log decides
//! whether it came before, so it may come as often as it likes.
//!
//! What this module does not know: which bus it came over.

use std::time::Duration;

use mainspring_client::{Client, ClientError, EngineError, Refusal, RunId, SendOptions};
use mainspring_flows::message::{Complete, MessageBody};
use mainspring_flows::receipts::{self, DeliveryStatus, Receipt};
use mainspring_flows::settings::millis;
use mainspring_flows::{Agents, SessionKey, turn};
use serde_json::{Map, Value};

use crate::envelope::{Envelope, EnvelopeType};

/// Bytes of a provider's id.
const PROVIDER_ID_BYTES_MAX: usize = 200;
/// Characters of the reason why a segment was not delivered.
const ERROR_CHARS_MAX: usize = 1_000;

/// Takes envelopes for one tenant.
#[derive(Debug, Clone)]
pub struct Intake {
    client: Client,
    agents: Agents,
    /// Who answers where an envelope names no agent.
    agent: Option<String>,
}

/// What became of an envelope. Durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is a message of a session.
    Message {
        /// The session's key.
        session: String,
        /// The message.
        message_id: String,
        /// The turn it is offered to.
        turn_id: String,
        /// Whether it came before.
        duplicate: bool,
    },
    /// It said how far a segment got.
    Receipt {
        /// Whether that was new.
        advanced: bool,
    },
    /// It asks nothing of us.
    Ignored,
}

/// An envelope that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// It never will be. The text says what is wrong with it.
    Never(String),
    /// A limit is used up that fills again: later it may be taken, and may not.
    Limited {
        /// Which.
        why: String,
        /// When to try again.
        after: Duration,
    },
    /// We can't at the moment. It will be taken.
    Later {
        /// Why.
        why: String,
        /// When to try again.
        after: Duration,
    },
    /// This process takes nothing more.
    Stopping(String),
}

impl Intake {
    /// Takes for a tenant with these agents; `agent` answers where an envelope names none.
    pub fn new(client: Client, agents: Agents, agent: Option<String>) -> Self {
        Intake { client, agents, agent }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The session an envelope belongs to.
    ///
    /// # Errors
    /// [`NotTaken::Never`] says what is missing or wrong.
    pub fn session_of(&self, envelope: &Envelope) -> Result<SessionKey, NotTaken> {
        let never = |what: String| NotTaken::Never(what);
        if let Some(text) = envelope.session.as_deref() {
            // Its tenant may be the name; the key always has the id.
            let parts: Vec<&str> = text.split(':').collect();
            if let [tenant, agent, interlocutor, channel] = parts[..] {
                if tenant != envelope.tenant && tenant != self.client.tenant().to_string() {
                    return Err(never(format!("session {text:?} is not of tenant {:?}", envelope.tenant)));
                }
                let key = SessionKey::new(self.client.tenant(), agent, interlocutor, channel);
                return key.map_err(|bad| never(bad.to_string()));
            }
            if envelope.interlocutor.is_none() {
                let shape = "write {tenant}:{agent}:{interlocutor}:{channel}, or say agent, interlocutor and channel";
                return Err(never(format!("session {text:?} is no session key: {shape}")));
            }
        }
        let agent = envelope.agent.as_deref().or(self.agent.as_deref());
        let agent = agent.ok_or_else(|| never("agent is missing: name who answers".to_owned()))?;
        let who = envelope.interlocutor.as_deref();
        let who = who.ok_or_else(|| never("interlocutor is missing: name who talks".to_owned()))?;
        let channel = envelope.channel.as_deref();
        let channel = channel.ok_or_else(|| never("channel is missing: name over which channel".to_owned()))?;
        SessionKey::new(self.client.tenant(), agent, who, channel).map_err(|bad| never(bad.to_string()))
    }

    /// Takes an envelope. What was taken is durable when it returns; taking it again changes nothing.
    ///
    /// # Errors
    /// [`NotTaken`] says whether and when it is worth another try.
    pub async fn take(&self, envelope: Envelope) -> Result<Taken, NotTaken> {
        match envelope.kind {
            EnvelopeType::Message | EnvelopeType::Interrupt => self.take_message(envelope).await,
            EnvelopeType::Receipt => self.take_receipt(&envelope).await,
            EnvelopeType::Status => Ok(Taken::Ignored),
            EnvelopeType::Outbound => {
                Err(NotTaken::Never("type is outbound: that goes out, and is not taken in".to_owned()))
            }
        }
    }

    async fn take_message(&self, envelope: Envelope) -> Result<Taken, NotTaken> {
        let session = self.session_of(&envelope)?;
        let Some(settings) = self.agents.get(session.tenant, &session.agent) else {
            let known = self.agents.names(session.tenant).join(", ");
            let what = format!("no agent named {:?} is configured; there are: {known}", session.agent);
            return Err(NotTaken::Never(what));
        };
        let id = envelope.id.clone();
        let (body, provider_id) = message_of(envelope)?;
        let mut admission = settings.protection.admission(&session);
        // The provider's id is the same however often a gateway wraps the message anew.
        let once = provider_id.unwrap_or(id);
        admission.once = Some((once, millis(settings.message_id_ttl)));
        let key = session.to_string();
        let options = SendOptions { idempotency_key: None, admission };
        let accepted = self.client.send(turn::WORKFLOW, &key, &body, options).await.map_err(not_taken)?;
        Ok(Taken::Message {
            session: key,
            message_id: accepted.message.to_string(),
            turn_id: accepted.run.to_string(),
            duplicate: accepted.duplicate,
        })
    }

    async fn take_receipt(&self, envelope: &Envelope) -> Result<Taken, NotTaken> {
        let said = envelope.payload.get("status").cloned().unwrap_or(Value::Null);
        let status: DeliveryStatus = serde_json::from_value(said.clone()).map_err(|_| {
            NotTaken::Never(format!("payload.status is {said}: use queued, sent, delivered, read or failed"))
        })?;
        let provider =
            envelope.text_of("provider_message_id").filter(|id| (1..=PROVIDER_ID_BYTES_MAX).contains(&id.len()));
        let reply_id = match (envelope.text_of("reply_id"), provider, &envelope.channel) {
            (Some(id), _, _) => Some(id.to_owned()),
            (None, Some(id), Some(channel)) => {
                receipts::of_provider(&self.client, channel, id).await.map_err(not_taken)?
            }
            (None, _, _) => {
                let what = "payload.reply_id is missing: name the segment, or the provider's id for it and the channel";
                return Err(NotTaken::Never(what.to_owned()));
            }
        };
        // A receipt for something that was not sent by us, or is not remembered any more.
        let Some(reply_id) = reply_id else { return Ok(Taken::Ignored) };
        let turn_id = reply_id.split(':').next().unwrap_or_default().to_owned();
        let session = match receipts::delivery(&self.client, &reply_id).await.map_err(not_taken)? {
            Some(known) => Some(known.session),
            // What went out over the bus has no record before its first receipt: the turn says whose it is.
            None => match turn_id.parse::<RunId>() {
                Ok(run) => {
                    let run = self.client.run(run).await.map_err(not_taken)?;
                    run.filter(|run| run.workflow == turn::WORKFLOW).and_then(|run| run.key)
                }
                Err(_) => None,
            },
        };
        let Some(session) = session else {
            return Err(NotTaken::Never(format!("payload.reply_id {reply_id:?} is of no reply of this tenant")));
        };
        if let Some(channel) = &envelope.channel
            && SessionKey::parse(&session).is_some_and(|key| key.channel != *channel)
        {
            return Err(NotTaken::Never(format!("payload.reply_id {reply_id:?} did not go over channel {channel:?}")));
        }
        let error = envelope.text_of("error").map(|text| text.chars().take(ERROR_CHARS_MAX).collect());
        let receipt = Receipt { reply_id, status, provider_message_id: provider.map(str::to_owned), error };
        let advanced = receipts::take(&self.client, &session, &turn_id, &receipt).await.map_err(not_taken)?;
        Ok(Taken::Receipt { advanced })
    }
}

/// What lies in the session's inbox for an envelope, and the provider's id for it.
fn message_of(envelope: Envelope) -> Result<(MessageBody, Option<String>), NotTaken> {
    let Envelope { id, kind, mut payload, .. } = envelope;
    let text = match payload.remove("text") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(_) => return Err(NotTaken::Never("payload.text is no text".to_owned())),
    };
    let mut provider_id = None;
    for name in ["message_id", "provider_message_id"] {
        match payload.remove(name) {
            Some(Value::String(id)) if id.len() > PROVIDER_ID_BYTES_MAX => {
                return Err(NotTaken::Never(format!("payload.{name} has {} bytes, at most 200", id.len())));
            }
            Some(Value::String(id)) if !id.is_empty() => provider_id = provider_id.or(Some(id)),
            _ => {}
        }
    }
    let ends = |value: Value| value == Value::Bool(true) || value.as_str() == Some("true");
    let complete = payload.remove("end").is_some_and(ends).then_some(Complete::Explicit);
    // Nothing but data: that is the data. More beside it stays beside it.
    let said = |value: &Value| !value.as_array().is_some_and(Vec::is_empty);
    payload.retain(|_, value| said(value));
    let mut data = match (payload.len(), payload.remove("data")) {
        (1, Some(data)) => Some(data),
        (_, Some(data)) => {
            payload.insert("data".to_owned(), data);
            Some(Value::Object(payload))
        }
        (0, None) => None,
        (_, None) => Some(Value::Object(payload)),
    };
    if kind == EnvelopeType::Interrupt {
        let mut marked = match data.take() {
            Some(Value::Object(fields)) => fields,
            Some(other) => Map::from_iter([("data".to_owned(), other)]),
            None => Map::new(),
        };
        marked.insert("interrupt".to_owned(), Value::Bool(true));
        data = Some(Value::Object(marked));
    }
    if text.is_empty() && data.is_none() {
        return Err(NotTaken::Never("payload says nothing: give it a text or data".to_owned()));
    }
    let message_id = Some(provider_id.clone().unwrap_or(id));
    Ok((MessageBody { text, data, message_id, complete, ..MessageBody::default() }, provider_id))
}

/// Whether what the engine said is for good.
fn not_taken(error: ClientError) -> NotTaken {
    const AGAIN: Duration = Duration::from_millis(500);
    let why = error.to_string();
    match error {
        ClientError::Engine(EngineError::Busy { retry_after_ms, .. }) => {
            NotTaken::Later { why, after: Duration::from_millis(retry_after_ms) }
        }
        ClientError::Engine(EngineError::Unreadable { .. }) | ClientError::Random { .. } => {
            NotTaken::Later { why, after: AGAIN }
        }
        ClientError::Engine(EngineError::ShuttingDown | EngineError::Stopped { .. }) => NotTaken::Stopping(why),
        ClientError::Engine(EngineError::Refused(refusal)) => match refusal {
            Refusal::TooFast { retry_after_ms, .. } => {
                NotTaken::Limited { why, after: Duration::from_millis(retry_after_ms.clamp(50, 5_000)) }
            }
            Refusal::Crowded { .. } | Refusal::Full { .. } => NotTaken::Limited { why, after: AGAIN },
            // Whoever else wrote it first: look again.
            Refusal::VersionConflict { .. } => NotTaken::Later { why, after: Duration::from_millis(5) },
            _ => NotTaken::Never(why),
        },
        ClientError::Engine(EngineError::Missing { .. })
        | ClientError::Json { .. }
        | ClientError::NotCompleted { .. } => NotTaken::Never(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Found;
    use serde_json::json;

    fn envelope(value: Value) -> Envelope {
        let found = Found { tenant: ("acme", "a"), channel: Some("web"), entry: "17-0", now_ms: 1 };
        Envelope::read(value.to_string().as_bytes(), found).expect("an envelope")
    }

    #[test]
    fn a_payload_becomes_text_and_data() {
        let (body, id) = message_of(envelope(json!({
            "id": "e1", "payload": { "text": "hi", "media": [{ "url": "u" }], "provider_message_id": "p1", "end": true },
        })))
        .expect("a message");
        assert_eq!((body.text.as_str(), id.as_deref()), ("hi", Some("p1")));
        assert_eq!(body.data, Some(json!({ "media": [{ "url": "u" }] })));
        assert_eq!(body.complete, Some(Complete::Explicit));
        let (body, id) =
            message_of(envelope(json!({ "id": "e1", "payload": { "text": "hi", "data": 5 } }))).expect("one");
        assert_eq!((body.data, body.message_id.as_deref(), id), (Some(json!(5)), Some("e1"), None));
        let (body, _) =
            message_of(envelope(json!({ "type": "interrupt", "payload": { "text": "stop" } }))).expect("one");
        assert_eq!(body.data, Some(json!({ "interrupt": true })));
        let nothing = message_of(envelope(json!({ "payload": { "media": [] } })));
        assert!(matches!(nothing, Err(NotTaken::Never(_))));
    }
}
