//! A durable function's side of its journal: positions, replay, and waiting for completions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mainspring_core::command::Claim;
use mainspring_core::journal::{Completion, Request, describe};
use mainspring_core::row::JournalRow;
use mainspring_core::{Command, Refusal, Reply};
use mainspring_engine::EngineError;
use tokio::sync::{Notify, oneshot, watch};

use crate::client::Client;
use crate::failure::Failure;

/// Shared between a running function, its contexts, and the worker that drives it.
pub(crate) struct Journal {
    pub(crate) client: Client,
    pub(crate) claim: Claim,
    state: Mutex<State>,
    /// Steps being carried out: while one is, the function is not idle, whatever it waits for.
    steps: AtomicUsize,
    /// Something moved; the idle clock starts anew.
    pub(crate) moved: Notify,
    /// What is known of the inbox: a message waits if one came after the last that was received.
    pub(crate) messages: watch::Sender<Messages>,
    /// Set when the function must not go on: a mismatch that user code may have swallowed.
    broken: Mutex<Option<Failure>>,
}

/// Places in the inbox.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Messages {
    last_come: Option<u64>,
    last_received: Option<u64>,
}

impl Messages {
    pub(crate) fn wait(self) -> bool {
        self.last_come > self.last_received
    }
}

#[derive(Default)]
struct State {
    next: u32,
    replay: VecDeque<JournalRow>,
    waiting: BTreeMap<u32, oneshot::Sender<Completion>>,
    /// Completions that overtook the answer to their request.
    early: BTreeMap<u32, Completion>,
}

/// Counts a step while it is carried out.
pub(crate) struct StepGuard<'a>(&'a Journal);

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        self.0.steps.fetch_sub(1, Ordering::AcqRel);
        self.0.moved.notify_one();
    }
}

impl Journal {
    pub(crate) fn new(client: Client, claim: Claim, replay: Vec<JournalRow>, messages_waiting: Option<u64>) -> Self {
        Journal {
            client,
            claim,
            state: Mutex::new(State { replay: replay.into(), ..State::default() }),
            steps: AtomicUsize::new(0),
            moved: Notify::new(),
            messages: watch::Sender::new(Messages { last_come: messages_waiting, last_received: None }),
            broken: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin_step(&self) -> StepGuard<'_> {
        self.steps.fetch_add(1, Ordering::AcqRel);
        StepGuard(self)
    }

    /// The next entry, if it is already in the journal: what came of it, or `Err` to wait for it.
    pub(crate) fn replayed(&self, request: &Request) -> Result<Option<Replayed>, Failure> {
        self.check_usable()?;
        let mut state = self.lock();
        let Some(row) = state.replay.front() else { return Ok(None) };
        let (kind, label, fingerprint) = request.identity();
        if (row.kind, row.fingerprint) != (kind, fingerprint) {
            let mismatch = Failure::Mismatch {
                position: state.next,
                expected: describe(row.kind, &row.label),
                found: describe(kind, &label),
            };
            drop(state);
            return Err(self.break_with(mismatch));
        }
        let position = state.next;
        state.next += 1;
        let row = state.replay.pop_front();
        Ok(row.map(|row| match row.done {
            Some((_, completion)) => Replayed::Done(completion),
            None => Replayed::Pending(self.wait_in(&mut state, position)),
        }))
    }

    /// Whether the next entry is in the journal already, and is this one.
    pub(crate) fn next_replayed_is(&self, request: &Request) -> bool {
        let (kind, _, fingerprint) = request.identity();
        self.lock().replay.front().is_some_and(|row| (row.kind, row.fingerprint) == (kind, fingerprint))
    }

    /// The place of the next entry.
    pub(crate) fn position(&self) -> u32 {
        self.lock().next
    }

    /// Puts the next entry on record and gives what came of it, waiting if need be.
    pub(crate) async fn entry(&self, request: Request) -> Result<Completion, Failure> {
        match self.replayed(&request)? {
            Some(Replayed::Done(completion)) => return Ok(completion),
            Some(Replayed::Pending(wait)) => return self.finish_wait(wait).await,
            None => {}
        }
        self.record(request).await
    }

    /// Like [`Journal::entry`] for an entry known not to be in the journal yet.
    pub(crate) async fn record(&self, request: Request) -> Result<Completion, Failure> {
        match self.begin(request).await? {
            Begun::Done(completion) => Ok(completion),
            Begun::Pending(wait) => self.finish_wait(wait).await,
        }
    }

    /// Puts the next entry on record without waiting for its completion.
    pub(crate) async fn begin(&self, request: Request) -> Result<Begun, Failure> {
        let position = {
            let mut state = self.lock();
            let position = state.next;
            state.next += 1;
            position
        };
        let command = Command::Journal { claim: self.claim, position, request };
        let reply = match self.client.submit_patiently(command).await {
            Ok(reply) => reply,
            Err(error) => {
                if matches!(error, EngineError::Refused(_)) {
                    // Nothing was recorded: the next request is the next entry, for a function that goes on regardless.
                    let mut state = self.lock();
                    if state.next == position + 1 {
                        state.next = position;
                    }
                }
                return Err(self.refused(error));
            }
        };
        self.moved.notify_one();
        match reply {
            Reply::EntryDone(completion) => Ok(Begun::Done(completion)),
            Reply::EntryPending { .. } => Ok(Begun::Pending(self.wait_in(&mut self.lock(), position))),
            other => unreachable!("a journal entry is answered as an entry, not {other:?}"),
        }
    }

    fn wait_in(&self, state: &mut State, position: u32) -> Wait {
        if let Some(completion) = state.early.remove(&position) {
            return Wait::Over(completion);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(position, sender);
        Wait::For(receiver)
    }

    pub(crate) async fn finish_wait(&self, wait: Wait) -> Result<Completion, Failure> {
        match wait {
            Wait::Over(completion) => Ok(completion),
            Wait::For(receiver) => receiver.await.map_err(|_| Failure::GivenUp("the worker is stopping".to_owned())),
        }
    }

    /// A message came for the run.
    pub(crate) fn message_came(&self, seq: u64) {
        self.messages.send_modify(|messages| messages.last_come = messages.last_come.max(Some(seq)));
    }

    /// Messages up to this place were received.
    pub(crate) fn message_received(&self, seq: u64) {
        self.messages.send_modify(|messages| messages.last_received = messages.last_received.max(Some(seq)));
    }

    /// A pending entry is complete.
    pub(crate) fn completed(&self, position: u32, completion: Completion) {
        let mut state = self.lock();
        match state.waiting.remove(&position) {
            Some(waiting) => drop(waiting.send(completion)),
            None => {
                state.early.insert(position, completion);
            }
        }
        drop(state);
        self.moved.notify_one();
    }

    /// The positions the function waits for, if waiting is all it does.
    pub(crate) fn idle_on(&self) -> Option<Vec<u32>> {
        let state = self.lock();
        let idle = self.steps.load(Ordering::Acquire) == 0 && !state.waiting.is_empty();
        idle.then(|| state.waiting.keys().copied().collect())
    }

    pub(crate) fn refused(&self, error: EngineError) -> Failure {
        let failure = match error {
            EngineError::Refused(Refusal::JournalMismatch { position, expected, found }) => {
                Failure::Mismatch { position, expected, found }
            }
            EngineError::Refused(stale @ Refusal::StaleClaim { .. }) => Failure::GivenUp(stale.to_string()),
            EngineError::Refused(refusal) => return Failure::Final(refusal.to_string()),
            EngineError::Missing { .. } => return Failure::Retryable(error.to_string()),
            EngineError::Busy { .. }
            | EngineError::Stopped { .. }
            | EngineError::ShuttingDown
            | EngineError::Unreadable { .. } => Failure::GivenUp(error.to_string()),
        };
        self.break_with(failure)
    }

    fn break_with(&self, failure: Failure) -> Failure {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert(failure).clone()
    }

    fn check_usable(&self) -> Result<(), Failure> {
        self.broken().map_or(Ok(()), Err)
    }

    /// A failure that ends the function even if its code carried on regardless.
    pub(crate) fn broken(&self) -> Option<Failure> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) enum Wait {
    Over(Completion),
    For(oneshot::Receiver<Completion>),
}

pub(crate) enum Replayed {
    Done(Completion),
    Pending(Wait),
}

pub(crate) enum Begun {
    Done(Completion),
    Pending(Wait),
}
