//! Appends of several partitions in one statement.
//!
//! A statement costs the database about as much for one batch as for twenty. So only few are under way at a time; whoever
//! wants to append meanwhile waits, and goes with all others that wait, carried by the first of them.
//!
//! Such a statement waits for nobody: a batch whose partition is locked, or is no longer its owner's, it leaves out, and
//! that one is appended by a statement of its own, which can tell the two apart. So the partitions of a node are never
//! held up by one of them.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::pool::Pool;
use crate::trouble::Trouble;

/// Statements under way at a time: while one waits for the disk, the next is worked on. Measured with
/// `cargo xtask bench cluster`.
const UNDER_WAY_MAX: usize = 2;
/// Bytes in one statement. A batch that is larger goes alone, and copied nowhere.
const TOGETHER_BYTES_MAX: usize = 1 << 20;

/// Locks the partition's row, so that a take-over waits for it and it for a take-over.
const ALONE: &str = "INSERT INTO batches (partition, position, epoch, attempt, body) \
     SELECT p.partition, $2::bigint, p.epoch, p.attempt, $5::bytea FROM partitions p \
     WHERE p.partition = $1 AND p.epoch = $3 AND p.attempt = $4 FOR NO KEY UPDATE";

/// The same for many, but for those whose row somebody has locked.
const TOGETHER: &str = "INSERT INTO batches (partition, position, epoch, attempt, body) \
     SELECT p.partition, n.position, p.epoch, p.attempt, n.body \
     FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[]) \
     AS n(partition, position, epoch, attempt, body) \
     JOIN partitions p ON p.partition = n.partition AND p.epoch = n.epoch AND p.attempt = n.attempt \
     FOR NO KEY UPDATE OF p SKIP LOCKED RETURNING partition, epoch";

/// Which batch: together these are its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchId {
    pub(crate) partition: i32,
    pub(crate) position: i64,
    pub(crate) epoch: i64,
    pub(crate) attempt: i64,
}

/// The way of all appends of a store.
pub(crate) struct Appends {
    /// For logs alone, so that no reader keeps one waiting.
    pub(crate) pool: Pool,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

/// A batch, and whom to tell.
struct Waiting {
    id: BatchId,
    body: Vec<u8>,
    told: Sender<Told>,
}

enum Told {
    Done(Outcome),
    /// It is this one's turn, to append its own batch, the first of these, with the others.
    Carry(Vec<Waiting>),
}

/// What came of a batch in a statement with others.
enum Outcome {
    Appended,
    /// It was left out.
    LeftOut,
    Failed(Trouble),
}

impl Appends {
    pub(crate) fn new(pool: Pool) -> Appends {
        Appends { pool, shared: Mutex::default() }
    }

    /// Appends a batch; false if its epoch or its attempt has ended. Any trouble but a refusal leaves it unknown.
    pub(crate) fn append(&self, id: BatchId, parts: &[&[u8]]) -> Result<bool, Trouble> {
        if parts.iter().map(|part| part.len()).sum::<usize>() > TOGETHER_BYTES_MAX {
            return self.alone(id, parts);
        }
        let (told, hears) = channel();
        let mine = Waiting { id, body: parts.concat(), told };
        let outcome = match self.turn(mine) {
            Some(mine) => self.carry(&[mine]),
            None => self.wait(&hears),
        };
        match outcome {
            Outcome::Appended => Ok(true),
            Outcome::LeftOut => self.alone(id, parts),
            Outcome::Failed(trouble) => Err(trouble),
        }
    }

    /// Gives a batch back if it is its turn already.
    fn turn(&self, mine: Waiting) -> Option<Waiting> {
        let mut shared = self.lock();
        if shared.under_way < UNDER_WAY_MAX {
            shared.under_way += 1;
            return Some(mine);
        }
        shared.waiting.push_back(mine);
        None
    }

    fn wait(&self, hears: &Receiver<Told>) -> Outcome {
        match hears.recv() {
            Ok(Told::Done(outcome)) => outcome,
            Ok(Told::Carry(all)) => self.carry(&all),
            Err(_) => Outcome::Failed(Trouble::Lost { cause: "the thread that appended for others ended".to_owned() }),
        }
    }

    /// Appends these, the first of which is the caller's, tells the others, and answers what came of the first.
    fn carry(&self, all: &[Waiting]) -> Outcome {
        let turn = Turn(self);
        let appended = self.together(all);
        drop(turn);
        let of = |one: &Waiting| match &appended {
            Ok(appended) if appended.contains(&(one.id.partition, one.id.epoch)) => Outcome::Appended,
            // What was refused was not done, and may be refused because of one of them.
            Ok(_) | Err(Trouble::Refused { .. }) => Outcome::LeftOut,
            Err(trouble) => Outcome::Failed(trouble.clone()),
        };
        for other in &all[1..] {
            // Whoever waits does so until it is told.
            let _ = other.told.send(Told::Done(of(other)));
        }
        of(&all[0])
    }

    fn together(&self, all: &[Waiting]) -> Result<HashSet<(i32, i64)>, Trouble> {
        let partitions: Vec<i32> = all.iter().map(|one| one.id.partition).collect();
        let positions: Vec<i64> = all.iter().map(|one| one.id.position).collect();
        let epochs: Vec<i64> = all.iter().map(|one| one.id.epoch).collect();
        let attempts: Vec<i64> = all.iter().map(|one| one.id.attempt).collect();
        let bodies: Vec<&[u8]> = all.iter().map(|one| &*one.body).collect();
        let rows = self.pool.lend()?.query(TOGETHER, &[&partitions, &positions, &epochs, &attempts, &bodies])?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn alone(&self, id: BatchId, parts: &[&[u8]]) -> Result<bool, Trouble> {
        let BatchId { partition, position, epoch, attempt } = id;
        let params: [&(dyn ToSql + Sync); 5] = [&partition, &position, &epoch, &attempt, &Parts(parts)];
        Ok(self.pool.lend()?.execute(ALONE, &params)? == 1)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic elsewhere does not make it wrong: each change is complete before it unlocks.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Appends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appends").finish_non_exhaustive()
    }
}

/// One of the statements that may be under way. When it ends, whoever waits has the next.
struct Turn<'a>(&'a Appends);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        let mut bytes = 0;
        let fit = shared.waiting.iter().take_while(|one| {
            bytes += one.body.len();
            bytes <= TOGETHER_BYTES_MAX
        });
        let some = fit.count();
        let mut next: Vec<Waiting> = shared.waiting.drain(..some).collect();
        match next.first() {
            None => shared.under_way -= 1,
            Some(first) => {
                let told = first.told.clone();
                // It waits until it is told.
                let _ = told.send(Told::Carry(std::mem::take(&mut next)));
            }
        }
    }
}

/// A batch, sent in the parts it came in.
#[derive(Debug)]
struct Parts<'a>(&'a [&'a [u8]]);

impl ToSql for Parts<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.iter().for_each(|part| out.extend_from_slice(part));
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::BYTEA
    }

    to_sql_checked!();
}
