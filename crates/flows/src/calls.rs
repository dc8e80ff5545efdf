//! What may be asked on behalf of a turn while its agent works: by an HTTP agent or a worker in another process through
//! the server, by a function in this process directly.
//!
//! Everything here shows the fence of one attempt. When that attempt is over, for whatever reason, it is refused.

use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    Client, ClientError, DocumentKey, EngineError, Fence, Guard, PutDocument, Refusal, RunId, TaskId, TenantId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{AgentRequest, SessionState};
use crate::records;
use crate::settings::millis;
use crate::tools::ToolError;
use crate::voice::Voice;

/// Phases of which results are kept in one turn group. A pipeline has about a dozen.
pub const ARTIFACTS_MAX: usize = 32;
/// Bytes of one phase's result.
pub const ARTIFACT_BYTES_MAX: usize = 192 * 1024;
/// Side effects in one turn group.
pub const EFFECTS_MAX: usize = 200;
/// Bytes of a name: a phase, a tool, a business key, a fingerprint.
const NAME_BYTES_MAX: usize = 200;
/// The first parts of names of events that only the engine and the flows tell.
const OWN_EVENTS: [&str; 10] = [
    "turn.",
    "reply.",
    "message.",
    "session.",
    "supersede.",
    "effect.",
    "artifact.",
    "follow_up.",
    "tool.",
    "attention.",
];

/// One attempt at a turn: who may ask, on whose behalf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose.
    pub tenant: TenantId,
    /// The turn's run.
    pub turn: RunId,
    /// The journal position that is the attempt's fence.
    pub position: u32,
    /// The turn with which its chain began.
    pub group: RunId,
    /// The session key.
    pub session: String,
    /// How long phases' results are kept.
    pub artifact_ttl: Duration,
    /// How long side effects are remembered.
    pub effect_ttl: Duration,
    /// Whether what is said to the person can't be taken back.
    pub streaming_commits: bool,
}

impl Grant {
    /// The attempt's fence.
    pub fn fence(&self) -> Fence {
        Fence { task: TaskId { run: self.turn, index: 0 }, position: self.position }
    }
}

/// Whether and when a phase's result may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    /// If its input is the same.
    Always,
    /// If its input and what else it depended on are the same.
    Conditional,
    /// Never: it is kept for whoever looks.
    Never,
}

/// A phase's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// The phase.
    pub phase: String,
    /// The result.
    pub data: Value,
    /// A hash of what the phase worked on, by whatever rule the agent has.
    pub input_fingerprint: String,
    /// A hash of what else it depended on: versions of rules, of tools.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dependency_fingerprint: String,
    /// Whether it may be used again.
    pub reuse: Reuse,
    /// The turn that left it.
    #[serde(default)]
    pub turn_id: String,
    /// How often it was used again.
    #[serde(default)]
    pub reuse_count: u32,
}

/// A phase's result without the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseView {
    /// The phase.
    pub phase: String,
    /// A hash of what the phase worked on.
    pub input_fingerprint: String,
    /// A hash of what else it depended on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dependency_fingerprint: String,
    /// Whether it may be used again.
    pub reuse: Reuse,
    /// The turn that left it.
    pub turn_id: String,
    /// How often it was used again.
    pub reuse_count: u32,
}

/// What a side effect does when it happens twice, and whether it can be undone. What is not known is irreversible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectPolicy {
    /// It only reads.
    Pure,
    /// Twice is as once.
    Idempotent,
    /// It can be undone.
    Compensatable,
    /// It can't be undone. From its beginning on the turn is past its commit point.
    #[default]
    #[serde(other)]
    Irreversible,
}

/// How a side effect stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectStatus {
    /// Its intent is on record, its outcome is not.
    Started,
    /// It happened.
    Done,
    /// It certainly did not happen.
    Failed,
    /// Nobody knows whether it happened. A person decides.
    Unknown,
    /// It happened, and was undone.
    Compensated,
}

/// A side effect, as the ledger has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EffectView {
    /// The tool.
    pub tool: String,
    /// What makes it this effect and no other: an order number, say.
    pub key: String,
    /// What it is.
    pub policy: EffectPolicy,
    /// How it stands.
    pub status: EffectStatus,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The turn that began it.
    pub turn_id: String,
    /// The attempt of that turn, by its fence.
    pub position: u32,
    /// How often it was begun.
    pub tries: u32,
    /// The run that carries it out, if the engine does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// A digest of its arguments: the same key with others is another wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it failed, or what is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
}

/// A side effect to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginEffect {
    /// The tool.
    pub tool: String,
    /// What makes it this effect and no other.
    pub key: String,
    /// What it is. Anything unknown is irreversible.
    #[serde(default)]
    pub policy: EffectPolicy,
    /// Refuse if a message waits that might change what should be done.
    #[serde(default)]
    pub unless_pending: bool,
}

/// Whether to carry a side effect out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum EffectVerdict {
    /// Do it, with this key where the provider takes one.
    Go {
        /// `{tool}:{key}:turn_group:{group}`.
        idempotency_key: String,
        /// Which try it is.
        tries: u32,
    },
    /// It was done, in this turn or in one it took over. Go on with its result.
    Done {
        /// What came of it.
        result: Option<Value>,
    },
    /// It was begun and nobody knows what came of it. Do not do it again: find out, or leave it to a person.
    Unknown {
        /// The turn that began it.
        turn_id: String,
    },
}

/// The outcome of a side effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndEffect {
    /// The tool.
    pub tool: String,
    /// What makes it this effect and no other.
    pub key: String,
    /// `done` or `failed`.
    pub status: EffectStatus,
    /// What came of it.
    #[serde(default)]
    pub result: Option<Value>,
}

/// How an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether messages came that this turn has not received. Once true it stays true until they are absorbed or the
    /// turn ends.
    pub has_pending: bool,
    /// How many.
    pub pending: u64,
    /// Whether they can't become part of this turn any more.
    pub committed: bool,
}

/// A call that was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The engine refused or failed. A refusal with code `turn_attempt_over` means: stop.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was sent can't be taken.
    #[error("{0}")]
    Unusable(String),
}

impl From<EngineError> for CallError {
    fn from(error: EngineError) -> Self {
        CallError::Client(error.into())
    }
}

/// Calls on behalf of one attempt. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    client: Client,
    grant: Grant,
}

impl Calls {
    /// On behalf of the attempt a function in this process was given a request for. `None` without a token in it.
    pub fn of_request(client: &Client, request: &AgentRequest) -> Option<Self> {
        Some(Calls::new(client.clone(), Grant::of_token(&request.token)?))
    }

    /// A voice whose first words of an answer pass the commit point, unless the agent's settings say that words may be
    /// taken back.
    pub fn voice(&self) -> Voice {
        let turn = self.grant.turn.to_string();
        let voice = Voice::new(self.client.clone(), &self.grant.session, &turn);
        if self.grant.streaming_commits { voice.committing(self.grant.fence()) } else { voice }
    }

    /// For the holder of a grant.
    pub fn new(client: Client, grant: Grant) -> Self {
        Calls { client, grant }
    }

    /// How the attempt stands. Asking takes no message.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn standing(&self) -> Result<Standing, CallError> {
        let (pending, committed) = self.client.standing(self.grant.fence()).await?;
        Ok(Standing { has_pending: pending > 0, pending, committed })
    }

    /// Declares that what was done or said can't be taken back. Durable when it returns.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn commit_point(&self) -> Result<Standing, CallError> {
        let (pending, committed) = self.client.pass_commit_point(self.grant.fence()).await?;
        Ok(Standing { has_pending: pending > 0, pending, committed })
    }

    /// The session's state as the last turn left it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn state(&self) -> Result<SessionState, CallError> {
        self.standing().await?;
        Ok(records::state(&self.client, &self.grant.session).await?)
    }

    /// Tells an event of the session. Durable when it returns.
    ///
    /// # Errors
    /// [`CallError::Unusable`] for a name that is not the agent's to use.
    pub async fn event(&self, name: &str, data: &Value) -> Result<u64, CallError> {
        if OWN_EVENTS.iter().any(|own| name.starts_with(own)) {
            let own = OWN_EVENTS.map(|own| format!("{own}*")).join(", ");
            return Err(CallError::Unusable(format!(
                "{name:?} is not yours to tell: use a name that is none of {own}"
            )));
        }
        Ok(self.client.emit_fenced(name, &self.grant.session, data, self.grant.fence()).await?)
    }

    /// Keeps a phase's result for later attempts of the turn group. Durable when it returns.
    ///
    /// # Errors
    /// [`CallError::Unusable`] if it is too large or one too many.
    pub async fn put_artifact(&self, mut artifact: Artifact) -> Result<(), CallError> {
        check_name("the phase", &artifact.phase)?;
        check_name("input_fingerprint", &artifact.input_fingerprint)?;
        artifact.turn_id = self.grant.turn.to_string();
        let body = to_json(&artifact)?;
        if body.len() > ARTIFACT_BYTES_MAX {
            let found = body.len();
            return Err(CallError::Unusable(format!(
                "the result of phase {:?} has {found} bytes, at most {ARTIFACT_BYTES_MAX} are kept: keep a reference to it",
                artifact.phase
            )));
        }
        let known = self.client.documents(records::ARTIFACT, &self.group_prefix()).await?;
        let key = self.artifact_key(&artifact.phase);
        if known.len() >= ARTIFACTS_MAX && !known.iter().any(|(other, _)| *other == key) {
            return Err(CallError::Unusable(format!(
                "results of {ARTIFACTS_MAX} phases are kept already: store fewer, larger ones"
            )));
        }
        let ttl_ms = Some(millis(self.grant.artifact_ttl));
        let put = PutDocument { key, expect: None, body, ttl_ms, history: 0 };
        let told = serde_json::json!({ "turn_id": artifact.turn_id, "phase": artifact.phase, "reuse": artifact.reuse });
        let event = self.telling("artifact.stored", &told);
        self.client.put_document(put, Some(self.grant.fence()), Guard::default(), event).await?;
        Ok(())
    }

    /// A phase's result of an earlier attempt, if it may be used for these fingerprints; otherwise why not.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn artifact(
        &self,
        phase: &str,
        input_fingerprint: &str,
        dependency_fingerprint: &str,
    ) -> Result<Result<Artifact, &'static str>, CallError> {
        self.standing().await?;
        let Some(row) = self.client.document(self.artifact_key(phase)).await? else { return Ok(Err("none is kept")) };
        let mut artifact: Artifact = read(&row.body)?;
        let why_not = match artifact.reuse {
            Reuse::Never => Some("its policy is never"),
            _ if artifact.input_fingerprint != input_fingerprint => Some("its input was another"),
            Reuse::Conditional if artifact.dependency_fingerprint != dependency_fingerprint => {
                Some("what it depended on has changed")
            }
            Reuse::Always | Reuse::Conditional => None,
        };
        if let Some(why_not) = why_not {
            return Ok(Err(why_not));
        }
        artifact.reuse_count += 1;
        let put = PutDocument {
            key: self.artifact_key(phase),
            expect: Some(row.version),
            body: to_json(&artifact)?,
            ttl_ms: Some(millis(self.grant.artifact_ttl)),
            history: 0,
        };
        let told = serde_json::json!({
            "turn_id": self.grant.turn.to_string(), "phase": phase, "from_turn": artifact.turn_id,
        });
        let event = self.telling("artifact.reused", &told);
        match self.client.put_document(put, Some(self.grant.fence()), Guard::default(), event).await {
            // Somebody asked at the same time and was told the same.
            Ok(_) | Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => Ok(Ok(artifact)),
            Err(error) => Err(error.into()),
        }
    }

    /// Records that a side effect is about to be carried out, or says why it must not be. Durable when it returns.
    ///
    /// In one decision: the attempt is still the present one, no message waits (if that was asked), nobody else has begun
    /// it in this turn group, and from here on the turn takes no more messages if the effect can't be undone.
    ///
    /// # Errors
    /// [`CallError`]; a refusal `message_waits` if that was asked.
    pub async fn begin_effect(&self, begin: &BeginEffect) -> Result<EffectVerdict, CallError> {
        check_name("the tool", &begin.tool)?;
        check_name("the key", &begin.key)?;
        let key = self.effect_key(&begin.tool, &begin.key);
        let guard = Guard {
            no_message_waits: begin.unless_pending,
            passes_commit_point: begin.policy == EffectPolicy::Irreversible,
        };
        let known = self.client.documents(records::EFFECT, &self.group_prefix()).await?;
        if known.len() >= EFFECTS_MAX && !known.iter().any(|(other, _)| *other == key) {
            return Err(CallError::Unusable(format!(
                "this turn group has {EFFECTS_MAX} side effects already: do the rest in a later turn"
            )));
        }
        let mut expect = 0;
        let mut tries = 1;
        loop {
            let (turn, position) = (self.grant.turn.to_string(), self.grant.position);
            let effect = EffectView {
                tool: begin.tool.clone(),
                key: begin.key.clone(),
                policy: begin.policy,
                status: EffectStatus::Started,
                result: None,
                turn_id: turn,
                position,
                tries,
                execution_id: None,
                digest: None,
                error: None,
            };
            match self.write_effect(&effect, expect, guard, "effect.started").await {
                Ok(_) => {
                    let group = self.grant.group;
                    let idempotency_key = format!("{}:{}:turn_group:{group}", begin.tool, begin.key);
                    return Ok(EffectVerdict::Go { idempotency_key, tries });
                }
                Err(CallError::Client(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict {
                    ..
                })))) => {}
                Err(error) => return Err(error),
            }
            let Some(row) = self.client.document(key.clone()).await? else { continue };
            let before: EffectView = read(&row.body)?;
            match (before.status, before.policy) {
                (EffectStatus::Done, _) => return Ok(EffectVerdict::Done { result: before.result }),
                // It certainly did not happen, or may happen again under the same key.
                (EffectStatus::Failed | EffectStatus::Compensated, _)
                | (EffectStatus::Started, EffectPolicy::Pure | EffectPolicy::Idempotent) => {}
                (EffectStatus::Unknown, _)
                | (EffectStatus::Started, EffectPolicy::Compensatable | EffectPolicy::Irreversible) => {
                    return Ok(EffectVerdict::Unknown { turn_id: before.turn_id });
                }
            }
            (expect, tries) = (row.version, before.tries + 1);
        }
    }

    /// Records what came of a side effect. Durable when it returns. Also after the attempt is over: what happened has
    /// happened, and the next attempt must know.
    ///
    /// # Errors
    /// [`CallError::Unusable`] if it was never begun, or has another outcome already.
    pub async fn end_effect(&self, end: EndEffect) -> Result<(), CallError> {
        if !matches!(end.status, EffectStatus::Done | EffectStatus::Failed) {
            return Err(CallError::Unusable("an outcome is `done` or `failed`".to_owned()));
        }
        let key = self.effect_key(&end.tool, &end.key);
        loop {
            let Some(row) = self.client.document(key.clone()).await? else {
                let (tool, key) = (&end.tool, &end.key);
                return Err(CallError::Unusable(format!(
                    "{tool} {key:?} was not begun in this turn group: begin it first"
                )));
            };
            let mut effect: EffectView = read(&row.body)?;
            if effect.status != EffectStatus::Started {
                if (effect.status, &effect.result) == (end.status, &end.result) {
                    return Ok(());
                }
                let status = effect.status;
                return Err(CallError::Unusable(format!(
                    "its outcome is on record already, as {status:?}: the first counts"
                )));
            }
            effect.status = end.status;
            effect.result.clone_from(&end.result);
            let name = if end.status == EffectStatus::Done { "effect.done" } else { "effect.failed" };
            match self.record_outcome(&effect, row.version, name).await {
                Err(CallError::Client(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict {
                    ..
                })))) => {}
                other => return other.map(|_| ()),
            }
        }
    }

    async fn write_effect(&self, effect: &EffectView, expect: u64, guard: Guard, name: &str) -> Result<u64, CallError> {
        let put = self.effect_put(effect, expect)?;
        Ok(self.client.put_document(put, Some(self.grant.fence()), guard, self.effect_event(effect, name)).await?)
    }

    async fn record_outcome(&self, effect: &EffectView, expect: u64, name: &str) -> Result<u64, CallError> {
        let put = self.effect_put(effect, expect)?;
        // Whoever began it may always say what came of it. For another's only the present attempt may speak: a late
        // report of an earlier try must not be taken for one of the try that is under way.
        let own = (&effect.turn_id, effect.position) == (&self.grant.turn.to_string(), self.grant.position);
        let fence = (!own).then(|| self.grant.fence());
        Ok(self.client.put_document(put, fence, Guard::default(), self.effect_event(effect, name)).await?)
    }

    fn effect_put(&self, effect: &EffectView, expect: u64) -> Result<PutDocument, CallError> {
        let ttl_ms = Some(millis(self.grant.effect_ttl));
        let key = self.effect_key(&effect.tool, &effect.key);
        Ok(PutDocument { key, expect: Some(expect), body: to_json(effect)?, ttl_ms, history: 0 })
    }

    fn effect_event(&self, effect: &EffectView, name: &str) -> Option<(String, Option<String>, Bytes)> {
        let told = serde_json::json!({
            "turn_id": self.grant.turn.to_string(), "turn_group_id": self.grant.group.to_string(),
            "tool": effect.tool, "key": effect.key, "policy": effect.policy, "tries": effect.tries,
        });
        self.telling(name, &told)
    }

    fn telling(&self, name: &str, data: &Value) -> Option<(String, Option<String>, Bytes)> {
        Some((name.to_owned(), Some(self.grant.session.clone()), Bytes::from(data.to_string())))
    }

    fn group_prefix(&self) -> String {
        records::of_group(self.grant.group, "")
    }

    fn artifact_key(&self, phase: &str) -> DocumentKey {
        DocumentKey::new(records::ARTIFACT, records::of_group(self.grant.group, phase))
    }

    fn effect_key(&self, tool: &str, key: &str) -> DocumentKey {
        DocumentKey::new(records::EFFECT, records::effect_name(&self.grant.group.to_string(), tool, key))
    }
}

fn check_name(what: &str, name: &str) -> Result<(), CallError> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(CallError::Unusable(format!("{what} has {} bytes: use 1 to {NAME_BYTES_MAX}", name.len())))
}

fn to_json(value: &impl Serialize) -> Result<Bytes, CallError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| CallError::Unusable(error.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body)
        .map_err(|error| CallError::Unusable(format!("what is on record is not understood: {error}")))
}
