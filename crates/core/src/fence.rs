//! Fences: on whose behalf something outside works, and whether it still may.
//!
//! A step whose work is done elsewhere (an agent is asked) *begins* in the journal. The place of that entry is its
//! fence: whoever works on its behalf shows it with everything it asks meanwhile. The fence falls when the step's
//! result is recorded, when it is interrupted, when it begins again after a crash, and when its run ends; what a former
//! holder asks from then on is refused. So one holder at a time can do anything, whoever else still runs somewhere.

use crate::command::Claim;
use crate::id::TaskId;
use crate::machine::Step;
use crate::reply::{Refusal, Reply};

/// The right to act on behalf of a step that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence {
    /// The task whose step it is.
    pub task: TaskId,
    /// The journal position at which the step began.
    pub position: u32,
}

impl Step<'_> {
    pub(crate) fn check_fence(&self, fence: Fence) -> Result<(), Refusal> {
        match self.t.task(fence.task) {
            Some(row) if row.fence == Some(fence.position) => Ok(()),
            Some(_) | None => Err(Refusal::StaleFence { run: fence.task.run }),
        }
    }

    /// How things stand for whoever holds a fence.
    pub(crate) fn look_at_fence(&mut self, fence: Fence) -> Result<Reply, Refusal> {
        self.check_fence(fence)?;
        let unread = self.unread_messages(fence.task.run);
        let committed = self.inbox_closed(fence.task.run);
        Ok(Reply::Standing { unread, committed })
    }

    /// Takes no more messages for the run from here on: its work can't be taken back any more.
    pub(crate) fn pass_commit_point(&mut self, fence: Fence) -> Result<Reply, Refusal> {
        self.check_fence(fence)?;
        let unread = self.unread_messages(fence.task.run);
        self.close_inbox(fence.task.run);
        Ok(Reply::Standing { unread, committed: true })
    }

    /// Ends the right of whoever works on behalf of the present step, unless its work can't be taken back any more.
    /// Answers whether it did. Asking again changes nothing.
    pub(crate) fn interrupt(&mut self, claim: Claim) -> Result<Reply, Refusal> {
        self.claimed(&claim)?;
        if self.inbox_closed(claim.task.run) {
            return Ok(Reply::Interrupted(false));
        }
        self.drop_fence(claim.task);
        Ok(Reply::Interrupted(true))
    }

    pub(crate) fn drop_fence(&mut self, task: TaskId) {
        if let Some(row) = self.t.task_mut(task)
            && row.fence.take().is_some()
        {
            self.dirty_task(task);
        }
    }
}
