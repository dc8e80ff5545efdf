//! The turn: accumulate a person's messages, have the agent answer them once, send the reply once.
//!
//! One run is one turn, and the inbox gives one live run per session. With `queue`, the inbox closes in the very decision
//! in which the window ends, so what comes later belongs to the next turn. With `supersede` it stays open until the agent
//! has answered; a message that comes before stops the agent, and the turn hands all its messages to the next one. A turn
//! with the largest number of messages is closed by either policy.

use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{
    ClientError, Context, EngineError, Failure, Message, OnParentEnd, Received, RetryRule, RunId, SpawnOptions,
    TenantId, Worker, WorkflowDef,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{
    AgentAnswer, AgentError, AgentKind, AgentRequest, AgentSettings, Agents, OnMessage, TurnMessage, Voice,
};
use crate::deliver::{self, Delivery};
use crate::outside::Outside;
use crate::session::SessionKey;

/// The workflow's name.
pub const WORKFLOW: &str = "turn";
/// The step that records the settings a turn goes by.
pub const SETTINGS_STEP: &str = "settings";
/// The step that records how the window ended.
pub const WINDOW_STEP: &str = "window";
/// The step that has the agent's answer.
pub const AGENT_STEP: &str = "agent";

/// Why a turn's messages were complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowEnd {
    /// Silence.
    Quiet,
    /// The longest wait.
    MaxWait,
    /// The largest number.
    MaxMessages,
    /// No window was asked for.
    NoWindow,
}

/// How the window went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Why it ended.
    pub ended_by: WindowEnd,
    /// Milliseconds from the first message to its end, by the configuration's measure.
    pub waited_ms: u64,
    /// Messages in it.
    pub messages: usize,
}

/// What a turn ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnOutput {
    /// The reply's id: the turn's, and its place in it.
    pub reply_id: String,
    /// The reply.
    pub reply: AgentAnswer,
}

/// What a message says, as it lies in the inbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageBody {
    /// Its text.
    pub text: String,
    /// Whatever else came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The provider's id for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// What came of the agent's work.
#[derive(Debug, Serialize, Deserialize)]
enum Worked {
    Answered(AgentAnswer),
    Refused(String),
    Interrupted,
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

pub(crate) fn offer(worker: Worker, tenant: TenantId, agents: Agents, outside: Arc<dyn Outside>) -> Worker {
    worker.function(definition(), move |ctx: Context, _: ()| {
        let (agents, outside) = (agents.clone(), outside.clone());
        async move {
            let key = ctx.key().unwrap_or_default().to_owned();
            let session = SessionKey::parse(&key).filter(|session| session.tenant == tenant);
            let session = session.ok_or_else(|| Failure::Final(format!("{key:?} is not a session of this tenant")))?;
            let settings = agents.get(tenant, &session.agent).cloned();
            let gone = || Failure::Final(format!("agent {:?} is not configured any more", session.agent));
            // On record, so that a turn goes on as it began when the configuration changes under it.
            let settings = ctx.run(SETTINGS_STEP, || async { settings.ok_or_else(gone) }).await;
            let settings: AgentSettings = settings.map_err(|failure| match failure {
                Failure::Retryable(error) => Failure::Final(error),
                other => other,
            })?;
            turn(ctx, &session, &settings, &*outside).await
        }
    })
}

async fn turn(
    ctx: Context,
    session: &SessionKey,
    settings: &AgentSettings,
    outside: &dyn Outside,
) -> Result<TurnOutput, Failure> {
    let (messages, window) = accumulate(&ctx, settings).await?;
    let window: Window = ctx.run(WINDOW_STEP, || async { Ok(window) }).await?;
    ctx.emit("turn.processing", &window).await?;

    let turn_id = ctx.run_id().to_string();
    let request = AgentRequest {
        session: session.to_string(),
        agent: session.agent.clone(),
        interlocutor: session.interlocutor.clone(),
        channel: session.channel.clone(),
        correlation_id: format!("{session}:{turn_id}"),
        messages: messages.iter().map(turn_message).collect(),
        timeout_ms: u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX),
        turn_id,
    };
    // A full turn has closed its inbox, so nothing that comes can become part of it or of its successor instead.
    let interruptible = settings.on_message == OnMessage::Supersede && window.ended_by != WindowEnd::MaxMessages;
    let answer = match work(&ctx, settings, &request, interruptible, outside).await? {
        Worked::Answered(answer) => answer,
        Worked::Refused(error) => return Err(Failure::Final(error)),
        Worked::Interrupted => return Err(superseded()),
    };
    // The commit point. A message that came in the last instant still wins here, or never.
    if interruptible && !ctx.close_inbox(false).await? {
        return Err(superseded());
    }
    let reply_id = format!("{}:0", request.turn_id);
    if let Some(url) = &settings.deliver_url {
        let delivery = Delivery {
            url: url.clone(),
            reply_id: reply_id.clone(),
            turn_id: request.turn_id.clone(),
            session: request.session.clone(),
            text: answer.text.clone(),
            data: answer.data.clone(),
        };
        let options =
            SpawnOptions { key: Some(request.session.clone()), on_parent_end: OnParentEnd::Abandon, priority: None };
        ctx.spawn_detached(deliver::WORKFLOW, &delivery, options).await?;
    }
    let sent = serde_json::json!({ "reply_id": reply_id, "text": answer.text, "data": answer.data });
    // An event's data is small by nature; a long reply is read from the turn.
    let sent = if sent.to_string().len() <= 60_000 { sent } else { serde_json::json!({ "reply_id": reply_id }) };
    ctx.emit("reply.sent", &sent).await?;
    Ok(TurnOutput { reply_id, reply: answer })
}

fn superseded() -> Failure {
    Failure::Supersede("another message came while the agent worked".to_owned())
}

/// Takes messages until the window ends. Times are those of the messages, so a replay decides the same.
async fn accumulate(ctx: &Context, settings: &AgentSettings) -> Result<(Vec<Message>, Window), Failure> {
    let max = settings.messages_max.max(1);
    let Received::Messages(mut messages) = ctx.receive(None, max).await? else {
        return Err(Failure::Final("the turn began without a message".to_owned()));
    };
    let closes = settings.on_message == OnMessage::Queue;
    let first_at = messages.first().map_or(0, |message| message.accepted_at);
    let ended_by = loop {
        let last_at = messages.last().map_or(first_at, |message| message.accepted_at);
        if messages.len() >= max as usize {
            break WindowEnd::MaxMessages;
        }
        let left = settings.max_wait.saturating_sub(Duration::from_millis(last_at.saturating_sub(first_at)));
        let wait = settings.quiet.min(left);
        let received = if closes {
            ctx.receive_or_close(Some(wait), max - messages.len() as u32).await?
        } else {
            ctx.receive(Some(wait), max - messages.len() as u32).await?
        };
        match received {
            Received::Messages(more) => messages.extend(more),
            Received::TimedOut | Received::Closed if settings.quiet.is_zero() => break WindowEnd::NoWindow,
            Received::TimedOut | Received::Closed if left < settings.quiet => break WindowEnd::MaxWait,
            Received::TimedOut | Received::Closed => break WindowEnd::Quiet,
        }
    };
    if ended_by == WindowEnd::MaxMessages {
        // Also with `supersede`: messages left over would interrupt the agent at once, and again after each handover of
        // the same full turn, for ever. They are the next turn's.
        ctx.close_inbox(true).await?;
    }
    let last_at = messages.last().map_or(first_at, |message| message.accepted_at);
    let waited = Duration::from_millis(last_at.saturating_sub(first_at))
        + match ended_by {
            WindowEnd::Quiet => settings.quiet,
            WindowEnd::MaxWait => settings.max_wait.saturating_sub(Duration::from_millis(last_at - first_at)),
            WindowEnd::MaxMessages | WindowEnd::NoWindow => Duration::ZERO,
        };
    let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    let window = Window { ended_by, waited_ms, messages: messages.len() };
    Ok((messages, window))
}

/// Has the agent answer, tried again by its settings, stopped early if a message comes and the policy says so.
async fn work(
    ctx: &Context,
    settings: &AgentSettings,
    request: &AgentRequest,
    interruptible: bool,
    outside: &dyn Outside,
) -> Result<Worked, Failure> {
    match &settings.kind {
        AgentKind::Http { url } => {
            let voice = Voice::new(ctx.client().clone(), &request.session, &request.turn_id);
            ctx.run_retrying(AGENT_STEP, settings.retry, |_| {
                let asking = outside.ask(url, request, &voice);
                async {
                    tokio::select! {
                        biased;
                        answer = asking => match answer {
                            Ok(answer) => Ok(Worked::Answered(answer)),
                            Err(AgentError::Final(error)) => Ok(Worked::Refused(error)),
                            Err(AgentError::Retryable(error)) => Err(Failure::Retryable(error)),
                        },
                        () = ctx.message_waits(), if interruptible => Ok(Worked::Interrupted),
                    }
                }
            })
            .await
        }
        AgentKind::Workflow { name } => {
            // The child is cancelled with this run if it is superseded.
            let options = SpawnOptions { on_parent_end: OnParentEnd::Cancel, ..SpawnOptions::default() };
            let child: RunId = ctx.spawn_detached(name, request, options).await?;
            ctx.run(AGENT_STEP, || async {
                tokio::select! {
                    biased;
                    answer = tokio::time::timeout(settings.timeout, ctx.client().wait(child)) => match answer {
                        Ok(Ok(answer)) => Ok(Worked::Answered(answer)),
                        Ok(Err(ClientError::Engine(error @ (EngineError::Stopped { .. } | EngineError::ShuttingDown)))) => {
                            Err(Failure::GivenUp(error.to_string()))
                        }
                        Ok(Err(error)) => Ok(Worked::Refused(format!("agent workflow {name:?}: {error}"))),
                        Err(_) => Ok(Worked::Refused(format!("agent workflow {name:?} did not answer within {} ms", settings.timeout.as_millis()))),
                    },
                    () = ctx.message_waits(), if interruptible => Ok(Worked::Interrupted),
                }
            })
            .await
        }
    }
}

fn turn_message(message: &Message) -> TurnMessage {
    let body = serde_json::from_slice::<MessageBody>(&message.payload).unwrap_or_else(|_| MessageBody {
        text: String::from_utf8_lossy(&message.payload).into_owned(),
        data: None,
        message_id: None,
    });
    TurnMessage { id: message.id.to_string(), text: body.text, data: body.data, accepted_at: message.accepted_at }
}
