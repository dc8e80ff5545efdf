//! The documents of sessions and turns: their names, and how they are read.

use mainspring_client::{Attention, Client, ClientError, DocumentKey, DocumentRow, RunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::SessionState;
use crate::calls::{Artifact, EffectView, PhaseView, Reuse};
use crate::publish::Pin;
use crate::window::{Cadence, Hint};

/// A session's state: its agent's own.
pub const STATE: &str = "state";
/// What the flows remember of a session.
pub const SESSION: &str = "session";
/// A phase's result, by turn group and phase.
pub const ARTIFACT: &str = "artifact";
/// A side effect, by turn group, tool and key.
pub const EFFECT: &str = "effect";
/// What a person of a session is asked to confirm, by session and run.
pub const CONFIRMATION: &str = "confirmation";
/// How far a segment of a reply got, by its id.
pub const DELIVERY: &str = "delivery";
/// The segment that a provider's id stands for, by channel and that id.
pub const RECEIPT: &str = "receipt";

/// Versions of a session's state that are kept, by turn.
pub const STATES_KEPT: u32 = 20;

/// What the flows remember of a session between its turns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRecord {
    /// The person's pace.
    pub cadence: Cadence,
    /// What the last turn said about the next.
    pub hint: Option<Hint>,
    /// Turns completed.
    pub turns: u64,
    /// The last of them.
    pub last_turn: Option<String>,
    /// When the person last said something, in milliseconds since the Unix epoch.
    pub last_heard_at: u64,
    /// The agent the session was handed over to.
    pub handed_to: Option<String>,
    /// The version of the configuration the session is with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Pin>,
    /// Whether its agent said that this is a good moment to move on to another.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub config_released: bool,
}

/// The key of a session's document.
pub fn of_session(kind: &str, session: &str) -> DocumentKey {
    DocumentKey::new(kind, session)
}

/// The name of a document of a turn group.
pub(crate) fn of_group(group: RunId, name: &str) -> String {
    format!("{group}/{name}")
}

/// The name of a side effect's document: within a turn group, or another scope.
pub(crate) fn effect_name(scope: &str, tool: &str, key: &str) -> String {
    // With the length, so that no two of these can be spelt the same.
    format!("{scope}/{}:{tool}:{key}", tool.len())
}

/// What is remembered of a session, with its version.
///
/// # Errors
/// [`ClientError`].
pub async fn session(client: &Client, session: &str) -> Result<(u64, SessionRecord), ClientError> {
    let row = client.document(of_session(SESSION, session)).await?;
    // What an older release wrote and this one does not understand is a session nobody remembers, not an error.
    Ok(row.map_or_else(Default::default, |row| (row.version, serde_json::from_slice(&row.body).unwrap_or_default())))
}

/// A session's state.
///
/// # Errors
/// [`ClientError`].
pub async fn state(client: &Client, session: &str) -> Result<SessionState, ClientError> {
    let row = client.document(of_session(STATE, session)).await?;
    Ok(row.map_or_else(SessionState::default, |row| SessionState {
        version: row.version,
        data: serde_json::from_slice(&row.body).unwrap_or(Value::Null),
    }))
}

/// What an attempt begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Begins {
    /// The session's state.
    pub state: SessionState,
    /// Results of phases of earlier attempts that may be used again.
    pub artifacts: Vec<PhaseView>,
    /// Side effects of the turn group.
    pub effects: Vec<EffectView>,
    /// What the person is asked to confirm.
    pub confirmations: Vec<Attention>,
}

/// What an attempt begins with: the session's state, what its person is asked to confirm, and of the turn group the
/// results of phases that may be used again and the side effects. Without a group, none of these are looked for.
///
/// # Errors
/// [`ClientError`].
pub async fn attempt(client: &Client, session: &str, group: Option<RunId>) -> Result<Begins, ClientError> {
    let asked = (CONFIRMATION, format!("{session}/"));
    let of_group = async {
        let Some(group) = group else {
            let [confirmations] = client.documents_of([asked]).await?;
            return Ok([Vec::new(), Vec::new(), confirmations]);
        };
        let prefix = of_group(group, "");
        client.documents_of([(ARTIFACT, prefix.clone()), (EFFECT, prefix), asked]).await
    };
    let (state, [artifacts, effects, confirmations]) = tokio::try_join!(state(client, session), of_group)?;
    let artifacts = artifacts.iter().filter_map(|(_, row)| serde_json::from_slice::<Artifact>(&row.body).ok());
    let artifacts = artifacts.filter(|artifact| artifact.reuse != Reuse::Never).map(|artifact| PhaseView {
        phase: artifact.phase,
        input_fingerprint: artifact.input_fingerprint,
        dependency_fingerprint: artifact.dependency_fingerprint,
        reuse: artifact.reuse,
        turn_id: artifact.turn_id,
        reuse_count: artifact.reuse_count,
    });
    let effects = effects.iter().filter_map(|(_, row)| {
        let view: EffectView = serde_json::from_slice(&row.body).ok()?;
        // Until an execution ends, its entry does not name it: it was written in the decision that began it.
        let writer = row.by.filter(|_| view.digest.is_some()).map(|run| run.to_string());
        Some(EffectView { execution_id: view.execution_id.clone().or(writer), ..view })
    });
    let confirmations = confirmations.iter().filter_map(|(_, row)| serde_json::from_slice(&row.body).ok());
    Ok(Begins {
        state,
        artifacts: artifacts.collect(),
        effects: effects.collect(),
        confirmations: confirmations.collect(),
    })
}

/// The versions of a session's state that are kept, newest first, each with the turn that wrote it. May lag.
///
/// # Errors
/// [`ClientError`].
pub async fn states(client: &Client, session: &str) -> Result<Vec<DocumentRow>, ClientError> {
    client.revisions(of_session(STATE, session), STATES_KEPT as usize).await
}
