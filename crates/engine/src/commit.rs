//! Makes a batch durable, then, and only then, answers and releases its effects.

use std::sync::Arc;

use mainspring_core::Need;
use mainspring_store::log::{LogError, Position};
use mainspring_store::{Batch, PartitionLog};

use crate::decider::{DecidedBatch, Submission};
use crate::partition::{EngineError, Partition};

/// What makes batches durable. Owned by whoever writes at the moment.
#[derive(Debug)]
pub(crate) struct Committer {
    log: Box<dyn PartitionLog>,
}

/// A batch that is durable and whose answers and effects are not out yet.
#[derive(Debug)]
pub struct DurableBatch {
    batch: DecidedBatch,
    position: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) enum Appended {
    Durable(DurableBatch),
    /// Nobody may be told anything before it was settled.
    Unknown(DecidedBatch),
    /// The log takes no more; everybody concerned was told.
    Stopped,
}

impl Committer {
    pub(crate) fn new(log: Box<dyn PartitionLog>) -> Self {
        Committer { log }
    }

    pub(crate) fn append(&mut self, partition: &Partition, batch: DecidedBatch) -> Appended {
        if batch.writes.is_empty() {
            return Appended::Durable(DurableBatch { batch, position: partition.durable_position() });
        }
        let result = self.log.append(&[&batch.writes]);
        appended(partition, batch, result)
    }

    /// Finds out what became of a batch whose outcome was unknown, and appends it if it was not there.
    pub(crate) fn settle(&mut self, partition: &Partition, batch: DecidedBatch) -> Appended {
        match self.log.settle() {
            Ok(Some(position)) => appended(partition, batch, Ok(position)),
            Ok(None) => self.append(partition, batch),
            Err(error @ LogError::Unknown { .. }) => {
                tracing::debug!(%error, "still not known");
                Appended::Unknown(batch)
            }
            Err(error) => appended(partition, batch, Err(error)),
        }
    }

    /// Answers, lets the effects out, and gives what wants a fact loaded.
    pub(crate) fn release(&mut self, partition: &Partition, durable: DurableBatch) -> Vec<(Submission, Vec<Need>)> {
        let DurableBatch { batch, position } = durable;
        partition.hub.keep_payloads(batch.payloads);
        for (respond, answer) in batch.answers {
            respond(answer.map(|reply| (reply, position)).map_err(EngineError::Refused));
        }
        partition.hub.release(batch.effects);
        // Segments go once the applier has made the tables that contain them durable.
        if let Some(durable_in_tables) = partition.stats.take_checkpoint()
            && let Err(error) = self.log.remove_up_to(Position(durable_in_tables))
        {
            tracing::warn!(%error, "applied log segments could not be removed; they will be tried again");
        }
        batch.lookups
    }
}

fn appended(partition: &Partition, mut batch: DecidedBatch, result: Result<Position, LogError>) -> Appended {
    match result {
        Ok(Position(position)) => {
            let writes = std::mem::take(&mut batch.writes);
            partition.stats.wrote(batch.commands, writes.len());
            partition.unapplied.push(Arc::new(Batch::new(position, writes)));
            partition.set_durable(position);
            Appended::Durable(DurableBatch { batch, position })
        }
        Err(error @ LogError::Unknown { .. }) => {
            tracing::warn!(%error, "nobody is answered until it is known");
            Appended::Unknown(batch)
        }
        Err(error) => {
            let action = match &error {
                LogError::Fenced => "ask the process that has it",
                LogError::TooLarge { .. } => "report it as a bug: no decision should be as large",
                _ => "mend the disk and restart",
            };
            let cause = format!("{error}; {action}");
            partition.stop(cause.clone());
            answer_all(batch, &EngineError::Stopped { cause });
            Appended::Stopped
        }
    }
}

/// Tells everybody in a batch the same error.
pub(crate) fn answer_all(batch: DecidedBatch, error: &EngineError) {
    for (respond, _) in batch.answers {
        respond(Err(error.clone()));
    }
    for (submission, _) in batch.lookups {
        (submission.respond)(Err(error.clone()));
    }
}
