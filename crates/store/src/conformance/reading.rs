//! Laws of reading, by key, by range and by id, on rows by chance.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use mainspring_core::id::{PayloadId, RunId, TaskId, TenantId};
use mainspring_core::row::{self, DocumentRow, EventRow, JournalRow, MessageRow, RunRow, key};
use mainspring_core::{DocumentKey, Fact, MessageId, Need, Table};

use super::model::{Chance, Model, SCOPES, TENANTS, WORKFLOWS, Writer};
use super::{Open, opened, tables_of};
use crate::backend::{Range, Rows, Store, TableStore, end_of};
use crate::reader::{RawRows, Reader, RunFilter};
use crate::tables::TablesError;
use crate::unapplied::{Batch, Unapplied};

/// So little that something goes on waiting, mostly.
const APPLIED_BYTES_MAX: usize = 40_000;
const LIMITS: [usize; 6] = [0, 1, 2, 3, 50, usize::MAX];

/// Tables with a few thousand rows.
fn filled(store: &dyn Store, seed: u64) -> (Box<dyn TableStore>, Arc<dyn Rows>, Writer) {
    let (mut tables, rows) = tables_of(store, 0);
    let mut writer = Writer::new(seed);
    for _ in 0..8 {
        let batches = [writer.batch(300), writer.batch(300)];
        tables.apply(&batches).expect("batches are applied");
        writer.model().compare(&*tables, &*rows, "while they are filled");
    }
    (tables, rows, writer)
}

/// A key like those in the tables, or next to one.
fn near(writer: &mut Writer, table: Table) -> Vec<u8> {
    let mut key = writer.key(table);
    match writer.chance.below(8) {
        0 => key.push(0),
        1 => key.push(0xff),
        2 => {
            key.pop();
        }
        3 => key.truncate(16),
        4 => key = end_of(&key[..key.len().min(16)]),
        5 => key = Vec::new(),
        _ => {}
    }
    key
}

pub(super) fn rows_are_as_in_a_map(open: Open<'_>) {
    let store = opened(open);
    let (_tables, rows, mut writer) = filled(&*store, 21);
    for table in Table::ALL {
        for (key, body) in writer.model().rows(table, |_, _| true) {
            assert_eq!(rows.get(table, &key).expect("a row is read"), Some(body), "{table:?} {key:02x?}");
        }
        for _ in 0..200 {
            let key = near(&mut writer, table);
            let found = rows.get(table, &key).expect("a row is looked for");
            assert_eq!(found, writer.model().get(table, &key), "{table:?} {key:02x?}");
        }
    }
}

pub(super) fn ranges_are_as_in_a_map(open: Open<'_>) {
    let store = opened(open);
    let (_tables, rows, mut writer) = filled(&*store, 22);
    for nth in 0..4_000 {
        let table = writer.chance.pick(&Table::ALL);
        // Also from behind its end, and of nothing.
        let from = near(&mut writer, table);
        let to = match writer.chance.below(6) {
            0 => from.clone(),
            1 => end_of(&from),
            _ => near(&mut writer, table),
        };
        let (descending, limit) = (nth % 2 == 1, writer.chance.pick(&LIMITS));
        let range = Range { table, from: &from, to: &to, descending, limit };
        assert_eq!(rows.range(range).expect("a range is read"), writer.model().range(range), "{range:02x?}");
    }
}

fn filter(chance: &mut Chance) -> RunFilter {
    let workflow = match chance.below(4) {
        0 => Some("j".to_owned()),
        1 | 2 => Some(chance.pick(&WORKFLOWS).to_owned()),
        _ => None,
    };
    let state = match chance.below(4) {
        0 => Some("complete".to_owned()),
        1 | 2 => Some(chance.pick(&["queued", "completed", "superseded", "parked"]).to_owned()),
        _ => None,
    };
    RunFilter { workflow, state }
}

pub(super) fn runs_are_as_in_a_map(open: Open<'_>) {
    let store = opened(open);
    let (_tables, rows, mut writer) = filled(&*store, 23);
    for _ in 0..4_000 {
        let tenant = writer.chance.pick(&TENANTS);
        let before = (writer.chance.below(3) > 0).then(|| RunId(writer.id()));
        let filter = filter(&mut writer.chance);
        let limit = writer.chance.pick(&LIMITS);
        let examined_max = writer.chance.pick(&[0, 1, 2, 7, 20_000, usize::MAX]);
        let found = rows.runs(tenant, before, &filter, limit, examined_max).expect("runs are listed");
        let expected = writer.model().runs(tenant, before, &filter, limit, examined_max);
        assert_eq!(found, expected, "{tenant} before {before:?}, {filter:?}, {limit} of {examined_max}");
    }
}

pub(super) fn pages_miss_none_and_repeat_none(open: Open<'_>) {
    let store = opened(open);
    let (_tables, rows, mut writer) = filled(&*store, 24);
    for _ in 0..300 {
        let tenant = writer.chance.pick(&TENANTS);
        let filter = filter(&mut writer.chance);
        let (limit, examined_max) = (writer.chance.pick(&[1, 2, 5]), writer.chance.pick(&[1, 3, 20_000]));
        let (mut pages, mut before) = (RawRows::new(), None);
        for turned in 0.. {
            assert!(turned < 1_000, "the pages have no end");
            let (page, last) = rows.runs(tenant, before, &filter, limit, examined_max).expect("runs are listed");
            pages.extend(page);
            let Some(last) = last else { break };
            before = key::second(&last).map(RunId);
        }
        let expected = writer.model().runs(tenant, None, &filter, usize::MAX, usize::MAX).0;
        assert_eq!(pages, expected, "{tenant}, {filter:?}, {limit} of {examined_max}");
    }
}

/// When the applier does its part of the work, seen from a reader that has begun.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Applying {
    /// Not yet.
    Later,
    /// After the reader looked at what waits, and before it looks at the tables.
    Before,
    /// After the reader looked at the tables.
    After,
    /// As `Before`, but what was applied still waits.
    Unmarked,
}

/// The tables, whose applier is as quick or as slow as is wanted.
#[derive(Debug)]
struct Raced {
    rows: Arc<dyn Rows>,
    tables: Mutex<Box<dyn TableStore>>,
    unapplied: Arc<Unapplied>,
    applying: Mutex<Applying>,
}

impl Raced {
    fn set(&self, applying: Applying) {
        *self.applying.lock().expect("one thread only") = applying;
    }

    fn around<T>(&self, read: impl FnOnce() -> T) -> T {
        let applying = *self.applying.lock().expect("one thread only");
        let apply = || {
            let waiting = self.unapplied.oldest(APPLIED_BYTES_MAX);
            let mut tables = self.tables.lock().expect("one thread only");
            let applied = tables.apply(&waiting).expect("batches are applied");
            if applying != Applying::Unmarked {
                self.unapplied.mark_applied(applied.position);
            }
        };
        if matches!(applying, Applying::Before | Applying::Unmarked) {
            apply();
        }
        let found = read();
        if applying == Applying::After {
            apply();
        }
        found
    }
}

impl Rows for Raced {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.around(|| self.rows.get(table, key))
    }

    fn range(&self, range: Range<'_>) -> Result<RawRows, TablesError> {
        self.around(|| self.rows.range(range))
    }

    fn events_after(
        &self,
        tenant: TenantId,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<RawRows, TablesError> {
        self.around(|| self.rows.events_after(tenant, after, limit, bytes_max))
    }

    fn runs(
        &self,
        tenant: TenantId,
        before: Option<RunId>,
        filter: &RunFilter,
        limit: usize,
        examined_max: usize,
    ) -> Result<(RawRows, Option<Vec<u8>>), TablesError> {
        self.around(|| self.rows.runs(tenant, before, filter, limit, examined_max))
    }
}

pub(super) fn a_read_by_id_sees_every_durable_write(open: Open<'_>) {
    let store = opened(open);
    let (tables, rows) = tables_of(&*store, 0);
    let mut writer = Writer::new(25);
    let unapplied = Arc::new(Unapplied::new(0));
    let applying = Mutex::new(Applying::Later);
    let raced = Arc::new(Raced { rows, tables: Mutex::new(tables), unapplied: unapplied.clone(), applying });
    let reader = Reader::new(raced.clone(), unapplied.clone());
    for nth in 0..600 {
        let batch = writer.batch(40);
        unapplied.push(batch.clone());
        // Of the batch, so that it is the latest write that is at stake, or any.
        let touched: Vec<(Table, Vec<u8>)> = batch.ops().flatten().map(|op| (op.table, op.key.to_vec())).collect();
        let (mut table, mut key) = writer.chance.pick(&touched);
        if writer.chance.below(4) == 0 {
            table = writer.chance.pick(&Table::ALL);
            key = near(&mut writer, table);
        }
        // Mostly later, so that several batches wait.
        let when = [Applying::Later, Applying::Later, Applying::Before, Applying::After, Applying::Unmarked];
        let when = writer.chance.pick(&when);
        raced.set(when);
        let told = format!("read {nth}, applied {when:?}, {table:?} {key:02x?}");
        if nth % 2 == 0 {
            assert_eq!(reader.get(table, &key).expect("a row is read"), writer.model().get(table, &key), "{told}");
        } else {
            let length = writer.chance.pick(&[0, 16, 32, 34, key.len()]);
            let prefix = &key[..length.min(key.len())];
            let expected = writer.model().rows(table, |key, _| key.starts_with(prefix));
            assert_eq!(reader.prefixed(table, prefix).expect("rows are read"), expected, "{told}, as prefix {length}");
        }
        raced.set(Applying::Later);
        if nth % 50 == 49 {
            compare_typed(&reader, writer.model());
        }
    }
    let batches: Vec<Arc<Batch>> = unapplied.oldest(usize::MAX);
    let position = raced.tables.lock().expect("one thread only").apply(&batches).expect("they are applied").position;
    unapplied.mark_applied(position);
    assert_eq!((reader.applied(), unapplied.bytes()), (600, 0), "nothing waits any more");
    compare_typed(&reader, writer.model());
    compare_events(&reader, writer.model());
    compare_revisions(&reader, writer.model());
}

/// What callers ask for by id, decoded.
fn compare_typed(reader: &Reader, model: &Model) {
    compare_feed(reader, model);
    let split = |key: &[u8]| (key::tenant_of(key).expect("a tenant"), key::second(key).expect("an id"));
    for (key, body) in model.rows(Table::Run, |_, _| true) {
        let ((tenant, id), run) = (split(&key), row::decode::<RunRow>(&body).expect("a run"));
        assert_eq!(reader.run(tenant, RunId(id)).expect("a run is read").as_ref(), Some(&run));
        assert_eq!(reader.fact(tenant, Need::Run(RunId(id))).expect("a fact is read"), Fact::Run(run));
    }
    for (key, body) in model.rows(Table::Message, |_, _| true) {
        let (tenant, id) = split(&key);
        let found = reader.message(tenant, MessageId(id)).expect("a message is read");
        assert_eq!(found, Some(row::decode::<MessageRow>(&body).expect("a message")));
    }
    for (key, body) in model.rows(Table::Payload, |_, _| true) {
        let (tenant, id) = split(&key);
        assert_eq!(reader.payload(tenant, PayloadId(id)).expect("a payload is read"), Some(body));
    }
    for (key, body) in model.rows(Table::Document, |_, _| true) {
        let (tenant, document) = (split_tenant(&key), key::document_of(&key).expect("kind and name"));
        let row: DocumentRow = row::decode(&body).expect("a document");
        assert_eq!(reader.document(tenant, &document).expect("a document is read").as_ref(), Some(&row));
        let need = Need::Document(document.clone());
        assert_eq!(reader.fact(tenant, need).expect("a fact is read"), Fact::Document(row));
        // All of the kind, those that begin like this one, and itself.
        for length in [0, 1, document.name.len()] {
            let prefix = document.name.get(..length).unwrap_or_default();
            let begins = |key: &[u8]| {
                let other = key::document_of(key).expect("kind and name");
                split_tenant(key) == tenant && other.kind == document.kind && other.name.starts_with(prefix)
            };
            let expected: Vec<(DocumentKey, DocumentRow)> = model
                .rows(Table::Document, |key, _| begins(key))
                .iter()
                .map(|(key, body)| (key::document_of(key).expect("a key"), row::decode(body).expect("a document")))
                .collect();
            let found = reader.documents(tenant, &document.kind, prefix).expect("documents are read");
            assert_eq!(found, expected, "{tenant} {document:?}, as prefix {length}");
        }
    }
    let journals = model.rows(Table::Journal, |_, _| true);
    let tasks: BTreeSet<(TenantId, TaskId)> =
        journals.iter().map(|(key, _)| (split(key).0, key::task_of(key).expect("a task"))).collect();
    for (tenant, task) in tasks {
        let prefix = key::task(tenant, task);
        let of_task = journals.iter().filter(|(key, _)| key.starts_with(&prefix));
        let expected: Vec<(u32, JournalRow)> = of_task
            .map(|(key, body)| (key::position_of(key).expect("a position"), row::decode(body).expect("an entry")))
            .collect();
        assert_eq!(reader.journal(tenant, task).expect("a journal is read"), expected);
    }
}

fn split_tenant(key: &[u8]) -> TenantId {
    key::tenant_of(key).expect("a tenant")
}

/// What is kept of a document's versions, newest first. That of version `u64::MAX` would be at the end of all, and is
/// never there.
fn compare_revisions(reader: &Reader, model: &Model) {
    let rows = model.rows(Table::Revision, |_, _| true);
    let documents: BTreeSet<&[u8]> = rows.iter().map(|(key, _)| &key[..key.len() - 8]).collect();
    for of in documents {
        let length = usize::from(u16::from_be_bytes([of[16], of[17]]));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let document = DocumentKey::new(&text(&of[20..20 + length]), text(&of[20 + length..]));
        let kept = rows.iter().rev().filter(|(key, _)| key[..key.len() - 8] == *of && !key.ends_with(&[0xff; 8]));
        let kept: Vec<DocumentRow> = kept.map(|(_, body)| row::decode(body).expect("a document")).collect();
        for limit in [0, 1, 2, 100] {
            let expected: Vec<DocumentRow> = kept.iter().take(limit).cloned().collect();
            let found = reader.revisions(split_tenant(of), &document, limit).expect("versions are read");
            assert_eq!(found, expected, "{document:?}, at most {limit}");
        }
    }
}

/// A tenant's events of all scopes together, whether they are applied or not.
fn compare_feed(reader: &Reader, model: &Model) {
    for tenant in TENANTS {
        let prefix = tenant.to_bytes();
        let rows = model.rows(Table::Event, |key, _| key.starts_with(&prefix));
        // Two scopes may have an event of one number here, where the numbers are dealt out by chance; of those the feed
        // shows one.
        let all: std::collections::BTreeSet<u64> =
            rows.iter().map(|(key, _)| key::event_seq_of(key).expect("a number")).collect();
        for (after, limit) in [(0, 1_000), (0, 1), (0, 7), (100, 1_000), (150, 5), (299, 10), (u64::MAX, 10)] {
            let expected: Vec<u64> = all.iter().copied().filter(|seq| *seq > after).take(limit).collect();
            let found = reader.feed(tenant, after, limit).expect("a feed is read");
            let found: Vec<u64> = found.into_iter().map(|(seq, _)| seq).collect();
            if rows.len() == all.len() {
                assert_eq!(found, expected, "after {after}, at most {limit}");
            }
        }
    }
}

/// A scope's events after a number, and its latest.
fn compare_events(reader: &Reader, model: &Model) {
    for (tenant, scope) in TENANTS.into_iter().flat_map(|tenant| SCOPES.map(|scope| (tenant, scope))) {
        let prefix = &key::event(tenant, scope, 0)[..24];
        let rows = model.rows(Table::Event, |key, _| key.starts_with(prefix));
        let all: Vec<(u64, EventRow)> = rows
            .iter()
            .map(|(key, body)| (key::event_seq_of(key).expect("a number"), row::decode(body).expect("an event")))
            .collect();
        for (after, limit) in [(0, 1_000), (0, 3), (100, 1_000), (150, 5), (299, 10), (u64::MAX, 10), (0, 0)] {
            let expected: Vec<_> = all.iter().filter(|(seq, _)| *seq > after).take(limit).cloned().collect();
            assert_eq!(reader.events(tenant, scope, after, limit).expect("events are read"), expected);
            let latest: Vec<_> = all.iter().rev().take(limit).cloned().collect();
            assert_eq!(reader.latest_events(tenant, scope, limit).expect("events are read"), latest);
        }
    }
}
