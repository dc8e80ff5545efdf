//! A verdict on a task that is due: whether it runs, and what it takes from limits.
//!
//! Some definitions say so by expressions over inputs and outputs. Payloads are not resident and expressions are not
//! the core's language, so the core asks: it records that the task is being judged, and whoever can read both answers.
//! The question is asked again after a restart; an answer to a question that is settled changes nothing.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::effect::Effect;
use crate::id::TaskId;
use crate::machine::Step;
use crate::rate::RateUse;
use crate::reply::{Refusal, Reply};
use crate::row::TaskState;

/// A verdict.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It runs.
    Run {
        /// What it takes from limits, beside what its definition says.
        rates: Vec<RateUse>,
        /// What the verdict was founded on, for the task to read.
        grounds: Option<Bytes>,
    },
    /// It is not needed: its children take it for completed.
    Skip,
    /// It must not run.
    Cancel {
        /// Why.
        reason: String,
    },
    /// It can't be told.
    Fail {
        /// Why.
        error: String,
    },
}

impl Step<'_> {
    /// A task whose time has come: judged first if its definition says so, queued otherwise.
    pub(crate) fn task_due(&mut self, id: TaskId) {
        let now = self.now;
        let judged = self.t.runs.get(&id.run).is_some_and(|run| run.def.tasks[usize::from(id.index)].judged);
        if !judged {
            self.queue_attempt(id);
            return;
        }
        if let Some(task) = self.t.task_mut(id) {
            task.state = TaskState::Judged { since: now };
        }
        self.dirty_task(id);
        self.out.effect(Effect::Judge { tenant: self.tenant, task: id });
    }

    pub(crate) fn judge(&mut self, id: TaskId, verdict: Verdict) -> Result<Reply, Refusal> {
        if !self.t.task(id).is_some_and(|task| matches!(task.state, TaskState::Judged { .. })) {
            return Ok(Reply::Done);
        }
        match verdict {
            Verdict::Run { rates, grounds } => {
                // Whatever can't be kept fails the task: refused, it would wait for a verdict for ever.
                let kept = grounds.as_ref().map_or(Ok(()), |found| {
                    self.check_payload("what met the conditions of the task, its parents' outputs together,", found)
                });
                if let Err(refusal) = kept.and_then(|()| self.admit_rates(&rates)) {
                    self.end_task(id, TaskState::Failed, None, Some(alloc::format!("{refusal}")));
                    self.task_ended(id);
                    return Ok(Reply::Done);
                }
                let grounds = grounds.map(|grounds| self.store_payload(grounds));
                if let Some(task) = self.t.task_mut(id) {
                    task.rates = rates;
                    task.grounds = grounds;
                }
                self.queue_attempt(id);
            }
            Verdict::Skip => self.skip_task(id),
            Verdict::Cancel { reason } => {
                let reason = self.kept_text(reason);
                self.end_task(id, TaskState::Cancelled, None, Some(reason));
                self.task_ended(id);
            }
            Verdict::Fail { error } => {
                let error = self.kept_text(error);
                self.end_task(id, TaskState::Failed, None, Some(error));
                self.task_ended(id);
            }
        }
        Ok(Reply::Done)
    }

    fn skip_task(&mut self, id: TaskId) {
        self.end_task(id, TaskState::Skipped, None, None);
        self.task_ended(id);
    }
}
