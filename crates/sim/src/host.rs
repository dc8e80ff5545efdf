//! The machine: a disk, tables, a clock, and the process that runs on it, or the two of them when one was taken to be
//! gone and was only slow.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainspring_client::TenantId;
use mainspring_core::limit::Limits;
use mainspring_engine::{Engine, EngineOptions, Retention, Store, World};
use mainspring_store::backend::OpenTables;
use mainspring_store::log::{Log, LogError, LogOptions, Position, Prepare};
use mainspring_store::{PartitionLog, StoreError, TablesError};
use tokio::sync::Notify;

use crate::chance::Chance;
use crate::disk::{Crash, SimDisk};
use crate::functions;
use crate::judge;
use crate::pump::{self, Ended, Process};
use crate::sim::Sim;
use crate::tables::SimTables;
use crate::witness::Witness;

/// Milliseconds since the Unix epoch at which every simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Small, so that a simulation passes many of them.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// The machine. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sim: Sim,
    disk: SimDisk,
    clock: Arc<Clock>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    tables: Vec<SimTables>,
    /// Grows with every take-over. Who opened the log under an older one may not append.
    epoch: u64,
    processes: u64,
    /// The process that is spoken to.
    current: Option<Arc<Process>>,
    /// Processes that were put aside and may still be running.
    aside: Vec<Arc<Process>>,
    /// The version of the code that the next process runs.
    code: u64,
}

/// The machine's clock, which may jump, and its randomness.
#[derive(Debug)]
struct Clock {
    sim: Sim,
    ahead_ms: AtomicI64,
    /// The furthest it has been ahead.
    furthest_ms: AtomicI64,
    chance: Mutex<Chance>,
}

impl World for Clock {
    fn now_ms(&self) -> u64 {
        (EPOCH_MS + self.sim.now()).saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn elapsed_ms(&self) -> u64 {
        self.sim.now()
    }

    fn chance(&self) -> Result<u128, String> {
        Ok(self.chance.lock().unwrap_or_else(PoisonError::into_inner).wide())
    }
}

impl Host {
    /// A new machine that nothing runs on.
    pub fn new(sim: &Sim) -> Host {
        let disk = SimDisk::new(sim.fork());
        let clock = Clock {
            sim: sim.clone(),
            ahead_ms: AtomicI64::new(0),
            furthest_ms: AtomicI64::new(0),
            chance: Mutex::new(sim.fork()),
        };
        let state = State {
            chance: sim.fork(),
            tables: Vec::new(),
            epoch: 0,
            processes: 0,
            current: None,
            aside: Vec::new(),
            code: 1,
        };
        Host(Arc::new(Inner {
            sim: sim.clone(),
            disk,
            clock: Arc::new(clock),
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The simulation.
    pub fn sim(&self) -> &Sim {
        &self.0.sim
    }

    /// The disk.
    pub fn disk(&self) -> &SimDisk {
        &self.0.disk
    }

    /// The tables of each partition.
    pub fn tables(&self) -> Vec<SimTables> {
        self.lock().tables.clone()
    }

    /// The process that is spoken to, if one is up.
    pub fn current(&self) -> Option<Arc<Process>> {
        self.lock().current.clone()
    }

    /// Waits until a process is up.
    pub async fn up(&self) -> Arc<Process> {
        loop {
            let changed = self.0.changed.notified();
            if let Some(process) = self.current() {
                return process;
            }
            changed.await;
        }
    }

    /// The tenants.
    pub fn tenants(&self) -> Vec<TenantId> {
        (1..=u128::from(self.0.sim.plan().tenants)).map(TenantId).collect()
    }

    /// Lets the clock jump.
    pub fn jump_clock(&self, ms: i64) {
        let ahead_ms = self.0.clock.ahead_ms.fetch_add(ms, Ordering::Relaxed) + ms;
        self.0.clock.furthest_ms.fetch_max(ahead_ms, Ordering::Relaxed);
    }

    /// By how much the clock may be behind what somebody has reckoned with: what was due at a time it told before it was
    /// set back comes so much later.
    pub fn clock_behind_ms(&self) -> u64 {
        let clock = &self.0.clock;
        let behind_ms = clock.furthest_ms.load(Ordering::Relaxed) - clock.ahead_ms.load(Ordering::Relaxed);
        behind_ms.unsigned_abs()
    }

    /// Another version of the code runs from the next start on.
    pub fn change_code(&self) {
        self.lock().code += 1;
    }

    /// Starts a process. With `takeover` it does so although another may still have the store: whoever was first is put
    /// aside, and must find out.
    ///
    /// # Errors
    /// What the process said before it ended.
    pub fn start(&self, takeover: bool) -> Result<(), String> {
        let sim = &self.0.sim;
        let (number, code, wanted) = {
            let mut state = self.lock();
            state.processes += 1;
            (state.processes, state.code, state.chance.between(1, 4) as u16)
        };
        sim.trace(format_args!("process {number} starts{}", if takeover { " and takes over" } else { "" }));
        if takeover {
            self.0.disk.break_locks();
            let mut state = self.lock();
            state.epoch += 1;
            let before = state.current.take();
            state.aside.extend(before);
        }
        let partitions = if self.lock().tables.is_empty() { sim.plan().partitions } else { wanted };
        let store = SimStore { host: self.clone(), process: number };
        let options = EngineOptions {
            world: self.0.clock.clone(),
            partitions,
            limits: Limits { worker_grace_ms: 800, losses_max: 5, idempotency_ttl_ms: 3_600_000, ..Limits::default() },
            retention: Retention::default(),
            ..EngineOptions::on(Arc::new(store))
        };
        let opened = Engine::open_driven(&options);
        let (engine, driven) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                sim.trace(format_args!("process {number} could not start: {error}"));
                self.0.disk.take_died(number);
                self.0.disk.crash(number, Crash::Killed);
                return Err(error.to_string());
            }
        };
        let process = Arc::new(Process { number, code, engine, ended: Ended::default() });
        for (partition, one) in driven.into_iter().enumerate() {
            tokio::spawn(pump::run(self.clone(), process.clone(), partition, one));
        }
        tokio::spawn(functions::offer(self.clone(), process.clone()));
        tokio::spawn(judge::run(self.clone(), process.clone()));
        self.lock().current = Some(process);
        self.0.changed.notify_waiters();
        Ok(())
    }

    /// Ends a process, as `kill -9` or a power cut does; the latter ends every process.
    pub fn crash(&self, process: &Arc<Process>, how: Crash) {
        let mut ending = vec![process.clone()];
        {
            let mut state = self.lock();
            if how == Crash::PowerLost {
                ending.extend(std::mem::take(&mut state.aside));
                ending.extend(state.current.take());
            }
            if state.current.as_ref().is_some_and(|current| current.number == process.number) {
                state.current = None;
            }
            state.aside.retain(|aside| aside.number != process.number);
        }
        for one in ending {
            if one.ended.set() {
                continue;
            }
            self.0.sim.trace(format_args!("process {} ends: {how:?}", one.number));
            self.0.sim.lock().books.crashed();
            self.0.disk.crash(one.number, how);
            one.engine.hub().forget_everybody();
        }
        if how == Crash::PowerLost {
            for tables in self.tables() {
                if tables.lose_power() > 0 {
                    self.0.sim.sometimes("the tables lost commits with the power");
                }
            }
        }
        let behind = {
            let shared = self.0.sim.lock();
            let tables = self.lock().tables.clone();
            tables.iter().zip(&shared.witnesses).any(|(tables, witness)| tables.position() < witness.position())
        };
        if behind {
            self.0.sim.sometimes("a crash fell between log and tables");
        }
        self.0.changed.notify_waiters();
    }

    /// Starts a second process beside the one that is up, as somebody may by mistake. It must not get anywhere.
    pub fn try_second(&self) {
        let number = {
            let mut state = self.lock();
            state.processes += 1;
            state.processes
        };
        let store = SimStore { host: self.clone(), process: number };
        let options = EngineOptions { world: self.0.clock.clone(), ..EngineOptions::on(Arc::new(store)) };
        match Engine::open_driven(&options) {
            Ok(_) => self.0.sim.violated("a second process got a store that another one has".to_owned()),
            Err(error) => {
                self.0.sim.sometimes("a second process was refused");
                self.0.sim.trace(format_args!("a second process was refused: {error}"));
            }
        }
        self.0.disk.crash(number, Crash::Killed);
    }

    /// Ends every process that was put aside.
    pub fn end_aside(&self) {
        let aside = std::mem::take(&mut self.lock().aside);
        for process in aside {
            self.crash(&process, Crash::Killed);
        }
    }
}

/// The store of the machine, as one process has it.
#[derive(Debug)]
struct SimStore {
    host: Host,
    process: u64,
}

impl Store for SimStore {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        let mut state = self.host.lock();
        if state.tables.is_empty() {
            for _ in 0..wanted.max(1) {
                let chance = state.chance.fork();
                state.tables.push(SimTables::new(chance));
            }
            let count = state.tables.len();
            self.host.0.sim.lock().witnesses = (0..count).map(Witness::new).collect();
        }
        Ok(state.tables.len() as u16)
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        let tables = self.host.lock().tables[usize::from(partition)].clone();
        Ok((Box::new(tables.clone()), Arc::new(tables)))
    }

    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        let sim = self.host.sim().clone();
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            prepare: Prepare::WhenNeeded,
            salt_seed: chance,
            ..LogOptions::default()
        };
        let dir = Path::new("/store").join(format!("p{partition}"));
        let files = self.host.disk().mounted(self.process);
        let (log, mut tail) = Log::open_in(files, &dir, partition, options, from)?;
        if tail.torn_tail.is_some() {
            sim.sometimes("a torn tail was cut");
        }
        let mut shown = Vec::new();
        tail.replay(|Position(position), bytes| {
            shown.push((position, bytes.to_vec()));
            visit(Position(position), bytes);
            Ok::<(), LogError>(())
        })?;
        let mut shared = sim.lock();
        let shared = &mut *shared;
        shared.witnesses[usize::from(partition)].recovered(from.0, &shown, &mut shared.books);
        drop(tail);
        let mut state = self.host.lock();
        let (epoch, chance) = (state.epoch, state.chance.fork());
        drop(state);
        Ok(Box::new(SimLog {
            host: self.host.clone(),
            partition: usize::from(partition),
            log,
            epoch,
            chance,
            unknown: None,
        }))
    }
}

/// The real log on the simulated disk, with what only a remote log does: refusing a former owner, and not saying what
/// became of a batch.
#[derive(Debug)]
struct SimLog {
    host: Host,
    partition: usize,
    log: Log,
    epoch: u64,
    chance: Chance,
    /// Whether the batch in doubt was appended, and how often that is not told yet.
    unknown: Option<(Option<Position>, u64)>,
}

impl SimLog {
    fn append_now(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        let bytes = parts.concat();
        let result = self.log.append(parts);
        let mut shared = self.host.sim().lock();
        let shared = &mut *shared;
        let witness = &mut shared.witnesses[self.partition];
        match &result {
            Ok(Position(position)) => witness.durable(*position, &bytes, &mut shared.books),
            Err(_) => witness.maybe(&bytes),
        }
        result
    }
}

impl PartitionLog for SimLog {
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        let sim = self.host.sim().clone();
        if self.epoch != self.host.lock().epoch {
            sim.sometimes("a former owner was refused");
            return Err(LogError::Fenced);
        }
        let crc = parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        sim.trace(format_args!("p{} appends {crc:08x} at {}", self.partition, self.log.stats().next));
        if self.chance.permille(sim.plan().append_unknown) {
            let done = if self.chance.permille(500) { Some(self.append_now(parts)?) } else { None };
            self.unknown = Some((done, self.chance.below(4)));
            return Err(LogError::Unknown { cause: "simulated: the connection was lost".to_owned() });
        }
        self.append_now(parts)
    }

    fn settle(&mut self) -> Result<Option<Position>, LogError> {
        let Some((done, silent)) = &mut self.unknown else {
            return Err(LogError::Poisoned { cause: "nothing is in doubt".to_owned() });
        };
        if *silent > 0 {
            *silent -= 1;
            return Err(LogError::Unknown { cause: "simulated: still no connection".to_owned() });
        }
        let done = *done;
        self.unknown = None;
        self.host.sim().sometimes(match done {
            Some(_) => "a batch in doubt turned out to be there",
            None => "a batch in doubt turned out not to be there",
        });
        Ok(done)
    }

    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError> {
        // A former owner has nothing to remove any more.
        if self.epoch != self.host.lock().epoch {
            return Err(LogError::Fenced);
        }
        self.log.remove_up_to(contained).map(|removed| {
            if removed > 0 {
                self.host.sim().sometimes("log segments were removed");
            }
        })
    }

    fn next(&self) -> Position {
        self.log.stats().next
    }
}
