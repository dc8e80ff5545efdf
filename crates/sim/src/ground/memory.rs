//! The ground in memory: the real log on a simulated disk, tables that forget, and what only a remote store does:
//! refusing a former owner, and not saying what became of a batch.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainspring_store::backend::OpenTables;
use mainspring_store::log::{Log, LogError, LogOptions, Position, Prepare};
use mainspring_store::{PartitionLog, Store, StoreError, TablesError};

use crate::chance::Chance;
use crate::disk::{Crash, SimDisk};
use crate::ground::{EachRow, Ground, Trouble};
use crate::sim::Sim;
use crate::tables::{SimTables, TableFaults};

/// Small, so that a simulation passes many of them.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// A disk and tables in memory. What is cloned is the way to them.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sim: Sim,
    disk: SimDisk,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    tables: Vec<SimTables>,
    /// Grows with every take-over. Who opened the log under an older one may not append.
    epoch: u64,
}

impl Memory {
    /// Empty.
    pub fn new(sim: &Sim) -> Memory {
        let (disk, chance) = (SimDisk::new(sim.fork()), sim.fork());
        let state = Mutex::new(State { chance, tables: Vec::new(), epoch: 0 });
        Memory(Arc::new(Inner { sim: sim.clone(), disk, state }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> Vec<SimTables> {
        self.lock().tables.clone()
    }
}

impl Ground for Memory {
    fn store(&self, process: u64) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(MemoryStore { ground: self.clone(), process }))
    }

    fn may_own(&self, _: u64, _: u16) -> bool {
        // The log and the disk refuse who may not.
        true
    }

    fn lets_second_in(&self) -> bool {
        false
    }

    fn take_over(&self) {
        self.0.disk.break_locks();
        self.lock().epoch += 1;
    }

    fn crash(&self, process: u64, how: Crash) {
        self.0.disk.crash(process, how);
        if how == Crash::PowerLost {
            for tables in self.tables() {
                if tables.lose_power() > 0 {
                    self.0.sim.sometimes("the tables lost commits with the power");
                }
            }
        }
    }

    fn die_in(&self, changes: u64) {
        self.0.disk.die_in(changes);
    }

    fn take_died(&self, process: u64) -> bool {
        self.0.disk.take_died(process)
    }

    fn set_trouble(&self, trouble: Option<Trouble>) {
        self.0.disk.set_full(trouble == Some(Trouble::Full));
        self.0.disk.set_failing(trouble == Some(Trouble::Failing));
    }

    fn set_away(&self, away: bool) {
        self.tables().iter().for_each(|tables| tables.set_away(away));
    }

    fn set_table_faults(&self, faults: TableFaults) {
        for tables in self.tables() {
            tables.set_faults(faults);
            if tables.repeats() > 0 {
                self.0.sim.sometimes("an old request came to the tables again");
            }
        }
    }

    fn calm_down(&self) {
        self.set_trouble(None);
        self.die_in(u64::MAX);
        self.set_away(false);
        self.set_table_faults(TableFaults::default());
    }

    fn position(&self, partition: u16) -> u64 {
        self.lock().tables[usize::from(partition)].position()
    }

    fn each(&self, partition: u16, each: EachRow<'_>) {
        self.tables()[usize::from(partition)].each(each);
    }
}

/// The store, as one process has it.
#[derive(Debug)]
struct MemoryStore {
    ground: Memory,
    process: u64,
}

impl Store for MemoryStore {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        let mut state = self.ground.lock();
        if state.tables.is_empty() {
            for _ in 0..wanted.max(1) {
                let chance = state.chance.fork();
                state.tables.push(SimTables::new(chance));
            }
        }
        Ok(state.tables.len() as u16)
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        let tables = self.ground.lock().tables[usize::from(partition)].clone();
        Ok((Box::new(tables.clone()), Arc::new(tables)))
    }

    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            prepare: Prepare::WhenNeeded,
            salt_seed: chance,
            ..LogOptions::default()
        };
        let dir = Path::new("/store").join(format!("p{partition}"));
        let files = self.ground.0.disk.mounted(self.process);
        let (log, mut tail) = Log::open_in(files, &dir, partition, options, from)?;
        if tail.torn_tail.is_some() {
            self.ground.0.sim.sometimes("a torn tail was cut");
        }
        tail.replay(|position, bytes| {
            visit(position, bytes);
            Ok::<(), LogError>(())
        })?;
        drop(tail);
        let mut state = self.ground.lock();
        let (epoch, chance) = (state.epoch, state.chance.fork());
        drop(state);
        Ok(Box::new(MemoryLog { ground: self.ground.clone(), log, epoch, chance, unknown: None }))
    }
}

#[derive(Debug)]
struct MemoryLog {
    ground: Memory,
    log: Log,
    epoch: u64,
    chance: Chance,
    /// Whether the batch in doubt was appended, and how often that is not told yet.
    unknown: Option<(Option<Position>, u64)>,
}

impl MemoryLog {
    fn is_former(&self) -> bool {
        self.epoch != self.ground.lock().epoch
    }
}

impl PartitionLog for MemoryLog {
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        let sim = &self.ground.0.sim;
        if self.is_former() {
            return Err(LogError::Fenced);
        }
        if self.chance.permille(sim.plan().append_unknown) {
            let done = if self.chance.permille(500) { Some(self.log.append(parts)?) } else { None };
            self.unknown = Some((done, self.chance.below(4)));
            return Err(LogError::Unknown { cause: "simulated: the connection was lost".to_owned() });
        }
        self.log.append(parts)
    }

    fn settle(&mut self) -> Result<Option<Position>, LogError> {
        if self.is_former() {
            return Err(LogError::Fenced);
        }
        let Some((done, silent)) = &mut self.unknown else {
            return Err(LogError::Poisoned { cause: "nothing is in doubt".to_owned() });
        };
        if *silent > 0 {
            *silent -= 1;
            return Err(LogError::Unknown { cause: "simulated: still no connection".to_owned() });
        }
        let done = *done;
        self.unknown = None;
        Ok(done)
    }

    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError> {
        // A former owner has nothing to remove any more.
        if self.is_former() {
            return Err(LogError::Fenced);
        }
        self.log.remove_up_to(contained).map(|removed| {
            if removed > 0 {
                self.ground.0.sim.sometimes("log segments were removed");
            }
        })
    }

    fn next(&self) -> Position {
        self.log.stats().next
    }
}
