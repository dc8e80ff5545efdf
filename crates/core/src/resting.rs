//! The live runs of a tenant, most of which only wait.
//!
//! A run that waits for hours needs little of what a run at work does: where it is found, its timers, and what it counts
//! as. So beyond a number of them, runs that rest are packed into a few bytes and unpacked when somebody looks at them.
//! Whoever uses a run does not notice: it is found as it was left. What is looked at and not changed is not packed again,
//! as its bytes are still there.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::RunId;
use crate::reply::Counts;
use crate::row::{RunRow, RunState, TaskRow, TaskState};
use crate::run::Run;
use crate::workflow::WorkflowDef;

/// The live runs of a tenant, in the order of their ids.
#[derive(Default)]
pub(crate) struct Runs {
    slots: BTreeMap<RunId, Slot>,
    /// How many are not packed.
    awake: Cell<usize>,
    /// Runs that were unpacked since runs were last sent to rest.
    woken: RefCell<Vec<RunId>>,
}

/// A run that is awake, or at rest, or, having been looked at and not changed, both.
struct Slot {
    awake: OnceCell<Box<Run>>,
    rest: Option<Rest>,
}

/// A run at rest.
struct Rest {
    packed: Box<[u8]>,
    def: Arc<WorkflowDef>,
    state: RunState,
    queued: u16,
    suspended: u16,
}

/// How many of a run's tasks are in the states that somebody asks for.
#[derive(Default)]
struct Tally {
    queued: u16,
    running: u16,
    judged: u16,
    suspended: u16,
}

impl Tally {
    fn of(tasks: &[TaskRow]) -> Tally {
        let mut tally = Tally::default();
        for task in tasks {
            match task.state {
                TaskState::Queued { .. } => tally.queued += 1,
                TaskState::Running { .. } => tally.running += 1,
                TaskState::Judged { .. } => tally.judged += 1,
                TaskState::Suspended { .. } => tally.suspended += 1,
                TaskState::Blocked
                | TaskState::Backoff { .. }
                | TaskState::Parked
                | TaskState::Completed
                | TaskState::Failed
                | TaskState::Cancelled
                | TaskState::Skipped => {}
            }
        }
        tally
    }
}

/// What is packed. In memory only, so it has no version.
#[derive(Serialize, Deserialize)]
struct Packed<R, T, C, N> {
    row: R,
    tasks: T,
    children: C,
    named: N,
    log_lines: u32,
}

type Unpacked = Packed<RunRow, Vec<TaskRow>, BTreeSet<RunId>, BTreeMap<(u16, String), RunId>>;

impl Rest {
    /// Packs a run, if it waits for something that is found without looking at it.
    fn of(run: &Run) -> Option<Rest> {
        let Tally { queued, running, judged, suspended } = Tally::of(&run.tasks);
        // Somebody is at work on it, or is to be asked again after a restart.
        if running + judged > 0 {
            return None;
        }
        // A task is packed as its row is written, which leaves those entries out that have rows of their own.
        if run.tasks.iter().any(|task| task.pending.values().any(|pending| pending.apart)) {
            return None;
        }
        let Run { row, def, tasks, children, named, log_lines } = run;
        let packed = postcard::to_allocvec(&Packed { row, tasks, children, named, log_lines: *log_lines });
        // Rows hold nothing that refuses to be serialised. If one did, the run would stay awake, which is only larger.
        let packed = packed.ok()?.into_boxed_slice();
        Some(Rest { packed, def: Arc::clone(def), state: row.state, queued, suspended })
    }

    fn unpack(&self) -> Box<Run> {
        match postcard::from_bytes::<Unpacked>(&self.packed) {
            Ok(Packed { row, tasks, children, named, log_lines }) => {
                let mut run = Run::new(row, Arc::clone(&self.def), tasks);
                (run.children, run.named, run.log_lines) = (children, named, log_lines);
                Box::new(run)
            }
            Err(error) => unreachable!("what was packed here is unpacked here: {error}"),
        }
    }
}

impl Runs {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn contains_key(&self, id: &RunId) -> bool {
        self.slots.contains_key(id)
    }

    pub(crate) fn get(&self, id: &RunId) -> Option<&Run> {
        let slot = self.slots.get(id)?;
        if let Some(run) = slot.awake.get() {
            return Some(run);
        }
        let rest = slot.rest.as_ref()?;
        self.awake.set(self.awake.get() + 1);
        self.woken.borrow_mut().push(*id);
        Some(slot.awake.get_or_init(|| rest.unpack()))
    }

    pub(crate) fn get_mut(&mut self, id: &RunId) -> Option<&mut Run> {
        self.get(id)?;
        let slot = self.slots.get_mut(id)?;
        // It is about to change.
        slot.rest = None;
        slot.awake.get_mut().map(Box::as_mut)
    }

    pub(crate) fn insert(&mut self, id: RunId, run: Run) {
        self.remove(&id);
        self.slots.insert(id, Slot { awake: OnceCell::from(Box::new(run)), rest: None });
        self.awake.set(self.awake.get() + 1);
    }

    pub(crate) fn remove(&mut self, id: &RunId) {
        if self.slots.remove(id).is_some_and(|slot| slot.awake.get().is_some()) {
            self.awake.set(self.awake.get() - 1);
        }
    }

    /// Those that are awake. None that rests is with a worker or is judged.
    pub(crate) fn awake(&self) -> impl Iterator<Item = (&RunId, &Run)> {
        self.slots.iter().filter_map(|(id, slot)| Some((id, slot.awake.get()?.as_ref())))
    }

    /// Sends runs that were used to rest, those of them that wait, as long as more than `awake_max` are awake.
    pub(crate) fn rest(&mut self, used: impl Iterator<Item = RunId>, awake_max: usize) {
        let woken = core::mem::take(self.woken.get_mut());
        if self.awake.get() <= awake_max {
            return;
        }
        for id in woken.into_iter().chain(used) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let Some(run) = slot.awake.get() else { continue };
            if slot.rest.is_none() {
                slot.rest = Rest::of(run);
            }
            if slot.rest.is_some() {
                slot.awake.take();
                self.awake.set(self.awake.get() - 1);
            }
            if self.awake.get() <= awake_max {
                break;
            }
        }
    }

    /// Adds what there is to counts.
    pub(crate) fn count(&self, counts: &mut Counts) {
        counts.runs_live += self.slots.len() as u64;
        for slot in self.slots.values() {
            let (state, tally) = match (slot.awake.get(), &slot.rest) {
                (Some(run), _) => (run.row.state, Tally::of(&run.tasks)),
                (None, Some(rest)) => {
                    (rest.state, Tally { queued: rest.queued, suspended: rest.suspended, ..Tally::default() })
                }
                (None, None) => unreachable!("a run is awake or at rest"),
            };
            counts.tasks_queued += u64::from(tally.queued);
            counts.tasks_running += u64::from(tally.running);
            counts.tasks_suspended += u64::from(tally.suspended);
            match state {
                RunState::Queued => counts.runs_queued += 1,
                RunState::Parked => counts.runs_parked += 1,
                RunState::Running => {}
                RunState::Completed | RunState::Failed | RunState::Cancelled | RunState::Superseded => {
                    unreachable!("a run that ended is not resident")
                }
            }
        }
    }
}

/// As a map of runs, whether they are at rest or not, and without waking any.
impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (id, slot) in &self.slots {
            match (slot.awake.get(), &slot.rest) {
                (Some(run), _) => map.entry(id, run),
                (None, Some(rest)) => map.entry(id, &rest.unpack()),
                (None, None) => unreachable!("a run is awake or at rest"),
            };
        }
        map.finish()
    }
}
