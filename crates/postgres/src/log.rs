//! The log of a partition: a row for each batch.

use std::sync::Arc;

use mainspring_store::PartitionLog;
use mainspring_store::log::{LogError, Position};

use crate::appends::{Appends, BatchId};
use crate::trouble::{Trouble, log_name, of_log};

/// Raises the attempt, and never lowers it: this too may arrive late.
const END_ATTEMPT: &str = "UPDATE partitions SET attempt = $3 WHERE partition = $1 AND epoch = $2 AND attempt < $3";

/// A partition's log, as its owner has it.
#[derive(Debug)]
pub(crate) struct PostgresLog {
    appends: Arc<Appends>,
    partition: u16,
    epoch: i64,
    /// Grows whenever the outcome of a batch was unknown.
    attempt: i64,
    next: Position,
    batch_bytes_max: usize,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Everything that was appended is known.
    Known,
    /// What became of the batch at the next position is not known; it was sent under this attempt.
    Unknown { sent: i64 },
    /// It takes no more.
    Ended { fenced: bool, cause: String },
}

impl PostgresLog {
    /// Opens it for the owner of `epoch` and shows every batch from `from` on.
    pub(crate) fn open(
        appends: Arc<Appends>,
        partition: u16,
        epoch: i64,
        batch_bytes_max: usize,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
        fail: &dyn Fn(Trouble) -> LogError,
    ) -> Result<PostgresLog, LogError> {
        let number = i32::from(partition);
        let mut connection = appends.pool.lend().map_err(fail)?;
        let sql = "SELECT epoch, attempt, removed FROM partitions WHERE partition = $1";
        let found = connection.query_one(sql, &[&number]).map_err(fail)?;
        let Some((found, attempt, removed)) = found.map(|row| (row.get::<_, i64>(0), row.get(1), row.get(2))) else {
            return Err(fail(Trouble::Refused { cause: format!("partition {partition} is gone") }));
        };
        if found != epoch {
            return Err(LogError::Fenced);
        }
        let (wanted, removed): (i64, i64) = (from.0 as i64, removed);
        if wanted <= removed {
            let first = Position(removed as u64 + 1);
            return Err(LogError::Gap { log: log_name(partition), wanted: from, first });
        }
        let (mut next, mut hole) = (from, None);
        let sql = "SELECT position, body FROM batches WHERE partition = $1 AND position >= $2 ORDER BY position";
        let shown = connection.each(sql, &[&number, &wanted], &mut |row| {
            let position = Position(row.get::<_, i64>(0) as u64);
            if position != next {
                hole.get_or_insert(next);
            }
            if hole.is_none() {
                visit(position, row.get(1));
                next = next.next();
            }
        });
        shown.map_err(fail)?;
        if let Some(hole) = hole {
            let cause = format!("batch {hole} is missing and later ones are there; restore the database from a backup");
            return Err(LogError::Unusable { log: log_name(partition), cause });
        }
        if next == from {
            // Nothing is at or behind it, so the end may be before it.
            let sql = "SELECT coalesce(max(position), 0) FROM batches WHERE partition = $1";
            let last = connection.query_one(sql, &[&number]).map_err(fail)?.map_or(0, |row| row.get::<_, i64>(0));
            let end = Position(last.max(removed) as u64).next();
            if end != from {
                return Err(LogError::Behind { log: log_name(partition), wanted: from, next: end });
            }
        }
        // Whoever took the partition over while this was read has seen all of it, and appends behind it.
        drop(connection);
        Ok(PostgresLog { appends, partition, epoch, attempt, next, batch_bytes_max, state: State::Known })
    }

    fn number(&self) -> i32 {
        i32::from(self.partition)
    }

    /// Remembers what makes it impossible to go on.
    fn end(&mut self, error: LogError) -> LogError {
        let fenced = matches!(error, LogError::Fenced);
        self.state = State::Ended { fenced, cause: error.to_string() };
        error
    }

    fn ended(&self) -> Result<(), LogError> {
        match &self.state {
            State::Ended { fenced: true, .. } => Err(LogError::Fenced),
            State::Ended { fenced: false, cause } => Err(LogError::Poisoned { cause: cause.clone() }),
            State::Known | State::Unknown { .. } => Ok(()),
        }
    }

    fn failed(&mut self, trouble: &Trouble) -> LogError {
        match of_log(self.partition, trouble) {
            unknown @ LogError::Unknown { .. } => unknown,
            other => self.end(other),
        }
    }
}

impl PartitionLog for PostgresLog {
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        self.ended()?;
        assert!(self.state == State::Known, "a batch is appended while it is not known what became of the last");
        let bytes = parts.iter().map(|part| part.len()).sum();
        if bytes > self.batch_bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max: self.batch_bytes_max });
        }
        let (partition, position) = (self.number(), self.next.0 as i64);
        let id = BatchId { partition, position, epoch: self.epoch, attempt: self.attempt };
        match self.appends.append(id, parts) {
            Ok(true) => {
                let position = self.next;
                self.next = position.next();
                Ok(position)
            }
            Ok(false) => Err(self.end(LogError::Fenced)),
            Err(trouble) => {
                self.state = State::Unknown { sent: self.attempt };
                Err(self.failed(&trouble))
            }
        }
    }

    fn settle(&mut self) -> Result<Option<Position>, LogError> {
        self.ended()?;
        let State::Unknown { sent } = self.state else {
            let cause = "a batch's outcome was asked for that was never unknown".to_owned();
            return Err(self.end(LogError::Poisoned { cause }));
        };
        // A number of its own at each try, so that a try that arrives late ends no attempt that came after it.
        self.attempt += 1;
        let position = self.next;
        let settled = self.appends.pool.lend().and_then(|mut connection| {
            let (number, at) = (self.number(), position.0 as i64);
            // Waits for a statement that holds the partition's row, and takes its ground from one that is still to come.
            // Looked at in a statement of its own: what that one waited for, its snapshot would not show.
            if connection.execute(END_ATTEMPT, &[&number, &self.epoch, &self.attempt])? == 0 {
                return Ok(None);
            }
            let sql = "SELECT 1 FROM batches WHERE partition = $1 AND position = $2 AND epoch = $3 AND attempt = $4";
            Ok(Some(connection.query_one(sql, &[&number, &at, &self.epoch, &sent])?.is_some()))
        });
        match settled {
            Ok(None) => Err(self.end(LogError::Fenced)),
            Ok(Some(found)) => {
                self.state = State::Known;
                if found {
                    self.next = position.next();
                }
                Ok(found.then_some(position))
            }
            Err(trouble) => Err(self.failed(&trouble)),
        }
    }

    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError> {
        self.ended()?;
        // No further than there is: a position that nobody has written yet is not contained in anything.
        let up_to = contained.0.min(self.next.0 - 1) as i64;
        // Fenced like an append: what a later owner keeps is that owner's to say.
        let sql = "WITH p AS (UPDATE partitions SET removed = $3 \
             WHERE partition = $1 AND epoch = $2 AND removed < $3 RETURNING partition) \
             DELETE FROM batches b USING p WHERE b.partition = p.partition AND b.position <= $3";
        let removed = self
            .appends
            .pool
            .lend()
            .and_then(|mut connection| connection.execute(sql, &[&self.number(), &self.epoch, &up_to]));
        // Not known at worst, and then it is done again.
        removed.map(drop).map_err(|trouble| of_log(self.partition, &trouble))
    }

    fn next(&self) -> Position {
        self.next
    }
}
