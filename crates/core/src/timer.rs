//! Timers: what must happen at a time. They have no rows of their own; each follows from the row that waits.

use alloc::collections::BTreeSet;

use crate::id::{Ms, TaskId, TenantId, WorkerId};

/// What a timer is for. With its due time and tenant it is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// A failed attempt is tried again.
    Backoff(TaskId),
    /// A task waited too long for a worker.
    ScheduleTimeout(TaskId),
    /// An attempt ran too long.
    ExecutionTimeout(TaskId),
    /// A pending journal entry is due.
    Entry(TaskId, u32),
    /// A worker was silent for too long.
    WorkerLease(WorkerId),
    /// A worker that came back has not said that it has this task in hand, as given to it by this hand-over.
    Acknowledge(TaskId, u32),
    /// The first rate limit that somebody waits for is full again.
    Refill,
    /// The oldest idempotency keys of the tenant expire.
    Idempotency,
    /// The oldest marks of documents are forgotten.
    Marks,
    /// The oldest marks of entries' ids are forgotten.
    EntryMarks,
}

/// All timers of a partition, by due time.
#[derive(Debug, Default, Clone)]
pub struct Timers {
    due: BTreeSet<(Ms, TenantId, TimerKey)>,
}

impl Timers {
    /// Sets a timer.
    pub fn set(&mut self, at: Ms, tenant: TenantId, key: TimerKey) {
        self.due.insert((at, tenant, key));
    }

    /// Removes a timer, which may have fired already.
    pub fn unset(&mut self, at: Ms, tenant: TenantId, key: TimerKey) {
        self.due.remove(&(at, tenant, key));
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Ms> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// Takes the next one out if it is due.
    pub fn pop_due(&mut self, now: Ms) -> Option<(Ms, TenantId, TimerKey)> {
        if self.next_due()? > now {
            return None;
        }
        self.due.pop_first()
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}
