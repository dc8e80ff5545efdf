//! What tables should hold, as a plain map; and rows of every kind, by chance, at awkward keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mainspring_core::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId, WorkerId, mix};
use mainspring_core::journal::EntryKind;
use mainspring_core::row::{
    self, DocumentRow, EventRow, JournalRow, MessageRow, MessageState, MetaRow, PayloadRef, RunRow, RunState, key,
};
use mainspring_core::stream::Place;
use mainspring_core::write::ops;
use mainspring_core::{DocumentKey, Out, Table};

use crate::backend::{Range, Rows, TableStore};
use crate::reader::{RawRows, RunFilter};
use crate::unapplied::Batch;

/// Small and seeded: a law does the same at every run.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Chance(mix(seed))
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.word() as u8).collect()
    }
}

/// Tenants whose ids are neighbours, and those at both ends.
pub(super) const TENANTS: [TenantId; 6] = [
    TenantId(0),
    TenantId(0x0191_0000_0000_7000_8000_0000_0000_00fe),
    TenantId(0x0191_0000_0000_7000_8000_0000_0000_00ff),
    TenantId(0x0191_0000_0000_7000_8000_0000_0000_0100),
    TenantId(0x0191_0000_0000_7fff_ffff_ffff_ffff_ffff),
    TenantId(u128::MAX),
];
pub(super) const WORKFLOWS: [&str; 3] = ["turn", "job", "jo"];
pub(super) const SCOPES: [Option<&str>; 3] = [None, Some("alice"), Some("bob")];
const TEXTS: [&str; 6] = ["", "\0", "a", "a\0", "a\0b", "\u{ff}"];
const STATES: [RunState; 7] = [
    RunState::Queued,
    RunState::Running,
    RunState::Completed,
    RunState::Failed,
    RunState::Cancelled,
    RunState::Superseded,
    RunState::Parked,
];

/// What tables hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Model {
    pub(super) fn apply(&mut self, batch: &[u8]) {
        for op in ops(batch) {
            let op = op.expect("the model is given whole batches");
            match op.body {
                Some(body) => self.rows.insert((op.table, op.key.to_vec()), body.to_vec()),
                None => self.rows.remove(&(op.table, op.key.to_vec())),
            };
        }
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(&(table, key.to_vec())).cloned()
    }

    /// The rows of a table that are wanted, in key order.
    pub(super) fn rows(&self, table: Table, wanted: impl Fn(&[u8], &[u8]) -> bool) -> RawRows {
        let of_table = self.rows.iter().filter(|((of, key), body)| *of == table && wanted(key, body));
        of_table.map(|((_, key), body)| (key.clone(), body.clone())).collect()
    }

    pub(super) fn range(&self, range: Range<'_>) -> RawRows {
        let mut rows = self.rows(range.table, |key, _| range.from <= key && key < range.to);
        if range.descending {
            rows.reverse();
        }
        rows.truncate(range.limit);
        rows
    }

    pub(super) fn runs(
        &self,
        tenant: TenantId,
        before: Option<RunId>,
        filter: &RunFilter,
        limit: usize,
        examined_max: usize,
    ) -> (RawRows, Option<Vec<u8>>) {
        let mut rows = self.rows(Table::Run, |key, _| {
            key::tenant_of(key) == Some(tenant)
                && before.is_none_or(|before| key::second(key).is_some_and(|run| run < before.0))
        });
        rows.reverse();
        let (mut found, mut last) = (RawRows::new(), None);
        for (examined, (key, body)) in rows.into_iter().enumerate() {
            if found.len() == limit || examined == examined_max {
                break;
            }
            let run: RunRow = row::decode(&body).expect("a run");
            let workflow = filter.workflow.as_ref().is_none_or(|wanted| *wanted == run.workflow);
            let state = filter.state.as_ref().is_none_or(|wanted| wanted == run.state.word());
            last = None;
            if workflow && state {
                found.push((key.clone(), body));
            }
            if found.len() == limit || examined + 1 == examined_max {
                last = Some(key);
            }
        }
        (found, last)
    }

    /// The rows a restart needs, table by table.
    pub(super) fn live(&self) -> BTreeMap<Table, RawRows> {
        let live_run = |key: &[u8]| {
            let run = key.get(..32).and_then(|run| self.get(Table::Run, run));
            run.is_some_and(|body| !row::decode::<RunRow>(&body).expect("a run").state.ended())
        };
        let live_message = |body: &[u8]| {
            let message: MessageRow = row::decode(body).expect("a message");
            !matches!(message.state, MessageState::Done { .. })
        };
        let of_table = |table| match table {
            Table::Run | Table::Task | Table::Child => self.rows(table, |key, _| live_run(key)),
            Table::Message => self.rows(table, |_, body| live_message(body)),
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
            | Table::Pending => self.rows(table, |_, _| true),
            Table::StreamEntry | Table::StreamEntryId => RawRows::new(),
            Table::Journal | Table::Event | Table::Payload | Table::Log | Table::Document | Table::Revision => {
                RawRows::new()
            }
        };
        Table::ALL.into_iter().map(|table| (table, of_table(table))).filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// Tables that show anything else than this panic.
    pub(super) fn compare(&self, tables: &dyn TableStore, rows: &dyn Rows, told: &str) {
        for table in Table::ALL {
            let all = Range { table, from: &[], to: &[0xff; 64], descending: false, limit: usize::MAX };
            let found = rows.range(all).expect("a range is read");
            assert_eq!(found, self.range(all), "{told}: the rows of {table:?}");
        }
        assert_eq!(live_of(tables), self.live(), "{told}: the live rows");
    }
}

/// The live rows as they are shown: each table once, in key order.
pub(super) fn live_of(tables: &dyn TableStore) -> BTreeMap<Table, RawRows> {
    let mut live: BTreeMap<Table, RawRows> = BTreeMap::new();
    let mut current = None;
    let shown = tables.live_rows(&mut |op| {
        if current != Some(op.table) {
            assert!(!live.contains_key(&op.table), "{:?} is shown in two pieces", op.table);
            current = Some(op.table);
        }
        let rows = live.entry(op.table).or_default();
        assert!(rows.last().is_none_or(|(last, _)| last.as_slice() < op.key), "{:?} is shown in key order", op.table);
        rows.push((op.key.to_vec(), op.body.expect("a row has a body").to_vec()));
    });
    shown.expect("live rows are shown");
    live
}

/// Makes batches of random writes, and keeps what tables should hold after each of them.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) chance: Chance,
    ids: Vec<u128>,
    writes: u64,
    /// What the tables should hold after so many batches; nothing after none.
    pub(super) models: Vec<Model>,
    /// The bytes of each batch, as the log is given them.
    pub(super) encoded: Vec<Vec<u8>>,
}

impl Writer {
    pub(super) fn new(seed: u64) -> Writer {
        let mut chance = Chance::new(seed);
        let mut ids = vec![0, 0xff, 0x100, u128::MAX - 1, u128::MAX];
        ids.extend((0..40).map(|_| {
            let bytes = [(); 16].map(|()| chance.pick(&[0x00, 0x01, 0x7f, 0xfe, 0xff]));
            u128::from_be_bytes(bytes)
        }));
        Writer { chance, ids, writes: 0, models: vec![Model::default()], encoded: Vec::new() }
    }

    /// What the tables should hold after all batches so far.
    pub(super) fn model(&self) -> &Model {
        &self.models[self.models.len() - 1]
    }

    pub(super) fn batch(&mut self, writes: usize) -> Arc<Batch> {
        let mut out = Out::new();
        for _ in 0..writes {
            let table = self.chance.pick(&Table::ALL);
            let key = self.key(table);
            if self.chance.below(4) == 0 {
                out.delete(table, &key);
            } else {
                self.put(&mut out, table, &key);
            }
        }
        self.batch_of(out)
    }

    pub(super) fn batch_of(&mut self, mut out: Out) -> Arc<Batch> {
        let bytes = out.take().writes;
        let mut model = self.model().clone();
        model.apply(&bytes);
        let position = self.models.len() as u64;
        self.models.push(model);
        self.encoded.push(bytes.clone());
        Arc::new(Batch::new(position, bytes))
    }

    /// A row's key, which may well have been used before.
    pub(super) fn key(&mut self, table: Table) -> Vec<u8> {
        let tenant = self.chance.pick(&TENANTS);
        let id = self.id();
        let text = self.chance.pick(&TEXTS);
        let task = TaskId { run: RunId(id), index: self.chance.pick(&[0, 1, 0xff, 0x100, u16::MAX]) };
        match table {
            Table::Meta => b"partition".to_vec(),
            Table::Tenant => key::tenant(tenant),
            Table::Workflow => key::workflow(tenant, VersionId(id)),
            Table::Run => key::run(tenant, RunId(id)),
            Table::Task => key::task(tenant, task),
            Table::Journal | Table::Pending => {
                key::journal(tenant, task, self.chance.pick(&[0, 1, 0xff, 0x100, u32::MAX]))
            }
            Table::Message => key::message(tenant, MessageId(id)),
            Table::Inbox => key::inbox(tenant, self.chance.pick(&WORKFLOWS), text),
            Table::Event => {
                let seq = self.chance.below(300);
                key::event(tenant, self.chance.pick(&SCOPES), seq)
            }
            Table::Idempotency => key::idempotency(tenant, text),
            Table::Token => key::token(tenant, TokenId(id)),
            Table::Payload => key::payload(tenant, PayloadId(id)),
            Table::Worker => key::worker(tenant, WorkerId(id)),
            Table::Rate => key::rate(tenant, text),
            Table::Child => key::child(tenant, task, text),
            Table::Log => key::log(tenant, task, self.id()),
            Table::Document => key::document(tenant, &DocumentKey::new(self.chance.pick(&WORKFLOWS), text)),
            Table::Revision => {
                let document = DocumentKey::new(self.chance.pick(&WORKFLOWS), text);
                key::revision(tenant, &document, self.chance.pick(&[1, 0xff, 0x100, u64::MAX]))
            }
            Table::Stream => key::stream(tenant, text),
            Table::StreamPart => key::stream_part(tenant, id as u32, 0, task.index),
            Table::StreamEntry => {
                let seq = self.chance.pick(&[0, 0xff, 0x100, u64::MAX]);
                key::stream_entry(tenant, id as u32, Place { generation: 1, partition: task.index, seq })
            }
            Table::StreamEntryId => key::stream_entry_id(tenant, id as u32, text),
            Table::StreamGroup => key::stream_group(tenant, id as u32, text),
            Table::StreamProgress => key::stream_progress(tenant, id as u32, 0, task.index, text),
        }
    }

    pub(super) fn id(&mut self) -> u128 {
        self.chance.pick(&self.ids)
    }

    /// Puts a row that differs from every other.
    pub(super) fn put(&mut self, out: &mut Out, table: Table, key: &[u8]) {
        self.writes += 1;
        let (chance, at) = (&mut self.chance, self.writes);
        let run = RunId(u128::from(chance.below(9)));
        match table {
            Table::Run => out.put(table, key, &run_row(chance.pick(&WORKFLOWS), chance.pick(&STATES), at)),
            Table::Message => {
                let states = [MessageState::Unread, MessageState::Received { run }, MessageState::Done { run }];
                out.put(table, key, &message_row(chance.pick(&states), at));
            }
            Table::Event => {
                let hash = key.get(16..24);
                let scope = SCOPES.into_iter().find(|scope| Some(&key::scope_hash(*scope).to_be_bytes()[..]) == hash);
                out.put(table, key, &event_row(scope.flatten(), at));
            }
            Table::Journal => {
                let label = format!("step {at}");
                let kind = EntryKind::Run;
                out.put(table, key, &JournalRow { kind, label, fingerprint: at, requested_at: at, done: None });
            }
            Table::Document | Table::Revision => {
                out.put(table, key, &document_row(at, chance.pick(&[None, Some(at), Some(u64::MAX >> 1)])));
            }
            Table::Payload => {
                let id = PayloadId(key::second(key).expect("a payload's key"));
                let length = chance.pick(&[0, 1, 300, 20_000]);
                let mut payload = chance.bytes(length);
                payload.extend_from_slice(if length == 0 { &[] } else { &[0, 0xff] });
                out.put_payload(key::tenant_of(key).expect("a payload's key"), id, Bytes::from(payload));
            }
            // What these rows mean is not the store's to know.
            Table::Meta
            | Table::Tenant
            | Table::Workflow
            | Table::Task
            | Table::Inbox
            | Table::Idempotency
            | Table::Token
            | Table::Worker
            | Table::Rate
            | Table::Child
            | Table::Log
            | Table::Stream
            | Table::StreamPart
            | Table::StreamEntry
            | Table::StreamEntryId
            | Table::StreamGroup
            | Table::StreamProgress
            | Table::Pending => out.put(table, key, &number(at)),
        }
    }
}

/// A row that says nothing but a number, for tables whose rows the store does not look into.
pub(super) fn number(at: u64) -> MetaRow {
    MetaRow { now: at, event_seq: 0 }
}

pub(super) fn run_row(workflow: &str, state: RunState, at: u64) -> RunRow {
    RunRow {
        workflow: workflow.to_owned(),
        version: VersionId(1),
        state,
        key: at.is_multiple_of(2).then(|| "alice".to_owned()),
        priority: 1,
        input: None,
        output: None,
        error: None,
        parent: None,
        superseded_from: None,
        superseded_by: None,
        created_at: at,
        started_at: None,
        finished_at: state.ended().then_some(at),
        tasks: 1,
        messages: 0,
        metadata: None,
        wishes: None,
        child_of: None,
        event: None,
        group: None,
        superseded_before: 0,
        once: false,
        guarded: false,
        asked_to_end: None,
    }
}

pub(super) fn message_row(state: MessageState, at: u64) -> MessageRow {
    let payload = PayloadRef { id: PayloadId(u128::from(at)), bytes: 1 };
    MessageRow { workflow: "turn".to_owned(), key: "alice".to_owned(), seq: at, payload, accepted_at: at, state }
}

pub(super) fn document_row(at: u64, expires_at: Option<u64>) -> DocumentRow {
    DocumentRow { version: at, body: Bytes::from_static(b"{}"), updated_at: at, expires_at, by: None }
}

pub(super) fn event_row(scope: Option<&str>, at: u64) -> EventRow {
    EventRow {
        name: "order".to_owned(),
        scope: scope.map(str::to_owned),
        at,
        run: None,
        data: Bytes::new(),
        metadata: None,
    }
}
