//! Loads facts that decisions need and that are not resident, off the deciding thread.

use std::sync::mpsc::Receiver;

use mainspring_core::Need;

use crate::decider::Submission;
use crate::partition::{EngineError, Partition};

/// Loads what is asked for until nobody can ask any more.
pub(crate) fn run(partition: &Partition, wanted: &Receiver<(Submission, Need)>) {
    while let Ok((submission, need)) = wanted.recv() {
        load(partition, submission, need);
    }
}

/// Loads one fact; the submission goes back to the inbox with it. Called once everything decided before is durable, so
/// that the fact can't be older than what the core has let go of.
pub(crate) fn load(partition: &Partition, mut submission: Submission, need: Need) {
    match partition.reader.fact(submission.tenant, need) {
        Ok(fact) => {
            submission.facts.insert(need, fact);
            partition.resubmit(submission);
        }
        Err(error) => (submission.respond)(Err(EngineError::Unreadable { cause: error.to_string() })),
    }
}
