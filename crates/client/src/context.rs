//! What a durable function may do: [`Context`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainspring_core::effect::Lineage;
use mainspring_core::journal::{ChildEnd, Commit, Completion, Request, Wait};
use mainspring_core::rate::RateUse;
use mainspring_core::row::{OnParentEnd, RunState};
use mainspring_core::{Command, Fence, MessageId, Reply, RunId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::client::Client;
use crate::failure::Failure;
use crate::journal::{Begun, Journal, Replayed};
use crate::saga::Undo;

/// A durable function's way to the world. Cheap to clone.
///
/// Each entry is durable when its call returns, except for those that say they are recorded *with the next*: these are
/// durable when the next entry is, before a step of [`Context::run`] begins, and before the function's end is recorded.
/// All that goes together is recorded whole or not at all.
#[derive(Clone)]
pub struct Context {
    journal: Arc<Journal>,
    key: Option<String>,
    lineage: Lineage,
    undo: Arc<Undo>,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Everything was done.
    Done,
    /// Nothing was done: a message waits, and the inbox is open.
    MessageWaits,
    /// Nothing was done: a document is not what it was taken to be, and this says which.
    Conflict(String),
}

/// A message taken from the inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// What it says, as it was sent.
    pub payload: Bytes,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_at: u64,
}

/// What a receive gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// Messages, in order, at least one.
    Messages(Vec<Message>),
    /// None came in time.
    TimedOut,
    /// This run takes no more messages.
    Closed,
}

/// When a step that failed is tried again. Each failure and each wait is on record, so a crash does not start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries in all, at least 1.
    pub attempts_max: u32,
    /// Wait before the second try. It doubles each time.
    pub backoff: Duration,
    /// The wait never grows beyond this.
    pub backoff_max: Duration,
}

/// The intent of a step, which is on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    /// Whether an earlier process had begun it and left no outcome.
    pub again: bool,
    /// The place of the intent. It is the same in every replay.
    pub fence: Fence,
}

/// How a child run is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnOptions {
    /// What serialises it, if its workflow has a key rule.
    pub key: Option<String>,
    /// Higher goes first.
    pub priority: Option<u8>,
    /// What happens to it if this run ends first.
    pub on_parent_end: OnParentEnd,
}

impl Default for SpawnOptions {
    fn default() -> Self {
        SpawnOptions { key: None, priority: None, on_parent_end: OnParentEnd::Cancel }
    }
}

/// A child run that was started. Wait for it with [`Call::result`].
pub struct Call {
    journal: Arc<Journal>,
    begun: Begun,
}

impl Context {
    pub(crate) fn new(journal: Arc<Journal>, key: Option<String>, lineage: Lineage) -> Self {
        Context { journal, key, lineage, undo: Arc::default() }
    }

    pub(crate) fn undo(&self) -> &Undo {
        &self.undo
    }

    /// The run this function executes.
    pub fn run_id(&self) -> RunId {
        self.journal.claim.task.run
    }

    /// The attempt, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.journal.claim.attempt
    }

    /// Whether no other process, and no earlier attempt, has executed any of this function.
    pub fn is_first_execution(&self) -> bool {
        let claim = self.journal.claim;
        claim.attempt == 1 && claim.invocation == Some(1)
    }

    /// The superseded runs this one follows.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// The run's key.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// A client for the run's tenant, for use inside steps.
    pub fn client(&self) -> &Client {
        &self.journal.client
    }

    /// Carries out a step and records its result. A recorded step is never carried out again; one that was interrupted
    /// by a crash before its result was recorded is, so a step with an outside effect should pass an idempotency key
    /// derived from [`Context::run_id`] and its name. A failed step's error is recorded as well.
    ///
    /// # Errors
    /// The step's own error as [`Failure::Retryable`]; other variants end the function: pass them on.
    pub async fn run<T, F, Fut>(&self, name: &str, step: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        // The identity of a step is its name; what it gave is not known before it ran.
        let asked = Request::Run { name: name.to_owned(), result: Ok(Bytes::new()), took_ms: 0 };
        let completion = match self.journal.replayed(&asked)? {
            Some(Replayed::Done(completion)) => completion,
            Some(Replayed::Pending(wait)) => self.journal.finish_wait(wait).await?,
            None => {
                // What the step does may be seen outside, and so must come after all that was noted.
                self.journal.flush().await?;
                let (result, took_ms) = self.carry_out(name, step).await?;
                self.journal.record(Request::Run { name: name.to_owned(), result, took_ms }).await?
            }
        };
        self.outcome(name, completion).await
    }

    /// Like [`Context::run`], for a step that only reads and reckons, or that may be carried out twice anyway: its result is
    /// recorded together with the next entry that is waited for, so it costs no durable write of its own. Until then a crash
    /// makes the step be carried out again, perhaps with another result. What was noted before it may not be durable yet
    /// while it runs.
    ///
    /// # Errors
    /// As [`Context::run`].
    pub async fn note<T, F, Fut>(&self, name: &str, step: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let asked = Request::Run { name: name.to_owned(), result: Ok(Bytes::new()), took_ms: 0 };
        match self.journal.replayed(&asked)? {
            Some(Replayed::Done(completion)) => return self.outcome(name, completion).await,
            Some(Replayed::Pending(wait)) => return self.outcome(name, self.journal.finish_wait(wait).await?).await,
            None => {}
        }
        let (result, took_ms) = self.carry_out(name, step).await?;
        self.journal.note(Request::Run { name: name.to_owned(), result: result.clone(), took_ms }).await?;
        match result {
            // Read back, so that it is what a replay will give.
            Ok(value) => from_json(name, &value),
            Err(error) => Err(Failure::Retryable(error)),
        }
    }

    /// What a recorded step gave.
    async fn outcome<T: DeserializeOwned>(&self, name: &str, completion: Completion) -> Result<T, Failure> {
        match completion {
            Completion::Failed(error) => Err(Failure::Retryable(error)),
            other => self.value(name, other).await,
        }
    }

    /// Carries a step out: its result as it is recorded, and how long it took.
    async fn carry_out<T, F, Fut>(&self, name: &str, step: F) -> Result<(Result<Bytes, String>, u64), Failure>
    where
        T: Serialize,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let began = Instant::now();
        let result = {
            let _busy = self.journal.begin_step();
            step().await
        };
        let result = match result {
            Ok(value) => Ok(to_json(name, &value)?),
            Err(Failure::Retryable(error) | Failure::Final(error)) => Err(error),
            // A failure of the function rather than of the step: not a result to record.
            Err(other) => return Err(other),
        };
        Ok((result, millis(began.elapsed())))
    }

    /// Like [`Context::run`], for a step that somebody outside works on: the step gets the fence with which they act, as
    /// [`Client::put_document`] takes it. It is theirs until the result is recorded, the step is interrupted, or it
    /// begins again after a crash; then the fence is another, and whatever a former holder asks for is refused.
    ///
    /// # Errors
    /// As [`Context::run`].
    pub async fn run_fenced<T, F, Fut>(&self, name: &str, step: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Fence) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let begin = Request::Begin { name: name.to_owned(), guarded: false };
        let asked = Request::Run { name: name.to_owned(), result: Ok(Bytes::new()), took_ms: 0 };
        let mut begun = false;
        // One for each time a process ended in the middle of the step.
        while self.journal.next_replayed_is(&begin) {
            self.journal.replayed(&begin)?;
            begun = true;
        }
        if begun && self.journal.next_replayed_is(&asked) {
            return self.run(name, || async { unreachable!("its result is on record") }).await;
        }
        let fence = Fence { task: self.journal.claim.task, position: self.journal.position() };
        self.journal.entry(begin).await?;
        self.run(name, || step(fence)).await
    }

    /// Like [`Context::run`], for a step whose intent is on record before anything leaves. The step is told whether this is
    /// the second time: an earlier process ended between intent and outcome, so that it may have been carried out
    /// already. Then it is not begun again by itself; what it answers is recorded as the outcome, together with the next
    /// entry that is waited for, as [`Context::note`] does.
    ///
    /// If `guarded`, the run has something to undo from here on: cancelling it asks it to end, and a step like this is
    /// not begun any more.
    ///
    /// # Errors
    /// [`Failure::Cancelled`] if the run was asked to end; otherwise as [`Context::run`].
    pub async fn act<T, F, Fut>(&self, name: &str, guarded: bool, step: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Intent) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let begin = Request::Begin { name: name.to_owned(), guarded };
        let fence = Fence { task: self.journal.claim.task, position: self.journal.position() };
        let again = self.journal.next_replayed_is(&begin);
        self.journal.entry(begin).await?;
        // The intent is durable. A crash before the outcome is leaves it in doubt, whenever that is recorded.
        self.note(name, || step(Intent { again, fence })).await
    }

    /// Begins a step that somebody outside works on, as [`Context::run_fenced`] does, where other entries have to be made
    /// before [`Context::run`] of the same name waits for its result. It is on record with the next of them, and whoever
    /// shows the fence before is refused. The fence is kept over a restart.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn begin(&self, name: &str) -> Result<Fence, Failure> {
        let fence = Fence { task: self.journal.claim.task, position: self.journal.position() };
        self.journal.entry_noted(Request::Begin { name: name.to_owned(), guarded: false }).await?;
        Ok(fence)
    }

    /// The place of the next journal entry. It is the same in every replay.
    pub fn position(&self) -> u32 {
        self.journal.position()
    }

    /// Takes their fence from whoever works on behalf of the present step, for use *inside* it: from now on they can do
    /// nothing more. False if what they did can't be taken back any more (the inbox is closed): then nothing changes.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn interrupt(&self) -> Result<bool, Failure> {
        self.journal.flush().await?;
        let command = Command::Interrupt { claim: self.journal.claim };
        match self.journal.client.submit_patiently(command).await {
            Ok(Reply::Interrupted(interrupted)) => Ok(interrupted),
            Ok(other) => unreachable!("an interruption is answered with whether it was one, not {other:?}"),
            Err(error) => Err(self.journal.refused(error)),
        }
    }

    /// Closes the inbox, writes documents, starts runs, sends messages and tells events: in one decision, or none of it.
    ///
    /// # Errors
    /// [`Failure::Final`] if something in it is refused for what it is; other variants end the function.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, Failure> {
        match self.journal.entry(Request::Commit { commit: Box::new(commit) }).await? {
            Completion::Bool(true) => Ok(Committed::Done),
            Completion::Bool(false) => Ok(Committed::MessageWaits),
            Completion::Failed(conflict) => Ok(Committed::Conflict(conflict)),
            other => unreachable!("a commit completes as done or not, not {other:?}"),
        }
    }

    /// Like [`Context::run`], tried again by policy. Tries and waits are on record.
    ///
    /// # Errors
    /// The last try's error as [`Failure::Final`].
    pub async fn run_retrying<T, F, Fut>(&self, name: &str, policy: RetryPolicy, mut step: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut wait = policy.backoff;
        for attempt in 1.. {
            match self.run(name, || step(attempt)).await {
                Err(Failure::Retryable(error)) if attempt >= policy.attempts_max => {
                    return Err(Failure::Final(format!("{name} failed {attempt} time(s), last: {error}")));
                }
                Err(Failure::Retryable(_)) => {
                    self.sleep(wait).await?;
                    wait = (wait * 2).min(policy.backoff_max);
                }
                other => return other,
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Waits for a while. The time counts from the first time this was asked, not from a restart.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        self.journal.entry(Request::Sleep { duration_ms: millis(duration) }).await.map(|_| ())
    }

    /// Takes from a rate limit, waiting for its next window as long as it is short, or until a time (milliseconds since the
    /// Unix epoch): then it answers false. Of several that wait, any may be first.
    ///
    /// # Errors
    /// [`Failure::Final`] if the limit never has that much, or the tenant has too many limits; other variants end the
    /// function.
    pub async fn take(&self, from: RateUse, until: Option<u64>) -> Result<bool, Failure> {
        loop {
            match self.journal.entry(Request::Take { from: from.clone(), until }).await? {
                Completion::Bool(taken) => return Ok(taken),
                Completion::Failed(error) => return Err(Failure::Final(error)),
                // The window is over.
                _ => {}
            }
        }
    }

    /// Takes up to `messages_max` messages from the inbox, waiting up to `timeout` for the first.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn receive(&self, timeout: Option<Duration>, messages_max: u32) -> Result<Received, Failure> {
        self.receive_with(timeout, messages_max, false).await
    }

    /// Like [`Context::receive`]; if nothing comes in time the inbox closes for this run in the same decision, and
    /// whatever comes later goes to the next run.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn receive_or_close(&self, timeout: Option<Duration>, messages_max: u32) -> Result<Received, Failure> {
        self.receive_with(timeout, messages_max, true).await
    }

    /// Takes up to `messages_max` messages from the inbox, waiting for the first until a time (milliseconds since the
    /// Unix epoch). If `close`, the inbox closes in the same decision in which that time is over.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn receive_until(&self, at_ms: u64, messages_max: u32, close: bool) -> Result<Received, Failure> {
        self.receive_waiting(Wait::Until(at_ms), messages_max, close).await
    }

    async fn receive_with(&self, timeout: Option<Duration>, max: u32, close: bool) -> Result<Received, Failure> {
        let wait = timeout.map_or(Wait::Forever, |timeout| Wait::For(millis(timeout)));
        self.receive_waiting(wait, max, close).await
    }

    async fn receive_waiting(&self, wait: Wait, messages_max: u32, close: bool) -> Result<Received, Failure> {
        let request = Request::Receive { wait, messages_max, close_on_timeout: close };
        match self.journal.entry(request).await? {
            Completion::Messages(received) => {
                let mut messages = Vec::with_capacity(received.len());
                for one in received {
                    self.journal.message_received(one.seq);
                    let payload = self.journal.client.payload(one.payload).await;
                    let payload = payload.map_err(|error| self.journal.refused(error))?;
                    messages.push(Message { id: one.id, payload, accepted_at: one.accepted_at });
                }
                Ok(Received::Messages(messages))
            }
            Completion::Closed => Ok(Received::Closed),
            Completion::TimedOut => Ok(Received::TimedOut),
            other => unreachable!("a receive completes as one, not {other:?}"),
        }
    }

    /// Whether a message waits, without taking it. On record; once true it stays true until messages are received.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn has_pending(&self) -> Result<bool, Failure> {
        Ok(self.journal.entry(Request::Peek).await? == Completion::Bool(true))
    }

    /// Completes when a message waits. For use *inside* a step, to stop early; the step's result records that it did.
    pub async fn message_waits(&self) {
        let mut messages = self.journal.messages.subscribe();
        // The sender lives as long as this context.
        let _ = messages.wait_for(|messages| messages.wait()).await;
    }

    /// Declares that this run takes no more messages. Without `force`, unread messages win: the answer is false and the
    /// inbox stays open.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn close_inbox(&self, force: bool) -> Result<bool, Failure> {
        Ok(self.journal.entry(Request::Close { force }).await? == Completion::Bool(true))
    }

    /// Waits for an event by name and, if given, scope. `None` when the time is up.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn wait_for<T: DeserializeOwned>(
        &self,
        event: &str,
        scope: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<Option<T>, Failure> {
        let (name, scope) = (event.to_owned(), scope.map(str::to_owned));
        let request = Request::WaitEvent { name, scope, timeout_ms: timeout.map(millis) };
        self.optional(event, self.journal.entry(request).await?).await
    }

    /// Waits for a signal sent to this run. Signals that came before are not lost. `None` when the time is up.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn wait_signal<T: DeserializeOwned>(
        &self,
        name: &str,
        timeout: Option<Duration>,
    ) -> Result<Option<T>, Failure> {
        let request = Request::WaitSignal { name: name.to_owned(), timeout_ms: timeout.map(millis) };
        self.optional(name, self.journal.entry(request).await?).await
    }

    /// Sends a signal to another run.
    ///
    /// # Errors
    /// [`Failure::Final`] if that run has ended; other variants end the function.
    pub async fn signal(&self, run: RunId, name: &str, payload: &impl Serialize) -> Result<(), Failure> {
        let payload = to_json(name, payload)?;
        match self.journal.entry(Request::Signal { run, name: name.to_owned(), payload }).await? {
            Completion::Failed(error) => Err(Failure::Final(error)),
            _ => Ok(()),
        }
    }

    /// Starts a child run. The child is started exactly once, however often this function is run.
    ///
    /// # Errors
    /// [`Failure::Final`] if there is no such workflow; other variants end the function.
    pub async fn spawn(&self, workflow: &str, input: &impl Serialize, options: SpawnOptions) -> Result<Call, Failure> {
        let request = self.spawn_request(workflow, input, options, false)?;
        let begun = match self.journal.replayed(&request)? {
            Some(Replayed::Done(completion)) => Begun::Done(completion),
            Some(Replayed::Pending(wait)) => Begun::Pending(wait),
            None => self.journal.begin(request).await?,
        };
        Ok(Call { journal: self.journal.clone(), begun })
    }

    /// Starts a child run that is not waited for, and gives its id.
    ///
    /// # Errors
    /// [`Failure::Final`] if there is no such workflow; other variants end the function.
    pub async fn spawn_detached(
        &self,
        workflow: &str,
        input: &impl Serialize,
        options: SpawnOptions,
    ) -> Result<RunId, Failure> {
        let request = self.spawn_request(workflow, input, options, true)?;
        match self.journal.entry(request).await? {
            Completion::Spawned(run) => Ok(run),
            Completion::Failed(error) => Err(Failure::Final(error)),
            other => unreachable!("a detached child completes as started, not {other:?}"),
        }
    }

    fn spawn_request(
        &self,
        workflow: &str,
        input: &impl Serialize,
        options: SpawnOptions,
        detached: bool,
    ) -> Result<Request, Failure> {
        Ok(Request::Spawn {
            workflow: workflow.to_owned(),
            key: options.key,
            input: to_json(workflow, input)?,
            priority: options.priority,
            detached,
            on_parent_end: options.on_parent_end,
        })
    }

    /// Tells that something happened, scoped to this run's key. Emitted exactly once.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn emit(&self, name: &str, data: &impl Serialize) -> Result<(), Failure> {
        let data = to_json(name, data)?;
        self.journal.entry(Request::Emit { name: name.to_owned(), scope: None, data }).await.map(|_| ())
    }

    /// Like [`Context::emit`], recorded and told together with the next entry that is waited for, as [`Context::note`] is.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on. An event that is refused ends the function at that next entry.
    pub async fn emit_with_next(&self, name: &str, data: &impl Serialize) -> Result<(), Failure> {
        let data = to_json(name, data)?;
        self.journal.entry_noted(Request::Emit { name: name.to_owned(), scope: None, data }).await
    }

    /// The same, of a scope of its own choice.
    ///
    /// # Errors
    /// As [`Context::emit_with_next`].
    pub async fn emit_to_with_next(&self, name: &str, scope: &str, data: &impl Serialize) -> Result<(), Failure> {
        let (data, scope) = (to_json(name, data)?, Some(scope.to_owned()));
        self.journal.entry_noted(Request::Emit { name: name.to_owned(), scope, data }).await
    }

    /// Cancels another run.
    ///
    /// # Errors
    /// A [`Failure`] that ends the function: pass it on.
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<(), Failure> {
        self.journal.entry(Request::Cancel { run, reason: reason.to_owned() }).await.map(|_| ())
    }

    async fn optional<T: DeserializeOwned>(&self, what: &str, completion: Completion) -> Result<Option<T>, Failure> {
        match completion {
            Completion::TimedOut => Ok(None),
            other => self.value(what, other).await.map(Some),
        }
    }

    async fn value<T: DeserializeOwned>(&self, what: &str, completion: Completion) -> Result<T, Failure> {
        value(&self.journal, what, completion).await
    }
}

impl Call {
    /// Waits for the child and gives its output.
    ///
    /// # Errors
    /// [`Failure::Child`] if it did not complete; other variants end the function.
    pub async fn result<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let completion = match self.begun {
            Begun::Done(completion) => completion,
            Begun::Pending(wait) => {
                self.journal.flush().await?;
                self.journal.finish_wait(wait).await?
            }
        };
        match completion {
            Completion::Child(ChildEnd { state: RunState::Completed, output: Some(output), .. }) => {
                value(&self.journal, "the child's output", Completion::Value(output)).await
            }
            Completion::Child(ChildEnd { state: RunState::Completed, output: None, .. }) => {
                from_json("nothing", b"null")
            }
            Completion::Child(ChildEnd { run, state, error, .. }) => {
                let error = error.unwrap_or_else(|| "no reason was recorded".to_owned());
                Err(Failure::Child { run, state: state.word(), error })
            }
            Completion::Failed(error) => Err(Failure::Final(error)),
            other => unreachable!("a child's entry completes with its end, not {other:?}"),
        }
    }
}

async fn value<T: DeserializeOwned>(journal: &Journal, what: &str, completion: Completion) -> Result<T, Failure> {
    match completion {
        Completion::Value(reference) => {
            let bytes = journal.client.payload(reference).await;
            from_json(what, &bytes.map_err(|error| journal.refused(error))?)
        }
        other => unreachable!("{what} completes with a value, not {other:?}"),
    }
}

fn to_json(what: &str, value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Failure::Json { what: what.to_owned(), cause: error.to_string() })
}

fn from_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Json { what: what.to_owned(), cause: error.to_string() })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
