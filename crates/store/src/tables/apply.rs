//! Applying batches: fold, sort, write, move the position: one transaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mainspring_core::Table;
use mainspring_core::row::{self, DocumentRow, EventRow, MessageRow, MessageState, RunRow};
use rusqlite::{CachedStatement, Connection, Transaction, params};

use super::schema::name_of;
use super::{Applied, TablesError};
use crate::unapplied::Batch;

pub(super) fn apply(connection: &mut Connection, batches: &[Arc<Batch>], path: &Path) -> Result<Applied, TablesError> {
    let fail = |source| TablesError::Sqlite { path: path.to_owned(), source };
    let transaction = connection.transaction().map_err(fail)?;
    let standing: i64 =
        transaction.query_row("SELECT position FROM applied WHERE id = 0", [], |row| row.get(0)).map_err(fail)?;
    let (applied, folded) = fold(batches, standing as u64)?;

    write(&transaction, folded).map_err(fail)?;
    transaction
        .execute("UPDATE applied SET position = ?1 WHERE id = 0", params![applied.position as i64])
        .map_err(fail)?;
    transaction.commit().map_err(fail)?;
    Ok(applied)
}

/// Writes rows, within the transaction that is under way.
pub(super) fn write(transaction: &Transaction<'_>, folded: Folded<'_>) -> rusqlite::Result<()> {
    let mut rows = folded.into_iter().peekable();
    while let Some(&((table, _), _)) = rows.peek() {
        let mut writer = TableWriter::new(transaction, table)?;
        while let Some(((_, key), body)) = rows.next_if(|((next, _), _)| *next == table) {
            writer.write(key, body)?;
        }
    }
    Ok(())
}

/// What batches change in tables that stand at `standing`: the last write of each row, ordered by table and key, so that
/// each tree is walked once from left to right. Batches the tables contain already are passed over.
///
/// # Errors
/// [`TablesError::Batch`].
pub fn fold(batches: &[Arc<Batch>], standing: u64) -> Result<(Applied, Folded<'_>), TablesError> {
    let mut applied = Applied { position: standing, ..Applied::default() };
    let mut folded = Folded::new();
    for batch in batches {
        if batch.position <= applied.position {
            continue;
        }
        applied.position = batch.position;
        for op in batch.ops() {
            let op = op.map_err(|source| TablesError::Batch { position: batch.position, source })?;
            applied.ops += 1;
            folded.insert((op.table, op.key), op.body);
        }
    }
    applied.rows = folded.len();
    Ok((applied, folded))
}

/// The last write of each row: a body, or `None` for a delete.
pub type Folded<'a> = BTreeMap<(Table, &'a [u8]), Option<&'a [u8]>>;

struct TableWriter<'t> {
    table: Table,
    put: CachedStatement<'t>,
    delete: CachedStatement<'t>,
}

impl<'t> TableWriter<'t> {
    fn new(transaction: &'t Transaction<'_>, table: Table) -> rusqlite::Result<Self> {
        let name = name_of(table);
        let values = match table {
            Table::Run => {
                "(key, body, workflow, state, run_key, created_at, finished_at, live) VALUES (?1,?2,?3,?4,?5,?6,?7,?8)"
            }
            Table::Message => "(key, body, accepted_at, live) VALUES (?1,?2,?3,?4)",
            Table::Event => "(key, body, name, at) VALUES (?1,?2,?3,?4)",
            Table::Document | Table::Revision => "(key, body, expires_at) VALUES (?1,?2,?3)",
            Table::Meta
            | Table::Tenant
            | Table::Workflow
            | Table::Task
            | Table::Journal
            | Table::Inbox
            | Table::Idempotency
            | Table::Token
            | Table::Payload
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
            | Table::Pending => "(key, body) VALUES (?1,?2)",
        };
        Ok(TableWriter {
            table,
            put: transaction.prepare_cached(&format!("INSERT OR REPLACE INTO {name} {values}"))?,
            delete: transaction.prepare_cached(&format!("DELETE FROM {name} WHERE key = ?1"))?,
        })
    }

    fn write(&mut self, key: &[u8], body: Option<&[u8]>) -> rusqlite::Result<()> {
        let Some(body) = body else {
            self.delete.execute(params![key])?;
            return Ok(());
        };
        match self.table {
            Table::Run => {
                let run: RunRow = decode(body)?;
                self.put.execute(params![
                    key,
                    body,
                    run.workflow,
                    run.state.word(),
                    run.key,
                    run.created_at as i64,
                    run.finished_at.map(|at| at as i64),
                    !run.state.ended(),
                ])?;
            }
            Table::Message => {
                let message: MessageRow = decode(body)?;
                let live = !matches!(message.state, MessageState::Done { .. });
                self.put.execute(params![key, body, message.accepted_at as i64, live])?;
            }
            Table::Event => {
                let event: EventRow = decode(body)?;
                self.put.execute(params![key, body, event.name, event.at as i64])?;
            }
            Table::Document | Table::Revision => {
                let document: DocumentRow = decode(body)?;
                self.put.execute(params![key, body, document.expires_at.map(|at| at as i64)])?;
            }
            Table::Meta
            | Table::Tenant
            | Table::Workflow
            | Table::Task
            | Table::Journal
            | Table::Inbox
            | Table::Idempotency
            | Table::Token
            | Table::Payload
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
            | Table::Pending => {
                self.put.execute(params![key, body])?;
            }
        }
        Ok(())
    }
}

fn decode<T: row::Row>(body: &[u8]) -> rusqlite::Result<T> {
    row::decode(body)
        .map_err(|bad| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(bad)))
}
