//! The tables, kept in memory: fed with batches like the real ones, asked for facts like the real ones.

use std::collections::BTreeMap;

use mainspring_core::command::{Fact, Facts, Need};
use mainspring_core::id::{MessageId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId};
use mainspring_core::journal::Pending;
use mainspring_core::limit::Limits;
use mainspring_core::recover::Recovery;
use mainspring_core::row::{self, ChildRow, Row, StreamEntryRow, StreamPartRow, TaskRow, key};
use mainspring_core::stream::Place;
use mainspring_core::write::{Table, ops};
use mainspring_core::{Command, Core, PayloadId};

/// All rows ever written and not deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Tables {
    /// Applies a batch and checks that it decodes.
    pub fn apply(&mut self, batch: &[u8]) {
        for op in ops(batch) {
            let op = op.expect("a batch just written decodes");
            match op.body {
                Some(body) => self.rows.insert((op.table, op.key.to_vec()), body.to_vec()),
                None => self.rows.remove(&(op.table, op.key.to_vec())),
            };
        }
    }

    /// A core as a restart would build it from these rows.
    pub fn recover(&self, limits: Limits) -> Core {
        let mut recovery = Recovery::new(limits);
        let expect = "rows the core wrote make a core";
        for ((table, key), body) in &self.rows {
            recovery.row(*table, key, body).expect(expect);
        }
        recovery.finish().expect(expect)
    }

    /// The facts the core asks for, as the engine would load them.
    pub fn facts(&self, core: &Core, tenant: TenantId, command: &Command) -> Facts {
        let mut facts = Facts::new();
        for need in core.needs(tenant, command) {
            let fact = match need.clone() {
                Need::Run(run) => self.get(Table::Run, &key::run(tenant, run)).map(Fact::Run),
                Need::Task(task) => self.get(Table::Task, &key::task(tenant, task)).map(Fact::Task),
                Need::Journal(task, position) => {
                    self.get(Table::Journal, &key::journal(tenant, task, position)).map(Fact::Journal)
                }
                Need::Whole(run) => self.whole(tenant, run),
                Need::StreamEntryId(stream, id) => {
                    self.get(Table::StreamEntryId, &key::stream_entry_id(tenant, stream, &id)).map(Fact::StreamEntryId)
                }
                Need::StreamOldest(stream) => Some(Fact::StreamOldest(self.stream_oldest(tenant, stream))),
                Need::Document(name) => self.get(Table::Document, &key::document(tenant, &name)).map(Fact::Document),
            };
            facts.insert(need, fact.unwrap_or(Fact::Missing));
        }
        facts
    }

    /// The oldest entry that is kept in each partition of a stream that ever had any.
    fn stream_oldest(&self, tenant: TenantId, stream: u32) -> Vec<((u32, u16), u64)> {
        let parts = self.all::<StreamPartRow>(Table::StreamPart);
        let parts = parts.filter(|(row, _)| tenant_of(row) == tenant && key::stream_number_of(row) == Some(stream));
        let oldest = parts.map(|(row, part)| {
            let of = key::stream_part_of(row).expect("a partition's key");
            let entries = self.all::<StreamEntryRow>(Table::StreamEntry).filter(|(entry, _)| entry.starts_with(row));
            let seqs = entries.map(|(entry, _)| key::stream_place_of(entry).expect("an entry's key").seq);
            (of, seqs.min().unwrap_or(part.next))
        });
        oldest.collect()
    }

    /// Takes the entries of one partition before a number away, as retention does.
    pub fn trim(&mut self, tenant: TenantId, stream: u32, part: (u32, u16), before: u64) {
        let key = |seq| key::stream_entry(tenant, stream, Place { generation: part.0, partition: part.1, seq });
        let range = (Table::StreamEntry, key(0))..(Table::StreamEntry, key(before));
        let old: Vec<_> = self.rows.range(range).map(|(key, _)| key.clone()).collect();
        for key in old {
            self.rows.remove(&key);
        }
    }

    /// A run that has ended, with all that it takes to run it again.
    fn whole(&self, tenant: TenantId, run: RunId) -> Option<Fact> {
        let row = self.get(Table::Run, &key::run(tenant, run))?;
        let of = |key: &[u8]| tenant_of(key) == tenant && run_of(key) == run;
        let tasks = self.all(Table::Task).filter(|(key, _)| of(key)).map(|(_, task)| task).collect();
        let children = self.all::<ChildRow>(Table::Child).filter(|(key, _)| of(key));
        let children = children.map(|(key, child)| (task_of(key).index, child)).collect();
        Some(Fact::Whole(row, tasks, children))
    }

    /// One row, decoded.
    pub fn get<T: Row>(&self, table: Table, key: &[u8]) -> Option<T> {
        self.rows.get(&(table, key.to_vec())).map(|body| row::decode(body).expect("a row just written decodes"))
    }

    /// A payload's bytes.
    pub fn payload(&self, tenant: TenantId, id: PayloadId) -> Option<&[u8]> {
        self.rows.get(&(Table::Payload, key::payload(tenant, id))).map(Vec::as_slice)
    }

    /// All rows of a table, decoded, with their keys.
    pub fn all<T: Row>(&self, table: Table) -> impl Iterator<Item = (&[u8], T)> {
        self.rows
            .range((table, Vec::new())..)
            .take_while(move |((of, _), _)| *of == table)
            .map(|((_, key), body)| (key.as_slice(), row::decode(body).expect("a row just written decodes")))
    }

    /// All tasks with their keys, each with the pending entries that have rows of their own.
    pub fn tasks(&self) -> BTreeMap<&[u8], TaskRow> {
        let mut tasks: BTreeMap<&[u8], TaskRow> = self.all::<TaskRow>(Table::Task).collect();
        for (key, pending) in self.all::<Pending>(Table::Pending) {
            let (id, position) = (task_of(key), key::position_of(key).expect("an entry's key holds the position"));
            let task = tasks.get_mut(&key[..key.len() - 4]).expect("a pending entry has a task");
            assert!(!task.state.ended(), "{id} has ended and left what it waited for behind");
            let with_it = task.pending.insert(position, Pending { apart: true, ..pending });
            assert!(with_it.is_none(), "{id}.{position} is recorded twice");
        }
        for (key, task) in &tasks {
            let with_it = task.pending_with_it();
            assert!(with_it <= Pending::WITH_TASK_MAX, "{} has {with_it} entries in its row", task_of(key));
        }
        tasks
    }

    /// All rows as they are.
    pub fn raw(&self) -> impl Iterator<Item = (&(Table, Vec<u8>), &Vec<u8>)> {
        self.rows.iter()
    }

    /// The rows without the partition's own, which moves with time.
    pub fn without_meta(&self) -> Tables {
        let rows = self.rows.iter().filter(|((table, _), _)| *table != Table::Meta);
        Tables { rows: rows.map(|(key, body)| (key.clone(), body.clone())).collect() }
    }
}

/// The tenant of a row's key.
pub fn tenant_of(row: &[u8]) -> TenantId {
    key::tenant_of(row).expect("a row's key begins with its tenant")
}

/// The run of a run's key.
pub fn run_of(row: &[u8]) -> RunId {
    RunId(key::second(row).expect("a run's key holds its id"))
}

/// The task of a task's or journal entry's key.
pub fn task_of(row: &[u8]) -> TaskId {
    key::task_of(row).expect("a task's key holds its id")
}

/// The message of a message's key.
pub fn message_of(row: &[u8]) -> MessageId {
    MessageId(key::second(row).expect("a message's key holds its id"))
}

/// The token of a token's key.
pub fn token_of(row: &[u8]) -> TokenId {
    TokenId(key::second(row).expect("a token's key holds its id"))
}

/// The worker of a worker's key.
pub fn worker_of(row: &[u8]) -> WorkerId {
    WorkerId(key::second(row).expect("a worker's key holds its id"))
}

/// The version of a workflow's key.
pub fn version_of(row: &[u8]) -> VersionId {
    VersionId(key::second(row).expect("a workflow's key holds its version"))
}
