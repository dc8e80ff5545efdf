//! A worker: a connected process with slots. Workers have no rows; they announce themselves again after a restart.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use crate::command::Held;
use crate::id::{Ms, TaskId, WorkerId};
use crate::machine::{Consequence, Step};
use crate::reply::{Refusal, Reply};
use crate::timer::TimerKey;

/// What is known of a worker.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) actions: BTreeSet<String>,
    pub(crate) slots: u32,
    pub(crate) running: BTreeSet<TaskId>,
    pub(crate) local: bool,
    /// False for a worker that is only known from the tasks it had before a restart.
    pub(crate) connected: bool,
    pub(crate) lease_ms: Option<u64>,
    pub(crate) lease_until: Option<Ms>,
}

impl Worker {
    pub(crate) fn offers(&self, action: &str) -> bool {
        self.actions.contains(action)
    }

    fn has_room(&self) -> bool {
        self.connected && self.running.len() < self.slots as usize
    }
}

impl Step<'_> {
    #[expect(clippy::too_many_arguments, reason = "one parameter per field of the command it decides")]
    pub(crate) fn register_worker(
        &mut self,
        id: WorkerId,
        name: String,
        actions: Vec<String>,
        slots: u32,
        local: bool,
        lease_ms: Option<u64>,
        holds: &[Held],
    ) -> Result<Reply, Refusal> {
        if !self.t.workers.contains_key(&id) && self.t.workers.len() >= self.limits.workers_max {
            return Err(Refusal::Full {
                what: "workers of this tenant",
                max: self.limits.workers_max,
                action: "use fewer workers with more slots each",
            });
        }
        for action in &actions {
            self.check_label("an action's name", action)?;
        }
        self.check_bulk("the list of actions", actions.iter().map(|action| action.len() + 16).sum())?;
        let before = self.t.workers.remove(&id).unwrap_or_default();
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
        let actions: BTreeSet<String> = actions.into_iter().collect();
        for action in &actions {
            self.agenda.push_back(Consequence::Assign(action.clone()));
        }
        let worker = Worker { name, actions, slots, running, local, connected: true, lease_ms, lease_until };
        self.t.workers.insert(id, worker);
        for task in lost {
            self.lose(task, "its worker came back without it");
        }
        Ok(Reply::Done)
    }

    pub(crate) fn heartbeat_worker(&mut self, id: WorkerId) -> Result<Reply, Refusal> {
        let worker = self.t.workers.get_mut(&id).filter(|worker| worker.connected).ok_or(Refusal::NoWorker)?;
        if let (Some(lease), Some(until)) = (worker.lease_ms, worker.lease_until) {
            let renewed = self.now.saturating_add(lease);
            worker.lease_until = Some(renewed);
            self.timers.unset(until, self.tenant, TimerKey::WorkerLease(id));
            self.timers.set(renewed, self.tenant, TimerKey::WorkerLease(id));
        }
        Ok(Reply::Done)
    }

    pub(crate) fn remove_worker(&mut self, id: WorkerId) -> Result<Reply, Refusal> {
        self.drop_worker(id, "its worker disconnected");
        Ok(Reply::Done)
    }

    pub(crate) fn worker_silent(&mut self, id: WorkerId) {
        self.drop_worker(id, "its worker was silent for too long");
    }

    fn drop_worker(&mut self, id: WorkerId, why: &str) {
        let Some(worker) = self.t.workers.remove(&id) else { return };
        if let Some(until) = worker.lease_until {
            self.timers.unset(until, self.tenant, TimerKey::WorkerLease(id));
        }
        for task in worker.running {
            self.lose(task, why);
        }
    }

    /// The worker with the most free slots among those that offer the action; the lowest id among equals.
    pub(crate) fn free_worker(&self, action: &str) -> Option<WorkerId> {
        self.t
            .workers
            .iter()
            .filter(|(_, worker)| worker.has_room() && worker.offers(action))
            .max_by_key(|(id, worker)| (worker.slots as usize - worker.running.len(), core::cmp::Reverse(**id)))
            .map(|(id, _)| *id)
    }

    /// Gives a slot back and offers it to whatever waits.
    pub(crate) fn free_slot(&mut self, id: WorkerId, task: TaskId) {
        let Some(worker) = self.t.workers.get_mut(&id) else { return };
        worker.running.remove(&task);
        for (action, _) in self.t.queues.iter().filter(|(action, _)| worker.offers(action)) {
            self.agenda.push_back(Consequence::Assign(action.clone()));
        }
    }
}
