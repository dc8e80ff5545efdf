//! Where released effects go: to workers in this process, to listeners of events, to whoever waits for a run.
//!
//! Everything here may be lost with the process: each receiver finds the same facts again in the tables.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use mainspring_core::row::{EventRow, RunState};
use mainspring_core::{Effect, PayloadId, RunId, TaskChange, TaskId, TenantId, TokenId, WorkerId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// What a worker in this process receives: dispatches, cancellations, completions of what it waits for.
pub type Dispatched = Effect;
/// A worker's end of the channel. Unbounded, because the core never gives a worker more than its slots.
pub type WorkerInbox = mpsc::UnboundedReceiver<Dispatched>;

/// Notices a slow listener may fall behind before it has to read the tables instead.
const NOTICES_KEPT: usize = 1_024;
/// Words to workers that are not connected, kept until they are. Beyond that the oldest are forgotten: a worker that is
/// not told to stop works for nothing, no more.
const UNHEARD_KEPT: usize = 10_000;
/// Bytes of recent payloads kept, so that a dispatch rarely has to read its input back.
const PAYLOAD_BYTES_KEPT: usize = 8 * 1024 * 1024;

/// Something a listener is told.
#[derive(Debug, Clone, PartialEq)]
pub struct EventNotice {
    /// The event's durable sequence number. `None` for one that exists only for those listening now.
    pub seq: Option<u64>,
    /// The event.
    pub event: EventRow,
}

/// Something that happened to a run somebody watches.
#[derive(Debug, Clone, PartialEq)]
pub enum RunNotice {
    /// To one of its tasks.
    Task {
        /// Which.
        task: TaskId,
        /// The attempt it concerns.
        attempt: u32,
        /// What.
        change: TaskChange,
    },
    /// A task said something to those listening now. Its number puts it in order among others of its task.
    Said {
        /// Which task.
        task: TaskId,
        /// Its number, where the task counts.
        index: Option<i64>,
        /// What.
        message: Bytes,
    },
    /// It ended.
    Ended(RunState),
}

type RunKey = (TenantId, RunId);
type Scope = (TenantId, Option<String>);

/// Ordered, so that whoever waits here wakes in an order that a simulation can repeat.
#[derive(Default)]
struct State {
    /// Channels, each with the number of its session: the newest wins.
    workers: BTreeMap<(TenantId, WorkerId), (u64, mpsc::UnboundedSender<Dispatched>)>,
    sessions: u64,
    /// Words to workers that were not connected, the oldest first.
    unheard: VecDeque<((TenantId, WorkerId), Dispatched)>,
    watches: BTreeMap<RunKey, broadcast::Sender<RunNotice>>,
    listeners: BTreeMap<Scope, broadcast::Sender<EventNotice>>,
    /// Those who wait for entries of streams.
    streams: BTreeMap<(TenantId, String), watch::Sender<()>>,
}

impl State {
    fn tell_to_stop(&mut self, effect: Effect) {
        let Effect::CancelAttempt { tenant, worker, .. } = effect else { return };
        let unheard = match self.workers.get(&(tenant, worker)) {
            Some((_, sender)) => sender.send(effect).err().map(|unheard| unheard.0),
            None => Some(effect),
        };
        if let Some(effect) = unheard {
            if self.unheard.len() >= UNHEARD_KEPT {
                self.unheard.pop_front();
            }
            self.unheard.push_back(((tenant, worker), effect));
        }
    }
}

#[derive(Default)]
struct PayloadCache {
    bytes: usize,
    by_id: HashMap<(TenantId, PayloadId), Bytes>,
    order: VecDeque<(TenantId, PayloadId)>,
}

/// Tasks for which a verdict is wanted.
pub type Questions = mpsc::UnboundedReceiver<(TenantId, TaskId)>;

/// Receivers of effects in this process.
///
/// What each request asks has a lock of its own: effects of a whole batch are released under that of the rest, and a
/// request that waits for them puts a thread to sleep.
pub struct Hub {
    state: Mutex<State>,
    run_waits: Mutex<BTreeMap<RunKey, Vec<oneshot::Sender<()>>>>,
    revoked: RwLock<HashSet<TokenId>>,
    payloads: Mutex<PayloadCache>,
    questions: mpsc::UnboundedSender<(TenantId, TaskId)>,
    judge: Mutex<Option<Questions>>,
}

impl Default for Hub {
    fn default() -> Self {
        let (questions, judge) = mpsc::unbounded_channel();
        let (state, payloads) = (Mutex::default(), Mutex::default());
        let (run_waits, revoked) = (Mutex::default(), RwLock::default());
        Hub { state, run_waits, revoked, payloads, questions, judge: Mutex::new(Some(judge)) }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_run_waits(&self) -> MutexGuard<'_, BTreeMap<RunKey, Vec<oneshot::Sender<()>>>> {
        self.run_waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the channel of a tenant's worker. Do so before announcing the worker. Another tenant's worker of the same id
    /// is another worker; a channel opened before under the same id is closed.
    pub fn connect_worker(&self, tenant: TenantId, worker: WorkerId) -> WorkerInbox {
        self.connect_session(tenant, worker).1
    }

    /// Like [`Hub::connect_worker`], with the number of the session, for workers that may come back before their last
    /// session has noticed that it is over.
    pub fn connect_session(&self, tenant: TenantId, worker: WorkerId) -> (u64, WorkerInbox) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let mut state = self.lock();
        state.sessions += 1;
        let session = state.sessions;
        let (theirs, others) =
            std::mem::take(&mut state.unheard).into_iter().partition(|(to, _)| *to == (tenant, worker));
        state.unheard = others;
        let theirs: VecDeque<_> = theirs;
        for (_, effect) in theirs {
            let _ = sender.send(effect);
        }
        state.workers.insert((tenant, worker), (session, sender));
        (session, inbox)
    }

    /// Closes a worker's channel.
    pub fn disconnect_worker(&self, tenant: TenantId, worker: WorkerId) {
        self.lock().workers.remove(&(tenant, worker));
    }

    /// Tells a worker to stop an attempt: now, or when it is connected.
    pub fn tell_to_stop(&self, effect: Effect) {
        self.lock().tell_to_stop(effect);
    }

    /// Whether a worker's channel is open.
    pub fn has_worker(&self, tenant: TenantId, worker: WorkerId) -> bool {
        self.lock().workers.get(&(tenant, worker)).is_some_and(|(_, sender)| !sender.is_closed())
    }

    /// Closes a worker's channel if it is still that of this session. Answers whether it was.
    pub fn disconnect_session(&self, tenant: TenantId, worker: WorkerId, session: u64) -> bool {
        let mut state = self.lock();
        let current = state.workers.get(&(tenant, worker)).is_some_and(|(newest, _)| *newest == session);
        if current {
            state.workers.remove(&(tenant, worker));
        }
        current
    }

    /// Takes the judge's place: verdicts are asked for here, those included that were asked for before. `None` if
    /// somebody else has taken it.
    pub fn judge(&self) -> Option<Questions> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Watches a run. A watcher that falls behind is told so by its receiver.
    pub fn watch(&self, tenant: TenantId, run: RunId) -> broadcast::Receiver<RunNotice> {
        let mut state = self.lock();
        state.watches.retain(|_, sender| sender.receiver_count() > 0);
        state.watches.entry((tenant, run)).or_insert_with(|| broadcast::channel(NOTICES_KEPT).0).subscribe()
    }

    /// Tells those who watch a task's run what the task says. Nothing is recorded.
    pub fn say(&self, tenant: TenantId, task: TaskId, index: Option<i64>, message: Bytes) {
        if let Some(watch) = self.lock().watches.get(&(tenant, task.run)) {
            let _ = watch.send(RunNotice::Said { task, index, message });
        }
    }

    /// Listens to a tenant's events of one scope, or to all of them. A listener that falls behind is told so by its
    /// receiver and reads the tables.
    pub fn listen(&self, tenant: TenantId, scope: Option<&str>) -> broadcast::Receiver<EventNotice> {
        let mut state = self.lock();
        state.listeners.retain(|_, sender| sender.receiver_count() > 0);
        let key = (tenant, scope.map(str::to_owned));
        state.listeners.entry(key).or_insert_with(|| broadcast::channel(NOTICES_KEPT).0).subscribe()
    }

    /// Hears each time when there may be something new in a stream. It may be there before: look after asking.
    pub fn stream_stirs(&self, tenant: TenantId, stream: &str) -> watch::Receiver<()> {
        let mut state = self.lock();
        state.streams.retain(|_, sender| sender.receiver_count() > 0);
        state.streams.entry((tenant, stream.to_owned())).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// Tells those listening now; nothing is recorded.
    pub fn whisper(&self, tenant: TenantId, event: EventRow) {
        tell(&self.lock(), tenant, EventNotice { seq: None, event });
    }

    /// Completes when the run ends. It may have ended before: look after asking.
    pub fn run_ended(&self, tenant: TenantId, run: RunId) -> oneshot::Receiver<()> {
        let (sender, ended) = oneshot::channel();
        self.wake_at_end(tenant, run, sender);
        ended
    }

    /// Like [`Hub::run_ended`], for who has the other end already. One that is closed is not kept.
    pub(crate) fn wake_at_end(&self, tenant: TenantId, run: RunId, sender: oneshot::Sender<()>) {
        if sender.is_closed() {
            return;
        }
        let mut run_waits = self.lock_run_waits();
        let waits = run_waits.entry((tenant, run)).or_default();
        waits.retain(|wait| !wait.is_closed());
        waits.push(sender);
    }

    /// Nobody here waits for the run's end any more, unless others do.
    pub fn forget_run_wait(&self, tenant: TenantId, run: RunId) {
        let mut run_waits = self.lock_run_waits();
        if let Some(waits) = run_waits.get_mut(&(tenant, run)) {
            waits.retain(|wait| !wait.is_closed());
            if waits.is_empty() {
                run_waits.remove(&(tenant, run));
            }
        }
    }

    /// Runs whose end somebody waits for.
    #[cfg(test)]
    pub(crate) fn runs_waited_for(&self) -> usize {
        self.lock_run_waits().len()
    }

    /// Whether a token was revoked.
    pub fn is_revoked(&self, token: TokenId) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains(&token)
    }

    /// Remembers a token that was revoked before this process began.
    pub fn mark_revoked(&self, token: TokenId) {
        self.revoked.write().unwrap_or_else(PoisonError::into_inner).insert(token);
    }

    /// A recent payload.
    pub fn payload(&self, tenant: TenantId, id: PayloadId) -> Option<Bytes> {
        self.payloads.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(&(tenant, id)).cloned()
    }

    /// The process is taken to be gone: whoever waits here learns that nothing will come.
    pub fn forget_everybody(&self) {
        *self.lock() = State::default();
        self.lock_run_waits().clear();
        self.revoked.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn keep_payloads(&self, payloads: Vec<(TenantId, PayloadId, Bytes)>) {
        if payloads.is_empty() {
            return;
        }
        let mut cache = self.payloads.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, id, payload) in payloads {
            // One large payload must not push out everything else.
            if payload.len() > PAYLOAD_BYTES_KEPT / 8 {
                continue;
            }
            cache.bytes += payload.len() + 64;
            cache.by_id.insert((tenant, id), payload);
            cache.order.push_back((tenant, id));
        }
        while cache.bytes > PAYLOAD_BYTES_KEPT {
            let Some(oldest) = cache.order.pop_front() else { break };
            if let Some(payload) = cache.by_id.remove(&oldest) {
                cache.bytes -= payload.len() + 64;
            }
        }
    }

    pub(crate) fn release(&self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        let mut state = self.lock();
        for effect in effects {
            match effect {
                Effect::Dispatch(ref dispatch) => {
                    if let Some((_, sender)) = state.workers.get(&(dispatch.tenant, dispatch.worker)) {
                        let _ = sender.send(effect);
                    }
                }
                Effect::Judge { tenant, task } => {
                    // Kept until there is a judge; bounded by the tasks there are.
                    let _ = self.questions.send((tenant, task));
                }
                Effect::TaskChanged { tenant, task, attempt, change } => {
                    if let Some(watch) = state.watches.get(&(tenant, task.run)) {
                        let _ = watch.send(RunNotice::Task { task, attempt, change });
                    }
                }
                Effect::CancelAttempt { .. } => state.tell_to_stop(effect),
                Effect::EntryDone { tenant, worker, .. } | Effect::MessageWaits { tenant, worker, .. } => {
                    // A worker that is gone is given up by the core when its adapter says so.
                    if let Some((_, sender)) = state.workers.get(&(tenant, worker)) {
                        let _ = sender.send(effect);
                    }
                }
                Effect::Event { tenant, seq, event } => tell(&state, tenant, EventNotice { seq: Some(seq), event }),
                Effect::RunEnded { tenant, run, state: how } => {
                    if let Some(watch) = state.watches.get(&(tenant, run)) {
                        let _ = watch.send(RunNotice::Ended(how));
                    }
                    let waiting = self.lock_run_waits().remove(&(tenant, run));
                    for waiting in waiting.unwrap_or_default() {
                        let _ = waiting.send(());
                    }
                }
                Effect::StreamStirred { tenant, stream } => {
                    if let Some(waiting) = state.streams.get(&(tenant, stream)) {
                        waiting.send_replace(());
                    }
                }
                Effect::TokenRevoked { token, .. } => self.mark_revoked(token),
            }
        }
    }
}

fn tell(state: &State, tenant: TenantId, notice: EventNotice) {
    if state.listeners.is_empty() {
        return;
    }
    let scoped = (tenant, notice.event.scope.clone());
    if scoped.1.is_some()
        && let Some(listeners) = state.listeners.get(&scoped)
    {
        let _ = listeners.send(notice.clone());
    }
    if let Some(listeners) = state.listeners.get(&(tenant, None)) {
        let _ = listeners.send(notice);
    }
}

#[cfg(test)]
mod tests {
    use mainspring_core::{Effect, RunId, TaskId, TenantId, WorkerId};

    use super::*;

    const TENANT: TenantId = TenantId(1);
    const WORKER: WorkerId = WorkerId(2);

    fn stop(attempt: u32) -> Effect {
        let task = TaskId { run: RunId(3), index: 0 };
        Effect::CancelAttempt { tenant: TENANT, worker: WORKER, task, attempt }
    }

    #[test]
    fn a_worker_that_was_away_is_told_to_stop_when_it_is_back() {
        let hub = Hub::default();
        hub.release(vec![stop(1)]);
        assert!(hub.connect_session(TenantId(9), WORKER).1.try_recv().is_err(), "another tenant's worker");
        let (first, mut inbox) = hub.connect_session(TENANT, WORKER);
        assert_eq!(inbox.try_recv(), Ok(stop(1)));
        // Its channel is gone, and nobody has said so yet.
        drop(inbox);
        hub.release(vec![stop(2)]);
        let (second, mut inbox) = hub.connect_session(TENANT, WORKER);
        assert_eq!((inbox.try_recv(), inbox.try_recv().is_err()), (Ok(stop(2)), true));
        assert!(!hub.disconnect_session(TENANT, WORKER, first), "the newer session stays");
        assert!(hub.has_worker(TENANT, WORKER) && hub.disconnect_session(TENANT, WORKER, second));
    }

    #[test]
    fn what_waits_for_workers_that_never_come_is_bounded() {
        let hub = Hub::default();
        hub.release((0..UNHEARD_KEPT as u32 + 5).map(stop).collect());
        let mut inbox = hub.connect_session(TENANT, WORKER).1;
        assert_eq!(inbox.try_recv(), Ok(stop(5)), "the oldest are forgotten");
        let kept = 1 + std::iter::from_fn(|| inbox.try_recv().ok()).count();
        assert_eq!(kept, UNHEARD_KEPT);
    }
}
