//! A task: one unit of work given to workers. `blocked -> queued -> running -> completed | failed | cancelled`, by way of
//! `backoff` between attempts, `suspended` while a durable function waits outside memory, `parked` when a person is needed.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;

use bytes::Bytes;

use crate::command::{Claim, Fact, Facts, Need};
use crate::effect::{Dispatch, Effect, Lineage, TaskChange};
use crate::id::{Ms, TaskId, WorkerId};
use crate::machine::{Consequence, End, Step};
use crate::place::Wants;
use crate::reply::{Refusal, Reply};
use crate::row::{RunState, TaskRow, TaskState};
use crate::run::Run;
use crate::timer::TimerKey;
use crate::workflow::{Sticky, TaskDef, When};

/// A task's place in the queue of its action: highest priority first, then by time of queueing.
pub(crate) type Spot = (Reverse<u8>, Ms, TaskId);

/// The priority of an attempt that is not the first: what was begun goes before what was not, unless that is asked for
/// with more than any ordinary run has.
const RETRY_PRIORITY: u8 = 4;

/// Where a task of a run stands in its line.
pub(crate) fn spot_of(run: &Run, id: TaskId, since: Ms) -> Spot {
    let again = run.tasks[usize::from(id.index)].attempt > 1;
    let priority = if again { run.row.priority.max(RETRY_PRIORITY) } else { run.row.priority };
    (Reverse(priority), since, id)
}

/// What a task of a run wants of the worker it is given to. The same as long as the task waits.
pub(crate) fn wants_of(run: &Run, index: u16) -> Wants {
    let (def, task) = (&run.def.tasks[usize::from(index)], &run.tasks[usize::from(index)]);
    let mut labels = def.labels.clone();
    let mut worker = None;
    if let Some(wishes) = &run.row.wishes {
        labels.extend(wishes.labels.iter().map(|(name, wish)| (name.clone(), wish.clone())));
        worker = wishes.worker;
    }
    // A sticky run stays where its first parent ran; before that, where it was asked to.
    let before = def.parents.first().and_then(|parent| run.tasks[usize::from(*parent)].worker);
    let worker = run.def.sticky.and_then(|sticky| Some((before.or(worker)?, sticky == Sticky::Hard)));
    let rates = def.rates.iter().chain(&task.rates).cloned().collect();
    Wants { slots: def.slots.clone(), labels, worker, rates }
}

/// Milliseconds a task waits after losing so many workers in a row: none for the first three, as workers come and go,
/// then 100 ms, doubling up to ten seconds.
fn wait_after_losses(losses: u32) -> Ms {
    const FREE: u32 = 3;
    const FIRST_MS: Ms = 100;
    const MAX_MS: Ms = 10_000;
    match losses.checked_sub(FREE + 1) {
        None => 0,
        Some(doublings) => FIRST_MS.checked_shl(doublings).map_or(MAX_MS, |wait| wait.min(MAX_MS)),
    }
}

impl Step<'_> {
    fn task_def(&self, id: TaskId) -> Option<&TaskDef> {
        self.t.runs.get(&id.run)?.def.tasks.get(usize::from(id.index))
    }

    /// The task a claim is about, if the claim is the current one.
    pub(crate) fn claimed(&mut self, claim: &Claim) -> Result<&mut TaskRow, Refusal> {
        let stale = Refusal::StaleClaim { task: claim.task, attempt: claim.attempt };
        let task = self.t.task_mut(claim.task).ok_or(stale.clone())?;
        match task.state {
            TaskState::Running { worker, .. }
                if claim.worker.is_none_or(|claiming| claiming == worker)
                    && task.attempt == claim.attempt
                    && claim.invocation.is_none_or(|invocation| invocation == task.invocation) =>
            {
                Ok(task)
            }
            _ => Err(stale),
        }
    }

    /// A completion that comes again is answered as the first one was; any other late one is refused.
    fn claimed_or_repeated(
        &mut self,
        claim: &Claim,
        facts: &Facts,
        said: fn(&TaskRow) -> bool,
    ) -> Result<bool, Refusal> {
        let repeated = |task: &TaskRow| {
            let same = claim.invocation.is_none_or(|invocation| invocation == task.invocation);
            task.attempt == claim.attempt && same && said(task)
        };
        if self.t.task(claim.task).is_some_and(repeated) {
            return Ok(false);
        }
        if let Some(Fact::Task(task)) = facts.get(&Need::Task(claim.task))
            && !self.t.runs.contains_key(&claim.task.run)
            && repeated(task)
        {
            return Ok(false);
        }
        self.claimed(claim).map(|_| true)
    }

    /// Queues the next attempt.
    pub(crate) fn queue_attempt(&mut self, id: TaskId) {
        let Some(task) = self.t.task_mut(id) else { return };
        task.attempt += 1;
        self.queue(id);
    }

    fn queue(&mut self, id: TaskId) {
        let now = self.now;
        let Some(run) = self.t.runs.get_mut(&id.run) else { return };
        let def = &run.def.tasks[usize::from(id.index)];
        let task = &mut run.tasks[usize::from(id.index)];
        task.state = TaskState::Queued { since: now };
        task.queued_at.get_or_insert(now);
        let (action, timeout) = (def.action.clone(), def.schedule_timeout_ms);
        let (spot, wants) = (spot_of(run, id, now), Arc::new(wants_of(run, id.index)));
        match self.t.held.get_mut(&(action.clone(), wants.clone())) {
            Some(line) => line.insert(spot),
            None => self.t.queues.entry(action.clone()).or_default().entry(wants).or_default().insert(spot),
        };
        if let Some(timeout) = timeout {
            self.timers.set(now.saturating_add(timeout), self.tenant, TimerKey::ScheduleTimeout(id));
        }
        self.dirty_task(id);
        self.agenda.push_back(Consequence::Assign(action));
    }

    /// Takes a task out of its queue, with its timer.
    fn unqueue(&mut self, id: TaskId, since: Ms) {
        let Some(run) = self.t.runs.get(&id.run) else { return };
        let def = Arc::clone(&run.def);
        let def = &def.tasks[usize::from(id.index)];
        let (spot, wants) = (spot_of(run, id, since), Arc::new(wants_of(run, id.index)));
        self.t.leave_line(&def.action, &wants, &spot);
        if let Some(timeout) = def.schedule_timeout_ms {
            self.timers.unset(since.saturating_add(timeout), self.tenant, TimerKey::ScheduleTimeout(id));
        }
    }

    /// Gives queued tasks of these actions to workers while there are both. A slot that could serve several lines goes to
    /// whoever is first over all of them, so that none starves another.
    pub(crate) fn assign(&mut self, actions: BTreeSet<String>) {
        type Head = (Spot, String, Arc<Wants>);
        let mut heads: BTreeSet<Head> = BTreeSet::new();
        for action in actions {
            let Some(lines) = self.t.queues.get(&action) else { continue };
            // Without anybody who could take anything, many lines need not be looked at one by one.
            if !self.t.workers.any_room(&action) {
                continue;
            }
            heads
                .extend(lines.iter().filter_map(|(wants, line)| Some((*line.first()?, action.clone(), wants.clone()))));
        }
        while let Some((spot, action, wants)) = heads.pop_first() {
            // Nobody free for the first of a line means nobody for the rest of it.
            let Some(worker) = self.t.workers.free_for(&action, &wants) else { continue };
            if let Err(short) = self.take_rates(&wants.rates) {
                self.hold_line(&action, &wants, &short);
                continue;
            }
            self.dispatch(spot.2, spot.1, worker);
            let next = self.t.queues.get(&action).and_then(|lines| lines.get(&wants)).and_then(BTreeSet::first);
            if let Some(next) = next {
                heads.insert((*next, action, wants));
            }
        }
    }

    fn dispatch(&mut self, id: TaskId, since: Ms, worker: WorkerId) {
        self.unqueue(id, since);
        let now = self.now;
        let messages_waiting = self.last_unread(id.run);
        let Some(run) = self.t.runs.get_mut(&id.run) else { return };
        let def = &run.def.tasks[usize::from(id.index)];
        let taken = self.t.workers.change(worker, |holder| {
            holder.take(id, &def.slots);
            holder.local
        });
        let Some(local) = taken else { return };
        let parents = def.parents.iter().map(|parent| (*parent, run.tasks[usize::from(*parent)].output)).collect();
        let errors = match def.when {
            When::ParentsEnded => Vec::new(),
            When::AnotherFailed => failures_of(run),
        };
        let task = &mut run.tasks[usize::from(id.index)];
        let deadline = def.execution_timeout_ms.map(|timeout| now.saturating_add(timeout));
        task.invocation += 1;
        task.started_at = Some(now);
        task.worker = Some(worker);
        task.slots_released = false;
        task.state = TaskState::Running { worker, local, since: now, deadline };
        if let Some(deadline) = deadline {
            self.timers.set(deadline, self.tenant, TimerKey::ExecutionTimeout(id));
        }
        let attempt = task.attempt;
        self.out.effect(Effect::Dispatch(Box::new(Dispatch {
            tenant: self.tenant,
            worker,
            task: id,
            action: def.action.clone(),
            attempt,
            invocation: task.invocation,
            input: run.row.input,
            journal_len: task.journal_len,
            key: run.row.key.clone(),
            messages_waiting,
            version: run.row.version,
            def: Arc::clone(&run.def),
            priority: run.row.priority,
            metadata: run.row.metadata.clone(),
            child_of: run.row.child_of.clone(),
            event: run.row.event.clone(),
            grounds: task.grounds,
            parents,
            errors,
            queued_at: task.queued_at.unwrap_or(now),
            lineage: Lineage {
                group: run.row.group.unwrap_or(id.run),
                superseded_before: run.row.superseded_before,
                from: run.row.superseded_from,
            },
        })));
        self.task_changed(id, TaskChange::Started);
        self.dirty_task(id);
    }

    /// Tells those who watch the run.
    fn task_changed(&mut self, id: TaskId, change: TaskChange) {
        let attempt = self.t.task(id).map_or(0, |task| task.attempt);
        self.out.effect(Effect::TaskChanged { tenant: self.tenant, task: id, attempt, change });
    }

    /// Leaves the state the task is in, whatever it is: queue, slot and timers are given back.
    fn leave_state(&mut self, id: TaskId) {
        let Some(task) = self.t.task(id) else { return };
        match task.state {
            TaskState::Queued { since } => self.unqueue(id, since),
            TaskState::Running { worker, deadline, .. } => {
                if let Some(deadline) = deadline {
                    self.timers.unset(deadline, self.tenant, TimerKey::ExecutionTimeout(id));
                }
                self.free_slot(worker, id);
            }
            TaskState::Backoff { until } => self.timers.unset(until, self.tenant, TimerKey::Backoff(id)),
            TaskState::Blocked
            | TaskState::Judged { .. }
            | TaskState::Suspended { .. }
            | TaskState::Parked
            | TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Skipped => {}
        }
    }

    /// Ends a task. If it is with a worker and did not end by that worker's word, the worker is told to stop.
    pub(crate) fn end_task(
        &mut self,
        id: TaskId,
        state: TaskState,
        output: Option<crate::row::PayloadRef>,
        error: Option<String>,
    ) {
        assert!(state.ended(), "a task ends in an end state");
        if state == TaskState::Cancelled {
            self.tell_to_stop(id);
        }
        self.leave_state(id);
        self.drop_pending(id);
        let now = self.now;
        let change = match &state {
            TaskState::Completed => TaskChange::Completed,
            TaskState::Skipped => TaskChange::Skipped,
            TaskState::Failed => TaskChange::Failed { again: false },
            _ => TaskChange::Cancelled,
        };
        let Some(task) = self.t.task_mut(id) else { return };
        task.state = state;
        task.output = output;
        if error.is_some() {
            task.error = error;
        }
        task.finished_at = Some(now);
        task.fence = None;
        self.dirty_task(id);
        self.task_changed(id, change);
        self.pass_signals_on(id);
    }

    fn tell_to_stop(&mut self, id: TaskId) {
        if let Some(task) = self.t.task(id)
            && let TaskState::Running { worker, .. } = task.state
        {
            let attempt = task.attempt;
            self.out.effect(Effect::CancelAttempt { tenant: self.tenant, worker, task: id, attempt });
        }
    }

    pub(crate) fn complete(&mut self, claim: Claim, output: Bytes, facts: &Facts) -> Result<Reply, Refusal> {
        self.check_payload("the output", &output)?;
        // A completion has an output, even if it is empty; a supersession has none.
        let said = |task: &TaskRow| task.state == TaskState::Completed && task.output.is_some();
        if !self.claimed_or_repeated(&claim, facts, said)? {
            return Ok(Reply::Done);
        }
        let output = self.store_payload(output);
        self.end_task(claim.task, TaskState::Completed, Some(output), None);
        self.task_ended(claim.task);
        Ok(Reply::Done)
    }

    pub(crate) fn supersede(&mut self, claim: Claim, reason: String, facts: &Facts) -> Result<Reply, Refusal> {
        let said = |task: &TaskRow| task.state == TaskState::Completed && task.output.is_none();
        if !self.claimed_or_repeated(&claim, facts, said)? {
            return Ok(Reply::Done);
        }
        let run = self.t.runs.get(&claim.task.run).ok_or(Refusal::NoRun { run: claim.task.run })?;
        if !run.def.inbox {
            return Err(Refusal::NoInbox { name: run.def.name.clone() });
        }
        if self.inbox_closed(claim.task.run) {
            return Err(Refusal::Committed { run: claim.task.run });
        }
        self.end_task(claim.task, TaskState::Completed, None, None);
        let end = End { state: RunState::Superseded, output: None, error: Some(self.kept_text(reason)) };
        self.agenda.push_back(Consequence::EndRun { run: claim.task.run, end });
        Ok(Reply::Done)
    }

    pub(crate) fn fail(
        &mut self,
        claim: Claim,
        error: String,
        retry: bool,
        after_ms: Option<u64>,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        let said = |task: &TaskRow| matches!(task.state, TaskState::Failed | TaskState::Backoff { .. });
        if !self.claimed_or_repeated(&claim, facts, said)? {
            return Ok(Reply::Done);
        }
        let error = self.kept_text(error);
        self.attempt_failed(claim.task, error, retry, after_ms);
        Ok(Reply::Done)
    }

    pub(crate) fn park(&mut self, claim: Claim, error: String) -> Result<Reply, Refusal> {
        if !self.claimed_or_repeated(&claim, &Facts::new(), |task| task.state == TaskState::Parked)? {
            return Ok(Reply::Done);
        }
        let error = self.kept_text(error);
        self.park_task(claim.task, error);
        Ok(Reply::Done)
    }

    /// Puts a task and its run aside until a person resumes or cancels it.
    fn park_task(&mut self, id: TaskId, error: String) {
        self.leave_state(id);
        if let Some(run) = self.t.runs.get_mut(&id.run) {
            run.row.state = RunState::Parked;
            run.row.error = Some(error.clone());
            let task = &mut run.tasks[usize::from(id.index)];
            task.state = TaskState::Parked;
            task.error = Some(error.clone());
        }
        self.dirty_task(id);
        self.dirty_runs.insert(id.run);
        self.publish_lifecycle(id.run, "parked", Some(&error));
    }

    /// Whether a task is given to a worker only once.
    fn is_once(&self, id: TaskId) -> bool {
        self.t.runs.get(&id.run).is_some_and(|run| run.row.once)
    }

    fn attempt_failed(&mut self, id: TaskId, error: String, retry: bool, after_ms: Option<u64>) {
        let Some(rule) = self.task_def(id).map(|def| def.retry) else { return };
        let retry = retry && !self.is_once(id);
        let Some(task) = self.t.task_mut(id) else { return };
        task.failures += 1;
        let failures = task.failures;
        if !retry || failures >= rule.attempts_max {
            // Who was asked to end and does not succeed ends as asked.
            let state = if self.asked_to_end(id.run).is_some() { TaskState::Cancelled } else { TaskState::Failed };
            self.end_task(id, state, None, Some(error));
            self.task_ended(id);
            return;
        }
        self.leave_state(id);
        if let Some(task) = self.t.task_mut(id) {
            task.error = Some(error);
        }
        self.task_changed(id, TaskChange::Failed { again: true });
        self.try_again_after(id, after_ms.unwrap_or_else(|| rule.backoff_after(failures)));
    }

    /// Queues the next attempt, now or after a wait.
    fn try_again_after(&mut self, id: TaskId, wait: Ms) {
        if wait == 0 {
            self.queue_attempt(id);
            return;
        }
        let until = self.now.saturating_add(wait);
        if let Some(task) = self.t.task_mut(id) {
            task.state = TaskState::Backoff { until };
        }
        self.timers.set(until, self.tenant, TimerKey::Backoff(id));
        self.dirty_task(id);
    }

    /// The worker is gone. That is not the task's fault, so it costs no retry and is never the end of it; but a task that
    /// makes no progress while worker after worker goes away may be the cause, so it comes back later each time, and in
    /// the end waits for a person.
    pub(crate) fn lose(&mut self, id: TaskId, why: &str) {
        let losses_max = self.limits.losses_max;
        let Some(task) = self.t.task_mut(id) else { return };
        task.losses += 1;
        task.error = Some(why.to_owned());
        let losses = task.losses;
        let once = self.is_once(id).then_some(0);
        let of_its_own = once.or_else(|| self.task_def(id).and_then(|def| def.losses_max));
        if of_its_own.is_some_and(|max| losses > max) {
            let error = format!("{why}; given up after losing {losses} workers in a row");
            self.end_task(id, TaskState::Failed, None, Some(error));
            self.task_ended(id);
            return;
        }
        if losses > losses_max {
            let error = format!("{why}; put aside after losing {losses} workers in a row without progress");
            self.park_task(id, error);
            return;
        }
        self.leave_state(id);
        self.try_again_after(id, wait_after_losses(losses));
    }

    pub(crate) fn suspend(&mut self, claim: Claim, waiting: &[u32]) -> Result<Reply, Refusal> {
        let now = self.now;
        if !self.claimed_or_repeated(&claim, &Facts::new(), |task| matches!(task.state, TaskState::Suspended { .. }))? {
            return Ok(Reply::Suspended);
        }
        let task = self.claimed(&claim)?;
        if waiting.is_empty() || waiting.iter().any(|position| !task.pending.contains_key(position)) {
            return Ok(Reply::StayAwake);
        }
        self.leave_state(claim.task);
        if let Some(task) = self.t.task_mut(claim.task) {
            task.state = TaskState::Suspended { since: now };
        }
        self.dirty_task(claim.task);
        Ok(Reply::Suspended)
    }

    /// Something a suspended task waits for is there: it needs a worker again, under the same attempt.
    pub(crate) fn wake(&mut self, id: TaskId) {
        if self.t.task(id).is_some_and(|task| matches!(task.state, TaskState::Suspended { .. })) {
            self.queue(id);
        }
    }

    pub(crate) fn backoff_over(&mut self, id: TaskId) {
        if self.t.task(id).is_some_and(|task| matches!(task.state, TaskState::Backoff { .. })) {
            self.queue_attempt(id);
        }
    }

    pub(crate) fn schedule_timeout(&mut self, id: TaskId) {
        let Some(def) = self.task_def(id) else { return };
        let (timeout, action) = (def.schedule_timeout_ms.unwrap_or(0), def.action.clone());
        if self.t.task(id).is_some_and(|task| matches!(task.state, TaskState::Queued { .. })) {
            let error = format!("no worker offering {action:?} took it within {timeout} ms");
            self.end_task(id, TaskState::Cancelled, None, Some(error));
            self.task_ended(id);
        }
    }

    pub(crate) fn execution_timeout(&mut self, id: TaskId, due: Ms) {
        let Some(timeout) = self.task_def(id).and_then(|def| def.execution_timeout_ms) else { return };
        let Some(task) = self.t.task(id) else { return };
        if matches!(task.state, TaskState::Running { deadline: Some(deadline), .. } if deadline == due) {
            self.tell_to_stop(id);
            self.attempt_failed(id, format!("the attempt exceeded its timeout of {timeout} ms"), true, None);
        }
    }

    /// The attempt's time is up later.
    pub(crate) fn extend_timeout(&mut self, id: TaskId, by_ms: u64) -> Result<Reply, Refusal> {
        let task = self.t.task_mut(id).ok_or(Refusal::NoTask { task: id })?;
        let TaskState::Running { deadline: Some(deadline), .. } = &mut task.state else {
            return Err(Refusal::NotRunning { task: id });
        };
        // Whoever asks for time has it in hand.
        task.acknowledged = task.invocation;
        let before = *deadline;
        *deadline = before.saturating_add(by_ms);
        let until = *deadline;
        self.timers.unset(before, self.tenant, TimerKey::ExecutionTimeout(id));
        self.timers.set(until, self.tenant, TimerKey::ExecutionTimeout(id));
        self.dirty_task(id);
        Ok(Reply::Until(until))
    }

    /// The positions of a task's pending entries.
    pub(crate) fn pending_positions(&self, id: TaskId) -> Vec<u32> {
        self.t.task(id).map(|task| task.pending.keys().copied().collect()).unwrap_or_default()
    }
}

fn failures_of(run: &Run) -> Vec<(u16, String)> {
    let failed = run.tasks.iter().enumerate().filter(|(_, task)| task.state == TaskState::Failed);
    failed.map(|(index, task)| (index as u16, task.error.clone().unwrap_or_default())).collect()
}
