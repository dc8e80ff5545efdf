//! A store moves: every row of one is put into another, of another kind or another number of partitions, and neither is
//! served until all of it is there.
//!
//! What makes it safe to stop at any point: rows are put as they are, so putting one again changes nothing; the target
//! keeps a *note* that says from where it is being filled and how far, and is refused to whoever serves while it has one;
//! the source is only read, after the tail of its log was applied to its own tables, and is marked as moved when the
//! target was read back and found equal, and nobody took the source meanwhile. Whatever is killed in between is finished by the same command again.
//!
//! What this module does not know: where the number of a tenant's partition comes from, or who holds a lease.

mod copy;
mod embedded;
mod note;

use std::fmt::Debug;
use std::sync::Arc;

use mainspring_core::Table;
use mainspring_core::id::TenantId;

use crate::backend::{PartitionLog, Rows, Store, StoreError, TableStore};
use crate::log::{LogError, Position};
use crate::reader::RawRows;
use crate::tables::TablesError;
use crate::unapplied::Batch;

pub use copy::Totals;
pub(crate) use embedded::note_in;
pub use note::{Note, Progress};

/// Bytes of a log's tail that are applied at once.
const TAIL_BYTES: usize = 8 << 20;

/// Which partition of so many a tenant lives in.
pub type Place = fn(TenantId, u16) -> u16;

/// A store that a move can read, fill, and mark.
pub trait Movable: Store {
    /// What it is called in what people read, the same for the same store; without secrets.
    fn name(&self) -> String;

    /// What a move has noted in it.
    ///
    /// # Errors
    /// [`StoreError`], as in every function here.
    fn note(&self) -> Result<Option<Note>, StoreError>;

    /// Notes something in it, durably.
    fn set_note(&self, note: Option<&Note>) -> Result<(), StoreError>;

    /// How many partitions it has, whatever is noted in it; none if it does not exist yet.
    fn kept(&self) -> Result<Option<u16>, StoreError>;

    /// Creates it with so many partitions, unless it exists; then it has as many as it has. It is not served before
    /// something was noted in it.
    fn create(&self, wanted: u16) -> Result<u16, StoreError>;

    /// Whether nothing was ever kept in it.
    fn is_empty(&self) -> Result<bool, StoreError>;

    /// Removes every row and every batch.
    fn clear(&self) -> Result<(), StoreError>;

    /// Names those who serve it right now, as far as the store knows them; whoever holds a lock is found out later.
    fn served_by(&self) -> Result<Vec<String>, StoreError>;

    /// A way to put rows into a partition past its log. Nobody else may fill or serve it from then on.
    fn filling(&self, partition: u16) -> Result<Box<dyn Filling>, TablesError>;

    /// A way to read a partition's tables, without taking it.
    fn reading(&self, partition: u16) -> Result<Arc<dyn Rows>, TablesError>;
}

/// Puts rows into a partition's tables as they are.
pub trait Filling: Debug {
    /// Puts rows of one table. Durable when it returns, or once [`Filling::settle`] does.
    ///
    /// # Errors
    /// [`TablesError`].
    fn put(&mut self, table: Table, rows: &RawRows) -> Result<(), TablesError>;

    /// Makes what was put durable.
    ///
    /// # Errors
    /// [`TablesError`].
    fn settle(&mut self) -> Result<(), TablesError>;
}

/// Why a store was not moved. Both are as they were, or as far as they were said to be.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Tables can't be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// It may not be moved like this.
    #[error("{why}")]
    Refused {
        /// Why, and what to do.
        why: String,
    },
}

/// A source that nobody serves any more, and whose tables hold everything.
#[derive(Debug)]
struct Held {
    /// Where its tables stand, by partition.
    standing: Vec<u64>,
    tables: Vec<Box<dyn TableStore>>,
    /// Keeps others out of it, where a lock does.
    logs: Vec<Box<dyn PartitionLog>>,
}

impl Held {
    /// Fails if somebody has taken a partition meanwhile, where no lock keeps them from it.
    fn is_still_ours(&self) -> Result<(), TablesError> {
        self.tables.iter().try_for_each(|tables| tables.applied().map(drop))
    }
}

/// Moves everything from one store to another. `wanted` is how many partitions the target gets if it is new. `tell` is told
/// of each step, and now and then of how far it is.
///
/// # Errors
/// [`MoveError`]: what was moved until then is taken up where it stood when it is called again.
pub fn move_store(
    from: &dyn Movable,
    to: &dyn Movable,
    wanted: u16,
    place: Place,
    tell: &mut dyn FnMut(&str),
) -> Result<Totals, MoveError> {
    let refuse = |why: String| Err(MoveError::Refused { why });
    let (source, target) = (from.name(), to.name());
    if source == target {
        return refuse(format!("{source} is both ends of the move: name two stores"));
    }
    let Some(count) = from.kept()? else { return refuse(format!("there is no store in {source}")) };
    let noted = to.note()?;
    match from.note()? {
        None => {}
        Some(Note::Moved { to: gone_to }) if gone_to == target => {
            // Killed between marking the one and opening the other.
            if let Some(Note::Filled { from: filled_from, totals }) = &noted
                && *filled_from == source
            {
                to.set_note(None)?;
                return Ok(totals.clone());
            }
            return refuse(format!("{source} was moved to {target} already: serve that"));
        }
        Some(Note::Moved { to: gone_to }) => return refuse(format!("{source} was moved to {gone_to}: move that")),
        Some(Note::Filling { .. } | Note::Filled { .. }) => {
            return refuse(format!("{source} is itself the target of a move that is not complete: finish that first"));
        }
    }
    for (store, name) in [(from, &source), (to, &target)] {
        let served = if store.kept()?.is_some() { store.served_by()? } else { Vec::new() };
        if !served.is_empty() {
            return refuse(format!("{name} is served by {}: stop it first", served.join(", ")));
        }
    }
    let held = hold(from, count, tell)?;
    let progress = match noted {
        None => {
            if to.kept()?.is_some() && !to.is_empty()? {
                return refuse(format!("{target} is not empty: name another, or remove what is in it"));
            }
            Progress::new(source.clone(), held.standing.clone())
        }
        Some(Note::Filling { progress }) if progress.from != source => {
            return refuse(format!("a move from {} to {target} is not complete: finish that first", progress.from));
        }
        Some(Note::Filling { progress }) if progress.standing == held.standing => {
            tell("an earlier move is taken up where it stood");
            progress
        }
        Some(Note::Filled { from: filled_from, .. }) if filled_from != source => {
            return refuse(format!("a move from {filled_from} to {target} is not complete: finish that first"));
        }
        Some(Note::Filling { .. } | Note::Filled { .. }) => {
            tell("the source was used since an earlier move was broken off: it begins anew");
            to.clear()?;
            Progress::new(source.clone(), held.standing.clone())
        }
        Some(Note::Moved { to: gone_to }) => {
            return refuse(format!("{target} was itself moved to {gone_to}: name another"));
        }
    };
    let partitions = to.create(wanted)?;
    to.set_note(Some(&Note::Filling { progress: progress.clone() }))?;
    tell(&format!("{count} partition(s) of {source} go to {partitions} of {target}"));
    let totals = copy::copy(from, to, (count, partitions), place, progress, tell)?;
    tell("everything is read back");
    let found = copy::totals(to, partitions, place, tell)?;
    if let Some(difference) = totals.difference(&found) {
        return refuse(format!("{target} is not what {source} is: {difference}; report it, and keep {source}"));
    }
    to.set_note(Some(&Note::Filled { from: source, totals: totals.clone() }))?;
    // Marked first and looked at then: whoever takes it later finds the mark.
    from.set_note(Some(&Note::Moved { to: target }))?;
    if let Err(taken) = held.is_still_ours() {
        from.set_note(None)?;
        return Err(taken.into());
    }
    to.set_note(None)?;
    Ok(totals)
}

/// Takes a store from whoever might serve it, and applies the tail of its logs to its tables.
fn hold(store: &dyn Movable, count: u16, tell: &mut dyn FnMut(&str)) -> Result<Held, MoveError> {
    let mut held = Held { standing: Vec::new(), tables: Vec::new(), logs: Vec::new() };
    for partition in 0..count {
        let (mut tables, _) = store.open_tables(partition)?;
        let applied = tables.applied()?;
        let (mut waiting, mut bytes, mut batches, mut failed) = (Vec::new(), 0, 0_u64, None);
        let log = store.open_log(partition, 0, Position(applied + 1), &mut |position, batch| {
            bytes += batch.len();
            batches += 1;
            waiting.push(Arc::new(Batch::new(position.0, batch.to_vec())));
            if bytes > TAIL_BYTES && failed.is_none() {
                failed = tables.apply(&waiting).err();
                waiting.clear();
                bytes = 0;
            }
        })?;
        if let Some(failed) = failed {
            return Err(failed.into());
        }
        tables.apply(&waiting)?;
        if batches > 0 {
            tell(&format!("partition {partition}: {batches} batch(es) of its log are applied to its tables"));
            tables.checkpoint()?;
        }
        held.standing.push(tables.applied()?);
        held.tables.push(tables);
        held.logs.push(log);
    }
    Ok(held)
}
