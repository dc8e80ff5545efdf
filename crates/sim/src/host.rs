//! The machine: a disk, tables, a clock, and the process that runs on it, or the two of them when one was taken to be
//! gone and was only slow.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainspring_client::TenantId;
use mainspring_core::limit::Limits;
use mainspring_engine::{Engine, EngineOptions, Retention, World};
use tokio::sync::Notify;

use crate::chance::Chance;
use crate::disk::Crash;
use crate::functions;
use crate::ground::memory::Memory;
use crate::ground::postgres::OnPostgres;
use crate::ground::{Ground, On};
use crate::judge;
use crate::pump::{self, Ended, Process};
use crate::sim::Sim;
use crate::store::Witnessed;

/// Milliseconds since the Unix epoch at which every simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The machine. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sim: Sim,
    ground: Arc<dyn Ground>,
    clock: Arc<Clock>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    chance: Chance,
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
    ///
    /// # Errors
    /// What the ground said that it was to stand on.
    pub fn new(sim: &Sim, on: &On) -> Result<Host, String> {
        let ground: Arc<dyn Ground> = match on {
            On::Memory => Arc::new(Memory::new(sim)),
            On::Postgres { url } => Arc::new(OnPostgres::new(sim, url)?),
        };
        let clock = Clock {
            sim: sim.clone(),
            ahead_ms: AtomicI64::new(0),
            furthest_ms: AtomicI64::new(0),
            chance: Mutex::new(sim.fork()),
        };
        let state = State { chance: sim.fork(), processes: 0, current: None, aside: Vec::new(), code: 1 };
        Ok(Host(Arc::new(Inner {
            sim: sim.clone(),
            ground,
            clock: Arc::new(clock),
            state: Mutex::new(state),
            changed: Notify::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The simulation.
    pub fn sim(&self) -> &Sim {
        &self.0.sim
    }

    /// What it stands on.
    pub fn ground(&self) -> &dyn Ground {
        &*self.0.ground
    }

    /// Whether the tables of every partition stand where its log does.
    pub fn is_applied(&self) -> bool {
        let logs: Vec<u64> = self.sim().lock().witnesses.iter().map(|witness| witness.position()).collect();
        (0..).zip(logs).all(|(partition, position)| self.ground().position(partition) == position)
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
            self.0.ground.take_over();
            let mut state = self.lock();
            let before = state.current.take();
            state.aside.extend(before);
        }
        let partitions = if sim.lock().witnesses.is_empty() { sim.plan().partitions } else { wanted };
        let store = self.0.ground.store(number).map_err(|error| error.to_string())?;
        let store = Witnessed::new(self.clone(), number, store);
        let options = EngineOptions {
            world: self.0.clock.clone(),
            partitions,
            limits: Limits {
                worker_grace_ms: 800,
                losses_max: 5,
                idempotency_ttl_ms: 3_600_000,
                // So few that many rest, and are woken in every state they can be in.
                runs_awake_max: 3,
                ..Limits::default()
            },
            retention: Retention::default(),
            ..EngineOptions::on(Arc::new(store))
        };
        let opened = Engine::open_driven(&options);
        let (engine, driven) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                sim.trace(format_args!("process {number} could not start: {error}"));
                self.0.ground.take_died(number);
                self.0.ground.crash(number, Crash::Killed);
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
            self.0.ground.crash(one.number, how);
            one.engine.hub().forget_everybody();
        }
        if !self.is_applied() {
            self.0.sim.sometimes("a crash fell between log and tables");
        }
        self.0.changed.notify_waiters();
    }

    /// Starts a second process beside the one that is up, as somebody may by mistake. Where one process alone can have the
    /// store it must not get anywhere; elsewhere it takes over, and ends.
    pub fn try_second(&self) {
        let number = {
            let mut state = self.lock();
            state.processes += 1;
            state.processes
        };
        let Ok(store) = self.0.ground.store(number) else { return };
        let store = Witnessed::new(self.clone(), number, store);
        let options = EngineOptions { world: self.0.clock.clone(), ..EngineOptions::on(Arc::new(store)) };
        let opened = Engine::open_driven(&options);
        match opened {
            Ok(_) if self.0.ground.lets_second_in() => self.0.sim.sometimes("a second process took over and ended"),
            Ok(_) => self.0.sim.violated("a second process got a store that another one has".to_owned()),
            Err(error) => {
                self.0.sim.sometimes("a second process was refused");
                self.0.sim.trace(format_args!("a second process was refused: {error}"));
            }
        }
        self.0.ground.crash(number, Crash::Killed);
    }

    /// Ends every process that was put aside.
    pub fn end_aside(&self) {
        let aside = std::mem::take(&mut self.lock().aside);
        for process in aside {
            self.crash(&process, Crash::Killed);
        }
    }
}
