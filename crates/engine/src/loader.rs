//! Loads facts that decisions need and that are not resident, off the deciding thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use mainspring_core::Need;

use crate::decider::Submission;
use crate::partition::{EngineError, Partition, spawn};

/// The queue to the loading thread.
pub(crate) struct Loader {
    queue: Sender<(Submission, Need)>,
}

impl Loader {
    pub(crate) fn start(partition: Arc<Partition>) -> std::io::Result<(Loader, JoinHandle<()>)> {
        let (queue, wanted) = channel();
        let thread = spawn("mainspring-load", move || load_all(&partition, &wanted))?;
        Ok((Loader { queue }, thread))
    }

    /// Asks for a fact. The submission comes back to the inbox with it. Called once everything decided before is
    /// durable, so that the fact can't be older than what the core has let go of.
    pub(crate) fn load(&self, submission: Submission, need: Need) {
        if let Err(unsent) = self.queue.send((submission, need)) {
            (unsent.0.0.respond)(Err(EngineError::ShuttingDown));
        }
    }
}

fn load_all(partition: &Partition, wanted: &Receiver<(Submission, Need)>) {
    while let Ok((mut submission, need)) = wanted.recv() {
        match partition.reader.fact(submission.tenant, need) {
            Ok(fact) => {
                submission.facts.insert(need, fact);
                partition.resubmit(submission);
            }
            Err(error) => (submission.respond)(Err(EngineError::Unreadable { cause: error.to_string() })),
        }
    }
}
