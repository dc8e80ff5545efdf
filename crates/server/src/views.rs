//! Rows as the JSON that callers see.

use std::time::Duration;

use mainspring_client::{Client, MessageId, RunId, TaskId, TenantId};
use mainspring_core::journal::{Completion, EntryKind};
use mainspring_core::row::{JournalRow, MessageState, RunRow, RunState, TaskRow, TaskState};
use mainspring_core::{Command, Refusal, Reply};
use mainspring_engine::{Engine, EngineError};
use mainspring_flows::publish::TurnConfig;
use mainspring_flows::token::without_tokens;
use mainspring_flows::tools::{Execution, call, run as tool_run};
use mainspring_flows::{MessageBody, SessionKey, TurnOutput, Window, records, turn};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::problem::Problem;

/// Characters of a result shown beside its journal entry.
const DETAIL_CHARS_MAX: usize = 400;

/// One line of a journal.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepView {
    /// Its place, counted from 0.
    pub position: u32,
    /// What was asked: `run`, `sleep`, `receive`, `spawn`, `emit`, ...
    pub kind: String,
    /// The name it was asked under.
    pub name: String,
    /// `pending`, `done` or `failed`.
    pub state: String,
    /// When it was asked.
    pub requested_at: u64,
    /// When it was complete.
    pub completed_at: Option<u64>,
    /// What came of it, shortened.
    pub detail: Option<String>,
}

/// A message of a turn.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MessageView {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Whatever else came with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// When it was accepted.
    pub accepted_at: u64,
}

/// A message on its own.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MessageDetail {
    /// The message.
    #[serde(flatten)]
    pub message: MessageView,
    /// Its session.
    pub session: String,
    /// `unread`, `received` or `done`.
    pub state: String,
    /// The turn it is in, or is offered to.
    pub turn_id: Option<String>,
}

/// How a turn's window went.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AccumulationView {
    /// `timeout`, `explicit_signal`, `channel_hint`, `agent_hint`, `max_messages`, `max_wait` or `no_accumulation`.
    pub ended_by: String,
    /// How long it was open.
    pub waited_ms: u64,
    /// The last wait for one more message.
    pub quiet_ms: u64,
    /// Why that wait was as long as it was.
    pub explanation: String,
}

/// A window that is open.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OpenWindowView {
    /// When it ends if nothing more comes.
    pub until: u64,
    /// The wait for one more message.
    pub quiet_ms: u64,
    /// Why that wait is as long as it is.
    pub explanation: String,
}

/// What was decided about messages that came while the agent worked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecisionView {
    /// `supersede`, `absorb`, `queue` or `force_complete`.
    pub action: String,
    /// Why.
    pub reason: String,
    /// The phase from which the agent goes on when it begins anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_from: Option<String>,
    /// When.
    pub at: u64,
}

/// A phase's result that later attempts may use again.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ArtifactView {
    /// The phase.
    pub phase: String,
    /// `always`, `conditional` or `never`.
    pub reuse: String,
    /// The turn that left it.
    pub turn_id: String,
    /// How often it was used again.
    pub reuse_count: u32,
}

/// A side effect of a turn or of one it took over.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EffectView {
    /// The tool.
    pub tool: String,
    /// What makes it this effect and no other.
    pub key: String,
    /// `pure`, `idempotent`, `compensatable` or `irreversible`.
    pub policy: String,
    /// `started`, `done`, `failed`, `unknown` or `compensated`.
    pub status: String,
    /// The turn that began it.
    pub turn_id: String,
    /// The execution that carries it out, if the agent does not do it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
}

/// A turn's reply.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReplyView {
    /// Its id, always the same however often it is delivered.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Whatever else goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// A turn.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TurnView {
    /// Its id.
    pub id: String,
    /// `{tenant}:{agent}:{interlocutor}:{channel}`.
    pub session: String,
    /// Which agent answers.
    pub agent: String,
    /// Who talks to it.
    pub interlocutor: String,
    /// Over which channel.
    pub channel: String,
    /// `accumulating`, `processing`, `completed`, `superseded`, `failed`, `cancelled` or `parked`.
    pub state: String,
    /// The turn that took over its messages.
    pub superseded_by: Option<String>,
    /// The turn whose messages it took over.
    pub superseded_from: Option<String>,
    /// The turn with which the chain of superseded ones that led to it began.
    pub turn_group_id: String,
    /// How many turns of that chain were superseded before it.
    pub superseded_before: u32,
    /// `{tenant}:{agent}:{session}:{turn}`, on log lines.
    pub correlation_id: String,
    /// Its messages, in order.
    pub messages: Vec<MessageView>,
    /// How its window went, once it has ended.
    pub accumulation: Option<AccumulationView>,
    /// How its window stands, while it is open.
    pub window: Option<OpenWindowView>,
    /// What was decided about messages that came while the agent worked, in order. Messages that came when the turn took
    /// no more are the next turn's without a decision.
    pub decisions: Vec<DecisionView>,
    /// The configuration it goes by, if one is published: `{version, epoch, digest, bundles, canary, moved}`.
    #[schema(value_type = Option<Object>)]
    pub config: Option<TurnConfig>,
    /// Its reply, once it is complete.
    pub reply: Option<ReplyView>,
    /// Why it failed, was superseded or cancelled.
    pub error: Option<String>,
    /// When it began.
    pub started_at: u64,
    /// When the agent was asked.
    pub processing_at: Option<u64>,
    /// When it ended.
    pub finished_at: Option<u64>,
    /// What it did, step by step; the steps of an agent's own run follow those of the turn.
    pub steps: Vec<StepView>,
    /// The run of an agent that is a workflow.
    pub agent_run: Option<String>,
    /// Why it waits, if it does.
    pub waiting_for: Option<String>,
    /// Results of phases kept for its turn group.
    pub artifacts: Vec<ArtifactView>,
    /// Side effects of its turn group.
    pub effects: Vec<EffectView>,
}

/// A turn in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TurnSummary {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub state: String,
    /// When it began.
    pub started_at: u64,
    /// When it ended.
    pub finished_at: Option<u64>,
    /// How many messages it received.
    pub message_count: u32,
}

/// A run in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// Its workflow.
    pub workflow: String,
    /// What serialises it.
    pub key: Option<String>,
    /// `queued`, `running`, `completed`, `failed`, `cancelled`, `superseded` or `parked`.
    pub state: String,
    /// When it was asked for.
    pub created_at: u64,
    /// When it began.
    pub started_at: Option<u64>,
    /// When it ended.
    pub finished_at: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A task of a run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskView {
    /// Its place in the workflow.
    pub index: u16,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: String,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// Failed attempts allowed.
    pub attempts_max: u32,
    /// The worker that has it.
    pub worker: Option<String>,
    /// When it was first queued.
    pub queued_at: Option<u64>,
    /// When its last attempt began.
    pub started_at: Option<u64>,
    /// When it ended.
    pub finished_at: Option<u64>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// Its journal.
    pub journal: Vec<StepView>,
}

/// A run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunView {
    /// What a list shows.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// The workflow version it executes.
    pub version: String,
    /// Higher goes first.
    pub priority: u8,
    /// The run that spawned it.
    pub parent: Option<String>,
    /// Its input.
    pub input: Value,
    /// Its output.
    pub output: Value,
    /// Why it waits, if it does.
    pub waiting_for: Option<String>,
    /// Its tasks.
    pub tasks: Vec<TaskView>,
}

/// How current a listing is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct AsOf {
    /// The log position it includes.
    pub position: u64,
    /// How far behind the log it may be; 0 when it is not.
    pub lag_ms: u64,
}

/// A list of runs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunList {
    /// Newest first.
    pub runs: Vec<RunSummary>,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
    /// How current it is.
    pub as_of: AsOf,
}

/// A session.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SessionView {
    /// `{tenant}:{agent}:{interlocutor}:{channel}`.
    pub session: String,
    /// Which agent answers.
    pub agent: String,
    /// Who talks to it.
    pub interlocutor: String,
    /// Over which channel.
    pub channel: String,
    /// The live turn.
    pub live_turn: Option<String>,
    /// Messages that no turn has received yet.
    pub pending_messages: u64,
    /// Its latest turns, newest first, 50 at most.
    pub turns: Vec<TurnSummary>,
}

impl RunSummary {
    /// Of a run.
    pub fn of(id: RunId, row: &RunRow) -> Self {
        RunSummary {
            id: id.to_string(),
            workflow: row.workflow.clone(),
            key: row.key.clone(),
            state: row.state.word().to_owned(),
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            error: row.error.clone(),
        }
    }
}

/// A run with its tasks and journals, or `None` if the tenant has no such run.
///
/// # Errors
/// A 500 if the store can't be read.
pub async fn run_view(client: &Client, id: RunId) -> Result<Option<RunView>, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let read = engine.read(tenant, move |reader| {
        let Some(run) = reader.run(tenant, id)? else { return Ok(None) };
        let mut tasks = Vec::new();
        for index in 0..run.tasks {
            let task = TaskId { run: id, index };
            if let Some(row) = reader.task(tenant, task)? {
                tasks.push((index, row, reader.journal(tenant, task)?));
            }
        }
        let defs: Vec<(u128, mainspring_core::row::WorkflowRow)> =
            reader.all(tenant, mainspring_core::Table::Workflow)?;
        let def = defs.into_iter().find(|(version, _)| *version == run.version.0).map(|(_, row)| row.def);
        Ok(Some((run, tasks, def)))
    });
    let Some((run, tasks, def)) = read.await? else { return Ok(None) };
    let mut views = Vec::new();
    for (index, task, journal) in tasks {
        let task_def = def.as_ref().and_then(|def| def.tasks.get(usize::from(index)));
        views.push(TaskView {
            index,
            name: task_def.map_or_else(|| index.to_string(), |def| def.name.clone()),
            state: task.state.word().to_owned(),
            attempt: task.attempt,
            attempts_max: task_def.map_or(1, |def| def.retry.attempts_max),
            worker: worker_of(&task),
            queued_at: task.queued_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
            error: task.error.clone(),
            journal: step_views(engine, tenant, &journal).await,
        });
    }
    let payload = async |reference: Option<mainspring_core::row::PayloadRef>| match reference {
        Some(reference) => engine.payload(tenant, reference).await.map(|bytes| json_of(&bytes)),
        None => Ok(Value::Null),
    };
    let mut input = payload(run.input).await?;
    if [tool_run::WORKFLOW, tool_run::ORDERED, tool_run::TASK].contains(&run.workflow.as_str())
        && let Ok(execution) = serde_json::from_value::<Execution>(input.clone())
    {
        // What a tool says that nobody is shown is not shown here either.
        input["arguments"] = call::shown(&execution.tool, &execution.arguments);
    }
    Ok(Some(RunView {
        version: run.version.to_string(),
        priority: run.priority,
        parent: run.parent.map(|parent| parent.task.run.to_string()),
        input,
        output: payload(run.output).await?,
        waiting_for: why_waiting(client, id, run.state).await,
        tasks: views,
        summary: RunSummary::of(id, &run),
    }))
}

/// A turn, or `None` if the tenant has no such turn.
///
/// # Errors
/// A 500 if the store can't be read.
pub async fn turn_view(client: &Client, id: RunId) -> Result<Option<TurnView>, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let task = TaskId { run: id, index: 0 };
    let read = engine.read(tenant, move |reader| {
        let Some(run) = reader.run(tenant, id)? else { return Ok(None) };
        Ok(Some((run, reader.journal(tenant, task)?)))
    });
    let Some((run, journal)) = read.await? else { return Ok(None) };
    let Some(session) = session_of(&run) else { return Ok(None) };

    let mut group = run.group.unwrap_or(id);
    let (mut messages, mut taken) = (Vec::new(), Vec::new());
    for (_, entry) in &journal {
        if let Some((_, Completion::Messages(received))) = &entry.done {
            let mut together = Vec::new();
            for one in received {
                let body = engine.payload(tenant, one.payload).await?;
                // Messages of a failed turn that were sent again stay in its group.
                group = MessageBody::read(&body).turn_group_id.and_then(|id| id.parse().ok()).unwrap_or(group);
                messages.push(message_view(one.id, &body, one.accepted_at));
                together.push((body.to_vec(), one.accepted_at));
            }
            taken.push(together);
        }
    }
    let records::Begins { artifacts, effects, .. } =
        records::attempt(client, &session.to_string(), Some(group)).await?;
    let named = |kind: EntryKind, name: &str| {
        journal.iter().map(|(_, entry)| entry).find(|entry| entry.kind == kind && entry.label == name)
    };
    let window = match named(EntryKind::Run, turn::WINDOW_STEP).and_then(|entry| entry.done.clone()) {
        Some((_, Completion::Value(value))) => {
            serde_json::from_slice::<Window>(&engine.payload(tenant, value).await?).ok()
        }
        _ => None,
    };
    let begun = match named(EntryKind::Run, turn::SETTINGS_STEP).and_then(|entry| entry.done.clone()) {
        Some((_, Completion::Value(begun))) => Some(engine.payload(tenant, begun).await?),
        _ => None,
    };
    let config = begun.as_ref().and_then(|begun| turn::config_of(begun));
    let open_window = match &begun {
        Some(begun) if window.is_none() && run.state == RunState::Running => {
            turn::open_window(begun, &session.channel, run.superseded_before > 0, &taken)
        }
        _ => None,
    };
    let mut decisions = Vec::new();
    for (_, entry) in
        journal.iter().filter(|(_, entry)| entry.kind == EntryKind::Run && entry.label == turn::AGENT_STEP)
    {
        let Some((at, Completion::Value(worked))) = entry.done else { continue };
        decisions.extend(turn::decisions_of(&engine.payload(tenant, worked).await?).into_iter().map(|decision| {
            let action = word_of(&decision.action);
            DecisionView { action, reason: decision.reason, restart_from: decision.restart_from, at }
        }));
    }
    let processing_at = named(EntryKind::Emit, "turn.processing").map(|entry| entry.requested_at);
    let agent_run = journal.iter().rev().find_map(|(_, entry)| match &entry.done {
        Some((_, Completion::Spawned(child))) if entry.label != mainspring_flows::deliver::WORKFLOW => Some(*child),
        _ => None,
    });
    let mut steps = step_views(engine, tenant, &journal).await;
    if let Some(child) = agent_run {
        let task = TaskId { run: child, index: 0 };
        let journal = engine.read(tenant, move |reader| reader.journal(tenant, task)).await?;
        let offset = steps.len() as u32;
        let mut own = step_views(engine, tenant, &journal).await;
        own.iter_mut().for_each(|step| step.position += offset);
        steps.extend(own);
    }
    let reply = match run.output {
        Some(output) => serde_json::from_slice::<TurnOutput>(&engine.payload(tenant, output).await?)
            .ok()
            .map(|output| ReplyView { id: output.reply_id, text: output.reply.text, data: output.reply.data }),
        None => None,
    };
    Ok(Some(TurnView {
        id: id.to_string(),
        correlation_id: format!("{session}:{id}"),
        state: turn_state(&run, processing_at.is_some()),
        superseded_by: run.superseded_by.map(|run| run.to_string()),
        superseded_from: run.superseded_from.map(|run| run.to_string()),
        messages,
        accumulation: window.map(|window| AccumulationView {
            ended_by: word_of(&window.ended_by),
            waited_ms: window.waited_ms,
            quiet_ms: window.quiet_ms,
            explanation: window.explanation,
        }),
        window: open_window.map(|open| OpenWindowView {
            until: open.until,
            quiet_ms: open.quiet_ms,
            explanation: open.explanation,
        }),
        decisions,
        config,
        reply,
        error: run.error.clone(),
        turn_group_id: group.to_string(),
        superseded_before: run.superseded_before,
        artifacts: artifacts
            .into_iter()
            .map(|artifact| ArtifactView {
                phase: artifact.phase,
                reuse: word_of(&artifact.reuse),
                turn_id: artifact.turn_id,
                reuse_count: artifact.reuse_count,
            })
            .collect(),
        effects: effects
            .into_iter()
            .map(|effect| EffectView {
                tool: effect.tool,
                key: effect.key,
                policy: word_of(&effect.policy),
                status: word_of(&effect.status),
                turn_id: effect.turn_id,
                execution_id: effect.execution_id,
            })
            .collect(),
        started_at: run.created_at,
        processing_at,
        finished_at: run.finished_at,
        steps,
        agent_run: agent_run.map(|run| run.to_string()),
        waiting_for: why_waiting(client, id, run.state).await,
        session: session.to_string(),
        agent: session.agent,
        interlocutor: session.interlocutor,
        channel: session.channel,
    }))
}

/// A message, or `None` if the tenant has no such message.
///
/// # Errors
/// A 500 if the store can't be read.
pub async fn message_detail(client: &Client, id: MessageId) -> Result<Option<MessageDetail>, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let Some(row) = engine.read(tenant, move |reader| reader.message(tenant, id)).await? else { return Ok(None) };
    let body = engine.payload(tenant, row.payload).await?;
    let (state, turn_id) = match row.state {
        MessageState::Unread => {
            let look = Command::LookAtInbox { workflow: row.workflow.clone(), key: row.key.clone() };
            let inbox = match engine.submit(tenant, look).await? {
                (Reply::Inbox(inbox), _) => inbox,
                (other, _) => unreachable!("an inbox is answered as one, not {other:?}"),
            };
            let turn = inbox.and_then(|inbox| if inbox.closed { inbox.successor } else { Some(inbox.live) });
            ("unread", turn)
        }
        MessageState::Received { run } => ("received", Some(run)),
        MessageState::Done { run } => ("done", Some(run)),
    };
    Ok(Some(MessageDetail {
        message: message_view(id, &body, row.accepted_at),
        session: row.key,
        state: state.to_owned(),
        turn_id: turn_id.map(|turn| turn.to_string()),
    }))
}

/// A session, whether or not it has spoken yet.
///
/// # Errors
/// A 500 if the store can't be read.
pub async fn session_view(client: &Client, session: SessionKey) -> Result<SessionView, Problem> {
    let (engine, tenant) = (client.engine(), client.tenant());
    let key = session.to_string();
    let look = Command::LookAtInbox { workflow: turn::WORKFLOW.to_owned(), key: key.clone() };
    let (reply, position) = engine.submit(tenant, look).await?;
    let Reply::Inbox(inbox) = reply else { unreachable!("an inbox is answered as one, not {reply:?}") };
    // The list is read from the tables; a moment's patience makes it include what was just accepted.
    engine.wait_applied(tenant, position, Duration::from_millis(250)).await;
    let scope = key.clone();
    let turns = engine.read(tenant, move |reader| {
        let mut ids: Vec<RunId> = Vec::new();
        for (_, event) in reader.latest_events(tenant, Some(&scope), 2_000)? {
            if let Some(run) = event.run.filter(|_| event.name == "turn.started")
                && !ids.contains(&run)
                && ids.len() < 50
            {
                ids.push(run);
            }
        }
        let rows = ids.into_iter().map(|id| Ok((id, reader.run(tenant, id)?)));
        rows.collect::<Result<Vec<_>, _>>()
    });
    let turns = turns.await?.into_iter().filter_map(|(id, row)| Some(turn_summary(id, &row?))).collect();
    Ok(SessionView {
        session: key,
        agent: session.agent,
        interlocutor: session.interlocutor,
        channel: session.channel,
        live_turn: inbox.map(|inbox| inbox.live.to_string()),
        pending_messages: inbox.map_or(0, |inbox| inbox.unread),
        turns,
    })
}

/// A turn in a list. Whether a live one is still accumulating only its journal knows; a list says `running`.
pub fn turn_summary(id: RunId, row: &RunRow) -> TurnSummary {
    let state = if row.state == RunState::Running { "running".to_owned() } else { turn_state(row, true) };
    TurnSummary {
        id: id.to_string(),
        state,
        started_at: row.created_at,
        finished_at: row.finished_at,
        message_count: row.messages,
    }
}

/// The session of a turn's run.
pub fn session_of(run: &RunRow) -> Option<SessionKey> {
    (run.workflow == turn::WORKFLOW).then(|| SessionKey::parse(run.key.as_deref()?)).flatten()
}

fn turn_state(run: &RunRow, processing: bool) -> String {
    let word = match run.state {
        RunState::Queued => "accumulating",
        RunState::Running if processing => "processing",
        RunState::Running => "accumulating",
        RunState::Completed => "completed",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
        RunState::Superseded => "superseded",
        RunState::Parked => "parked",
    };
    word.to_owned()
}

fn worker_of(task: &TaskRow) -> Option<String> {
    match task.state {
        TaskState::Running { worker, .. } => Some(worker.to_string()),
        TaskState::Blocked
        | TaskState::Judged { .. }
        | TaskState::Queued { .. }
        | TaskState::Suspended { .. }
        | TaskState::Backoff { .. }
        | TaskState::Parked
        | TaskState::Completed
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Skipped => None,
    }
}

async fn why_waiting(client: &Client, id: RunId, state: RunState) -> Option<String> {
    if state.ended() {
        return None;
    }
    match client.engine().submit(client.tenant(), Command::Explain { run: id }).await {
        Ok((Reply::Waiting { reason, .. }, _)) => reason,
        Ok(_) | Err(EngineError::Refused(Refusal::NoRun { .. })) => None,
        Err(error) => Some(error.to_string()),
    }
}

async fn step_views(engine: &Engine, tenant: TenantId, journal: &[(u32, JournalRow)]) -> Vec<StepView> {
    let mut steps = Vec::with_capacity(journal.len());
    for (position, entry) in journal {
        let (state, completed_at, detail) = match &entry.done {
            None => ("pending", None, None),
            Some((at, Completion::Failed(error))) => ("failed", Some(*at), Some(error.clone())),
            Some((at, Completion::Cancelled(reason))) => ("cancelled", Some(*at), Some(reason.clone())),
            Some((at, completion)) => ("done", Some(*at), detail_of(engine, tenant, completion).await),
        };
        steps.push(StepView {
            position: *position,
            kind: entry.kind.word().to_owned(),
            name: entry.label.clone(),
            state: state.to_owned(),
            requested_at: entry.requested_at,
            completed_at,
            detail,
        });
    }
    steps
}

async fn detail_of(engine: &Engine, tenant: TenantId, completion: &Completion) -> Option<String> {
    match completion {
        Completion::Unit => None,
        Completion::Bool(answer) => Some(answer.to_string()),
        Completion::Value(value) => {
            let bytes = engine.payload(tenant, *value).await.ok()?;
            let text = without_tokens(&String::from_utf8_lossy(&bytes));
            let mut short: String = text.chars().take(DETAIL_CHARS_MAX).collect();
            if short.len() < text.len() {
                short.push('…');
            }
            Some(short)
        }
        Completion::Failed(error) => Some(error.clone()),
        Completion::Cancelled(reason) => Some(reason.clone()),
        Completion::Messages(messages) => Some(format!("{} message(s)", messages.len())),
        Completion::TimedOut => Some("nothing came in time".to_owned()),
        Completion::Closed => Some("the inbox is closed".to_owned()),
        Completion::Spawned(run) => Some(format!("run {run}")),
        Completion::Child(end) => Some(format!("run {} {}", end.run, end.state.word())),
    }
}

fn message_view(id: MessageId, body: &[u8], accepted_at: u64) -> MessageView {
    let body = MessageBody::read(body);
    MessageView { id: id.to_string(), text: body.text, data: body.data, accepted_at }
}

fn json_of(bytes: &[u8]) -> Value {
    let text = without_tokens(&String::from_utf8_lossy(bytes));
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn word_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}
