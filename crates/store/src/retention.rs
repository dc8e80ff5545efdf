//! Retention: finished runs and old events leave the tables after a stated time, a little at a time.

use mainspring_core::id::{MessageId, Ms, TenantId};
use mainspring_core::journal::Completion;
use mainspring_core::row::{self, JournalRow, MessageRow, PayloadRef, RunRow, TaskRow};
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

/// Where a sweep stands. Starting anew from the default is always safe.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    runs_after: Vec<u8>,
    events_after: Vec<u8>,
}

/// What one step of a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Runs removed, with what belongs to them.
    pub runs: usize,
    /// Events removed.
    pub events: usize,
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
    let events = sweep_events(&transaction, now.saturating_sub(retention.events_ms), sweep, rows_max)?;
    transaction.commit()?;
    let finished = sweep.runs_after.is_empty() && sweep.events_after.is_empty();
    Ok(Swept { runs, events, finished })
}

fn sweep_runs(
    transaction: &Transaction<'_>,
    cutoff: Ms,
    sweep: &mut Sweep,
    rows_max: usize,
) -> rusqlite::Result<usize> {
    let mut statement =
        transaction.prepare_cached("SELECT key, finished_at, body FROM runs WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    let mut rows = statement.query(params![sweep.runs_after, rows_max as i64])?;
    let mut examined = 0;
    let mut old: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while let Some(row) = rows.next()? {
        examined += 1;
        let key: Vec<u8> = row.get(0)?;
        let finished_at: Option<i64> = row.get(1)?;
        if finished_at.is_some_and(|at| (at as u64) < cutoff) {
            old.push((key.clone(), row.get(2)?));
        }
        sweep.runs_after = key;
    }
    if examined < rows_max {
        sweep.runs_after.clear();
    }
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
                | Completion::Child(_),
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
    cutoff: Ms,
    sweep: &mut Sweep,
    rows_max: usize,
) -> rusqlite::Result<usize> {
    let mut statement =
        transaction.prepare_cached("SELECT key, at FROM events WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    let mut rows = statement.query(params![sweep.events_after, rows_max as i64])?;
    let (mut examined, mut old) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        examined += 1;
        let key: Vec<u8> = row.get(0)?;
        if (row.get::<_, i64>(1)? as u64) < cutoff {
            old.push(key.clone());
        }
        sweep.events_after = key;
    }
    if examined < rows_max {
        sweep.events_after.clear();
    }
    for key in &old {
        execute(transaction, "DELETE FROM events WHERE key = ?1", key)?;
    }
    Ok(old.len())
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
