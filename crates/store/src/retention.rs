//! Retention: finished runs and old events leave the tables after a stated time, a little at a time.

mod streams;

use std::collections::BTreeMap;

use mainspring_core::id::{MessageId, Ms, TenantId};
use mainspring_core::journal::Completion;
use mainspring_core::row::{self, DocumentRow, JournalRow, MessageRow, PayloadRef, RunRow, TaskRow};
use mainspring_core::{DocumentKey, FEED_POSITION};
use rusqlite::{Connection, Transaction, params};

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
    /// So many rows were looked at, out of so many that might have been.
    fn looked_at(&mut self, examined: usize, rows_max: usize) {
        self.ended = examined < rows_max;
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

/// Removes what is too old from tables in SQLite, as [`crate::TableStore::sweep`] says.
pub(crate) fn sweep(
    connection: &mut Connection,
    now: Ms,
    retention: Retention,
    sweep: &mut Sweep,
    rows_max: usize,
) -> rusqlite::Result<Swept> {
    let transaction = connection.transaction()?;
    let runs = sweep_runs(&transaction, now.saturating_sub(retention.runs_ms), sweep, rows_max)?;
    let events = sweep_events(&transaction, now, retention.events_ms, sweep, rows_max)?;
    let documents = sweep_expired(&transaction, "documents", now, &mut sweep.documents, rows_max)?;
    for key in &documents {
        forget_revisions(&transaction, key)?;
    }
    let revisions = sweep_expired(&transaction, "revisions", now, &mut sweep.revisions, rows_max)?;
    let entries = streams::sweep_streams(&transaction, now, &mut sweep.streams, rows_max)?;
    transaction.commit()?;
    let documents = documents.len() + revisions.len();
    let places = [&sweep.runs, &sweep.events, &sweep.documents, &sweep.revisions, &sweep.streams];
    let finished = places.into_iter().all(|place| place.ended);
    if finished {
        *sweep = Sweep::default();
    }
    Ok(Swept { runs, events, documents, entries, finished })
}

fn sweep_runs(
    transaction: &Transaction<'_>,
    cutoff: Ms,
    sweep: &mut Sweep,
    rows_max: usize,
) -> rusqlite::Result<usize> {
    if sweep.runs.ended {
        return Ok(0);
    }
    let mut statement =
        transaction.prepare_cached("SELECT key, finished_at, body FROM runs WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    let mut rows = statement.query(params![sweep.runs.after, rows_max as i64])?;
    let mut examined = 0;
    let mut old: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while let Some(row) = rows.next()? {
        examined += 1;
        let key: Vec<u8> = row.get(0)?;
        let finished_at: Option<i64> = row.get(1)?;
        if finished_at.is_some_and(|at| (at as u64) < cutoff) {
            old.push((key.clone(), row.get(2)?));
        }
        sweep.runs.after = key;
    }
    sweep.runs.looked_at(examined, rows_max);
    let mut removed = 0;
    for (key, body) in &old {
        if !parent_lives(transaction, key, body)? {
            remove_run(transaction, key, body)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A run whose parent has not ended is kept for as long: the parent may read its output again from its own journal.
fn parent_lives(transaction: &Transaction<'_>, key: &[u8], body: &[u8]) -> rusqlite::Result<bool> {
    let parent = row::decode::<RunRow>(body).ok().and_then(|run| run.parent);
    let (Some(parent), Some(tenant)) = (parent, row::key::tenant_of(key)) else { return Ok(false) };
    let mut statement = transaction.prepare_cached("SELECT live FROM runs WHERE key = ?1")?;
    let live = statement.query_map(params![row::key::run(tenant, parent.task.run)], |row| row.get(0))?.next();
    live.transpose().map(|live| live.unwrap_or(false))
}

/// Removes a run and everything that only it refers to.
fn remove_run(transaction: &Transaction<'_>, key: &[u8], body: &[u8]) -> rusqlite::Result<()> {
    let Some(tenant) = row::key::tenant_of(key) else { return Ok(()) };
    let mut payloads: Vec<PayloadRef> = Vec::new();
    if let Ok(run) = row::decode::<RunRow>(body) {
        payloads.extend(run.input.into_iter().chain(run.output));
    }
    for (_, body) in range(transaction, "tasks", key)? {
        if let Ok(task) = row::decode::<TaskRow>(&body) {
            payloads.extend(task.output.into_iter().chain(task.grounds));
            payloads.extend(task.signals.into_iter().map(|(_, payload)| payload));
        }
    }
    for (_, body) in range(transaction, "journal", key)? {
        let Ok(entry) = row::decode::<JournalRow>(&body) else { continue };
        match entry.done.map(|(_, completion)| completion) {
            Some(Completion::Value(payload)) => payloads.push(payload),
            Some(Completion::Messages(messages)) => {
                for message in messages {
                    remove_message(transaction, tenant, message.id, key)?;
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
        execute(transaction, "DELETE FROM payloads WHERE key = ?1", &row::key::payload(tenant, payload.id))?;
    }
    delete_range(transaction, "journal", key)?;
    delete_range(transaction, "children", key)?;
    delete_range(transaction, "logs", key)?;
    delete_range(transaction, "tasks", key)?;
    execute(transaction, "DELETE FROM runs WHERE key = ?1", key)
}

/// A message that a superseded run received belongs to the run that consumed it in the end.
fn remove_message(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    id: MessageId,
    run_key: &[u8],
) -> rusqlite::Result<()> {
    let key = row::key::message(tenant, id);
    let mut statement = transaction.prepare_cached("SELECT body FROM messages WHERE key = ?1")?;
    let body: Option<Vec<u8>> = statement.query_map(params![key], |row| row.get(0))?.next().transpose()?;
    let Some(message) = body.and_then(|body| row::decode::<MessageRow>(&body).ok()) else { return Ok(()) };
    if let row::MessageState::Done { run } = message.state
        && row::key::run(tenant, run) == run_key
    {
        execute(transaction, "DELETE FROM payloads WHERE key = ?1", &row::key::payload(tenant, message.payload.id))?;
        execute(transaction, "DELETE FROM messages WHERE key = ?1", &key)?;
    }
    Ok(())
}

fn sweep_events(
    transaction: &Transaction<'_>,
    now: Ms,
    kept_ms: u64,
    sweep: &mut Sweep,
    rows_max: usize,
) -> rusqlite::Result<usize> {
    if sweep.events.ended {
        return Ok(0);
    }
    let cutoff = now.saturating_sub(kept_ms);
    let mut read: BTreeMap<TenantId, u64> = BTreeMap::new();
    let mut statement =
        transaction.prepare_cached("SELECT key, at FROM events WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    let mut rows = statement.query(params![sweep.events.after, rows_max as i64])?;
    let (mut examined, mut old) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        examined += 1;
        let key: Vec<u8> = row.get(0)?;
        if (row.get::<_, i64>(1)? as u64) < cutoff
            && let (Some(tenant), Some(seq)) = (row::key::tenant_of(&key), row::key::event_seq_of(&key))
        {
            let read = match read.get(&tenant) {
                Some(read) => *read,
                None => *read.entry(tenant).or_insert(read_by_all(transaction, tenant, now)?),
            };
            if seq <= read {
                old.push(key.clone());
            }
        }
        sweep.events.after = key;
    }
    sweep.events.looked_at(examined, rows_max);
    for key in &old {
        execute(transaction, "DELETE FROM events WHERE key = ?1", key)?;
    }
    Ok(old.len())
}

/// The last event that every reader of a tenant's events is done with, however old: a reader that was stopped for long
/// must not find a gap. What says where it is and can't be read holds everything.
fn read_by_all(transaction: &Transaction<'_>, tenant: TenantId, now: Ms) -> rusqlite::Result<u64> {
    let prefix = row::key::document(tenant, &DocumentKey::new(FEED_POSITION, ""));
    let mut read = u64::MAX;
    for (_, body) in range(transaction, "documents", &prefix)? {
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
fn sweep_expired(
    transaction: &Transaction<'_>,
    table: &str,
    now: Ms,
    place: &mut Place,
    rows_max: usize,
) -> rusqlite::Result<Vec<Vec<u8>>> {
    if place.ended {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT key, expires_at FROM {table} WHERE key > ?1 ORDER BY key LIMIT ?2");
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut rows = statement.query(params![place.after, rows_max as i64])?;
    let (mut examined, mut old) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        examined += 1;
        let key: Vec<u8> = row.get(0)?;
        let expires_at: Option<i64> = row.get(1)?;
        if expires_at.is_some_and(|at| (at as u64) < now.saturating_sub(EXPIRED_KEPT_MS)) {
            old.push(key.clone());
        }
        place.after = key;
    }
    place.looked_at(examined, rows_max);
    let sql = format!("DELETE FROM {table} WHERE key = ?1");
    for key in &old {
        execute(transaction, &sql, key)?;
    }
    Ok(old)
}

/// Removes what is kept of a document that is gone: one of the same name would begin anew, and find versions that are
/// not its own.
fn forget_revisions(transaction: &Transaction<'_>, key: &[u8]) -> rusqlite::Result<()> {
    let (Some(tenant), Some(document)) = (row::key::tenant_of(key), row::key::document_of(key)) else { return Ok(()) };
    let bounds = [0, u64::MAX].map(|version| row::key::revision(tenant, &document, version));
    let mut statement = transaction.prepare_cached("DELETE FROM revisions WHERE key >= ?1 AND key <= ?2")?;
    statement.execute(params![bounds[0], bounds[1]]).map(|_| ())
}

fn range(connection: &Connection, table: &str, prefix: &[u8]) -> rusqlite::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut end = prefix.to_vec();
    end.extend_from_slice(&[0xff; 24]);
    let sql = format!("SELECT key, body FROM {table} WHERE key > ?1 AND key < ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![prefix, end], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn delete_range(connection: &Connection, table: &str, prefix: &[u8]) -> rusqlite::Result<()> {
    let mut end = prefix.to_vec();
    end.extend_from_slice(&[0xff; 24]);
    let sql = format!("DELETE FROM {table} WHERE key > ?1 AND key < ?2");
    connection.prepare_cached(&sql)?.execute(params![prefix, end]).map(|_| ())
}

fn execute(connection: &Connection, sql: &str, key: &[u8]) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(params![key]).map(|_| ())
}
