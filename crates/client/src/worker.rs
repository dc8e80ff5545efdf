//! A worker: offers functions and tasks to the engine, runs what it is given, and lets idle functions leave memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainspring_core::command::Claim;
use mainspring_core::effect::Lineage;
use mainspring_core::place::SLOT;
use mainspring_core::row::JournalRow;
use mainspring_core::workflow::WorkflowDef;
use mainspring_core::{Command, Dispatch, Effect, NewWorker, Refusal, Reply, RunId, TaskId, WorkerId};
use mainspring_engine::EngineError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::client::{Client, ClientError};
use crate::context::Context;
use crate::failure::Failure;
use crate::journal::Journal;

/// A function that only waits is kept in memory for this long before it leaves it, to be replayed when needed.
const IDLE_DEFAULT: Duration = Duration::from_secs(30);
/// A function that will only sleep for longer than it would be kept is kept for this long, in case it does something
/// else beside.
const LONG_SLEEP: Duration = Duration::from_secs(1);
/// So many functions are kept for as long as was said. The more there are beyond that, the sooner those that wait leave:
/// what is kept in memory saves a replay, and must not become what fills it.
const KEPT_AT_EASE: usize = 4_096;
/// Functions and tasks run at once by one worker. They are futures, not threads.
const SLOTS_DEFAULT: u32 = 10_000;

type Ending = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;
type Function = Arc<dyn Fn(Context, Bytes) -> Ending + Send + Sync>;
type Task = Arc<dyn Fn(TaskContext, Bytes) -> Ending + Send + Sync>;

#[derive(Clone)]
enum Handler {
    Function(Function),
    Task(Task),
}

/// What a task is told about itself.
#[derive(Debug, Clone)]
pub struct TaskContext {
    /// A client for the run's tenant.
    pub client: Client,
    /// The run it belongs to.
    pub run: RunId,
    /// The run's key.
    pub key: Option<String>,
    /// The attempt, counted from 1.
    pub attempt: u32,
}

/// A worker being put together.
pub struct Worker {
    client: Client,
    name: String,
    slots: u32,
    idle: Duration,
    definitions: Vec<WorkflowDef>,
    handlers: BTreeMap<String, Handler>,
}

impl Worker {
    /// A worker without functions.
    pub fn new(client: Client, name: &str) -> Self {
        Worker {
            client,
            name: name.to_owned(),
            slots: SLOTS_DEFAULT,
            idle: IDLE_DEFAULT,
            definitions: Vec::new(),
            handlers: BTreeMap::new(),
        }
    }

    /// How many functions and tasks it runs at once.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// How long a function may only wait before it leaves memory.
    #[must_use]
    pub fn idle_after(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Offers a durable function. The definition's task must be durable.
    #[must_use]
    pub fn function<I, O, F, Fut>(mut self, def: WorkflowDef, function: F) -> Self
    where
        I: DeserializeOwned,
        O: Serialize,
        F: Fn(Context, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        let handler = move |context: Context, input: Bytes| -> Ending {
            match decode::<I>(&input) {
                Ok(input) => {
                    let ending = function(context, input);
                    Box::pin(async move { encode(&ending.await?) })
                }
                Err(failure) => Box::pin(async move { Err(failure) }),
            }
        };
        let action = def.tasks[0].action.clone();
        self.handlers.insert(action, Handler::Function(Arc::new(handler)));
        self.definitions.push(def);
        self
    }

    /// Offers a task without a journal: it is run whole at each attempt.
    #[must_use]
    pub fn task<I, O, F, Fut>(mut self, def: WorkflowDef, task: F) -> Self
    where
        I: DeserializeOwned,
        O: Serialize,
        F: Fn(TaskContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        let handler = move |context: TaskContext, input: Bytes| -> Ending {
            match decode::<I>(&input) {
                Ok(input) => {
                    let ending = task(context, input);
                    Box::pin(async move { encode(&ending.await?) })
                }
                Err(failure) => Box::pin(async move { Err(failure) }),
            }
        };
        let action = def.tasks[0].action.clone();
        self.handlers.insert(action, Handler::Task(Arc::new(handler)));
        self.definitions.push(def);
        self
    }

    /// Registers the definitions, announces the worker and begins to work.
    ///
    /// # Errors
    /// [`ClientError::Engine`]; a refusal says what is wrong with a definition.
    pub async fn start(self) -> Result<RunningWorker, ClientError> {
        for def in &self.definitions {
            self.client.register(def.clone()).await?;
        }
        let id = self.client.engine().world().chance().map_err(|cause| ClientError::Random { cause })?;
        let id = WorkerId(id);
        let inbox = self.client.engine().hub().connect_worker(self.client.tenant(), id);
        let (client, (stop, stopped)) = (self.client.clone(), oneshot::channel());
        let announce = Command::RegisterWorker {
            worker: id,
            new: NewWorker {
                name: self.name.clone(),
                actions: self.handlers.keys().cloned().collect(),
                slots: BTreeMap::from([(SLOT.to_owned(), self.slots)]),
                ..NewWorker::default()
            },
            local: true,
            lease_ms: None,
            holds: Vec::new(),
        };
        let (idle, handlers, crowd) = (self.idle, self.handlers, Arc::default());
        let host = Host { client: self.client, id, idle, handlers, live: BTreeMap::new(), crowd };
        let work = tokio::spawn(host.work(inbox, stopped));
        client.submit_patiently(announce).await?;
        Ok(RunningWorker { id, stop: Some(stop), work })
    }
}

/// A worker at work. Dropping it stops it as well, without waiting for that.
pub struct RunningWorker {
    id: WorkerId,
    stop: Option<oneshot::Sender<()>>,
    work: JoinHandle<()>,
}

impl RunningWorker {
    /// The worker's id.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Stops: what it has in hand is given up and tried again by another worker.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.work).await;
    }
}

struct Host {
    client: Client,
    id: WorkerId,
    idle: Duration,
    handlers: BTreeMap<String, Handler>,
    live: BTreeMap<TaskId, Live>,
    /// How many functions and tasks are in memory.
    crowd: Arc<AtomicUsize>,
}

struct Live {
    attempt: u32,
    invocation: u32,
    journal: Option<Arc<Journal>>,
    work: AbortHandle,
    /// Completions and hints that came before the journal was read.
    early: Vec<Effect>,
}

/// What a dispatched task says to its host.
enum Said {
    Ready(TaskId, u32, Arc<Journal>),
    Over(TaskId, u32),
}

impl Host {
    async fn work(mut self, mut inbox: mainspring_engine::WorkerInbox, mut stopped: oneshot::Receiver<()>) {
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        loop {
            tokio::select! {
                biased;
                Some(said) = said.recv() => self.hear(said),
                effect = inbox.recv() => match effect {
                    Some(effect) => self.handle(effect, &say),
                    None => break,
                },
                _ = &mut stopped => break,
            }
        }
        self.client.engine().hub().disconnect_worker(self.client.tenant(), self.id);
        for live in self.live.values() {
            live.work.abort();
        }
        // Also when it was merely dropped: a worker that nobody hears must not be given anything more.
        let _ = self.client.submit_patiently(Command::RemoveWorker { worker: self.id }).await;
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Ready(task, invocation, journal) => {
                if let Some(live) = self.live.get_mut(&task).filter(|live| live.invocation == invocation) {
                    live.journal = Some(journal);
                    for effect in std::mem::take(&mut live.early) {
                        self.pass_on(effect);
                    }
                }
            }
            Said::Over(task, invocation) => {
                if self.live.get(&task).is_some_and(|live| live.invocation == invocation) {
                    self.live.remove(&task);
                    self.crowd.store(self.live.len(), Ordering::Relaxed);
                }
            }
        }
    }

    fn handle(&mut self, effect: Effect, say: &tokio::sync::mpsc::UnboundedSender<Said>) {
        match effect {
            Effect::Dispatch(dispatch) => {
                let Dispatch {
                    task,
                    action,
                    attempt,
                    invocation,
                    input,
                    journal_len,
                    key,
                    messages_waiting,
                    lineage,
                    ..
                } = *dispatch;
                let Some(handler) = self.handlers.get(&action).cloned() else {
                    tracing::error!(%action, "given a task this worker does not offer");
                    return;
                };
                let claim = Claim { worker: Some(self.id), task, attempt, invocation: Some(invocation) };
                let job = Job {
                    client: self.client.clone(),
                    claim,
                    invocation,
                    handler,
                    input,
                    journal_len,
                    key,
                    messages_waiting,
                    lineage,
                    idle: self.idle,
                    crowd: self.crowd.clone(),
                };
                let work = tokio::spawn(job.carry_out(say.clone())).abort_handle();
                let live = Live { attempt, invocation, journal: None, work, early: Vec::new() };
                if let Some(before) = self.live.insert(task, live) {
                    before.work.abort();
                }
                self.crowd.store(self.live.len(), Ordering::Relaxed);
            }
            Effect::CancelAttempt { task, attempt, .. } => {
                if let Some(live) = self.live.get(&task).filter(|live| live.attempt == attempt) {
                    live.work.abort();
                    self.live.remove(&task);
                }
            }
            effect @ (Effect::EntryDone { .. } | Effect::MessageWaits { .. }) => self.pass_on(effect),
            Effect::Judge { .. }
            | Effect::TaskChanged { .. }
            | Effect::Event { .. }
            | Effect::RunEnded { .. }
            | Effect::StreamStirred { .. }
            | Effect::TokenRevoked { .. } => {}
        }
    }

    fn pass_on(&mut self, effect: Effect) {
        let (Effect::EntryDone { task, .. } | Effect::MessageWaits { task, .. }) = &effect else { return };
        let Some(live) = self.live.get_mut(task) else { return };
        match (&live.journal, effect) {
            (None, effect) => live.early.push(effect),
            (Some(journal), Effect::EntryDone { invocation, position, completion, .. }) => {
                if invocation == live.invocation {
                    journal.completed(position, completion);
                }
            }
            (Some(journal), Effect::MessageWaits { seq, .. }) => journal.message_came(seq),
            (Some(_), _) => {}
        }
    }
}

/// One hand-over of a task to this worker.
struct Job {
    client: Client,
    claim: Claim,
    invocation: u32,
    handler: Handler,
    input: Option<mainspring_core::row::PayloadRef>,
    journal_len: u32,
    key: Option<String>,
    messages_waiting: Option<u64>,
    lineage: Lineage,
    idle: Duration,
    crowd: Arc<AtomicUsize>,
}

impl Job {
    async fn carry_out(self, say: tokio::sync::mpsc::UnboundedSender<Said>) {
        let (claim, invocation) = (self.claim, self.invocation);
        let outcome = self.outcome(&say).await;
        let command = match outcome {
            Outcome::Ended(Ok(output)) => Some(Command::Complete { claim, output }),
            Outcome::Ended(Err(failure)) => end_of(claim, failure),
            Outcome::Suspended => None,
        };
        if let Some(command) = command {
            self.report(command).await;
        }
        let _ = say.send(Said::Over(claim.task, invocation));
    }

    /// Reports the end of the attempt. An end that is refused for what it says (an output that is too large, say) is an
    /// error of the function, and must not leave the task with nobody at work.
    async fn report(&self, command: Command) {
        let (task, claim) = (self.claim.task, self.claim);
        match self.client.submit_patiently(command).await {
            Ok(_) => {}
            Err(EngineError::Refused(Refusal::StaleClaim { .. })) => {
                tracing::debug!(%task, "the attempt was given up before it ended");
            }
            Err(EngineError::Refused(refusal)) => {
                let error = format!("what it ended with was refused: {refusal}");
                tracing::warn!(%task, %error, "the attempt fails");
                if let Err(error) =
                    self.client.submit_patiently(Command::Fail { claim, error, retry: false, after_ms: None }).await
                {
                    tracing::warn!(%task, %error, "the end of an attempt was not taken");
                }
            }
            Err(error) => tracing::debug!(%task, %error, "the end of an attempt was not taken"),
        }
    }

    async fn outcome(&self, say: &tokio::sync::mpsc::UnboundedSender<Said>) -> Outcome {
        let input = match self.input {
            Some(input) => match self.client.payload(input).await {
                Ok(input) => input,
                Err(error) => return Outcome::Ended(Err(unread(error))),
            },
            None => Bytes::from_static(b"null"),
        };
        match &self.handler {
            Handler::Task(task) => {
                let context = TaskContext {
                    client: self.client.clone(),
                    run: self.claim.task.run,
                    key: self.key.clone(),
                    attempt: self.claim.attempt,
                };
                let task = task.clone();
                Outcome::Ended(guarded(Box::pin(async move { task(context, input).await })).await)
            }
            Handler::Function(function) => {
                let replay = match self.read_journal().await {
                    Ok(replay) => replay,
                    Err(failure) => return Outcome::Ended(Err(failure)),
                };
                let journal = Arc::new(Journal::new(self.client.clone(), self.claim, replay, self.messages_waiting));
                let _ = say.send(Said::Ready(self.claim.task, self.invocation, journal.clone()));
                let context = Context::new(journal.clone(), self.key.clone(), self.lineage);
                // Called inside, so that also what it does before its first await can't take the job with it.
                let (function, noted) = (function.clone(), journal.clone());
                let ending = async move {
                    let undoing = context.clone();
                    let ended = match function(context, input).await {
                        Ok(output) => Ok(output),
                        Err(failure) => Err(undoing.unwind(failure).await),
                    };
                    match noted.broken() {
                        Some(_) => ended,
                        // What was noted comes before the end, whatever that is.
                        None => noted.flush().await.and(ended),
                    }
                };
                self.drive(guarded(Box::pin(ending)), &journal).await
            }
        }
    }

    async fn read_journal(&self) -> Result<Vec<JournalRow>, Failure> {
        if self.journal_len == 0 {
            return Ok(Vec::new());
        }
        let task = self.claim.task;
        let rows = self.client.journal(task).await.map_err(unread)?;
        // Entries beyond what the dispatch promised belong to a later hand-over, which makes this one stale.
        let whole = rows.iter().take(self.journal_len as usize).enumerate().all(|(nth, (at, _))| *at == nth as u32);
        if !whole || rows.len() < self.journal_len as usize {
            let error = format!("the journal of task {task} has {} of {} entries", rows.len(), self.journal_len);
            return Err(Failure::Retryable(error));
        }
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// How long the function may only wait from now on.
    fn patience(&self, journal: &Journal) -> Duration {
        let idle = if journal.sleeps_longer_than(self.idle) { self.idle.min(LONG_SLEEP) } else { self.idle };
        let crowd = self.crowd.load(Ordering::Relaxed).max(KEPT_AT_EASE);
        idle.mul_f64(KEPT_AT_EASE as f64 / crowd as f64)
    }

    /// Runs the function until it ends, or until it has only waited for so long that it may leave memory.
    async fn drive(&self, function: impl Future<Output = Result<Bytes, Failure>>, journal: &Journal) -> Outcome {
        let mut function = std::pin::pin!(function);
        loop {
            tokio::select! {
                biased;
                ended = &mut function => {
                    return Outcome::Ended(journal.broken().map_or(ended, Err));
                }
                () = journal.moved.notified() => {}
                () = tokio::time::sleep(self.patience(journal)) => {
                    let Some(waiting) = journal.idle_on() else { continue };
                    let suspend = Command::Suspend { claim: self.claim, waiting };
                    match self.client.submit_patiently(suspend).await {
                        Ok(Reply::Suspended) => return Outcome::Suspended,
                        Ok(_) => {}
                        Err(error) => return Outcome::Ended(Err(journal.refused(error))),
                    }
                }
            }
        }
    }
}

enum Outcome {
    Ended(Result<Bytes, Failure>),
    Suspended,
}

fn end_of(claim: Claim, failure: Failure) -> Option<Command> {
    let error = failure.to_string();
    match failure {
        Failure::Retryable(_) | Failure::Child { .. } => {
            Some(Command::Fail { claim, error, retry: true, after_ms: None })
        }
        // A run that was asked to end and fails ends cancelled.
        Failure::Final(_) | Failure::Cancelled(_) | Failure::Json { .. } => {
            Some(Command::Fail { claim, error, retry: false, after_ms: None })
        }
        Failure::Supersede(reason) => Some(Command::Supersede { claim, reason }),
        Failure::Mismatch { .. } => Some(Command::Park { claim, error }),
        Failure::GivenUp(_) => None,
    }
}

/// What a task needs could not be read. While that may pass it is tried again, so here either the process is ending,
/// which gives the attempt up, or what is needed is not there, which fails it.
fn unread(error: EngineError) -> Failure {
    match error {
        EngineError::Missing { .. } => Failure::Retryable(error.to_string()),
        EngineError::Refused(_)
        | EngineError::Busy { .. }
        | EngineError::Stopped { .. }
        | EngineError::ShuttingDown
        | EngineError::Unreadable { .. } => Failure::GivenUp(error.to_string()),
    }
}

/// A panic fails the attempt, not the worker.
async fn guarded(ending: Ending) -> Result<Bytes, Failure> {
    // Whatever the handler shared with others is its own business; here the future is dropped after a panic.
    match CatchUnwind(AssertUnwindSafe(ending)).await {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            Err(Failure::Retryable(format!("panicked: {text}")))
        }
    }
}

struct CatchUnwind(AssertUnwindSafe<Ending>);

impl Future for CatchUnwind {
    type Output = std::thread::Result<Result<Bytes, Failure>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let ending = &mut self.0.0;
        match std::panic::catch_unwind(AssertUnwindSafe(|| ending.as_mut().poll(cx))) {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(result)) => std::task::Poll::Ready(Ok(result)),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::Json { what: "the input".to_owned(), cause: error.to_string() })
}

fn encode(value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Failure::Json { what: "the output".to_owned(), cause: error.to_string() })
}
