//! A durable function's side of its journal: positions, replay, and waiting for completions.
//!
//! An entry whose answer nobody needs may be *noted*: it is sent with the next one that is waited for, in one command,
//! and so for one durable write. Whatever acts on the outside first sees to it that all that was noted is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainspring_core::command::Claim;
use mainspring_core::journal::{Completion, Request, describe, last_place};
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
    /// Noted entries: those right before `next`.
    unsent: Vec<Request>,
    /// Noted entries that were sent, with what followed them, and are not known to be durable: by the place of the first.
    in_flight: BTreeMap<u32, Vec<Request>>,
    waiting: BTreeMap<u32, oneshot::Sender<Completion>>,
    /// Those of them that are sleeps, with how many milliseconds.
    sleeping: BTreeMap<u32, u64>,
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
            Some(Replayed::Done(completion)) => return unless_cancelled(completion),
            Some(Replayed::Pending(wait)) => return self.finish_wait(wait).await,
            None => {}
        }
        self.record(request).await
    }

    /// Like [`Journal::entry`] for an entry whose answer nobody needs: it goes on record with the next.
    pub(crate) async fn entry_noted(&self, request: Request) -> Result<(), Failure> {
        match self.replayed(&request)? {
            Some(Replayed::Done(_)) => Ok(()),
            Some(Replayed::Pending(wait)) => self.finish_wait(wait).await.map(|_| ()),
            None => self.note(request).await,
        }
    }

    /// Like [`Journal::entry`] for an entry known not to be in the journal yet.
    pub(crate) async fn record(&self, request: Request) -> Result<Completion, Failure> {
        match self.begin(request).await? {
            Begun::Done(completion) => unless_cancelled(completion),
            Begun::Pending(wait) => self.finish_wait(wait).await,
        }
    }

    /// Notes the next entry, known not to be in the journal yet: it is sent with the one that follows. What there is no
    /// room for any more is sent at once.
    pub(crate) async fn note(&self, request: Request) -> Result<(), Failure> {
        assert!(request.may_go_before(), "somebody waits for what comes of {request:?}");
        {
            let limits = self.client.engine().limits();
            let mut state = self.lock();
            let bytes: usize = state.unsent.iter().chain([&request]).map(Request::payload_bytes).sum();
            if state.unsent.len() < limits.entries_before_max && bytes <= limits.entries_before_bytes_max {
                state.next += 1;
                state.unsent.push(request);
                return Ok(());
            }
        }
        self.record(request).await.map(|_| ())
    }

    /// Sees to it that everything noted so far is durable. What another branch of the function has on the way is sent once
    /// more rather than waited for: that branch may not be looked after at the moment.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        loop {
            let (position, noted) = {
                let mut state = self.lock();
                if !state.unsent.is_empty() {
                    let noted = std::mem::take(&mut state.unsent);
                    let position = state.next - noted.len() as u32;
                    state.in_flight.insert(position, noted.clone());
                    (position, noted)
                } else if let Some((position, noted)) = state.in_flight.first_key_value() {
                    (*position, noted.clone())
                } else {
                    drop(state);
                    return self.check_usable();
                }
            };
            self.send_noted(position, noted).await?;
        }
    }

    /// Puts the next entry on record, with what was noted before it, without waiting for its completion.
    pub(crate) async fn begin(&self, request: Request) -> Result<Begun, Failure> {
        let (position, before) = {
            let mut state = self.lock();
            let before = std::mem::take(&mut state.unsent);
            let position = state.next - before.len() as u32;
            if !before.is_empty() {
                state.in_flight.insert(position, before.clone());
            }
            state.next += 1;
            (position, before)
        };
        if before.is_empty() {
            return self.send(position, before, request).await;
        }
        let last = last_place(position, &before);
        match self.send(position, before.clone(), request.clone()).await {
            // All of it was refused, most likely for its last: what was noted is recorded by itself, as if it had been sent
            // when it was asked for.
            Err(Failure::Final(_)) => {
                self.send_noted(position, before).await?;
                self.send(last, Vec::new(), request).await
            }
            other => {
                self.lock().in_flight.remove(&position);
                other
            }
        }
    }

    async fn send(&self, position: u32, before: Vec<Request>, request: Request) -> Result<Begun, Failure> {
        let (last, alone) = (last_place(position, &before), before.is_empty());
        let sleep_ms = if let Request::Sleep { duration_ms } = request { Some(duration_ms) } else { None };
        let command = Command::Journal { claim: self.claim, position, before, request };
        let reply = match self.client.submit_patiently(command).await {
            Ok(reply) => reply,
            Err(error) => {
                if alone && matches!(error, EngineError::Refused(_)) {
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
            Reply::EntryPending { .. } => {
                let mut state = self.lock();
                state.sleeping.extend(sleep_ms.map(|ms| (last, ms)));
                Ok(Begun::Pending(self.wait_in(&mut state, last)))
            }
            other => unreachable!("a journal entry is answered as an entry, not {other:?}"),
        }
    }

    /// Records noted entries by themselves. A refusal ends the function: whoever asked for them went on as if they were on
    /// record.
    async fn send_noted(&self, position: u32, mut noted: Vec<Request>) -> Result<(), Failure> {
        let Some(request) = noted.pop() else { return Ok(()) };
        match self.send(position, noted, request).await {
            Ok(_) => {
                self.lock().in_flight.remove(&position);
                Ok(())
            }
            Err(failure) => Err(self.break_with(failure)),
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
        unless_cancelled(match wait {
            Wait::Over(completion) => completion,
            Wait::For(receiver) => receiver.await.map_err(|_| Failure::GivenUp("the worker is stopping".to_owned()))?,
        })
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
        state.sleeping.remove(&position);
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

    /// Whether the function does nothing but sleep, for longer than this.
    pub(crate) fn sleeps_longer_than(&self, time: Duration) -> bool {
        let state = self.lock();
        let is_long = |place| state.sleeping.get(place).is_some_and(|ms| u128::from(*ms) > time.as_millis());
        self.steps.load(Ordering::Acquire) == 0 && !state.waiting.is_empty() && state.waiting.keys().all(is_long)
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

/// What the run's cancellation put an end to is no answer.
fn unless_cancelled(completion: Completion) -> Result<Completion, Failure> {
    match completion {
        Completion::Cancelled(reason) => Err(Failure::Cancelled(reason)),
        other => Ok(other),
    }
}
