//! The store of a deployment, as one process has it, and the witness that sees every batch: the books are told what became
//! durable whatever the ground is, and a former owner that still gets anywhere is a broken promise.

use mainspring_store::backend::OpenTables;
use mainspring_store::log::{LogError, Position};
use mainspring_store::{PartitionLog, Store, StoreError, TablesError};
use std::sync::Arc;

use crate::host::Host;
use crate::witness::Witness;

/// The store, with a witness for each partition.
#[derive(Debug)]
pub struct Witnessed {
    host: Host,
    process: u64,
    store: Arc<dyn Store>,
}

impl Witnessed {
    /// A store as this process has it.
    pub fn new(host: Host, process: u64, store: Arc<dyn Store>) -> Witnessed {
        Witnessed { host, process, store }
    }
}

impl Store for Witnessed {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        let count = self.store.partitions(wanted)?;
        let mut shared = self.host.sim().lock();
        if shared.witnesses.is_empty() {
            shared.witnesses = (0..usize::from(count)).map(Witness::new).collect();
        }
        let before = shared.witnesses.len();
        if before != usize::from(count) {
            shared.books.violated(format!("there are {count} partitions, and were {before}"));
        }
        Ok(count)
    }

    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        self.store.open_tables(partition)
    }

    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        let mut shown = Vec::new();
        let log = self.store.open_log(partition, chance, from, &mut |position, bytes| {
            shown.push((position.0, bytes.to_vec()));
            visit(position, bytes);
        })?;
        let mut shared = self.host.sim().lock();
        let shared = &mut *shared;
        shared.witnesses[usize::from(partition)].recovered(from.0, &shown, &mut shared.books);
        Ok(Box::new(WitnessedLog { host: self.host.clone(), process: self.process, partition, log, doubted: None }))
    }
}

#[derive(Debug)]
struct WitnessedLog {
    host: Host,
    process: u64,
    partition: u16,
    log: Box<dyn PartitionLog>,
    /// The batch whose outcome is not known.
    doubted: Option<Vec<u8>>,
}

impl WitnessedLog {
    fn durable(&self, Position(position): Position, bytes: &[u8]) {
        let may = self.host.ground().may_own(self.process, self.partition);
        let mut shared = self.host.sim().lock();
        let shared = &mut *shared;
        if !may {
            let (process, partition) = (self.process, self.partition);
            shared.books.violated(format!("process {process} appended to partition {partition}, which was taken"));
        }
        shared.witnesses[usize::from(self.partition)].durable(position, bytes, &mut shared.books);
    }
}

impl PartitionLog for WitnessedLog {
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        let sim = self.host.sim().clone();
        let bytes = parts.concat();
        let crc = crc32c::crc32c(&bytes);
        sim.trace(format_args!("p{} appends {crc:08x} at {}", self.partition, self.log.next()));
        let result = self.log.append(parts);
        match &result {
            Ok(position) => self.durable(*position, &bytes),
            Err(LogError::Fenced) => sim.sometimes("a former owner was refused"),
            Err(error) => {
                if self.host.ground().may_own(self.process, self.partition) {
                    sim.lock().witnesses[usize::from(self.partition)].maybe(&bytes);
                }
                if matches!(error, LogError::Unknown { .. }) {
                    self.doubted = Some(bytes);
                }
            }
        }
        result
    }

    fn settle(&mut self) -> Result<Option<Position>, LogError> {
        let settled = self.log.settle()?;
        let doubted = self.doubted.take();
        self.host.sim().sometimes(match settled {
            Some(_) => "a batch in doubt turned out to be there",
            None => "a batch in doubt turned out not to be there",
        });
        if let (Some(position), Some(bytes)) = (settled, doubted) {
            self.durable(position, &bytes);
        }
        Ok(settled)
    }

    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError> {
        self.log.remove_up_to(contained)
    }

    fn next(&self) -> Position {
        self.log.next()
    }
}
