//! The simulator's store keeps the laws of every store: its tables, and the real log on its disk, also when the power
//! goes between two openings.
//!
//! What is not checked here is what the simulator adds to the log, because a law can't ask for it: batches whose outcome
//! is not known, and former owners (`ground::memory`).

use std::path::Path;
use std::sync::{Arc, Mutex};

use mainspring_sim::chance::Chance;
use mainspring_sim::disk::{Crash, SimDisk};
use mainspring_sim::tables::SimTables;
use mainspring_store::backend::OpenTables;
use mainspring_store::conformance::{BATCH_BYTES_MAX, LAWS, Opener, hold};
use mainspring_store::log::{Log, LogError, LogOptions, Position, Prepare};
use mainspring_store::{PartitionLog, Store, StoreError, TablesError};

/// A machine, and the process on it that has the store.
#[derive(Debug, Clone)]
struct Machine {
    disk: SimDisk,
    tables: Arc<Mutex<Vec<SimTables>>>,
    process: u64,
}

impl Store for Machine {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        let mut tables = self.tables.lock().expect("one thread only");
        if tables.is_empty() {
            tables.extend((0..wanted.max(1)).map(|partition| SimTables::new(Chance::new(u64::from(partition)))));
        }
        Ok(tables.len() as u16)
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        let tables = self.tables.lock().expect("one thread only")[usize::from(partition)].clone();
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
            segment_bytes: 64 << 10,
            batch_bytes_max: BATCH_BYTES_MAX,
            prepare: Prepare::WhenNeeded,
            salt_seed: chance,
            ..LogOptions::default()
        };
        let dir = Path::new("/store").join(format!("p{partition}"));
        let (log, mut tail) = Log::open_in(self.disk.mounted(self.process), &dir, partition, options, from)?;
        tail.replay(|position, bytes| {
            visit(position, bytes);
            Ok::<(), LogError>(())
        })?;
        Ok(Box::new(log))
    }
}

/// Checks every law on machines whose processes end like this before the next one opens the store.
fn hold_with(seed: u64, how: Crash) {
    let mut chance = Chance::new(seed);
    hold(LAWS, &mut || -> Opener {
        let mut machine = Machine { disk: SimDisk::new(chance.fork()), tables: Arc::default(), process: 0 };
        Box::new(move || {
            machine.disk.crash(machine.process, how);
            if how == Crash::PowerLost {
                machine.tables.lock().expect("one thread only").iter().for_each(|tables| {
                    tables.lose_power();
                });
            }
            machine.process += 1;
            Box::new(machine.clone())
        })
    });
}

#[test]
fn when_processes_end() {
    hold_with(1, Crash::Killed);
}

#[test]
fn when_the_power_goes() {
    (1..=3).for_each(|seed| hold_with(seed, Crash::PowerLost));
}
