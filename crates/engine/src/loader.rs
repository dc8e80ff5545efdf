//! Loads facts that decisions need and that are not resident, off the deciding thread.

use std::sync::mpsc::Receiver;

use mainspring_core::Need;

use crate::decider::Submission;
use crate::partition::{EngineError, Partition};

/// Loads what is asked for until nobody can ask any more.
pub(crate) fn run(partition: &Partition, wanted: &Receiver<(Submission, Vec<Need>)>) {
    while let Ok((submission, needs)) = wanted.recv() {
        load(partition, submission, needs);
    }
}

/// Loads facts; the submission goes back to the inbox with them. Called once everything decided before is durable, so
/// that the fact can't be older than what the core has let go of.
pub(crate) fn load(partition: &Partition, mut submission: Submission, needs: Vec<Need>) {
    for need in needs {
        match partition.reader.fact(submission.tenant, need.clone()) {
            Ok(fact) => {
                submission.facts.insert(need, fact);
            }
            Err(error) => {
                (submission.respond)(Err(EngineError::Unreadable { cause: error.to_string() }));
                return;
            }
        }
    }
    partition.resubmit(submission);
}
