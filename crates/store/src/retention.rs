//! Retention: finished runs and old events leave the tables after a stated time, a little at a time.

mod streams;

use std::collections::BTreeMap;

use mainspring_core::id::{MessageId, Ms, TenantId};
use mainspring_core::journal::Completion;
use mainspring_core::row::{self, DocumentRow, JournalRow, MessageRow, PayloadRef, RunRow, TaskRow};
use mainspring_core::{DocumentKey, FEED_POSITION, Table};

use crate::backend::end_of;
use crate::reader::RawRows;

/// What is kept for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Finished runs, with their tasks, journals, messages and payloads, in milliseconds after their end.
    pub runs_ms: u64,
    /// Events, in milliseconds after they happened.
    pub events_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let day = 24 * 60 * 60 * 1_000;
        Retention { runs_ms: 30 * day, events_ms: 30 * day }
    }
}

/// What has expired stays for this long, so that a clock that was ahead for a moment removes nothing too early.
pub(crate) const EXPIRED_KEPT_MS: u64 = 60 * 60 * 1_000;

/// Where a sweep stands. Starting anew from the default is always safe.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    runs: Place,
    events: Place,
    documents: Place,
    revisions: Place,
    streams: Place,
}

/// Where a sweep stands in one table.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The last key it looked at.
    after: Vec<u8>,
    /// It has come to the end, and waits for the others: going around on its own, it would hardly ever come to its end
    /// when all the others come to theirs.
    ended: bool,
}

impl Place {
    /// These rows were looked at, out of so many that might have been.
    fn looked_at(&mut self, looked: &[Looked], rows_max: usize) {
        self.ended = looked.len() < rows_max;
        if let Some(last) = looked.last() {
            self.after.clone_from(&last.key);
        }
    }
}

/// What one step of a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Runs removed, with what belongs to them.
    pub runs: usize,
    /// Events removed.
    pub events: usize,
    /// Documents that had expired removed, and versions of them kept for those who look back.
    pub documents: usize,
    /// Entries of streams removed.
    pub entries: usize,
    /// Whether the sweep has come around and begins again.
    pub finished: bool,
}

/// A row a sweep looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Its key.
    pub key: Vec<u8>,
    /// The time that decides when it goes, if it has one.
    pub at: Option<Ms>,
    /// Its body, if it is wanted.
    pub body: Option<Vec<u8>>,
}

/// What a sweep asks of tables, all of it within one transaction that somebody else begins and commits.
pub trait Sweepable {
    /// What goes wrong; then the transaction is given up.
    type Error;

    /// Rows after a key, in key order, at most so many, with the time in [`time_column`]; bodies of those whose time is
    /// earlier than `bodies_before`.
    ///
    /// # Errors
    /// [`Sweepable::Error`], as in every function here.
    fn after(
        &mut self,
        table: Table,
        key: &[u8],
        bodies_before: Ms,
        rows_max: usize,
    ) -> Result<Vec<Looked>, Self::Error>;

    /// One row's body.
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// The rows with keys from `from` to before `to`, in key order, at most so many.
    fn range(&mut self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<RawRows, Self::Error>;

    /// Deletes a row, at once or before [`Sweepable::after`] is asked the next time, or the transaction ends.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), Self::Error>;

    /// Deletes the rows with keys from `from` to before `to`, when [`Sweepable::delete`] does.
    fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<(), Self::Error>;
}

/// The column with the time that decides when a row goes, for tables that are swept by time.
///
/// # Panics
/// For any other table.
pub fn time_column(table: Table) -> &'static str {
    match table {
        Table::Run => "finished_at",
        Table::Event => "at",
        Table::Document | Table::Revision => "expires_at",
        other => panic!("{other:?} is not swept by time"),
    }
}

/// Removes what is too old, as [`crate::TableStore::sweep`] says. If it fails, `sweep` has moved on and must be forgotten.
///
/// # Errors
/// What the tables say.
pub fn sweep<S: Sweepable>(
    tables: &mut S,
    now: Ms,
    retention: Retention,
    sweep: &mut Sweep,
    rows_max: usize,
) -> Result<Swept, S::Error> {
    let runs = sweep_runs(tables, now.saturating_sub(retention.runs_ms), sweep, rows_max)?;
    let events = sweep_events(tables, now, retention.events_ms, sweep, rows_max)?;
    let documents = sweep_expired(tables, Table::Document, now, &mut sweep.documents, rows_max)?;
    for key in &documents {
        forget_revisions(tables, key)?;
    }
    let revisions = sweep_expired(tables, Table::Revision, now, &mut sweep.revisions, rows_max)?;
    let entries = streams::sweep_streams(tables, now, &mut sweep.streams, rows_max)?;
    let documents = documents.len() + revisions.len();
    let places = [&sweep.runs, &sweep.events, &sweep.documents, &sweep.revisions, &sweep.streams];
    let finished = places.into_iter().all(|place| place.ended);
    if finished {
        *sweep = Sweep::default();
    }
    Ok(Swept { runs, events, documents, entries, finished })
}

fn sweep_runs<S: Sweepable>(tables: &mut S, cutoff: Ms, sweep: &mut Sweep, rows_max: usize) -> Result<usize, S::Error> {
    if sweep.runs.ended {
        return Ok(0);
    }
    let looked = tables.after(Table::Run, &sweep.runs.after, cutoff, rows_max)?;
    sweep.runs.looked_at(&looked, rows_max);
    let mut removed = 0;
    for Looked { key, body, .. } in looked {
        if let Some(body) = body
            && !parent_lives(tables, &key, &body)?
        {
            remove_run(tables, &key, &body)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A run whose parent has not ended is kept for as long: the parent may read its output again from its own journal.
fn parent_lives<S: Sweepable>(tables: &mut S, key: &[u8], body: &[u8]) -> Result<bool, S::Error> {
    let parent = row::decode::<RunRow>(body).ok().and_then(|run| run.parent);
    let (Some(parent), Some(tenant)) = (parent, row::key::tenant_of(key)) else { return Ok(false) };
    let parent = tables.get(Table::Run, &row::key::run(tenant, parent.task.run))?;
    Ok(parent.and_then(|body| row::decode::<RunRow>(&body).ok()).is_some_and(|run| !run.state.ended()))
}

/// Removes a run and everything that only it refers to.
fn remove_run<S: Sweepable>(tables: &mut S, key: &[u8], body: &[u8]) -> Result<(), S::Error> {
    let Some(tenant) = row::key::tenant_of(key) else { return Ok(()) };
    let end = end_of(key);
    let mut payloads: Vec<PayloadRef> = Vec::new();
    if let Ok(run) = row::decode::<RunRow>(body) {
        payloads.extend(run.input.into_iter().chain(run.output));
    }
    for (_, body) in tables.range(Table::Task, key, &end, usize::MAX)? {
        if let Ok(task) = row::decode::<TaskRow>(&body) {
            payloads.extend(task.output.into_iter().chain(task.grounds));
            payloads.extend(task.signals.into_iter().map(|(_, payload)| payload));
        }
    }
    for (_, body) in tables.range(Table::Journal, key, &end, usize::MAX)? {
        let Ok(entry) = row::decode::<JournalRow>(&body) else { continue };
        match entry.done.map(|(_, completion)| completion) {
            Some(Completion::Value(payload)) => payloads.push(payload),
            Some(Completion::Messages(messages)) => {
                for message in messages {
                    remove_message(tables, tenant, message.id, key)?;
                }
            }
            // A child's output belongs to the child.
            Some(
                Completion::Unit
                | Completion::Bool(_)
                | Completion::Failed(_)
                | Completion::TimedOut
                | Completion::Closed
                | Completion::Spawned(_)
                | Completion::Child(_)
                | Completion::Cancelled(_),
            )
            | None => {}
        }
    }
    for payload in payloads {
        tables.delete(Table::Payload, &row::key::payload(tenant, payload.id))?;
    }
    for table in [Table::Journal, Table::Child, Table::Log, Table::Task] {
        tables.delete_range(table, key, &end)?;
    }
    tables.delete(Table::Run, key)
}

/// A message that a superseded run received belongs to the run that consumed it in the end.
fn remove_message<S: Sweepable>(
    tables: &mut S,
    tenant: TenantId,
    id: MessageId,
    run_key: &[u8],
) -> Result<(), S::Error> {
    let key = row::key::message(tenant, id);
    let body = tables.get(Table::Message, &key)?;
    let Some(message) = body.and_then(|body| row::decode::<MessageRow>(&body).ok()) else { return Ok(()) };
    if let row::MessageState::Done { run } = message.state
        && row::key::run(tenant, run) == run_key
    {
        tables.delete(Table::Payload, &row::key::payload(tenant, message.payload.id))?;
        tables.delete(Table::Message, &key)?;
    }
    Ok(())
}

fn sweep_events<S: Sweepable>(
    tables: &mut S,
    now: Ms,
    kept_ms: u64,
    sweep: &mut Sweep,
    rows_max: usize,
) -> Result<usize, S::Error> {
    if sweep.events.ended {
        return Ok(0);
    }
    let cutoff = now.saturating_sub(kept_ms);
    let mut read: BTreeMap<TenantId, u64> = BTreeMap::new();
    let looked = tables.after(Table::Event, &sweep.events.after, 0, rows_max)?;
    sweep.events.looked_at(&looked, rows_max);
    let mut removed = 0;
    for Looked { key, at, .. } in looked {
        if at.is_some_and(|at| at < cutoff)
            && let (Some(tenant), Some(seq)) = (row::key::tenant_of(&key), row::key::event_seq_of(&key))
        {
            let read = match read.get(&tenant) {
                Some(read) => *read,
                None => *read.entry(tenant).or_insert(read_by_all(tables, tenant, now)?),
            };
            if seq <= read {
                tables.delete(Table::Event, &key)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// The last event that every reader of a tenant's events is done with, however old: a reader that was stopped for long
/// must not find a gap. What says where it is and can't be read holds everything.
fn read_by_all<S: Sweepable>(tables: &mut S, tenant: TenantId, now: Ms) -> Result<u64, S::Error> {
    let prefix = row::key::document(tenant, &DocumentKey::new(FEED_POSITION, ""));
    let mut read = u64::MAX;
    for (_, body) in tables.range(Table::Document, &prefix, &end_of(&prefix), usize::MAX)? {
        let Ok(document) = row::decode::<DocumentRow>(&body) else { return Ok(0) };
        if !document.expired(now) {
            let position = std::str::from_utf8(&document.body).ok().and_then(|text| text.parse().ok());
            read = read.min(position.unwrap_or(0));
        }
    }
    Ok(read)
}

/// Removes what has expired, and answers the keys. A document's version goes on counting only while its row is there; what refers to one by its
/// version keeps it for as long as that matters, so it has to expire later than any such reference.
fn sweep_expired<S: Sweepable>(
    tables: &mut S,
    table: Table,
    now: Ms,
    place: &mut Place,
    rows_max: usize,
) -> Result<Vec<Vec<u8>>, S::Error> {
    if place.ended {
        return Ok(Vec::new());
    }
    let looked = tables.after(table, &place.after, 0, rows_max)?;
    place.looked_at(&looked, rows_max);
    let cutoff = now.saturating_sub(EXPIRED_KEPT_MS);
    let mut old = Vec::new();
    for Looked { key, at, .. } in looked {
        if at.is_some_and(|at| at < cutoff) {
            tables.delete(table, &key)?;
            old.push(key);
        }
    }
    Ok(old)
}

/// Removes what is kept of a document that is gone: one of the same name would begin anew, and find versions that are
/// not its own.
fn forget_revisions<S: Sweepable>(tables: &mut S, key: &[u8]) -> Result<(), S::Error> {
    let (Some(tenant), Some(document)) = (row::key::tenant_of(key), row::key::document_of(key)) else { return Ok(()) };
    let [first, last] = [0, u64::MAX].map(|version| row::key::revision(tenant, &document, version));
    tables.delete_range(Table::Revision, &first, &[last.as_slice(), &[0]].concat())
}
