//! Typed calls to an engine on behalf of one tenant.

use std::time::Duration;

use bytes::Bytes;
use mainspring_core::command::{Idempotency, Record};
use mainspring_core::id::fingerprint;
use mainspring_core::row::{ChildOf, DocumentRow, EventRow, JournalRow, PayloadRef, RunRow, RunState, TaskRow};
use mainspring_core::workflow::WorkflowDef;
use mainspring_core::{
    Admission, Command, DocumentKey, Fence, Guard, MessageId, PutDocument, Refusal, Reply, RunId, Start, TaskId,
    TenantId,
};
use mainspring_engine::{Engine, EngineError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A call that was not answered as hoped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The engine refused, is busy, or stopped. The text says what to do.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A value is not the JSON that was expected.
    #[error("{what} is not the JSON that was expected: {cause}")]
    Json {
        /// Which value.
        what: &'static str,
        /// What serde said.
        cause: String,
    },
    /// The system gave no randomness for an id.
    #[error("the system gave no randomness: {cause}")]
    Random {
        /// What it said.
        cause: String,
    },
    /// The run that was waited for did not complete.
    #[error("run {run} ended {state}: {error}")]
    NotCompleted {
        /// The run.
        run: RunId,
        /// How it ended.
        state: &'static str,
        /// Why.
        error: String,
    },
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        ClientError::Engine(EngineError::Refused(refusal))
    }
}

/// What to start a run with, beside its input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// What serialises it, if the workflow has a key rule.
    pub key: Option<String>,
    /// Higher goes first.
    pub priority: Option<u8>,
    /// The same key again within ten minutes gives the same run.
    pub idempotency_key: Option<String>,
}

/// What to send a message with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// The same key again within ten minutes gives the same message.
    pub idempotency_key: Option<String>,
    /// What is asked of limits, and the sender's own id for the message.
    pub admission: Admission,
}

/// A message accepted. Durable when you hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The message.
    pub message: MessageId,
    /// The run it is offered to.
    pub run: RunId,
    /// Whether an earlier delivery of the same request was accepted before.
    pub duplicate: bool,
    /// The log position from which a read shows it.
    pub position: u64,
}

/// One tenant's view of an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    engine: Engine,
    tenant: TenantId,
}

impl Client {
    /// A client for one tenant.
    pub fn new(engine: Engine, tenant: TenantId) -> Self {
        Client { engine, tenant }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Has a command decided, trying again while the engine is busy or can't read what it needs to decide. For workers,
    /// which must not drop what they have done; requests from outside are better answered at once.
    ///
    /// # Errors
    /// Any [`EngineError`] but `Busy` and `Unreadable`.
    pub async fn submit_patiently(&self, command: Command) -> Result<Reply, EngineError> {
        patiently(|| async { Ok(self.engine.submit(self.tenant, command.clone()).await?.0) }).await
    }

    /// A payload, trying again while it can't be read. For workers: giving up would leave a task with nobody at work.
    ///
    /// # Errors
    /// Any [`EngineError`] but `Busy` and `Unreadable`.
    pub async fn payload(&self, payload: PayloadRef) -> Result<Bytes, EngineError> {
        patiently(|| self.engine.payload(self.tenant, payload)).await
    }

    /// A task's journal, trying again while it can't be read.
    ///
    /// # Errors
    /// Any [`EngineError`] but `Busy` and `Unreadable`.
    pub(crate) async fn journal(&self, task: TaskId) -> Result<Vec<(u32, JournalRow)>, EngineError> {
        let tenant = self.tenant;
        patiently(|| self.engine.read(tenant, move |reader| reader.journal(tenant, task))).await
    }

    /// Registers a workflow definition. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError::Engine`]; a refusal says what is wrong with the definition.
    pub async fn register(&self, def: WorkflowDef) -> Result<(), ClientError> {
        self.submit_patiently(Command::PutWorkflow { def }).await?;
        Ok(())
    }

    /// Starts a run. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(&self, workflow: &str, input: &impl Serialize) -> Result<RunId, ClientError> {
        self.start_with(workflow, input, StartOptions::default()).await
    }

    /// Starts a run with options. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_with(
        &self,
        workflow: &str,
        input: &impl Serialize,
        options: StartOptions,
    ) -> Result<RunId, ClientError> {
        let command = Command::StartRun { start: start_of(workflow, input, options)? };
        match self.engine.submit(self.tenant, command).await? {
            (Reply::Started { run, .. }, _) => Ok(run),
            (other, _) => unreachable!("a start is answered with the run, not {other:?}"),
        }
    }

    /// Starts a run with options, and waits for its end for so long. The run is durable when this returns; without a row
    /// it had not ended by then.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_and_wait(
        &self,
        workflow: &str,
        input: &impl Serialize,
        options: StartOptions,
        patience: Duration,
    ) -> Result<(RunId, Option<RunRow>), ClientError> {
        let start = start_of(workflow, input, options)?;
        Ok(self.engine.start_and_wait(self.tenant, start, patience).await?)
    }

    /// The runs of a workflow with a key rule that have not ended, for one key, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn live_runs(&self, workflow: &str, key: &str) -> Result<Vec<RunId>, ClientError> {
        let look = Command::LookAtKey { workflow: workflow.to_owned(), key: key.to_owned() };
        match self.engine.submit(self.tenant, look).await? {
            (Reply::OfKey(runs), _) => Ok(runs),
            (other, _) => unreachable!("a look at a key is answered with its runs, not {other:?}"),
        }
    }

    /// Waits for a run to complete and gives its output.
    ///
    /// # Errors
    /// [`ClientError::NotCompleted`] if it ended otherwise.
    pub async fn wait<T: DeserializeOwned>(&self, run: RunId) -> Result<T, ClientError> {
        let row = patiently(|| self.engine.wait_run(self.tenant, run)).await?;
        if row.state != RunState::Completed {
            let error = row.error.unwrap_or_else(|| "no reason was recorded".to_owned());
            return Err(ClientError::NotCompleted { run, state: row.state.word(), error });
        }
        let bytes = match row.output {
            Some(output) => self.payload(output).await?,
            None => Bytes::from_static(b"null"),
        };
        from_json("the run's output", &bytes)
    }

    /// A run, live or ended. `None` if there is none of this id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn run(&self, run: RunId) -> Result<Option<RunRow>, ClientError> {
        let tenant = self.tenant;
        Ok(patiently(|| self.engine.run(tenant, run)).await?)
    }

    /// A task as it stands: with what it waits for. `None` if there is none, or its run is removed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn task(&self, task: TaskId) -> Result<Option<TaskRow>, ClientError> {
        let tenant = self.tenant;
        Ok(patiently(|| self.engine.task(tenant, task)).await?)
    }

    /// Sends a message to the inbox of (workflow, key). Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send(
        &self,
        workflow: &str,
        key: &str,
        message: &impl Serialize,
        options: SendOptions,
    ) -> Result<Accepted, ClientError> {
        let payload = to_json("the message", message)?;
        let body = fingerprint([payload.as_ref()]);
        // With the lengths, so that no two of these can be spelt the same.
        let prefix = format!("message:{}:{}:{workflow}:{key}", workflow.len(), key.len());
        let idempotency = options.idempotency_key.map(|name| Idempotency { key: format!("{prefix}:{name}"), body });
        let command = Command::SendMessage {
            workflow: workflow.to_owned(),
            key: key.to_owned(),
            payload,
            idempotency,
            admission: Box::new(options.admission),
        };
        match self.engine.submit(self.tenant, command).await? {
            (Reply::Accepted { message, run, duplicate }, position) => {
                Ok(Accepted { message, run, duplicate, position })
            }
            (other, _) => unreachable!("a message is answered with its acceptance, not {other:?}"),
        }
    }

    /// A document, unless it has expired.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn document(&self, key: DocumentKey) -> Result<Option<DocumentRow>, ClientError> {
        let (tenant, now) = (self.tenant, self.engine.world().now_ms());
        let row = patiently(|| self.engine.document(tenant, &key));
        Ok(row.await?.filter(|row| !row.expired(now)))
    }

    /// The documents of a kind whose names begin with `prefix`: a few that belong together.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn documents(&self, kind: &str, prefix: &str) -> Result<Vec<(DocumentKey, DocumentRow)>, ClientError> {
        let (tenant, now) = (self.tenant, self.engine.world().now_ms());
        let rows = patiently(|| {
            let (kind, prefix) = (kind.to_owned(), prefix.to_owned());
            self.engine.read(tenant, move |reader| reader.documents(tenant, &kind, &prefix))
        });
        Ok(rows.await?.into_iter().filter(|(_, row)| !row.expired(now)).collect())
    }

    /// Up to `limit` documents of a kind whose names begin with `prefix`, after the name `after`. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn documents_after(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(DocumentKey, DocumentRow)>, ClientError> {
        let (tenant, now) = (self.tenant, self.engine.world().now_ms());
        let (kind, prefix, after) = (kind.to_owned(), prefix.to_owned(), after.map(str::to_owned));
        let read = move |reader: &mainspring_engine::Reader| {
            reader.documents_after(tenant, &kind, &prefix, after.as_deref(), limit)
        };
        let rows = self.engine.read(tenant, read).await?;
        Ok(rows.into_iter().filter(|(_, row)| !row.expired(now)).collect())
    }

    /// Several kinds of documents at once, each as [`Client::documents`] gives them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn documents_of<const N: usize>(
        &self,
        wanted: [(&'static str, String); N],
    ) -> Result<[Vec<(DocumentKey, DocumentRow)>; N], ClientError> {
        let (tenant, now) = (self.tenant, self.engine.world().now_ms());
        let rows = patiently(|| {
            let wanted = wanted.clone();
            self.engine.read(tenant, move |reader| {
                let mut found = [const { Vec::new() }; N];
                for (place, (kind, prefix)) in wanted.iter().enumerate() {
                    found[place] = reader.documents(tenant, kind, prefix)?;
                }
                Ok(found)
            })
        });
        Ok(rows.await?.map(|rows| rows.into_iter().filter(|(_, row)| !row.expired(now)).collect()))
    }

    /// The versions of a document that are kept, newest first. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revisions(&self, key: DocumentKey, limit: usize) -> Result<Vec<DocumentRow>, ClientError> {
        let tenant = self.tenant;
        Ok(self.engine.read(tenant, move |reader| reader.revisions(tenant, &key, limit)).await?)
    }

    /// Tells an event on behalf of the holder of a fence. Durable when it returns; answers the event's sequence number.
    ///
    /// # Errors
    /// [`ClientError::Engine`] with a refusal if the fence has fallen.
    pub async fn emit_fenced(
        &self,
        name: &str,
        scope: &str,
        data: &impl Serialize,
        fence: Fence,
    ) -> Result<u64, ClientError> {
        let data = to_json("the event's data", data)?;
        let (name, scope, fence) = (name.to_owned(), Some(scope.to_owned()), Some(fence));
        let command = Command::EmitEvent { name, scope, data, metadata: None, priority: None, fence };
        match self.submit_patiently(command).await? {
            Reply::Emitted { seq, .. } => Ok(seq),
            other => unreachable!("an event is answered with its number, not {other:?}"),
        }
    }

    /// Writes a document, and tells an event (name, scope, data) with it. Durable when it returns; answers the version.
    ///
    /// # Errors
    /// [`ClientError::Engine`]: a version conflict, a message that waits, or a fence that has fallen are refusals.
    pub async fn put_document(
        &self,
        put: PutDocument,
        fence: Option<Fence>,
        guard: Guard,
        event: Option<(String, Option<String>, Bytes)>,
    ) -> Result<u64, ClientError> {
        match self.submit_patiently(Command::PutDocument { put, fence, guard, event }).await? {
            Reply::Written { version } => Ok(version),
            other => unreachable!("a document is answered with its version, not {other:?}"),
        }
    }

    /// Starts a run together with a document that names it, or neither. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError::Engine`]: a version conflict, a limit that is short, and a fence that has fallen are refusals.
    pub async fn start_recorded(
        &self,
        workflow: &str,
        key: Option<String>,
        input: &impl Serialize,
        record: Record,
    ) -> Result<RunId, ClientError> {
        let input = to_json("the input", input)?;
        let start = Box::new(Start { workflow: workflow.to_owned(), key, input, ..Start::default() });
        match self.submit_patiently(Command::StartRecorded { start, record: Box::new(record) }).await? {
            Reply::Started { run, .. } => Ok(run),
            other => unreachable!("a start is answered with its run, not {other:?}"),
        }
    }

    /// Starts a run on behalf of a step, under a name: asked for again under the same name it is the same run. It is
    /// given to a worker once if `once` is set. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_child(
        &self,
        workflow: &str,
        input: &impl Serialize,
        of: TaskId,
        name: String,
        once: bool,
    ) -> Result<RunId, ClientError> {
        let input = to_json("the input", input)?;
        let child_of = Some(ChildOf { task: of, name, nth: None });
        let start = Start { workflow: workflow.to_owned(), input, child_of, once, ..Start::default() };
        match self.submit_patiently(Command::StartRun { start }).await? {
            Reply::Started { run, .. } => Ok(run),
            other => unreachable!("a start is answered with its run, not {other:?}"),
        }
    }

    /// How things stand for the holder of a fence: messages that wait, and whether the turn still takes them.
    ///
    /// # Errors
    /// [`ClientError::Engine`] with a refusal if the fence has fallen.
    pub async fn standing(&self, fence: Fence) -> Result<(u64, bool), ClientError> {
        self.ask_standing(Command::LookAtFence { fence }).await
    }

    /// Closes the inbox of the run a fence belongs to: what is done now can't be taken back. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError::Engine`] with a refusal if the fence has fallen.
    pub async fn pass_commit_point(&self, fence: Fence) -> Result<(u64, bool), ClientError> {
        self.ask_standing(Command::PassCommitPoint { fence }).await
    }

    async fn ask_standing(&self, command: Command) -> Result<(u64, bool), ClientError> {
        match self.submit_patiently(command).await? {
            Reply::Standing { unread, committed } => Ok((unread, committed)),
            other => unreachable!("a fence's standing is answered with it, not {other:?}"),
        }
    }

    /// Tells that something happened. Durable when it returns; answers the event's sequence number.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn emit(&self, name: &str, scope: Option<&str>, data: &impl Serialize) -> Result<u64, ClientError> {
        let data = to_json("the event's data", data)?;
        let (name, scope) = (name.to_owned(), scope.map(str::to_owned));
        let command = Command::EmitEvent { name, scope, data, metadata: None, priority: None, fence: None };
        match self.engine.submit(self.tenant, command).await? {
            (Reply::Emitted { seq, .. }, _) => Ok(seq),
            (other, _) => unreachable!("an event is answered with its number, not {other:?}"),
        }
    }

    /// Tells those who listen to a scope right now. Nothing is recorded: it may be lost.
    pub fn whisper(&self, name: &str, scope: &str, run: Option<RunId>, data: Bytes) {
        let at = self.engine.world().now_ms();
        let event = EventRow { name: name.to_owned(), scope: Some(scope.to_owned()), at, run, data, metadata: None };
        self.engine.hub().whisper(self.tenant, event);
    }

    /// Sends a signal to a run. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn signal(&self, run: RunId, name: &str, payload: &impl Serialize) -> Result<(), ClientError> {
        let payload = to_json("the signal's payload", payload)?;
        self.engine.submit(self.tenant, Command::SignalRun { run, name: name.to_owned(), payload }).await?;
        Ok(())
    }

    /// Cancels a run and its children. Durable when it returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<(), ClientError> {
        self.engine.submit(self.tenant, Command::CancelRun { run, reason: reason.to_owned() }).await?;
        Ok(())
    }
}

fn start_of(workflow: &str, input: &impl Serialize, options: StartOptions) -> Result<Start, ClientError> {
    let input = to_json("the input", input)?;
    let body = fingerprint([workflow.as_bytes(), options.key.as_deref().unwrap_or("").as_bytes(), &input]);
    Ok(Start {
        workflow: workflow.to_owned(),
        key: options.key,
        input,
        priority: options.priority,
        idempotency: options.idempotency_key.map(|key| Idempotency { key: format!("run:{key}"), body }),
        ..Start::default()
    })
}

/// Tries again what the engine can't do at the moment.
async fn patiently<T, F: Future<Output = Result<T, EngineError>>>(
    mut act: impl FnMut() -> F,
) -> Result<T, EngineError> {
    const WAIT_MS_MAX: u64 = 1_000;
    let mut wait_ms = 20;
    loop {
        match act().await {
            Err(EngineError::Busy { retry_after_ms, .. }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(error @ EngineError::Unreadable { .. }) => {
                tracing::warn!(%error, wait_ms, "trying again");
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                wait_ms = (wait_ms * 2).min(WAIT_MS_MAX);
            }
            other => return other,
        }
    }
}

pub(crate) fn to_json(what: &'static str, value: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| ClientError::Json { what, cause: error.to_string() })
}

pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::Json { what, cause: error.to_string() })
}
