//! Ids and names as the wire has them, and ours.
//!
//! A run's id is the run's id. A task of a run with one task has the id of the run; other tasks have ids of their own,
//! which say whose they are. A workflow has an id although here it only has a name: it is made of tenant and name.

use mainspring_core::id::fingerprint;
use mainspring_core::row::{ChildOf, EventRef};
use mainspring_core::{RunId, TaskId, TenantId, VersionId};

/// The id of a task, in a run of so many tasks.
pub(crate) fn task_id(task: TaskId, tasks: usize) -> String {
    let own = if tasks == 1 { None } else { task.to_id() };
    own.map_or_else(|| task.run.to_string(), |id| RunId(id).to_string())
}

/// What an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// A run, or the only task of one.
    Run(RunId),
    /// A task of a run of several.
    Task(TaskId),
}

impl Named {
    /// Reads an id; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Named> {
        let id: RunId = text.parse().ok()?;
        Some(TaskId::from_id(id.0).map_or(Named::Run(id), Named::Task))
    }

    /// The run it is, or belongs to.
    pub(crate) fn run(self) -> RunId {
        match self {
            Named::Run(run) => run,
            Named::Task(task) => task.run,
        }
    }

    /// The task it is: the only one of a run that has but one.
    pub(crate) fn task(self) -> TaskId {
        match self {
            Named::Run(run) => TaskId { run, index: 0 },
            Named::Task(task) => task,
        }
    }
}

/// The id of a workflow.
pub(crate) fn workflow_id(tenant: TenantId, name: &str) -> String {
    let tenant = tenant.to_bytes();
    let high = fingerprint([b"workflow".as_slice(), &tenant, name.as_bytes()]);
    let low = fingerprint([b"workflow id".as_slice(), name.as_bytes(), &tenant]);
    derived(high, low)
}

/// The id of a task of a workflow version, which has a place there and no id.
pub(crate) fn step_id(version: VersionId, index: usize) -> String {
    let (version, index) = (version.to_bytes(), (index as u64).to_be_bytes());
    let high = fingerprint([b"step".as_slice(), &version, &index]);
    let low = fingerprint([b"step id".as_slice(), &index, &version]);
    derived(high, low)
}

/// A number for a task, for those who insist on one. Small enough for a language that has floating point only.
pub(crate) fn task_number(task: TaskId) -> u64 {
    fingerprint([task.run.to_bytes().as_slice(), &task.index.to_be_bytes()]) >> 11
}

/// An id made of what it stands for: a UUID of version 8.
fn derived(high: u64, low: u64) -> String {
    let id = (u128::from(high) << 64) | u128::from(low);
    RunId((id & !(0xf000_u128 << 64) & !(0b11_u128 << 62)) | (0x8000_u128 << 64) | (0b10_u128 << 62)).to_string()
}

/// The id of an event: its time and number, in the form of a UUID.
pub(crate) fn event_id(at: u64, seq: u64) -> String {
    let time = u128::from(at & 0xffff_ffff_ffff) << 80;
    RunId(time | (0x8_u128 << 76) | (0b10_u128 << 62) | u128::from(seq & 0x3fff_ffff_ffff_ffff)).to_string()
}

/// The number of the event an id of [`event_id`] stands for.
pub(crate) fn event_seq(text: &str) -> Option<u64> {
    let id: RunId = text.parse().ok()?;
    (id.0 >> 76 & 0xf == 0x8).then_some((id.0 as u64) & 0x3fff_ffff_ffff_ffff)
}

/// The id of the event that started a run.
pub(crate) fn event_ref_id(event: &EventRef) -> String {
    event_id(event.at, event.seq)
}

const BY_KEY: &str = "key:";
const BY_INDEX: &str = "index:";
/// Before the name of a child whose parent is one task of several: whether the parent's id is the run's is not to be
/// seen from the task alone.
const OF_TASK: &str = "task:";

/// A child, by what its parent is called and what the parent calls it: a key, or else the index it was spawned with.
pub(crate) fn child_of(parent: Named, key: Option<&str>, index: Option<i32>) -> ChildOf {
    let of = match parent {
        Named::Run(_) => "",
        Named::Task(_) => OF_TASK,
    };
    let name = match key.filter(|key| !key.is_empty()) {
        Some(key) => format!("{of}{BY_KEY}{key}"),
        None => format!("{of}{BY_INDEX}{}", index.unwrap_or(0)),
    };
    ChildOf { task: parent.task(), name, nth: index }
}

/// What a child's parent is called, and the key and index the child has there.
pub(crate) fn parent_of(child: &ChildOf) -> (String, Option<String>, Option<i32>) {
    let (tasks, name) = child.name.strip_prefix(OF_TASK).map_or((1, child.name.as_str()), |name| (2, name));
    let key = name.strip_prefix(BY_KEY).map(str::to_owned);
    (task_id(child.task, tasks), key, child.nth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_for_what_they_were_made_of() {
        let run = RunId(0x0191_e0c5_7a2b_7c3d_8e4f_a1b2_c3d4_0000);
        assert_eq!(Named::parse(&run.to_string()), Some(Named::Run(run)));
        let second = TaskId { run, index: 1 };
        assert_eq!(Named::parse(&task_id(second, 3)), Some(Named::Task(second)));
        assert_eq!(task_id(TaskId { run, index: 0 }, 1), run.to_string());
        assert_ne!(task_id(TaskId { run, index: 0 }, 2), run.to_string());
        assert_eq!(Named::parse("nonsense"), None);
        assert_eq!(event_seq(&event_id(1_700_000_000_000, 77)), Some(77));
        assert_eq!(event_seq(&run.to_string()), None);
        assert_ne!(workflow_id(TenantId(1), "a"), workflow_id(TenantId(2), "a"));
        let child = child_of(Named::Task(second), Some("k"), Some(3));
        assert_eq!(parent_of(&child), (task_id(second, 2), Some("k".to_owned()), Some(3)));
        let child = child_of(Named::Run(run), None, Some(3));
        assert_eq!(parent_of(&child), (run.to_string(), None, Some(3)));
    }
}
