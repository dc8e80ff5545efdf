//! A worker: a connected process with slots.
//!
//! Workers inside the process, and those that announce themselves anew after each restart, have no rows. A worker that
//! is *enrolled* is reached over a wire whose clients keep their worker's id: it has a row, so that it may connect again
//! under that id after a restart, and what it had in hand is still its own.

mod order;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::command::{Claim, Held, NewWorker};
use crate::id::{Ms, TaskId, WorkerId};
use crate::machine::{Consequence, Step};
use crate::place::LabelValue;
use crate::reply::{Refusal, Reply, WorkerView};
use crate::row::{self, TaskState, WorkerRow};
use crate::timer::TimerKey;
use crate::write::Table;

use order::Standing;
pub(crate) use order::Workers;

/// What is known of a worker.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) actions: BTreeSet<String>,
    pub(crate) slots: BTreeMap<String, u32>,
    pub(crate) labels: BTreeMap<String, LabelValue>,
    pub(crate) running: BTreeSet<TaskId>,
    /// Slots taken by what is running, by kind.
    pub(crate) taken: BTreeMap<String, u32>,
    pub(crate) local: bool,
    /// False for a worker that is only known from the tasks it had before a restart, or whose stream is gone.
    pub(crate) connected: bool,
    pub(crate) paused: bool,
    /// Since when nothing connects it.
    pub(crate) away_since: Option<Ms>,
    /// The row of an enrolled worker.
    pub(crate) row: Option<WorkerRow>,
    pub(crate) lease_ms: Option<u64>,
    /// When it is given up, or forgotten.
    pub(crate) lease_until: Option<Ms>,
    /// Whether it was given up already and is only remembered, so that it may come back under its id.
    pub(crate) given_up: bool,
    /// Where it stands among those that may be given tasks.
    pub(crate) standing: Option<Standing>,
}

impl Worker {
    /// An enrolled worker as its row remembers it.
    pub(crate) fn enrolled(row: WorkerRow) -> Self {
        Worker {
            name: row.name.clone(),
            actions: row.actions.clone(),
            slots: row.slots.clone(),
            labels: row.labels.clone(),
            paused: row.paused,
            lease_ms: Some(row.lease_ms),
            row: Some(row),
            ..Worker::default()
        }
    }

    pub(crate) fn offers(&self, action: &str) -> bool {
        self.actions.contains(action)
    }

    /// How many units of a kind are free.
    pub(crate) fn free(&self, kind: &str) -> u32 {
        let taken = self.taken.get(kind).copied().unwrap_or(0);
        self.slots.get(kind).copied().unwrap_or(0).saturating_sub(taken)
    }

    fn takes_tasks(&self) -> bool {
        self.connected && !self.paused
    }

    fn has_room_for(&self, slots: &BTreeMap<String, u32>) -> bool {
        self.takes_tasks() && slots.iter().all(|(kind, units)| self.free(kind) >= *units)
    }

    pub(crate) fn take(&mut self, task: TaskId, slots: &BTreeMap<String, u32>) {
        self.running.insert(task);
        for (kind, units) in slots {
            match self.taken.get_mut(kind) {
                Some(taken) => *taken += units,
                None => {
                    self.taken.insert(kind.clone(), *units);
                }
            }
        }
    }

    fn give_back(&mut self, slots: &BTreeMap<String, u32>) {
        for (kind, units) in slots {
            if let Some(taken) = self.taken.get_mut(kind) {
                *taken = taken.saturating_sub(*units);
            }
        }
    }
}

impl Step<'_> {
    pub(crate) fn register_worker(
        &mut self,
        id: WorkerId,
        new: NewWorker,
        local: bool,
        lease_ms: Option<u64>,
        holds: &[Held],
    ) -> Result<Reply, Refusal> {
        self.check_new_worker(id, &new)?;
        let before = self.t.workers.remove(id).unwrap_or_default();
        if before.row.is_some() {
            // It announces itself anew each time from now on.
            self.out.delete(Table::Worker, &row::key::worker(self.tenant, id));
        }
        if let Some(until) = before.lease_until {
            self.timers.unset(until, self.tenant, TimerKey::WorkerLease(id));
        }
        let holds: BTreeSet<Held> = holds.iter().copied().collect();
        let held = |task: &TaskId| {
            let invocation = self.t.task(*task).map_or(0, |row| row.invocation);
            holds.contains(&Held { task: *task, invocation })
        };
        let (running, lost): (BTreeSet<TaskId>, BTreeSet<TaskId>) = before.running.into_iter().partition(held);
        let lease_until = lease_ms.map(|lease| self.now.saturating_add(lease));
        if let Some(until) = lease_until {
            self.timers.set(until, self.tenant, TimerKey::WorkerLease(id));
        }
        let mut worker = Worker {
            name: new.name,
            actions: new.actions,
            slots: new.slots,
            labels: new.labels,
            local,
            connected: true,
            lease_ms,
            lease_until,
            ..Worker::default()
        };
        for task in running {
            match self.slots_of(task) {
                Some(slots) => worker.take(task, &slots),
                None => {
                    worker.running.insert(task);
                }
            }
        }
        self.t.workers.insert(id, worker);
        self.offer_to(id);
        for task in lost {
            self.lose(task, "its worker came back without it");
        }
        Ok(Reply::Done)
    }

    fn check_new_worker(&self, id: WorkerId, new: &NewWorker) -> Result<(), Refusal> {
        if !self.t.workers.contains_key(&id) && self.t.workers.len() >= self.limits.workers_max {
            return Err(Refusal::Full {
                what: "workers of this tenant",
                max: self.limits.workers_max,
                action: "use fewer workers with more slots each",
            });
        }
        self.check_what_it_is(new)
    }

    /// The enrolled worker that is away for longest and has nothing in hand: a deployment that starts its workers again and
    /// again must not keep out those that work.
    fn longest_away(&self) -> Option<WorkerId> {
        let idle = self.t.workers.iter().filter(|(_, worker)| worker.row.is_some() && worker.running.is_empty());
        let away = idle.filter_map(|(id, worker)| Some((worker.away_since?, *id)));
        away.min().map(|(_, id)| id)
    }

    fn check_what_it_is(&self, new: &NewWorker) -> Result<(), Refusal> {
        self.check_label("the worker's name", &new.name)?;
        for action in &new.actions {
            self.check_label("an action's name", action)?;
        }
        for kind in new.slots.keys() {
            self.check_label("a kind of slots", kind)?;
        }
        let lists = new.actions.iter().chain(new.slots.keys()).map(|name| name.len() + 16).sum::<usize>();
        self.check_bulk("the list of actions", lists + new.about.len())?;
        self.check_labels(&new.labels)
    }

    fn check_labels(&self, labels: &BTreeMap<String, LabelValue>) -> Result<(), Refusal> {
        let bytes = |value: &LabelValue| match value {
            LabelValue::Text(text) => text.len(),
            LabelValue::Number(_) => 8,
        };
        for name in labels.keys() {
            self.check_label("a label's name", name)?;
        }
        self.check_bulk("the labels", labels.iter().map(|(name, value)| name.len() + bytes(value) + 16).sum())
    }

    /// Remembers a worker, which then may connect.
    pub(crate) fn enrol_worker(&mut self, id: WorkerId, new: NewWorker, lease_ms: u64) -> Result<Reply, Refusal> {
        if self.t.workers.get(&id).is_some_and(|worker| worker.row.is_some()) {
            return Ok(Reply::Done);
        }
        let leaves = if self.t.workers.len() >= self.limits.workers_max { self.longest_away() } else { None };
        if leaves.is_none() {
            self.check_new_worker(id, &new)?;
        } else {
            self.check_what_it_is(&new)?;
        }
        if let Some(leaves) = leaves {
            self.drop_worker(leaves, "others need its place");
        }
        let NewWorker { name, actions, slots, labels, about } = new;
        let registered_at = self.now;
        let row = WorkerRow { name, actions, slots, labels, paused: false, lease_ms, registered_at, about };
        self.out.put(Table::Worker, &row::key::worker(self.tenant, id), &row);
        self.t.workers.insert(id, Worker { away_since: Some(self.now), ..Worker::enrolled(row) });
        self.remember_worker(id);
        Ok(Reply::Done)
    }

    /// An enrolled worker can be reached. What it has in hand and was not heard to have received is given up unless it
    /// says so soon: it may have been lost on the way.
    pub(crate) fn connect_worker(&mut self, id: WorkerId) -> Result<Reply, Refusal> {
        let acknowledge_until = self.now.saturating_add(self.limits.acknowledge_ms);
        self.enrolled(id)?;
        let connected = self.t.workers.change(id, |worker| {
            worker.connected = true;
            worker.away_since = None;
            (worker.lease_ms.unwrap_or(0), worker.running.clone())
        });
        let (lease, running) = connected.ok_or(Refusal::NoWorker)?;
        for task in running {
            let Some(row) = self.t.task(task) else { continue };
            if row.acknowledged != row.invocation {
                let timer = TimerKey::Acknowledge(task, row.invocation);
                self.timers.set(acknowledge_until, self.tenant, timer);
            }
        }
        self.renew_worker(id, lease);
        self.offer_to(id);
        Ok(Reply::Done)
    }

    /// An enrolled worker can't be reached. It keeps what it has in hand until its lease is over, but for what is known
    /// not to have reached it.
    pub(crate) fn disconnect_worker(&mut self, id: WorkerId, undelivered: &[Held]) -> Result<Reply, Refusal> {
        self.enrolled(id)?;
        self.away(id);
        for held in undelivered {
            let mine = self.t.workers.get(&id).is_some_and(|worker| worker.running.contains(&held.task));
            if mine && self.t.task(held.task).is_some_and(|row| row.invocation == held.invocation) {
                self.lose(held.task, "it did not reach its worker");
            }
        }
        Ok(Reply::Done)
    }

    /// The row of an enrolled worker.
    fn enrolled(&self, id: WorkerId) -> Result<&WorkerRow, Refusal> {
        self.t.workers.get(&id).and_then(|worker| worker.row.as_ref()).ok_or(Refusal::NoWorker)
    }

    /// Nothing connects it from now on.
    fn away(&mut self, id: WorkerId) {
        let now = self.now;
        self.t.workers.change(id, |worker| {
            worker.connected = false;
            worker.away_since = Some(now);
        });
    }

    /// Changes what is known of an enrolled worker: labels are added to those it has.
    pub(crate) fn update_worker(
        &mut self,
        id: WorkerId,
        labels: BTreeMap<String, LabelValue>,
        paused: Option<bool>,
    ) -> Result<Reply, Refusal> {
        let known = self.enrolled(id)?;
        let mut row = known.clone();
        row.labels.extend(labels);
        row.paused = paused.unwrap_or(row.paused);
        self.check_labels(&row.labels)?;
        if *known == row {
            return Ok(Reply::Done);
        }
        self.t.workers.change(id, |worker| {
            worker.labels.clone_from(&row.labels);
            worker.paused = row.paused;
            worker.row = Some(row.clone());
        });
        self.out.put(Table::Worker, &row::key::worker(self.tenant, id), &row);
        self.offer_to(id);
        Ok(Reply::Done)
    }

    pub(crate) fn heartbeat_worker(&mut self, id: WorkerId) -> Result<Reply, Refusal> {
        let worker = self.t.workers.get(&id).ok_or(Refusal::NoWorker)?;
        let (connected, enrolled) = (worker.connected, worker.row.is_some());
        if !connected && !enrolled {
            return Err(Refusal::NoWorker);
        }
        // One that lives without a connection still works on what it has in hand.
        if let Some(lease) = worker.lease_ms.filter(|_| connected || !worker.running.is_empty()) {
            self.renew_worker(id, lease);
        }
        if connected { Ok(Reply::Done) } else { Err(Refusal::WorkerNotConnected) }
    }

    /// From now on it may be silent for this long.
    fn renew_worker(&mut self, id: WorkerId, lease_ms: u64) {
        self.set_lease(id, lease_ms, false);
    }

    /// Nothing is in its hands. It may come back under its id, but not for ever.
    fn remember_worker(&mut self, id: WorkerId) {
        self.set_lease(id, self.limits.worker_forget_ms, true);
    }

    fn set_lease(&mut self, id: WorkerId, lease_ms: u64, given_up: bool) {
        let until = self.now.saturating_add(lease_ms);
        let leased = self.t.workers.change(id, |worker| {
            worker.given_up = given_up;
            worker.lease_until.replace(until)
        });
        let Some(before) = leased else { return };
        if let Some(before) = before {
            self.timers.unset(before, self.tenant, TimerKey::WorkerLease(id));
        }
        self.timers.set(until, self.tenant, TimerKey::WorkerLease(id));
    }

    pub(crate) fn remove_worker(&mut self, id: WorkerId) -> Result<Reply, Refusal> {
        self.drop_worker(id, "its worker disconnected");
        Ok(Reply::Done)
    }

    pub(crate) fn worker_silent(&mut self, id: WorkerId) {
        const WHY: &str = "its worker was silent for too long";
        let Some(worker) = self.t.workers.get(&id) else { return };
        if worker.row.is_none() || worker.given_up {
            self.drop_worker(id, WHY);
            return;
        }
        // It may still come back under its id, with nothing in hand.
        self.away(id);
        let lost = self.t.workers.change(id, |worker| {
            worker.taken.clear();
            worker.lease_until = None;
            core::mem::take(&mut worker.running)
        });
        self.remember_worker(id);
        for task in lost.into_iter().flatten() {
            self.lose(task, WHY);
        }
    }

    fn drop_worker(&mut self, id: WorkerId, why: &str) {
        let Some(worker) = self.t.workers.remove(id) else { return };
        if let Some(until) = worker.lease_until {
            self.timers.unset(until, self.tenant, TimerKey::WorkerLease(id));
        }
        if worker.row.is_some() {
            self.out.delete(Table::Worker, &row::key::worker(self.tenant, id));
        }
        for task in worker.running {
            self.lose(task, why);
        }
    }

    /// The worker says that it has a task in hand.
    pub(crate) fn acknowledge(&mut self, claim: &Claim) -> Result<Reply, Refusal> {
        let task = self.claimed(claim)?;
        if task.acknowledged != task.invocation {
            task.acknowledged = task.invocation;
            self.dirty_task(claim.task);
        }
        Ok(Reply::Done)
    }

    /// A worker that came back has had its time to say that it has this task in hand. A later hand-over, to it or to
    /// another, is not what it was asked about.
    pub(crate) fn not_acknowledged(&mut self, id: TaskId, invocation: u32) {
        if let Some(task) = self.t.task(id)
            && matches!(task.state, TaskState::Running { .. })
            && task.invocation == invocation
            && task.acknowledged != invocation
        {
            self.lose(id, "its worker came back without having received it");
        }
    }

    /// What a task in a worker's hands takes of it: nothing after it gave its slots back.
    pub(crate) fn slots_of(&self, id: TaskId) -> Option<BTreeMap<String, u32>> {
        let run = self.t.runs.get(&id.run)?;
        let index = usize::from(id.index);
        let task = run.tasks.get(index)?;
        (!task.slots_released).then(|| run.def.tasks[index].slots.clone())
    }

    /// Takes a task out of a worker's hands and offers what that frees to whatever waits.
    pub(crate) fn free_slot(&mut self, id: WorkerId, task: TaskId) {
        let slots = self.slots_of(task);
        let freed = self.t.workers.change(id, |worker| {
            if worker.running.remove(&task)
                && let Some(slots) = slots
            {
                worker.give_back(&slots);
            }
        });
        if freed.is_some() {
            self.offer_to(id);
        }
    }

    /// A running task needs its slots no longer: it goes on without.
    pub(crate) fn release_slots(&mut self, id: TaskId) -> Result<Reply, Refusal> {
        let slots = self.slots_of(id);
        let task = self.t.task_mut(id).ok_or(Refusal::NoTask { task: id })?;
        let TaskState::Running { worker, .. } = task.state else { return Err(Refusal::NotRunning { task: id }) };
        task.slots_released = true;
        // Whoever asks for this has it in hand.
        task.acknowledged = task.invocation;
        if let Some(slots) = slots
            && self.t.workers.change(worker, |holder| holder.give_back(&slots)).is_some()
        {
            self.dirty_task(id);
            self.offer_to(worker);
        }
        Ok(Reply::Done)
    }

    /// How the workers stand.
    pub(crate) fn look_at_workers(&self) -> Vec<WorkerView> {
        let view = |(id, worker): (&WorkerId, &Worker)| WorkerView {
            worker: *id,
            connected: worker.connected,
            away_since: worker.away_since,
            heard_at: match (worker.lease_until, worker.lease_ms) {
                (Some(until), Some(lease)) if worker.connected => Some(until.saturating_sub(lease)),
                _ => None,
            },
            taken: worker.taken.clone(),
        };
        self.t.workers.iter().map(view).collect()
    }

    /// Whatever waits for this worker is looked at again.
    fn offer_to(&mut self, id: WorkerId) {
        let Some(worker) = self.t.workers.get(&id).filter(|worker| worker.connected && !worker.paused) else { return };
        let offered: Vec<String> =
            self.t.queues.keys().filter(|action| worker.offers(action)).map(Clone::clone).collect();
        self.agenda.extend(offered.into_iter().map(Consequence::Assign));
    }
}
