//! Keys: at most N live runs for one value. Slots and queue are derived from the runs, so they cannot disagree.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::id::{Ms, RunId};
use crate::machine::{Consequence, End, Step};
use crate::reply::Refusal;
use crate::row::{RunRow, RunState};
use crate::run::Run;
use crate::workflow::{KeyStrategy, WorkflowDef};

/// The runs of one (workflow, key).
#[derive(Debug, Default)]
pub(crate) struct KeyQueue {
    /// Those that hold a place.
    pub(crate) live: BTreeSet<RunId>,
    /// Those that wait for one: highest priority first, then by arrival.
    pub(crate) waiting: BTreeSet<(Reverse<u8>, Ms, RunId)>,
}

pub(crate) fn waiting_spot(id: RunId, row: &RunRow) -> (Reverse<u8>, Ms, RunId) {
    (Reverse(row.priority), row.created_at, id)
}

impl Step<'_> {
    pub(crate) fn check_key_queue(&self, def: &WorkflowDef, key: Option<&str>) -> Result<(), Refusal> {
        let (Some(rule), Some(key)) = (def.key, key) else { return Ok(()) };
        let queued = self.t.keys.get(&(def.name.clone(), key.into())).map_or(0, |queue| queue.waiting.len());
        if rule.strategy == KeyStrategy::Queue && queued >= self.limits.key_queue_max {
            return Err(Refusal::Full {
                what: "runs waiting for this key",
                max: self.limits.key_queue_max,
                action: "wait for some to end, or cancel what is no longer wanted",
            });
        }
        Ok(())
    }

    /// Takes a place for a new run, or a place in the queue. Answers whether the run may begin.
    pub(crate) fn enter_key(&mut self, id: RunId) -> bool {
        let Some(run) = self.t.runs.get(&id) else { return false };
        let (Some(rule), Some(key)) = (run.def.key, run.row.key.clone()) else { return true };
        let spot = waiting_spot(id, &run.row);
        let queue = self.t.keys.entry((run.def.name.clone(), key.clone())).or_default();
        if queue.live.len() < rule.runs_max as usize {
            queue.live.insert(id);
            return true;
        }
        match rule.strategy {
            KeyStrategy::Queue => {
                queue.waiting.insert(spot);
            }
            KeyStrategy::CancelNewest => {
                let error = Some(format!("key {key:?} has {} live run(s) already", rule.runs_max));
                let end = End { state: RunState::Cancelled, output: None, error };
                self.agenda.push_back(Consequence::EndRun { run: id, end });
            }
            KeyStrategy::CancelInProgress => {
                // One that has something to undo keeps the place until that is done; who waits for it is the newest alone.
                let oldest = queue.live.first().and_then(|oldest| self.t.runs.get(oldest).map(|run| (*oldest, run)));
                if let Some((oldest, _)) =
                    oldest.filter(|(_, run)| run.row.guarded && run.row.state != RunState::Parked)
                {
                    let reason = format!("run {id} took its place for key {key:?}");
                    self.agenda.push_back(Consequence::CancelRun { run: oldest, reason: reason.clone() });
                    for (_, _, waiting) in core::mem::take(&mut queue.waiting) {
                        self.agenda.push_back(Consequence::CancelRun { run: waiting, reason: reason.clone() });
                    }
                    queue.waiting.insert(spot);
                    return false;
                }
                // The place changes hands at once, so that it can't go to anybody else in between.
                let oldest = queue.live.pop_first();
                queue.live.insert(id);
                if let Some(oldest) = oldest {
                    let error = Some(format!("run {id} took its place for key {key:?}"));
                    let end = End { state: RunState::Cancelled, output: None, error };
                    self.agenda.push_back(Consequence::EndRun { run: oldest, end });
                }
                return true;
            }
        }
        false
    }

    /// Gives a run's place back and lets the next one in, in the same decision.
    pub(crate) fn leave_key(&mut self, id: RunId, was_waiting: bool) {
        let Some(run) = self.t.runs.get(&id) else { return };
        let (Some(_), Some(key)) = (run.def.key, run.row.key.clone()) else { return };
        let spot = waiting_spot(id, &run.row);
        let place = (run.def.name.clone(), key);
        let Some(queue) = self.t.keys.get_mut(&place) else { return };
        if was_waiting {
            queue.waiting.remove(&spot);
        }
        queue.live.remove(&id);
        while let Some(&(_, _, next)) = queue.waiting.first() {
            // The rule is that of the one coming in: the one leaving may be of a version with another.
            let rule = self.t.runs.get(&next).and_then(|run| run.def.key);
            if rule.is_some_and(|rule| queue.live.len() >= rule.runs_max as usize) {
                break;
            }
            queue.waiting.pop_first();
            queue.live.insert(next);
            self.agenda.push_back(Consequence::BeginRun(next));
        }
        if queue.live.is_empty() && queue.waiting.is_empty() {
            self.t.keys.remove(&place);
        }
    }

    /// The runs of a key that have not ended, oldest first: those that hold a place and those that wait for one.
    pub(crate) fn look_at_key(&self, workflow: String, key: String) -> Vec<RunId> {
        let Some(queue) = self.t.keys.get(&(workflow, key)) else { return Vec::new() };
        let waiting = queue.waiting.iter().map(|(_, _, run)| *run);
        queue.live.iter().copied().chain(waiting).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) fn explain_key(&self, run: &Run) -> Option<String> {
        let key = run.row.key.as_deref()?;
        let queue = self.t.keys.get(&(run.def.name.clone(), key.into()))?;
        let holders = queue.live.iter().map(|holder| format!("{holder}")).collect::<alloc::vec::Vec<_>>().join(", ");
        Some(format!("waits for key {key:?}, which is held by run(s) {holders}; {} wait for it", queue.waiting.len()))
    }
}
