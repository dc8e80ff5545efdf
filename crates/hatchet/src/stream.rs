//! A worker's stream: what the core gives it, in the wire's words, in order.
//!
//! The stream is bounded. A worker that does not read has its stream closed: what did not reach it goes elsewhere at
//! once, what may have reached it is given up if the worker does not say otherwise when it comes back, or when its lease
//! is over.

use std::time::Duration;

use bytes::Bytes;
use mainspring_core::command::Claim;
use mainspring_core::row::PayloadRef;
use mainspring_core::{Command, Dispatch, Effect, Held, TenantId, WorkerId};
use mainspring_engine::{EngineError, WorkerInbox};
use prost::Message;
use prost_types::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::details::{self, SKIPPED};
use crate::names;
use crate::payload;
use crate::server::Hatchet;
use crate::wire::root::{ActionType, AssignedAction};

/// Actions on their way between the core's word and the connection.
const BUFFERED: usize = 64;
/// A worker that takes nothing for this long is not working.
const STALLED: Duration = Duration::from_secs(10);
/// Bytes of one action: what clients take in one message, by default, less some for what stands around it.
const ACTION_BYTES_MAX: usize = 4 * 1024 * 1024 - 4 * 1024;

/// What goes out on a worker's stream.
pub(crate) type Outgoing = mpsc::Receiver<Result<AssignedAction, Status>>;

/// Opens a worker's stream: from now on the core may give it tasks. A stream opened before is closed.
///
/// # Errors
/// `NOT_FOUND` for a worker that was never registered.
pub(crate) async fn open(hatchet: &Hatchet, tenant: TenantId, worker: WorkerId) -> Result<Outgoing, Status> {
    let (session, inbox) = hatchet.engine().hub().connect_session(tenant, worker);
    let (out, outgoing) = mpsc::channel(BUFFERED);
    let (opened, answer) = oneshot::channel();
    let stream = Stream { hatchet: hatchet.clone(), tenant, worker, session };
    // A task of its own from the beginning: whoever asked may be gone before the answer, and then the core must not go on
    // taking the worker for connected.
    tokio::spawn(async move {
        let connected = stream.hatchet.submit(tenant, Command::ConnectWorker { worker }).await;
        let refused = connected.is_err();
        let _ = opened.send(connected);
        if refused {
            stream.close(inbox, Vec::new(), Vec::new()).await;
        } else {
            stream.run(inbox, out).await;
        }
    });
    answer.await.map_err(|_| Status::unavailable("the stream could not be opened"))??;
    Ok(outgoing)
}

struct Stream {
    hatchet: Hatchet,
    tenant: TenantId,
    worker: WorkerId,
    session: u64,
}

impl Stream {
    async fn run(&self, mut inbox: WorkerInbox, out: mpsc::Sender<Result<AssignedAction, Status>>) {
        let mut undelivered: Vec<Held> = Vec::new();
        // Words to stop that did not get through; the next stream begins with them.
        let mut unheard: Vec<Effect> = Vec::new();
        loop {
            let effect = tokio::select! {
                effect = inbox.recv() => effect,
                () = out.closed() => None,
            };
            let Some(effect) = effect else { break };
            let held = held_of(&effect);
            let stop = matches!(effect, Effect::CancelAttempt { .. }).then(|| effect.clone());
            let claim = claim_of(&effect);
            let action = match self.action(effect).await {
                Ok(Some(action)) if action.encoded_len() > ACTION_BYTES_MAX => {
                    self.refuse(claim, action.encoded_len()).await;
                    continue;
                }
                Ok(Some(action)) => action,
                Ok(None) => continue,
                Err(error) => {
                    // It stays in the worker's hands in the core's books, so it has to be given back.
                    tracing::warn!(worker = %self.worker, %error, "a task's payload could not be read");
                    undelivered.extend(held);
                    unheard.extend(stop);
                    break;
                }
            };
            match tokio::time::timeout(STALLED, out.send(Ok(action))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    undelivered.extend(held);
                    unheard.extend(stop);
                    break;
                }
                Err(_) => {
                    tracing::warn!(worker = %self.worker, "the worker does not read its stream; it is closed");
                    undelivered.extend(held);
                    unheard.extend(stop);
                    break;
                }
            }
        }
        self.close(inbox, undelivered, unheard).await;
    }

    /// Fails a task that no client could take: its message would end the stream, and again after each new start.
    async fn refuse(&self, claim: Option<Claim>, bytes: usize) {
        let Some(claim) = claim else { return };
        let error = format!(
            "input and parents' outputs together make {bytes} bytes, more than the {ACTION_BYTES_MAX} a worker takes: \
             pass references to what is large"
        );
        let fail = Command::Fail { claim, error, retry: false, after_ms: None };
        if let Err(error) = self.hatchet.engine().submit(self.tenant, fail).await {
            tracing::warn!(task = %claim.task, %error, "a task that is too large could not be failed");
        }
    }

    /// The end: what did not get through goes elsewhere, or waits for the next stream.
    async fn close(&self, mut inbox: WorkerInbox, mut undelivered: Vec<Held>, mut unheard: Vec<Effect>) {
        // A newer stream has taken over, or this one was the last: then the core has to know.
        let last = self.hatchet.engine().hub().disconnect_session(self.tenant, self.worker, self.session);
        while let Ok(effect) = inbox.try_recv() {
            undelivered.extend(held_of(&effect));
            unheard.extend(matches!(effect, Effect::CancelAttempt { .. }).then_some(effect));
        }
        for stop in unheard {
            self.hatchet.engine().hub().tell_to_stop(stop);
        }
        if last {
            let command = Command::DisconnectWorker { worker: self.worker, undelivered };
            if let Err(error) = self.hatchet.engine().submit(self.tenant, command).await {
                tracing::debug!(worker = %self.worker, %error, "the end of a stream was not taken");
            }
        }
    }

    /// The effect in the wire's words; `None` for one that it has none for.
    async fn action(&self, effect: Effect) -> Result<Option<AssignedAction>, EngineError> {
        match effect {
            Effect::Dispatch(dispatch) => self.start(*dispatch).await.map(Some),
            Effect::CancelAttempt { task, attempt, .. } => self.cancel(task, attempt).await,
            Effect::EntryDone { .. }
            | Effect::MessageWaits { .. }
            | Effect::Judge { .. }
            | Effect::TaskChanged { .. }
            | Effect::Event { .. }
            | Effect::RunEnded { .. }
            | Effect::StreamStirred { .. }
            | Effect::TokenRevoked { .. } => Ok(None),
        }
    }

    async fn start(&self, dispatch: Dispatch) -> Result<AssignedAction, EngineError> {
        let payload = self.action_payload(&dispatch).await?;
        let def = &dispatch.def;
        let task_id = names::task_id(dispatch.task, def.tasks.len());
        let name = def.tasks[usize::from(dispatch.task.index)].name.clone();
        let version = dispatch.version.to_string();
        let metadata = details::metadata(dispatch.metadata.as_ref(), dispatch.event.as_ref());
        let (parent, child_key, child_index) = match dispatch.child_of.as_ref().map(names::parent_of) {
            Some((parent, key, index)) => (Some(parent), key, index),
            None => (None, None, None),
        };
        Ok(AssignedAction {
            tenant_id: self.tenant.to_string(),
            workflow_run_id: dispatch.task.run.to_string(),
            job_id: version.clone(),
            job_name: name.clone(),
            job_run_id: task_id.clone(),
            task_id: version.clone(),
            task_run_external_id: task_id,
            action_id: dispatch.action,
            action_type: ActionType::StartStepRun.into(),
            action_payload: payload,
            task_name: name,
            retry_count: dispatch.attempt.saturating_sub(1) as i32,
            additional_metadata: metadata.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            child_workflow_index: child_index,
            child_workflow_key: child_key,
            parent_workflow_run_id: parent,
            priority: i32::from(dispatch.priority),
            workflow_id: Some(names::workflow_id(self.tenant, &def.name)),
            workflow_version_id: Some(version),
            triggering_event_external_id: dispatch.event.as_ref().map(names::event_ref_id),
            triggering_event_key: dispatch.event.as_ref().map(|event| event.name.clone()),
            task_inserted_at: Some(timestamp(dispatch.queued_at)),
            ..AssignedAction::default()
        })
    }

    /// What a task is given to work on.
    async fn action_payload(&self, dispatch: &Dispatch) -> Result<String, EngineError> {
        let def = &dispatch.def;
        let input = match dispatch.input {
            Some(input) => self.raw(input).await?,
            None => empty(),
        };
        let mut parents = std::collections::BTreeMap::new();
        for (index, output) in &dispatch.parents {
            let output = match output {
                Some(output) if output.bytes == 0 => empty(),
                Some(output) => self.raw(*output).await?,
                None => payload::raw(SKIPPED.as_bytes()),
            };
            parents.insert(def.tasks[usize::from(*index)].name.as_str(), output);
        }
        let mut triggers: Map<String, Value> = match dispatch.grounds {
            Some(grounds) => {
                serde_json::from_slice(&self.hatchet.engine().payload(self.tenant, grounds).await?).unwrap_or_default()
            }
            None => Map::new(),
        };
        triggers.insert("filter_payload".to_owned(), json!({}));
        let name = |index: &u16| def.tasks[usize::from(*index)].name.clone();
        let errors: Map<String, Value> =
            dispatch.errors.iter().map(|(index, error)| (name(index), error.clone().into())).collect();
        let payload = ActionPayload {
            input,
            triggered_by: if dispatch.event.is_some() { "event" } else { "manual" },
            parents,
            triggers,
            user_data: None,
            overrides: None,
            step_run_errors: errors,
        };
        serde_json::to_string(&payload).map_err(|error| EngineError::Unreadable { cause: error.to_string() })
    }

    async fn raw(&self, reference: PayloadRef) -> Result<Box<RawValue>, EngineError> {
        let bytes: Bytes = self.hatchet.engine().payload(self.tenant, reference).await?;
        Ok(payload::raw(&bytes))
    }

    /// SDKs look the attempt up by the ids and the retry count of its start, and read nothing else.
    async fn cancel(&self, task: mainspring_core::TaskId, attempt: u32) -> Result<Option<AssignedAction>, EngineError> {
        let tenant = self.tenant;
        let run = self.hatchet.engine().run(tenant, task.run).await?;
        let Some(run) = run else { return Ok(None) };
        let task_id = names::task_id(task, usize::from(run.tasks));
        Ok(Some(AssignedAction {
            tenant_id: tenant.to_string(),
            workflow_run_id: task.run.to_string(),
            job_run_id: task_id.clone(),
            task_run_external_id: task_id,
            action_type: ActionType::CancelStepRun.into(),
            action_payload: "{}".to_owned(),
            retry_count: attempt.saturating_sub(1) as i32,
            ..AssignedAction::default()
        }))
    }
}

#[derive(serde::Serialize)]
struct ActionPayload<'a> {
    input: Box<RawValue>,
    triggered_by: &'static str,
    parents: std::collections::BTreeMap<&'a str, Box<RawValue>>,
    triggers: Map<String, Value>,
    user_data: Option<()>,
    overrides: Option<()>,
    step_run_errors: Map<String, Value>,
}

fn empty() -> Box<RawValue> {
    payload::raw(b"{}")
}

/// The claim on the attempt that is given out.
fn claim_of(effect: &Effect) -> Option<Claim> {
    let Effect::Dispatch(given) = effect else { return None };
    let (worker, invocation) = (Some(given.worker), Some(given.invocation));
    Some(Claim { worker, task: given.task, attempt: given.attempt, invocation })
}

/// What a worker would have in hand, had this reached it.
fn held_of(effect: &Effect) -> Option<Held> {
    match effect {
        Effect::Dispatch(dispatch) => Some(Held { task: dispatch.task, invocation: dispatch.invocation }),
        _ => None,
    }
}

/// Milliseconds since the Unix epoch as the wire has them.
pub(crate) fn timestamp(ms: u64) -> Timestamp {
    Timestamp { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}
