//! Tables in memory, behind the same trait as SQLite: commits after the last checkpoint may be lost with the power, the
//! latest first; they are away for a while; a commit takes place and says it failed; an old one comes again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainspring_core::Table;
use mainspring_core::id::{Ms, RunId, TenantId};
use mainspring_core::row::{self, EventRow, MessageRow, MessageState, RunRow};
use mainspring_core::write::Op;
use mainspring_store::backend::{Range, end_of, run_bounds};
use mainspring_store::reader::RawRows;
use mainspring_store::retention::{Retention, Sweep, Swept};
use mainspring_store::tables::{Applied, fold};
use mainspring_store::{Batch, Rows, RunFilter, TableStore, TablesError};

use crate::chance::Chance;

type Key = (Table, Vec<u8>);

/// One partition's tables. What is cloned is the way to them.
#[derive(Debug, Clone)]
pub struct SimTables(Arc<Mutex<State>>);

/// What goes wrong with tables, in so many of a thousand commits.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableFaults {
    /// Nothing happens, and an error is answered.
    pub refused: u64,
    /// It happens, and an error is answered.
    pub unheard: u64,
    /// It happens, and a request from before arrives a second time.
    pub repeated: u64,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    rows: BTreeMap<Key, Vec<u8>>,
    position: u64,
    /// Commits since the last checkpoint, each with what it replaced and where the tables stood before.
    since_checkpoint: Vec<Commit>,
    earlier: Vec<Arc<Batch>>,
    away: bool,
    faults: TableFaults,
    repeats: u64,
}

/// Where the tables stood before it, and the rows it replaced.
type Commit = (u64, Vec<(Key, Option<Vec<u8>>)>);

impl SimTables {
    /// Empty tables.
    pub fn new(chance: Chance) -> Self {
        SimTables(Arc::new(Mutex::new(State {
            chance,
            rows: BTreeMap::new(),
            position: 0,
            since_checkpoint: Vec::new(),
            earlier: Vec::new(),
            away: false,
            faults: TableFaults::default(),
            repeats: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They do not answer, or do again.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: TableFaults) {
        self.lock().faults = faults;
    }

    /// Loses some of the commits since the last checkpoint, the latest first. Answers how many.
    pub fn lose_power(&self) -> usize {
        let mut state = self.lock();
        let most = state.since_checkpoint.len() as u64;
        let lost = state.chance.below(most + 1) as usize;
        for _ in 0..lost {
            let Some((position, replaced)) = state.since_checkpoint.pop() else { break };
            for (key, body) in replaced.into_iter().rev() {
                match body {
                    Some(body) => state.rows.insert(key, body),
                    None => state.rows.remove(&key),
                };
            }
            state.position = position;
        }
        state.earlier.clear();
        lost
    }

    /// The position they stand at.
    pub fn position(&self) -> u64 {
        self.lock().position
    }

    /// How often an old request came again.
    pub fn repeats(&self) -> u64 {
        self.lock().repeats
    }

    /// Every row, for the books to compare.
    pub fn each(&self, mut each: impl FnMut(Table, &[u8], &[u8])) {
        for ((table, key), body) in &self.lock().rows {
            each(*table, key, body);
        }
    }
}

impl State {
    fn here(&self) -> Result<(), TablesError> {
        if self.away { Err(TablesError::Unavailable { cause: "simulated: away".to_owned() }) } else { Ok(()) }
    }

    fn commit(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError> {
        let (applied, folded) = fold(batches, self.position)?;
        if folded.is_empty() && applied.position == self.position {
            return Ok(applied);
        }
        // Before anything is changed: an error leaves the tables as they were.
        folded.iter().try_for_each(|(&(table, _), body)| body.map_or(Ok(()), |body| readable(table, body)))?;
        let mut replaced = Vec::with_capacity(folded.len());
        for ((table, key), body) in folded {
            let key = (table, key.to_vec());
            let before = match body {
                Some(body) => self.rows.insert(key.clone(), body.to_vec()),
                None => self.rows.remove(&key),
            };
            replaced.push((key, before));
        }
        self.since_checkpoint.push((self.position, replaced));
        self.position = applied.position;
        Ok(applied)
    }
}

/// Rows that tables look into are refused if they can't be read, as SQLite's are.
fn readable(table: Table, body: &[u8]) -> Result<(), TablesError> {
    let read = match table {
        Table::Run => row::decode::<RunRow>(body).map(drop),
        Table::Message => row::decode::<MessageRow>(body).map(drop),
        Table::Event => row::decode::<EventRow>(body).map(drop),
        Table::Meta
        | Table::Tenant
        | Table::Workflow
        | Table::Task
        | Table::Journal
        | Table::Inbox
        | Table::Idempotency
        | Table::Token
        | Table::Payload
        | Table::Worker
        | Table::Rate
        | Table::Child
        | Table::Log
        | Table::Document
        | Table::Revision
        | Table::Stream
        | Table::StreamPart
        | Table::StreamEntry
        | Table::StreamEntryId
        | Table::StreamGroup
        | Table::StreamProgress
        | Table::Pending => Ok(()),
    };
    read.map_err(|source| TablesError::Row { table, source })
}

impl TableStore for SimTables {
    fn applied(&self) -> Result<u64, TablesError> {
        let state = self.lock();
        state.here()?;
        Ok(state.position)
    }

    fn live_rows(&self, each: &mut dyn FnMut(Op<'_>)) -> Result<(), TablesError> {
        let state = self.lock();
        state.here()?;
        let live_run = |key: &[u8]| {
            let run = state.rows.get(&(Table::Run, key.get(..32)?.to_vec()))?;
            row::decode::<RunRow>(run).ok().map(|run| !run.state.ended())
        };
        for ((table, key), body) in &state.rows {
            let wanted = match table {
                Table::Run | Table::Task | Table::Child => live_run(key).unwrap_or(false),
                Table::Message => row::decode::<MessageRow>(body)
                    .is_ok_and(|message| !matches!(message.state, MessageState::Done { .. })),
                Table::Meta
                | Table::Tenant
                | Table::Workflow
                | Table::Inbox
                | Table::Idempotency
                | Table::Token
                | Table::Worker
                | Table::Rate
                | Table::Stream
                | Table::StreamPart
                | Table::StreamGroup
                | Table::StreamProgress
                | Table::Pending => true,
                Table::StreamEntry | Table::StreamEntryId => false,
                Table::Journal | Table::Event | Table::Payload | Table::Log | Table::Document | Table::Revision => {
                    false
                }
            };
            if wanted {
                each(Op { table: *table, key, body: Some(body) });
            }
        }
        Ok(())
    }

    fn apply(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError> {
        let mut state = self.lock();
        state.here()?;
        let faults = state.faults;
        if state.chance.permille(faults.refused) {
            return Err(TablesError::Unavailable { cause: "simulated: refused".to_owned() });
        }
        let applied = state.commit(batches)?;
        if state.chance.permille(faults.repeated) && !state.earlier.is_empty() {
            let earlier = std::mem::take(&mut state.earlier);
            state.commit(&earlier)?;
            state.repeats += 1;
        }
        if state.earlier.is_empty() {
            state.earlier = batches.to_vec();
        }
        if state.chance.permille(faults.unheard) {
            return Err(TablesError::Unavailable { cause: "simulated: the answer was lost".to_owned() });
        }
        Ok(applied)
    }

    fn checkpoint(&mut self) -> Result<(), TablesError> {
        let mut state = self.lock();
        state.here()?;
        state.since_checkpoint.clear();
        Ok(())
    }

    fn sweep(&mut self, _: Ms, _: Retention, _: &mut Sweep, _: usize) -> Result<Swept, TablesError> {
        // The books compare with everything that ever was, so nothing is removed here; SQLite is held to
        // `conformance::SWEEPING`.
        Ok(Swept { finished: true, ..Swept::default() })
    }
}

impl Rows for SimTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let state = self.lock();
        state.here()?;
        Ok(state.rows.get(&(table, key.to_vec())).cloned())
    }

    fn range(&self, range: Range<'_>) -> Result<RawRows, TablesError> {
        let state = self.lock();
        state.here()?;
        let Range { table, from, to, descending, limit } = range;
        if to < from {
            return Ok(RawRows::new());
        }
        let rows = state.rows.range((table, from.to_vec())..(table, to.to_vec()));
        let copy = |((_, key), body): (&Key, &Vec<u8>)| (key.clone(), body.clone());
        Ok(if descending { rows.rev().take(limit).map(copy).collect() } else { rows.take(limit).map(copy).collect() })
    }

    fn events_after(
        &self,
        tenant: TenantId,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<RawRows, TablesError> {
        let state = self.lock();
        state.here()?;
        let from = tenant.to_bytes();
        let all = state.rows.range((Table::Event, from.to_vec())..(Table::Event, end_of(&from)));
        let number = |key: &[u8]| row::key::event_seq_of(key).filter(|seq| *seq > after);
        let found: BTreeMap<u64, (&Vec<u8>, &Vec<u8>)> =
            all.filter_map(|((_, key), body)| Some((number(key)?, (key, body)))).collect();
        let mut bytes = 0;
        let fits = |body: &Vec<u8>| {
            let before = bytes;
            bytes += body.len();
            before < bytes_max
        };
        let mut fits = fits;
        let some = found.into_values().take(limit).take_while(|(_, body)| fits(body));
        Ok(some.map(|(key, body)| (key.clone(), body.clone())).collect())
    }

    fn runs(
        &self,
        tenant: TenantId,
        before: Option<RunId>,
        filter: &RunFilter,
        limit: usize,
        examined_max: usize,
    ) -> Result<(RawRows, Option<Vec<u8>>), TablesError> {
        let state = self.lock();
        state.here()?;
        if limit == 0 || examined_max == 0 {
            return Ok((RawRows::new(), None));
        }
        let (from, to) = run_bounds(tenant, before);
        let bounds = (Bound::Excluded((Table::Run, from)), Bound::Excluded((Table::Run, to)));
        let mut found = Vec::new();
        for (examined, ((_, key), body)) in state.rows.range(bounds).rev().enumerate() {
            let run: RunRow = row::decode(body).map_err(|source| TablesError::Row { table: Table::Run, source })?;
            let workflow = filter.workflow.as_ref().is_none_or(|wanted| *wanted == run.workflow);
            if workflow && filter.state.as_ref().is_none_or(|wanted| wanted == run.state.word()) {
                found.push((key.clone(), body.clone()));
            }
            if found.len() == limit || examined + 1 == examined_max {
                return Ok((found, Some(key.clone())));
            }
        }
        Ok((found, None))
    }
}
