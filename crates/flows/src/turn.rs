//! The turn: accumulate a person's messages, have the agent answer them once, send the reply once.
//!
//! `accumulating -> processing -> completed | superseded | failed`. One run is one turn, and the inbox gives one live run
//! per session. A turn takes messages until its window ends ([`accumulate`]), has the agent answer ([`ask`]), and commits:
//! state, reply and what else belongs to its end in one decision ([`commit`]). A message that comes meanwhile is decided
//! about as `decision.rs` says. Past the commit point the inbox is closed for this turn, so that what comes is the next
//! turn's; whoever can't take back what was done or said closes it, in the same decision in which that is put on record.

mod accumulate;
mod ask;
mod commit;

use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Client, Committed, Context, Failure, RetryRule, RunId, TenantId, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};

use crate::agent::{AgentAnswer, Agents, Restart};
use crate::decision::{Action, Decision, Facts, OnMessage};
use crate::message::{MessageBody, MessageKind, TurnMessage};
use crate::outside::Outside;
use crate::publish::{self, TurnConfig};
use crate::records::{self, SessionRecord};
use crate::session::SessionKey;
use crate::settings::AgentSettings;
use crate::token::TurnTokens;
use crate::tools::{Door as ToolDoor, Kit};

pub use accumulate::{OpenWindow, Window, WindowEnd, open_window};
pub use ask::decisions_of;

/// The workflow's name.
pub const WORKFLOW: &str = "turn";
/// The step that records the settings a turn goes by, and what is remembered of its session.
pub const SETTINGS_STEP: &str = "settings";
/// The step that records how the window ended.
pub const WINDOW_STEP: &str = "window";
/// The step that has the agent's answer.
pub const AGENT_STEP: &str = "agent";
/// The step that makes a worker's request.
pub const REQUEST_STEP: &str = "request";
/// The step that decides about messages that came when the agent had answered.
pub const DECIDE_STEP: &str = "decide";
/// The step that undoes what former attempts did.
pub const UNDO_STEP: &str = "undo";
/// How long undoing one of them is waited for.
const UNDO_TIMEOUT: Duration = Duration::from_secs(30);
/// The step that reads a session again that was changed meanwhile.
pub const SESSION_STEP: &str = "session";

/// Messages came while the agent worked.
const PROCESSING: &str = "processing";
/// Messages came when it had answered and nothing was committed.
const PRE_COMMIT: &str = "pre_commit";

/// Times a commit is tried while others change the session's documents.
const COMMITS_MAX: u32 = 5;

/// Handovers in a row. Agents that hand a session to each other without end would never answer.
const HANDOVERS_MAX: u32 = 5;

/// How agents call back on behalf of a turn.
#[derive(Clone)]
pub struct TurnDoor {
    /// What their tokens are signed with.
    pub tokens: TurnTokens,
    /// Where they call.
    pub calls_url: String,
    /// What tools are carried out with, where they are.
    pub tools: Option<Kit>,
}

/// What a turn ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnOutput {
    /// The reply's id: the turn's, and the place of its first segment.
    pub reply_id: String,
    /// The reply.
    pub reply: AgentAnswer,
    /// How many messages of the channel it became. 0: there was nothing to say.
    #[serde(default)]
    pub segments: u32,
    /// Why there is no reply, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The configuration it went by, if one was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<TurnConfig>,
}

/// What a turn begins with, as its journal keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Begun {
    settings: AgentSettings,
    record: SessionRecord,
    record_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<TurnConfig>,
}

/// Everything a turn works with.
struct Turn<'a> {
    ctx: &'a Context,
    session: &'a SessionKey,
    key: String,
    turn_id: String,
    settings: AgentSettings,
    policy: OnMessage,
    agents: &'a Agents,
    outside: &'a dyn Outside,
    door: &'a TurnDoor,
    record: SessionRecord,
    record_version: u64,
    /// The configuration it goes by, whatever is published meanwhile.
    config: Option<TurnConfig>,
    messages: Vec<TurnMessage>,
    /// The turn group: of its own chain, or of the failed turn whose messages it takes again.
    group: RunId,
    /// How often the session was handed over right before.
    handovers: u32,
    /// Times the agent was asked.
    asked: u32,
    /// Times this turn was begun anew within itself.
    absorbed: u32,
    /// How often what former attempts did was undone, where it had to be.
    undone: u32,
    restart: Option<Restart>,
}

/// The definition.
pub fn definition() -> WorkflowDef {
    let mut def =
        WorkflowDef { inbox: true, lifecycle_events: Some("turn".to_owned()), ..WorkflowDef::single(WORKFLOW, true) };
    // For what fails around the agent, such as a payload that could not be read for a moment. The agent's own failures
    // are retried by its settings.
    def.tasks[0].retry = RetryRule { attempts_max: 3, backoff_ms: 200, backoff_percent: 300, backoff_max_ms: 5_000 };
    def
}

pub(crate) fn offer(
    worker: Worker,
    tenant: TenantId,
    agents: Agents,
    outside: Arc<dyn Outside>,
    door: TurnDoor,
) -> Worker {
    worker.function(definition(), move |ctx: Context, _: ()| {
        let (agents, outside, door) = (agents.clone(), outside.clone(), door.clone());
        async move {
            let key = ctx.key().unwrap_or_default().to_owned();
            let session = SessionKey::parse(&key).filter(|session| session.tenant == tenant);
            let session = session.ok_or_else(|| Failure::Final(format!("{key:?} is not a session of this tenant")))?;
            let begun = begin(&ctx, &session, &key, &agents).await?;
            let mut settings = begun.settings;
            // The one thing that is not on record.
            settings.secret = agents.get(tenant, &session.agent).and_then(|settings| settings.secret.clone());
            let turn = Turn {
                policy: settings.on_message_on(&session.channel),
                turn_id: ctx.run_id().to_string(),
                ctx: &ctx,
                session: &session,
                key,
                settings,
                agents: &agents,
                outside: &*outside,
                door: &door,
                record: begun.record,
                record_version: begun.record_version,
                config: begun.config,
                messages: Vec::new(),
                group: ctx.lineage().group,
                handovers: 0,
                asked: 0,
                absorbed: 0,
                undone: 0,
                restart: None,
            };
            turn.go().await
        }
    })
}

/// The configuration a turn goes by, by what the step [`SETTINGS_STEP`] recorded.
pub fn config_of(begun: &[u8]) -> Option<TurnConfig> {
    serde_json::from_slice::<Begun>(begun).ok()?.config
}

/// On record, so that a turn goes on as it began when the configuration or the session changes under it.
async fn begin(ctx: &Context, session: &SessionKey, key: &str, agents: &Agents) -> Result<Begun, Failure> {
    let settings = agents.get(session.tenant, &session.agent).cloned();
    let begun = ctx.note(SETTINGS_STEP, || async {
        let gone = || Failure::Final(format!("agent {:?} is not configured any more", session.agent));
        let settings = settings.ok_or_else(gone)?;
        let read = publish::turn::begin(ctx.client(), &session.agent, key).await;
        let (record_version, record, config) = read.map_err(|error| Failure::GivenUp(error.to_string()))?;
        Ok(Begun { settings, record, record_version, config })
    });
    begun.await.map_err(|failure| match failure {
        Failure::Retryable(error) => Failure::Final(error),
        other => other,
    })
}

async fn read_record(client: &Client, key: &str) -> Result<(u64, SessionRecord), Failure> {
    records::session(client, key).await.map_err(|error| Failure::GivenUp(error.to_string()))
}

impl Turn<'_> {
    async fn go(mut self) -> Result<TurnOutput, Failure> {
        let (messages, window) = accumulate::accumulate(&self).await?;
        let window: Window = self.ctx.note(WINDOW_STEP, || async { Ok(window) }).await?;
        let bodies: Vec<MessageBody> = messages.iter().map(|message| MessageBody::read(&message.payload)).collect();
        for body in &bodies {
            self.handovers = self.handovers.max(body.handovers);
            if let Some(group) = body.turn_group_id.as_ref().and_then(|group| group.parse().ok()) {
                self.group = group;
            }
        }
        let read = messages.iter().zip(&bodies);
        self.messages = read.map(|(message, body)| TurnMessage::of(message, body.clone())).collect();
        if let Some(agent) = self.record.handed_to.clone() {
            return self.pass_on(&agent, &messages).await;
        }
        if let Some(note) = self.drop_outdated(&bodies) {
            return self.end_without_reply(note).await;
        }
        self.ctx.emit_with_next("turn.processing", &window).await?;
        let lineage = self.ctx.lineage();
        if let Some(from) = lineage.from {
            self.restart = Some(Restart {
                reason: "superseded".to_owned(),
                from_phase: None,
                turn_id: Some(from.to_string()),
                count: lineage.superseded_before,
            });
        }
        // A full turn closed its inbox with its window; so did one that queues what comes.
        let mut open = self.policy != OnMessage::Queue && window.ended_by != WindowEnd::MaxMessages;
        for _ in 0..=u64::from(self.settings.restarts_max) + u64::from(COMMITS_MAX) {
            if open && self.restarts() >= self.settings.restarts_max {
                // It was begun anew often enough: this time it is completed, whatever comes.
                self.ctx.close_inbox(true).await?;
                open = false;
            }
            self.undo_former_attempts().await?;
            match self.ask(open).await? {
                ask::Worked::Answered { answer, state_version, decisions } => {
                    open = open && decisions.is_empty();
                    match self.end(*answer, state_version, decisions, open).await? {
                        commit::Ended::Done(output) => return Ok(*output),
                        commit::Ended::Decided(decision) => self.begin_anew(decision, PRE_COMMIT).await?,
                        commit::Ended::AskAgain(reason) => self.restart = Some(self.restarted(reason, None)),
                    }
                }
                ask::Worked::Refused(error) => return Err(self.fail(error).await),
                ask::Worked::Interrupted(decision) => self.begin_anew(decision, PROCESSING).await?,
            }
        }
        let error = format!(
            "the agent was asked {} times and the turn came to no end: either the session's state was changed each time \
             while it worked, or it yielded a turn that could not be begun anew",
            self.asked
        );
        Err(self.fail(error).await)
    }

    /// Undoes what former attempts did by tools that ask for it, before the next one begins. What can't be undone in time
    /// goes on being undone, and the agent sees how it stands.
    async fn undo_former_attempts(&mut self) -> Result<(), Failure> {
        let (restarts, group) = (self.restarts(), self.group);
        let Some(kit) = self.door.tools.clone().filter(|_| self.undone < restarts) else { return Ok(()) };
        self.undone = restarts;
        let tools = ToolDoor::new(self.ctx.client().clone(), kit);
        let undone = self.ctx.run(UNDO_STEP, || async {
            tools.undo_group(group, UNDO_TIMEOUT).await.map_err(|error| Failure::GivenUp(error.to_string()))
        });
        let _: Vec<(String, String)> = undone.await?;
        Ok(())
    }

    /// How often the chain was begun anew.
    fn restarts(&self) -> u32 {
        self.ctx.lineage().superseded_before + self.absorbed
    }

    fn facts(&self) -> Facts {
        Facts {
            committed: false,
            absorbed: self.absorbed > 0,
            restarts: self.restarts(),
            restarts_max: self.settings.restarts_max,
        }
    }

    fn restarted(&self, reason: &str, from_phase: Option<String>) -> Restart {
        Restart { reason: reason.to_owned(), from_phase, turn_id: None, count: self.restarts() }
    }

    /// Carries a decision out that begins the agent's work anew: in a successor, or here.
    async fn begin_anew(&mut self, decision: Decision, point: &str) -> Result<(), Failure> {
        self.ctx.emit_with_next("supersede.decision", &self.told(&decision, point)).await?;
        match decision.action {
            Action::Supersede => {
                Err(Failure::Supersede(format!("another message came while the agent worked ({})", decision.reason)))
            }
            Action::Absorb => {
                let room = self
                    .settings
                    .window_on(&self.session.channel)
                    .messages_max
                    .saturating_sub(self.messages.len() as u32);
                let more = self.ctx.receive_until(0, room.max(1), false).await?;
                if let mainspring_client::Received::Messages(more) = more {
                    let told = serde_json::json!({ "messages": more.len() });
                    self.ctx.emit_with_next("turn.message_absorbed", &told).await?;
                    self.messages.extend(
                        more.iter().map(|message| TurnMessage::of(message, MessageBody::read(&message.payload))),
                    );
                }
                self.absorbed += 1;
                self.restart = Some(self.restarted("absorbed", decision.restart_from));
                Ok(())
            }
            Action::Queue | Action::ForceComplete => unreachable!("these do not begin anything anew"),
        }
    }

    fn told(&self, decision: &Decision, point: &str) -> serde_json::Value {
        serde_json::json!({
            "turn_id": self.turn_id, "interrupt_point": point, "action": decision.action, "reason": decision.reason,
            "restart_from": decision.restart_from, "restarts": self.restarts(),
        })
    }

    /// Takes out follow-ups that are outdated because the person has said something. Gives a note if nothing is left.
    fn drop_outdated(&mut self, bodies: &[MessageBody]) -> Option<String> {
        let heard = self.messages.iter().filter(|message| message.kind.is_person()).map(|message| message.accepted_at);
        let heard_at = heard.max().unwrap_or(0).max(self.record.last_heard_at);
        let mut outdated = bodies.iter().map(|body| {
            body.kind == MessageKind::FollowUp && body.only_if_silent_since_ms.is_some_and(|since| heard_at > since)
        });
        self.messages.retain(|_| !outdated.next().unwrap_or(false));
        self.messages.is_empty().then(|| "the follow-up was outdated: the person has said something since".to_owned())
    }

    /// The session is another agent's now: it gets the messages, in order, in one decision.
    async fn pass_on(self, agent: &str, messages: &[mainspring_client::Message]) -> Result<TurnOutput, Failure> {
        let target = SessionKey { agent: agent.to_owned(), ..self.session.clone() }.to_string();
        let messages = messages.iter().map(|message| (WORKFLOW.to_owned(), target.clone(), message.payload.clone()));
        let told = serde_json::json!({ "turn_id": self.turn_id, "agent": agent });
        let commit = mainspring_client::Commit {
            force: true,
            messages: messages.collect(),
            events: vec![("session.passed_on".to_owned(), told.to_string().into())],
            ..mainspring_client::Commit::default()
        };
        self.ctx.commit(commit).await?;
        Ok(self.silent(format!("the session goes on with agent {agent:?}")))
    }

    async fn end_without_reply(self, note: String) -> Result<TurnOutput, Failure> {
        let told = serde_json::json!({ "turn_id": self.turn_id, "reason": note });
        let events = vec![("turn.outdated".to_owned(), told.to_string().into())];
        let commit = mainspring_client::Commit { force: true, events, ..mainspring_client::Commit::default() };
        self.ctx.commit(commit).await?;
        Ok(self.silent(note))
    }

    fn silent(&self, note: String) -> TurnOutput {
        let reply_id = format!("{}:0", self.turn_id);
        TurnOutput {
            reply_id,
            reply: AgentAnswer::default(),
            segments: 0,
            note: Some(note),
            config: self.config.clone(),
        }
    }

    /// Says to the person that it failed, if something is to be said, and gives what the run ends with.
    async fn fail(&self, error: String) -> Failure {
        let Some(text) = &self.settings.failure_reply else { return Failure::Final(error) };
        let commit = match self.failure_commit(text) {
            Ok(commit) => commit,
            Err(_) => return Failure::Final(error),
        };
        match self.ctx.commit(commit).await {
            Ok(Committed::Done | Committed::MessageWaits | Committed::Conflict(_)) | Err(Failure::Final(_)) => {
                Failure::Final(error)
            }
            Err(other) => other,
        }
    }
}
