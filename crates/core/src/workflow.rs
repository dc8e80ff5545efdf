//! A workflow's definition: what one version of it runs, and by which rules.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::VersionId;
use crate::place::{LabelWish, SLOT};
use crate::rate::RateUse;

/// What happens when a run arrives for a key whose runs are all taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyStrategy {
    /// The newcomer waits its turn, by priority and then by arrival.
    Queue,
    /// The newcomer ends cancelled at once.
    CancelNewest,
    /// The oldest live run is cancelled and the newcomer takes its place.
    CancelInProgress,
}

/// At most `runs_max` live runs for one value of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRule {
    /// Live runs allowed at once for one key, at least 1.
    pub runs_max: u32,
    /// What happens to one more.
    pub strategy: KeyStrategy,
}

/// When a failed attempt is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryRule {
    /// Attempts that may fail before the task fails for good, counted from 1. 1 means no retry.
    pub attempts_max: u32,
    /// Wait before the second attempt, in milliseconds.
    pub backoff_ms: u64,
    /// The wait grows by this factor, in percent (200 doubles it; below 100 it shrinks).
    pub backoff_percent: u32,
    /// The wait never grows beyond this, in milliseconds.
    pub backoff_max_ms: u64,
}

impl RetryRule {
    /// One attempt, no retry.
    pub const NONE: RetryRule = RetryRule { attempts_max: 1, backoff_ms: 0, backoff_percent: 100, backoff_max_ms: 0 };

    /// Milliseconds to wait after the given number of failures, counted from 1.
    pub fn backoff_after(&self, failures: u32) -> u64 {
        let mut wait = self.backoff_ms;
        for _ in 1..failures {
            if wait >= self.backoff_max_ms {
                break;
            }
            wait = wait.saturating_mul(u64::from(self.backoff_percent)) / 100;
        }
        wait.min(self.backoff_max_ms.max(self.backoff_ms))
    }
}

/// One task of a workflow version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskDef {
    /// The task's name, unique in its workflow.
    pub name: String,
    /// What a worker must offer to be given this task.
    pub action: String,
    /// Tasks (by index) that must complete first.
    pub parents: Vec<u16>,
    /// Whether the task's progress is a journal, so that it can be resumed.
    pub durable: bool,
    /// When a failed attempt is tried again.
    pub retry: RetryRule,
    /// How long the task may wait for a worker, in milliseconds. `None` waits for ever.
    pub schedule_timeout_ms: Option<u64>,
    /// How long one attempt may run, in milliseconds. `None` is unlimited. Not counted while suspended.
    pub execution_timeout_ms: Option<u64>,
    /// When it is due.
    pub when: When,
    /// Whether somebody who can read payloads says, when it is due, whether it runs and what it takes from limits.
    pub judged: bool,
    /// What it takes of a worker, by kind of slot. At least one of something.
    pub slots: BTreeMap<String, u32>,
    /// Wishes for labels of the worker.
    pub labels: BTreeMap<String, LabelWish>,
    /// What it takes from limits, at each attempt.
    pub rates: Vec<RateUse>,
    /// Times in a row it may lose its worker before it fails. `None`: never; it is parked when the limits say so.
    pub losses_max: Option<u32>,
}

/// When a task is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// When its parents have ended: it runs if one of them completed, is skipped if all were skipped, and cancelled if
    /// one failed or was cancelled.
    ParentsEnded,
    /// When another task of the run has failed. Skipped when all others have ended without that.
    AnotherFailed,
}

/// Whether tasks of one run stay with one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sticky {
    /// While it has room.
    Soft,
    /// In any case.
    Hard,
}

/// What a definition was made of, for definitions that come in another form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The form's own hash of its content: the version's id.
    pub hash: u128,
    /// The whole of it, as it came.
    pub bytes: Bytes,
}

impl TaskDef {
    /// A task of this name and action: no parents, no retry, no timeouts, one ordinary slot.
    pub fn named(name: &str) -> Self {
        TaskDef {
            name: name.into(),
            action: name.into(),
            parents: Vec::new(),
            durable: false,
            retry: RetryRule::NONE,
            schedule_timeout_ms: None,
            execution_timeout_ms: None,
            when: When::ParentsEnded,
            judged: false,
            slots: BTreeMap::from([(SLOT.into(), 1)]),
            labels: BTreeMap::new(),
            rates: Vec::new(),
            losses_max: None,
        }
    }
}

/// One immutable version of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowDef {
    /// The workflow's name, unique in its tenant.
    pub name: String,
    /// Its tasks. Parents come before children.
    pub tasks: Vec<TaskDef>,
    /// At most N live runs per key.
    pub key: Option<KeyRule>,
    /// Whether runs are started by messages: one live run per key, ordered messages, successor decided at its end.
    pub inbox: bool,
    /// Names of events that start a run.
    pub event_triggers: Vec<String>,
    /// Priority of a run that names none. Higher goes first.
    pub default_priority: u8,
    /// If set, the life of a keyed run is published as events `{prefix}.started`, `.completed`, `.failed`, ... with
    /// the key as their scope, in the same commit as the change itself.
    pub lifecycle_events: Option<String>,
    /// Whether tasks of one run stay with one worker.
    pub sticky: Option<Sticky>,
    /// What of it can't be carried out by this release. It may be registered; using it is refused with this.
    pub not_yet: Option<String>,
    /// What it was made of, if it came in another form.
    pub source: Option<Source>,
}

/// A definition that can't be accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDefinition {
    /// A workflow needs at least one task.
    #[error("the workflow has no task: give it at least one")]
    NoTask,
    /// More tasks than an index can count.
    #[error("the workflow has {0} tasks: at most 1000 are allowed")]
    TooManyTasks(usize),
    /// A parent index that is not an earlier task.
    #[error("task {task:?} names parent {parent}: a parent must be an earlier task of the list")]
    BadParent {
        /// The task's name.
        task: String,
        /// The offending index.
        parent: u16,
    },
    /// An inbox workflow serialises by its inbox, which needs no further rule.
    #[error("an inbox workflow has one live run per key by nature: remove the key rule")]
    InboxWithKeyRule,
    /// An inbox workflow's messages are received through a journal.
    #[error("an inbox workflow has exactly one task, and it is durable: messages are received through its journal")]
    InboxNotDurable,
    /// `runs_max` of a key rule is zero.
    #[error("runs_max is 0: no run could ever start; use at least 1")]
    ZeroRuns,
    /// `attempts_max` of a task is zero.
    #[error("task {0:?} has attempts_max 0: use at least 1")]
    ZeroAttempts(String),
    /// A task that takes no slot would never be counted.
    #[error("task {0:?} takes no slot of a worker, or none of one kind: use at least 1 of each")]
    NoSlot(String),
    /// A task for failures that waits for parents.
    #[error("task {0:?} runs when another has failed: it can't have parents as well")]
    FailureWithParents(String),
    /// A name is empty or longer than its limit.
    #[error("{what} must have between 1 and {bytes_max} bytes")]
    BadName {
        /// Which name it is.
        what: &'static str,
        /// The limit.
        bytes_max: usize,
    },
}

impl WorkflowDef {
    /// A workflow of one task with the workflow's own name, no retry, no timeouts.
    pub fn single(name: &str, durable: bool) -> Self {
        WorkflowDef {
            name: name.into(),
            tasks: alloc::vec![TaskDef { durable, ..TaskDef::named(name) }],
            key: None,
            inbox: false,
            event_triggers: Vec::new(),
            default_priority: 1,
            lifecycle_events: None,
            sticky: None,
            not_yet: None,
            source: None,
        }
    }

    /// Checks the definition once, at the border, so that the rest may rely on it.
    ///
    /// # Errors
    /// Each variant of [`BadDefinition`] says what to change.
    pub fn check(&self, name_bytes_max: usize) -> Result<(), BadDefinition> {
        let name_ok = |name: &str| !name.is_empty() && name.len() <= name_bytes_max;
        if !name_ok(&self.name) {
            return Err(BadDefinition::BadName { what: "a workflow's name", bytes_max: name_bytes_max });
        }
        if self.tasks.is_empty() {
            return Err(BadDefinition::NoTask);
        }
        if self.tasks.len() > 1_000 {
            return Err(BadDefinition::TooManyTasks(self.tasks.len()));
        }
        if self.inbox && self.key.is_some() {
            return Err(BadDefinition::InboxWithKeyRule);
        }
        if self.inbox && (self.tasks.len() != 1 || !self.tasks[0].durable) {
            return Err(BadDefinition::InboxNotDurable);
        }
        if self.key.is_some_and(|rule| rule.runs_max == 0) {
            return Err(BadDefinition::ZeroRuns);
        }
        if !self.event_triggers.iter().chain(&self.lifecycle_events).all(|name| name_ok(name)) {
            let what = "an event that triggers the workflow, and the prefix of its lifecycle events,";
            return Err(BadDefinition::BadName { what, bytes_max: name_bytes_max });
        }
        for (index, task) in self.tasks.iter().enumerate() {
            if !name_ok(&task.name) || !name_ok(&task.action) {
                return Err(BadDefinition::BadName { what: "a task's name and action", bytes_max: name_bytes_max });
            }
            if let Some(parent) = task.parents.iter().find(|parent| usize::from(**parent) >= index) {
                return Err(BadDefinition::BadParent { task: task.name.clone(), parent: *parent });
            }
            if task.retry.attempts_max == 0 {
                return Err(BadDefinition::ZeroAttempts(task.name.clone()));
            }
            if task.slots.is_empty() || task.slots.values().any(|units| *units == 0) {
                return Err(BadDefinition::NoSlot(task.name.clone()));
            }
            if task.when == When::AnotherFailed && !task.parents.is_empty() {
                return Err(BadDefinition::FailureWithParents(task.name.clone()));
            }
        }
        Ok(())
    }

    /// The id of this content: registering the same definition twice gives the same version.
    pub fn version_id(&self) -> VersionId {
        if let Some(source) = &self.source {
            return VersionId(source.hash);
        }
        // Encoding a definition made of plain fields into a growing vector cannot fail.
        let body = postcard::to_allocvec(self).unwrap_or_default();
        let low = crate::id::fingerprint([body.as_slice()]);
        let high = crate::id::fingerprint([b"workflow version".as_slice(), body.as_slice()]);
        VersionId((u128::from(high) << 64) | u128::from(low))
    }
}

/// Definitions as earlier releases wrote them.
pub(crate) mod older {
    use super::{KeyRule, RetryRule, String, TaskDef, Vec, WorkflowDef};
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(crate) struct WorkflowDef1 {
        name: String,
        tasks: Vec<TaskDef1>,
        key: Option<KeyRule>,
        inbox: bool,
        event_triggers: Vec<String>,
        default_priority: u8,
        lifecycle_events: Option<String>,
    }

    #[derive(Deserialize)]
    struct TaskDef1 {
        name: String,
        action: String,
        parents: Vec<u16>,
        durable: bool,
        retry: RetryRule,
        schedule_timeout_ms: Option<u64>,
        execution_timeout_ms: Option<u64>,
    }

    impl From<WorkflowDef1> for WorkflowDef {
        fn from(old: WorkflowDef1) -> Self {
            WorkflowDef {
                name: old.name,
                tasks: old.tasks.into_iter().map(TaskDef::from).collect(),
                key: old.key,
                inbox: old.inbox,
                event_triggers: old.event_triggers,
                default_priority: old.default_priority,
                lifecycle_events: old.lifecycle_events,
                sticky: None,
                not_yet: None,
                source: None,
            }
        }
    }

    impl From<TaskDef1> for TaskDef {
        fn from(old: TaskDef1) -> Self {
            TaskDef {
                action: old.action,
                parents: old.parents,
                durable: old.durable,
                retry: old.retry,
                schedule_timeout_ms: old.schedule_timeout_ms,
                execution_timeout_ms: old.execution_timeout_ms,
                ..TaskDef::named(&old.name)
            }
        }
    }
}
