//! A partition without threads: whoever holds it says when what is done. A simulator interleaves, delays and interrupts
//! the very steps that `threads` takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mainspring_core::Need;

use crate::applier::Applier;
use crate::commit::{Appended, Committer, DurableBatch};
use crate::decider::{DecidedBatch, Decider, Submission};
use crate::loader;
use crate::partition::Partition;

/// Bytes applied in one step at most.
const APPLY_BYTES_MAX: usize = 64 * 1024;

/// One partition, moved by hand.
#[derive(Debug)]
pub struct Driven {
    partition: Arc<Partition>,
    decider: Decider,
    committer: Committer,
    applier: Applier,
    unknown: Option<DecidedBatch>,
    wanted: VecDeque<(Submission, Vec<Need>)>,
}

/// What became of an append.
#[derive(Debug)]
pub enum Written {
    /// It is durable: release it.
    Durable(DurableBatch),
    /// It is not known; ask [`Driven::settle`] later, and append nothing before that.
    Unknown,
    /// The log takes no more; everybody was told.
    Stopped,
}

impl Driven {
    pub(crate) fn new(partition: Arc<Partition>, decider: Decider, committer: Committer, applier: Applier) -> Self {
        Driven { partition, decider, committer, applier, unknown: None, wanted: VecDeque::new() }
    }

    /// Whether there is something to decide.
    pub fn wants_to_decide(&mut self) -> bool {
        let now = self.decider.now(&*self.partition.world);
        self.partition.has_submissions() || self.decider.tick_due(now)
    }

    /// Whether something decided waits for the log.
    pub fn wants_to_append(&self) -> bool {
        self.decider.has_work() && self.unknown.is_none()
    }

    /// How long to wait for something to be submitted before looking at the clock again.
    pub fn wait(&mut self) -> Duration {
        let now = self.decider.now(&*self.partition.world);
        self.decider.wait(now)
    }

    /// Decides everything submitted so far, and fires what is due.
    pub fn decide(&mut self) {
        let now = self.decider.now(&*self.partition.world);
        for submission in self.partition.take_submissions() {
            self.decider.decide(now, submission);
        }
        if self.decider.tick_due(now) {
            self.decider.tick(now);
        }
    }

    /// Takes what was decided as one batch. Batches are appended in the order they are taken.
    pub fn take_batch(&mut self) -> DecidedBatch {
        self.decider.take_batch()
    }

    /// Appends a batch to the log.
    pub fn append(&mut self, batch: DecidedBatch) -> Written {
        assert!(self.unknown.is_none(), "an unknown outcome is settled before the next batch");
        let appended = self.committer.append(&self.partition, batch);
        self.written(appended)
    }

    /// Asks what became of a batch whose outcome was unknown.
    ///
    /// # Panics
    /// If there is none.
    pub fn settle(&mut self) -> Written {
        match self.unknown.take() {
            Some(batch) => {
                let appended = self.committer.settle(&self.partition, batch);
                self.written(appended)
            }
            None => panic!("no batch is in doubt"),
        }
    }

    fn written(&mut self, appended: Appended) -> Written {
        match appended {
            Appended::Durable(durable) => Written::Durable(durable),
            Appended::Unknown(batch) => {
                self.unknown = Some(batch);
                Written::Unknown
            }
            Appended::Stopped => Written::Stopped,
        }
    }

    /// Answers, and lets the effects of a durable batch out.
    pub fn release(&mut self, durable: DurableBatch) {
        self.wanted.extend(self.committer.release(&self.partition, durable));
    }

    /// Loads one fact that a submission waits for. Answers whether there was one.
    pub fn load(&mut self) -> bool {
        let Some((submission, need)) = self.wanted.pop_front() else { return false };
        loader::load(&self.partition, submission, need);
        true
    }

    /// Whether a submission waits for a fact.
    pub fn wants_to_load(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether durable batches are not in the tables yet.
    pub fn wants_to_apply(&self) -> bool {
        self.partition.unapplied.bytes() > 0
    }

    /// Applies the oldest durable batches to the tables. Answers whether nothing more waits.
    pub fn apply(&mut self) -> bool {
        let batches = self.partition.unapplied.oldest(APPLY_BYTES_MAX);
        self.applier.apply(&self.partition, &batches) && self.partition.unapplied.bytes() == 0
    }

    /// Makes the tables durable as far as they are applied.
    pub fn checkpoint(&mut self) {
        self.applier.checkpoint(&self.partition);
    }

    /// Ends as a killed process does: nothing more is decided or made durable. Whoever waits hears that the engine is
    /// shutting down.
    pub fn abandon(self) {
        self.partition.close();
        drop(self.partition.take_submissions());
    }
}
